"""``CallState``: the state of one call. The whole state machine is in this module::

    new ──▶ invoked (PENDING) ──▶ running (RUNNING) ──▶ success, error (FINISHED)
                    └──────────────────┴──────────────▶ error (CANCELLED_AND_NOTIFIED)

The words in brackets are the states of ``concurrent.futures``. ``CallState`` extends ``concurrent.futures.Future``, so
that the standard library's ``wait``, ``as_completed`` and ``asyncio.wrap_future`` accept it. ``pywren.future`` adds the
methods that programs use; ``client.waiting`` lets threads wait for many calls.

Which thread does what, and which lock guards what
--------------------------------------------------
The *origin* of a future learns the outcome of its call. Only the origin settles futures, many at a time. It settles
calls in a storage on the monitor's thread or on a thread of the program that polls; calls on this machine on the pool's
thread; and cancelled calls on the thread that cancels them.

All futures of a callset share one condition, ``Callset.condition``. It guards their states and their lists of waiters:
a thread of pywren must hold it to change a state or to add a waiter. Reading ``_state`` needs no lock, because a final
state never changes and is assigned last. The condition is held only for work in memory. Waiters are notified while it
is held, so a waiter must neither wait nor raise. Callbacks are the program's code: they run without the condition, on a
thread of ``system.callbacks``.

The standard library locks the ``_condition`` of every future that it waits for, in the order of ``id(future)``. Two
threads are safe from each other only if each future has a condition of its own. So a future gets one when the standard
library first asks for it, and ``settle`` holds it too. The order of the locks: ``Callset.condition``, then
one ``_condition``, then ``_making``. A thread that holds a ``_condition`` takes no callset's condition.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from pywren.client.typevars import R
from pywren.exceptions import CallCancelledError
from pywren.system import private_names
from pywren.system.callbacks import callbacks
from pywren.system.forks import in_each_child

if TYPE_CHECKING:
    from pywren.client.protocols import Origin
    from pywren.client.verdict import Verdict
    from pywren.wire.status import Status

PENDING, RUNNING, CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED = private_names.future_states()

DONE = frozenset({FINISHED, CANCELLED_AND_NOTIFIED})
"""The final states."""

_shared_by = attrgetter("_shared")

# Guards the making of conditions. It is the innermost lock. Reentrant, because an allocation under it may run the
# garbage collector, and that any destructor.
_making = threading.RLock()
_conditions: weakref.WeakSet[threading.Condition] = weakref.WeakSet()  # all that ``_making`` has made


def _restart_in_child() -> None:
    global _making
    _making = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_in_child)
in_each_child(_conditions, threading.Condition.__init__)


class CallState(concurrent.futures.Future[R]):
    """The state of one call, and the waiters to notify when it ends. It is generic in what the function returns.

    Whatever makes a future calls ``_begin``. The modules of ``pywren.client`` and ``pywren.future`` use the underscored
    names; programs must not.
    """

    # A map may make ten thousand futures. The fields that change in each have slots, because giving an object a further
    # attribute takes five times as long. All others have defaults in this class.
    __slots__ = (
        "_awaited",
        "_collected",
        "_origin",
        "_result",
        "_shared",
        "_state",
        "_verdict",
        "_waiting",
        "call_id",
        "callset_id",
    )

    call_id: str
    callset_id: str
    status_query_count = 0  # how often polls have asked a storage for the status

    # The fields of the base class. ``_begin`` does without its lock and two lists.
    _state: str
    _result: Any
    _exception: BaseException | None = None
    _installed: list[Any] | None = None  # the base class's ``_waiters``: only those of the standard library
    _callbacks: list[Callable[[Any], object]] | None = None  # the base class's ``_done_callbacks``
    # Fields that the base class does not have.
    _shared: threading.Condition  # the callset's
    _waiting: tuple[Waiter, ...]  # pywren's own waiters; futures that have the same ones share the tuple
    _own_condition: threading.Condition | None = None  # made by ``_condition``
    _origin: Origin | None
    _verdict: Verdict | Ends | None
    _collected: bool  # whether the program has received the outcome
    _promised = False  # whether the program may rely on the outcome as if it had waited: 0.4's reduce() waited
    _awaited: bool  # whether anything has asked for the outcome; only then is a big output fetched
    _stored: Status | None = None  # the believed status of a call that returned, while its output is only in a storage

    def _begin(self, call_id: str, callset_id: str, shared: threading.Condition, origin: Origin | None) -> None:
        """Give the fields their first values, in place of ``__init__`` of the base class."""
        self.call_id, self.callset_id, self._shared, self._origin = call_id, callset_id, shared, origin
        self._state, self._result, self._verdict, self._waiting = PENDING, None, None, ()
        self._awaited = self._collected = False

    # The caller usually holds a condition here. Inside it the origin may take its own lock, and then the monitor's,
    # but never the condition of another callset.
    def _expect(self) -> None:
        """Tell the origin that something waits for this call."""
        if self._origin is not None and self._state not in DONE:
            self._awaited = True
            self._origin.expect((self,))

    def _condition_for_stdlib(self) -> threading.Condition:
        # For the standard library alone; pywren's own modules use ``_shared``.
        if self._own_condition is None:
            with _making:
                if self._own_condition is None:  # another thread may have been faster
                    self._own_condition = private_names.OneStepCondition()
                    _conditions.add(self._own_condition)
        return self._own_condition

    def _waiters_for_stdlib(self) -> list[Any]:
        # The standard library appends its waiters here, holding ``_condition``. Code that reads this wants the outcome.
        if self._installed is None:
            self._installed = []
        self._expect()
        return self._installed

    if not TYPE_CHECKING:
        # Type checkers see the attributes of the base class: its ``as_completed`` takes only objects that have them.
        _condition = property(_condition_for_stdlib)
        _waiters = property(_waiters_for_stdlib)

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:
        # Read-only: an append by the standard library would be lost. All that append go through add_done_callback().
        return self._callbacks or []


# -- only for origins ------------------------------------------------------------------------------------------


class Ends:
    """How several calls ended that returned. A verdict about one of them is made when somebody asks for it."""

    def verdict_of(self, future: CallState) -> Verdict:
        """Return the verdict about one of these calls, whose future has its value."""
        raise NotImplementedError


_Ending = tuple["CallState", Any, "BaseException | None", "Verdict | Ends"]


def settle(verdicts: Sequence[tuple[CallState, Verdict]]) -> None:
    """Give futures of one callset their verdicts. A future that already has a verdict keeps it.

    The waiters are notified while the callset's condition is held. Callbacks run later, on a thread of
    ``system.callbacks``.
    """
    if verdicts:
        _settle(verdicts[0][0], ((future, one.value, one.error, one) for future, one in verdicts))


def settle_returned(futures: Sequence[CallState], values: Sequence[Any], ends: Ends) -> None:
    """Do the same for calls that have all returned.

    Args:
        futures: the futures.
        values: what their calls returned, in the same order.
        ends: makes their verdicts.
    """
    if futures:
        _settle(futures[0], zip(futures, values, repeat(None), repeat(ends), strict=False))


def _settle(first: CallState, ends: Iterable[_Ending]) -> None:
    called: list[tuple[CallState, Sequence[Callable[[Any], object]]]] = []
    # One acquisition for the whole batch: ten thousand would be a good part of the cost of a map of trivial calls.
    with first._shared:
        ended: list[CallState] = []
        apart: list[_Ending] = []
        told: dict[int, tuple[tuple[Waiter, ...], list[CallState]]] = {}
        last: tuple[Waiter, ...] = ()
        group: list[CallState] = []
        # While this thread has ``_making``, the standard library gets no new condition. Whoever gets one afterwards
        # sees the final state.
        with _making:
            for future, value, error, known in ends:
                if future._own_condition is not None:
                    apart.append((future, value, error, known))
                elif _end(future, value, error, known):
                    ended.append(future)
                    if waiters := future._waiting:
                        # What a waiter calls may refer to the future: as a cycle, the two would keep a big result until
                        # the garbage collector runs.
                        future._waiting = ()
                        if waiters is not last:  # most often all have the same ones
                            last, (_, group) = waiters, told.setdefault(id(waiters), (waiters, []))
                        group.append(future)
        # Still under the condition. A waiter that uninstall() removes concurrently is either notified here or already
        # gone.
        for waiters, futures in told.values():
            for waiter in waiters:
                waiter.add_all(futures)
        for future, value, error, known in apart:
            condition = future._own_condition
            if condition is not None:
                with condition:
                    if _end(future, value, error, known):
                        ended.append(future)
                        _notify_all(future)
                        condition.notify_all()  # for code that calls the base class's methods, such as its result()
        for future in ended:
            if future._callbacks is not None:
                called.append((future, future._callbacks))
                # add_done_callback() appends under the same condition: it either finds its function taken here, or sees
                # the final state and calls the function itself. No function runs twice, and none is lost.
                future._callbacks = None
    # The condition is free now: run() takes the lock of ``callbacks`` and may start a thread, and with too many threads
    # it runs the function right here. A user's function under the condition could wait for a sibling future for ever.
    for future, functions in called:
        callbacks.run(future, partial(call_back, future, functions))


def _end(future: CallState, value: Any, error: BaseException | None, known: Verdict | Ends) -> bool:
    """Give a future its final state, unless it has one. Two polls, or a poll and cancel(), may settle one call."""
    if future._state in DONE:
        return False
    future._result, future._verdict = value, known
    if error is not None:
        future._exception = error
    # Set the state last: other threads read the state without a lock, and then read the other fields.
    future._state = CANCELLED_AND_NOTIFIED if isinstance(error, CallCancelledError) else FINISHED
    return True


class Waiter:
    """A waiter of pywren. It is told of many futures at once, and ``settle`` removes it from them."""

    def add_all(self, futures: Sequence[CallState]) -> None:
        """Take note that futures have ended.

        The thread that settles the futures calls this. It holds the callset's condition, so this must neither wait nor
        raise.
        """
        raise NotImplementedError


def _notify_all(future: CallState) -> None:
    waiters, future._waiting = future._waiting, ()
    for waiter in waiters:
        waiter.add_all([future])
    for installed in tuple(future._installed or ()):  # they stay there: the standard library removes its own
        _notify(installed, future)


def _notify(waiter: Any, future: CallState) -> None:
    """Notify a waiter of the standard library that a future has ended."""
    if future._state == CANCELLED_AND_NOTIFIED:
        waiter.add_cancelled(future)
    elif future._exception is not None:
        waiter.add_exception(future)
    else:
        waiter.add_result(future)


def mark_running(future: CallState) -> None:
    """Record that a call has started."""
    with future._shared:
        if future._state == PENDING:  # a call may be cancelled, or end, before the report of its start arrives
            future._state = RUNNING


def mark_stored(future: CallState, status: Status) -> None:
    """Record that a call has ended whose output has not been fetched from the storage.

    Args:
        future: the future of the call.
        status: its status, which is believed.
    """
    with future._shared:
        enders = [one for one in future._waiting if isinstance(one, _EndTeller)]
        if future._state in DONE:
            return
        if status.exception_traceback is not None:
            # What waits for the end of this call takes an error from this process, so the error is fetched.
            future._awaited = future._awaited or bool(enders)
            return
        future._stored = status
        # Removed first: when the output is fetched later, ``settle`` must not tell them a second time.
        future._waiting = tuple([one for one in future._waiting if not isinstance(one, _EndTeller)])
        for one in enders:
            one.add_all([future])  # under the condition, as ``settle`` does


def forget_parent_threads(condition: threading.Condition, futures: Iterable[CallState]) -> None:
    """In a forked child, drop the locks, waiters and callbacks that belong to threads of the parent process."""
    # Re-initialize the condition in place: all futures share it, and a thread of the parent may have held it.
    # fork(2) copies only the calling thread, but copies the memory of a lock that another thread holds: it stays
    # locked.
    threading.Condition.__init__(condition)
    for future in futures:
        future._waiting = ()
        future._installed = future._callbacks = None


# -- for threads that wait ----------------------------------------------------------------------------------------

# In how many futures a waiter is installed while the condition is held once. A longer hold would keep the pump or the
# monitor from settling.
_AT_ONCE = 200


def install(waiter: Waiter, futures: Sequence[CallState]) -> list[CallState]:
    """Add a waiter to the waiters of the futures that are not done, and return those futures."""
    waiting: list[CallState] = []
    before: tuple[Waiter, ...] = ()
    after: tuple[Waiter, ...] = (waiter,)
    # A look without the condition first: for finished futures, waiting again costs no lock at all.
    for siblings in _siblings([future for future in futures if future._state not in DONE]):
        with siblings[0]._shared:
            for future in siblings:
                if future._state not in DONE:  # the call may have ended before this thread got the condition
                    if future._waiting is not before:
                        before, after = future._waiting, (*future._waiting, waiter)
                    future._waiting = after
                    waiting.append(future)
    return waiting


def uninstall(waiter: Waiter, futures: Sequence[CallState]) -> None:
    """Remove a waiter from the waiters of futures. Afterwards no thread notifies it of them."""
    before: tuple[Waiter, ...] = ()
    after: tuple[Waiter, ...] = ()
    for siblings in _siblings(futures):
        with siblings[0]._shared:
            for future in siblings:
                if waiter in future._waiting:  # not in a forked child
                    if future._waiting is not before:
                        before, after = future._waiting, tuple([one for one in future._waiting if one is not waiter])
                    future._waiting = after


def _siblings(futures: Sequence[CallState]) -> Iterator[list[CallState]]:
    """Yield futures in parts, each of one callset."""
    for start in range(0, len(futures), _AT_ONCE):
        for _, part in groupby(futures[start : start + _AT_ONCE], _shared_by):
            yield list(part)


# -- for the whole client ----------------------------------------------------------------------------------------


def is_done(future: CallState) -> bool:
    """Tell whether a future is known to be done, without asking its origin."""
    return future._state in DONE


def parted(futures: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return which futures are known to be done, and which are not, each in order."""
    done = [future for future in futures if future._state in DONE]
    if len(done) == len(futures):
        return done, []
    known = set(map(id, done))  # and not the state again, which may have changed
    return done, [future for future in futures if id(future) not in known]


