"""``S3Backend`` over moto and a real S3 server, and how AWS's errors are reported."""

from __future__ import annotations

import array
import concurrent.futures
import inspect
import io
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
import botocore.parsers
import botocore.session
import pytest
from backend_conformance import BackendConformance
from botocore.awsrequest import AWSResponse
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber
from moto import mock_aws
from without_moto import keep_moto_out

from pywren.aws import lean
from pywren.aws.errors import meaning_of_class
from pywren.aws.per_process import PerProcess
from pywren.aws.requests import AWS
from pywren.aws.sending import Retry
from pywren.exceptions import ConfigError, IntegrityError, StorageError, StorageNoSuchKeyError, StorageSetupError
from pywren.storage.backend import Backend
from pywren.storage.multipart import MULTIPART_FROM, THREADS, MultipartUpload
from pywren.storage.s3_backend import S3Backend
from pywren.testing import _set_up
from pywren.testing._moto_corrections import atomic_s3

if TYPE_CHECKING:
    from pywren.testing.emulator import Emulator

BUCKET, REGION = "a-bucket-of-mine", "eu-central-1"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set credentials that give access to nothing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.fixture
def mocked(credentials: None) -> Iterator[None]:
    """Mock AWS with one bucket and S3's atomicity."""
    with mock_aws(), atomic_s3():
        s3 = boto3.client("s3", REGION)
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield


@pytest.mark.moto
class TestS3Backend(BackendConformance):
    """The promises of every backend."""

    @pytest.fixture
    def backend(self, mocked: None) -> Iterator[S3Backend]:
        """A backend over a mocked bucket."""
        backend = S3Backend(BUCKET, REGION)
        yield backend
        backend.close()


@pytest.fixture(scope="class")  # after a/b was deleted, the server finds that a exists
def bucket(emulator: Emulator) -> str:
    """Return a bucket on the real S3 server of the emulated AWS."""
    bucket = f"conformance-{uuid.uuid4()}"
    with _set_up.environment(emulator.environment), closing(boto3.client("s3", REGION)) as s3:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    return bucket


