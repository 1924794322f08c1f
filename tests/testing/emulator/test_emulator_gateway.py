"""The gateway: a real SeaweedFS behind it and boto3 in front; moto and Lambda are stand-ins."""

from __future__ import annotations

import asyncio
import functools
import gzip
import http.client
import json
import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from aiohttp import web
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
from conforming import Refused, conforming

from pywren.testing.emulator._backends import SeaweedFS
from pywren.testing.emulator._counters import Counters, Execution, Tally
from pywren.testing.emulator._door import Door
from pywren.testing.emulator._faults import Fault, FaultPlan, Faults
from pywren.testing.emulator._gateway import Gateway
from pywren.testing.emulator._lambda_api import Answer
from pywren.testing.emulator._operations import Operation, service_model

REGION = "us-west-2"
BIG = 5_000_000
TOKEN = "the token of the control requests"
ROLE_ARN = "arn:aws:iam::123456789012:role/r"


class Loop:
    """An event loop in its own thread, because boto3 blocks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def close(self) -> None:
        """End all tasks, the loop and its thread."""
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@functools.cache
def _session() -> boto3.session.Session:
    """Return one session for the module, because each session loads the models anew."""
    return boto3.session.Session()


class StandInLambda:
    """A Lambda that answers every invocation with its payload."""

    def __init__(self) -> None:
        self.asked: list[tuple[Operation, bytes]] = []

    async def answer(
        self, operation: Operation, query: str, headers: Mapping[str, str], body: bytes, plan: FaultPlan
    ) -> Answer:
        """Return the payload."""
        self.asked.append((operation, body))
        return Answer(200, {"Content-Type": "application/json", "X-Amz-Executed-Version": "$LATEST"}, body)


class StandInMoto:
    """An HTTP server that gives prepared answers, and records its requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.reply = b"<R><GetCallerIdentityResult/></R>"
        self._runner: web.ServerRunner | None = None

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        return web.Response(body=self.reply, content_type="text/xml")

    async def start(self) -> str:
        """Listen, and return the URL."""
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Stop."""
        assert self._runner is not None
        await self._runner.cleanup()


class Aws:
    """A gateway and the servers behind it."""

    def __init__(self, loop: Loop, s3: Door) -> None:
        self.loop = loop
        self.functions = StandInLambda()
        self.moto = StandInMoto()
        self.tally = Tally()
        self.callers = {"OURS": "client", "ITS": "function:f"}
        self.idle = True
        self.gateway = Gateway(
            s3=s3,
            moto=Door(loop.run(self.moto.start())),
            functions=self.functions,  # type: ignore[arg-type]
            callers=self.callers,
            tally=self.tally,
            plan=FaultPlan(Faults()),
            token=TOKEN,
            wait_idle=self._wait_idle,
        )
        self.url = f"http://127.0.0.1:{loop.run(self.gateway.start())}"
        self._clients: list[Any] = []

    async def _wait_idle(self, timeout: float) -> bool:
        return self.idle

    def client(self, service: str, key: str = "OURS", token: str | None = None, **config: Any) -> Any:
        """Make a boto3 client that does not retry."""
        config.setdefault("retries", {"total_max_attempts": 1})
        client = _session().client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=key,
            aws_secret_access_key="secret",
            aws_session_token=token,
            config=Config(**config),
        )
        self._clients.append(client)
        return client

    def set_faults(self, **faults: Any) -> None:
        """Set the faults."""
        self.gateway.plan = FaultPlan(Faults(**faults))

    def close(self) -> None:
        """Close the gateway."""
        for client in self._clients:
            client.close()
        self.loop.run(self.gateway.close())
        self.loop.run(self.moto.close())


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """Return an event loop for the module."""
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def s3_door(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Run a real S3 server."""
    server = SeaweedFS(tmp_path_factory.mktemp("weed"))
    door = loop.run(server.start())
    yield door
    loop.run(server.close())


@pytest.fixture
def aws(loop: Loop, s3_door: Door) -> Iterator[Aws]:
    """Return a gateway for one test."""
    aws = Aws(loop, s3_door)
    yield aws
    aws.close()


@pytest.fixture(scope="module")
def bucket(loop: Loop, s3_door: Door) -> str:
    """Return a bucket for the module, in which every test uses its own keys."""
    aws = Aws(loop, s3_door)
    aws.client("s3").create_bucket(Bucket="tests", CreateBucketConfiguration={"LocationConstraint": REGION})
    aws.close()
    return "tests"


