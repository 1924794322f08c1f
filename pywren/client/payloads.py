"""``Payloads``: the payloads of a map, in parts; and ``encode_payload``: one as the bytes that a service accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pywren.client.callset import Callset
from pywren.exceptions import ArgumentError
from pywren.wire.call import Call, encode_fields


class Payloads(NamedTuple):
    """The payloads of the calls of one callset, in parts.

    Of the thirty members of a payload, two or three are its own. So the others exist once, and what follows from the id
    of the call is made when it is needed (``made_members``).

    Args:
        shared: the members that all have.
        own: the other ones of each, by the ids of the calls. They count more.
    """

    shared: dict[str, Any]
    own: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, template: Call, own: Mapping[str, Mapping[str, Any]]) -> Payloads:
        """Make the payloads of some calls.

        Args:
            template: what they share.
            own: further fields of each, by the ids of the calls.
        """
        shared = {name: value for name, value in template.encode().items() if name not in _MADE}
        return cls(shared, {call_id: encode_fields(fields) for call_id, fields in own.items()})

    def overwrite(self, members: Mapping[str, Any]) -> None:
        """Replace members of all payloads."""
        self.shared.update(members)
        for own in self.own.values() if members else ():
            for name in own.keys() & members.keys():
                del own[name]

    def whole(self, callset: Callset, call_id: str) -> dict[str, Any]:
        """Return the payload of a call."""
        return {**made_members(callset, call_id), **self.shared, **self.own[call_id]}


def made_members(callset: Callset, call_id: str) -> dict[str, Any]:
    """Return the members of a payload that follow from the id of the call."""
    keys = callset.call_keys(call_id)
    return {
        "call_id": call_id,
        "data_key": keys.data,
        "output_key": keys.output,
        "status_key": keys.status,
        "cancel_key": keys.cancel,
    }


_MADE = frozenset({"call_id", "data_key", "output_key", "status_key", "cancel_key"})


def encode_payload(payload: Mapping[str, Any], limit: int, what: str) -> bytes:
    """Return a payload as compact JSON.

    Args:
        payload: ``Call.encode()``.
        limit: the number of bytes that the service allows.
        what: the service, for the error message.

    Raises:
        ArgumentError: the payload is larger than ``limit``, or cannot be encoded as JSON.
    """
    try:
        body = json.dumps(payload, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"the payload cannot be encoded as JSON: {error}; check extra_meta and extra_env"
        ) from error
    # Lambda and SQS limit the encoded bytes: JSON spells each character beyond ASCII with 6 or 12 of them.
    if len(body) > limit:
        raise ArgumentError(
            f"the payload has {len(body):,} bytes, but {what} accepts at most {limit:,}: "
            "move data from extra_env and extra_meta to the arguments"
        )
    return body
