"""``Driver``: keeps the record of one callset, and applies the decisions of the pure modules to it.

Which thread does what, and which lock guards what
--------------------------------------------------
The driver has no thread of its own and sends nothing. The threads that invoke calls (``client.invoking``) ask it for
the next call and report what the service answered. The thread that polls the storage, or the pump of the local pool,
reports what it has found, and asks what to do.

One lock guards the record: ``Service.lock``, which the drivers of all callsets of one service share, since they also
share the room and the facts. So there is no order in which the locks of two drivers would have to be taken. It is
innermost: a thread that holds it runs only the pure modules, takes no other lock, sends nothing and runs no code of the
program. It is reentrant, because the garbage collector may run a destructor that cancels a call. Threads that wait for
a call of one callset to become due wait for ``changed``, a condition on this lock.

A call that ends may make room for a call of another callset. Its driver cannot tell the threads of that one, which have
ended: the thread that polls asks ``to_wake`` whom to tell, and tells them when it holds no lock.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from pywren.client.driver.budget import Exceeded, affordable
from pywren.client.driver.calls import AttemptRecord, CallRecord, ChunkRecord, Lost, Phase
from pywren.client.driver.capacity import USUAL_CONCURRENCY, room
from pywren.client.driver.chunks import ENOUGH, Situation, Wave, chunk_size, first_wave, time_limit
from pywren.client.driver.policy import Policy, too_late
from pywren.client.driver.record import FOLLOWING, CallsetRecord, Counts
from pywren.client.driver.retrying import Again, Over, after, described, was_handed_back, was_handed_back_too_often
from pywren.client.driver.service import Service, Waker
from pywren.client.driver.stragglers import stragglers
from pywren.client.driver.suspicion import suspects
from pywren.cloud.prices import Usage
from pywren.exceptions import CallError, CallLostError
from pywren.system import shutdown
from pywren.wire.cause import CURABLE, NEVER_RAN, Cause
from pywren.wire.keys import chunk_name

logger = logging.getLogger(__name__)

TIME_BOUND = 3.0
"""For how many times the longest life of one attempt a call that never ran is invoked again."""

_THROTTLED_PAUSE = 1.0  # the most seconds before a throttled attempt is offered again; the pace limits how many are


CANCELLED, OUTRUN = "the call was cancelled", "another attempt ended first"
"""The errors of attempts that were cancelled with their call, or because another attempt brought the outcome."""


FOLLOWS = "the futures among the arguments are not done"
"""Why a call is held that follows others."""

_TOO_LATE = "the time of the map is over"


class Attempt(NamedTuple):
    """One attempt of a call, as ``ResponseFuture.attempts`` shows it. Times are in seconds since the epoch.

    Args:
        number: 1 for the first attempt.
        cause: why it ended without a value, in one or two words; ``None`` if it returned or is still in flight.
        error: the error in words; empty if there was none.
        request_id: the service's id of the invocation; that of a relay, a slash and a number if the relay made it.
        invoked_at: when the service accepted it.
        started_at: when it began to run, by the worker's clock; ``None`` if that is unknown.
        where: the worker that ran it: a log stream, an instance or a process.
        backup: whether it was started beside another attempt (``map(…, backup=True)``).
    """

    number: int
    cause: str | None
    error: str
    request_id: str
    invoked_at: float
    started_at: float | None
    where: str
    backup: bool


class Ready(NamedTuple):
    """The next attempt to invoke: that of a call; or a chunk, by its name, and the attempt of its first call."""

    call_id: str
    number: int


class Planned(NamedTuple):
    """What is planned for a chunk.

    Args:
        attempts: the attempt of each of its calls, as its plan says.
        left: those of the calls that have not ended.
        time_limit: seconds after which its worker hands back what it has not begun; ``None`` for no limit.
    """

    attempts: Mapping[str, int]
    left: list[str]
    time_limit: float | None


class Later(NamedTuple):
    """Nothing may be invoked now. ``wait`` is in seconds; ``None`` until the record changes.

    Args:
        wait: how long to wait.
        reason: why the next call is held back on purpose; empty if nothing is held, or if it only waits for its time.
    """

    wait: float | None
    reason: str = ""


class Ended(NamedTuple):
    """A call that the driver gives up. ``message`` names all attempts; empty if there was only one."""

    call_id: str
    number: int
    cause: Cause
    message: str


class Left(NamedTuple):
    """A call that its chunk has left behind, and that the driver gives up.

    Args:
        call_id: the call.
        error: its error.
        message: names all attempts; empty if there was only one.
    """

    call_id: str
    error: CallError
    message: str


class Stop(NamedTuple):
    """A call that ends because the map's budget is spent, or its time is over. ``attempts`` is how many were made."""

    call_id: str
    attempts: int
    error: CallError


