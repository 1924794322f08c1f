"""``CallsetRecord``: what the client knows about the calls of one callset.

It is plain data. The driver's lock guards it (``client.driver.driver``); the pure modules work on it while the driver
holds that lock. Progress, summaries and timelines read it through ``Driver.counts`` and ``Driver.attempts``.

Times in a record are *observed* seconds: a clock that the driver advances while it can look at the callset. A client
that was suspended for an hour has observed nothing in that hour, and must not conclude anything from it.
"""

from __future__ import annotations

import bisect
import enum
import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pywren.wire.cause import NEVER_RAN, Cause

UNSEEN = 2.0
"""Seconds for which a worker runs a call before it shows that it does; a shorter call is seen only when it ends."""

GENERATION = 30.0
"""Seconds over which waits are collected. The usual wait follows from the last two such stretches of time."""

USUAL = 0.95
"""The share of the waits that the usual wait is not exceeded by."""

QUEUED = 10.0
"""Seconds from which on a wait shows that there is a queue."""

FULL = 0.9
"""The part of the most attempts ever seen running together from which on the service counts as full. What ends is seen
at once, and what starts only after ``UNSEEN`` seconds, so a full service is rarely seen completely full."""

NEVER_STARTED = NEVER_RAN | {Cause.VANISHED, Cause.CANCELLED, Cause.REFUSED}
"""Causes of an end that do not show that the attempt has started."""


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
        order: how many attempts of the callset were accepted until this one was; 0 before, or if another client did it.
        sent: the observed time when the service accepted it; ``nan`` before.
        sent_at: the same by the storage's clock, in seconds since the epoch, for people and for comparison with the
            service's records; ``nan`` before.
        request_id: the service's id of the invocation.
        started_at: when it began, by the worker's clock in seconds since the epoch; ``None`` while that is unknown.
        started: the observed time when it was first seen to have started, which is later than it did; ``nan`` before.
        shown: the observed time when its worker last showed that it runs the call; ``nan`` if it never did.
        ended: the observed time when it ended; ``nan`` while it may still be in flight.
        cause: why it ended without a value; ``None`` while it is in flight, or if it returned.
        error: the error in words, for the message of the last error.
        where: the worker: a log stream, an instance or a process.
        suspected: whether it is believed to be lost, though its result would still count.
        backup: whether it was started beside another attempt.
    """

    number: int
    order: int = 0
    sent: float = math.nan
    sent_at: float = math.nan
    request_id: str = ""
    started_at: float | None = None
    started: float = math.nan
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
        due: the time, by the driver's clock, from which a held call may be invoked.
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


class Histogram:
    """Counts positive numbers in bins of 10 % each, so that its quantiles cost the same for any count of numbers."""

    _LOG_WIDTH = math.log(1.1)
    _LEAST = 1e-3

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self._bins: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Count a number; less than a thousandth counts as a thousandth."""
        self.count += 1
        self.sum += value
        self._bins[math.ceil(math.log(max(self._LEAST, value) / self._LEAST) / self._LOG_WIDTH)] += 1

    def quantile(self, share: float) -> float:
        """Return the least upper edge of a bin that a share of the numbers does not exceed; ``nan`` if it is empty."""
        left = share * self.count
        for one in sorted(self._bins):
            left -= self._bins[one]
            if left <= 1e-9:
                return self._LEAST * math.exp(one * self._LOG_WIDTH)
        return math.nan


