"""``Callbacks``: the threads that run the done callbacks of futures. Nothing else depends on these threads.

The threads that learn the outcomes of calls (the pump of the local pool, the monitor of a storage) only queue callbacks
here. So even if a callback waits for other futures, makes calls, or never returns, outcomes still arrive.

Callbacks run one at a time, in the order of the outcomes. If a callback takes longer than ``PATIENCE_SECONDS``, the
callbacks after it run in another thread. The lock of ``_changed`` guards all attributes. No thread holds this lock
while it runs a callback or starts a thread.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.1
"""How long a callback may run, in seconds, before the next callback runs in parallel."""

EXIT_SECONDS = 10.0
"""How many seconds a program waits at its end for callbacks that have not returned."""

_LINGER_SECONDS = 5.0  # how long an idle thread waits for a callback before it ends
_STANDING_BY = 2  # one thread that runs callbacks, and one that takes over when a callback takes long


class Callbacks:
    """A queue of callbacks and the daemon threads that run them. No thread exists before ``expect``.

    Args:
        name: the name of the threads.
    """

    def __init__(self, name: str = "pywren-callbacks") -> None:
        self._name = name
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Callable[[], None]] = deque()
        self._expected: weakref.WeakSet[Any] = (
            weakref.WeakSet()
        )  # futures whose callbacks were announced but are not queued yet
        self._idle = 0  # threads that wait for a callback
        self._running: dict[object, float] = {}  # when each running callback began
        self._current: object = None  # the running callback that the queue waits for

    def expect(self, owner: Any) -> None:
        """Announce the callback of a future. This starts threads, because no thread can start at the program's end."""
        with self._changed:
            # A weak set: a future that the program drops needs no thread. If its call ends before this line, run() has
            # discarded it too early and it stays here until it is freed; then two idle threads live that long, which is
            # harmless.
            self._expected.add(owner)
            # A running thread will serve again, so it counts. It becomes idle again in _end(), in time for the next
            # callback.
            missing = self._reserve(_STANDING_BY - len(self._running))
        # Without the lock: Thread.start() waits for the new thread to run, which takes long on a busy machine.
        self._start(missing)

    def run(self, owner: Any, callback: Callable[[], None]) -> None:
        """Queue the callback of a future, and return immediately."""
        with self._changed:
            self._expected.discard(owner)
            self._queue.append(callback)
            # One idle thread is enough: it takes the callback, and _take() reserves another thread if more are queued.
            # finish() waits on this condition too, but only at the end of the program, after the last outcome.
            self._changed.notify()
            missing = self._reserve(1)
        self._start(missing)

    def finish(self, timeout: float) -> int:
        """Wait at most ``timeout`` seconds for all callbacks to return. Return how many have not returned by then."""
        with self._changed:
            # _end() notifies all, so this waiter is never passed over in favour of an idle thread.
            self._changed.wait_for(lambda: not self._queue and not self._running, timeout)
            return len(self._queue) + len(self._running)

    # -- the threads -------------------------------------------------------------------------------------------------

    def _reserve(self, wanted: int) -> int:
        """Return how many threads must be started so that ``wanted`` threads are idle. Count these as idle already."""
        missing = max(0, wanted - self._idle)
        # Otherwise a second run() before the new thread reaches _take() would start yet another thread for it.
        self._idle += missing
        return missing

    def _start(self, count: int) -> None:
        for started in range(count):
            try:
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            # Since Python 3.12 no thread can start once the interpreter is shutting down: that is why expect() starts
            # them early.
            except RuntimeError:  # there are too many threads, or the interpreter is shutting down
                self._do_without(count - started)
                return

    def _do_without(self, count: int) -> None:
        """Stop counting threads that could not be started. If no thread is left, run the callbacks in this thread."""
        with self._changed:
            self._idle -= count
            # A thread that is idle or running will come to the queue. Without any, these callbacks would never run.
            left = [] if self._idle or self._running else list(self._queue)
            if left:
                self._queue.clear()
        for callback in left:
            # On the thread of the monitor, the pump or the program: it may delay outcomes, but a lost callback would be
            # worse. ``call_back`` logs what a program's function raises.
            callback()

    def _serve(self) -> None:
        while True:
            taken = self._take()
            if taken is None:
                return
            token, callback, missing = taken
            self._start(missing)
            try:
                callback()
            finally:
                del callback, taken  # these may hold the last reference to a big result
                self._end(token)

    def _take(self) -> tuple[object, Callable[[], None], int] | None:
        """Wait for a callback that may run. Return a token for it, the callback, and how many threads to start.

        ``None`` means that this thread is not needed any more.
        """
        with self._changed:
            # Check again after every wake-up: another idle thread may have taken the callback, or the current one may
            # have ended.
            while not self._queue or self._seconds_to_wait() > 0:
                # With callbacks queued, sleep only until the current one has used up its patience: then the next may
                # overtake it.
                woken = self._changed.wait(self._seconds_to_wait() if self._queue else _LINGER_SECONDS)
                # While a callback is announced, keep two threads: at the end of the program none could be started for
                # it.
                is_needed = self._queue or (self._expected and self._idle <= _STANDING_BY)
                if not woken and not is_needed:
                    self._idle -= 1
                    return None
            # A token of its own for each run: the same callback object may be queued twice.
            token = self._current = object()
            self._running[token] = time.monotonic()
            self._idle -= 1
            callback = self._queue.popleft()
            # The queue now waits for this callback. A thread must stand by to take over if it takes longer than its
            # patience.
            return token, callback, self._reserve(1) if self._queue else 0

    def _seconds_to_wait(self) -> float:
        """Return how many more seconds the next callback must wait for the callback that is running."""
        began = self._running.get(self._current)
        return 0.0 if began is None else began + PATIENCE_SECONDS - time.monotonic()

    def _end(self, token: object) -> None:
        with self._changed:
            del self._running[token]
            self._idle += 1
            # For the idle threads and for finish(): with notify() the one woken could be the wrong one.
            self._changed.notify_all()


def restart_in_child(queue: Callbacks) -> None:
    """Have a queue start over in each forked child. What is queued runs in the parent only.

    Args:
        queue: a queue that lives as long as the process.
    """
    if hasattr(os, "register_at_fork"):
        # The child has none of the threads, and another thread of the parent may have held the lock.
        os.register_at_fork(after_in_child=queue._reset)


callbacks = Callbacks()
"""The queue of the program's own callbacks."""


def _finish_at_exit() -> None:
    """At the program's end, wait for callbacks: they run in daemon threads, for which Python itself does not wait."""
    try:
        left = callbacks.finish(EXIT_SECONDS)
    except KeyboardInterrupt:
        left = callbacks.finish(0.0)
    if left:
        logger.warning("%d done callback(s) of futures had not returned when the program ended", left)


# This is registered before any pool registers its own end, so it runs after that: by then all outcomes have arrived.
atexit.register(_finish_at_exit)
restart_in_child(callbacks)