class TestS3BackendOnAServer(BackendConformance):
    """The same promises over a real S3 server, with truly concurrent requests."""

    @pytest.fixture
    def backend(self, emulator: Emulator, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Backend]:
        """Return a backend over the empty bucket."""
        keep_moto_out(monkeypatch)
        with closing(S3Backend(bucket, REGION)) as backend:
            backend.delete(backend.list(""))
            yield backend

    @pytest.mark.xfail(strict=True, raises=AssertionError, reason="it lists directory by directory: a-b after a/…")
    def test_list_is_in_order(self, backend: Backend) -> None:
        """Skip this test: the server does not sort keys by code point (docs/testing.md)."""
        super().test_list_is_in_order(backend)

    def test_requests_are_lean(self, backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        """The server accepts lean requests after the first of each kind, and its answers need no parser of XML."""
        for lean_by_now in (False, True):
            if lean_by_now:
                monkeypatch.setattr(lean._Lean, "_by_botocore", None)
            for key in ("p/a", "p/ä b+c%", "p/x&y"):
                assert backend.put(key, b"0123456789") is True
                assert backend.get(key, (2, 4)) == b"234"
            assert sorted(backend.list("p/")) == ["p/a", "p/x&y", "p/ä b+c%"]
            assert backend.list_timed("p/a", suffix="a")[1].keys() == {"p/a"}


class TestS3BackendThroughBotocore(TestS3BackendOnAServer):
    """The same, where a handler of the user's keeps all requests with botocore."""

    @pytest.fixture
    def backend(self, emulator: Emulator, bucket: str) -> Iterator[S3Backend]:
        """Return a backend over the empty bucket, with a handler that does nothing."""
        with closing(S3Backend(bucket, REGION)) as backend:
            backend.s3client.meta.events.register("before-send", lambda **_: None)
            backend.delete(backend.list(""))
            yield backend

    def test_requests_are_lean(self, backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        """None is."""
        monkeypatch.setattr(lean, "exchange", None)
        assert backend.put("p/a", b"a") is True
        assert (backend.get("p/a"), backend.list("p/")) == (b"a", ["p/a"])


# -- big objects ---------------------------------------------------------------------------------------------

MB = 2**20


def uploads_of(backend: S3Backend) -> list[Any]:
    """Return the uploads that are neither complete nor aborted: their parts cost money."""
    uploads: list[Any] = backend.s3client.list_multipart_uploads(Bucket=backend.bucket).get("Uploads") or []
    return uploads


class InParts:
    """What is promised of objects that are sent in parts."""

    @pytest.mark.parametrize("size", [3 * MB, 16 * MB, 17 * MB + 1], ids=["one part", "whole parts", "a rest"])
    def test_an_object_in_parts_comes_back(self, backend: S3Backend, size: int) -> None:
        """All bytes are there, in order, and no upload is left open."""
        data = os.urandom(size)
        assert backend.put("p/big", data) is True
        assert backend.get("p/big") == data
        assert backend.get("p/big", (size - 5, size - 1)) == data[-5:]
        assert uploads_of(backend) == []

    def test_bytes_of_any_kind(self, backend: S3Backend) -> None:
        """Views of numbers, and views with gaps, are stored as their bytes."""
        numbers = array.array("d", range(1_000_000))
        for view in (memoryview(numbers), memoryview(bytes(numbers))[::2], memoryview(bytearray(numbers))[8:]):
            backend.put("p/big", view)
            assert backend.get("p/big") == view.tobytes()

    def test_a_big_object_replaces(self, backend: S3Backend) -> None:
        """Without a condition the last write counts."""
        backend.put("p/big", b"small")
        backend.put("p/big", b"x" * 9 * MB)
        assert len(backend.get("p/big")) == 9 * MB

    def test_the_first_big_object_stands(self, backend: S3Backend) -> None:
        """A later conditional write changes nothing, and leaves nothing behind."""
        assert backend.put("p/big", b"1" * 9 * MB, if_absent=True) is True
        assert backend.put("p/big", b"2" * 9 * MB, if_absent=True) is False
        assert backend.get("p/big") == b"1" * 9 * MB
        assert uploads_of(backend) == []

    def test_a_big_object_that_appears_during_the_upload(
        self, backend: S3Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """S3 compares when the upload is complete, and refuses it."""
        complete = MultipartUpload._complete

        def late(self: MultipartUpload, upload: str) -> bool | None:
            backend.s3client.put_object(Bucket=backend.bucket, Key="p/big", Body=b"first")
            return complete(self, upload)

        monkeypatch.setattr(MultipartUpload, "_complete", late)
        assert backend.put("p/big", b"2" * 9 * MB, if_absent=True) is False
        assert backend.get("p/big") == b"first"
        assert uploads_of(backend) == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), StorageError("503")], ids=repr)
    def test_nothing_half_uploaded_stays(
        self, backend: S3Backend, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        """After any error, and after Ctrl-C, the parts are removed."""
        send = MultipartUpload._send_part

        def failing(self: MultipartUpload, upload: str, index: int) -> None:
            if index == 1:
                raise error
            send(self, upload, index)

        monkeypatch.setattr(MultipartUpload, "_send_part", failing)
        with pytest.raises(type(error)):
            backend.put("p/big", b"x" * 25 * MB)
        assert uploads_of(backend) == []
        assert backend.list("p/") == []

    @pytest.mark.parametrize("if_absent", [False, True])
    def test_an_upload_whose_last_answer_was_lost(
        self, backend: S3Backend, monkeypatch: pytest.MonkeyPatch, if_absent: bool
    ) -> None:
        """The upload is gone, so the object is compared with what was sent."""
        data = os.urandom(9 * MB)
        lose_first_answer(backend, monkeypatch)
        assert backend.put("p/big", data, if_absent=if_absent) is True
        assert backend.get("p/big") == data

    @pytest.mark.parametrize("if_absent", [False, True])
    def test_an_object_that_replaced_the_upload(
        self, backend: S3Backend, monkeypatch: pytest.MonkeyPatch, if_absent: bool
    ) -> None:
        """If another object of the same size is there, this one was not the first, or is not known to be stored."""
        data = b"1" * 9 * MB
        lose_first_answer(backend, monkeypatch, replaced_by=b"1" * (9 * MB - 1) + b"2")
        if if_absent:
            assert backend.put("p/big", data, if_absent=True) is False
        else:
            with pytest.raises(StorageError, match=r"p/big.*try again"):
                backend.put("p/big", data)


def lose_first_answer(backend: S3Backend, monkeypatch: pytest.MonkeyPatch, replaced_by: bytes | None = None) -> None:
    """Complete an upload, but report a broken connection the first time."""
    client, complete, calls = backend.s3client, backend.s3client.complete_multipart_upload, []

    def lossy(**arguments: Any) -> Any:
        calls.append(arguments)
        try:
            answer = complete(**arguments)
        except KeyError:  # moto's own error
            missing = {"Error": {"Code": "NoSuchUpload", "Message": "gone"}, "ResponseMetadata": {}}
            raise client.exceptions.NoSuchUpload(missing, "CompleteMultipartUpload") from None
        if len(calls) > 1:
            return answer
        if replaced_by is not None:
            client.put_object(Bucket=backend.bucket, Key=arguments["Key"], Body=replaced_by)
        raise botocore.exceptions.ConnectionClosedError(endpoint_url="https://s3")

    monkeypatch.setattr(client, "complete_multipart_upload", lossy)


@pytest.mark.moto
class TestInParts(InParts):
    """The promises over moto."""

    @pytest.fixture
    def backend(self, mocked: None) -> Iterator[S3Backend]:
        """A backend that sends everything in parts."""
        with closing(S3Backend(BUCKET, REGION)) as backend:
            backend.multipart_from = 0
            yield backend


class TestInPartsOnAServer(InParts):
    """The promises over a real S3 server."""

    @pytest.fixture
    def backend(self, emulator: Emulator, bucket: str) -> Iterator[S3Backend]:
        """A backend that sends everything in parts."""
        with closing(S3Backend(bucket, REGION)) as backend:
            backend.delete(backend.list(""))
            backend.multipart_from = 0
            yield backend


@pytest.mark.moto
def test_small_objects_are_not_sent_in_parts(mocked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take one request, as before."""
    monkeypatch.setattr(MultipartUpload, "run", lambda self: pytest.fail("sent in parts"))
    with closing(S3Backend(BUCKET, REGION)) as backend:
        backend.put("k", b"x" * (MULTIPART_FROM - 1))
    assert MULTIPART_FROM >= 5 * MB


@pytest.mark.parametrize("size", [1, 100 * MB, 200 * 1024 * MB, 5 * 1024**4])
def test_no_object_needs_too_many_parts(size: int) -> None:
    """The size of parts grows with the object, within S3's limits: 5 MiB to 5 GiB, and 10,000 parts."""
    whole = Long(size)
    upload = MultipartUpload(lambda request: None, "b", "k", whole, if_absent=False)  # type: ignore[arg-type]
    assert 5 * MB <= upload.size <= 5 * 1024**3
    assert len(upload) <= 10_000
    assert len(upload) * upload.size >= size


class Long:
    """Stands for many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


@pytest.mark.moto
def test_parts_are_copied_one_at_a_time(mocked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory for an upload is that of the parts on their way, not of the object."""
    open_now, most, lock = [0], [0], threading.Lock()
    send = MultipartUpload._send_part

    def counted(self: MultipartUpload, upload: str, index: int) -> None:
        with lock:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        try:
            send(self, upload, index)
        finally:
            with lock:
                open_now[0] -= 1

    monkeypatch.setattr(MultipartUpload, "_send_part", counted)
    with closing(S3Backend(BUCKET, REGION)) as backend:
        backend.put("k", bytearray(130 * MB))
    assert 1 <= most[0] <= THREADS


@pytest.mark.moto
def test_who_may_not_abort_is_told(
    mocked: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of the upload is raised; that parts may remain is logged, with the missing permission."""

    def denied(**arguments: Any) -> Any:
        raise botocore.exceptions.ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "Abort")

    with closing(S3Backend(BUCKET, REGION)) as backend:
        backend.multipart_from = 0
        monkeypatch.setattr(backend.s3client, "abort_multipart_upload", denied)
        monkeypatch.setattr(MultipartUpload, "_send_part", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backend.put("p/big", b"x")
    assert "parts of an upload of p/big may remain" in caplog.text
    assert "s3:AbortMultipartUpload" in caplog.text


@pytest.mark.moto
def test_a_bucket_that_does_not_exist(mocked: None) -> None:
    """Without a bucket, the error says where to set one."""
    backend = S3Backend("another-bucket", REGION)
    for request in (lambda: backend.get("k"), lambda: backend.put("k", b""), lambda: backend.list("")):
        with pytest.raises(StorageError, match=r"another-bucket.*pywren create_bucket"):
            request()
    backend.close()


@pytest.mark.moto
def test_a_backend_made_before_the_mock_is_mocked(credentials: None) -> None:
    """No session is made before the first request."""
    backend = S3Backend(BUCKET, "us-east-1")
    with mock_aws():
        boto3.client("s3", "us-east-1").create_bucket(Bucket=BUCKET)
        assert backend.put("k", b"v")
    backend.close()


# -- requests and answers, stubbed -----------------------------------------------------------------------------


class Stubbed:
    """A backend with a stubbed client, and a clock that only sleeping advances."""

    def __init__(self, client: Any) -> None:
        self.now = 0.0
        self.backend = S3Backend(BUCKET, REGION, retry=Retry(sleep=self.sleep, clock=lambda: self.now))
        self.backend._client = PerProcess(lambda: client)
        self.stub = Stubber(client)

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds

    def refuse(self, operation: str, code: str, status: int = 400, *, times: int = 1, **extra: Any) -> None:
        """Make the next requests fail with an error of the service."""
        for _ in range(times):
            self.stub.add_client_error(operation, code, "the text of AWS", status, **extra)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Return an S3 client as the backend makes it; creating one takes a while."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        client = S3Backend(BUCKET, REGION)._client.get()
    yield client
    client.close()


@pytest.fixture
def stubbed(client: Any) -> Iterator[Stubbed]:
    """Return a backend over a stubbed client; every prepared answer must be used."""
    stubbed = Stubbed(client)
    with stubbed.stub:
        yield stubbed
        stubbed.stub.assert_no_pending_responses()


REFUSALS = [
    ("AccessDenied", 403, StorageError, "s3:GetObject.*s3:ListBucket"),
    ("AccessDenied", 403, StorageError, "a missing key also looks like this"),
    ("NoSuchBucket", 404, StorageError, "s3: bucket"),
    ("PermanentRedirect", 301, StorageSetupError, "another region"),
    ("AuthorizationHeaderMalformed", 400, StorageSetupError, "aws_region"),
    ("ExpiredToken", 400, StorageSetupError, "aws sso login"),
    ("ExpiredTokenException", 400, StorageSetupError, "expired"),
    ("InvalidAccessKeyId", 403, StorageSetupError, "aws configure"),
    ("SignatureDoesNotMatch", 403, StorageSetupError, "secret key"),
    ("RequestTimeTooSkewed", 403, StorageSetupError, "clock"),
    ("KMS.AccessDeniedException", 400, StorageError, "kms:Decrypt and kms:GenerateDataKey"),
    ("KMS.DisabledException", 400, StorageError, "key is enabled"),
    ("InvalidRange", 416, StorageError, "shorter"),
    ("NotImplemented", 501, StorageError, "does not support this request"),
    ("SomethingNew", 400, StorageError, "SomethingNew: the text of AWS"),
]


@pytest.mark.parametrize(("code", "status", "kind", "text"), REFUSALS)
def test_what_a_refusal_becomes(stubbed: Stubbed, code: str, status: int, kind: type[Exception], text: str) -> None:
    """Each error code becomes a pywren error with the place, AWS's message and the remedy, and is not retried."""
    stubbed.refuse("get_object", code, status)
    with pytest.raises(kind, match=text) as caught:
        stubbed.backend.get("p/k")
    assert f"s3://{BUCKET}/p/k" in str(caught.value)
    assert code in str(caught.value)
    assert stubbed.now == 0


def test_a_missing_key_by_code(stubbed: Stubbed) -> None:
    """``NoSuchKey`` becomes the error for a missing key."""
    stubbed.refuse("get_object", "NoSuchKey", 404)
    with pytest.raises(StorageNoSuchKeyError):
        stubbed.backend.get("p/k")


def test_a_denial_by_kms(stubbed: Stubbed) -> None:
    """An AccessDenied whose text mentions KMS is about the encryption key, not the bucket."""
    stubbed.stub.add_client_error("put_object", "AccessDenied", "not authorized to perform: kms:GenerateDataKey", 403)
    with pytest.raises(StorageError, match="KMS key"):
        stubbed.backend.put("p/k", b"")


def test_the_region_that_s3_names(stubbed: Stubbed) -> None:
    """The error for a wrong region names the right one."""
    stubbed.refuse("put_object", "PermanentRedirect", 301, service_error_meta={"Region": "ap-south-1"})
    with pytest.raises(StorageSetupError, match="ap-south-1"):
        stubbed.backend.put("p/k", b"")


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("InternalError", 500), ("???", 502), ("429", 429)])
def test_a_busy_service_is_asked_again(stubbed: Stubbed, code: str, status: int) -> None:
    """Throttled requests and failures of S3 are retried."""
    stubbed.refuse("get_object", code, status, times=3)
    stubbed.stub.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"abc"), 3)})
    assert stubbed.backend.get("p/k") == b"abc"
    assert 0 < stubbed.now < 5


