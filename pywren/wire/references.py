"""``Reference``: an argument of a call that refers to the outcome of an earlier call."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pywren.exceptions import DecodeError
from pywren.wire.reading import load_json

INLINE_REFERENCES = 200
"""The most references that are sent inside the payload. A longer list is stored as a separate object."""


@dataclass(frozen=True)
class Reference:
    """The outcome of an earlier call whose future is among the arguments. The handler fetches and verifies it.

    Args:
        key: the object that contains the encoded outcome: an output, or a status with the outcome inside.
        sha256: the digest of the encoded outcome, which the client has verified.
        callset_id: the callset of the earlier call.
        call_id: the earlier call.
        size: the length of the encoded outcome in bytes, which limits what is read; ``None`` if it is unknown.
    """

    key: str
    sha256: str
    callset_id: str
    call_id: str
    size: int | None = None


def encode_references(references: Iterable[Reference]) -> bytes:
    """Encode references as a separate object, which is used if there are too many for the payload."""
    return json.dumps(reference_lists(references)).encode()


def decode_references(data: bytes) -> tuple[Reference, ...]:
    """Decode what ``encode_references`` returned.

    Raises:
        DecodeError: the bytes are not a list of references.
    """
    items = load_json(data, "the list of references")
    if not isinstance(items, list):
        raise DecodeError("the list of references is not a JSON array")
    return tuple(decode_reference(item) for item in items)


def reference_lists(references: Iterable[Reference]) -> list[list[Any]]:
    """Return references in a form that JSON can encode."""
    return [[r.key, r.sha256, r.callset_id, r.call_id, *([] if r.size is None else [r.size])] for r in references]


def decode_reference(item: Any) -> Reference:
    """Decode one item of what ``reference_lists`` returned.

    Raises:
        DecodeError: the item is not a reference.
    """
    if not (isinstance(item, list) and len(item) in (4, 5) and all(isinstance(part, str) for part in item[:4])):
        raise DecodeError("a reference is not four strings and a size")
    if item[4:] and not (type(item[4]) is int and item[4] >= 0):
        raise DecodeError("the size of a reference is not a number of bytes")
    return Reference(*item)
