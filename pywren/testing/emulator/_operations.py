"""Identifies the service and operation of a request with botocore's own service models.

Operations of REST services (S3, Lambda) are matched by method, path and query; other services name the operation in
``X-Amz-Target`` or ``Action``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, unquote

_SIGNED_AS = {  # services whose name in signatures differs from botocore's name
    "monitoring": "cloudwatch",
    "elasticloadbalancing": "elbv2",
    "elasticmapreduce": "emr",
    "email": "ses",
    "servicequotas": "service-quotas",
    "states": "stepfunctions",
    "tagging": "resourcegroupstaggingapi",
}
_OTHER_ACTIONS = {  # operations whose IAM action has a different name
    "lambda": {"Invoke": "InvokeFunction", "InvokeWithResponseStream": "InvokeFunction"},
    "s3": {
        "CompleteMultipartUpload": "PutObject",
        "CopyObject": "PutObject",
        "CreateMultipartUpload": "PutObject",
        "DeleteBucketCors": "PutBucketCORS",
        "DeleteBucketEncryption": "PutEncryptionConfiguration",
        "DeleteBucketLifecycle": "PutLifecycleConfiguration",
        "DeleteBucketReplication": "PutReplicationConfiguration",
        "DeleteBucketTagging": "PutBucketTagging",
        "DeleteObjects": "DeleteObject",
        "DeletePublicAccessBlock": "PutBucketPublicAccessBlock",
        "GetBucketCors": "GetBucketCORS",
        "GetBucketEncryption": "GetEncryptionConfiguration",
        "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
        "GetBucketNotificationConfiguration": "GetBucketNotification",
        "GetBucketReplication": "GetReplicationConfiguration",
        "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
        "HeadBucket": "ListBucket",
        "HeadObject": "GetObject",
        "ListBuckets": "ListAllMyBuckets",
        "ListMultipartUploads": "ListBucketMultipartUploads",
        "ListObjects": "ListBucket",
        "ListObjectsV2": "ListBucket",
        "ListObjectVersions": "ListBucketVersions",
        "ListParts": "ListMultipartUploadParts",
        "PutBucketCors": "PutBucketCORS",
        "PutBucketEncryption": "PutEncryptionConfiguration",
        "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
        "PutBucketNotificationConfiguration": "PutBucketNotification",
        "PutBucketReplication": "PutReplicationConfiguration",
        "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
        "SelectObjectContent": "GetObject",
        "UploadPart": "PutObject",
        "UploadPartCopy": "PutObject",
    },
}
_LISTINGS = frozenset({"ListObjects", "ListObjectsV2", "ListObjectVersions", "ListMultipartUploads"})


class Operation(NamedTuple):
    """The operation that a request asks for.

    Args:
        service: botocore's name for the service.
        name: the operation's name; ``""`` when no operation of the model matches.
        path_arguments: the arguments in the path: ``{"Bucket": …, "Key": …}``.
    """

    service: str
    name: str
    path_arguments: Mapping[str, str]

    @property
    def action(self) -> str:
        """The IAM action that the operation requires, such as ``lambda:InvokeFunction`` for ``Invoke``."""
        return f"{self.service}:{_OTHER_ACTIONS.get(self.service, {}).get(self.name, self.name)}"


class Scope(NamedTuple):
    """The credential scope of a request's signature.

    Args:
        access_key: the access key id; ``""`` when the request is not signed.
        region: the region.
        service: botocore's name for the service.
    """

    access_key: str
    region: str
    service: str


_NOT_SIGNED = Scope("", "", "")
_CREDENTIAL = re.compile(r"Credential=([^,\s]*)")


def credential_scope(headers: Mapping[str, str], query: str) -> Scope:
    """Return the access key id, region and service that a request was signed for.

    Args:
        headers: the request's headers; their case does not matter.
        query: the query string, which contains the signature of presigned requests.

    Returns:
        The scope; three empty strings for a request that is not signed.
    """
    authorization = headers.get("Authorization", "")
    if authorization.startswith("AWS4-"):
        found = _CREDENTIAL.search(authorization)
        return _parse_credential(found[1]) if found else _NOT_SIGNED
    if authorization.startswith("AWS "):  # signature version 2, which only S3 accepted
        return Scope(authorization[4:].partition(":")[0], "", "s3")
    if "X-Amz-Credential=" in query or "AWSAccessKeyId=" in query:
        return _query_scope(dict(parse_qsl(query)))
    return _NOT_SIGNED


def _query_scope(arguments: Mapping[str, str]) -> Scope:
    if "X-Amz-Credential" in arguments:
        return _parse_credential(arguments["X-Amz-Credential"])
    if "Signature" in arguments:  # boto3 still presigns S3's URLs with version 2 by default
        return Scope(arguments.get("AWSAccessKeyId", ""), "", "s3")
    return _NOT_SIGNED


@functools.lru_cache(maxsize=1024)
def _parse_credential(credential: str) -> Scope:
    """Parse ``KEY/DATE/REGION/SERVICE/aws4_request``; version 4A, for several regions, omits the region."""
    parts = credential.split("/")
    if len(parts) == 4:
        parts.insert(2, "")
    if len(parts) != 5 or parts[4] != "aws4_request":
        return _NOT_SIGNED
    key, _date, region, service, _ending = parts
    return Scope(key, region, _SIGNED_AS.get(service, service))


def operation_of(
    service: str, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> Operation:
    """Return the operation that a request asks for.

    Args:
        service: botocore's name for the service.
        method: the HTTP method.
        path: the path in the request line, not decoded and without the query.
        query: the query string.
        headers: the headers; their case does not matter.
        body: the body, which only the query protocol needs.
    """
    if service not in ("s3", "lambda"):
        name = _named_operation(path, query, headers, body)
        if name:
            return Operation(service, name, {})
    # Most requests have no query, and most queries recur (listings, S3's flags), so parsed queries are cached
    arguments = _parse_query(query) if query else {}
    for template in _templates(service).get(method, ()):
        labels = template.pattern.fullmatch(path)
        if labels:
            for candidate in template.candidates:
                if candidate.fits(arguments, headers):
                    return Operation(service, candidate.name, _decode_labels(labels.groupdict()))
    return Operation(service, "", {})


def resource_of(operation: Operation, region: str, account: str, body: bytes) -> str:
    """Return the ARN of a request's resource, as a policy must name it; ``*`` when the resource is not known.

    Args:
        operation: the operation.
        region: the region of the request.
        account: the account id.
        body: the body, which may name the resource; not needed for S3.
    """
    find = _RESOURCES.get(operation.service)
    return (find(operation, f"{region}:{account}", body) if find else "") or "*"


def condition_of(operation: Operation, query: str) -> str:
    """Return the prefix in an S3 listing, which policies restrict by ``s3:prefix``; ``""`` for other operations."""
    if operation.service != "s3" or operation.name not in _LISTINGS:
        return ""
    return _parse_query(query).get("prefix", "")


@functools.cache
def service_model(service: str) -> Any:
    """Return botocore's model of a service; it is loaded only once."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


