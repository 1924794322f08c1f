"""``Invocations``: the threads that invoke the calls of one callset, as its driver lets them go.

The program's thread that calls ``map`` is one of these threads until all calls are accepted, or held back on purpose.
Later, when calls are to be invoked again or there is room for calls that were held back, the thread that polls calls
``wake``, and a daemon thread ``pywren-invoke`` does the rest; if it cannot be started, the polling thread does. Helper
threads do nothing but invoke; they end when the driver has nothing for them.

``_lock`` guards ``_busy``: at most one crew works at a time. A thread holds it only to test and set the flag. Between
two invocations threads wait on ``driver.changed``, whose lock is the driver's. ``_relaying`` is a set to which threads
that invoke add, and which the thread that polls reads: each of these steps is one operation.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pywren.aws.errors import concerns_credentials
from pywren.client.driver.driver import FOLLOWS, Driver, Later, Ready
from pywren.client.fan_out import FanOut
from pywren.client.payloads import encode_payload
from pywren.client.protocols import Invoker
from pywren.client.waiting import Watcher
from pywren.exceptions import InvocationThrottledError, StorageError
from pywren.system.threads import MOST_AT_ONCE
from pywren.wire.failure import Failure
from pywren.wire.relay import MOST_RELAYED, RELAY_ROOM, is_relayed, relayed_id

logger = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds for which a service may refuse everything because it is busy before ``map`` gives up."""

_TRIAL = 200  # invocations after which it is known how fast the program invokes
_WORTH_WAITING = 1.0  # a background crew ends rather than sleep longer than this: the next poll wakes another


