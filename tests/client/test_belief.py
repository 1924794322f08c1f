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
    (place,) = [name for name in ("believed", "failed", "unbelieved", "exposed", "missing") if getattr(found, name)]
    return place


def decide(read, payload=None, attempts=None):
    """Weigh what was read about the call."""
    return weigh(CALLSET, ["00000"], {"00000": READ[read]}, records_with(payload), attempts=attempts)


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("payload", [None, {}, {"attempt_key": OTHER.attempt_key("00000", 1).hex()}])
def test_without_a_record_of_the_call(read, payload):
    """A signed status is believed, an unsigned error counts as an error, and any other status is ignored."""
    expected = "believed" if read in SIGNED_VALUES else "unbelieved"
    expected = {"nothing": "missing", "an unsigned error": "failed"}.get(read, expected)
    assert place_of(decide(read, payload)) == expected
    assert place_of(weigh(CALLSET, ["00000"], {"00000": READ[read]}, None)) == expected


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("read", READ)
def test_with_a_record_that_shows_the_key(read, driven):
    """The attempt is dead whatever its status says. The status of another attempt is believed."""
    found = decide(read, {"attempt_key": SIGNED.hex()}, {"00000": [1]} if driven else None)
    assert list(found.deaths) == ["00000"]
    assert list(found.deaths["00000"]) == [1]
    assert isinstance(found.deaths["00000"][1].error, WorkerCrashedError)
    expected = {"a value of the second attempt": "believed", "nothing": "missing"}
    assert place_of(found) == expected.get(read, "exposed")


@pytest.mark.parametrize("read", READ)
def test_with_a_record_that_names_the_call_only(read):
    """A signed status is still believed. Otherwise the call is dead, and only an ignored status is replaced."""
    found = decide(read, {"callset_id": CALLSET.id, "call_id": "00000"})
    assert list(found.deaths) == ["00000"]
    expected = "believed" if read in SIGNED_VALUES else "exposed"
    assert place_of(found) == ("missing" if read == "nothing" else expected)


@pytest.mark.parametrize("read", READ)
def test_a_record_that_names_a_driven_call_only(read):
    """Anyone can write such a record. It may not have a call repeated that this process drives."""
    payload = {"callset_id": CALLSET.id, "call_id": "00000", "attempt": 1}
    found = decide(read, payload, {"00000": [1]})
    assert found.deaths == {}
    assert place_of(found) == place_of(decide(read))


def test_a_record_of_an_attempt_that_is_not_in_flight():
    """What became of an attempt that has ended before is known already."""
    found = decide("nothing", {"attempt_key": SIGNED.hex()}, {"00000": [2]})
    assert found.deaths == {}


class TestReports:
    """What workers say about attempts that failed and may be repeated."""

    REPORT = dataclasses.replace(ERROR, attempt=2)
    KEY = CALLSET.attempt_key("00000", 2)

    def reported(self, data, number=2, payload=None):
        reports = {("00000", number): data}
        return weigh(
            CALLSET, ["00000"], {}, records_with(payload), reports=reports, attempts={"00000": [number]}
        ).reports

    def test_signed_with_the_key_of_its_attempt(self):
        """It is believed."""
        (report,) = self.reported(self.REPORT.encode(self.KEY)).values()
        assert report.failure == ERROR.failure

    @pytest.mark.parametrize(
        "data",
        [
            None,
            b"garbage",
            IntegrityError("too big"),
            REPORT.encode(None),
            REPORT.encode(SIGNED),
            ERROR.encode(SIGNED),
            dataclasses.replace(REPORT, call_id="00001").encode(KEY),
        ],
        ids=range(7),
    )
    def test_anything_else(self, data):
        """It is ignored: a forged report could have a call repeated."""
        assert self.reported(data) == {}

    def test_whose_key_is_shown(self):
        """A record that shows the key tells already that the attempt has ended; the report proves nothing."""
        assert self.reported(self.REPORT.encode(self.KEY), payload={"attempt_key": self.KEY.hex()}) == {}


def test_each_call_by_itself():
    """One map has calls with every kind of status and record."""
    read = {f"{number:05d}": data for number, data in enumerate(READ.values())}
    found = weigh(CALLSET, list(read), read, records_with({"calls": [{"attempt_key": SIGNED.hex()}]}))
    placed = [*found.believed, *found.failed, *found.unbelieved, *found.exposed, *found.missing]
    assert sorted(placed) == sorted(read)
    assert list(found.deaths) == ["00000"]
