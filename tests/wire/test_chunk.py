"""``Chunk``: the payload of several calls."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_values import CALLSET, json_values

from pywren.exceptions import DecodeError
from pywren.wire.call import FORMAT, Call, Envelope
from pywren.wire.chunk import CHUNK_FORMAT, Chunk
from pywren.wire.keys import CallsetKeys
from pywren.wire.references import Reference

KEY = bytes(range(32))
KEYS = CallsetKeys("jobs", CALLSET)


def call(index: int, **changes: Any) -> Call:
    """Return a call as ``map`` stages it, whose argument is in the payload."""
    call_id = f"{index:05d}"
    keys = KEYS.call(call_id)
    made = Call(
        storage_config={"storage_backend": "s3"},
        callset_id=CALLSET,
        call_id=call_id,
        func_key=KEYS.func,
        data_key=keys.data,
        output_key=keys.output,
        status_key=keys.status,
        cancel_key=keys.cancel,
        job_max_runtime=280,
        func_sha256="f" * 64,
        data_inline=b"argument %d" % index,
        retryable=True,
        extra={"batch": 7},
    )
    return replace(made, **changes)


def sent(chunk: Chunk) -> dict[str, Any]:
    """Return the payload as Lambda delivers it."""
    delivered: dict[str, Any] = json.loads(json.dumps(chunk.encode()))
    return delivered


CHUNK = Chunk((call(3, attempt=2), call(4), call(5)), KEY, 0.5, 7.5)


def test_a_chunk_survives_its_encoding() -> None:
    """Every call arrives as it would alone, but without a key of its own."""
    calls = (
        call(0, attempt_key=b"k" * 32),
        call(1, data_inline=None, data_key=KEYS.aggdata, data_byte_range=(3, 9), data_sha256="a" * 64, data_size=7),
        call(2, references=(Reference("key", "b" * 64, "earlier", "00000", 5),), attempt=4),
        call(3, references_sha256="c" * 64, references_size=99, data_inline=None),
    )
    read = Chunk.of(Call.decode(sent(Chunk(calls, KEY, 0.0, 3.0))))
    assert read == Chunk(tuple(replace(one, attempt_key=None) for one in calls), KEY, 0.0, 3.0)


def test_a_chunk_is_named_after_its_first_call() -> None:
    """The name is in the keys of its journal."""
    assert CHUNK.name == "00003.2"
    assert KEYS.parse_page(KEYS.page(CHUNK.name, 12)) == ("00003.2", 12)


def test_what_calls_share_is_there_once() -> None:
    """A thousand small calls fit into the payload of an asynchronous invocation."""
    chunk = Chunk(tuple(call(index) for index in range(1_000)), KEY)
    assert len(json.dumps(chunk.encode(), separators=(",", ":"))) < 100_000


def test_a_worker_that_knows_no_chunks_reads_the_first_call() -> None:
    """It finds a format that it does not know, and where to refuse the call."""
    envelope = Envelope.decode(sent(CHUNK))
    assert envelope.format == CHUNK_FORMAT != FORMAT
    assert envelope.status_key == KEYS.call("00003").status
    assert envelope.attempt == 2


def test_the_key_is_not_shown() -> None:
    """Log lines show objects."""
    assert KEY.hex() not in repr(CHUNK)
    assert repr(KEY) not in repr(CHUNK)


def broken(**changes: Any) -> Call:
    payload = sent(CHUNK)
    payload["chunk"].update(changes)
    return Call.decode(payload)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": None},
        {"key": "no"},
        {"items": None},
        {"items": []},
        {"items": [7]},
        {"items": [{}]},
        {"items": [{"call_id": "00001"}, {"call_id": "00001"}]},
        {"items": [{"call_id": "00001", "attempt": 0}]},
        {"items": [{"call_id": "00001", "data_inline": "?"}]},
        {"items": [{"call_id": "00001", "references": [7]}]},
        {"page_interval": "often"},
        {"time_limit": "long"},
    ],
    ids=str,
)
def test_what_is_no_chunk_is_refused(changes: dict[str, Any]) -> None:
    """The payload may come from another version."""
    with pytest.raises(DecodeError):
        Chunk.of(broken(**changes))


def test_a_call_is_no_chunk() -> None:
    """Not even with the format of a chunk, or with a status elsewhere."""
    with pytest.raises(DecodeError, match="chunk"):
        Chunk.of(call(1))
    with pytest.raises(DecodeError, match="status"):
        Chunk.of(replace(broken(), status_key="elsewhere"))


@given(content=json_values, items=st.lists(json_values, max_size=3))
def test_only_decode_errors(content: Any, items: list[Any]) -> None:
    """Whatever the member ``chunk`` is."""
    payload = json.loads(json.dumps({**sent(CHUNK), "chunk": content}))
    for one in (payload, {**payload, "chunk": {"key": "ab", "items": items}}):
        try:
            Chunk.of(Call.decode(one))
        except DecodeError:
            pass