@pytest.fixture
def s3(aws: Aws, bucket: str) -> Any:
    """Return a client as boto3 makes it by default."""
    return aws.client("s3")


def refusal(call: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    """Return the status and code with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["ResponseMetadata"]["HTTPStatusCode"], caught.value.response["Error"]["Code"]


def authorization(service: str, key: str = "OURS") -> str:
    """Return the header of a request that is signed for a service."""
    return (
        f"AWS4-HMAC-SHA256 Credential={key}/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )


# --- S3 as it is


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 1024 * 1024 + 1, BIG], ids=str)
def test_objects_of_every_size_come_back(aws: Aws, s3: Any, bucket: str, size: int) -> None:
    """Small objects pass in one piece and big ones as a stream; both are counted."""
    body = os.urandom(size)
    s3.put_object(Bucket=bucket, Key="sized", Body=body)
    assert s3.get_object(Bucket=bucket, Key="sized")["Body"].read() == body
    counted = aws.tally.snapshot()
    assert counted.count(operation="PutObject").bytes_in >= size
    assert counted.count(operation="GetObject").bytes_out == size


def test_a_range_of_an_object(s3: Any, bucket: str) -> None:
    """A Range request and its 206 answer pass unchanged."""
    s3.put_object(Bucket=bucket, Key="range", Body=b"0123456789")
    answer = s3.get_object(Bucket=bucket, Key="range", Range="bytes=2-4")
    assert (answer["Body"].read(), answer["ContentRange"]) == (b"234", "bytes 2-4/10")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_a_range_of_a_big_object(s3: Any, bucket: str) -> None:
    """A big range is streamed too."""
    body = os.urandom(BIG)
    s3.put_object(Bucket=bucket, Key="big-range", Body=body)
    assert s3.get_object(Bucket=bucket, Key="big-range", Range="bytes=1000-")["Body"].read() == body[1000:]


@pytest.mark.parametrize("size", [7, BIG], ids=str)
def test_head_tells_the_length_without_a_body(aws: Aws, s3: Any, bucket: str, size: int) -> None:
    """HEAD has the object's length and metadata, and the connection stays usable."""
    s3.put_object(Bucket=bucket, Key="head", Body=b"x" * size, Metadata={"who": "me"}, ContentType="text/plain")
    for _ in range(2):
        answer = s3.head_object(Bucket=bucket, Key="head")
        assert (answer["ContentLength"], answer["Metadata"], answer["ContentType"]) == (
            size, {"who": "me"}, "text/plain",
        )  # fmt: skip
    assert aws.tally.snapshot().count(operation="HeadObject").bytes_out == 0


def test_a_missing_key_is_404(aws: Aws, s3: Any, bucket: str) -> None:
    """GET returns NoSuchKey and HEAD 404; both count as refused."""
    assert refusal(s3.get_object, Bucket=bucket, Key="missing") == (404, "NoSuchKey")
    assert refusal(s3.head_object, Bucket=bucket, Key="missing") == (404, "404")
    assert refusal(s3.get_object, Bucket="no-such-bucket", Key="missing") == (404, "NoSuchBucket")
    assert aws.tally.snapshot().count(service="s3").refused == 3


@pytest.mark.parametrize("size", [1, BIG], ids=str)
def test_a_conditional_put_loses_against_the_first(s3: Any, bucket: str, size: int) -> None:
    """If-None-Match gives 412 once the key exists, even when the body is an unread stream."""
    key = f"first-{size}"
    s3.put_object(Bucket=bucket, Key=key, Body=b"1" * size, IfNoneMatch="*")
    assert refusal(s3.put_object, Bucket=bucket, Key=key, Body=b"2" * size, IfNoneMatch="*") == (
        412, "PreconditionFailed",
    )  # fmt: skip
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"1" * size


def test_a_get_that_is_not_modified(s3: Any, bucket: str) -> None:
    """304 has no body, and the connection stays usable."""
    etag = s3.put_object(Bucket=bucket, Key="etag", Body=b"x")["ETag"]
    assert refusal(s3.get_object, Bucket=bucket, Key="etag", IfNoneMatch=etag) == (304, "304")
    assert s3.get_object(Bucket=bucket, Key="etag")["Body"].read() == b"x"


@pytest.mark.parametrize(
    "key",
    ["a b", "a+b", "50%", "50%25", "a%2Fb", "größe/☃", "x//y", "q?a=b&c", "#1", "a:b@c,d;e=f", "~tilde!'()*"],
)
def test_keys_with_special_characters(aws: Aws, s3: Any, bucket: str, key: str) -> None:
    """The path is passed on as it was signed, so that keys come back unchanged and are counted by name."""
    s3.put_object(Bucket=bucket, Key=f"special/{key}", Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=f"special/{key}")["Body"].read() == key.encode()
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"special/{key}")["Contents"]
    assert f"special/{key}" in [each["Key"] for each in listed]
    assert ("client", "s3:GetObject", f"arn:aws:s3:::{bucket}/special/{key}", "") in aws.tally.snapshot().actions
    s3.delete_object(Bucket=bucket, Key=f"special/{key}")