def test_a_service_that_stays_busy(stubbed: Stubbed) -> None:
    """When the patience is over, the error contains the service's message."""
    stubbed.backend._retry = Retry(patience=lambda _: 1.0, sleep=stubbed.sleep, clock=lambda: stubbed.now)
    for _ in range(20):
        stubbed.stub.add_client_error("get_object", "SlowDown", "reduce your rate", 503)
    with pytest.raises(StorageError, match=r"overloaded.*reduce your rate"):
        stubbed.backend.get("p/k")
    assert stubbed.now <= 1.0
    stubbed.stub._queue.clear()


def test_a_body_that_breaks_is_read_again(stubbed: Stubbed) -> None:
    """A connection that breaks in the middle of an object is retried."""
    stubbed.stub.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"ab"), 3)})
    stubbed.stub.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"abc"), 3)})
    assert stubbed.backend.get("p/k") == b"abc"


def test_a_conditional_put_that_races(stubbed: Stubbed) -> None:
    """After 409, when two writers collide, the put is sent again and shows who won."""
    stubbed.refuse("put_object", "ConditionalRequestConflict", 409)
    stubbed.refuse("put_object", "PreconditionFailed", 412)
    stubbed.stub.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"theirs"), 6)})
    assert stubbed.backend.put("p/k", b"ours", if_absent=True) is False


