"""``Monitor``: the one watcher of a storage, which looks at each callset with outstanding futures in turn."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

FIRST_POLL = 0.02
"""Seconds from submission to the first look: no worker answers sooner."""

SLOWEST_POLL = 5.0
"""Seconds between looks at most, whatever the wait: a LIST request each costs 0.36 cents an hour at most."""


def poll_delay(idle: float, cost: float) -> float:
    """Return how long to wait before looking again.

    A result is then noticed within a tenth of the time that it took, and looking takes at most a third of
    the time.

    Args:
        idle: seconds since the last result (or since the callset was submitted).
        cost: seconds that the last look took.
    """
    return min(SLOWEST_POLL, max(FIRST_POLL, 0.1 * idle, 2 * cost))


class Watched(Protocol):
    """A callset that a monitor looks after."""

    def examine(self) -> float | None:
        """Look once; return the seconds until the next look, or ``None`` when nothing is outstanding."""


class Monitor:
    """The one watcher of a storage: a daemon thread that lives while futures are outstanding.

    Args:
        clock: tells the time in seconds, monotonically.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due: dict[Watched, float] = {}
        self._thread: threading.Thread | None = None
        _monitors.add(self)

    def watch(self, watched: Watched, delay: float = 0.0) -> None:
        """Look at a callset after so many seconds, sooner if that was planned, and until nothing is outstanding."""
        with self._changed:
            due = self._clock() + delay
            self._due[watched] = min(due, self._due.get(watched, due))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="pywren-monitor", daemon=True)
                thread.start()  # raises when there are too many: then the next one who asks tries again
                self._thread = thread
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            watched = self._next()
            if watched is None:
                return
            delay = self._examine(watched)
            if delay is not None:
                self.watch(watched, delay)
            del watched  # the last reference may be this one

    def _examine(self, watched: Watched) -> float | None:
        try:
            return watched.examine()
        except BaseException:
            # This thread looks for all callsets: were it to end, those who wait would do so for ever.
            logger.exception("a look for results failed; the next is in %g s", SLOWEST_POLL)
            return SLOWEST_POLL

    def _next(self) -> Watched | None:
        """Wait until a callset is due and return it; ``None`` ends the thread."""
        with self._changed:
            while self._due:
                watched = min(self._due, key=lambda item: self._due[item])
                delay = self._due[watched] - self._clock()
                if delay <= 0:
                    del self._due[watched]
                    return watched
                self._changed.wait(delay)
            self._thread = None
            return None

    def _restart_in_child(self) -> None:
        self._due = {}
        self._changed = threading.Condition()
        self._thread = None
        # no thread yet: it starts when somebody in the child asks


_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _after_fork() -> None:
    for monitor in list(_monitors):
        monitor._restart_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
