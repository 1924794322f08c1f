"""``Page``: one page of a listing by S3, read from its XML without making an object of every element.

botocore makes a dict of strings for each of the 1,000 objects of a page, which takes sixty times as long as the request
itself. pywren needs the keys and the times alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_plus


class Page(NamedTuple):
    """One page of a listing.

    Args:
        keys: the keys of the objects, in the order of the service.
        times: when the objects were last written, such as ``2026-03-01T12:00:00.000Z``; as many as keys.
        next: the token that requests the next page; ``None`` if this is the last one.
    """

    keys: Sequence[str]
    times: Sequence[str]
    next: str | None


_KEY = re.compile(rb"<Key>([^<]*)</Key>")
_TIME = re.compile(rb"<LastModified>([^<]*)</LastModified>")
_TRUNCATED = re.compile(rb"<IsTruncated>(true|false)</IsTruncated>")
_NEXT = re.compile(rb"<NextContinuationToken>([^<]+)</NextContinuationToken>")
_ROOT = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<ListBucketResult[\s>]")
_OBJECT = b"<Contents>"
_ENCODED = b"<EncodingType>url</EncodingType>"


def scan_page(body: bytes) -> Page | None:
    """Return the page in an answer to ListObjectsV2.

    In well-formed XML, text contains no ``<``. So a tag that is found is a tag, and no key can pretend to be one.

    Args:
        body: the answer, whose keys were requested in URL encoding.

    Returns:
        The page; ``None`` if the answer does not have the form of S3's, so that an XML parser must read it.
    """
    if not _ROOT.match(body) or not body.rstrip().endswith(b"</ListBucketResult>"):
        return None
    if _ENCODED not in body or b"<!" in body:  # a comment or a CDATA section could contain anything
        return None
    truncated, keys, times = _TRUNCATED.findall(body), _KEY.findall(body), _TIME.findall(body)
    following = _NEXT.findall(body) if truncated == [b"true"] else []
    if len(truncated) != 1 or len(following) != truncated.count(b"true"):
        return None
    if not len(keys) == len(times) == body.count(_OBJECT):
        return None
    text = b"".join((*keys, *times, *following))
    if b"&" in text or not text.isascii():  # in URL encoding there are neither entities nor other characters
        return None
    names = [key.decode() for key in keys]
    if b"%" in text or b"+" in text:  # pywren's own keys need no decoding
        names = [unquote_plus(name) for name in names]
    return Page(names, [time.decode() for time in times], following[0].decode() if following else None)


def page_of(answer: Mapping[str, Any]) -> Page:
    """Return the page in botocore's answer to ListObjectsV2."""
    items = answer.get("Contents", ())
    following = answer["NextContinuationToken"] if answer.get("IsTruncated") else None
    return Page([item["Key"] for item in items], [item.get("LastModified", "") for item in items], following)
