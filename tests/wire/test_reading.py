"""Decoding what anyone may have written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from wire_values import CALLSET, SECRET, hostile_bytes

from pywren.exceptions import DecodeError
from pywren.wire.call import Call, Envelope
from pywren.wire.function import StagedFunction
from pywren.wire.outcome import Outcome
from pywren.wire.references import decode_references
from pywren.wire.status import Status

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "call": Call.decode,
    "envelope": Envelope.decode,
    "references": decode_references,
    "staged function": StagedFunction.decode,
    "outcome": Outcome.decode,
    "status": Status.decode,
    "signed status": lambda data: Status.verify(data, SECRET, CALLSET, "00003"),
}


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
@given(data=hostile_bytes)
def test_any_bytes_decode_to_a_value_or_one_error(decode: Callable[[bytes], Any], data: bytes) -> None:
    """Decoding any bytes returns a value or raises ``DecodeError``, and nothing else."""
    try:
        decode(data)
    except DecodeError:
        pass