class CallsetRecord:
    """All calls of one callset, with indexes and statistics that make the decisions cheap for 100,000 calls.

    Attempts that wait at the service, and attempts that run, are each in one index from which they are taken when they
    end, when they are suspected, or when their call ends.

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
        # Accepted attempts that were not seen to start, and their calls, in the order in which they were accepted. A
        # dict would pass over everything that was taken from its front each time somebody iterates over it.
        self.waiting: OrderedDict[AttemptRecord, CallRecord] = OrderedDict()
        self.running: dict[AttemptRecord, CallRecord] = {}
        # Calls that were suspected to be dropped and gave no sign of life since.
        self.repeated: dict[CallRecord, None] = {}
        # How many of their repeats have started while the suspected attempt still had not, since that was last wrong.
        self.proven = 0
        self.accepted = 0
        self.newest_started = self.newest_repeat = 0  # the orders of the newest that have started
        self.first_accepted = math.nan
        self.last_start = math.nan  # of an attempt that was not a repeat
        self.durations, self.repeat_waits = Histogram(), Histogram()
        self._waits, self._earlier_waits = Histogram(), Histogram()
        self._generation = -math.inf
        # When newer and newer attempts were seen to start, repeats included, as ``(order, time)``; both only grow.
        self._newest: list[tuple[int, float]] = []
        self.longest_delay = 0.0  # the most seconds for which an attempt was overtaken before it was seen to start
        self.queued = 0  # how many attempts have started after they had waited in a queue
        # The most attempts that were seen running together, when that last rose, and when it was last reached.
        self.peak = 0
        self.peak_rose = self.last_full = math.nan

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
        if phase is Phase.SENT:
            self._note_accepted(call)
        elif phase is Phase.ENDED:
            self.repeated.pop(call, None)
            for attempt in call.attempts:
                self._forget(attempt)

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

    # -- statistics --------------------------------------------------------------------------------------------------

    def note_start(self, call: CallRecord, attempt: AttemptRecord, now: float) -> None:
        """Record that an attempt is seen to have started. It may be called again, whenever its worker shows itself."""
        self.waiting.pop(attempt, None)
        repeated = call in self.repeated
        self.repeated.pop(call, None)
        if not math.isnan(attempt.ended):
            return  # its last beacon may still be in the storage
        if call.phase is not Phase.ENDED:
            self.running[attempt] = call
        if not math.isnan(attempt.started):
            return
        attempt.started = now
        if attempt.suspected:
            self.proven, self.repeat_waits = 0, Histogram()
        elif repeated:
            self.proven, self.newest_repeat = self.proven + 1, max(self.newest_repeat, attempt.order)
        else:
            self.last_start, self.newest_started = now, max(self.newest_started, attempt.order)
        self._note_order(attempt, now)
        if attempt.order:  # otherwise somebody else has invoked it, and it is unknown when
            if repeated and not attempt.suspected:
                self.repeat_waits.add(now - attempt.sent)
                return
            if now >= self._generation + GENERATION:
                self._earlier_waits, self._waits, self._generation = self._waits, Histogram(), now
            self._waits.add(now - attempt.sent)

    def note_end(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """Record that an attempt has ended, perhaps without having been seen to start."""
        self._forget(attempt)
        if attempt.cause not in NEVER_STARTED:
            self.repeated.pop(call, None)
            self.newest_started = max(self.newest_started, attempt.order)
        if attempt.cause is None and call.phase is not Phase.ENDED:
            # Its worker was seen UNSEEN seconds late, or the attempt did not run for so long.
            seen = attempt.ended - attempt.started
            whole = attempt.ended - attempt.sent
            self.durations.add(seen + UNSEEN if seen > 0.0 else min(whole, UNSEEN) if attempt.order else UNSEEN)

    def note_suspected(self, call: CallRecord, attempt: AttemptRecord, cause: Cause) -> None:
        """Record that an attempt is suspected, until its worker shows itself."""
        self._forget(attempt)
        if cause is Cause.DROPPED:
            self.repeated[call] = None

    def note_look(self, now: float) -> None:
        """Record how many attempts run together. Everything that a poll found must have been entered before."""
        if len(self.running) > self.peak:
            self.peak, self.peak_rose = len(self.running), now
        # Repeats alone do not show that the service is full: they follow each other slowly.
        if len(self.running) > self.proven and len(self.running) >= FULL * self.peak:
            self.last_full = now

    def usual_wait(self) -> float:
        """Return how long attempts usually wait before they are seen to start, in seconds; 0.0 if that is unknown.

        The larger of the last two generations counts: when a queue has been growing, or an account is full, the first
        few new starts tell more than the thousands before.
        """
        both = (self._waits, self._earlier_waits)
        return max((one.quantile(USUAL) for one in both if one.count), default=0.0)

    def overtaken_at(self, attempt: AttemptRecord) -> float:
        """Return when an attempt that was accepted later was first seen to start; ``inf`` if none was."""
        index = bisect.bisect_right(self._newest, (attempt.order, math.inf))
        return self._newest[index][1] if index < len(self._newest) else math.inf

    def last_seen_to_start(self) -> tuple[int, float]:
        """Return the order of the newest attempt of all that have started, and when it was seen to."""
        return self._newest[-1] if self._newest else (0, math.inf)

    def counts(self) -> Counts:
        """Return the counts that readers show."""
        held, sending, sent, running, ended = self.in_phase
        return Counts(len(self.calls), held, sending, sent, running, ended - self.failed, self.failed, self.retried)

    def _note_accepted(self, call: CallRecord) -> None:
        attempt = call.current
        if attempt is None or math.isnan(attempt.sent) or not math.isnan(attempt.ended):
            return  # it was refused, and an earlier attempt is still in flight
        self.accepted += 1
        attempt.order = self.accepted
        self.waiting[attempt] = call
        if self.accepted == 1:
            self.first_accepted = attempt.sent

    def _note_order(self, attempt: AttemptRecord, now: float) -> None:
        delay = max(0.0, now - self.overtaken_at(attempt))
        self.longest_delay = max(self.longest_delay, delay)
        if now - attempt.sent >= QUEUED:
            self.queued += 1
        if not self._newest or attempt.order > self._newest[-1][0]:
            if self._newest and self._newest[-1][1] >= now:
                self._newest.pop()  # one look finds many; in which order it does says nothing
            self._newest.append((attempt.order, now))

    def _forget(self, attempt: AttemptRecord) -> None:
        self.waiting.pop(attempt, None)
        self.running.pop(attempt, None)
