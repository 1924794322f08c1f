"""Recognising requests: boto3 makes them, and the emulator says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from multidict import CIMultiDict

from pywren.testing.emulator._operations import (
    Operation,
    Scope,
    condition_of,
    credential_scope,
    operation_of,
    resource_of,
    service_model,
)

ACCOUNT = "123456789012"
REGION = "us-west-2"


@pytest.fixture(scope="module")
def session() -> boto3.session.Session:
    """Return one session, because each session loads the models anew."""
    return boto3.session.Session()


class Caught:
    """A request that boto3 would have sent."""

    def __init__(self, session: boto3.session.Session, service: str, method: str, **arguments: Any) -> None:
        client = session.client(
            service,
            region_name=REGION,
            endpoint_url="http://127.0.0.1:1",
            aws_access_key_id="AKID",
            aws_secret_access_key="secret",
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )
        caught: list[AWSPreparedRequest] = []

        def catch(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
            caught.append(request)
            return AWSResponse(request.url, 400, {}, None)

        client.meta.events.register("before-send", catch)
        try:
            getattr(client, method)(**arguments)
        except (AttributeError, BotoCoreError, ClientError):
            pass  # there is no answer
        client.close()
        request = caught[0]
        parts = urlsplit(request.url)
        self.query = parts.query
        self.headers = CIMultiDict(
            (name, value.decode() if isinstance(value, bytes) else value) for name, value in request.headers.items()
        )
        body = request.body or b""
        self.body = body.encode() if isinstance(body, str) else bytes(getattr(body, "getvalue", lambda: body)())
        self.scope = credential_scope(self.headers, self.query)
        self.operation = operation_of(
            self.scope.service, request.method, parts.path, self.query, self.headers, self.body
        )
        self.resource = resource_of(self.operation, REGION, ACCOUNT, self.body)


LAMBDA = f"arn:aws:lambda:{REGION}:{ACCOUNT}"
OBJECT = {"Bucket": "bucket", "Key": "a b/c"}
BUCKET = {"Bucket": "bucket"}
PARTS = {**OBJECT, "UploadId": "u"}


@pytest.mark.parametrize(
    ("service", "method", "arguments", "action", "resource"),
    [
        ("s3", "put_object", OBJECT, "s3:PutObject", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "get_object", OBJECT, "s3:GetObject", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "head_object", OBJECT, "s3:GetObject", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "delete_object", OBJECT, "s3:DeleteObject", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "copy_object", {**OBJECT, "CopySource": "b/k"}, "s3:PutObject", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "create_multipart_upload", OBJECT, "s3:PutObject", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "upload_part", {**PARTS, "PartNumber": 1}, "s3:PutObject", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "complete_multipart_upload", PARTS, "s3:PutObject", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "abort_multipart_upload", PARTS, "s3:AbortMultipartUpload", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "list_parts", PARTS, "s3:ListMultipartUploadParts", "arn:aws:s3:::bucket/a b/c"),
        ("s3", "list_objects_v2", BUCKET, "s3:ListBucket", "arn:aws:s3:::bucket"),
        ("s3", "list_objects", BUCKET, "s3:ListBucket", "arn:aws:s3:::bucket"),
        ("s3", "head_bucket", BUCKET, "s3:ListBucket", "arn:aws:s3:::bucket"),
        ("s3", "create_bucket", BUCKET, "s3:CreateBucket", "arn:aws:s3:::bucket"),
        ("s3", "get_bucket_location", BUCKET, "s3:GetBucketLocation", "arn:aws:s3:::bucket"),
        ("s3", "get_public_access_block", BUCKET, "s3:GetBucketPublicAccessBlock", "arn:aws:s3:::bucket"),
        ("s3", "delete_objects", {**BUCKET, "Delete": {"Objects": []}}, "s3:DeleteObject", "arn:aws:s3:::bucket/*"),
        ("s3", "list_buckets", {}, "s3:ListAllMyBuckets", "*"),
        ("lambda", "invoke", {"FunctionName": "f"}, "lambda:InvokeFunction", f"{LAMBDA}:function:f"),
        ("lambda", "invoke", {"FunctionName": f"{LAMBDA}:function:f"}, "lambda:InvokeFunction", f"{LAMBDA}:function:f"),
        ("lambda", "get_function", {"FunctionName": "f:1"}, "lambda:GetFunction", f"{LAMBDA}:function:f"),
        ("lambda", "create_function", {"FunctionName": "f"}, "lambda:CreateFunction", f"{LAMBDA}:function:f"),
        ("lambda", "publish_layer_version", {"LayerName": "l"}, "lambda:PublishLayerVersion", f"{LAMBDA}:layer:l"),
        ("lambda", "list_functions", {}, "lambda:ListFunctions", "*"),
        ("lambda", "get_account_settings", {}, "lambda:GetAccountSettings", "*"),
        (
            "logs", "put_log_events", {"logGroupName": "g", "logStreamName": "s", "logEvents": []},
            "logs:PutLogEvents", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:g:log-stream:s",
        ),
        (
            "sqs", "send_message", {"QueueUrl": f"http://127.0.0.1:1/{ACCOUNT}/q", "MessageBody": "x"},
            "sqs:SendMessage", f"arn:aws:sqs:{REGION}:{ACCOUNT}:q",
        ),
        ("iam", "get_role", {"RoleName": "r"}, "iam:GetRole", f"arn:aws:iam::{ACCOUNT}:role/r"),
        ("sts", "get_caller_identity", {}, "sts:GetCallerIdentity", "*"),
        ("ec2", "describe_instances", {}, "ec2:DescribeInstances", "*"),
        ("ssm", "get_parameter", {"Name": "/p"}, "ssm:GetParameter", "*"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_boto3_asks_for(
    session: boto3.session.Session, service: str, method: str, arguments: Mapping[str, Any], action: str, resource: str
) -> None:
    """For a request of boto3, the operation, its IAM action and its resource are found."""
    caught = Caught(session, service, method, **arguments)
    assert caught.scope == Scope("AKID", REGION if service != "iam" else caught.scope.region, service)
    assert caught.operation.service == service
    assert caught.operation.name == session.client(service, REGION).meta.method_to_api_mapping[method]
    assert (caught.operation.action, caught.resource) == (action, resource)


@pytest.mark.parametrize("service", ["s3", "lambda"])
def test_every_operation_is_told_from_every_other(service: str) -> None:
    """The smallest valid request of each operation in the model is recognised as that operation.

    If two operations of the model have the same requests, the one that is in use is chosen.
    """
    twins = {"ListDirectoryBuckets": "ListBuckets"}
    model = service_model(service)
    for name in model.operation_names:
        operation = model.operation_model(name)
        uri, _, query = operation.http["requestUri"].partition("?")
        path = uri.replace("+}", "}")
        shape = operation.input_shape
        headers = {}
        for member in shape.required_members if shape else ():
            where = shape.members[member].serialization
            if where.get("location") == "uri":
                path = path.replace(f"{{{where['name']}}}", "value")
            elif where.get("location") == "querystring":
                query += f"&{where['name']}=1"
            elif where.get("location") == "header":
                headers[where["name"]] = "1"
        found = operation_of(service, operation.http["method"], path, query.lstrip("&"), headers, b"")
        if operation.deprecated:
            assert found.name.startswith(name)
        else:
            assert found.name == twins.get(name, name)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/bucket", {"Bucket": "bucket"}),
        ("/bucket/", {"Bucket": "bucket"}),
        ("/bucket/key", {"Bucket": "bucket", "Key": "key"}),
        ("/bucket/key/", {"Bucket": "bucket", "Key": "key/"}),
        ("/bucket//a//b", {"Bucket": "bucket", "Key": "/a//b"}),
        ("/bucket/a%20b%2Fc%2520+", {"Bucket": "bucket", "Key": "a b/c%20+"}),
        ("/bucket/%E2%98%83%0A", {"Bucket": "bucket", "Key": "☃\n"}),
    ],
)
def test_bucket_and_key(path: str, arguments: Mapping[str, str]) -> None:
    """The path is decoded once, after it was split; slashes in keys stay."""
    assert operation_of("s3", "GET", path, "", {}, b"").path_arguments == arguments


def test_an_unknown_operation_has_no_name() -> None:
    """An unknown method or service is not taken for another."""
    assert operation_of("s3", "PATCH", "/b/k", "", {}, b"") == Operation("s3", "", {})
    assert operation_of("lambda", "GET", "/2099-01-01/nothing", "", {}, b"").name == ""
    assert operation_of("no-such-service", "GET", "/", "", {}, b"").name == ""


def test_the_prefix_is_the_condition_of_a_listing(session: boto3.session.Session) -> None:
    """Policies limit listings by their prefix; other requests have no such condition."""
    caught = Caught(session, "s3", "list_objects_v2", Bucket="bucket", Prefix="a b/")
    assert condition_of(caught.operation, caught.query) == "a b/"
    assert condition_of(Operation("s3", "ListObjectsV2", BUCKET), "list-type=2") == ""
    assert condition_of(Operation("s3", "GetObject", OBJECT), "prefix=x") == ""


def test_other_ways_to_name_an_operation() -> None:
    """The CBOR protocol names it in the path, presigned queries in the query; misleading bodies do no harm."""
    cbor = {"Smithy-Protocol": "rpc-v2-cbor"}
    path = "/service/GraniteServiceVersion20100801/operation/PutMetricData"
    assert operation_of("cloudwatch", "POST", path, "", cbor, b"").name == "PutMetricData"
    query = "Action=GetCallerIdentity&Version=2011-06-15"
    assert operation_of("sts", "GET", "/", query, {}, b"").name == "GetCallerIdentity"
    assert resource_of(Operation("sqs", "SendMessage", {}), REGION, ACCOUNT, b"no json") == "*"
    assert resource_of(Operation("logs", "PutLogEvents", {}), REGION, ACCOUNT, b"[1]") == "*"


CREDENTIAL = "KEY/20260101/eu-west-1/s3/aws4_request"


@pytest.mark.parametrize(
    ("authorization", "query", "scope"),
    [
        (f"AWS4-HMAC-SHA256 Credential={CREDENTIAL}, SignedHeaders=host, Signature=0", "", ("KEY", "eu-west-1", "s3")),
        (f"AWS4-HMAC-SHA256 Credential={CREDENTIAL},SignedHeaders=host,Signature=0", "", ("KEY", "eu-west-1", "s3")),
        ("AWS4-ECDSA-P256-SHA256 Credential=KEY/20260101/s3/aws4_request, Signature=0", "", ("KEY", "", "s3")),
        ("AWS4-HMAC-SHA256 Credential=KEY/1/r/monitoring/aws4_request, S=0", "", ("KEY", "r", "cloudwatch")),
        ("AWS KEY:signature", "", ("KEY", "", "s3")),
        ("", f"X-Amz-Credential={CREDENTIAL.replace('/', '%2F')}&X-Amz-Signature=0", ("KEY", "eu-west-1", "s3")),
        ("", "AWSAccessKeyId=KEY&Signature=x&Expires=1", ("KEY", "", "s3")),
        ("", "AWSAccessKeyId=KEY", ("", "", "")),
        ("AWS4-HMAC-SHA256 Credential=KEY/1/r/s3, Signature=0", "", ("", "", "")),
        ("AWS4-HMAC-SHA256 Credential=KEY/1/r/s3/other, Signature=0", "", ("", "", "")),
        ("AWS4-HMAC-SHA256", "", ("", "", "")),
        ("Bearer KEY", "", ("", "", "")),
        ("", "", ("", "", "")),
    ],
)
def test_credential_scopes(authorization: str, query: str, scope: tuple[str, str, str]) -> None:
    """The scope is in the header or query, in version 4, 4A or 2; other requests are unsigned."""
    assert credential_scope({"Authorization": authorization} if authorization else {}, query) == scope


def test_models_are_loaded_once() -> None:
    """Loading a model takes a noticeable time."""
    assert service_model("lambda") is service_model("lambda")
    assert service_model("lambda").service_name == "lambda"
