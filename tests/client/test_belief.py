"""What the client believes about one call, given its status and Lambda's records."""

from __future__ import annotations

import dataclasses
import json
from unittest.mock import Mock

import pytest

from pywren.client.belief import weigh
from pywren.client.callset import Callset
from pywren.client.failure_records import FailureRecords
from pywren.exceptions import IntegrityError, WorkerCrashedError
from pywren.wire.failure import Failure
from pywren.wire.status import Status

CALLSET = Callset("jobs", secret=b"s" * 32)
OTHER = Callset("jobs", secret=b"o" * 32)
VALUE = Status(CALLSET.id, "00000", outcome=b"{}\n")
ERROR = Status(CALLSET.id, "00000", failure=Failure("CallLostError", "lost"))
SIGNED = CALLSET.attempt_key("00000", 1)

READ = {
    "nothing": None,
    "a signed value": VALUE.encode(SIGNED),
    "a signed error": ERROR.encode(SIGNED),
    "an unsigned value": VALUE.encode(None),
    "an unsigned error": ERROR.encode(None),
    "a value signed with another key": VALUE.encode(OTHER.attempt_key("00000", 1)),
    "a value signed with the key of another attempt": VALUE.encode(CALLSET.attempt_key("00000", 2)),
    "a value of the second attempt": dataclasses.replace(VALUE, attempt=2).encode(CALLSET.attempt_key("00000", 2)),
    "another call's value": dataclasses.replace(VALUE, call_id="00001").encode(CALLSET.attempt_key("00001", 1)),
    "garbage": b"\x80garbage",
    "something too big": IntegrityError("too big"),
}
SIGNED_VALUES = {"a signed value", "a signed error", "a value of the second attempt"}


def records_with(payload):
    """Return a function's records, one of which contains this payload; ``None`` stands for no record."""
    storage = Mock()
    storage.backend.list.return_value = [] if payload is None else ["a record"]
    storage.get.return_value = json.dumps({"requestPayload": payload}).encode()
    records = FailureRecords(storage, "f", CALLSET.id, 0.0)
    records.refresh(10.0)
    return records


def place_of(found):
    """Return what ``weigh`` decided about the call."""
    (place,) = [name for name in ("believed", "failed", "unbelieved", "dead", "missing") if getattr(found, name)]
    return place


def decide(read, payload=None):
    """Weigh what was read about the call."""
    return weigh(CALLSET, {"00000": READ[read]}, records_with(payload))


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("payload", [None, {}, {"attempt_key": OTHER.attempt_key("00000", 1).hex()}])
def test_without_a_record_of_the_call(read, payload):
    """A signed status is believed, an unsigned error counts as an error, and any other status is ignored."""
    expected = "believed" if read in SIGNED_VALUES else "unbelieved"
    expected = {"nothing": "missing", "an unsigned error": "failed"}.get(read, expected)
    assert place_of(decide(read, payload)) == expected
    assert place_of(weigh(CALLSET, {"00000": READ[read]}, None)) == expected


@pytest.mark.parametrize("read", READ)
def test_with_a_record_that_shows_the_key(read):
    """The call is dead whatever its status says, unless another attempt has signed it."""
    found = decide(read, {"attempt_key": SIGNED.hex()})
    if read == "a value of the second attempt":
        assert place_of(found) == "believed"
    else:
        assert place_of(found) == "dead"
        assert found.dead["00000"].over_what_stands
        assert isinstance(found.dead["00000"].error, WorkerCrashedError)


@pytest.mark.parametrize("read", READ)
def test_with_a_record_that_names_the_call_only(read):
    """A signed status is still believed. Otherwise the call is dead, and only an ignored status is replaced."""
    found = decide(read, {"callset_id": CALLSET.id, "call_id": "00000"})
    assert place_of(found) == ("believed" if read in SIGNED_VALUES else "dead")
    if found.dead:
        assert found.dead["00000"].over_what_stands == (read != "nothing")


def test_each_call_by_itself():
    """One map has calls with every kind of status and record."""
    read = {f"{number:05d}": data for number, data in enumerate(READ.values())}
    found = weigh(CALLSET, read, records_with({"calls": [{"attempt_key": SIGNED.hex()}]}))
    placed = [*found.believed, *found.failed, *found.unbelieved, *found.dead, *found.missing]
    assert sorted(placed) == sorted(read)
    assert list(found.dead) == ["00000"]
