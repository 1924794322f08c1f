"""``Lifetime``: how long a local pool is needed, and what ends it with the program.

A pool keeps its processes while executors use it or calls run, and for some seconds afterwards. Three events need
hooks: the end of a program (``atexit``); the end of a process of multiprocessing, which skips ``atexit`` and runs
finalizers; and a fork, whose new process must not touch the children of the old one.
"""

from __future__ import annotations

import _thread
import atexit
import os
import time
import weakref
from typing import Generic, Protocol, TypeVar

from pywren.system import shutdown

# Scripts that make one executor after the other should pay once for starting interpreters.
LINGER_SECONDS = 5.0
"""How long the children of a pool stay when no executor uses it, in seconds."""


class Lifetime:
    """How many executors use a pool, and how long the pool lingers. Used with the pool's lock held.

    Args:
        linger: seconds for which the processes stay when nothing uses the pool.

    Attributes:
        users: how many executors use the pool.
        closed: whether the pool permanently refuses calls.
    """

    def __init__(self, linger: float) -> None:
        self.users = 0
        self.closed = False
        self._linger = linger
        self._released_at = time.monotonic()

    def acquire(self) -> None:
        """Add an executor to the count."""
        self.users += 1

    def release(self) -> None:
        """Remove an executor from the count."""
        self.users -= 1
        self.linger_anew()

    def linger_anew(self) -> None:
        """Restart the period for which an unused pool lingers."""
        self._released_at = time.monotonic()

    def linger_no_more(self) -> None:
        """Let the processes end as soon as nothing uses the pool."""
        self._linger = 0.0

    def ends_at(self, last_call: float) -> float:
        """Return the monotonic time at which the processes of an idle pool end; infinity while executors use the pool.

        Args:
            last_call: the monotonic time when the last call ended.
        """
        # A release or a call, whichever came later, starts the linger. Otherwise a long call that outlives its executor
        # would end the processes at once.
        return float("inf") if self.users else max(self._released_at, last_call) + self._linger


class Usable(Protocol):
    """The part of a pool that counts its users."""

    def acquire(self) -> None:
        """Add a user."""

    def release(self) -> None:
        """Remove a user."""


_Pool = TypeVar("_Pool", bound=Usable)


class Use(Generic[_Pool]):
    """Records that an object uses a pool, until ``end`` is called or the object is gone.

    Args:
        user: the object.
        pool: the pool.
    """

    def __init__(self, user: object, pool: _Pool) -> None:
        self.pool = pool
        pool.acquire()
        # The thread that drops the last reference runs the finalizer, and Python ignores whatever a finalizer raises.
        # If the main thread waited for the pool's lock there, a Ctrl-C would be lost, and the pool never released. So
        # another thread releases the pool. _thread starts one in a single step; threading waits until it runs.
        self._finalizer = weakref.finalize(user, _thread.start_new_thread, pool.release, ())
        self._finalizer.atexit = False  # the end of the program ends the pool, and starts no more threads

    def end(self) -> None:
        """Release the pool. Only the first call does, whichever thread it is in."""
        if self._finalizer.detach():
            self.pool.release()


class Endable(Protocol):
    """The part of a pool that the hooks use."""

    lifetime: Lifetime

    def finish_at_exit(self) -> None:
        """Wait for outstanding calls, then end everything."""

    def forget_after_fork(self) -> None:
        """In a process that was forked from the client, become a pool without processes."""


_open: set[Endable] = set()
_all: weakref.WeakSet[Endable] = weakref.WeakSet()  # also those without processes, whose locks a fork must replace
# A fork hook cannot be removed again, so both hooks are registered once and look at the set of open pools.
_is_hooked = False
_ends_with_multiprocessing = False


def end_with_program(pool: Endable) -> None:
    """Make sure that a pool is finished at the end of the program, unless it is closed or without processes then."""
    global _is_hooked
    if not _is_hooked:
        _is_hooked = True
        atexit.register(_at_exit)
        os.register_at_fork(after_in_child=_after_fork)
    _all.add(pool)
    _open.add(pool)  # a strong reference: calls may be outstanding when nothing else refers to the pool


def forget(lifetime: Lifetime) -> None:
    """Drop a pool that has no calls and no processes from those to finish at the end of the program."""
    for pool in list(_open):  # a copy, which is one step: other threads make and end pools meanwhile
        if pool.lifetime is lifetime:
            _open.discard(pool)


def end_with_multiprocessing() -> None:
    """In a process of multiprocessing, end pools by a finalizer, because such a process skips ``atexit`` functions."""
    global _ends_with_multiprocessing
    # Checked with each start of the pump, not on import. In the main process ``atexit`` does this.
    if not _ends_with_multiprocessing and shutdown.is_process_of_multiprocessing():
        from multiprocessing.util import Finalize

        _ends_with_multiprocessing = True
        # At its end the process runs the finalizers of priority 0 and above first, then ends its daemonic children.
        Finalize(None, _at_exit, exitpriority=0)


def _at_exit() -> None:
    shutdown.finish()  # needed because a process of multiprocessing skips the atexit functions
    # No lock guards the set: each operation on it is one step, and a pool that is made from now on is refused
    # (``shutdown.require_running``).
    for pool in list(_open):  # a copy, because closing a pool removes it from the set
        pool.finish_at_exit()


def _after_fork() -> None:
    global _ends_with_multiprocessing
    # This runs in the new process, in its only thread, before ``os.fork`` returns there. Threads that held locks do not
    # exist, so nothing here may take a lock of the old process.
    _ends_with_multiprocessing = False  # multiprocessing clears its finalizers in a process that it forks
    for pool in list(_all):
        pool.forget_after_fork()
