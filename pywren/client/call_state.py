"""``CallState``: where one call stands. The state machine is here and nowhere else::

    new ──▶ invoked (PENDING) ──▶ running (RUNNING) ──▶ success, error (FINISHED)
                    └──────────────────┴──────────────▶ error (CANCELLED_AND_NOTIFIED)

The words in brackets are those of ``concurrent.futures``, whose ``Future`` this is: the standard library's ``wait``,
``as_completed`` and ``asyncio.wrap_future`` work on it. ``pywren.future`` adds what a program asks, ``client.waiting``
how threads wait.

Which thread does what, and which lock guards what
--------------------------------------------------
What learns of outcomes is the future's *origin*. Only the origin settles futures, many at a time: on the monitor's
thread or a polling program's (calls in a storage), on the pool's thread (calls of this machine), or on any thread that
cancels.

All futures of a callset share one condition, ``Callset.condition``. It guards their states and lists of waiters: who
moves a state, or adds a waiter, holds it. Reading ``_state`` needs no lock, because a final state never changes and is
assigned last. The condition is held for work in memory only. Waiters are told under it, so a waiter may neither wait
nor raise. Callbacks are a program's code: they run without it, on the thread of ``system.callbacks``.
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
"""The states that never change any more."""


class CallState(concurrent.futures.Future[Any]):
    """The state of one call, and who is to be told of its end.

    Subclasses set ``call_id``, ``callset_id`` and ``_condition``. The modules of ``pywren.client`` and
    ``pywren.future`` use the names with an underscore; programs do not.
    """

    call_id: str
    callset_id: str
    status_query_count = 0

    # The base class's fields, with defaults on the class: ten thousand futures are made at once, and a lock and two
    # lists each would be most of their cost.
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _installed: list[Any] | None = None  # the base class's ``_waiters``
    _callbacks: list[Callable[[Any], object]] | None = None  # the base class's ``_done_callbacks``
    # Our own.
    _origin: Origin | None = None
    _verdict: Verdict | None = None
    _collected = False  # whether the program has been told of the outcome
    _awaited = False  # whether anybody has asked for it: then a big output is fetched

    def _expect(self) -> None:
        """Tell the origin that somebody waits for this call."""
        if self._origin is not None and self._state not in DONE:
            self._awaited = True
            self._origin.expect((self,))

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        # The standard library appends its waiters here. Whoever reads this wants the outcome.
        if self._installed is None:
            self._installed = []
        self._expect()
        return self._installed

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:
        return self._callbacks or []


# -- for origins alone -----------------------------------------------------------------------------------------


def settle(verdicts: Sequence[tuple[CallState, Verdict]]) -> None:
    """Give futures of one callset their verdicts; a future that has one keeps it.

    Waiters are told under the callset's condition. Callbacks run on a thread of their own.
    """
    if not verdicts:
        return
    called: list[tuple[CallState, Sequence[Callable[[Any], object]]]] = []
    condition = verdicts[0][0]._condition
    with condition:
        for future, verdict in verdicts:
            if future._state in DONE:  # two polls, or a poll and cancel(), found the same: the first one counts
                continue
            error = verdict.error
            future._result, future._exception, future._verdict = verdict.value, error, verdict
            # the state comes last: other threads read it without the condition, and then read the rest
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
    """Tell one waiter of ``concurrent.futures`` by the method that it expects."""
    if future._state == CANCELLED_AND_NOTIFIED:
        waiter.add_cancelled(future)
    elif future._exception is not None:
        waiter.add_exception(future)
    else:
        waiter.add_result(future)


def mark_running(future: CallState) -> None:
    """Note that a call has started."""
    with future._condition:
        if future._state == PENDING:  # a call may be cancelled, or end, before the news of its start arrives
            future._state = RUNNING


def forget_parent_threads(condition: threading.Condition, futures: Iterable[CallState]) -> None:
    """Drop, in a forked child, what only threads of the parent would release, wait for or call."""
    # In place, because all futures of the callset share it. A thread that does not exist here may hold it.
    threading.Condition.__init__(condition)
    for future in futures:
        future._installed = future._callbacks = None


# -- for everybody in the client ---------------------------------------------------------------------------------


def is_done(future: CallState) -> bool:
    """Tell whether a future is known to be done; asks nobody."""
    return future._state in DONE


def verdict_of(future: CallState) -> Verdict | None:
    """Return how a call ended, without raising; ``None`` when that is not known yet."""
    return future._verdict


def has_callbacks(future: CallState) -> bool:
    """Tell whether functions are to be called with this future, so that it must not be forgotten."""
    return bool(future._callbacks)


def is_awaited(future: CallState) -> bool:
    """Tell whether anybody has asked for this future, so that its output is worth fetching."""
    return future._awaited


def modules_sent_for(future: CallState) -> frozenset[str]:
    """Return the names of the user's modules that the call was sent with: its outcome may refer to them."""
    return frozenset() if future._origin is None else future._origin.callset.modules


def mark_collected(futures: Iterable[CallState]) -> None:
    """Note that the program has been told of these futures, which are done: ``succeeded`` may repeat it."""
    for future in futures:
        future._collected = True


def call_back(future: CallState, functions: Sequence[Callable[[Any], object]]) -> None:
    """Call a program's functions with a future that is done."""
    future._collected = True
    for function in functions:
        try:
            function(future)
        except BaseException as error:
            # Log it, as concurrent.futures does. Non-Exceptions propagate only in the main thread, where Ctrl-C
            # arrives: elsewhere a SystemExit would end the thread that all other callbacks run on.
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
            private_names.futures_logger().exception("exception calling callback for %r", future)


class _Teller:
    """A waiter in the sense of ``concurrent.futures`` that calls a function."""

    def __init__(self, function: Callable[[CallState], object]) -> None:
        self.add_result = self.add_exception = self.add_cancelled = function


def tell_when_done(future: CallState, function: Callable[[CallState], object]) -> None:
    """Call a function of pywren's own once, when a future is done; at once if it is done already.

    Unlike a callback this costs no change of threads. The thread that settles the future calls the function under the
    callset's condition, so the function must neither wait nor raise.
    """
    with future._condition:
        if future._state not in DONE:
            if future._installed is None:
                future._installed = []
            future._installed.append(_Teller(function))
            future._expect()
            return
    function(future)
