"""``MultipartUpload``: stores a big object in S3 in parts, several of them in parallel.

Threads: the parts are sent by ``for_each``, whose threads have ended before the upload is completed or given up. So no
part arrives after the upload was given up, and nothing that is half uploaded stays and costs money.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from pywren.aws.errors import error_code, was_repeated
from pywren.exceptions import PywrenError, StorageError
from pywren.system.threads import for_each

logger = logging.getLogger(__name__)

OBJECT_LIMIT = 5 * 1024**4
"""The most bytes of one object: 5 TiB ("Amazon S3 multipart upload limits", Amazon S3 User Guide)."""

MOST_PARTS = 10_000
"""The most parts of one upload (the same page)."""

MULTIPART_FROM = 64 * 1024**2
"""The bytes from which an object is sent in parts. Below that, three more requests cost more than they save."""

PART_SIZE = 8 * 1024**2
"""The least bytes of a part, except the last one. S3 demands 5 MiB; boto3 uses 8 MiB."""

THREADS = 10
"""How many parts are sent at the same time, as in boto3. Each of them is one copy of a part in memory."""


class Send(Protocol):
    """Sends a request to S3, with patience, and turns errors into pywren's."""

    def __call__(self, request: Callable[[Any], Any], permission: str = "s3:PutObject") -> Any:
        """Call the function with a client, perhaps more than once."""


class MultipartUpload:
    """Stores one object.

    Args:
        send: sends a request.
        bucket: the bucket.
        key: the object's key.
        data: the object's bytes.
        if_absent: if the object exists when the upload is complete, leave it as it is.
        part_size: the least bytes of a part.
    """

    def __init__(
        self,
        send: Send,
        bucket: str,
        key: str,
        data: memoryview,
        *,
        if_absent: bool,
        part_size: int = PART_SIZE,
    ) -> None:
        self._send = send
        self._place = {"Bucket": bucket, "Key": key}
        self._data = data
        self._condition = {"IfNoneMatch": "*"} if if_absent else {}
        self.size = max(part_size, -(-len(data) // MOST_PARTS))
        self._tags = [""] * -(-len(data) // self.size)

    def run(self) -> bool | None:
        """Store the object.

        Returns:
            Whether it was written; ``None`` if an answer was lost, and the object may or may not be this one.
        """
        upload = self._send(lambda s3: s3.create_multipart_upload(**self._place))["UploadId"]
        try:
            for_each(lambda index: self._send_part(upload, index), range(len(self._tags)), THREADS)
            done = self._complete(upload)
        except BaseException:  # Ctrl-C too: S3 keeps the parts, and they cost money, until somebody removes them
            self._give_up(upload)
            raise
        if done is False:
            self._give_up(upload)
        return done

    def part(self, index: int) -> memoryview:
        """Return the bytes of a part, counted from 0."""
        return self._data[index * self.size : (index + 1) * self.size]

    def __len__(self) -> int:
        return len(self._tags)

    def _send_part(self, upload: str, index: int) -> None:
        body = bytes(self.part(index))  # botocore does not accept memory views; this copy lives as long as the request
        answer = self._send(lambda s3: s3.upload_part(**self._place, UploadId=upload, PartNumber=index + 1, Body=body))
        self._tags[index] = answer["ETag"]  # each index belongs to one thread

    def _complete(self, upload: str) -> bool | None:
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(self._tags, 1)]
        tries = 0

        def request(s3: Any) -> bool | None:
            nonlocal tries
            tries += 1
            try:
                s3.complete_multipart_upload(
                    **self._place, **self._condition, UploadId=upload, MultipartUpload={"Parts": parts}
                )
            except s3.exceptions.ClientError as error:
                code, repeated = error_code(error), tries > 1 or was_repeated(error)
                exists = code in ("PreconditionFailed", "412")
                if repeated and (exists or code == "NoSuchUpload"):
                    # An earlier try may have succeeded, and only its response was lost. Then the upload is gone, and
                    # the object is this one.
                    return None
                if exists and self._condition:
                    return False
                raise
            return True

        done: bool | None = self._send(request)
        return done

    def _give_up(self, upload: str) -> None:
        try:
            self._send(lambda s3: s3.abort_multipart_upload(**self._place, UploadId=upload), "s3:AbortMultipartUpload")
        except PywrenError as error:
            # The caller's own error matters more. The rules of a bucket that pywren has made remove the parts after a
            # day.
            logger.warning("parts of an upload of %s may remain in the bucket for a day: %s", self._place["Key"], error)


def lost_upload(place: str) -> StorageError:
    """Return the error for an upload that ended without a trace."""
    return StorageError(
        f"cannot write {place}: S3 did not say whether the upload was completed, and another object is there; try again"
    )