def test_a_conditional_put_whose_answer_was_lost(stubbed: Stubbed) -> None:
    """A put whose first attempt succeeded but whose answer was lost has won."""
    stubbed.refuse("put_object", "InternalError", 500)
    stubbed.refuse("put_object", "PreconditionFailed", 412)
    stubbed.stub.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"ours"), 4)})
    assert stubbed.backend.put("p/k", b"ours", if_absent=True) is True


def test_a_conditional_put_that_botocore_repeated(stubbed: Stubbed) -> None:
    """botocore's own retries count too."""
    stubbed.refuse("put_object", "PreconditionFailed", 412, response_meta={"RetryAttempts": 1})
    stubbed.stub.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"ours"), 4)})
    assert stubbed.backend.put("p/k", b"ours", if_absent=True) is True


def test_what_is_sent(stubbed: Stubbed) -> None:
    """A conditional put sends the condition, and a ranged get sends the range."""
    stubbed.stub.add_response("put_object", {}, {"Bucket": BUCKET, "Key": "k", "Body": b"x", "IfNoneMatch": "*"})
    body = StreamingBody(io.BytesIO(b"bc"), 2)
    stubbed.stub.add_response("get_object", {"Body": body}, {"Bucket": BUCKET, "Key": "k", "Range": "bytes=1-2"})
    assert stubbed.backend.put("k", b"x", if_absent=True)
    assert stubbed.backend.get("k", (1, 2)) == b"bc"