class Invocations:
    """Invokes the calls of one callset.

    Args:
        driver: says which attempt is next.
        invoker: passes payloads to the service.
        payload: returns the payload of an attempt.
        now: returns the storage's time, in seconds since the epoch.
        refused: called with a call's id and an error when the service refuses for good a call that ``map`` has left to
            the background.
        note: called with the attempt, and how many seconds its invocation took.
        callset_id: the callset, for log lines.
        threads: the most invocations in parallel.
        clock: returns monotonic seconds.
        fan_out: whether, and when, invocations go through relays; ``None`` for never.

    Attributes:
        uncertain: how many invocations Ctrl-C has interrupted. They count as accepted, as the service may have them.
    """

    def __init__(
        self,
        driver: Driver,
        invoker: Invoker,
        *,
        payload: Callable[[Ready], Mapping[str, Any]],
        now: Callable[[], float],
        refused: Callable[[str, BaseException], object],
        note: Callable[[Ready, float], object],
        callset_id: str,
        threads: int = 64,
        clock: Callable[[], float] = time.monotonic,
        fan_out: FanOut | None = None,
    ) -> None:
        self._driver = driver
        self._invoker = invoker
        self.fan_out = fan_out
        self._payload = payload
        self._now = now
        self._refused = refused
        self._note = note
        self._callset_id = callset_id
        self._threads = max(1, min(threads, MOST_AT_ONCE))
        self._clock = clock
        self._lock = threading.Lock()
        self._busy = False
        self._said_held = ""
        # Calls and attempts whose relay is being sent, or was when Ctrl-C came. The driver does not know yet who has
        # invoked them, and a relay that may not hand them on says so within milliseconds.
        self._relaying: set[tuple[str, int]] = set()
        self.uncertain = 0  # no lock: Ctrl-C interrupts one thread only, the program's own
        driver.waker = weakref.WeakMethod(self._wake)

    def run(self, watcher: Watcher | None = None, begun: Callable[[], object] = lambda: None) -> None:
        """Invoke what the driver lets go, and return when all else is held back on purpose.

        Args:
            watcher: shows on this thread, between its invocations, how far the calls are.
            begun: called before the first invocation, when ``wake`` leaves the calls to this thread already.

        Raises:
            InvocationError: a call was refused for good, or the service was busy for ``PATIENCE`` seconds. Calls that
                were accepted before go on; the others are taken out of the queue.
        """
        crew = _Crew(self, patient=True, watcher=watcher)
        try:
            with self._lock:
                self._busy = True
            begun()
            crew.work_together()
            if crew.error is not None:
                raise crew.error
        except BaseException:
            # Ctrl-C may come between any two lines. What was taken from the queue, and not reported, may be invoked.
            self._driver.accept_rest(self._now())
            self._driver.drop_held()  # before a poll may have them invoked
            raise
        finally:
            self._rest()

    def wake(self) -> bool:
        """Invoke in the background what may be invoked now, of this callset and of others. Return immediately.

        Returns:
            False if threads are invoking calls of this callset already, and may not see what has become due just now.
        """
        woken = self._wake()
        for wake in self._driver.to_wake():
            wake()
        return woken

    def _wake(self) -> bool:
        due = self._driver.next_due()
        if due is None or due > 0.0 or isinstance(self._driver.peek(), Later):
            return True
        with self._lock:
            if self._busy:  # the crew that works now takes what is new, or the next poll wakes another
                return False
            self._busy = True
        try:
            threading.Thread(target=self._run_behind, name="pywren-invoke", daemon=True).start()
        except RuntimeError:
            # There are too many threads, or the program is ending: Python 3.12 starts no threads then, and the end
            # waits for these calls. The thread that polls invokes them; this crew never sleeps for long.
            self._run_behind()
        return True

    @property
    def start_by_themselves(self) -> bool:
        """Whether calls that are invoked start without the program."""
        return self._invoker.starts_calls

    @property
    def run_here(self) -> bool:
        """Whether the calls run on this machine."""
        return self._invoker.runs_here

    def withdraw(self) -> list[str]:
        """Take back the calls that the invoker has accepted and not started, if it can. Return their ids."""
        return self._invoker.withdraw(self._callset_id)

    def _run_behind(self) -> None:
        try:
            _Crew(self, patient=False).work_together()
        finally:
            self._rest()

    def _rest(self) -> None:
        self._busy = False  # without the lock, which only joins a test with what follows: Ctrl-C may come at the lock

    # -- for the crew --------------------------------------------------------------------------------------------

    def invoke(self, ready: Ready, *, patient: bool) -> None:
        """Invoke one attempt, and report what the service says.

        Args:
            ready: the attempt.
            patient: whether ``map`` waits for the answer, and raises a refusal.

        Raises:
            InvocationThrottledError: the service is busy. The call is in the queue again.
            _NotNow: the credentials have expired, and ``map`` has returned. The call is in the queue again.
            InvocationError: the service refuses the call for good, and no other attempt of it is in flight.
        """
        began = self._clock()
        try:
            answer = self._invoker.invoke(self._payload(ready))
        except InvocationThrottledError:
            self._driver.throttled(*ready)
            raise
        except Exception as error:
            is_chunk = self._driver.chunk_of(ready.call_id) is not None
            if not patient and (_may_pass(error) or (is_chunk and isinstance(error, StorageError))):
                # Nothing is wrong with the call. A program of many hours gets new credentials at some time, and a
                # storage that cannot take the plan of a chunk now takes it later.
                self._driver.throttled(*ready)
                raise _NotNow from error
            if not self._driver.refused(*ready, error):
                logger.debug("attempt %d of call %s was refused: %s", ready.number, ready.call_id, error)
                return  # an earlier attempt may still bring the outcome
            raise
        except BaseException:  # Ctrl-C: the service may have accepted the call
            self.uncertain += 1
            self._driver.accepted(*ready, "", self._now())
            raise
        self._note(ready, self._clock() - began)
        # A program's own invoker may return anything.
        self._driver.accepted(*ready, answer if isinstance(answer, str) else "", self._now())

    def relay(self, batch: Sequence[Ready], *, patient: bool) -> None:
        """Invoke several attempts through one relay, and report what the service says. Arguments and errors of
        ``invoke``; an attempt that no relay can take is invoked by itself.
        """
        fitting, others = self._prepared(batch)
        if len(fitting) == 1:
            others, fitting = [fitting[0].ready, *others], []
        try:
            if fitting:
                self._relay(fitting)
            while others:
                self.invoke(others.pop(0), patient=patient)
        except BaseException:
            for one in others:
                self._driver.give_back(*one)
            raise

    def _prepared(self, batch: Sequence[Ready]) -> tuple[list[_Prepared], list[Ready]]:
        """Return what one relay can take, and what is invoked by itself. What does not fit goes back into the queue."""
        fitting: list[_Prepared] = []
        others: list[Ready] = []
        left = RELAY_ROOM
        for number, ready in enumerate(batch):
            try:
                payload = self._payload(ready)
                body = encode_payload(payload, RELAY_ROOM, "a relay")
            except BaseException as error:
                if not isinstance(error, Exception):  # Ctrl-C
                    for one in (*(each.ready for each in fitting), *others, *batch[number:]):
                        self._driver.give_back(*one)
                    raise
                others.append(ready)  # invoke() meets this error again, and knows what follows from it
                continue
            left -= len(body) + 1
            if left < 0:
                for one in batch[number:]:
                    self._driver.give_back(*one)
                break
            fitting.append(_Prepared(ready, payload, body))
        return fitting, others

    def _relay(self, fitting: Sequence[_Prepared]) -> None:
        began = self._clock()
        attempts = {one.attempt for one in fitting}
        self._relaying |= attempts
        try:
            request_id = self._invoker.relay(fitting[0].payload, [one.body for one in fitting])
        except InvocationThrottledError:
            self._relaying -= attempts
            for one in fitting[1:]:
                self._driver.give_back(*one.ready)
            self._driver.throttled(*fitting[0].ready)  # one request was refused
            raise
        except Exception as error:  # noqa: BLE001 -- whatever it is, the calls go back into the queue
            # Whether the service refuses the calls too shows when they are invoked without a relay.
            self._relaying -= attempts
            if self.fan_out is not None:
                self.fan_out.refused(error)
            for one in fitting:
                self._driver.give_back(*one.ready)
            return
        except BaseException:  # Ctrl-C: the service may have accepted the relay
            self.uncertain += len(fitting)
            self._accept_relayed(fitting, "")
            raise
        for one in fitting:
            self._note(one.ready, self._clock() - began)
        self._accept_relayed(fitting, request_id)
        self._relaying -= attempts

    def _accept_relayed(self, fitting: Sequence[_Prepared], request_id: str) -> None:
        # From now on a call counts as one that waits at the service: if the relay dies before it hands the call on, the
        # call never starts, which the driver notices.
        for index, one in enumerate(fitting):
            self._driver.accepted(*one.ready, request_id and relayed_id(request_id, index), self._now())

    def handed_back(self, call_id: str, number: int, failure: Failure) -> bool:
        """Tell whether a relay reports that it has handed an attempt back; see ``FanOut.handed_back``.

        What the worker of an attempt says that no relay has invoked is not believed: it has begun. And repeats are not
        relayed, so no call can come back in this way for a second time.
        """
        if self.fan_out is None:
            return False
        is_from_relay = (call_id, number) in self._relaying or is_relayed(self._driver.request_id(call_id, number))
        return is_from_relay and self.fan_out.handed_back(failure)

    def tell_delayed(self, error: BaseException) -> None:
        """Log, once for each reason, that calls are invoked later because the credentials are of no use now."""
        reason = str(error)
        if reason != self._said_held:
            self._said_held = reason
            logger.warning("callset %s: calls to be invoked again wait: %s", self._callset_id, reason)

    def tell_refused(self, call_id: str, error: BaseException) -> None:
        """Report a call that was refused in the background."""
        self._refused(call_id, error)

    def tell_held(self, reason: str) -> None:
        """Log once for each reason that calls are held back."""
        if reason != self._said_held:
            self._said_held = reason
            counts = self._driver.counts()
            logger.log(
                logging.DEBUG if reason == FOLLOWS else logging.INFO,
                "callset %s: %d of %d calls wait in this program to be invoked, because %s",
                self._callset_id, counts.held, counts.total, reason,
            )  # fmt: skip


