"""``Relay``: the payload whose worker hands other payloads on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_values import CALLSET, json_values

from pywren.exceptions import DecodeError
from pywren.wire.call import ASYNC_PAYLOAD_LIMIT, Call, Envelope
from pywren.wire.relay import (
    MOST_RELAYED,
    RELAY_FORMAT,
    RELAY_ROOM,
    Relay,
    is_relay,
    relay_payload,
    relayed_id,
    relays_of,
)


def payload(index: int = 0, **members: Any) -> dict[str, Any]:
    """Return the payload of a call, as far as a relay looks at it."""
    call_id = f"{index:05d}"
    keys = {"call_id": call_id, "status_key": f"jobs/{CALLSET}/{call_id}/status.json", "attempt_key": "ab" * 32}
    return {"storage_config": {"storage_backend": "s3"}, "callset_id": CALLSET, "text": "ä\u2028\"'", **keys, **members}


def delivered(payloads: list[Any]) -> dict[str, Any]:
    """Return the payload of a relay as Lambda delivers it."""
    bodies = [json.dumps(one, separators=(",", ":")).encode() for one in payloads]
    decoded: dict[str, Any] = json.loads(relay_payload(payloads[0], bodies))
    return decoded


def test_payloads_arrive_as_they_were() -> None:
    """All of them, in order."""
    payloads = [payload(index, number=index / 3) for index in range(MOST_RELAYED)]
    relay = Relay.decode(delivered(payloads))
    assert relay.payloads == payloads
    assert (relay.callset_id, relay.storage_config) == (CALLSET, {"storage_backend": "s3"})


def test_a_full_relay_is_within_the_limit() -> None:
    """The room leaves enough for the members of the relay itself."""
    storage = {"storage_backend": "s3", "backend_config": {"bucket": "b" * 63, "region": "r" * 63}}
    first = payload(storage_config=storage, storage_prefix="p" * 1000)
    assert len(relay_payload(first, [b"{}", b"x" * (RELAY_ROOM - 4)])) < ASYNC_PAYLOAD_LIMIT


def test_a_worker_that_does_not_know_relays_refuses_the_first_call() -> None:
    """Its payload has what any version reads, and a format that no other version reads."""
    got = delivered([payload(), payload(1)])
    with pytest.raises(DecodeError):
        Call.decode(got)
    envelope = Envelope.decode(got)
    assert (envelope.call_id, envelope.format) == ("00000", RELAY_FORMAT)
    assert envelope.attempt_key == bytes.fromhex("ab" * 32)


def test_a_relay_in_a_relay() -> None:
    """It is refused, wherever it stands: a chain of relays could go on for ever."""
    inner = delivered([payload(1), payload(2)])
    for place in range(3):
        payloads: list[Any] = [payload(3), payload(4)]
        payloads.insert(place, inner)
        with pytest.raises(DecodeError, match="a relay itself"):
            Relay.decode({**delivered([payload()]), "relay": payloads})


@pytest.mark.parametrize(
    "payloads", [[], [payload()] * (MOST_RELAYED + 1), ["text"], [payload(), None], [[payload()]], "text", None, {}]
)
def test_what_is_no_list_of_payloads(payloads: Any) -> None:
    """Too many, none, and anything but JSON objects."""
    with pytest.raises(DecodeError):
        Relay.decode({**delivered([payload()]), "relay": payloads})


@given(json_values, json_values, json_values)
def test_hostile_members(payloads: Any, storage: Any, callset: Any) -> None:
    """Decoding raises nothing but ``DecodeError``."""
    try:
        Relay.decode({"relay": payloads, "storage_config": storage, "callset_id": callset, "format": RELAY_FORMAT})
    except DecodeError:
        pass


@given(st.dictionaries(st.sampled_from(["relay", "format", "chunk"]), json_values))
def test_a_member_of_the_same_name_makes_no_relay(members: dict[str, Any]) -> None:
    """``extra_meta`` may have one; the format, which it cannot set, decides."""
    members = {**members, "format": 3}
    assert not is_relay(payload(**members))
    assert not is_relay(list(members))
    assert not is_relay("relay")


def test_ids_of_relayed_invocations() -> None:
    """They differ, and tell which relays there were."""
    ids = [relayed_id("r-1", 0), relayed_id("r-1", 1), relayed_id("r-2", 0), "direct", ""]
    assert len(set(ids)) == 5
    assert relays_of(ids) == {"r-1", "r-2"}
