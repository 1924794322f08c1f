"""The end of the program: refuses new calls, waits for calls that are held back, and knows of a Ctrl-C.

At its end, a program waits for non-daemon threads, and these threads may still make calls. After that calls are
refused, as ``concurrent.futures`` does: ``atexit`` functions and daemon threads may not make calls, because nothing
would wait for them. The program still waits for the calls that were made earlier. First it waits for calls that are
held back in this process and that nobody else would invoke (``wait_for``). After that, other ``atexit`` functions run;
one of them waits for the calls that run on this machine (``worker.parent.lifetime``).

A program that ends because of Ctrl-C waits for nothing (``is_interrupted``). One whose wait at the end Ctrl-C has ended
gets the exit status of SIGINT (``interrupt_end``), as if Ctrl-C had come earlier.

``_has_begun``, ``_interrupted`` and ``_is_end_interrupted`` need no lock: each is one reference. ``_holding`` guards
what is waited for; it is innermost. A forked child starts with False and without anything that is held back.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from pywren.exceptions import ShutdownError
from pywren.system import private_names

logger = logging.getLogger(__name__)

WARNING_SECONDS = 2.0
"""How long the end of a program waits before one line says what it waits for. Most programs end within that time."""


class HoldsBack(Protocol):
    """Something that holds calls back in this process, on purpose, and that a thread of its own invokes later."""

    def held_back(self) -> str | None:
        """Return how many calls are held back and why, as in "7 calls are held back: the account's concurrency is 10".

        A call that is just being invoked is held back, too. Return ``None`` when there is none. It must not wait.
        """

    def wait_until_invoked(self, timeout: float | None) -> bool:
        """Wait until no call is held back. Return False if ``timeout``, in seconds, runs out first."""


_has_begun = False
_interrupted = False
_is_end_interrupted = False
_this_thread = threading.local()
_ends_with_multiprocessing = False
_holders: weakref.WeakSet[HoldsBack] = weakref.WeakSet()
_at_end: list[Callable[[], object]] = []  # only modules add to it, when they are imported
# Guards ``_holders`` for the copy that the end of the program makes while other threads still add to it. Reentrant,
# because adding may run the garbage collector, and that any destructor.
_holding = threading.RLock()


def raise_ctrl_c(problem: BaseException) -> None:
    """Raise a Ctrl-C again. Whatever else the program's code raises, even ``SystemExit``, must end no thread here."""
    if isinstance(problem, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        raise problem


def begin() -> None:
    """Refuse new calls from now on."""
    global _has_begun
    _has_begun = True


@contextlib.contextmanager
def accepted_work() -> Iterator[None]:
    """Let this thread go on when the program ends: what it does was accepted before, and the program waits for it."""
    _this_thread.is_accepted = True
    try:
        yield
    finally:
        _this_thread.is_accepted = False


def require_running() -> None:
    """Raise an error if the program is ending, so that no new call is made.

    Raises:
        ShutdownError: the interpreter is shutting down.
    """
    if _has_begun and not getattr(_this_thread, "is_accepted", False):
        raise ShutdownError(
            "cannot schedule new futures after interpreter shutdown: the program is ending. Make calls in the main "
            "thread, or in threads that are not daemons"
        )


# -- Ctrl-C --------------------------------------------------------------------------------------------------------


def interrupt() -> None:
    """Record that Ctrl-C has interrupted one of pywren's verbs."""
    global _interrupted
    _interrupted = True


def interrupt_end() -> None:
    """Record that Ctrl-C has ended the wait at the end of the program, which so gets the exit status of SIGINT."""
    global _is_end_interrupted
    interrupt()
    _is_end_interrupted = True


def go_on() -> None:
    """Record that the program uses pywren again, so that an earlier Ctrl-C did not end the program."""
    global _interrupted
    _interrupted = False


def is_interrupted() -> bool:
    """Tell whether Ctrl-C is what ends this program: nothing then waits for calls, so that once is enough.

    It is if the last thing that the program did with pywren was interrupted, also when the program caught the
    ``KeyboardInterrupt`` to end with a status of its own; or if a ``KeyboardInterrupt`` ended the script.
    """
    # Python keeps the exception that ended a script in ``sys.last_value``. An interactive session also keeps an
    # exception there from which it has long recovered. Such a session has prompts: Python's own, IPython and Jupyter
    # set ``sys.ps1``.
    died = isinstance(getattr(sys, "last_value", None), KeyboardInterrupt) and not hasattr(sys, "ps1")
    return _interrupted or died


# -- calls that are held back --------------------------------------------------------------------------------------


def wait_for(holder: HoldsBack) -> None:
    """Have the end of the program wait for as long as ``holder`` holds calls back.

    Args:
        holder: kept weakly. The thread that is to invoke the calls holds it.
    """
    global _ends_with_multiprocessing
    with _holding:
        _holders.add(holder)
    if not _ends_with_multiprocessing and is_process_of_multiprocessing():
        from multiprocessing.util import Finalize

        _ends_with_multiprocessing = True
        Finalize(None, finish, exitpriority=1)  # before the pool ends, which has priority 0


def is_process_of_multiprocessing() -> bool:
    """Tell whether multiprocessing has made this process. Such a process runs finalizers, but no ``atexit`` functions.

    The answer may change: a program may import multiprocessing after pywren.
    """
    if "multiprocessing.process" not in sys.modules:
        return False
    from multiprocessing.process import parent_process

    # Only a process that multiprocessing has made has a parent process.
    return parent_process() is not None


def at_end(function: Callable[[], object]) -> None:
    """Have a function called when the program ends, before it waits for calls. The function must not wait itself."""
    _at_end.append(function)


def finish() -> None:
    """Refuse new calls, and wait until no call is held back. Ctrl-C ends the wait."""
    begin()
    try:
        if not is_interrupted():
            for function in _at_end:
                function()
            _wait()
    except KeyboardInterrupt:
        interrupt_end()  # what waits for the calls on this machine must not need another Ctrl-C
    for held in _said() if is_interrupted() else ():
        logger.warning("the program was interrupted, and does not wait any more: %s", held)
    _holders.clear()  # ``finish`` may be called again, and has said everything
    if _is_end_interrupted:
        private_names.end_as_interrupted()


def _wait() -> None:
    until = time.monotonic() + WARNING_SECONDS
    if _wait_until(lambda: max(0.0, until - time.monotonic())):
        return
    for held in _said():
        logger.warning("the program is ending, but %s: waiting for that; press Ctrl-C to stop", held)
    _wait_until(lambda: None)


def _wait_until(left: Callable[[], float | None]) -> bool:
    # A callset may pass its calls to a worker of this machine, which holds them back in turn, and which this loop may
    # have asked already. So all must say twice in a row that nothing is held back.
    quiet = 0
    while quiet < 2:
        held = [holder for holder in _all_holders() if holder.held_back() is not None]
        quiet = 0 if held else quiet + 1
        # One after the other: all must be over before the program may end.
        if not all(holder.wait_until_invoked(left()) for holder in held):
            return False
    return True


def _said() -> list[str]:
    return [held for holder in _all_holders() if (held := holder.held_back()) is not None]


def _all_holders() -> list[HoldsBack]:
    with _holding:
        return list(_holders)


# Python ends a program in this order: threading's own hooks, a join of all non-daemon threads, atexit functions in
# reverse order of registration, daemon threads frozen. ``finish`` must run after the join and before all other atexit
# functions. The daemon threads that invoke calls still run then.
def _finish_first() -> None:
    # This runs before the join. Registering here puts ``finish`` after whatever the program has registered, so it runs
    # before all of that, and non-daemon threads may make calls until then.
    atexit.register(finish)  # atexit functions run in reverse order of registration


def _forget() -> None:
    global _has_begun, _interrupted, _is_end_interrupted, _ends_with_multiprocessing, _holding
    _holding = threading.RLock()  # a thread of the parent may have held the old one
    # multiprocessing clears its finalizers in a process that it forks
    _has_begun = _interrupted = _is_end_interrupted = _ends_with_multiprocessing = False
    _holders.clear()  # the threads that would invoke the calls exist only in the parent


# The fallback for a Python without that hook. It is registered early, so it runs late: other atexit functions could
# then still make calls. Doing it a second time does no harm. It is also what sets the exit status after the pool's own
# atexit function, and after others that may have changed what ``private_names.end_as_interrupted`` relies on.
atexit.register(finish)
private_names.at_end_of_threads(_finish_first)
if hasattr(os, "register_at_fork"):
    # A child that is forked while the parent is ending (before Python 3.12, atexit functions may fork) has only begun.
    os.register_at_fork(after_in_child=_forget)
