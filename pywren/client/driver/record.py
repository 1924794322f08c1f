"""``CallsetRecord``: what the client knows about the calls of one callset.

It is plain data. The lock of its service guards it (``client.driver.driver``); the pure modules work on it while the
driver holds that lock. Progress, summaries and timelines read it through ``Driver.counts`` and ``Driver.attempts``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Iterable
from typing import NamedTuple

from pywren.client.driver.calls import AttemptRecord, CallRecord, Phase
from pywren.client.driver.service import Histogram, Service, Share
from pywren.wire.cause import Cause

FOLLOWING = math.inf
"""When a call is due that follows others: not before they have ended, which no clock tells."""


class Counts(NamedTuple):
    """How many calls of a callset are in each phase, and what became of the others."""

    total: int
    held: int
    sending: int
    sent: int
    running: int
    done: int
    failed: int
    retried: int


class CallsetRecord(Share):
    """All calls of one callset, with indexes and statistics that make the decisions cheap for 100,000 calls.

    Args:
        call_ids: the calls, all of them held.
        service: what this callset shares with others.
        following: those of the calls that follow others, and are not due before ``let_go``.
    """

    def __init__(self, call_ids: Iterable[str], service: Service, following: Container[str] = ()) -> None:
        super().__init__()
        self.service = service
        self.calls: dict[str, CallRecord] = {call_id: CallRecord(call_id) for call_id in call_ids}
        for call_id, call in self.calls.items() if following else ():
            call.due = FOLLOWING if call_id in following else 0.0
        self.in_phase[Phase.HELD] = len(self.calls)
        self.failed = self.retried = 0
        # ``(due, order, call_id)``; the order keeps calls that are due at the same time in the order of the map.
        # An entry whose call is not held any more, or is due at another time, is skipped when it is taken out.
        self.queue: list[tuple[float, int, str]] = [
            (call.due, order, one) for order, (one, call) in enumerate(self.calls.items())
        ]
        heapq.heapify(self.queue)
        self._order = len(self.queue)
        self.durations = Histogram()
        service.add(self)

    def hold(self, call: CallRecord, due: float) -> None:
        """Put a call into the queue."""
        self.move(call, Phase.HELD)
        call.due = due
        self._order += 1
        heapq.heappush(self.queue, (due, self._order, call.call_id))

    def move(self, call: CallRecord, phase: Phase) -> None:
        """Change the phase of a call, and the counts."""
        self.service.move(self, call, phase)

    def add(self, call_id: str) -> CallRecord:
        """Add a call that somebody else has invoked."""
        call = self.calls[call_id] = CallRecord(call_id, Phase.SENT)
        self.in_phase[Phase.SENT] += 1
        self.service.in_phase[Phase.SENT] += 1
        return call

    def first_held(self) -> CallRecord | None:
        """Return the call that is next in the queue; ``None`` if no call is held."""
        while self.queue:
            due, _, call_id = self.queue[0]
            call = self.calls[call_id]
            if call.phase is Phase.HELD and call.due == due:
                return call
            heapq.heappop(self.queue)
        return None

    def note_start(self, call: CallRecord, attempt: AttemptRecord, now: float) -> None:
        """Record that an attempt is seen to have started. It may be called again, whenever its worker shows itself."""
        self.service.note_start(self, call, attempt, now)

    def note_end(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """Record that an attempt has ended, perhaps without having been seen to start."""
        duration = self.service.note_end(self, call, attempt)
        if duration is not None:
            self.durations.add(duration)

    def note_suspected(self, call: CallRecord, attempt: AttemptRecord, cause: Cause) -> None:
        """Record that an attempt is suspected, until its worker shows itself."""
        self.service.note_suspected(self, call, attempt, cause)

    def counts(self) -> Counts:
        """Return the counts that readers show."""
        held, sending, sent, running, ended = self.in_phase
        return Counts(len(self.calls), held, sending, sent, running, ended - self.failed, self.failed, self.retried)