class Driver:
    """Owns the calls of one callset. See the top of this module for its threads and its lock.

    Args:
        call_ids: the calls that the driver has to invoke, in order.
        policy: what is allowed.
        service: what the callset shares with others; by default it is alone.
        clock: returns monotonic seconds, if the callset is alone.
        jitter: returns a random number in [0, 1).
        first_attempt: the number of the first attempt of each call.
        following: those of the calls that are held until ``let_go``, because they follow other calls.
        sizes: about how many bytes each call takes in the payload of a chunk.
    """

    def __init__(
        self,
        call_ids: Iterable[str],
        policy: Policy,
        *,
        service: Service | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        first_attempt: int = 1,
        following: Container[str] = (),
        sizes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.policy = policy
        self._sizes = sizes
        self.waker: Waker | None = None
        """Called when there is room again after ``next_call`` has found none; a weak reference to a function."""
        self._jitter = jitter
        self.first_attempt = first_attempt
        self._join(service or Service(clock))
        self._made = self._now()
        self._look_began = math.nan
        self._deadline = math.inf if policy.timeout is None else self._clock() + policy.timeout
        self._exceeded: Exceeded | None = None
        self._is_awaited = False  # True from the first wait_until_invoked() on
        self._lost: dict[str, ChunkRecord] = {}  # chunks whose calls are being taken back
        with self._lock:
            self._record = CallsetRecord(call_ids, self._service, following)
            # Whether calls wait until more is known of the first ones, and how many of these have made way for others.
            self._others, self._made_way = self._in_flight(), 0
            self._learns = self._wave().calls < len(self._record.calls)

    def _join(self, service: Service) -> None:
        self._service, self._clock, self._now = service, service.clock, service.now
        self._lock = service.lock
        self.changed = threading.Condition(self._lock)

    def __del__(self) -> None:
        # On any thread, at any time, perhaps under the lock: so this takes none.
        record = getattr(self, "_record", None)
        if record is not None:  # __init__() has not failed
            self._service.gone.append((record, self.waker))

    # -- for threads that invoke -------------------------------------------------------------------------------

    def next_call(self) -> Ready | Later | None:
        """Return the next attempt to invoke, or how long to wait for one; ``None`` if no call is queued.

        Whoever gets an attempt must report ``accepted``, ``throttled`` or ``refused``.
        """
        with self._lock:
            step, call = self.peek(), self._record.first_held()
            # What other threads still invoke ends later and later, and no thread takes its place.
            self._record.times.idle(step is not None or call is None)
            if step is not None or call is None:
                return step
            wait = self._service.pace.wait(self._clock())
            return Later(wait) if wait > 0.0 else self._open(self._together(call))

    def peek(self) -> Later | None:
        """Return why nothing may be invoked now; ``None`` if only the pace decides, or if no call is queued."""
        with self._lock:
            call = self._record.first_held()
            if call is None:
                return None
            if call.due == FOLLOWING:
                return Later(None, FOLLOWS)
            if self._is_late():
                return Later(None, _TOO_LATE)
            wait = max(call.due - self._clock(), self._learns_for() if self._learns else 0.0)
            if wait > 0.0:
                return Later(wait)
            if self._service.gone:
                self._service.forget_gone()
            space = room(self._service, self.policy, self._now())
            if space.calls <= 0:
                if self.waker is not None:
                    self._service.wait_for_room(self.waker)
                return Later(None, space.reason)
            # Polls of this callset show when calls in flight leave something of the budget: no waker is needed.
            space = space if self.policy.budget is None else affordable(self.policy.budget)
            return None if space.calls > 0 else Later(None, space.reason)

    def let_go(self, call_id: str) -> bool:
        """Let a call go that has followed others. Return False if it is not held any more, because it was ended."""
        with self._lock:
            call = self._record.calls[call_id]
            if call.phase is not Phase.HELD or call.due != FOLLOWING:
                return False
            self._made = self._now()  # the service had nothing to accept of this call before: see shut_out()
            self._record.hold(call, self._clock())
            self.changed.notify_all()
            return True

    def to_wake(self) -> list[Callable[[], object]]:
        """Return functions to call, without a lock, because calls of other callsets have waited for room."""
        with self._lock:
            return self._service.take_waiting(lambda: room(self._service, self.policy, self._now()).calls)

    def wait(self, seconds: float) -> None:
        """Wait until something has changed that may let a call go, but not longer than some seconds."""
        with self._lock:
            self.changed.wait(seconds)

    def take(self, call_id: str) -> Ready:
        """Take a held call out of turn. The pool of this machine, which keeps its own queue, uses this."""
        with self._lock:
            return self._open(self._record.calls[call_id])

    def expected_invocations(self) -> int:
        """Return how many invocations the calls in the queue need, as far as is known now."""
        with self._lock:
            held = self._record.in_phase[Phase.HELD]
            if self.policy.chunksize is not None:
                return math.ceil(held / self.policy.chunksize)
            if self._learns:
                return max(0, self._wave().calls + self._made_way - len(self._record.calls) + held)
            return math.ceil(held / chunk_size(self._situation())) if held else 0

    def is_learning(self) -> bool:
        """Tell whether calls wait until it is known how long the first ones take, of which some were invoked."""
        with self._lock:
            began = not math.isnan(self._record.times.began)
            return began and self._learns and self._wave().calls < len(self._record.calls)

    def _wave(self) -> Wave:
        calls, times = len(self._record.calls), self._record.times
        if self.policy.chunksize is not None:
            return Wave(calls, math.inf)
        short = times.ended > 0.0 and chunk_size(self._situation()) > 1
        return first_wave(calls, self._others, self._slots(), self._waited(), times.invoking, short=short)

    def _waited(self) -> float:
        """Return how many seconds ago the first call was invoked."""
        began = self._record.times.began
        return 0.0 if math.isnan(began) else self._clock() - began

    def _learns_for(self) -> float:
        """Return for how many seconds nothing is invoked, unless more is known before."""
        calls, wave = len(self._record.calls), self._wave()
        if wave.calls >= calls:
            self._end_learning()
        invoked = calls - self._record.in_phase[Phase.HELD]
        return 0.0 if invoked < wave.calls + self._made_way else wave.until - self._waited()

    def _end_learning(self) -> None:
        self._learns = False
        self.changed.notify_all()

    def _in_flight(self) -> int:
        return self._service.outstanding() - self._service.in_phase[Phase.HELD]

    def _slots(self) -> int:
        policy = self.policy
        slots = max(policy.concurrency or USUAL_CONCURRENCY, self._service.peak)
        return slots if policy.max_concurrency is None else min(slots, policy.max_concurrency)

    def _size_and_limit(self) -> tuple[int, float | None]:
        if self.policy.chunksize is not None:
            return self.policy.chunksize, None
        if self._learns:  # it is for one that has made way
            return 1, None
        now = self._situation()
        size = chunk_size(now)
        return size, time_limit(size, now.duration)

    def _situation(self) -> Situation:
        record, times = self._record, self._record.times
        following = record.first_held()
        return Situation(
            left=record.in_phase[Phase.HELD],
            slots=self._slots(),
            in_flight=self._in_flight(),
            ended=times.ended,
            busy=times.busy + times.unfinished,
            invoking=max(times.invoking, 1.0 / self._service.pace.rate),
            doubtful=times.doubtful,
            calls=len(record.calls),
            again=following is not None and was_handed_back(following),
        )

    def _together(self, call: CallRecord) -> CallRecord:
        """Return a call that is next in the queue, or a chunk that begins with it."""
        if self.policy.chunksize == 1 or call.alone or type(call) is ChunkRecord:
            return call
        size, limit = self._size_and_limit()
        if self.policy.budget is not None:
            size = min(size, affordable(self.policy.budget).calls)
        calls = self._record.take_together(self._clock(), size, self._sizes, self.policy.chunk_room)
        if len(calls) < 2:
            return call  # alone it leaves a status of its own, which takes one object less
        plan = {one.call_id: self._next_number(one) for one in calls}
        return self._record.join(chunk_name(call.call_id, plan[call.call_id]), plan, calls, limit)

    def _next_number(self, call: CallRecord) -> int:
        return call.attempts[-1].number + 1 if call.attempts else self.first_attempt

    def _open(self, call: CallRecord) -> Ready:
        number = self._next_number(call)
        if type(call) is ChunkRecord:
            number = call.number
            for one in call.calls.values():
                self._begin(one, AttemptRecord(call.plan[one.call_id]), call)
        attempt = AttemptRecord(number, backup=call.backup)
        if type(call) is ChunkRecord:
            call.attempts += (attempt,)
        else:
            self._begin(call, attempt)
        call.backup = False
        self._record.move(call, Phase.SENDING)
        return Ready(call.call_id, number)

    def _begin(self, call: CallRecord, attempt: AttemptRecord, chunk: ChunkRecord | None = None) -> None:
        call.attempts += (attempt,)
        if self.policy.budget is not None:
            self.policy.budget.take(attempt, chunk)

    def _give_back(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """Have the budget forget what the service did not accept: an attempt of a call, or of all calls of a chunk."""
        budget = self.policy.budget
        if budget is not None:
            budget.give_back(attempt)
            for one in call.calls.values() if type(call) is ChunkRecord else ():
                budget.give_back(one.attempts[-1])

    def accepted(self, call_id: str, number: int, request_id: str, sent_at: float) -> None:
        """Record that the service has accepted an attempt.

        Args:
            call_id: the call.
            number: the attempt.
            request_id: the service's id of the invocation; empty if it gave none.
            sent_at: when, by the storage's clock, in seconds since the epoch.
        """
        with self._lock:
            now = self._clock()
            self._service.pace.accepted(now)
            self._record.times.accepted(now)
            call, attempt = self._find(call_id, number)
            attempt.sent = self._service.last_accepted = self._now()
            attempt.sent_at, attempt.request_id = sent_at, request_id
            if type(call) is ChunkRecord:
                self._accept_calls(call, attempt)
            elif self.policy.budget is not None:
                self.policy.budget.accepted(attempt)
            # Its outcome may have been found before the service's answer arrived here, and the next attempt may be on
            # its way already.
            if call.phase is Phase.SENDING and attempt is call.current:
                self._record.move(call, Phase.SENT)
            self._tell_if_invoked()

    def throttled(self, call_id: str, number: int) -> None:
        """Record that the service was too busy. The call goes back into the queue, and the attempt does not count."""
        with self._lock:
            self._service.pace.throttled(self._clock())
            self.give_back(call_id, number, self._jitter() * _THROTTLED_PAUSE)

    def give_back(self, call_id: str, number: int, delay: float = 0.0) -> None:
        """Record that an attempt was not made after all. Its call goes back into the queue, for some seconds."""
        with self._lock:
            call, attempt = self._find(call_id, number)
            call.attempts = tuple(one for one in call.attempts if one is not attempt)
            self._give_back(call, attempt)
            taken = call.phase is Phase.SENT and not any(one.in_flight for one in call.attempts)  # by accept_rest()
            if call.phase is Phase.SENDING or taken:
                call.backup = attempt.backup
                self._record.hold(call, self._clock() + delay)
            self.changed.notify_all()

    def refused(self, call_id: str, number: int, error: BaseException) -> bool:
        """Record that the service refuses the call for good. Return whether the call has no other attempt in flight."""
        text = text_of(error)
        with self._lock:
            call, attempt = self._find(call_id, number)
            if type(call) is ChunkRecord:
                attempt.ended, attempt.cause, attempt.error = self._now(), Cause.REFUSED, text
                for one in list(call.calls.values()):
                    self._close(*self._find(one.call_id, call.plan[one.call_id]), Cause.REFUSED, text)
                    self._finish(one, failed=True)
                return True
            self._close(call, attempt, Cause.REFUSED, text)
            others = [one for one in call.attempts if one.in_flight]
            if not others:
                self._finish(call, failed=True)
            elif call.phase is Phase.SENDING:
                self._record.move(call, Phase.SENT)
                self._tell_if_invoked()
            return not others

    def accept_rest(self, sent_at: float) -> None:
        """Record as accepted what some thread was interrupted at while it invoked it: the service may have it.

        Args:
            sent_at: the time by the storage's clock, in seconds since the epoch.
        """
        with self._lock:
            units = (*self._record.calls.values(), *self._record.chunks.values())
            calls = [one for one in units if one.phase is Phase.SENDING and one.chunk is None]
            for call in calls:
                if call.current is None or not math.isnan(call.current.sent):  # interrupted before it was taken
                    self._record.hold(call, self._clock())
                else:
                    self.accepted(call.call_id, call.current.number, "", sent_at)

    def settled(self, call_id: str, *, failed: bool, cancelled: bool = False) -> None:
        """Record that a call has ended, whatever became of its attempts. Nothing is invoked for it any more."""
        with self._lock:
            call = self._record.calls.get(call_id)
            if call is not None:
                self._finish(call, failed=failed)
                if cancelled:
                    _cancel_all(call.attempts, CANCELLED)

    def in_flight(self, call_ids: Iterable[str]) -> dict[str, list[int]]:
        """Return the attempts of calls that may still bring a status, suspected ones included."""
        with self._lock:
            calls = ((one, self._record.calls.get(one)) for one in call_ids)
            return {
                call_id: [one.number for one in call.attempts if math.isnan(one.ended)]
                for call_id, call in calls
                if call is not None and call.chunk is None  # the key of a chunk is that of no attempt
            }

    def not_invoked_yet(self) -> int:
        """Return how many calls were never invoked, or are just being invoked: no service has accepted them."""
        with self._lock:
            if not (self._record.in_phase[Phase.HELD] or self._record.in_phase[Phase.SENDING]):
                return 0
            calls = self._record.calls.values()
            return sum(one.phase is Phase.SENDING or (one.phase is Phase.HELD and not one.attempts) for one in calls)

    def has_begun(self) -> bool:
        """Tell whether any call may have been invoked. If not, the storage knows nothing about the callset."""
        with self._lock:
            return self._record.counts().held < len(self._record.calls) or self._record.retried > 0

    def has_uninvoked(self) -> bool:
        """Tell whether a call waits in the queue that was never invoked."""
        with self._lock:
            # The queue has an entry for each such call, and few others: this finds one at once, or searches little.
            calls = (self._record.unit(name) for _, _, name in self._record.queue)
            return any(one is not None and one.phase is Phase.HELD and not one.attempts for one in calls)

    def wake_waiting(self) -> None:
        """Wake the threads that are in ``wait``."""
        with self._lock:
            self.changed.notify_all()

    def wait_until_invoked(self, timeout: float | None) -> bool:
        """Wait until every call was invoked. Return False if ``timeout``, in seconds, runs out first."""
        with self._lock:
            self._is_awaited = True
            return self.changed.wait_for(self._is_all_invoked, timeout)

    def _is_all_invoked(self) -> bool:
        # Asked after each invocation, perhaps of 100,000: so calls are not counted.
        return not (self._record.in_phase[Phase.SENDING] or self.has_uninvoked())

    def _tell_if_invoked(self) -> None:
        if self._is_awaited and self._is_all_invoked():
            self.changed.notify_all()

    def drop_held(self) -> list[str]:
        """Take all calls out of the queue that no attempt was ever made of, and return their ids."""
        with self._lock:
            dropped = [one for one in self._record.calls.values() if one.phase is Phase.HELD and not one.attempts]
            for call in dropped:
                self._finish(call, failed=True)
            return [call.call_id for call in dropped]

    def dropped(self) -> list[str]:
        """Return the calls that have ended and that no attempt was ever made of."""
        with self._lock:
            calls = self._record.calls.values()
            return [one.call_id for one in calls if one.phase is Phase.ENDED and not one.attempts]

    # -- for the thread that looks for outcomes ----------------------------------------------------------------

    def begin_look(self) -> None:
        """Record that the client begins to look. What ends from now on may only be found with the next look."""
        with self._lock:
            self._look_began = self._now()

    def _seen(self) -> float:
        """Return up to when the client has seen what has ended. To read a thousand outcomes takes a second more."""
        return self._now() if math.isnan(self._look_began) else self._look_began

    def look(self) -> None:
        """Record that the client is looking at the callset now. Everything found must be reported before ``decide``."""
        with self._lock:
            self._service.look()

    def running(self, call_id: str, number: int, started_at: float | None, where: str) -> None:
        """Record that the worker of an attempt has shown that it runs the call; or that of a chunk, by its name."""
        with self._lock:
            chunk = self._record.chunks.get(call_id)
            if chunk is not None:
                self._show(chunk, started_at, where)
                return
            call, attempt = self._find(call_id, number)
            self._note_start(call, attempt, started_at, where)
            if not math.isnan(attempt.ended) or call.phase is Phase.ENDED:
                return  # its last beacon may still be in the storage
            self._count_again(attempt)
            if attempt.suspected:
                attempt.suspected, attempt.cause = False, None
            attempt.shown = self._now()
            # A call that is held because this attempt was suspected needs no other; one that is held for a backup does.
            if not (call.phase is Phase.HELD and call.backup):
                self._record.move(call, Phase.RUNNING)

    def ended(
        self,
        call_id: str,
        number: int,
        started_at: float | None,
        where: str,
        *,
        failed: bool,
        cause: Cause | None = None,
        error: str = "",
        usage: Usage | None = None,
        seconds: float | None = None,
    ) -> None:
        """Record that a call has its outcome: a value, or an error that counts, with its cause, text and costs.

        ``seconds`` is how long its worker had it, as far as that tells how long it will have others.
        """
        with self._lock:
            call, attempt = self._find(call_id, number)
            if started_at is not None or not failed:
                self._note_start(call, attempt, started_at, where)
            is_news = math.isnan(attempt.ended)
            if is_news:
                attempt.ended = self._now()
                self._charge(attempt, usage)
                if seconds is not None:
                    self._record.times.add(seconds, math.nan if call.chunk else self._seen() - attempt.sent)
            self._record.note_end(call, attempt)
            self._finish(call, failed=failed)
            if is_news:  # after the statistics, for which an attempt that was suspected stays one
                attempt.cause, attempt.error = cause, error
            _cancel_all(call.attempts, OUTRUN)

    def failed(
        self,
        call_id: str,
        number: int,
        cause: Cause,
        error: BaseException,
        started_at: float | None = None,
        where: str = "",
        usage: Usage | None = None,
    ) -> Again | Over | None:
        """Record that an attempt ended without a value, and return what to do.

        With ``Again`` the call is in the queue already. With ``Over`` the caller ends the call. ``None`` means that
        nothing is to be done: another attempt is in flight, or the end of this attempt was known.
        """
        # Before the lock is taken: both may run code of the program.
        text, wanted = text_of(error), _is_one_of(error, self.policy.retry_on)
        with self._lock:
            call, attempt = self._find(call_id, number)
            if call.phase is Phase.ENDED or not math.isnan(attempt.ended):
                return None
            attempt.where = attempt.where or where
            attempt.started_at = started_at if attempt.started_at is None else attempt.started_at
            self._close(call, attempt, cause, text, usage)
            return self._follow(call, attempt, wanted)

    def outrun(self, call_id: str) -> Again | Over | None:
        """Record that an attempt in flight may have ended in vain: a status that is not believed stood in its way.

        Another attempt is made beside it. If it has not ended, its result still counts. For what is returned see
        ``failed``.
        """
        with self._lock:
            call = self._record.unit(call_id)
            attempt = None if call is None else call.current
            if call is None or attempt is None or type(call) is ChunkRecord or not self.policy.retries:
                return None
            if call.phase not in (Phase.SENT, Phase.RUNNING) or not attempt.in_flight:
                return None
            attempt.suspected, attempt.cause, attempt.error = True, Cause.VANISHED, OUTRUN
            self._record.note_suspected(call, attempt, Cause.VANISHED)
            return self._follow(call, attempt, wanted=False)

    def review(self) -> None:
        """Estimate anew how long calls take. All ends that were found must have been reported.

        It is of use only at once: what has ended meanwhile, and is not known yet, looks as if it ran still.
        """
        if self.policy.chunksize is not None:
            return
        with self._lock:
            self._record.review(self._seen())
            if not self._learns:
                return
            ended = self._record.counts().done
            if ended >= ENOUGH and chunk_size(self._situation()) > 1:
                self._end_learning()
            else:
                # For each call that has ended another one may begin: the service is kept busy.
                self._made_way = ended
                self.changed.notify_all()

    def decide(self) -> list[Ended]:
        """Suspect attempts, start backups, and return the calls that must end with an error now."""
        with self._lock:
            self._service.forget_gone()
            now = self._now()
            over = []
            for call, attempt, cause in suspects(self._record, self.policy, now):
                attempt.suspected, attempt.cause = True, cause
                if type(call) is ChunkRecord:
                    self._lose(call, cause, CallLostError(f"the call is lost: its worker has vanished ({cause.value})"))
                    continue
                if self.policy.budget is not None:
                    self.policy.budget.close(attempt, None)
                step = self._follow(call, attempt, wanted=False)
                if isinstance(step, Over):
                    over.append(Ended(call.call_id, attempt.number, cause, step.message))
            if self.policy.budget is not None:
                self.policy.budget.review(now)
            if self.policy.backup and not self._is_stopped():
                for call in stragglers(self._record, now):
                    call.backup = True
                    self._record.hold(call, self._clock())
            return over

    def must_stop(self) -> bool:
        """Tell whether calls are to be stopped, because the budget is spent or the time of the map is over."""
        with self._lock:
            return self._is_stopped()

    def stops(self) -> list[Stop]:
        """Return the calls that end now: at the end of the map's time all, and when its budget is spent those held."""
        with self._lock:
            budget = self.policy.budget
            if self._is_late():
                left = [one for one in self._record.calls.values() if one.phase is not Phase.ENDED]
                return [
                    Stop(one.call_id, len(one.attempts), too_late(self.policy, invoked=bool(one.attempts)))
                    for one in left
                ]
            if budget is None or not budget.is_spent:
                return []
            held = list(self._held())
            running = [one for one in held if any(attempt.in_flight for attempt in one.attempts)]
            for call in running:
                self._put_back(call)
            rest = [one for one in held if one.phase is Phase.HELD]
            if self._exceeded is None and rest:
                count = sum(not one.attempts for one in rest)
                self._exceeded = Exceeded(budget.dollars, budget.spent, budget.in_flight, count)
            known = self._exceeded
            return [Stop(one.call_id, len(one.attempts), known.error(described(one, None))) for one in rest if known]

    def time_left(self) -> float | None:
        """Return how many seconds are left until calls are stopped; ``None`` if they never are, 0.0 if they are now."""
        return None if math.isinf(self._deadline) else max(0.0, self._deadline - self._clock())

    def overdue(self, now: float, grace: float) -> list[Ended]:
        """Return the calls whose latest attempt can no longer bring a status.

        Args:
            now: the time by the storage's clock, in seconds since the epoch.
            grace: seconds that a status may take to arrive.
        """
        if self.policy.event_age is None:
            return []
        longest = self.policy.event_age + self.policy.job_max_runtime + grace
        with self._lock:
            found = []
            for chunk in self._record.chunks.values():
                # It may wait as long as a call, and then runs its calls one after the other.
                end = chunk.current.sent_at + longest + self.policy.chunk_runtime if chunk.current else math.nan
                if chunk.phase in (Phase.SENT, Phase.RUNNING) and now > end:
                    text = "the call is lost: the chunk that it was in was invoked long ago, and says nothing of it"
                    self._lose(chunk, Cause.VANISHED, CallLostError(text))
            for call in self._record.calls.values():
                last = call.current
                if call.chunk is not None or call.phase not in (Phase.SENT, Phase.RUNNING):
                    continue
                if last is not None and now > last.sent_at + longest:
                    found.append(Ended(call.call_id, last.number, last.cause or Cause.DROPPED, ""))
            return found

    def shut_out(self, grace: float) -> list[str]:
        """Return the calls in the queue if the service accepts nothing any more.

        It has accepted nothing, of this callset or another, for longer than an attempt can live. So the calls do not
        wait for others to make room. Those that follow other calls are not among them.

        Args:
            grace: seconds that a status may take to arrive.
        """
        if self.policy.event_age is None:
            return []
        longest = self.policy.event_age + self.policy.job_max_runtime + grace
        with self._lock:
            if self._now() - max(self._made, self._service.last_accepted) <= longest:
                return []
            return [one.call_id for one in self._held() if one.due != FOLLOWING]

    # -- chunks --------------------------------------------------------------------------------------------------

    def chunk_of(self, name: str) -> Planned | None:
        """Return what is planned for a chunk; ``None`` if there is none."""
        with self._lock:
            chunk = self._record.chunks.get(name)
            return None if chunk is None else Planned(chunk.plan, list(chunk.calls), chunk.time_limit)

    def refused_calls(self, name: str) -> list[str]:
        """Return the calls that were refused with their chunk; a call that was refused alone is its own chunk."""
        with self._lock:
            chunk = self._record.chunks.get(name)
            plan = {} if chunk is None else chunk.plan
            attempts = ((one, self._record.calls[one].attempt(number)) for one, number in plan.items())
            found = [call_id for call_id, one in attempts if one is not None and one.cause is Cause.REFUSED]
            return [name] if chunk is None else found

    def runs_in_chunk(self, call_id: str) -> None:
        """Record that the worker of a chunk has come to one of its calls."""
        with self._lock:
            call = self._record.calls.get(call_id)
            if call is not None and call.chunk is not None and call.phase in (Phase.SENDING, Phase.SENT):
                self._record.move(call, Phase.RUNNING)

    def died(self, chunk: str, cause: Cause, error: CallError) -> None:
        """Record that the worker of a chunk is dead. Its calls are taken back: see ``lost_chunks``."""
        with self._lock:
            found = self._record.chunks.get(chunk)
            if found is not None and found.phase is not Phase.ENDED:
                self._lose(found, cause, error)

    def lost_chunks(self) -> list[str]:
        """Return the chunks whose workers are presumed dead. Once their journals have ended, ``leave`` takes over."""
        with self._lock:
            for one in [one for one in self._lost.values() if one.phase is Phase.ENDED]:
                del self._lost[one.call_id]
            return list(self._lost)

    def leave(self, chunk: str, *, damaged: bool = False) -> list[Left]:
        """Take care of the calls that a chunk has left behind. Return those that must end with an error.

        Args:
            chunk: the name of the chunk, whose journal has ended.
            damaged: whether it has ended with something that neither its worker nor a client may have written.
        """
        with self._lock:
            found = self._record.chunks.get(chunk)
            if found is None or not found.calls:
                return []
            lost = found.lost or _why_left(damaged)
            if found.current is not None:
                # One that has handed calls back has ended as it should.
                found.current.cause = None if lost.cause is Cause.HANDED_BACK else lost.cause
                found.current.ended = self._now()
            text, over = text_of(lost.error), []
            for index, call in enumerate(list(found.calls.values())):
                attempt = call.attempt(found.plan[call.call_id])
                if attempt is None:  # the chunk waits to be invoked
                    self._record.hold(call, self._clock())
                    continue
                cause = self._cause_of_call(lost.cause, index)
                self._close(call, attempt, cause, "" if cause is Cause.HANDED_BACK else text)
                step = self._follow(call, attempt, wanted=False)
                if isinstance(step, Over):
                    over.append(Left(call.call_id, lost.error, step.message))
            return over

    def _cause_of_call(self, cause: Cause, index: int) -> Cause:
        """Return why the attempt of a call has ended that was left behind, the first one or a later one."""
        if cause in NEVER_RAN or cause is Cause.REFUSED:
            return cause
        if self.policy.retries == 0:
            # An outcome was written before the next call began: only the first can have begun.
            return Cause.HANDED_BACK if index else cause
        # It is not known which call has used up the time or the memory. Each is invoked alone, which tells.
        return cause if cause in CURABLE else Cause.KILLED

    def _lose(self, chunk: ChunkRecord, cause: Cause, error: CallError) -> None:
        if chunk.lost is None:
            chunk.lost = Lost(cause, error)
            self._lost[chunk.call_id] = chunk

    def _show(self, chunk: ChunkRecord, started_at: float | None, where: str) -> None:
        attempt = chunk.current
        if attempt is None or chunk.phase is Phase.ENDED or not math.isnan(attempt.ended):
            return
        self._note_start(chunk, attempt, started_at, where)
        attempt.shown = self._now()
        # Once its calls are being taken back, a sign of life changes nothing.
        if chunk.lost is None and chunk.phase in (Phase.SENDING, Phase.SENT):
            self._record.move(chunk, Phase.RUNNING)

    def _accept_calls(self, chunk: ChunkRecord, attempt: AttemptRecord) -> None:
        if self.policy.budget is not None:
            self.policy.budget.accepted_chunk()
        # Also of calls that have left it, because their outcomes were found before the service's answer arrived.
        for call_id, number in chunk.plan.items():
            one = self._record.calls[call_id].attempt(number)
            if one is not None:
                one.sent, one.sent_at, one.request_id = attempt.sent, attempt.sent_at, attempt.request_id

    # -- for readers ---------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Return how many calls are in each phase."""
        with self._lock:
            return self._record.counts()

    def count_accepted(self) -> int:
        """Return how many calls the service has accepted, whatever became of them."""
        with self._lock:
            return sum(any(not math.isnan(one.sent) for one in call.attempts) for call in self._record.calls.values())

    def attempts(self, call_id: str) -> tuple[Attempt, ...]:
        """Return the attempts of a call that the service has accepted, in order."""
        with self._lock:
            call = self._record.calls.get(call_id)
            return () if call is None else tuple(_shown(one) for one in call.attempts if not math.isnan(one.sent))

    def request_id(self, call_id: str, number: int) -> str:
        """Return the service's id of the invocation of an attempt; empty while it is unknown."""
        with self._lock:
            call = self._record.calls.get(call_id)
            attempt = None if call is None else call.attempt(number)
            return "" if attempt is None else attempt.request_id

    def next_due(self) -> float | None:
        """Return in how many seconds the next held call may be invoked; ``None`` if nothing waits for its time.

        A call that waits for others to end is not due: their ends wake it.
        """
        with self._lock:
            step = self.peek()
            if step is not None:
                return step.wait
            return None if self._record.first_held() is None else 0.0

    def ends_matter(self) -> bool:
        """Tell whether calls are to be followed to their ends though nothing wants their results.

        Their ends make room for calls that wait, of this callset or of another. And at the end of the map's time they
        are to be stopped.
        """
        with self._lock:
            if math.isfinite(self._deadline):
                return True
            return self._record.in_phase[Phase.HELD] > 0 or self.policy.max_concurrency is not None

    def forget_parent_threads(self) -> None:
        """In a forked child, leave the service, whose lock a thread of the parent may have held."""
        self._join(Service(self._clock))
        self._record.service = self._service
        self._service.add(self._record)

    # -- inside, with the lock held ------------------------------------------------------------------------------

    def _held(self) -> Iterable[CallRecord]:
        return (one for one in self._record.calls.values() if one.phase is Phase.HELD)

    def _find(self, call_id: str, number: int) -> tuple[CallRecord, AttemptRecord]:
        """Return the records of a call and an attempt; make them if this driver did not invoke the attempt itself."""
        call = self._record.unit(call_id) or self._record.add(call_id)
        attempt = call.attempt(number)
        if attempt is None:
            attempt = AttemptRecord(number, sent=self._now())
            call.attempts += (attempt,)
        return call, attempt

    def _note_start(self, call: CallRecord, attempt: AttemptRecord, started_at: float | None, where: str) -> None:
        attempt.where = where or attempt.where
        attempt.started_at = started_at if attempt.started_at is None else attempt.started_at
        self._record.note_start(call, attempt, self._now())

    def _close(
        self, call: CallRecord, attempt: AttemptRecord, cause: Cause, text: str, usage: Usage | None = None
    ) -> None:
        self._count_again(attempt)
        attempt.ended, attempt.cause, attempt.error = self._now(), cause, text
        if self.policy.budget is not None:
            self.policy.budget.close(attempt, usage)
        self._record.note_end(call, attempt)

    def _charge(self, attempt: AttemptRecord, usage: Usage | None) -> None:
        """Charge to the budget what the attempt has cost that has brought the outcome."""
        if self.policy.budget is not None:
            self._count_again(attempt)
            self.policy.budget.close(attempt, usage)

    def _count_again(self, attempt: AttemptRecord) -> None:
        """Have the budget count an attempt that was believed to be dropped, and so to cost nothing."""
        if self.policy.budget is not None and attempt.suspected and attempt.cause is Cause.DROPPED:
            self.policy.budget.take(attempt)

    def _is_late(self) -> bool:
        return self._deadline != math.inf and self._clock() >= self._deadline

    def _is_stopped(self) -> bool:
        return self._is_late() or (self.policy.budget is not None and self.policy.budget.is_spent)

    def _put_back(self, call: CallRecord) -> None:
        """Take a call out of the queue that runs, and was held for a backup."""
        call.backup = False
        self._record.move(call, Phase.RUNNING)

    def _follow(self, call: CallRecord, attempt: AttemptRecord, wanted: bool) -> Again | Over | None:
        self._record.leave(call)
        call.alone = call.alone or attempt.cause not in NEVER_RAN or was_handed_back_too_often(call)
        step = after(call, attempt, wanted, self.policy, self._jitter())
        if isinstance(step, Again) and attempt.cause not in CURABLE and self._is_stopped():
            step = Over(described(call, attempt))  # the function's own error says more than that there is no other try
        if isinstance(step, Again) and attempt.cause in NEVER_RAN and self._is_out_of_time(call):
            step = None if attempt.suspected else Over(described(call, attempt))
        if isinstance(step, Again):
            self._record.retried += 1
            self._record.hold(call, self._clock() + step.delay)
            self.changed.notify_all()
        return step

    def _is_out_of_time(self, call: CallRecord) -> bool:
        """Tell whether a call that never ran has had all the time that it may have."""
        if self.policy.event_age is None or not call.attempts:
            return False
        whole = (self.policy.event_age + self.policy.job_max_runtime) * TIME_BOUND
        return self._now() - call.attempts[0].sent > whole

    def _finish(self, call: CallRecord, *, failed: bool) -> None:
        if call.phase is not Phase.ENDED:
            budget = self.policy.budget
            if budget is not None:
                for attempt in call.attempts:
                    budget.close(attempt, None)  # unless it was the one that has ended the call
            self._record.move(call, Phase.ENDED)
            self._record.failed += failed
            # It may make room for a call that is held back; but not while all wait for what is known after the review.
            if not self._learns or not self._record.in_phase[Phase.HELD]:
                self.changed.notify_all()


def _why_left(damaged: bool) -> Lost:
    if damaged:
        text = (
            "the call is lost: the journal of its chunk was damaged by something other than its worker. Check who can "
            "write to the bucket, and run the call again"
        )
        return Lost(Cause.VANISHED, CallLostError(text))
    return Lost(Cause.HANDED_BACK, CallLostError("the call is lost: the worker of its chunk has not begun it"))


def _cancel_all(attempts: Iterable[AttemptRecord], text: str) -> None:
    for one in attempts:
        if one.in_flight:
            one.cause, one.error = Cause.CANCELLED, text


def _is_one_of(error: BaseException, classes: tuple[type[BaseException], ...]) -> bool:
    try:
        return isinstance(error, classes)
    except BaseException as problem:  # ``__instancecheck__`` may be the program's
        shutdown.raise_ctrl_c(problem)
        logger.exception("whether a call runs again after %s cannot be decided, so it does not", type(error).__name__)
        return False


def text_of(error: BaseException) -> str:
    """Return an error in words, as attempts have it: with its class, unless the cause of the attempt says as much."""
    name = type(error).__name__
    try:
        if isinstance(error, CallError):
            return str(error.args[0]) if error.args else ""  # without the ids, which are those of the future
        return f"{name}: {text}" if (text := str(error)) else name
    except BaseException as problem:  # noqa: BLE001 -- ``__str__`` may be the program's; see shutdown.raise_ctrl_c()
        shutdown.raise_ctrl_c(problem)
        return name


def _shown(attempt: AttemptRecord) -> Attempt:
    cause = None if attempt.cause is None else attempt.cause.value
    return Attempt(
        attempt.number,
        cause,
        attempt.error,
        attempt.request_id,
        attempt.sent_at,
        attempt.started_at,
        attempt.where,
        attempt.backup,
    )
