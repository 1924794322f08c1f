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
_UNUSUAL = (b"<!", b"&#")  # comments, CDATA sections, character references


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
    truncated = _TRUNCATED.findall(body)
    if len(truncated) != 1 or _ENCODED not in body or any(mark in body for mark in _UNUSUAL):
        return None
    keys, times = _KEY.findall(body), _TIME.findall(body)
    if not len(keys) == len(times) == body.count(_OBJECT):
        return None
    following = _NEXT.findall(body) if truncated == [b"true"] else []
    if len(following) != (truncated == [b"true"]) or any(b"&" in token for token in following):
        return None
    try:
        return Page(_decoded(keys), [time.decode("ascii") for time in times], _text(following))
    except UnicodeDecodeError:
        return None


def _decoded(keys: Sequence[bytes]) -> list[str]:
    # One look at all keys together spares a thousand small ones: pywren's own keys need no decoding.
    texts = [key.decode("ascii") for key in keys]
    together = "".join(texts)
    return [unquote_plus(text) for text in texts] if "%" in together or "+" in together else texts


def _text(tokens: Sequence[bytes]) -> str | None:
    return tokens[0].decode("ascii") if tokens else None


def page_of(answer: Mapping[str, Any]) -> Page:
    """Return the page in botocore's answer to ListObjectsV2."""
    items = answer.get("Contents", ())
    following = answer["NextContinuationToken"] if answer.get("IsTruncated") else None
    return Page([item["Key"] for item in items], [item.get("LastModified", "") for item in items], following)
