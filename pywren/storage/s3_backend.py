"""``S3Backend``: stores objects in a bucket in S3, or on a server with the same protocol.

Any thread may call any method. botocore's clients are thread-safe but its sessions are not. So each backend has its own
session, and only ``PerProcess`` and ``Renewals`` create clients, one at a time. S3 is strongly consistent and its
conditional writes are atomic ("Amazon S3 data consistency model", Amazon S3 User Guide). So if several processes write
a status for a call, the first status wins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any, TypeVar

from pywren.aws import lean
from pywren.aws.credentials import Renewals
from pywren.aws.errors import Boundary, concerns_credentials, error_code, was_repeated
from pywren.aws.per_process import PerProcess
from pywren.aws.s3_pages import Page
from pywren.aws.sending import Retry
from pywren.aws.service_clock import ServiceClock
from pywren.aws.session import make_client, make_session
from pywren.exceptions import ConfigError, IntegrityError, PywrenError, StorageError, StorageNoSuchKeyError
from pywren.storage.backend import NamesOf04, check_range, read_at_most
from pywren.storage.multipart import MULTIPART_FROM, OBJECT_LIMIT, MultipartUpload, lost_upload

Answer = TypeVar("Answer")

DELETE_BATCH = 1000
"""The most keys that one DeleteObjects accepts (Amazon S3 API reference)."""


class S3Backend(NamesOf04):
    """Stores objects in one bucket. botocore is imported only when the first request is sent.

    Args:
        s3config: the bucket's name, or a dict as in 0.4, with ``bucket`` and optionally ``region``.
        region: the bucket's region; by default the region of the profile or environment.
        profile: a profile of ``~/.aws/config``; by default ``AWS_PROFILE`` or the default profile.
        retry: repeats requests after temporary failures.

    Raises:
        ConfigError: ``s3config`` has no bucket.
    """

    object_limit = OBJECT_LIMIT
    """The most bytes of one object."""

    multipart_from = MULTIPART_FROM
    """The bytes from which an object is sent in parts. One PutObject accepts 5 GB."""

    def __init__(
        self,
        s3config: str | Mapping[str, Any],
        region: str | None = None,
        *,
        profile: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        options = s3config if isinstance(s3config, Mapping) else {"bucket": s3config}
        self.bucket = _bucket_of(options)
        self.region = region = region or options.get("region")
        self.profile = profile
        self._retry = retry or Retry()
        self._clock = ServiceClock()
        self._client: PerProcess[Any] = PerProcess(self._make_client)
        self._renewals = PerProcess(lambda: Renewals(functools.partial(make_session, profile), self._use))

    def __repr__(self) -> str:
        return f"S3Backend({self.bucket!r}, {self.region!r})"

    def put(self, key: str, data: bytes | bytearray | memoryview, *, if_absent: bool = False) -> bool:
        """Store an object. See ``Backend.put``."""
        if memoryview(data).nbytes >= self.multipart_from:
            return self._put_in_parts(key, data, if_absent)
        body = data if isinstance(data, bytes) else bytes(data)  # botocore does not accept memory views
        if if_absent:
            return self._put_if_absent(key, body)
        self._send(key, lambda s3: lean.put_object(s3, self.bucket, key, body), "write", "s3:PutObject")
        return True

    def _put_if_absent(self, key: str, body: bytes) -> bool:
        refused: list[BaseException] = []
        tries = 0

        def request(s3: Any) -> bool:
            nonlocal tries
            tries += 1
            try:
                lean.put_object(s3, self.bucket, key, body, if_absent=True)
            except s3.exceptions.ClientError as error:
                if error_code(error) not in ("PreconditionFailed", "412"):
                    raise
                refused.append(error)
                return False
            return True

        written = self._send(key, request, "write", "s3:PutObject")
        if refused and (tries > 1 or was_repeated(refused[0])):
            # An earlier try may have succeeded, and only its response was lost. Then this call wrote the object.
            return self._holds(key, body)
        return written

    def _put_in_parts(self, key: str, data: bytes | bytearray | memoryview, if_absent: bool) -> bool:
        view = memoryview(data)
        # No copy of the whole, unless the bytes are scattered in memory.
        view = view.cast("B") if view.c_contiguous else memoryview(bytes(data))
        # S3 compares only when the upload is complete. If the object exists already, spare sending all of it.
        if if_absent and self.key_exists(key):
            return False
        send = functools.partial(self._send_write, key)
        upload = MultipartUpload(send, self.bucket, key, view, if_absent=if_absent)
        written = upload.run()
        if written is None:
            written = self._holds_parts(key, upload)
            if not written and not if_absent:
                raise lost_upload(f"s3://{self.bucket}/{key}")
        return written

    def _send_write(self, key: str, request: Callable[[Any], Any], permission: str = "s3:PutObject") -> Any:
        return self._send(key, request, "write", permission)

    def _holds_parts(self, key: str, upload: MultipartUpload) -> bool:
        """Tell whether an object has the bytes of an upload. Not more than one part is read at a time."""
        size = sum(len(upload.part(index)) for index in range(len(upload)))
        head = self._send(key, lambda s3: s3.head_object(Bucket=self.bucket, Key=key), "find", "s3:GetObject")
        return bool(head["ContentLength"] == size) and all(
            self.get(key, (index * upload.size, index * upload.size + len(part) - 1)) == part
            for index, part in enumerate(upload.part(index) for index in range(len(upload)))
        )

    def _holds(self, key: str, body: bytes) -> bool:
        try:
            return self.get(key, limit=len(body)) == body
        except IntegrityError:  # the object is larger, so this method did not write it
            return False

    def get(self, key: str, byte_range: tuple[int, int] | None = None, *, limit: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them. See ``Backend.get``."""
        check_range(key, byte_range)

        def read(body: Any) -> bytes:
            data: bytes = body.read() if limit is None else read_at_most(body.read, limit, key)
            return data

        # Read the body inside the retry, because the connection may break in the middle of it.
        request = functools.partial(lean.get_object, bucket=self.bucket, key=key, byte_range=byte_range, read=read)
        return self._send(key, request, "read", "s3:GetObject", _READ_HINT)

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """Return keys in order. See ``Backend.list``."""
        return [key for page in self._pages(prefix, start_after) for key in page.keys]

    def list_timed(
        self, prefix: str, start_after: str = "", *, suffix: str, skip: tuple[str, str] | None = None
    ) -> tuple[Sequence[str], Mapping[str, float]]:
        """Return keys in order, and the times of some. See ``Backend.list_timed``."""
        keys: list[str] = []
        times = {}
        for page in self._pages(prefix, start_after, skip):
            keys += page.keys
            for key, written in zip(page.keys, page.times, strict=True):
                if key.endswith(suffix):  # few of them do: the others' times are not parsed (see _client_of)
                    times[key] = _epoch(written)
        return keys, times

    def _pages(self, prefix: str, start_after: str, skip: tuple[str, str] | None = None) -> Iterator[Page]:
        token = ""
        while True:
            list_page = functools.partial(self._list_page, prefix, start_after, token)
            page = self._send(prefix, list_page, "list", "s3:ListBucket")
            yield page
            if page.next is None:
                return
            token = page.next
            # Only where the keys are in order, as in S3: not every server sorts them.
            if skip and page.keys and skip[0] < page.keys[-1] < skip[1] and [*page.keys] == sorted(page.keys):
                start_after, token = skip[1], ""

    def _list_page(self, prefix: str, start_after: str, token: str, s3: Any) -> Page:
        return lean.list_objects(s3, self.bucket, prefix, start_after=start_after, token=token)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects. See ``Backend.delete``."""
        for batch in _batches(keys, DELETE_BATCH):
            self._send(batch[0], functools.partial(self._delete_batch, batch), "delete", "s3:DeleteObject")

    def _delete_batch(self, batch: Sequence[str], s3: Any) -> None:
        objects = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
        answer = s3.delete_objects(Bucket=self.bucket, Delete=objects)
        for refused in answer.get("Errors", ())[:1]:
            # DeleteObjects answers 200 and lists failures. Raise what a request for only this key would have raised.
            metadata = {**answer.get("ResponseMetadata", {}), "HTTPStatusCode": 0}
            raise s3.exceptions.ClientError({"Error": refused, "ResponseMetadata": metadata}, "DeleteObjects")

    def now(self) -> float:
        """Return the time by S3's clock. See ``Backend.now``."""
        return self._clock.now()

    # -- names of 0.4 --------------------------------------------------------------------------------------

    @property
    def s3_bucket(self) -> str:
        """The bucket's name."""
        return self.bucket

    @property
    def s3client(self) -> Any:
        """botocore's S3 client."""
        return self._client.get()

    def key_exists(self, key: str) -> bool:
        """Tell whether an object exists under a key, without fetching the object."""
        try:
            self._send(key, lambda s3: s3.head_object(Bucket=self.bucket, Key=key), "find", "s3:GetObject", _READ_HINT)
        except StorageNoSuchKeyError:
            return False
        return True

    # -- sending -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections."""
        client = self._client.peek()
        self._client.forget()
        if client is not None:
            client.close()

    def _send(self, key: str, request: Callable[[Any], Answer], verb: str, permission: str, hint: str = "") -> Answer:
        place = f"s3://{self.bucket}/{key}"
        boundary = Boundary(
            doing=f"{verb} {place}",
            refused=StorageError,
            permission=f"{permission} on {place}{hint}",
            profile=self.profile,
            special=functools.partial(_missing_key, key),
        )
        with boundary:
            return self._retry.run(functools.partial(self._try, request))

    def _try(self, request: Callable[[Any], Answer]) -> Answer:
        """Send a request. If its credentials are refused and their source has newer ones, send the request again."""
        client = self._client.get()
        try:
            return request(client)
        except Exception as error:
            if not concerns_credentials(error) or not self._renew(client, error):
                raise
        return request(self._client.get())

    def _renew(self, client: Any, refusal: BaseException) -> bool:
        if self._client.peek() is not client:  # another thread has replaced the client
            return True
        return self._renewals.get().renew(client, refusal)

    def _use(self, session: Any) -> None:
        self._client.put(_client_of(session, self.region, self._clock))

    def _make_client(self) -> Any:
        return _client_of(make_session(self.profile), self.region, self._clock)