def test_a_server_without_conditional_writes(stubbed: Stubbed) -> None:
    """The error for such a server names what it lacks and pywren needs."""
    stubbed.stub.add_client_error("put_object", "NotImplemented", "a header", 501)
    with pytest.raises(StorageError, match="If-None-Match"):
        stubbed.backend.put("p/k", b"", if_absent=True)


def test_an_object_that_may_not_be_deleted(stubbed: Stubbed) -> None:
    """A refusal of one key in a batch is an error, although the whole request succeeded."""
    refused = {"Errors": [{"Key": "p/b", "Code": "AccessDenied", "Message": "no"}]}
    stubbed.stub.add_response("delete_objects", refused, {"Bucket": BUCKET, "Delete": ANY})
    with pytest.raises(StorageError, match="s3:DeleteObject"):
        stubbed.backend.delete(["p/a", "p/b"])


def test_deleting_again_what_was_throttled(stubbed: Stubbed) -> None:
    """A key that S3 was too busy to delete is deleted by another request."""
    busy = {"Errors": [{"Key": "p/b", "Code": "SlowDown", "Message": "later"}]}
    stubbed.stub.add_response("delete_objects", busy)
    stubbed.stub.add_response("delete_objects", {})
    stubbed.backend.delete(["p/a", "p/b"])


