"""``Relay``: the payloads of many invocations in the payload of one, whose worker hands them on (docs/fan-out.md).

The payload has the members that tell any worker where the first call reports, so that a worker that does not know
relays refuses that call. What is handed on are whole payloads, of calls or chunks. None of them may be a relay itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pywren.exceptions import DecodeError
from pywren.wire.call import ASYNC_PAYLOAD_LIMIT, FORMAT
from pywren.wire.reading import Reader

RELAY_FORMAT = 2_000 + FORMAT
"""The format of the payloads of relays. It is far from those of calls, whose numbers go on."""

MOST_RELAYED = 200
"""The most payloads of a relay. Its worker invokes about as many in a second."""

RELAY_ROOM = ASYNC_PAYLOAD_LIMIT - 20_000
"""The most bytes of all payloads of a relay, with a comma after each; the rest is for its own members."""

BUSY, DENIED = "RELAY_BUSY", "RELAY_DENIED"
"""The first detail of the failure with which a relay hands a call back: Lambda was too busy for too long, or the
function may not invoke itself, or cannot for another reason."""

_ENVELOPE = (
    "storage_config",
    "callset_id",
    "call_id",
    "status_key",
    "pywren_version",
    "python_version",
    "attempt",
    "attempt_key",
)


def relay_payload(first: Mapping[str, Any], bodies: Sequence[bytes]) -> bytes:
    """Return the payload of a relay, as JSON.

    Args:
        first: the payload of the first call.
        bodies: the payloads of all calls as JSON: at most ``MOST_RELAYED``, and ``RELAY_ROOM`` bytes.
    """
    head = {name: first[name] for name in _ENVELOPE if first.get(name) is not None}
    start = json.dumps({**head, "format": RELAY_FORMAT}, separators=(",", ":")).encode()
    return b"%b,%b%b]}" % (start[:-1], b'"relay":[', b",".join(bodies))


def relayed_id(request_id: str, index: int) -> str:
    """Return how the client names an invocation by a relay, as it never learns the service's id of it.

    Args:
        request_id: the service's id of the relay.
        index: the place of the payload in the relay.
    """
    return f"{request_id}/{index}"


def is_relayed(request_id: str) -> bool:
    """Tell whether an invocation was made by a relay, as far as the client's name of it says so."""
    return "/" in request_id


def relays_of(request_ids: Iterable[str]) -> frozenset[str]:
    """Return the service's ids of the relays that have made some invocations."""
    return frozenset(one.partition("/")[0] for one in request_ids if is_relayed(one))


def is_relay(payload: object) -> bool:
    """Tell whether a decoded payload is that of a relay."""
    return isinstance(payload, Mapping) and payload.get("format") == RELAY_FORMAT and "relay" in payload


@dataclass(frozen=True)
class Relay:
    """The payloads that a worker hands on.

    Args:
        storage_config: where the calls report.
        callset_id: the callset of the calls.
        payloads: the payloads, each a dict.
    """

    storage_config: Mapping[str, Any]
    callset_id: str
    payloads: Sequence[Mapping[str, Any]]

    @classmethod
    def decode(cls, payload: Mapping[str, Any]) -> Relay:
        """Read the payload of a relay.

        Raises:
            DecodeError: it is not valid, has too many payloads, or one that is itself a relay.
        """
        reader = Reader("the relay", payload)
        payloads = reader.take("relay", list)
        if not 0 < len(payloads) <= MOST_RELAYED:
            raise DecodeError(f"the relay: it has {len(payloads):,} payloads, but must have 1 to {MOST_RELAYED}")
        # Before any is handed on. A chain of relays could go on for ever, at the account's cost.
        if any(is_relay(one) for one in payloads):
            raise DecodeError("the relay: one of its payloads is a relay itself")
        if not all(isinstance(one, Mapping) for one in payloads):
            raise DecodeError("the relay: one of its payloads is not a JSON object")
        return cls(reader.take("storage_config", dict), reader.take("callset_id", str), payloads)
