"""``CallState``: the state of one call. The whole state machine is in this module::

    new ──▶ invoked (PENDING) ──▶ running (RUNNING) ──▶ success, error (FINISHED)
                    └──────────────────┴──────────────▶ error (CANCELLED_AND_NOTIFIED)

The words in brackets are those of ``concurrent.futures``, whose ``Future`` this extends: the standard library's
``wait``, ``as_completed`` and ``asyncio.wrap_future`` work on it. ``pywren.future`` adds the methods that programs use;
``client.waiting`` adds how threads wait.

Which thread does what, and which lock guards what
--------------------------------------------------
The future's *origin* learns the outcomes. Only the origin settles futures, many at a time. For calls in a storage it
does so on the monitor's thread or on the thread of a program that polls; for calls of this machine on the pool's
thread; for cancelled calls on the thread that cancels.

All futures of a callset share one condition, ``Callset.condition``. It guards their states and their lists of waiters:
hold it to change a state or to add a waiter. Reading ``_state`` needs no lock, because a final state never changes and
is assigned last. The condition is held only for work in memory. Waiters are notified under it, so a waiter must neither
wait nor raise. Callbacks are a program's code: they run without it, on the thread of ``system.callbacks``.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pywren.exceptions import CallCancelledError
from pywren.system import private_names
from pywren.system.callbacks import callbacks

if TYPE_CHECKING:
    from pywren.client.protocols import Origin
    from pywren.client.verdict import Verdict

PENDING, RUNNING, CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED = private_names.future_states()

DONE = frozenset({FINISHED, CANCELLED_AND_NOTIFIED})
"""The final states."""


class CallState(concurrent.futures.Future[Any]):
    """The state of one call, and the waiters to notify when it ends.

    Subclasses set ``call_id``, ``callset_id`` and ``_condition``. The modules of ``pywren.client`` and
    ``pywren.future`` use the underscored names; programs must not.
    """

    call_id: str
    callset_id: str
    status_query_count = 0

    # The base class's fields, with defaults on the class: ten thousand futures are made at once, and a lock and two
    # lists each would be most of the cost.
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _installed: list[Any] | None = None  # the base class's ``_waiters``
    _callbacks: list[Callable[[Any], object]] | None = None  # the base class's ``_done_callbacks``
    # Our own.
    _origin: Origin | None = None
    _verdict: Verdict | None = None
    _collected = False  # whether the program has received the outcome
    _awaited = False  # whether anything has asked for it; if so, a big output is fetched

    def _expect(self) -> None:
        """Tell the origin that something waits for this call."""
        if self._origin is not None and self._state not in DONE:
            self._awaited = True
            self._origin.expect((self,))

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        # The standard library appends its waiters here. Code that reads this wants the outcome.
        if self._installed is None:
            self._installed = []
        self._expect()
        return self._installed

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:
        return self._callbacks or []


# -- only for origins ------------------------------------------------------------------------------------------


def settle(verdicts: Sequence[tuple[CallState, Verdict]]) -> None:
    """Give futures of one callset their verdicts. A future that already has a verdict keeps it.

    Waiters are notified under the callset's condition. Callbacks run on a thread of their own.
    """
    if not verdicts:
        return
    called: list[tuple[CallState, Sequence[Callable[[Any], object]]]] = []
    condition = verdicts[0][0]._condition
    with condition:
        for future, verdict in verdicts:
            if future._state in DONE:  # two polls, or a poll and cancel(), found the same end: the first one counts
                continue
            error = verdict.error
            future._result, future._exception, future._verdict = verdict.value, error, verdict
            # Set the state last: other threads read it without the condition, and then read the other fields.
            future._state = CANCELLED_AND_NOTIFIED if isinstance(error, CallCancelledError) else FINISHED
            if future._installed is not None:
                for waiter in future._installed:
                    _notify(waiter, future)
            if future._callbacks is not None:
                called.append((future, future._callbacks))
                future._callbacks = None
        condition.notify_all()
    for future, functions in called:
        callbacks.run(future, partial(call_back, future, functions))


def _notify(waiter: Any, future: CallState) -> None:
    """Notify one waiter of ``concurrent.futures`` with the method that it expects."""
    if future._state == CANCELLED_AND_NOTIFIED:
        waiter.add_cancelled(future)
    elif future._exception is not None:
        waiter.add_exception(future)
    else:
        waiter.add_result(future)


def mark_running(future: CallState) -> None:
    """Record that a call has started."""
    with future._condition:
        if future._state == PENDING:  # a call may be cancelled, or end, before the report of its start arrives
            future._state = RUNNING


def forget_parent_threads(condition: threading.Condition, futures: Iterable[CallState]) -> None:
    """In a forked child, drop everything that only threads of the parent would release, wait for or call."""
    # Re-initialize it in place, because all futures of the callset share it. A thread that is missing here may hold it.
    threading.Condition.__init__(condition)
    for future in futures:
        future._installed = future._callbacks = None


# -- for the whole client ----------------------------------------------------------------------------------------


def is_done(future: CallState) -> bool:
    """Tell whether a future is known to be done, without asking its origin."""
    return future._state in DONE


def verdict_of(future: CallState) -> Verdict | None:
    """Return how a call ended, without raising; ``None`` when that is not yet known."""
    return future._verdict


def has_callbacks(future: CallState) -> bool:
    """Tell whether a future has callbacks, so that it must not be forgotten."""
    return bool(future._callbacks)


def is_awaited(future: CallState) -> bool:
    """Tell whether anything has asked for this future, so that its output is worth fetching."""
    return future._awaited


def modules_sent_for(future: CallState) -> frozenset[str]:
    """Return the names of the user's modules that were sent with the call: its outcome may refer to them."""
    return frozenset() if future._origin is None else future._origin.callset.modules


def mark_collected(futures: Iterable[CallState]) -> None:
    """Record that the program has received these finished futures. ``succeeded`` may then report their outcome."""
    for future in futures:
        future._collected = True


def call_back(future: CallState, functions: Sequence[Callable[[Any], object]]) -> None:
    """Call a program's functions with a finished future."""
    future._collected = True
    for function in functions:
        try:
            function(future)
        except BaseException as error:
            # Log exceptions, as concurrent.futures does. Non-Exceptions propagate only in the main thread, where Ctrl-C
            # arrives: elsewhere a SystemExit would end the thread that runs all other callbacks.
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
            private_names.futures_logger().exception("exception calling callback for %r", future)


class _Teller:
    """A waiter, as ``concurrent.futures`` defines it, that calls a function."""

    def __init__(self, function: Callable[[CallState], object]) -> None:
        self.add_result = self.add_exception = self.add_cancelled = function


def tell_when_done(future: CallState, function: Callable[[CallState], object]) -> None:
    """Call one of pywren's own functions once, when a future is done; immediately if it is done already.

    Unlike a callback, this needs no switch to another thread. The thread that settles the future calls the function
    under the callset's condition, so the function must neither wait nor raise.
    """
    with future._condition:
        if future._state not in DONE:
            if future._installed is None:
                future._installed = []
            future._installed.append(_Teller(function))
            future._expect()
            return
    function(future)