# -- this machine's set-up -------------------------------------------------------------------------------------


SETUP = [
    (lambda e: e.NoCredentialsError(), "aws configure.*PYWREN_EXECUTOR=local"),
    (lambda e: e.PartialCredentialsError(provider="env", cred_var="x"), "AWS_PROFILE"),
    (lambda e: e.SSOTokenLoadError(error_msg="x"), "aws sso login --profile work"),
    (lambda e: e.UnauthorizedSSOTokenError(), "aws sso login --profile work"),
    (lambda e: e.TokenRetrievalError(provider="sso", error_msg="x"), "aws sso login --profile work"),
    (lambda e: e.CredentialRetrievalError(provider="process", error_msg="x"), "AWS credential source failed"),
    (lambda e: botocore.parsers.ResponseParserError("<html>"), "does not follow the AWS protocol"),
    (lambda e: RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."), "expired"),
    (lambda e: e.NoRegionError(), "aws_region"),
]


@pytest.mark.parametrize(("make", "text"), SETUP)
def test_what_a_wrong_set_up_becomes(
    stubbed: Stubbed, monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], BaseException], text: str
) -> None:
    """An error that prevents a request from being sent is a set-up error with the remedy."""

    def fail() -> None:
        raise make(botocore.exceptions)

    monkeypatch.setenv("AWS_PROFILE", "work")
    stubbed.backend._client = PerProcess(fail)
    with pytest.raises(StorageSetupError, match=text):
        stubbed.backend.get("k")
    assert stubbed.now < 10


NETWORK = [
    (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), "AWS_ENDPOINT_URL"),
    (botocore.exceptions.ConnectTimeoutError(endpoint_url="http://x"), "network"),
    (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), "network"),
    (botocore.exceptions.ProxyConnectionError(proxy_url="http://x"), "HTTPS_PROXY"),
]


@pytest.mark.parametrize(("error", "text"), NETWORK)
def test_what_a_network_that_is_down_becomes(stubbed: Stubbed, error: BaseException, text: str) -> None:
    """An unreachable service is retried for seconds, not minutes, and is not a configuration error."""

    def fail() -> None:
        raise error

    stubbed.backend._client = PerProcess(fail)
    with pytest.raises(StorageError, match=text) as caught:
        stubbed.backend.get("k")
    assert not isinstance(caught.value, StorageSetupError)
    assert 0 < stubbed.now <= 5


