"""``Call`` and ``Envelope``: the payload."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from wire_values import calls, golden, json_values

from pywren.exceptions import DecodeError
from pywren.wire.call import CALL_FIELDS, FORMAT, Call, Envelope
from pywren.wire.references import Reference

PAYLOAD: dict[str, Any] = json.loads(golden("payload_0.4.json"))


@pytest.mark.parametrize("name", sorted(PAYLOAD) + sorted(CALL_FIELDS - PAYLOAD.keys()))
@given(value=json_values)
def test_any_value_of_a_payload_field_decodes_or_is_named(name: str, value: Any) -> None:
    """A payload with anything in one field decodes to a usable call or raises an error."""
    try:
        call = Call.decode({**PAYLOAD, name: value})
    except DecodeError:
        return
    assert math.isfinite(call.job_max_runtime + 1.5)
    assert call.attempt >= 1


@pytest.mark.parametrize("payload", [None, [], [1], "", "text", 5, b"[]", b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_object_is_a_decode_error(payload: Any) -> None:
    """An event that is not a JSON object is refused, like one that lacks a field."""
    with pytest.raises(DecodeError, match="the payload"):
        Call.decode(payload)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("call_id", None),
        ("call_id", 3),
        ("job_max_runtime", True),
        ("job_max_runtime", float("nan")),
        ("job_max_runtime", float("inf")),
        ("job_max_runtime", 10**400),
        ("data_byte_range", [0]),
        ("data_byte_range", [5, 4]),
        ("data_byte_range", [-1, 4]),
        ("data_byte_range", [0, 1.5]),
        ("extra_env", {"A": 1}),
        ("client_process", 5),
        ("attempt", 0),
        ("attempt", -1),
        ("attempt_key", "xyz"),
        ("data_inline", "not base64!"),
        ("data_inline", "é"),
        ("references", [["key", "digest", "callset"]]),
        ("references", [["key", "digest", "callset", 4]]),
        ("references", [["key", "digest", "callset", "call", -1]]),
        ("references", [["key", "digest", "callset", "call", True]]),
        ("references", [["key", "digest", "callset", "call", "4"]]),
        ("references", [["key", "digest", "callset", "call", 4, 5]]),
        ("func_size", -1),
        ("data_size", 1.5),
        ("runtime_size", "12"),
        ("references_size", True),
    ],
)
def test_a_payload_field_that_misfits_is_named(name: str, value: Any) -> None:
    """The error names the wrong field of a payload."""
    with pytest.raises(DecodeError, match=name.rstrip("s")):
        Call.decode({**PAYLOAD, name: value})


@given(call=calls)
def test_a_call_survives_its_encoding(call: Call) -> None:
    """A payload decodes to the call that it was made from, directly and through JSON."""
    payload = call.encode()
    assert Call.decode(payload) == call
    assert Call.decode(json.dumps(payload).encode()) == call
    assert Call.decode(json.dumps(payload)) == call


@given(call=calls)
def test_an_envelope_is_part_of_a_call(call: Call) -> None:
    """The envelope, which every version can read, agrees with the call."""
    envelope = Envelope.decode(call.encode())
    for field in dataclasses.fields(envelope):
        assert getattr(envelope, field.name) == getattr(call, field.name)


def test_a_payload_of_0_4_decodes() -> None:
    """Every key of a 0.4 payload is read, the program's own keys are kept, and new fields have their defaults."""
    call = Call.decode(golden("payload_0.4.json"))
    assert call.extra == {"experiment": "extra_meta travels too"}
    assert call.data_byte_range == (66, 87)
    for name in PAYLOAD.keys() - {"experiment", "data_byte_range"}:
        assert getattr(call, name) == PAYLOAD[name], name
    assert (call.attempt, call.attempt_key, call.references) == (1, None, ())
    assert (call.format, call.retryable, call.retry_exceptions, call.beacon) == (1, False, False, False)


def test_a_payload_is_encoded_with_the_keys_of_0_4() -> None:
    """Code that reads 0.4's payload can read ours: no key is renamed or dropped."""
    payload = json.loads(json.dumps(Call.decode(PAYLOAD).encode()))
    assert {name: payload[name] for name in PAYLOAD} == PAYLOAD


def test_a_payload_names_its_format() -> None:
    """A client's payloads have its own format; those of clients that knew none have the first."""
    made = Call.decode({**PAYLOAD, "format": FORMAT}).encode()
    assert made["format"] == FORMAT > 1
    assert Envelope.decode(made).format == FORMAT
    assert Envelope.decode(PAYLOAD).format == 1


@pytest.mark.parametrize("value", ["3", 2.5, [3], {}, True])
def test_a_format_of_another_kind_is_no_known_format(value: Any) -> None:
    """Formats of the far future may not be numbers. Their envelope can still be read, to say so to the client."""
    assert Envelope.decode({**PAYLOAD, "format": value}).format == 0


def test_extra_env_is_absent_when_not_given() -> None:
    """As in 0.4, a payload without ``extra_env`` has no such key."""
    call = dataclasses.replace(Call.decode(PAYLOAD), extra_env=None)
    assert "extra_env" not in call.encode()


def test_a_payload_of_1_0_stays_readable() -> None:
    """What the first release sent decodes for ever: never regenerate the file."""
    call = Call.decode(golden("payload_1.0.json"))
    assert (call.attempt, call.attempt_key, call.data_inline) == (2, bytes(range(32)), b"argument")
    assert call.references == (Reference("jobs/c/00000/output.pickle", "ab" * 32, "c", "00000"),)