def test_gzip_is_not_unpacked(s3: Any, bucket: str) -> None:
    """An object with a content encoding comes back as it was stored."""
    body = gzip.compress(b"text " * 1000)
    s3.put_object(Bucket=bucket, Key="gz", Body=body, ContentEncoding="gzip")
    answer = s3.get_object(Bucket=bucket, Key="gz")
    assert (answer["ContentEncoding"], answer["Body"].read()) == ("gzip", body)


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA256"])
def test_checksums_pass(s3: Any, bucket: str, algorithm: str) -> None:
    """Checksums, which are boto3's default, reach the server and come back."""
    body = b"checked"
    s3.put_object(Bucket=bucket, Key=algorithm, Body=body, ChecksumAlgorithm=algorithm)
    answer = s3.get_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED")
    assert answer["Body"].read() == body


@pytest.mark.parametrize("size", [3, BIG], ids=str)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_aws_chunked_bodies(aws: Aws, s3: Any, bucket: str, size: int, chunked: bool) -> None:
    """S3's own stream framing, with signatures and a trailing checksum, is removed however the data is split."""
    body = os.urandom(size)
    middle = size // 2
    framed = b"".join(
        [
            b"%x\r\n%s\r\n" % (middle, body[:middle]),
            b"%x;chunk-signature=0\r\n%s\r\n" % (size - middle, body[middle:]),
            b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n",
        ]
    )
    headers = {
        "Authorization": authorization("s3"),
        "Content-Encoding": "aws-chunked, gzip",
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": str(size),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    connection = http.client.HTTPConnection(urlsplit(aws.url).netloc)
    pieces = iter([framed[:10], framed[10:]]) if chunked else framed
    connection.request("PUT", f"/{bucket}/framed", pieces, headers, encode_chunked=chunked)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.close()
    found = s3.get_object(Bucket=bucket, Key="framed")
    assert (found["Body"].read(), found["ContentEncoding"]) == (body, "gzip")


@pytest.mark.parametrize("framed", [b"no frames", b"5\r\nhal", b"5\r\nwhole\r\n"], ids=str)
def test_a_broken_frame_is_no_object(aws: Aws, s3: Any, bucket: str, framed: bytes) -> None:
    """An incomplete body is never stored."""
    headers = {
        "Authorization": authorization("s3"),
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": "5",
    }
    connection = http.client.HTTPConnection(urlsplit(aws.url).netloc)
    connection.request("PUT", f"/{bucket}/unframed", framed, headers)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connection.getresponse()
    connection.close()
    assert refusal(s3.get_object, Bucket=bucket, Key="unframed") == (404, "NoSuchKey")


def test_a_multipart_upload(aws: Aws, s3: Any, bucket: str, tmp_path: Path) -> None:
    """boto3's transfers work; IAM sees each of their requests as s3:PutObject."""
    mebibyte = 1024 * 1024
    body = os.urandom(11 * mebibyte)
    (tmp_path / "up").write_bytes(body)
    config = TransferConfig(multipart_threshold=6 * mebibyte, multipart_chunksize=5 * mebibyte, max_concurrency=2)
    s3.upload_file(str(tmp_path / "up"), bucket, "parts", Config=config)
    s3.download_file(bucket, "parts", str(tmp_path / "down"), Config=config)
    assert (tmp_path / "down").read_bytes() == body
    counted = aws.tally.snapshot()
    assert counted.count(operation="UploadPart").requests == 3
    assert counted.count(operation="CompleteMultipartUpload").requests == 1
    assert {action for _, action, _, _ in counted.actions} == {"s3:PutObject", "s3:GetObject"}


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_urls(aws: Aws, bucket: str, version: str) -> None:
    """A presigned URL has its access key in the query, in both versions of the signature."""
    s3 = aws.client("s3", signature_version=version)
    s3.put_object(Bucket=bucket, Key="pre signed", Body=b"x")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "pre signed"})
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"x"
    assert aws.tally.snapshot().count(caller="client", operation="GetObject").requests == 1


