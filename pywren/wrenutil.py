"""Small helpers over the standard library that any layer may use.

The names without an underscore are those of PyWren 0.4.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from pywren.exceptions import ArgumentError


def uuid_str() -> str:
    """Return a fresh random UUID as text."""
    return str(uuid.uuid4())


def create_callset_id() -> str:
    """Return the id of a new callset: a random UUID."""
    return uuid_str()


def create_call_id(index: int) -> str:
    """Return the id of the call at this index of its map: five digits or more."""
    return f"{index:05d}"


def bytes_to_b64str(data: bytes) -> str:
    """Return bytes as base64 text (RFC 4648, with padding)."""
    return base64.b64encode(data).decode("ascii")


def b64str_to_bytes(text: str) -> bytes:
    """Return the bytes that base64 text stands for.

    Raises:
        ArgumentError: the text is not base64.
    """
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ArgumentError(f"not base64 text: {error}") from error


def split_s3_url(url: str) -> tuple[str, str]:
    """Split ``s3://bucket/key`` into bucket and key.

    Raises:
        ArgumentError: the text is not such a URL; it is a ``ValueError``.
    """
    parts = urlsplit(url)
    key = parts.path.lstrip("/")
    if parts.scheme != "s3" or not parts.netloc or not key:
        raise ArgumentError(f"the S3 URL {url!r} is not valid; write it as s3://bucket/key")
    return parts.netloc, key
