"""``Status``: how a call ended, and who says so."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_values import CALLSET, SECRET, golden, json_values, statuses

from pywren.exceptions import WORKER_ERRORS, DecodeError, PywrenError
from pywren.wire.digests import attempt_key
from pywren.wire.failure import Failure
from pywren.wire.status import Status

STATUS: dict[str, Any] = json.loads(golden("status_0.4.json"))


@pytest.mark.parametrize(
    "name", [*sorted(STATUS), "attempt", "failure", "cause", "outcome", "output_sha256", "output_size", "signature"]
)
@given(value=json_values)
def test_any_value_of_a_status_field_decodes_or_is_named(name: str, value: Any) -> None:
    """A status with anything in one field decodes or raises an error, and its failure can always be raised."""
    data = json.dumps({**STATUS, name: value}).encode()
    try:
        status = Status.decode(data)
    except DecodeError:
        return
    assert not status.signed
    assert not Status.verify(data, SECRET, status.callset_id, status.call_id).signed
    if status.failure is not None:
        error = status.failure.error(status.callset_id, status.call_id, status.document())
        assert isinstance(error, PywrenError)
        assert isinstance(str(error), str)


@pytest.mark.parametrize("cause", ["struck by lightning", "", None, 7, ["killed"], {}])
def test_a_cause_that_is_not_known(cause: Any) -> None:
    """A newer worker may know more causes, and older workers know none."""
    status = Status.decode(json.dumps({**STATUS, "failure": ["CallError", "x"], "cause": cause}).encode())
    assert status.failure == Failure("CallError", "x")


# -- round trips --------------------------------------------------------------------------------------------


def signed(status: Status, secret: bytes = SECRET) -> bytes:
    """Encode a status as the worker of its attempt does."""
    return status.encode(attempt_key(secret, status.call_id, status.attempt))


def verified(data: bytes, status: Status) -> Status:
    """Verify bytes as the client that waits for the call does."""
    return Status.verify(data, SECRET, status.callset_id, status.call_id)


@given(status=statuses)
def test_a_status_survives_its_encoding(status: Status) -> None:
    """A status comes back unchanged, and tells whether the worker of its own attempt signed it."""
    assert Status.decode(status.encode(None)) == status
    assert verified(status.encode(None), status) == status
    assert verified(signed(status), status) == dataclasses.replace(status, signed=True)
    assert verified(signed(status, b"another secret"), status) == status


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (b"bytes", "b'bytes'"),
        ({1: [2, (3,)]}, {"1": [2, [3]]}),
        ("\ud800", "?"),
        (ValueError("x"), "ValueError('x')"),
    ],
)
def test_whatever_stands_in_a_status_it_can_be_written(value: Any, shown: Any) -> None:
    """A worker can always report how a call ended: what JSON cannot hold becomes text."""
    status = Status(CALLSET, "00003", info={"odd": value}, failure=Failure("CallError", "x", (value,)))
    again = Status.decode(status.encode(None))
    assert again.info == {"odd": shown}
    assert again.failure is not None
    assert again.failure.details == (shown,)


def test_info_cannot_shadow_what_the_status_says() -> None:
    """A key in ``info`` that is also a field of the status is left out."""
    status = Status(CALLSET, "00003", outcome=b"value", info={"call_id": "00009", "outcome": "AAAA", "attempt": 7})
    assert Status.decode(status.encode(None)) == dataclasses.replace(status, info={})


@pytest.mark.parametrize("name", sorted(WORKER_ERRORS))
def test_an_error_survives_the_status(name: str) -> None:
    """Each error that a worker may report is raised in the client with its type, text and further arguments."""
    failure = Failure(name, "what happened", (3,))
    again = Status.decode(Status(CALLSET, "00001", failure=failure).encode(None)).failure
    assert again is not None
    error: Any = again.error(CALLSET, "00001", {"retcode": 3})
    assert type(error) is WORKER_ERRORS[name]
    assert error.args == ("what happened", 3)
    assert (error.callset_id, error.call_id, error.status) == (CALLSET, "00001", {"retcode": 3})


# -- signatures ---------------------------------------------------------------------------------------------

SIGNED = Status(
    CALLSET, "00003", info={"stdout": 'x","signature":"' + "0" * 64 + '"}', "start_time": 1.5}, outcome=b"value"
)


def test_a_flipped_bit_anywhere_is_not_signed() -> None:
    """A signed status with any bit flipped is no longer JSON, or no longer signed."""
    data = signed(SIGNED)
    assert verified(data, SIGNED).signed
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1
        try:
            assert not verified(bytes(altered), SIGNED).signed, place
        except DecodeError:
            pass


@given(status=statuses, place=st.integers(0), mask=st.integers(1, 255))
def test_a_changed_byte_is_not_signed(status: Status, place: int, mask: int) -> None:
    """No status stays signed if one of its bytes changes."""
    data = bytearray(signed(status))
    data[place % len(data)] ^= mask
    try:
        assert not verified(bytes(data), status).signed
    except DecodeError:
        pass


@pytest.mark.parametrize("tail", [b" ", b"\n", b"\0"])
def test_what_stands_behind_a_signature_breaks_it(tail: bytes) -> None:
    """The signature covers the whole: nothing can be appended."""
    try:
        assert not verified(signed(SIGNED) + tail, SIGNED).signed
    except DecodeError:
        pass


@pytest.mark.parametrize("changes", [{"call_id": "00004"}, {"attempt": 2}, {"callset_id": "another"}])
def test_a_signature_belongs_to_one_attempt_of_one_call(changes: dict[str, Any]) -> None:
    """The genuine signature of another call, attempt or callset does not hold on these bytes."""
    other = dataclasses.replace(SIGNED, **changes)
    genuine = signed(other, b"that callset's own secret" if "callset_id" in changes else SECRET)
    forged = SIGNED.encode(None)[:-1] + genuine[genuine.rindex(b',"signature"') :]
    assert not verified(forged, SIGNED).signed


def test_a_status_moved_to_another_call_is_not_believed() -> None:
    """A signed status that is copied under another call's key names the wrong call."""
    assert not Status.verify(signed(SIGNED), SECRET, CALLSET, "00004").signed
    assert not Status.verify(signed(SIGNED), SECRET, "another", "00003").signed