# --- services whose requests name the operation


_ACTION = re.compile(rb"(?:^|&)Action=([A-Za-z0-9]+)")
_CBOR_PATH = re.compile(r".*/service/[^/]+/operation/([A-Za-z0-9]+)")


def _named_operation(path: str, query: str, headers: Mapping[str, str], body: bytes) -> str:
    """Return the operation that a request of the JSON, query or CBOR protocol names."""
    target = headers.get("X-Amz-Target")
    if target:
        return target.rpartition(".")[2]
    if headers.get("Smithy-Protocol"):
        found = _CBOR_PATH.fullmatch(path)
        return found[1] if found else ""
    action = _ACTION.search(query.encode())
    if not action and headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
        action = _ACTION.search(body)
    return action[1].decode() if action else ""


# --- services whose operations are identified by method, path and query


class _Candidate(NamedTuple):
    """An operation with a path template, and what distinguishes it from other operations with the same template."""

    name: str
    query: Mapping[str, str]
    headers: tuple[str, ...]
    deprecated: bool

    def fits(self, arguments: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        for name, value in self.query.items():
            if name not in arguments or (value and arguments[name] != value):
                return False
        return all(name in headers for name in self.headers)

    @property
    def order(self) -> tuple[int, bool, str]:
        """The sort key: operations with the most conditions come first, deprecated operations after others."""
        return -len(self.query) - len(self.headers), self.deprecated, self.name


class _Template(NamedTuple):
    pattern: re.Pattern[str]
    candidates: tuple[_Candidate, ...]


@functools.cache
def _templates(service: str) -> Mapping[str, tuple[_Template, ...]]:
    """Return a service's operations by method and path; empty for a service that botocore does not know."""
    from botocore.exceptions import UnknownServiceError

    try:
        model = service_model(service)
    except UnknownServiceError:
        return {}
    found: dict[str, dict[str, list[_Candidate]]] = {}
    for name in model.operation_names:
        operation = model.operation_model(name)
        path, _, query = operation.http["requestUri"].partition("?")
        by_path = found.setdefault(operation.http["method"], {})
        by_path.setdefault(path.rstrip("/"), []).append(_candidate(operation, query))
    return {
        method: tuple(
            _Template(_path_pattern(path), tuple(sorted(by_path[path], key=lambda each: each.order)))
            for path in sorted(by_path, key=_path_order)
        )
        for method, by_path in found.items()
    }


def _candidate(operation: Any, query: str) -> _Candidate:
    """Return an operation with its conditions, which are the template's query and the required arguments."""
    must = dict(parse_qsl(query, keep_blank_values=True))
    must.pop("x-id", None)  # x-id only distinguishes operations in the documentation; clients may omit it
    headers = []
    shape = operation.input_shape
    for member in shape.required_members if shape else ():
        where = shape.members[member].serialization
        if where.get("location") == "querystring":
            must.setdefault(where["name"], "")
        elif where.get("location") == "header":
            headers.append(where["name"])
    return _Candidate(operation.name, must, tuple(headers), bool(operation.deprecated))


def _path_pattern(path: str) -> re.Pattern[str]:
    """Return the regular expression for a template such as ``/{Bucket}/{Key+}``, with an optional slash at the end."""
    pattern = re.escape(path)
    pattern = re.sub(r"\\\{(\w+)\\\+\\\}", r"(?P<\1>.+)", pattern)
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", pattern)
    return re.compile(pattern + "/?")


def _path_order(path: str) -> tuple[int, int, int]:
    """Return the sort key of a template; templates with fewer variables come first, then longer templates."""
    return path.count("+}"), path.count("{"), -len(path)


@functools.lru_cache(maxsize=1024)
def _parse_query(query: str) -> Mapping[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))


