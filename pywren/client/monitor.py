"""``Monitor``: polls all callsets in a storage that have outstanding futures, one callset after the other.

Any thread may call ``watch``. One daemon thread, ``pywren-monitor``, calls ``examine``. The thread lives as long as any
callset is to be polled. ``_changed`` guards the due times and the reference to the thread. No thread holds ``_changed``
when it calls ``examine``: ``examine`` sends requests and takes locks of the callset, and threads that hold these locks
call ``watch``.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from pywren.system.forks import in_each_child

logger = logging.getLogger(__name__)

FIRST_POLL = 0.02
"""Seconds from submission to the first poll: no worker answers sooner."""

SLOWEST_POLL = 5.0
"""The longest time in seconds between two polls. At this rate, one LIST request per poll costs 0.36 cents an hour (S3
prices, 2026)."""


def poll_delay(idle: float, cost: float) -> float:
    """Return how many seconds to wait before the next poll.

    A result that arrives after t seconds of waiting is noticed at most t/10 seconds later if polls are quick. The
    monitor spends at most a third of its time on polls that find nothing.

    Args:
        idle: seconds since the last result, or since the callset was submitted.
        cost: seconds that the last poll took, without reading what was new.
    """
    return min(SLOWEST_POLL, max(FIRST_POLL, 0.1 * idle, 2 * cost))


class Watched(Protocol):
    """A callset that a monitor polls."""

    def examine(self) -> float | None:
        """Poll once. Return how many seconds later to poll again, or ``None`` when no future is outstanding."""


class Monitor:
    """Polls the callsets of one storage, on a daemon thread that lives while futures are outstanding.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        # These are strong references: a callset that is due stays alive even if the program has dropped the executor,
        # because its futures may have callbacks. A callset with nothing outstanding is not in the table, and can be
        # freed.
        self._due: dict[Watched, float] = {}
        self._thread: threading.Thread | None = None
        _monitors.add(self)

    def watch(self, watched: Watched, delay: float = 0.0) -> None:
        """Have the monitor's thread poll a callset until none of its futures is outstanding. Return immediately.

        Args:
            watched: the callset.
            delay: seconds until the first poll. If a poll of this callset is due earlier, that time is kept.
        """
        # The caller may hold the condition of a callset. So nothing below may take a condition or the lock of a
        # callset.
        with self._changed:
            due = self._clock() + delay
            # The poll may become due earlier but never later, because another waiter may rely on the earlier time.
            self._due[watched] = min(due, self._due.get(watched, due))
            # Daemon: a program that ends with outstanding futures must not wait for them, and a poll can be cut off at
            # any point because it only reads, or writes objects in one request.
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="pywren-monitor", daemon=True)
                thread.start()  # raises if there are too many threads; the next call of watch() then tries again
                self._thread = thread
            # The thread sleeps until the earliest due time that it saw; this one may be earlier.
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            watched = self._next()
            if watched is None:
                return
            # Without the lock. A slow poll delays the other callsets of this storage, but the storage that is slow is
            # theirs too.
            delay = self._examine(watched)
            if delay is not None:
                # watch() finds ``_thread`` set, as only this thread clears it, so it starts no second thread.
                self.watch(watched, delay)
            del watched  # otherwise this variable would keep alive a callset that everything else has dropped

    def _examine(self, watched: Watched) -> float | None:
        try:
            return watched.examine()
        except BaseException:
            # This thread polls for all callsets: if it ended, every waiter would wait for ever. So it survives even a
            # SystemExit from a user's __del__ or unpickling. KeyboardInterrupt is delivered to the main thread only.
            logger.exception("polling for results failed; trying again in %g s", SLOWEST_POLL)
            return SLOWEST_POLL

    def _next(self) -> Watched | None:
        """Wait until a callset is due, and return it; ``None`` ends the thread."""
        with self._changed:
            # A linear search: a storage has few callsets with outstanding futures at a time, and each poll costs a
            # request anyway.
            while self._due:
                watched = min(self._due, key=lambda item: self._due[item])
                delay = self._due[watched] - self._clock()
                if delay <= 0:
                    # Remove the callset before examine(): a watch() during the poll then asks for one more poll.
                    del self._due[watched]
                    return watched
                # Compute everything again after waking: watch() may have added an earlier callset, or the wait may have
                # ended early.
                self._changed.wait(delay)
            # Clear it under the lock: whoever calls watch() after this starts a new thread, so no request is lost.
            self._thread = None
            return None

    def _restart_in_child(self) -> None:
        """Start over in a forked child: the parent's thread does not exist there, and may have held the lock.

        A new thread starts when something in the child calls ``watch``.
        """
        # The parent's thread polls these in the parent. The child polls a callset only if something there waits for it.
        self._due = {}
        self._changed = threading.Condition()
        self._thread = None


_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()
in_each_child(_monitors, Monitor._restart_in_child)