def results_of(futures: Sequence[CallState[Any]]) -> list[Any]:
    """Return what the calls of futures returned that are done. Raise the error of the first that failed."""
    if any(future._exception is not None for future in futures):
        return [future.result() for future in futures]
    return [future._result for future in futures]


def verdict_of(future: CallState) -> Verdict | None:
    """Return how a call ended; ``None`` if this process does not know yet. Never raise the error of the call."""
    known = future._verdict
    return known.verdict_of(future) if isinstance(known, Ends) else known


def has_callbacks(future: CallState) -> bool:
    """Tell whether a future has callbacks. If so, its origin must keep the future until it has called them."""
    return bool(future._callbacks)


def is_awaited(future: CallState) -> bool:
    """Tell whether anything has asked for the outcome of this future, so that a big output is worth fetching."""
    return future._awaited


def modules_sent_for(future: CallState) -> frozenset[str]:
    """Return the names of the user's modules that were sent with the call, because its outcome may refer to them."""
    return frozenset() if future._origin is None else future._origin.callset.modules


def mark_collected(futures: Iterable[CallState]) -> None:
    """Record that the program has received these finished futures. From then on ``succeeded`` reports their outcome."""
    for future in futures:
        # No lock: this is one reference, threads only ever set it to True, and nothing sleeps until it changes.
        future._collected = True