def test_our_own_bugs_are_not_disguised(stubbed: Stubbed) -> None:
    """An exception that is not botocore's is passed on unchanged."""

    def fail() -> None:
        raise RuntimeError("a bug")

    stubbed.backend._client = PerProcess(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        stubbed.backend.get("k")


def test_no_credentials_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, the error says so, and how to work without an account."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(StorageSetupError, match="no AWS credentials were found"):
        S3Backend(BUCKET, REGION).get("k")


def test_a_profile_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the misspelt profile."""
    with pytest.raises(StorageSetupError, match="nobody"):
        S3Backend(BUCKET, REGION, profile="nobody").get("k")
    monkeypatch.setenv("AWS_PROFILE", "somebody")
    with pytest.raises(StorageSetupError, match="somebody"):
        S3Backend(BUCKET, REGION).get("k")


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_endpoint_variables(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Both variables select another server; the error for an invalid URL names the variable."""
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    backend = S3Backend(BUCKET, REGION)
    assert backend._client.get().meta.endpoint_url == "http://127.0.0.1:9"
    backend.close()
    monkeypatch.setenv(variable, "nonsense")
    with pytest.raises(StorageSetupError, match=variable):
        S3Backend(BUCKET, REGION).get("k")


@pytest.mark.usefixtures("credentials")
def test_region_of_the_configuration_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's region is used only if the configuration has none."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    for given, expected in ((REGION, REGION), (None, "ap-south-1")):
        backend = S3Backend(BUCKET, given)
        assert backend._client.get().meta.region_name == expected
        backend.close()


@pytest.mark.usefixtures("credentials")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_its_own_client() -> None:
    """A forked child never shares connections with its parent."""
    backend = S3Backend(BUCKET, REGION)
    client = backend._client.get()
    child = os.fork()
    if child == 0:
        os._exit(0 if backend._client.get() is not client else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    backend.close()


def test_every_error_of_botocore_is_known() -> None:
    """The table has every exception class of botocore, directly or through a base class."""
    roots = {botocore.exceptions.BotoCoreError}
    unknown = [
        name
        for name, kind in vars(botocore.exceptions).items()
        if inspect.isclass(kind)
        and issubclass(kind, Exception)
        and not issubclass(kind, Warning)
        and kind.__module__ == "botocore.exceptions"
        and kind not in roots
        and meaning_of_class(kind) is None
    ]
    assert unknown == []


# -- sizes, times and credentials ------------------------------------------------------------------------------


class Endless(io.RawIOBase):
    """An endless body that counts the bytes read."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """Return as many bytes as requested."""
        assert size >= 0, "all of it was asked for"
        self.count += size
        return b"x" * size


@pytest.mark.parametrize("limit", [1, 1000, 1_000_000])
def test_no_more_is_read_than_is_expected(stubbed: Stubbed, limit: int) -> None:
    """Row 224: of a huge object, only one byte beyond the limit is read, and the body is closed."""
    body = Endless()
    stubbed.stub.add_response("get_object", {"Body": StreamingBody(body, 10 * 1024**3)})
    with pytest.raises(IntegrityError, match=f"longer than the {limit:,} bytes"):
        stubbed.backend.get("p/k", limit=limit)
    assert body.count == limit + 1
    assert body.closed


def test_a_body_in_pieces_below_its_limit(stubbed: Stubbed) -> None:
    """A body in pieces is joined, and one that breaks off is read again."""

    class Pieces(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(2, 99 if size is None or size < 0 else size))

    stubbed.stub.add_response("get_object", {"Body": StreamingBody(Pieces(b"abc"), 7)})
    stubbed.stub.add_response("get_object", {"Body": StreamingBody(Pieces(b"abcdefg"), 7)})
    assert stubbed.backend.get("p/k", limit=7) == b"abcdefg"


def test_a_lost_answer_does_not_read_what_is_longer(stubbed: Stubbed) -> None:
    """A status of another size at that key was not written by us."""
    stubbed.refuse("put_object", "PreconditionFailed", 412, response_meta={"RetryAttempts": 1})
    body = Endless()
    stubbed.stub.add_response("get_object", {"Body": StreamingBody(body, 10 * 1024**3)})
    assert stubbed.backend.put("p/k", b"ours", if_absent=True) is False
    assert body.count == 5


@pytest.mark.moto
@pytest.mark.parametrize("hours", [-24, -1, 1, 1000])
def test_the_time_of_the_service(mocked: None, hours: int) -> None:
    """Row 223: the time is taken from every answer, even a refusal, however wrong this machine's clock is."""
    there = time.time() + 3600 * hours
    with closing(S3Backend(BUCKET, REGION)) as backend:

        def dated(parsed: dict[str, Any], **_: object) -> None:
            parsed.setdefault("ResponseMetadata", {})["HTTPHeaders"] = {"date": formatdate(there, usegmt=True)}

        backend._client.get().meta.events.register_first("after-call.s3", dated)
        with pytest.raises(StorageNoSuchKeyError):
            backend.get("p/k")
        assert abs(backend.now() - there) < 60


class TestRenewedCredentials:
    """A client whose credentials are refused, and a source with newer ones."""

    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return the credentials file; the environment has no credentials."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        return tmp_path / "credentials"

    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Record the tokens sent to services, which refuse the token ``old``."""
        tokens: list[str] = []

        def answer(request_signer: Any, **_: object) -> Any:
            if request_signer._credentials is None:
                raise botocore.exceptions.NoCredentialsError
            token = request_signer._credentials.get_frozen_credentials().token
            tokens.append(token)
            if token.startswith("old"):
                error = {"Error": {"Code": token.removeprefix("old-"), "Message": "no more"}}
                return AWSResponse("", 400, {}, None), {**error, "ResponseMetadata": {"HTTPStatusCode": 400}}
            return AWSResponse("", 200, {}, None), {"ResponseMetadata": {"HTTPStatusCode": 200}}

        create = botocore.session.Session.create_client

        def create_client(*arguments: Any, **options: Any) -> Any:
            client = create(*arguments, **options)
            client.meta.events.register("before-call", answer)
            return client

        monkeypatch.setattr(botocore.session.Session, "create_client", create_client)
        return tokens

    @staticmethod
    def write(file: Path, token: str, *, process: bool = False) -> None:
        """Put credentials where the next session finds them."""
        if process:
            answer = {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "s", "SessionToken": token}
            file.with_name("answer").write_text(json.dumps(answer))
            file.with_name("config").write_text(f"[default]\ncredential_process = cat {file.with_name('answer')}\n")
        else:
            file.write_text(f"[default]\naws_access_key_id=a\naws_secret_access_key=s\naws_session_token={token}\n")

    @pytest.mark.parametrize("process", [False, True])
    @pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "InvalidToken"])
    def test_are_read_by_the_next_attempt(self, file: Path, seen: list[str], code: str, process: bool) -> None:
        """Row 221: newer credentials from a file or program let the refused request itself succeed."""
        self.write(file, f"old-{code}", process=process)
        with closing(S3Backend(BUCKET, REGION)) as backend:
            with pytest.raises(StorageSetupError, match=code):
                backend.list("p/")
            assert len(seen) == 1  # the source returns the same credentials: a new request is pointless
            self.write(file, "new", process=process)
            assert backend.list("p/") == backend.list("p/") == []
        assert seen[1:] == [f"old-{code}", "new", "new"]

    def test_are_read_by_the_clients_of_other_services(self, file: Path, seen: list[str]) -> None:
        """Invocations recover too, in all threads."""
        self.write(file, "old-ExpiredTokenException")
        with closing(AWS(REGION)) as aws:
            with pytest.raises(ConfigError, match="expired"):
                aws.invoke_async("f", b"{}")
            self.write(file, "new")
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda _: aws.request("lambda", "list_functions", doing="ask"), range(8)))
        assert seen.count("new") == 8

    def test_that_come_only_later(self, file: Path, seen: list[str]) -> None:
        """A client without credentials uses those that appear later."""
        with closing(S3Backend(BUCKET, REGION)) as backend:
            with pytest.raises(StorageSetupError, match="no AWS credentials"):
                backend.list("p/")
            self.write(file, "new")
            assert backend.list("p/") == []

    def test_a_refusal_that_no_credentials_mend(self, file: Path, seen: list[str]) -> None:
        """Errors with other causes do not make it read credentials again."""
        self.write(file, "old-AccessDenied")
        with closing(S3Backend(BUCKET, REGION)) as backend:
            with pytest.raises(StorageError, match="AccessDenied"):
                backend.list("p/")
            self.write(file, "new")
            with pytest.raises(StorageError, match="AccessDenied"):
                backend.list("p/")
