"""The differences between SeaweedFS and S3 that the gateway corrects.

SeaweedFS mistakes some unknown requests for known ones: ``DELETE /bucket?website`` deletes the bucket. It lists only
the caller's own buckets, but cannot identify callers here. It has no regions. It decodes ``aws-chunked`` bodies only
when it verifies signatures, which is turned off here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timezone
from xml.sax.saxutils import escape

from aiohttp import StreamReader
from multidict import CIMultiDict

MISTAKEN = frozenset(
    {
        "DeleteBucketAnalyticsConfiguration",
        "DeleteBucketIntelligentTieringConfiguration",
        "DeleteBucketInventoryConfiguration",
        "DeleteBucketMetadataConfiguration",
        "DeleteBucketMetadataTableConfiguration",
        "DeleteBucketMetricsConfiguration",
        "DeleteBucketReplication",
        "DeleteBucketWebsite",
        "DeleteObjectAnnotation",
        "GetObjectAnnotation",
        "GetObjectTorrent",
        "ListObjectAnnotations",
        "PutBucketAbac",
        "PutBucketAccelerateConfiguration",
        "PutBucketAnalyticsConfiguration",
        "PutBucketIntelligentTieringConfiguration",
        "PutBucketInventoryConfiguration",
        "PutBucketLogging",
        "PutBucketMetricsConfiguration",
        "PutBucketNotificationConfiguration",
        "PutBucketReplication",
        "PutBucketWebsite",
        "UpdateBucketMetadataAnnotationTableConfiguration",
        "UpdateBucketMetadataInventoryTableConfiguration",
        "UpdateBucketMetadataJournalTableConfiguration",
        "UpdateObjectEncryption",
    }
)
"""Operations that SeaweedFS mistakes for others: creating or deleting a bucket, or reading or writing an object."""

_PIECE = 64 * 1024
_DOCUMENT = '<?xml version="1.0" encoding="UTF-8"?>\n<{0} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{1}</{0}>'


class Buckets:
    """The buckets that were created through the gateway, and their regions."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[str, str]] = {}

    def note(self, operation: str, bucket: str, region: str) -> None:
        """Record the effect of a successful operation."""
        if operation == "CreateBucket":
            now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            self._made.setdefault(bucket, (region, now))
        elif operation == "DeleteBucket":
            self._made.pop(bucket, None)

    def region(self, bucket: str) -> str:
        """Return the region of a bucket; ``""`` if the bucket does not exist."""
        return self._made.get(bucket, ("", ""))[0]

    def answer(self, operation: str, arguments: Mapping[str, str]) -> bytes | None:
        """Return the body of an answer that SeaweedFS cannot give; ``None`` if SeaweedFS is to answer.

        Args:
            operation: the operation.
            arguments: the arguments in the path and the query.
        """
        if operation == "ListBuckets":
            return self._listing(arguments.get("prefix", ""))
        if operation == "GetBucketLocation" and arguments["Bucket"] in self._made:
            region = self.region(arguments["Bucket"])
            # an empty location means us-east-1
            return _DOCUMENT.format("LocationConstraint", "" if region == "us-east-1" else escape(region)).encode()
        return None

    def _listing(self, prefix: str) -> bytes:
        buckets = "".join(
            f"<Bucket><Name>{escape(name)}</Name><CreationDate>{made}</CreationDate></Bucket>"
            for name, (_, made) in sorted(self._made.items())
            if name.startswith(prefix)
        )
        owner = "<Owner><ID>emulator</ID></Owner>"
        return _DOCUMENT.format("ListAllMyBucketsResult", f"{owner}<Buckets>{buckets}</Buckets>").encode()


def is_aws_chunked(headers: Mapping[str, str]) -> bool:
    """Tell whether a body has S3's own framing, which adds signatures or a checksum to the data."""
    return headers.get("X-Amz-Content-Sha256", "").startswith("STREAMING-")


def without_framing(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """Return the headers for the same request with a plain body."""
    plain = CIMultiDict(headers)
    plain["X-Amz-Content-Sha256"] = "UNSIGNED-PAYLOAD"
    plain["Content-Length"] = plain.pop("X-Amz-Decoded-Content-Length")
    plain.popall("X-Amz-Trailer", None)
    encodings = [each.strip() for each in plain.popall("Content-Encoding", [""])[0].split(",")]
    others = ", ".join(each for each in encodings if each and each != "aws-chunked")
    if others:
        plain["Content-Encoding"] = others
    return plain


async def read_frames(content: StreamReader) -> AsyncIterator[bytes]:
    """Yield the data of an ``aws-chunked`` body, without its signatures and its trailing checksum.

    Raises:
        ConnectionResetError: the framing is not valid, or the body is not complete.
    """
    held = b""  # hold back the last piece until the end is seen, so that a server never accepts a truncated body
    while True:
        head = await content.readline()
        try:
            left = int(head.partition(b";")[0], 16)
        except ValueError as error:
            raise ConnectionResetError("the framing of an aws-chunked body is broken") from error
        if not left:
            break
        while left:
            piece = await content.read(min(left, _PIECE))
            if not piece:
                raise ConnectionResetError("an aws-chunked body was cut off inside a chunk")
            left -= len(piece)
            if held:
                yield held
            held = piece
        await content.readline()
    while not content.at_eof():
        await content.readany()
    if held:
        yield held
