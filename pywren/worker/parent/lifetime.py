"""``Lifetime``: for how long a local pool is needed, and what ends it with the program.

A pool lives while executors use it or calls run, and for a while after. Three events need hooks: the end of a program
(``atexit``); the end of a process of multiprocessing, which skips ``atexit`` and runs finalizers; and a fork, whose new
process must not touch the children of the old one.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from typing import Protocol

from pywren.system import shutdown

LINGER_SECONDS = 5.0
"""How long the children of a pool stay when no executor uses it."""


class Lifetime:
    """Who uses a pool, and until when it lingers. It is used with the pool's lock held.

    Args:
        linger: seconds for which processes stay when nobody uses the pool.

    Attributes:
        users: how many executors use the pool.
        closed: whether it takes no more calls, for good.
    """

    def __init__(self, linger: float) -> None:
        self.users = 0
        self.closed = False
        self._linger = linger
        self._released_at = time.monotonic()

    def acquire(self) -> None:
        """Count an executor."""
        self.users += 1

    def release(self) -> None:
        """Count an executor less."""
        self.users -= 1
        self.linger_anew()

    def linger_anew(self) -> None:
        """Linger from now on, if nobody uses the pool."""
        self._released_at = time.monotonic()

    def ends_at(self, last_call: float) -> float:
        """Return the monotonic time at which the processes of a pool without calls end; infinity while it is used.

        Args:
            last_call: when the last call ended.
        """
        return float("inf") if self.users else max(self._released_at, last_call) + self._linger


class Endable(Protocol):
    """A pool, as the hooks see it."""

    lifetime: Lifetime

    def finish_at_exit(self) -> None:
        """Wait for outstanding calls, then end everything."""

    def forget_after_fork(self) -> None:
        """Become a pool without processes, in a process that was forked."""


_open: set[Endable] = set()
_is_hooked = False
_ends_with_multiprocessing = False


def end_with_program(pool: Endable) -> None:
    """Have a pool finished at the end of the program, unless it is closed before."""
    global _is_hooked
    if not _is_hooked:
        _is_hooked = True
        atexit.register(_at_exit)
        os.register_at_fork(after_in_child=_after_fork)
    _open.add(pool)  # strongly: calls may be outstanding when nobody else holds the pool any more


def forget_closed() -> None:
    """Drop the pools that are closed."""
    for pool in [pool for pool in _open if pool.lifetime.closed]:
        _open.discard(pool)


def end_with_multiprocessing() -> None:
    """Have pools end with a process that multiprocessing has made: it runs nothing that was registered with atexit."""
    global _ends_with_multiprocessing
    if _ends_with_multiprocessing or "multiprocessing.process" not in sys.modules:
        return
    from multiprocessing.process import parent_process

    if parent_process() is not None:
        from multiprocessing.util import Finalize

        _ends_with_multiprocessing = True
        Finalize(None, _at_exit, exitpriority=0)


def _at_exit() -> None:
    shutdown.begin()  # a process of multiprocessing comes here without running what was registered with atexit
    for pool in list(_open):  # a copy: a pool that is closed leaves the set
        pool.finish_at_exit()


def _after_fork() -> None:
    global _ends_with_multiprocessing
    _ends_with_multiprocessing = False  # multiprocessing clears its finalizers in a process that it forks
    for pool in list(_open):
        pool.forget_after_fork()
