"""``CallsetRecord``: what the client knows about the calls of one callset.

It is plain data. The driver's lock guards it (``client.driver.driver``); the pure modules work on it while the driver
holds that lock. Progress, summaries and timelines read it through ``Driver.counts`` and ``Driver.attempts``.

Times in a record are *observed* seconds: a clock that the driver advances while it can look at the callset. A client
that was suspended for an hour has observed nothing in that hour, and must not conclude anything from it.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pywren.wire.cause import Cause


class Phase(enum.IntEnum):
    """Where a call is in its life. A call with several attempts in flight is in the furthest phase of any of them."""

    HELD = 0
    """In the driver's queue: not invoked yet, or waiting to be invoked again."""
    SENDING = 1
    """A thread is invoking it."""
    SENT = 2
    """The service has accepted it. Nothing shows yet that it has started."""
    RUNNING = 3
    """A worker has shown that it runs the call."""
    ENDED = 4
    """Its outcome, or the error with which the driver gave up, is known."""


@dataclass(slots=True, eq=False)
class AttemptRecord:
    """One attempt of one call.

    Args:
        number: 1 for the first attempt.
        sent: the observed time when the service accepted it; ``nan`` before.
        sent_at: the same by the storage's clock, in seconds since the epoch, for people and for comparison with the
            service's records; ``nan`` before.
        request_id: the service's id of the invocation.
        started_at: when it began, by the worker's clock in seconds since the epoch; ``None`` while that is unknown.
        shown: the observed time when its worker last showed that it runs the call; ``nan`` if it never did.
        ended: the observed time when it ended; ``nan`` while it may still be in flight.
        cause: why it ended without a value; ``None`` while it is in flight, or if it returned.
        error: the error in words, for the message of the last error.
        where: the worker: a log stream, an instance or a process.
        suspected: whether it is believed to be lost, though its result would still count.
        backup: whether it was started beside another attempt.
    """

    number: int
    sent: float = math.nan
    sent_at: float = math.nan
    request_id: str = ""
    started_at: float | None = None
    shown: float = math.nan
    ended: float = math.nan
    cause: Cause | None = None
    error: str = ""
    where: str = ""
    suspected: bool = False
    backup: bool = False

    @property
    def in_flight(self) -> bool:
        """Whether it may still bring a result, and is not believed to be lost."""
        return math.isnan(self.ended) and not self.suspected


@dataclass(slots=True, eq=False)
class CallRecord:
    """What is known about one call.

    Args:
        call_id: the call.
        phase: where it is in its life.
        due: the observed time from which a held call may be invoked.
        backup: whether the next attempt is a backup.
        attempts: its attempts, in order.
    """

    call_id: str
    phase: Phase = Phase.HELD
    due: float = 0.0
    backup: bool = False
    attempts: list[AttemptRecord] = field(default_factory=list)

    @property
    def current(self) -> AttemptRecord | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    def attempt(self, number: int) -> AttemptRecord | None:
        """Return an attempt by its number; ``None`` if there is none."""
        return next((one for one in self.attempts if one.number == number), None)

    def count(self, causes: Iterable[Cause]) -> int:
        """Return how many attempts ended for one of these causes."""
        wanted = frozenset(causes)
        return sum(one.cause in wanted for one in self.attempts)


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


class CallsetRecord:
    """All calls of one callset, with indexes that make the decisions cheap for 100,000 calls.

    Args:
        call_ids: the calls, all of them held.
    """

    def __init__(self, call_ids: Iterable[str]) -> None:
        self.calls: dict[str, CallRecord] = {call_id: CallRecord(call_id) for call_id in call_ids}
        self.in_phase = [0] * len(Phase)
        self.in_phase[Phase.HELD] = len(self.calls)
        self.failed = self.retried = 0
        # ``(due, order, call_id)``; the order keeps calls that are due at the same time in the order of the map.
        # An entry whose call is not held any more, or is due at another time, is skipped when it is taken out.
        self.queue: list[tuple[float, int, str]] = [(0.0, order, one) for order, one in enumerate(self.calls)]
        self._order = len(self.queue)

    def hold(self, call: CallRecord, due: float) -> None:
        """Put a call into the queue."""
        self.move(call, Phase.HELD)
        call.due = due
        self._order += 1
        heapq.heappush(self.queue, (due, self._order, call.call_id))

    def move(self, call: CallRecord, phase: Phase) -> None:
        """Change the phase of a call, and the counts."""
        self.in_phase[call.phase] -= 1
        self.in_phase[phase] += 1
        call.phase = phase

    def add(self, call_id: str) -> CallRecord:
        """Add a call that somebody else has invoked."""
        call = self.calls[call_id] = CallRecord(call_id, Phase.SENT)
        self.in_phase[Phase.SENT] += 1
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

    def note_start(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """Record for the statistics that an attempt has started; called once for each attempt that is seen to start."""

    def note_end(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """Record for the statistics that an attempt has ended, perhaps without having been seen to start."""

    def counts(self) -> Counts:
        """Return the counts that readers show."""
        held, sending, sent, running, ended = self.in_phase
        return Counts(len(self.calls), held, sending, sent, running, ended - self.failed, self.failed, self.retried)