def promise(futures: Iterable[CallState]) -> None:
    """Let the program rely on the outcomes as if it had waited for them: what tells of them waits now."""
    for future in futures:
        future._promised = True


def call_back(future: CallState, functions: Sequence[Callable[[Any], object]]) -> None:
    """Call the program's callback functions with a finished future."""
    future._collected = True
    for function in functions:
        try:
            function(future)
        except BaseException as error:
            # Log exceptions, as concurrent.futures does. SystemExit and its like propagate only in the main thread,
            # where Ctrl-C arrives: elsewhere SystemExit would end the thread that runs all other callbacks.
            # The next function must run whatever this one raises: each may be what some other thread waits for.
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
            private_names.futures_logger().exception("exception calling callback for %r", future)


class _Teller(Waiter):
    """A waiter that calls a function."""

    def __init__(self, function: Callable[[CallState], object]) -> None:
        self._function = function

    def add_all(self, futures: Sequence[CallState]) -> None:
        for future in futures:
            self._function(future)


class _EndTeller(_Teller):
    """A ``_Teller`` that does not need the outcome in this process."""


def stored_status(future: CallState) -> Status | None:
    """Return the status of a call that has returned, if its output is in a storage; ``None`` if that is not known."""
    return future._stored


def has_ended(future: CallState) -> bool:
    """Tell whether a call is known to have ended, though its output may not have been fetched."""
    return future._state in DONE or future._stored is not None


def tell_when_ended(future: CallState, function: Callable[[CallState], object]) -> None:
    """Call one of pywren's own functions once a call has ended. The output of a call that returned is not fetched.

    The function is called as ``tell_when_done`` calls it.
    """
    with future._shared:
        if not has_ended(future):
            future._waiting = (*future._waiting, _EndTeller(function))
            if future._origin is not None:
                future._origin.expect((future,))  # and not _expect(), which would have the output fetched
            return
    function(future)


def tell_when_done(future: CallState, function: Callable[[CallState], object]) -> None:
    """Call one of pywren's own functions once a future is done, or immediately if the future is done already.

    Unlike a callback, the function is called by the thread that settles the future. That thread holds the callset's
    condition, so the function must neither wait nor raise.
    """
    with future._shared:
        if future._state not in DONE:
            future._waiting = (*future._waiting, _Teller(function))
            future._expect()
            return
    # The future was done already, so this thread calls the function itself, without the condition.
    function(future)
