"""``Dispatcher``: decides when and in which container each invocation runs, within the limits of AWS and the machine.

The dispatcher accepts an asynchronous event (202), and holds it while its function is at its limit. After a function
error, it runs the event again, up to ``MaximumRetryAttempts`` times. It gives up an event that is older than
``MaximumEventAgeInSeconds`` or has no retries left, and sends a record of the event to the on-failure destination (S3
or SQS). Waiting events run in the order of arrival as soon as there is capacity; AWS polls instead, first after 1 s and
then less and less often.

There are two kinds of limits. Beyond AWS's limits (concurrency, scaling rate) a synchronous invocation is refused, and
an event waits. Beyond this machine's limit (``Settings.containers``) synchronous invocations wait too. If the machine
cannot create a container at all, the emulator ends, because Lambda has no error for this.

Everything here runs on the event loop's thread: other tasks run only at an ``await``, so there are no locks.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pywren.exceptions import EmulatorError
from pywren.testing.emulator._container import Container, Invocation, Reply
from pywren.testing.emulator._counters import Execution, Tally
from pywren.testing.emulator._faults import FaultPlan
from pywren.testing.emulator._fleet import Fleet, Member
from pywren.testing.emulator._functions import Function, Refusal, Revision
from pywren.testing.emulator._records import (
    EVENT_AGE_EXCEEDED,
    RETRIES_EXHAUSTED,
    ZERO_CONCURRENCY,
    Loss,
    failure_record,
    on_failure_destination,
)
from pywren.testing.emulator._settings import Settings

logger = logging.getLogger(__name__)

DEFAULT_RETRIES = 2
DEFAULT_EVENT_AGE = 21_600

_RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
_ACCOUNT = "ConcurrentInvocationLimitExceeded"
_SCALING = "FunctionInvocationRateLimitExceeded"


@dataclass(eq=False)
class _Job:
    """One accepted invocation; a synchronous invocation has an ``answer``, an asynchronous event does not."""

    order: int
    payload: bytes
    request_id: str
    plan: FaultPlan
    taken: float
    answer: asyncio.Future[Reply] | None = None
    attempts: int = 0
    throttled: bool = False


@dataclass(eq=False)
class _Lane:
    """The running and waiting invocations of one function."""

    function: Function
    running: int = 0
    calls: deque[_Job] = field(default_factory=deque)
    events: deque[_Job] = field(default_factory=deque)
    starts: deque[float] = field(default_factory=deque)

    @property
    def in_flight(self) -> int:
        """The concurrency as AWS would count it: synchronous invocations that wait on this machine would run on AWS."""
        return self.running + len(self.calls)


class Dispatcher:
    """Runs invocations.

    Args:
        make_container: creates a container for a function.
        tally: counts executions.
        find: returns a function by name, because an event runs the revision that is current when the event starts, not
            when it was accepted.
        send_record: sends an on-failure record to a destination ARN; its requests are counted for the caller
            ``lambda``.
        settings: the emulator's settings; the number of containers and the limits apply here.
        unreserved: returns the concurrency that functions without a reservation share; by default, the account's limit
            minus the reservations of the functions that this dispatcher has seen.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        *,
        make_container: Callable[[Function, Revision], Container],
        tally: Tally,
        find: Callable[[str], Function],
        send_record: Callable[[Function, str, bytes], Awaitable[None]],
        settings: Settings,
        unreserved: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tally = tally
        self._find = find
        self._send_record = send_record
        self._limits = settings.limits
        self._unreserved = unreserved or self._left_by_reservations
        self._clock = clock
        self._fleet = Fleet(
            make_container,
            self._is_current,
            most=settings.containers,
            idle_seconds=settings.idle_seconds,
            freed=self._pump,
        )
        self._orders = itertools.count()
        self._lanes: dict[str, _Lane] = {}
        self._delayed: dict[_Job, asyncio.TimerHandle] = {}
        self._answers: set[asyncio.Future[Reply]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake: asyncio.TimerHandle | None = None
        self._waiting_for_idle: list[asyncio.Future[None]] = []
        self._closed = False
        self._failed = asyncio.Event()
        self._fault = EmulatorError("no invocation has failed")

    # -- accepting -------------------------------------------------------------------------------------------

    async def run(self, function: Function, payload: bytes, request_id: str, plan: FaultPlan) -> Reply:
        """Run a synchronous invocation; at AWS's limit, raise ``Refusal`` (``TooManyRequestsException``)."""
        lane = self._lane(function)
        reason = self._why_throttled(lane)
        if reason:
            self._tally.event(function.name, "throttles")
            raise Refusal("TooManyRequestsException", "Rate Exceeded.", reason)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._answers.add(answer)
        job = self._job(payload, request_id, plan, answer)
        lane.calls.append(job)
        self._pump()
        try:
            return await answer
        finally:
            self._answers.discard(answer)
            if job in lane.calls:  # the caller disconnected while it waited
                lane.calls.remove(job)
                self._pump()

    def accept(self, function: Function, payload: bytes, request_id: str, plan: FaultPlan) -> None:
        """Accept an asynchronous event."""
        name = function.name
        self._tally.event(name, "accepted")
        if self._strikes(plan, "drop_event"):
            self._tally.event(name, "dropped")
            return
        copies = 1
        if self._strikes(plan, "repeat_event"):
            self._tally.event(name, "repeated")
            copies = 2
        lane = self._lane(function)
        for _ in range(copies):
            self._queue(lane, self._job(payload, request_id, plan))
        self._pump()

    async def retire(self, function: Function) -> None:
        """End the idle containers of outdated revisions and deleted functions; busy containers end after their call."""
        lane = self._lanes.get(function.name)
        if lane is not None and self._current(function.name) is None:
            self._forget_events(lane)
        await self._fleet.retire()
        self._pump()

    # -- idleness --------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._tasks and not self._delayed and not any(map(_is_busy, self._lanes.values()))

    async def wait_idle(self) -> None:
        """Wait until nothing runs and nothing waits."""
        while not self.idle:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting_for_idle.append(waiter)
            await waiter

    async def close(self) -> None:
        """Drop all waiting invocations and end every container."""
        self._closed = True
        if self._wake is not None:
            self._wake.cancel()
        for timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        self._lanes.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for answer in self._answers:
            answer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._fleet.close()
        self._tell_waiters()

    async def ended(self) -> EmulatorError:
        """Wait until this machine fails to run an invocation, and return the error; Lambda has no such error."""
        await self._failed.wait()
        return self._fault

    # -- choosing --------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Start all invocations that can start now, the oldest first."""
        while not self._closed and any(self._advance(lane, queue) for lane, queue in self._oldest_first()):
            pass
        self._tell_waiters()

    def _oldest_first(self) -> Iterator[tuple[_Lane, deque[_Job]]]:
        waiting = [(lane, queue) for lane in self._lanes.values() for queue in (lane.calls, lane.events) if queue]
        return iter(sorted(waiting, key=lambda entry: entry[1][0].order))

    def _advance(self, lane: _Lane, queue: deque[_Job]) -> bool:
        """Start or discard the first invocation in a queue; tell whether it left the queue."""
        job = queue[0]
        if job.answer is None and self._is_over(lane, job):
            self._unqueue(lane)
            return True
        function = self._current(lane.function.name)
        if function is None or function.current is None:
            self._refuse_missing(lane, queue)
            return True
        lane.function = function
        if job.answer is None and self._must_wait(lane, job):
            return False
        member = self._fleet.take(function, function.current)
        if member is None:
            return False
        if job.answer is None:
            self._unqueue(lane)
        else:
            queue.popleft()
        if member.cold:
            lane.starts.append(self._clock())
        lane.running += 1
        self._spawn(self._execute(lane, job, member))
        return True

    def _is_over(self, lane: _Lane, job: _Job) -> bool:
        """Give up an event that is too old, or whose function has a concurrency of 0; tell whether this happened."""
        function = self._current(lane.function.name)
        if function is None:
            return False
        settings = function.event_invoke
        most = float(settings.get("MaximumEventAgeInSeconds") or DEFAULT_EVENT_AGE) * self._limits.event_age_scale
        if function.reserved_concurrency == 0:
            self._give_up(function, job, ZERO_CONCURRENCY, None)
        elif self._clock() - job.taken > most:
            self._tally.event(function.name, "expired")
            self._give_up(function, job, EVENT_AGE_EXCEEDED, None)
        else:
            return False
        return True

    def _must_wait(self, lane: _Lane, job: _Job) -> bool:
        reason = self._why_throttled(lane)
        if reason and not job.throttled:
            job.throttled = True
            self._tally.event(lane.function.name, "throttles")
        if reason == _SCALING and self._wake is None:
            delay = lane.starts[0] + self._limits.scaling_seconds - self._clock()
            self._wake = asyncio.get_running_loop().call_later(max(delay, 0.0), self._wake_up)
        return bool(reason)

    def _wake_up(self) -> None:
        self._wake = None
        self._pump()

    def _why_throttled(self, lane: _Lane) -> str:
        """Return Lambda's reason why another invocation may not start now; ``""`` if the invocation may start."""
        reserved = lane.function.reserved_concurrency
        if reserved is not None:
            if lane.in_flight >= reserved:
                return _RESERVED
        else:
            shared = sum(one.in_flight for one in self._lanes.values() if one.function.reserved_concurrency is None)
            if shared >= self._unreserved():
                return _ACCOUNT
        return "" if self._may_scale(lane) else _SCALING

    def _may_scale(self, lane: _Lane) -> bool:
        long_ago = self._clock() - self._limits.scaling_seconds
        while lane.starts and lane.starts[0] <= long_ago:
            lane.starts.popleft()
        if len(lane.starts) < self._limits.scaling_environments:
            return True
        current = lane.function.current
        return current is not None and self._fleet.has_warm(current)

    def _left_by_reservations(self) -> int:
        reserved = sum(lane.function.reserved_concurrency or 0 for lane in self._lanes.values())
        return self._limits.concurrency - reserved

    # -- running ---------------------------------------------------------------------------------------------

    async def _execute(self, lane: _Lane, job: _Job, member: Member) -> None:
        job.attempts += 1
        self._tally.event(lane.function.name, "running")
        cold, at_once, reply, error = member.cold, lane.running, None, None
        try:
            reply = await member.run(self._invocation(job, cold=cold))
        except Exception as caught:  # a failure of the emulator itself, never of the function; it ends the emulator
            error = caught
            logger.exception("invocation %s of %s could not be run", job.request_id, lane.function.name)
        finally:
            lane.running -= 1
            self._tally.event(lane.function.name, "running", -1)
            self._fleet.give_back(member, alive=reply is not None and reply.alive)
        if reply is not None:
            self._count(lane.function, job, member, reply, cold=cold, at_once=at_once)
        if error is not None:
            self._fail(lane.function.name, error)
        if job.answer is not None:
            _answer(job.answer, reply, error)
        elif reply is not None and reply.error:
            self._retry(lane, job, reply)

    def _invocation(self, job: _Job, *, cold: bool) -> Invocation:
        faults = job.plan.faults
        kill_at = faults.kill_at if self._strikes(job.plan, "kill_container") else None
        return Invocation(
            job.request_id,
            job.payload,
            kill_at=kill_at,
            kill_after=job.plan.moment() if kill_at == "running" else 0.0,
            start_delay=faults.cold_start_latency if cold else 0.0,
        )

    def _count(self, function: Function, job: _Job, member: Member, reply: Reply, *, cold: bool, at_once: int) -> None:
        ended = Execution(
            function=function.name,
            request_id=job.request_id,
            container=member.number,
            cold=cold,
            duration_ms=reply.duration_ms,
            billed_ms=reply.billed_ms,
            init_ms=reply.init_ms,
            max_memory_mb=reply.max_memory_mb,
            outcome=reply.outcome,
        )
        self._tally.execution(ended, memory_mb=member.revision.memory_mb, at_once=at_once)

    def _retry(self, lane: _Lane, job: _Job, reply: Reply) -> None:
        """Schedule a retry of a failed event, or give the event up if the function's settings allow no more retries."""
        function = self._current(lane.function.name)
        if function is None:
            return
        retries = function.event_invoke.get("MaximumRetryAttempts")
        if job.attempts > (DEFAULT_RETRIES if retries is None else retries):
            self._give_up(function, job, RETRIES_EXHAUSTED, reply)
            return
        delays = self._limits.retry_delays
        delay = delays[min(job.attempts, len(delays)) - 1] if delays else 0.0
        self._tally.event(function.name, "waiting")
        self._delayed[job] = asyncio.get_running_loop().call_later(delay, self._run_again, lane, job)

    def _run_again(self, lane: _Lane, job: _Job) -> None:
        del self._delayed[job]
        self._tally.event(lane.function.name, "waiting", -1)
        self._tally.event(lane.function.name, "retried")
        job.order = next(self._orders)
        self._queue(lane, job)
        self._pump()

    def _fail(self, function: str, error: Exception) -> None:
        self._fault = EmulatorError(f"cannot create a container for {function}: {error}")
        self._failed.set()

    # -- giving up -------------------------------------------------------------------------------------------

    def _give_up(self, function: Function, job: _Job, condition: str, reply: Reply | None) -> None:
        destination = on_failure_destination(function)
        if destination:
            loss = Loss(job.request_id, condition, job.payload, job.attempts, reply)
            self._spawn(self._record(function, destination, loss))

    async def _record(self, function: Function, destination: str, loss: Loss) -> None:
        try:
            await self._send_record(function, destination, failure_record(function, loss, datetime.now(timezone.utc)))
        except Exception as error:  # noqa: BLE001 -- AWS, too, drops a record that the destination refuses
            logger.warning("the record of event %s did not reach %s: %s", loss.request_id, destination, error)
        else:
            self._tally.event(function.name, "records")

    def _refuse_missing(self, lane: _Lane, queue: deque[_Job]) -> None:
        """Discard the first invocation in the queue of a deleted function."""
        if queue[0].answer is None:
            self._unqueue(lane)
            return
        missing = Refusal("ResourceNotFoundException", f"Function not found: {lane.function.arn}")
        _answer(queue.popleft().answer, None, missing)

    def _forget_events(self, lane: _Lane) -> None:
        while lane.events:
            self._unqueue(lane)

    # -- helpers ---------------------------------------------------------------------------------------------

    def _lane(self, function: Function) -> _Lane:
        lane = self._lanes.setdefault(function.name, _Lane(function))
        lane.function = function
        return lane

    def _job(
        self, payload: bytes, request_id: str, plan: FaultPlan, answer: asyncio.Future[Reply] | None = None
    ) -> _Job:
        return _Job(next(self._orders), payload, request_id, plan, self._clock(), answer)

    def _queue(self, lane: _Lane, job: _Job) -> None:
        lane.events.append(job)
        self._tally.event(lane.function.name, "waiting")

    def _unqueue(self, lane: _Lane) -> None:
        lane.events.popleft()
        self._tally.event(lane.function.name, "waiting", -1)

    def _strikes(self, plan: FaultPlan, kind: str) -> bool:
        struck = plan.strikes(kind)
        if struck:
            self._tally.fault(kind)
        return struck

    def _current(self, name: str) -> Function | None:
        try:
            return self._find(name)
        except Refusal:
            return None

    def _is_current(self, function: Function, revision: Revision) -> bool:
        found = self._current(function.name)
        return found is not None and found.current is revision

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._pump()

    def _tell_waiters(self) -> None:
        if self._waiting_for_idle and (self._closed or self.idle):
            waiting, self._waiting_for_idle = self._waiting_for_idle, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)


def _is_busy(lane: _Lane) -> bool:
    return bool(lane.running or lane.calls or lane.events)


def _answer(waiter: asyncio.Future[Reply] | None, reply: Reply | None, error: Exception | None) -> None:
    if waiter is None or waiter.done():  # done: the caller has disconnected
        return
    if reply is not None:
        waiter.set_result(reply)
    elif error is not None:
        waiter.set_exception(error)