def _decode_labels(labels: dict[str, str]) -> dict[str, str]:
    return {name: unquote(value) if "%" in value else value for name, value in labels.items()}


# --- the resources of requests

_FUNCTION_NAME = re.compile(rb'"FunctionName"\s*:\s*"([^"\\]+)"')


def _s3_resource(operation: Operation, place: str, body: bytes) -> str:
    bucket, key = operation.path_arguments.get("Bucket"), operation.path_arguments.get("Key")
    if not bucket:
        return ""
    if operation.name == "DeleteObjects":  # a request deletes any number of keys, so a policy must allow all keys
        key = "*"
    return f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"


def _lambda_resource(operation: Operation, place: str, body: bytes) -> str:
    labels = operation.path_arguments
    if "LayerName" in labels:
        return f"arn:aws:lambda:{place}:layer:{labels['LayerName']}"
    if operation.name == "CreateFunction":
        found = _FUNCTION_NAME.search(body)  # the body is not decoded, because it may also contain 67 MB of code
        name = found[1].decode() if found else ""
    else:
        name = labels.get("FunctionName") or labels.get("Resource", "")
    # A name may be bare, ACCOUNT:function:NAME or an ARN, each with an optional qualifier
    bare = re.sub(r"^(?:.*:)?function:", "", name).partition(":")[0]
    return f"arn:aws:lambda:{place}:function:{bare}" if bare else ""


def _logs_resource(operation: Operation, place: str, body: bytes) -> str:
    group = _json_field(body, "logGroupName")
    stream = _json_field(body, "logStreamName")
    return f"arn:aws:logs:{place}:log-group:{group}{f':log-stream:{stream}' if stream else ''}" if group else ""


def _sqs_resource(operation: Operation, place: str, body: bytes) -> str:
    queue = _json_field(body, "QueueUrl").rpartition("/")[2] or _json_field(body, "QueueName")
    return f"arn:aws:sqs:{place}:{queue}" if queue else ""


def _iam_resource(operation: Operation, place: str, body: bytes) -> str:
    arguments = parse_qs(body.decode(errors="replace"))
    account = place.rpartition(":")[2]
    for argument, kind in (("InstanceProfileName", "instance-profile"), ("RoleName", "role"), ("UserName", "user")):
        if argument in arguments:
            return f"arn:aws:iam::{account}:{kind}/{arguments[argument][0]}"
    return arguments.get("PolicyArn", [""])[0]


_RESOURCES: Mapping[str, Callable[[Operation, str, bytes], str]] = {
    "s3": _s3_resource,
    "lambda": _lambda_resource,
    "logs": _logs_resource,
    "sqs": _sqs_resource,
    "iam": _iam_resource,
}


def _json_field(body: bytes, name: str) -> str:
    """Return a text field of the JSON object in a body; ``""`` if the field is missing or the body is not JSON."""
    try:
        fields = json.loads(body)
    except ValueError:
        return ""
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else ""
