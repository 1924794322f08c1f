"""A simulated service and client, in virtual time, around the real ``Driver``.

The service is as Lambda's asynchronous invocation: a queue that keeps each event for some time, environments that start
cold and are reused, a concurrency, and the faults that happen there. The client sends at a fixed speed, polls at a
fixed interval, and knows of the service only what it finds in the storage.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pywren.client.driver.driver import Driver, Later, Ready
from pywren.client.driver.policy import Policy
from pywren.client.driver.retrying import Over
from pywren.client.driver.service import Service as Shared
from pywren.cloud.prices import Usage
from pywren.wire.cause import Cause

LAMBDA = Policy(event_age=21_600.0, job_max_runtime=900.0, may_lose_calls=True)
SCALING = 1_000  # environments that a function gains in 10 s
BEACON_FIRST, BEACON_EVERY = 2.0, 30.0
EPOCH = 1_700_000_000.0


@dataclass
class Service:
    """What the service does. Shares are of all attempts; ``drops`` are numbers of accepted attempts, from 1."""

    concurrency: int = 1_000
    cold: float = 0.3
    warm: int = 0  # environments that are warm at first
    duration: Callable[[random.Random, int], float] = lambda rng, index: 0.2
    backs_off: bool = True  # an event that cannot start is tried again after 1, 2, 4 … 300 s; or first in first out
    jitter: float = 0.0  # seconds by which events overtake each other
    dropped: float = 0.0
    drops: frozenset[int] = frozenset()
    doubled: float = 0.0
    killed: float = 0.0
    records: float = 1.0  # the share of the kills that the service records
    throttled: float = 0.0
    rate: float = 0.0  # invocations per second that are accepted at most; 0.0 for any
    pauses: tuple[tuple[float, float], ...] = ()  # nothing starts from … to …
    clocks: float = 0.0  # by how much the clocks of workers are ahead
    event_age: float = 21_600.0


@dataclass
class Client:
    """What the client does."""

    sends: float = 300.0  # invocations a second
    poll: float = 0.5
    away: tuple[tuple[float, float], ...] = ()  # it neither sends nor looks from … to …
    cost: float = 0.0  # seconds of a poll; one callset is polled after the other
    lone: bool = False  # each call is a callset of its own
    threads: int = 0  # of lone calls, the most at the same time: each thread waits for one; 0 for all at once


class Event(NamedTuple):
    call_id: str
    number: int
    sent: float


@dataclass
class Trace:
    """What happened."""

    ended: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    refusals: int = 0
    all_accepted: float = 0.0
    most_in_flight: int = 0
    seconds: float = 0.0
    worked: float = 0.0  # seconds of all workers
    durations: list[float] = field(default_factory=list)  # from the submission of a callset to its end

    @property
    def repeats(self) -> int:
        return sum(self.attempts.values()) - len(self.attempts)


class _Callset:
    """One callset, as the client knows it."""

    def __init__(self, calls: list[str], driver: Driver, now: float) -> None:
        self.driver, self.left, self.submitted = driver, len(calls), now
        # What was written to the storage since the last poll.
        self.results: list[tuple[str, int, float, float]] = []
        self.signs: list[tuple[str, int, float]] = []
        self.failures: list[tuple[str, int, Cause]] = []
        self.to_send = False


class World:
    """One callset, or many of one call that share a service, in virtual time."""

    def __init__(
        self, calls: int, service: Service, client: Client | None = None, policy: Policy = LAMBDA, seed: int = 0
    ) -> None:
        self.service, self.client, self.rng = service, client or Client(), random.Random(seed)
        self.now = 1_000.0
        self.trace = Trace()
        self.calls = [f"{index:05d}" for index in range(calls)]
        self.shared = Shared(lambda: self.now)
        self._policy = policy
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()
        # the client
        self._of: dict[str, _Callset] = {}
        self._senders: deque[_Callset] = deque()
        self._sending = False
        self._to_submit = deque(self.calls)
        self._free = self.now  # when the thread that polls is free
        # the service
        self._queue: deque[Event] = deque()
        self._warm, self._made, self._busy, self._accepted = service.warm, service.warm, 0, 0
        self._born: deque[float] = deque()
        self._tokens, self._filled = service.rate, self.now
        # the storage
        self._statuses: dict[str, tuple[int, float]] = {}
        if not self.client.lone:
            self.driver = self._submit(self.calls).driver

    def run(self, limit: float = 36_000.0) -> Trace:
        """Run until every call has ended, or for some seconds."""
        began = self.now
        for _ in range(self.client.threads or len(self.calls)):
            self._submit_next()
        while self._agenda and self.now < began + limit and len(self.trace.ended) < len(self.calls):
            self.now, _, step, arguments = heapq.heappop(self._agenda)
            step(*arguments)
        self.trace.seconds = self.now - began
        return self.trace

    def at(self, when: float, step: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._agenda, (when, next(self._numbers), step, arguments))

    # -- the client ----------------------------------------------------------------------------------------------

    def _submit_next(self) -> None:
        if self.client.lone and self._to_submit:
            self._submit([self._to_submit.popleft()])

    def _submit(self, calls: list[str]) -> _Callset:
        driver = Driver(calls, self._policy, service=self.shared, jitter=self.rng.random)
        callset = _Callset(calls, driver, self.now)
        driver.waker = lambda: lambda: self._wake(callset)
        self._of.update(dict.fromkeys(calls, callset))
        self._wake(callset)
        self.at(self.now + self.client.poll, self._poll, callset)
        return callset

    def _wake(self, callset: _Callset) -> None:
        if not callset.to_send and callset.driver.next_due() == 0.0:
            callset.to_send = True
            self._senders.append(callset)
            if not self._sending:
                self._sending = True
                self.at(self.now, self._send)

    def _away(self) -> float:
        """Return when the client is back; 0.0 if it is here."""
        return next((1_000.0 + end for start, end in self.client.away if start <= self.now - 1_000.0 < end), 0.0)

    def _send(self) -> None:
        pause = 1.0 / self.client.sends
        if back := self._away():
            return self.at(back, self._send)
        if not self._senders:
            self._sending = False
            return None
        callset = self._senders[0]
        step = callset.driver.next_call()
        if isinstance(step, Ready):
            self._invoke(callset.driver, step)
        elif isinstance(step, Later) and step.wait is not None:
            self._senders.rotate(-1)  # the others have threads too
        else:  # a poll, or the end of another call, wakes it
            callset.to_send = False
            self._senders.popleft()
            pause = 0.0
        return self.at(self.now + pause, self._send)

    def _invoke(self, driver: Driver, ready: Ready) -> None:
        if self._refuses():
            self.trace.refusals += 1
            return driver.throttled(ready.call_id, ready.number)
        self.trace.attempts[ready.call_id] += 1
        if len(self.trace.attempts) == len(self.calls) and not self.trace.all_accepted:
            self.trace.all_accepted = self.now - 1_000.0
        driver.accepted(ready.call_id, ready.number, "id", EPOCH + self.now)
        _, _, sent, running, _ = self.shared.in_phase
        self.trace.most_in_flight = max(self.trace.most_in_flight, sent + running)
        return self._accept(Event(ready.call_id, ready.number, self.now))

    def _poll(self, callset: _Callset) -> None:
        if self._free > self.now:  # other callsets are polled first
            self.at(self._free, self._poll_now, callset)
        else:
            self._free = self.now
            self._poll_now(callset)
        self._free += self.client.cost

    def _poll_now(self, callset: _Callset) -> None:
        if back := self._away():
            return self.at(back, self._poll, callset)
        driver, clocks = callset.driver, self.service.clocks
        for call_id, number, started, seconds in callset.results:
            self._end(call_id)
            usage = Usage.of_attempt(seconds, 1024, is_output_apart=False, downloads=0)
            driver.ended(call_id, number, EPOCH + started + clocks, "worker", failed=False, usage=usage)
        for call_id, number, started in callset.signs:
            driver.running(call_id, number, EPOCH + started + clocks, "worker")
        driver.look()
        for call_id, number, cause in callset.failures:
            step = driver.failed(call_id, number, cause, RuntimeError(cause.value))
            if isinstance(step, Over):
                self._give_up(driver, call_id, step.message)
        for stop in driver.stops():
            self._give_up(driver, stop.call_id, str(stop.error))
        for over in driver.decide():
            self._give_up(driver, over.call_id, over.message)
        callset.results, callset.signs, callset.failures = [], [], []
        self._wake(callset)
        for wake in driver.to_wake():
            wake()
        return self.at(self.now + self.client.poll, self._poll, callset) if callset.left else None

    def _end(self, call_id: str) -> None:
        callset = self._of[call_id]
        callset.left -= 1
        self.trace.ended[call_id] = self.now - 1_000.0
        self.trace.durations.append(self.now - callset.submitted)
        if self.client.threads:
            self._submit_next()

    def _give_up(self, driver: Driver, call_id: str, message: str) -> None:
        self._end(call_id)
        self.trace.failures[call_id] = message
        driver.settled(call_id, failed=True)

    # -- the service -----------------------------------------------------------------------------------------------

    def _refuses(self) -> bool:
        rate = self.service.rate
        if rate:
            self._tokens = min(rate, self._tokens + (self.now - self._filled) * rate)
            self._filled = self.now
            if self._tokens < 1.0:
                return True
            self._tokens -= 1.0
        return self.rng.random() < self.service.throttled

    def _accept(self, event: Event) -> None:
        self._accepted += 1
        if self._accepted in self.service.drops or self.rng.random() < self.service.dropped:
            return
        for _ in range(1 + (self.rng.random() < self.service.doubled)):
            if self.service.backs_off or self.service.jitter:
                self.at(self.now + self.rng.random() * (self.service.jitter or 0.01), self._try, event, 0)
            else:
                self._try(event, 0)

    def _try(self, event: Event, tries: int) -> None:
        """Start an event, or put it aside."""
        if self.now - event.sent > self.service.event_age:
            self._fail(event, Cause.TOO_OLD, 2.0)
        elif not self._paused() and self._has_room():
            self._start(event)
        elif self.service.backs_off:
            wait = min(300.0, 2.0**tries) * (0.5 + self.rng.random() / 2.0)
            self.at(self.now + wait, self._try, event, tries + 1)
        else:
            self._queue.append(event)
            if self._paused():
                self.at(self._paused(), self._next)

    def _paused(self) -> float:
        return next((1_000.0 + end for start, end in self.service.pauses if start <= self.now - 1_000.0 < end), 0.0)

    def _has_room(self) -> bool:
        if self._warm:
            return True
        while self._born and self._born[0] < self.now - 10.0:
            self._born.popleft()
        return self._made < self.service.concurrency and len(self._born) < SCALING

    def _start(self, event: Event) -> None:
        delay = 0.01
        if self._warm:
            self._warm -= 1
        else:
            self._made += 1
            self._born.append(self.now)
            delay += self.service.cold
        self._busy += 1
        self.at(self.now + delay, self._run, event)

    def _run(self, event: Event) -> None:
        self.trace.runs[event.call_id] += 1
        duration = self.service.duration(self.rng, int(event.call_id))
        is_killed = self.rng.random() < self.service.killed
        duration *= self.rng.random() if is_killed else 1.0
        self.trace.worked += duration
        if is_killed:
            self.at(self.now + duration, self._kill, event)
        else:
            self.at(self.now + duration, self._finish, event, self.now)
        if duration > BEACON_FIRST:
            self.at(self.now + BEACON_FIRST, self._beacon, event, self.now, self.now + duration)

    def _beacon(self, event: Event, started: float, until: float) -> None:
        if event.call_id not in self._statuses:
            self._of[event.call_id].signs.append((event.call_id, event.number, started))
        if self.now + BEACON_EVERY < until:
            self.at(self.now + BEACON_EVERY, self._beacon, event, started, until)

    def _finish(self, event: Event, started: float) -> None:
        if event.call_id not in self._statuses:  # If-None-Match
            self._statuses[event.call_id] = (event.number, started)
            self._of[event.call_id].results.append((event.call_id, event.number, started, self.now - started))
        self._warm += 1
        self._release()

    def _kill(self, event: Event) -> None:
        self._made -= 1
        if self.rng.random() < self.service.records:
            self._fail(event, Cause.KILLED, 2.0)
        self._release()

    def _fail(self, event: Event, cause: Cause, delay: float) -> None:
        self.trace.causes[cause.value] += 1
        self.at(self.now + delay, self._record, event, cause)

    def _record(self, event: Event, cause: Cause) -> None:
        self._of[event.call_id].failures.append((event.call_id, event.number, cause))

    def _release(self) -> None:
        self._busy -= 1
        self._next()

    def _next(self) -> None:
        while self._queue and not self._paused() and self._has_room():
            event = self._queue.popleft()
            if self.now - event.sent > self.service.event_age:
                self._fail(event, Cause.TOO_OLD, 2.0)
            else:
                self._start(event)
        if self._queue and self._made < self.service.concurrency:
            self.at(self.now + 1.0, self._next)
