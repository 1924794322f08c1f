"""``CallFacts``: what the client keeps of one call, to invoke it again and for ``invoke_status``.

There is one for each call of a map, perhaps a hundred thousand of them. So it has slots, and does not contain what
follows from the call's id, or what all calls of the map share.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class CallFacts:
    """What the client keeps of one call.

    No lock guards it. A thread that invokes the call, one that reads its output and one that settles it write different
    attributes; each call is invoked by one thread at a time.

    Attributes:
        argument: the argument as it is in the payload; ``None`` if it is not there, or not needed any more.
        members: further members of the payload that are the call's own.
        attempt: the number of the last attempt; 0 if another process invokes the call.
        submitted: when its payload was made, in seconds since the epoch; ``None`` before.
        seconds: how many seconds it took to invoke it; ``None`` before.
        ended: when it was known to have ended, in seconds since the epoch; ``None`` before.
        others: members of ``invoke_status`` that few calls have.
    """

    __slots__ = ("argument", "attempt", "ended", "members", "others", "seconds", "submitted")

    def __init__(self, payload: Mapping[str, Any] | None = None) -> None:
        self.argument: Any = None
        self.members: Mapping[str, Any] = _NOTHING
        self.attempt = 0 if payload is None else 1
        self.submitted: float | None = None
        self.seconds: float | None = None
        self.ended: float | None = None
        self.others: Mapping[str, Any] = _NOTHING
        if payload is not None:
            self.add_members(payload)

    def add_members(self, payload: Mapping[str, Any]) -> None:
        """Add members of the payload that are the call's own."""
        members = {**self.members, **payload}
        self.argument = members.pop("data_inline", self.argument)
        self.attempt = members.pop("attempt", self.attempt)
        self.submitted = members.pop("host_submit_time", self.submitted)
        self.members = members or _NOTHING

    def add_others(self, others: Mapping[str, Any]) -> None:
        """Add members of ``invoke_status``."""
        if others:
            self.others = {**self.others, **others}

    def payload(self) -> dict[str, Any]:
        """Return the members of the payload that are the call's own."""
        payload = {**self.members, "attempt": self.attempt}
        if self.submitted is not None:
            payload["host_submit_time"] = self.submitted
        if self.argument is not None:
            payload["data_inline"] = self.argument
        return payload

    def document(self) -> dict[str, Any]:
        """Return what the client did for the call, with the keys of ``invoke_status``."""
        document: dict[str, Any] = {}
        if self.seconds is not None:
            # The request was sent when the payload was made.
            document.update(lambda_invoke_timestamp=self.submitted, lambda_invoke_time=self.seconds)
        if self.ended is not None:
            document["status_done_timestamp"] = self.ended
        return {**document, **self.others}