class _Prepared(NamedTuple):
    """An attempt that a relay takes, with its payload and the JSON of that."""

    ready: Ready
    payload: Mapping[str, Any]
    body: bytes

    @property
    def attempt(self) -> tuple[str, int]:
        """The call, and its attempt; of a chunk the first call."""
        return self.payload["call_id"], self.payload["attempt"]


class _NotNow(Exception):
    """The credentials of this process have expired. The error of the service is the cause."""


def _may_pass(error: BaseException) -> bool:
    cause = error.__cause__
    return concerns_credentials(error) or (cause is not None and concerns_credentials(cause))


class _Crew:
    """The threads that invoke at the same time.

    Args:
        invocations: what they work for.
        patient: whether to wait for calls that the service is too busy for, and to stop at the first refusal, as
            ``map`` does. Otherwise a refusal ends only its call.
        watcher: see ``Invocations.run``.
    """

    def __init__(self, invocations: Invocations, *, patient: bool, watcher: Watcher | None = None) -> None:
        self.error: BaseException | None = None
        self._work_for = invocations
        self._driver = invocations._driver
        self._patient = patient
        self._clock = invocations._clock
        self._last_accepted = self._clock()  # without a lock: all threads write "now"
        self._waiting = 0
        # Guards how many threads work, and how many may. Nothing else is done while it is held.
        self._joining = threading.Lock()
        self._working, self._most = 1, invocations._threads
        self._helpers: list[threading.Thread] = []  # each step on it is one operation of the list
        # Whether invocations go through relays. And what decides about that: how many threads there were, how many
        # invocations were accepted without a relay, and the seconds that took.
        # Counts to which several threads add without a lock are approximate, which is good enough.
        self._relays, self._size, self._direct, self._took = False, 1, 0, 0.0
        # Only the thread that makes the crew reads and writes these.
        self._watcher = watcher
        self._next_look = math.inf

    def work_together(self) -> None:
        """Work, with as many helpers as there are calls for, until the driver has no more for any thread."""
        expected, fan_out = self._driver.expected_invocations(), self._work_for.fan_out
        self._relays = fan_out is not None and fan_out.is_worth(expected)
        try:
            self._call_in(expected)
            if self._watcher is not None:
                self._next_look = self._clock() + self._watcher.begin(self._driver.counts().held)
            self._work(self._watcher)
        except BaseException as error:  # Ctrl-C on the program's thread
            self._stop(error)
            raise
        finally:
            # Also after an error: a helper must not invoke when the caller has gone on. A helper that has called in
            # others has listed them by its end.
            while self._helpers:
                self._helpers.pop().join()

    def _call_in(self, wanted: int) -> None:
        """Have more threads work, if fewer than this do."""
        # Counted beforehand: a helper that finds nothing to do leaves at once, and must not be replaced for ever.
        for _ in range(wanted - self._working):
            if not self._joins(wanted):
                return
            helper = threading.Thread(target=self._help, name="pywren-request", daemon=True)
            try:
                helper.start()
            except RuntimeError:  # no more threads: fewer must do
                with self._joining:
                    self._working -= 1
                    self._most = min(self._most, self._working)
                return
            self._helpers.append(helper)

    def _joins(self, wanted: int) -> bool:
        """Count another thread, unless so many work, or as many as may."""
        with self._joining:
            if self._working >= min(wanted, self._most):
                return False
            self._working += 1
            self._size = max(self._size, self._working)
            return True

    def _help(self) -> None:
        try:
            self._work()
        finally:
            with self._joining:
                self._working -= 1

    def _work(self, watcher: Watcher | None = None) -> None:
        while self.error is None:
            if watcher is not None and self._clock() >= self._next_look:
                self._next_look = self._clock() + watcher.look()
            step = self._driver.next_call()
            if step is None:
                return
            if isinstance(step, Later):
                if step.reason:
                    self._work_for.tell_held(step.reason)
                if step.wait is None or not self._waits_for(step.wait):
                    return
                self._wait(step.wait)
            else:
                batch = self._together(step)
                # A crew becomes smaller while little is to be done, and then a poll may bring thousands of calls. It
                # grows step by step: if the pace holds calls back, helpers leave again at once. Read without the lock,
                # as it is asked for each invocation: a helper too few is called in with the next one.
                if self._working < self._most:
                    self._call_in(min(self._driver.expected_invocations() + 1, 2 * self._working))
                self._invoke(batch)

    def _together(self, first: Ready) -> list[Ready]:
        """Return the attempts that are invoked together with one, through a relay; or that one alone."""
        batch, fan_out = [first], self._work_for.fan_out
        if fan_out is None or not (self._relays or self._is_worth(fan_out)) or not fan_out.is_usable():
            return batch
        self._relays = True
        # An attempt that repeats another goes directly: it may have been a relay that did not work.
        number = self._driver.first_attempt
        # What the pace or the room do not let go now is left for later: a relay is no way around them.
        while first.number == number and len(batch) < MOST_RELAYED:
            step = self._driver.next_call()
            if not isinstance(step, Ready):
                break
            if step.number != number:
                self._driver.give_back(*step)
                break
            batch.append(step)
        return batch

    def _is_worth(self, fan_out: FanOut) -> bool:
        """Tell whether what is known by now of the calls, and of the time that invocations take, speaks for relays."""
        rate = None if self._direct < _TRIAL else self._size * self._direct / max(self._took, 1e-6)
        return fan_out.is_worth(self._driver.expected_invocations(), rate)

    def _waits_for(self, seconds: float) -> bool:
        # map() waits for the calls that were never accepted. Those that are to be invoked again are for the background.
        return self._driver.has_uninvoked() if self._patient else seconds <= _WORTH_WAITING

    def _invoke(self, batch: Sequence[Ready]) -> None:
        ready = batch[0]
        began = self._clock()
        try:
            if len(batch) == 1:
                self._work_for.invoke(ready, patient=self._patient)
            else:
                self._work_for.relay(batch, patient=self._patient)
        except InvocationThrottledError as error:
            if self._patient and self._clock() - self._last_accepted > PATIENCE:
                self._stop(error)
        except _NotNow as error:
            # The whole crew rests until the next poll, which succeeds only when the credentials are good again.
            self._work_for.tell_delayed(error.__cause__ or error)
            self._stop(error)
        except BaseException as error:
            # An object of the program that is pickled here, and an invoker of the program, may raise even SystemExit.
            ends_all = not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()
            if self._patient or ends_all:
                self._stop(error)  # map raises it
            else:
                self._work_for.tell_refused(ready.call_id, error)
            if ends_all:
                raise
        else:
            self._last_accepted = self._clock()
            if len(batch) == 1:
                self._direct, self._took = self._direct + 1, self._took + self._last_accepted - began

    def _stop(self, error: BaseException) -> None:
        self.error = self.error or error
        self._driver.wake_waiting()  # the others wait for the pace, for up to 5 s

    def _wait(self, seconds: float) -> None:
        # The threads of a crew that waits for the pace wake one after the other, not all for one invocation.
        self._waiting += 1  # an approximate count is good enough
        try:
            self._driver.wait(min(seconds * (1.0 + random.random() * max(0, self._waiting)), 5.0))
        finally:
            self._waiting -= 1