_READ_HINT = ", and s3:ListBucket on its bucket; without s3:ListBucket a missing key also looks like this"


def _bucket_of(options: Mapping[str, Any]) -> str:
    bucket = options.get("bucket")
    if not isinstance(bucket, str) or not bucket:
        raise ConfigError("the configuration has no bucket: set `s3: bucket`")
    return bucket


def _epoch(timestamp: str) -> float:
    """Return a time of a listing, such as ``2026-03-01T12:00:00.000Z``, in seconds since the epoch."""
    # Without the fraction: S3 writes zeros there, and not every server writes the same number of digits.
    return datetime.fromisoformat(timestamp[:19]).replace(tzinfo=timezone.utc).timestamp()


def _missing_key(key: str, error: BaseException) -> PywrenError | None:
    return StorageNoSuchKeyError(key) if error_code(error) in ("NoSuchKey", "404") else None


def _batches(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = iter(keys)
    while batch := list(islice(remaining, size)):
        yield batch


def _client_of(session: Any, region: str | None, clock: ServiceClock) -> Any:
    # Most answers are listings. Two thirds of the time for parsing them would go into timestamps that are never read.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=lambda text: text)
    client = make_client(session, "s3", region)
    client.meta.events.register("after-call.s3", clock.note_answer)  # errors have a date too
    lean.when_dated(client, clock.note)
    return client
