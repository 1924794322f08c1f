"""``Chunk``: several calls of one callset in the payload of one invocation. ``docs/chunks.md`` says what for.

The payload is that of the first call, with the member ``chunk``: what the calls do not share, and how their worker
reports. A worker that does not know chunks finds a format that it does not read, and refuses the first call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pywren.exceptions import DecodeError
from pywren.wire.call import FORMAT, Call
from pywren.wire.keys import STATUS_SUFFIX, CallKeys, chunk_name
from pywren.wire.reading import Reader
from pywren.wire.references import decode_reference

CHUNK_FORMAT = 1_000 + FORMAT
"""The format of the payloads of chunks. It is far from those of calls, whose numbers go on."""

PAGE_INTERVAL = 1.0
"""Seconds after which a worker writes a page with the outcomes that it has."""

_ITEM = frozenset(
    {
        "call_id",
        "attempt",
        "data_key",
        "data_byte_range",
        "data_inline",
        "data_sha256",
        "data_size",
        "references",
        "references_sha256",
        "references_size",
        "runtime_url",
    }
)
"""The members of a call's payload that the calls of a chunk do not share."""


def chunk_payload(
    shared: Mapping[str, Any],
    items: Iterable[Mapping[str, Any]],
    key: bytes,
    page_interval: float = PAGE_INTERVAL,
    time_limit: float | None = None,
) -> dict[str, Any]:
    """Return the payload of a chunk, as a dict that JSON can encode.

    Args:
        shared: the payload of the first call, or what is left of it without its own members.
        items: the payloads of all calls, in the order in which they run. Members that are not their own are ignored.
        key: see ``Chunk``.
        page_interval: see ``Chunk``.
        time_limit: see ``Chunk``.
    """
    listed = [_own_members(item) for item in items]
    chunk: dict[str, Any] = {"key": key.hex(), "page_interval": page_interval, "items": listed}
    if time_limit is not None:
        chunk["time_limit"] = time_limit
    payload = {**shared, "call_id": listed[0]["call_id"], "format": CHUNK_FORMAT, "chunk": chunk}
    # The argument of the first call is among the items; its key of an attempt would sign nothing.
    for name in ("data_inline", "references", "attempt_key"):
        payload.pop(name, None)
    return payload


def calls_of(payload: Mapping[str, Any]) -> list[str]:
    """Return the ids of the calls in a payload that this client has made: of one call, or of a chunk."""
    if payload.get("format") != CHUNK_FORMAT:
        return [str(payload["call_id"])]
    return [str(item["call_id"]) for item in payload["chunk"]["items"]]


def _own_members(item: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in item.items() if name in _ITEM and value is not None}
    if "data_inline" in own:
        own.pop("data_key", None)  # names no object then
    return own


@dataclass(frozen=True)
class Chunk:
    """Several calls that a worker runs one after the other.

    Args:
        calls: the calls, at least one, in the order in which they run.
        key: signs the pages of the journal.
        page_interval: seconds after which outcomes are written. With 0, no call starts before the outcome of the one
            before is written.
        time_limit: seconds after which no more calls start; ``None`` for no limit.
    """

    calls: tuple[Call, ...]
    key: bytes = field(repr=False)
    page_interval: float = PAGE_INTERVAL
    time_limit: float | None = None

    @property
    def name(self) -> str:
        """The name of the chunk, in the keys of its journal."""
        return chunk_name(self.calls[0].call_id, self.calls[0].attempt)

    @property
    def callset_id(self) -> str:
        """The callset of the calls."""
        return self.calls[0].callset_id

    def encode(self) -> dict[str, Any]:
        """Return the payload."""
        payloads = [call.encode() for call in self.calls]
        return chunk_payload(payloads[0], payloads, self.key, self.page_interval, self.time_limit)

    @classmethod
    def of(cls, first: Call) -> Chunk:
        """Return the chunk in a payload that was read as that of its first call.

        Args:
            first: what ``Call.decode`` has made of the payload; its format is ``CHUNK_FORMAT``.

        Raises:
            DecodeError: it is not the payload of a chunk.
        """
        reader = Reader("the chunk", Reader("the payload", first.extra).take("chunk", dict))
        key = reader.take_hex("key")
        if key is None:
            raise DecodeError("the chunk has no 'key'")
        end = f"{first.call_id}/{STATUS_SUFFIX}"
        if not first.status_key.endswith(end):
            raise DecodeError(f"the chunk: the status of call {first.call_id} is not at the end of 'status_key'")
        shared = replace(
            first,
            format=FORMAT,
            data_byte_range=None,
            data_sha256=None,
            data_size=None,
            references_sha256=None,
            references_size=None,
            extra={name: value for name, value in first.extra.items() if name != "chunk"},
        )
        root = first.status_key.removesuffix(end)
        calls = tuple(_call(shared, root, item) for item in reader.take("items", list))
        if not calls or len({call.call_id for call in calls}) < len(calls):
            raise DecodeError("the chunk has no calls, or a call twice")
        interval, limit = reader.take_number("page_interval", PAGE_INTERVAL), reader.rest.get("time_limit")
        return cls(calls, key, interval, None if limit is None else reader.take_number("time_limit"))


def _call(shared: Call, root: str, item: Any) -> Call:
    if not isinstance(item, Mapping):
        raise DecodeError(f"the chunk: an item is a {type(item).__name__}")
    reader = Reader("an item of the chunk", item)
    call_id = reader.take("call_id", str)
    keys = CallKeys(f"{root}{call_id}/")
    own = {
        "attempt": reader.take_attempt(),
        "data_key": reader.take("data_key", str, keys.data),
        "data_byte_range": reader.take_range("data_byte_range"),
        "data_inline": reader.take_bytes("data_inline"),
        "data_sha256": reader.take("data_sha256", str, None),
        "data_size": reader.take_size("data_size"),
        "references": tuple(decode_reference(one) for one in reader.take("references", list, [])),
        "references_sha256": reader.take("references_sha256", str, None),
        "references_size": reader.take_size("references_size"),
        "runtime_url": reader.take("runtime_url", str, shared.runtime_url),
    }
    return shared.sibling(call_id, keys, own)