def test_deleting_many(aws: Aws, s3: Any, bucket: str) -> None:
    """The answer of DeleteObjects lists the deleted keys."""
    for name in "ab":
        s3.put_object(Bucket=bucket, Key=f"gone/{name}", Body=b"")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "gone/a"}, {"Key": "gone/b"}]})
    assert {each["Key"] for each in answer["Deleted"]} == {"gone/a", "gone/b"}
    assert s3.list_objects_v2(Bucket=bucket, Prefix="gone/")["KeyCount"] == 0
    assert ("client", "s3:DeleteObject", f"arn:aws:s3:::{bucket}/*", "") in aws.tally.snapshot().actions


def test_listing_with_continuation(aws: Aws, s3: Any, bucket: str) -> None:
    """A listing continues from page to page; its prefix is the condition of s3:ListBucket."""
    keys = [f"pages/ä {number}" for number in range(7)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = list(
        s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="pages/ä", PaginationConfig={"PageSize": 3})
    )
    assert [each["Key"] for page in pages for each in page["Contents"]] == keys
    counted = aws.tally.snapshot()
    assert counted.count(operation="ListObjectsV2").requests == 3
    assert ("client", "s3:ListBucket", f"arn:aws:s3:::{bucket}", "pages/ä") in counted.actions


def test_copying(s3: Any, bucket: str) -> None:
    """CopyObject is distinguished from PutObject, and works."""
    s3.put_object(Bucket=bucket, Key="copy of", Body=b"original")
    s3.copy_object(Bucket=bucket, Key="copied", CopySource={"Bucket": bucket, "Key": "copy of"})
    assert s3.get_object(Bucket=bucket, Key="copied")["Body"].read() == b"original"


def test_buckets(aws: Aws) -> None:
    """Buckets are made, listed, inspected and removed, and know their region."""
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="another", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.head_bucket(Bucket="another")
    assert s3.get_bucket_location(Bucket="another")["LocationConstraint"] == REGION
    assert [each["Name"] for each in s3.list_buckets()["Buckets"]] == ["another"]
    assert s3.list_buckets(Prefix="b")["Buckets"] == []
    s3.delete_bucket(Bucket="another")
    assert refusal(s3.head_bucket, Bucket="another") == (404, "404")
    assert refusal(s3.get_bucket_location, Bucket="another") == (404, "NoSuchBucket")
    assert s3.list_buckets()["Buckets"] == []
    operations = {kind.operation for kind in aws.tally.snapshot().traffic}
    assert operations == {"CreateBucket", "HeadBucket", "ListBuckets", "GetBucketLocation", "DeleteBucket"}


def test_what_the_server_would_mistake_is_refused(aws: Aws) -> None:
    """Removing a bucket's website does not remove the bucket."""
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": REGION})
    assert refusal(s3.delete_bucket_website, Bucket="kept") == (501, "NotImplemented")
    s3.head_bucket(Bucket="kept")
    s3.delete_bucket(Bucket="kept")


def test_many_clients_at_once(aws: Aws, s3: Any, bucket: str) -> None:
    """Concurrent requests of several threads are not mixed up."""
    failed = []

    def work(number: int) -> None:
        for step in range(10):
            body = f"{number} {step}".encode()
            s3.put_object(Bucket=bucket, Key=f"threads/{number}", Body=body)
            if s3.get_object(Bucket=bucket, Key=f"threads/{number}")["Body"].read() != body:
                failed.append((number, step))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert aws.tally.snapshot().count(service="s3").requests == 160


# --- waiting before the body


def raw_put(aws: Aws, bucket: str, key: str, access_key: str) -> socket.socket:
    """Send the head of a PUT that waits for permission to continue."""
    host = urlsplit(aws.url)
    connection = socket.create_connection((host.hostname or "", host.port or 0), timeout=10)
    connection.sendall(
        f"PUT /{bucket}/{key} HTTP/1.1\r\nHost: {host.netloc}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n"
        f"Authorization: {authorization('s3', access_key)}\r\n"
        "\r\n".encode()
    )
    return connection


