"""``Functions``: Lambda's asynchronous invocations, in virtual time.

They are a queue that keeps each event for some time, environments that start cold and are reused, a concurrency, and
the faults that happen there. What its workers write is not decided here: some functions are told of it. One of them may
be a worker itself, which runs the calls of a chunk.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from benchmarks.simulated.agenda import Agenda
from pywren.wire.cause import Cause

SCALING_WINDOW = 10.0
"""Seconds in which a function gains ``Service.scaling`` environments at most (AWS Lambda Developer Guide, Lambda
scaling behavior)."""

LONGEST_REQUEUE = 300.0
"""The most seconds until Lambda tries again to start an event that it could not start. The time doubles from 1 s on
(AWS Lambda Developer Guide, How Lambda handles errors and retries with asynchronous invocation)."""

BEACON_FIRST, BEACON_EVERY = 2.0, 30.0
"""When a worker shows that it runs, in seconds since it began (``docs/design.md``, Looking after a call)."""

Seconds: TypeAlias = float | Callable[[random.Random], float]
"""A time that is always the same, or a function that draws one."""


def drawn(rng: random.Random, seconds: Seconds) -> float:
    """Return one time."""
    return seconds(rng) if callable(seconds) else seconds


@dataclass
class Service:
    """What the service does.

    The shares of events that are lost, doubled or refused are of all invocations; that of workers that are taken away
    is of all attempts, as a worker that runs many calls lives longer. ``drops`` are numbers of accepted invocations,
    from 1.
    """

    concurrency: int = 1_000
    scaling: int = 1_000  # environments that a function gains in 10 s
    cold: Seconds = 0.3
    dispatch: Seconds = 0.01  # from the decision to start an event until its worker begins, if that is warm
    warm: int = 0  # environments that are warm at first
    duration: Callable[[random.Random, int], float] = lambda rng, index: 0.2
    storing: Seconds = 0.0  # from the end of a single call until its status is stored
    backs_off: bool = True  # an event that cannot start is tried again after 1, 2, 4 … 300 s; or first in first out
    jitter: float = 0.0  # seconds by which events overtake each other
    dropped: float = 0.0
    drops: frozenset[int] = frozenset()
    doubled: float = 0.0
    killed: float = 0.0
    records: float = 1.0  # the share of the kills that the service records
    throttled: float = 0.0
    rate: float = 0.0  # invocations per second that are accepted at most; 0.0 for any
    pauses: tuple[tuple[float, float], ...] = ()  # nothing starts from … to …, in seconds since the beginning
    clocks: float = 0.0  # by how much the clocks of workers are ahead
    event_age: float = 21_600.0


class Event(NamedTuple):
    """One accepted invocation: an attempt of a call, or a chunk, which is named after the attempt of its first call.
    ``body`` is its payload, if anything reads that."""

    call_id: str
    number: int
    sent: float
    body: bytes = b""
    is_chunk: bool = False


class Functions:
    """One function, its queue and its environments.

    Args:
        agenda: the time, and what happens next.
        service: what the service does.
        rng: where chance comes from.
        finished: called with an event, and when its worker began and its call ended, when its status is stored.
        shown: called with the same when the worker shows that it runs the event.
        failed: called with an event and a cause when the service records that the event has failed.
        works: called with a chunk, and the number of the environment that runs it, when its worker begins. It calls
            ``begin`` for each call, and ``end`` at the end.

    Attributes:
        runs: how often each call was started.
        causes: how many events failed of what.
        began: when workers began a call, in order.
        worked: for how many seconds workers have run.
        cold: for how many seconds environments have started.
        environments: how many environments were made.
        most_busy: the most events that ran at the same time.
    """

    def __init__(
        self,
        agenda: Agenda,
        service: Service,
        rng: random.Random,
        *,
        finished: Callable[[Event, float, float], object],
        shown: Callable[[Event, float], object],
        failed: Callable[[Event, Cause], object],
        works: Callable[[Event, int], object] | None = None,
    ) -> None:
        self.runs: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.began: list[float] = []
        self.worked = self.cold = 0.0
        self.environments = self.most_busy = 0
        self._agenda, self._service, self._rng = agenda, service, rng
        self._finished, self._shown, self._failed, self._works = finished, shown, failed, works
        self._epoch = agenda.now
        self._queue: deque[Event] = deque()
        self._looks_again = False
        self._warm = list(range(service.warm))  # their numbers; the one that was used last is used first
        self._made, self._busy, self._accepted = service.warm, 0, 0
        self._born: deque[float] = deque()
        self._tokens, self._filled = service.rate, agenda.now

    # -- for clients -------------------------------------------------------------------------------------------------

    def refuses(self) -> bool:
        """Tell whether the service is too busy to accept an invocation now. Each question counts as one."""
        rate = self._service.rate
        if rate:
            self._tokens = min(rate, self._tokens + (self._agenda.now - self._filled) * rate)
            self._filled = self._agenda.now
            if self._tokens < 1.0:
                return True
            self._tokens -= 1.0
        return self._rng.random() < self._service.throttled

    def accept(self, event: Event) -> None:
        """Put an event into the queue; perhaps lose it, or deliver it twice."""
        self._accepted += 1
        if self._accepted in self._service.drops or self._rng.random() < self._service.dropped:
            return
        for _ in range(1 + (self._rng.random() < self._service.doubled)):
            if self._service.backs_off or self._service.jitter:
                delay = self._rng.random() * (self._service.jitter or 0.01)
                self._agenda.at(self._agenda.now + delay, self._try, event, 0)
            else:
                self._try(event, 0)

    # -- the queue -----------------------------------------------------------------------------------------------------

    def _try(self, event: Event, tries: int) -> None:
        """Start an event, or put it aside."""
        now = self._agenda.now
        if now - event.sent > self._service.event_age:
            self._fail(event, Cause.TOO_OLD)
        elif not self._paused() and self._has_room():
            self._start(event)
        elif self._service.backs_off:
            wait = min(LONGEST_REQUEUE, 2.0**tries) * (0.5 + self._rng.random() / 2.0)
            self._agenda.at(now + wait, self._try, event, tries + 1)
        else:
            self._queue.append(event)
            self._look_again()

    def _paused(self) -> float:
        """Return until when nothing starts; 0.0 if events start."""
        if not self._service.pauses:
            return 0.0
        since = self._agenda.now - self._epoch
        return next((self._epoch + end for start, end in self._service.pauses if start <= since < end), 0.0)

    def _has_room(self) -> bool:
        if self._warm:
            return True
        while self._born and self._born[0] < self._agenda.now - SCALING_WINDOW:
            self._born.popleft()
        return self._made < self._service.concurrency and len(self._born) < self._service.scaling

    def _start(self, event: Event) -> None:
        delay = drawn(self._rng, self._service.dispatch)
        if self._warm:
            environment = self._warm.pop()
        else:
            self._made += 1
            environment = self._service.warm + self.environments
            self.environments += 1
            self._born.append(self._agenda.now)
            cold = drawn(self._rng, self._service.cold)
            self.cold += cold
            delay += cold
        self._busy += 1
        self.most_busy = max(self.most_busy, self._busy)
        self._agenda.at(self._agenda.now + delay, self._run, event, environment)

    # -- the workers ---------------------------------------------------------------------------------------------------

    def _run(self, event: Event, environment: int) -> None:
        now = self._agenda.now
        if event.is_chunk and self._works is not None:
            self._works(event, environment)
            return
        duration, is_killed = self.begin(event.call_id)
        ended = now + duration
        duration += 0.0 if is_killed else drawn(self._rng, self._service.storing)
        self._agenda.at(now + duration, self._finish, event, environment, now, ended, is_killed)
        if duration > BEACON_FIRST:
            self._agenda.at(now + BEACON_FIRST, self._show, event, now, now + duration)

    def begin(self, call_id: str) -> tuple[float, bool]:
        """Note that a worker begins a call. Return for how many seconds it works, and whether it is then taken away."""
        self.runs[call_id] += 1
        self.began.append(self._agenda.now)
        duration = self._service.duration(self._rng, int(call_id))
        is_killed = self._rng.random() < self._service.killed
        return duration * (self._rng.random() if is_killed else 1.0), is_killed

    def _show(self, event: Event, started: float, until: float) -> None:
        self._shown(event, started)
        if self._agenda.now + BEACON_EVERY < until:
            self._agenda.at(self._agenda.now + BEACON_EVERY, self._show, event, started, until)

    def _finish(self, event: Event, environment: int, started: float, ended: float, is_killed: bool) -> None:
        if not is_killed:
            self._finished(event, started, ended)
        self.end(event, environment, started, is_killed=is_killed)

    def end(self, event: Event, environment: int, started: float, *, is_killed: bool = False) -> None:
        """Note that a worker has ended an event, or was taken away."""
        self.worked += self._agenda.now - started
        if is_killed:
            self._made -= 1
            if self._rng.random() < self._service.records:
                self._fail(event, Cause.KILLED)
        else:
            self._warm.append(environment)
        self._busy -= 1
        self._next()

    def _fail(self, event: Event, cause: Cause) -> None:
        self.causes[cause.value] += 1
        self._agenda.at(self._agenda.now + 2.0, self._failed, event, cause)

    def _next(self) -> None:
        while self._queue and not self._paused() and self._has_room():
            event = self._queue.popleft()
            if self._agenda.now - event.sent > self._service.event_age:
                self._fail(event, Cause.TOO_OLD)
            else:
                self._start(event)
        self._look_again()

    def _look_again(self) -> None:
        """Look at the queue again when a pause is over, or when the function may have gained environments."""
        if self._queue and not self._looks_again and (self._paused() or self._made < self._service.concurrency):
            self._looks_again = True
            self._agenda.at(self._paused() or self._agenda.now + 1.0, self._look)

    def _look(self) -> None:
        self._looks_again = False
        self._next()
