"""``Beacon``: signs of life of running calls."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from wire_values import CALLSET, SECRET, beacons, hostile_bytes

from pywren.exceptions import DecodeError, IntegrityError
from pywren.wire.beacon import BEACON_LIMIT, Beacon
from pywren.wire.digests import attempt_key
from pywren.wire.signed import sign
from pywren.wire.status import Status

BEACON = Beacon(CALLSET, "00003", 2, 1.5e9, 4, "request", "/aws/lambda/pywren_1", "2026/03/01/[$LATEST]abc")
KEY = attempt_key(SECRET, "00003", 2)


def verify(data: bytes, beacon: Beacon = BEACON) -> Beacon:
    """Read a beacon as the client does."""
    return Beacon.verify(data, SECRET, beacon.callset_id, beacon.call_id, beacon.attempt)


@given(beacon=beacons)
def test_a_beacon_survives_its_encoding(beacon: Beacon) -> None:
    """A beacon comes back unchanged."""
    key = attempt_key(SECRET, beacon.call_id, beacon.attempt)
    assert verify(beacon.encode(key), beacon) == beacon


def test_the_worker_is_a_log_stream_or_a_machine() -> None:
    """``where`` is what people look for."""
    assert BEACON.where == "2026/03/01/[$LATEST]abc"
    assert dataclasses.replace(BEACON, log_stream="", instance="i-0abc").where == "i-0abc"


def test_the_longest_names_fit() -> None:
    """The limit is for what nobody sends on purpose."""
    longest = dataclasses.replace(BEACON, request_id="x" * 64, log_group="x" * 512, log_stream="x" * 512)
    assert len(longest.encode(KEY)) < BEACON_LIMIT


@given(data=hostile_bytes)
def test_what_is_no_beacon_is_refused(data: bytes) -> None:
    """Anyone who can write to the storage may write anything."""
    with pytest.raises(IntegrityError, match="beacon of attempt 2 of call 00003"):
        verify(data)


@pytest.mark.parametrize(
    "wanted",
    [{"callset_id": "other"}, {"call_id": "00004"}, {"attempt": 1}],
    ids=lambda wanted: next(iter(wanted)),
)
def test_a_beacon_of_another_attempt_is_refused(wanted: dict[str, Any]) -> None:
    """A beacon that was copied to the key of another attempt shows nothing."""
    with pytest.raises(IntegrityError):
        verify(BEACON.encode(KEY), dataclasses.replace(BEACON, **wanted))


def test_every_changed_byte_is_noticed() -> None:
    """The signature covers the whole beacon."""
    data = BEACON.encode(KEY)
    for position in range(len(data)):
        with pytest.raises(IntegrityError):
            verify(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])


def test_a_beacon_is_no_status_and_a_status_no_beacon() -> None:
    """Both are signed with the key of the attempt, and neither can be passed off as the other."""
    assert not Status.verify(BEACON.encode(KEY), SECRET, CALLSET, "00003").signed
    with pytest.raises(IntegrityError):
        verify(Status(CALLSET, "00003", 2, outcome=b"x", info={"started_at": 1.0}).encode(KEY))


@pytest.mark.parametrize(
    ("name", "value"),
    [("started_at", "now"), ("started_at", float("nan")), ("renewed", 1.5), ("log_stream", 7), ("attempt", 0)],
)
def test_a_wrong_field_is_named(name: str, value: Any) -> None:
    """A worker of another version may have signed something that is not a beacon of this version."""
    data = sign(json.dumps({**dataclasses.asdict(BEACON), name: value}).encode(), KEY, "beacon:")
    with pytest.raises(DecodeError, match=name):
        verify(data)