def test_a_client_that_waits_is_told_to_continue(aws: Aws, s3: Any, bucket: str) -> None:
    """Expect: 100-continue is answered at once, and the final answer comes after the body."""
    with raw_put(aws, bucket, "expected", "OURS") as connection:
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"body")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert s3.get_object(Bucket=bucket, Key="expected")["Body"].read() == b"body"


def test_a_client_that_is_refused_is_not_told_to_continue(aws: Aws, bucket: str) -> None:
    """The connection is closed, so that a late body is not taken for the next request."""
    with raw_put(aws, bucket, "refused", "STRANGER") as connection:
        answer = connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 403")
        assert b"Connection: close" in answer


# --- callers


def test_an_unknown_key_is_refused(aws: Aws) -> None:
    """The answer is 403 in the format of each protocol, and nothing reaches a server."""
    assert refusal(aws.client("s3", "STRANGER").list_buckets) == (403, "InvalidAccessKeyId")
    invoke = aws.client("lambda", "STRANGER").invoke
    assert refusal(invoke, FunctionName="f", Payload=b"{}") == (403, "UnrecognizedClientException")
    assert refusal(aws.client("sts", "STRANGER").get_caller_identity) == (403, "UnrecognizedClientException")
    assert refusal(aws.client("sqs", "STRANGER").list_queues) == (403, "UnrecognizedClientException")
    assert refusal(aws.client("ec2", "STRANGER").describe_instances) == (403, "AuthFailure")
    assert not aws.functions.asked
    assert not aws.moto.asked
    assert aws.tally.snapshot().count(caller="unknown").refused == 5


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "AWS4-HMAC-SHA256 Credential=nonsense"}], ids=str
)
def test_a_request_without_key_is_refused(aws: Aws, headers: dict[str, str]) -> None:
    """A request without credentials is refused, whoever has found the port."""
    connection = http.client.HTTPConnection(urlsplit(aws.url).netloc)
    connection.request("GET", "/", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 403
    assert b"<Code>AccessDenied</Code>" in answer.read()
    connection.close()


def test_callers_are_told_apart(aws: Aws, bucket: str) -> None:
    """A function's requests are counted as its own."""
    aws.client("s3").put_object(Bucket=bucket, Key="who", Body=b"")
    aws.client("s3", "ITS").get_object(Bucket=bucket, Key="who")
    counted = aws.tally.snapshot()
    assert counted.count(caller="client").requests == 1
    assert counted.count(caller="function").requests == counted.count(caller="function:f").requests == 1


def test_access_keys_are_not_logged(aws: Aws, caplog: pytest.LogCaptureFixture) -> None:
    """Access keys are not logged, because they work like passwords here."""
    with caplog.at_level(logging.DEBUG, logger="pywren"):
        refusal(aws.client("s3", "SECRETKEY").list_buckets)
    assert caplog.records
    assert "SECRETKEY" not in "".join(record.getMessage() for record in caplog.records)


def test_keys_that_moto_hands_out_are_ours(aws: Aws) -> None:
    """Temporary credentials from AssumeRole work, and belong to the caller that asked for them."""
    aws.moto.reply = (
        b"<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIANEW</AccessKeyId>"
        b"<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration>"
        b"</Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
    aws.client("sts").assume_role(RoleArn=ROLE_ARN, RoleSessionName="session")
    assert aws.callers["ASIANEW"] == "client"
    aws.client("s3", "ASIANEW").list_buckets()


@pytest.mark.parametrize("operation", ["get_session_token", "get_federation_token"])
def test_a_key_that_everybody_knows_is_not_handed_out(aws: Aws, operation: str) -> None:
    """moto answers some requests with the key of AWS's documentation, which is replaced by a unique one."""
    field = b"<AccessKeyId>AKIAIOSFODNN7EXAMPLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
    name = operation.title().replace("_", "").encode()
    aws.moto.reply = b"<%sResponse><%sResult><Credentials>%s</Credentials></%sResult></%sResponse>" % (
        name, name, field, name, name,
    )  # fmt: skip
    arguments = {"Name": "me"} if operation == "get_federation_token" else {}
    keys = {getattr(aws.client("sts"), operation)(**arguments)["Credentials"]["AccessKeyId"] for _ in range(2)}
    assert len(keys) == 2
    assert "AKIAIOSFODNN7EXAMPLE" not in {*keys, *aws.callers}
    for key in keys:
        aws.client("s3", key).list_buckets()
    assert refusal(aws.client("s3", "AKIAIOSFODNN7EXAMPLE").list_buckets)


# --- other services


def test_moto_is_asked_as_the_client_asked(aws: Aws) -> None:
    """Path, body, signature and Host pass unchanged, so that moto's queue URLs name the gateway."""
    aws.client("sts").get_caller_identity()
    method, path, headers, body = aws.moto.asked[0]
    assert (method, path, headers["Host"]) == ("POST", "/", urlsplit(aws.url).netloc)
    assert b"Action=GetCallerIdentity" in body
    assert "Credential=OURS/" in headers["Authorization"]
    assert aws.tally.snapshot().count(service="sts", operation="GetCallerIdentity").bytes_in == len(body)


def test_lambda_gets_operation_and_body(aws: Aws) -> None:
    """Invoke reaches LambdaApi with decoded arguments, and its answer reaches the client."""
    answer = aws.client("lambda").invoke(FunctionName="f", Payload=b'{"a": 1}')
    assert answer["Payload"].read() == b'{"a": 1}'
    assert aws.functions.asked == [(Operation("lambda", "Invoke", {"FunctionName": "f"}), b'{"a": 1}')]
    arn = f"arn:aws:lambda:{REGION}:123456789012:function:f"
    assert ("client", "lambda:InvokeFunction", arn, "") in aws.tally.snapshot().actions


def test_a_big_zip_reaches_lambda(aws: Aws) -> None:
    """Code is sent as base64 in one request, far above aiohttp's own limit of 1 MiB."""
    code = b"z" * 10_000_000
    aws.client("lambda").update_function_code(FunctionName="f", ZipFile=code)
    operation, body = aws.functions.asked[0]
    assert operation.name == "UpdateFunctionCode"
    assert len(body) > len(code) * 4 / 3


def test_an_unknown_operation_is_named(aws: Aws) -> None:
    """501 NotImplemented names the operation."""
    connection = http.client.HTTPConnection(urlsplit(aws.url).netloc)
    for service, kind in (("s3", "<Code>NotImplemented</Code>"), ("lambda", '"NotImplemented"')):
        connection.request("PATCH", "/tests/x", headers={"Authorization": authorization(service)})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 501
        assert kind in text
        assert "PATCH /tests/x" in text
    connection.close()


def test_a_dead_server_is_said(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """The answer is a 503 that names the server, not an endless wait."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        aws = Aws(loop, Door(f"http://127.0.0.1:{nobody.getsockname()[1]}"))
        assert refusal(aws.client("s3").get_object, Bucket="b" * 3, Key="k") == (503, "ServiceUnavailable")
        assert "did not answer" in caplog.text
        aws.close()


@pytest.mark.parametrize("length", [100, BIG], ids=str)
def test_a_client_that_leaves_hurts_nobody(
    aws: Aws, s3: Any, bucket: str, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An incomplete body is not stored, and the next request works."""
    host = urlsplit(aws.url)
    with socket.create_connection((host.hostname or "", host.port or 0)) as connection:
        connection.sendall(
            f"PUT /{bucket}/half-{length} HTTP/1.1\r\nHost: {host.netloc}\r\nContent-Length: {length}\r\n"
            f"Authorization: {authorization('s3')}\r\n"
            "\r\nhalf".encode()
        )
    s3.put_object(Bucket=bucket, Key="next", Body=b"")
    assert refusal(s3.get_object, Bucket=bucket, Key=f"half-{length}") == (404, "NoSuchKey")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- faults


def test_slow_down(aws: Aws, s3: Any, bucket: str) -> None:
    """S3 answers 503 SlowDown and does nothing; boto3 retries."""
    aws.set_faults(slow_down_s3=Fault(most=2))
    assert refusal(s3.put_object, Bucket=bucket, Key="slow", Body=b"x") == (503, "SlowDown")
    assert refusal(s3.head_object, Bucket=bucket, Key="slow") == (503, "503")
    assert refusal(s3.get_object, Bucket=bucket, Key="slow") == (404, "NoSuchKey")
    aws.set_faults(slow_down_s3=Fault(most=1))
    patient = aws.client("s3", retries={"mode": "standard", "total_max_attempts": 2})
    patient.put_object(Bucket=bucket, Key="slow", Body=b"x" * BIG)
    assert aws.tally.snapshot().faults == {"slow_down_s3": 3}


def test_internal_errors_of_s3(aws: Aws, s3: Any, bucket: str) -> None:
    """S3 answers 500 InternalError and does nothing."""
    aws.set_faults(fail_s3=Fault(most=1))
    assert refusal(s3.put_object, Bucket=bucket, Key="failed", Body=b"x") == (500, "InternalError")
    assert refusal(s3.get_object, Bucket=bucket, Key="failed") == (404, "NoSuchKey")
    assert aws.tally.snapshot().faults == {"fail_s3": 1}


def test_s3_that_is_gone(aws: Aws, s3: Any, bucket: str) -> None:
    """The connection ends without an answer, and the request did nothing."""
    aws.set_faults(lose_s3=Fault(most=1))
    with pytest.raises(ConnectionClosedError):
        s3.put_object(Bucket=bucket, Key="lost", Body=b"x")
    assert refusal(s3.get_object, Bucket=bucket, Key="lost") == (404, "NoSuchKey")
    assert aws.tally.snapshot().faults == {"lose_s3": 1}


def test_a_fault_of_one_caller(aws: Aws, s3: Any, bucket: str) -> None:
    """Only the functions' requests fail, or only the client's."""
    of_function = aws.client("s3", key="ITS")
    aws.set_faults(fail_s3=Fault(caller="function"))
    s3.put_object(Bucket=bucket, Key="mine", Body=b"x")
    assert refusal(of_function.get_object, Bucket=bucket, Key="mine") == (500, "InternalError")
    aws.set_faults(fail_s3=Fault(caller="client"))
    assert of_function.get_object(Bucket=bucket, Key="mine")["Body"].read() == b"x"
    assert refusal(s3.get_object, Bucket=bucket, Key="mine") == (500, "InternalError")


def test_credentials_that_have_expired(aws: Aws) -> None:
    """Requests with the expired session token are refused in the words of each service; others are not."""
    aws.set_faults(expired_token="OLD")
    for service, answer in (("s3", (400, "ExpiredToken")), ("lambda", (403, "ExpiredTokenException"))):
        asks = {"s3": ("list_buckets", {}), "lambda": ("invoke", {"FunctionName": "f", "Payload": b"{}"})}
        operation, arguments = asks[service]
        assert refusal(getattr(aws.client(service, token="OLD"), operation), **arguments) == answer
        getattr(aws.client(service, token="NEW"), operation)(**arguments)
        getattr(aws.client(service), operation)(**arguments)


def test_throttled_invocations(aws: Aws) -> None:
    """429 is boto3's TooManyRequestsException with Reason and Retry-After; the function is not called."""
    aws.set_faults(throttle_invoke=Fault(most=1))
    functions = aws.client("lambda")
    with pytest.raises(functions.exceptions.TooManyRequestsException) as caught:
        functions.invoke(FunctionName="f", Payload=b"{}")
    assert caught.value.response["Reason"] == "CallerRateLimitExceeded"
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    assert not aws.functions.asked
    functions.invoke(FunctionName="f", Payload=b"{}")


def test_failed_invocations(aws: Aws) -> None:
    """500 is boto3's ServiceException."""
    aws.set_faults(fail_invoke=Fault(most=1))
    functions = aws.client("lambda")
    with pytest.raises(functions.exceptions.ServiceException):
        functions.invoke(FunctionName="f", Payload=b"{}")
    assert aws.tally.snapshot().faults == {"fail_invoke": 1}


@pytest.mark.parametrize(("fault", "status"), [("throttle_invoke", 429), ("fail_invoke", 500)])
def test_faults_of_invoke_are_answered_as_the_model_has_them(aws: Aws, fault: str, status: int) -> None:
    """The answers follow the model, so that every client can read them."""
    aws.set_faults(**{fault: Fault()})
    connection = http.client.HTTPConnection(urlsplit(aws.url).netloc)
    connection.request(
        "POST", "/2015-03-31/functions/f/invocations", "{}", headers={"Authorization": authorization("lambda")}
    )
    answer = connection.getresponse()
    received = Answer(answer.status, answer.headers, answer.read())
    connection.close()
    with pytest.raises(Refused) as caught:
        conforming(service_model("lambda").operation_model("Invoke"), received)
    assert caught.value.status == status


def test_faults_of_invoke_leave_other_operations_alone(aws: Aws) -> None:
    """Only Invoke is throttled."""
    aws.set_faults(throttle_invoke=Fault(), fail_invoke=Fault())
    aws.client("lambda").get_function(FunctionName="f")
    assert aws.functions.asked[0][0].name == "GetFunction"


def test_latencies(aws: Aws, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request to S3, and every invocation, is delayed as configured."""
    waited = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr("pywren.testing.emulator._gateway.asyncio.sleep", note)
    aws.set_faults(s3_latency=2.0, invoke_latency=3.0)
    s3.list_buckets()
    aws.client("lambda").invoke(FunctionName="f", Payload=b"{}")
    assert waited == [2.0, 3.0]


# --- control requests


def control(aws: Aws, method: str, path: str, fields: object = None, token: str = TOKEN) -> tuple[int, Any]:
    """Make a control request, and return status and answer."""
    connection = http.client.HTTPConnection(urlsplit(aws.url).netloc)
    body = None if fields is None else json.dumps(fields)
    connection.request(method, f"/_emulator/{path}", body, {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    decoded = answer.status, json.loads(answer.read())
    connection.close()
    return decoded


def test_counters_can_be_asked_for(aws: Aws, s3: Any) -> None:
    """They are returned as JSON, and control requests are not counted."""
    s3.list_buckets()
    status, fields = control(aws, "GET", "counters")
    assert (status, Counters.decode(fields)) == (200, aws.tally.snapshot())
    assert Counters.decode(fields).count().requests == 1


def test_executions_can_be_asked_for(aws: Aws) -> None:
    """Each recorded execution is returned."""
    ended = Execution("f", "id", 1, True, 1.5, 2, None, 60, "ok")
    aws.tally.execution(ended, memory_mb=128, at_once=1)
    status, fields = control(aws, "GET", "executions")
    assert (status, [Execution.decode(each) for each in fields]) == (200, [ended])


def test_faults_can_be_set(aws: Aws, s3: Any) -> None:
    """New faults take effect at once; invalid ones are refused and change nothing."""
    faults = Faults(slow_down_s3=Fault(most=1))
    assert control(aws, "PUT", "faults", faults.encode()) == (200, faults.encode())
    assert refusal(s3.list_buckets) == (503, "SlowDown")
    status, answer = control(aws, "PUT", "faults", {"slow_down": 1})
    assert (status, "slow_down" in answer["message"]) == (400, True)
    assert aws.gateway.plan.faults == faults


def test_idleness_can_be_waited_for(aws: Aws) -> None:
    """The answer is 200 once it is idle, or 408 when that takes too long."""
    assert control(aws, "POST", "wait-idle", {"timeout": 5}) == (200, {})
    aws.idle = False
    status, answer = control(aws, "POST", "wait-idle", {"timeout": 0.5})
    assert (status, "0.5 s" in answer["message"]) == (408, True)
    assert control(aws, "POST", "wait-idle", {})[0] == 400


def test_control_requests_need_their_token(aws: Aws) -> None:
    """An access key is not enough, because functions have one."""
    assert control(aws, "PUT", "faults", Faults(slow_down_s3=Fault()).encode(), token="OURS")[0] == 403
    assert control(aws, "GET", "counters", token="")[0] == 403
    assert control(aws, "GET", "nothing")[0] == 404
    assert aws.gateway.plan.faults == Faults()


def test_closing_ends_what_is_under_way(loop: Loop, s3_door: Door) -> None:
    """A hanging request does not keep the gateway open."""
    aws = Aws(loop, s3_door)
    aws.set_faults(s3_latency=1000.0)
    failed = threading.Event()

    def ask() -> None:
        with pytest.raises(Exception):  # noqa: B017, PT011 - boto3 reports a lost connection in several ways
            aws.client("s3", connect_timeout=5).list_buckets()
        failed.set()

    arrived = threading.Event()
    plan = aws.gateway.plan

    class Noticed(FaultPlan):
        @property
        def faults(self) -> Faults:  # type: ignore[override]
            arrived.set()
            return plan.faults

        @faults.setter
        def faults(self, value: Faults) -> None:
            pass

    aws.gateway.plan = Noticed(plan.faults)
    thread = threading.Thread(target=ask)
    thread.start()
    assert arrived.wait(20)
    loop.run(aws.gateway.close())
    assert failed.wait(20)
    thread.join()
    loop.run(aws.moto.close())