def test_a_status_without_a_key_is_unsigned_plain_json() -> None:
    """A worker that could not decode its payload, and 0.4's tools, write a status that is only JSON."""
    document = json.loads(SIGNED.encode(None))
    assert "signature" not in document
    assert document["call_id"] == "00003"


# -- earlier releases ---------------------------------------------------------------------------------------


def test_a_status_of_0_4_decodes() -> None:
    """A 0.4 status is read as unsigned: it can be shown, and can only become an error."""
    status = Status.verify(golden("status_0.4.json"), SECRET, CALLSET, "00003")
    assert (status.callset_id, status.call_id, status.signed) == (CALLSET, "00003", False)
    assert status.output_key == STATUS["output_key"]
    assert status.info["log_group_name"] == "/aws/lambda/pywren_1"
    shown = status.document()
    assert shown.keys() >= STATUS.keys()


def test_a_failed_status_of_0_4_decodes() -> None:
    """0.4's texts and lists are no failure of ours: they are not kept, and the traceback is, for people."""
    status = Status.decode(golden("status_failed_0.4.json"))
    assert status.failure is None
    assert "RUNTIME_ERROR" in (status.exception_traceback or "")
    assert status.document()["exception"] is None


def test_a_status_that_1_0_has_stored_stays_readable() -> None:
    """What the first release wrote decodes for ever: never regenerate the file."""
    status = Status.verify(golden("status_1.0.json"), SECRET, CALLSET, "00003")
    assert status.signed
    assert status.failure == Failure("WorkerCrashedError", "non-zero return code", (3,))
    assert status.info == {"stdout": "é\n", "retcode": 3}
