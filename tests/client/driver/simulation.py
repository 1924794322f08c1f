"""A simulated service and client, in virtual time, around the real ``Driver``.

The service is as Lambda's asynchronous invocation: a queue that keeps each event for some time, environments that start
cold and are reused, a concurrency, and the faults that happen there. The client sends at a fixed speed, polls at a
fixed interval, and knows of the service only what it finds in the storage.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field

from benchmarks.simulated.agenda import Agenda
from benchmarks.simulated.functions import Event, Functions, Service
from pywren.client.driver.driver import Driver, Later, Ready
from pywren.client.driver.policy import Policy
from pywren.client.driver.retrying import Over
from pywren.client.driver.service import Service as Shared
from pywren.cloud.prices import Usage
from pywren.wire.cause import Cause

__all__ = ["LAMBDA", "Client", "Service", "Trace", "World"]

LAMBDA = Policy(event_age=21_600.0, job_max_runtime=900.0, may_lose_calls=True)
EPOCH = 1_700_000_000.0


@dataclass
class Client:
    """What the client does."""

    sends: float = 300.0  # invocations a second
    poll: float = 0.5
    away: tuple[tuple[float, float], ...] = ()  # it neither sends nor looks from … to …
    cost: float = 0.0  # seconds of a poll; one callset is polled after the other
    lone: bool = False  # each call is a callset of its own
    threads: int = 0  # of lone calls, the most at the same time: each thread waits for one; 0 for all at once


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


class World(Agenda):
    """One callset, or many of one call that share a service, in virtual time."""

    def __init__(
        self, calls: int, service: Service, client: Client | None = None, policy: Policy = LAMBDA, seed: int = 0
    ) -> None:
        super().__init__(1_000.0)
        self.service, self.client, self.rng = service, client or Client(), random.Random(seed)
        self.functions = Functions(
            self, service, self.rng, finished=self._finish, shown=self._show, failed=self._record
        )
        self.trace = Trace(runs=self.functions.runs, causes=self.functions.causes)
        self.calls = [f"{index:05d}" for index in range(calls)]
        self.shared = Shared(lambda: self.now)
        self._policy = policy
        # the client
        self._of: dict[str, _Callset] = {}
        self._senders: deque[_Callset] = deque()
        self._sending = False
        self._to_submit = deque(self.calls)
        self._free = self.now  # when the thread that polls is free
        # the storage
        self._statuses: dict[str, tuple[int, float]] = {}
        if not self.client.lone:
            self.driver = self._submit(self.calls).driver

    def run(self, limit: float = 36_000.0) -> Trace:
        """Run until every call has ended, or for some seconds."""
        began = self.now
        for _ in range(self.client.threads or len(self.calls)):
            self._submit_next()
        while self._steps and self.now < began + limit and len(self.trace.ended) < len(self.calls):
            self.advance()
        self.trace.seconds, self.trace.worked = self.now - began, self.functions.worked
        return self.trace

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
        if self.functions.refuses():
            self.trace.refusals += 1
            return driver.throttled(ready.call_id, ready.number)
        self.trace.attempts[ready.call_id] += 1
        if len(self.trace.attempts) == len(self.calls) and not self.trace.all_accepted:
            self.trace.all_accepted = self.now - 1_000.0
        driver.accepted(ready.call_id, ready.number, "id", EPOCH + self.now)
        _, _, sent, running, _ = self.shared.in_phase
        self.trace.most_in_flight = max(self.trace.most_in_flight, sent + running)
        return self.functions.accept(Event(ready.call_id, ready.number, self.now))

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

    # -- what the workers write ----------------------------------------------------------------------------------

    def _show(self, event: Event, started: float) -> None:
        if event.call_id not in self._statuses:
            self._of[event.call_id].signs.append((event.call_id, event.number, started))

    def _finish(self, event: Event, started: float, ended: float) -> None:
        if event.call_id not in self._statuses:  # If-None-Match
            self._statuses[event.call_id] = (event.number, started)
            self._of[event.call_id].results.append((event.call_id, event.number, started, ended - started))

    def _record(self, event: Event, cause: Cause) -> None:
        self._of[event.call_id].failures.append((event.call_id, event.number, cause))
