"""Where the functions run that futures are to call when they are done: in threads that nothing else depends on.

What learns of outcomes (the pump of the local pool, the monitor of a storage) only queues them here. So a callback may
wait for other futures, make calls, or never return: outcomes go on to come.

They run one after the other, in the order in which the outcomes came. One that takes long holds up the others for
``PATIENCE_SECONDS``; then they go on in another thread. The lock guards the queue and is never held while one runs.
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
"""How long a callback may run before those behind it go on beside it."""

EXIT_SECONDS = 10.0
"""How long callbacks that still run are waited for at the end of the program."""

_LINGER_SECONDS = 5.0
_STANDING_BY = 2  # one that runs callbacks, and one that goes on when that takes long


class Callbacks:
    """A queue of callbacks, and the daemon threads that run them; there are none before ``expect``."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Callable[[], None]] = deque()
        self._expected: weakref.WeakSet[Any] = weakref.WeakSet()  # whose callbacks were announced, and have not come
        self._idle = 0  # threads that wait for one
        self._running: dict[object, float] = {}  # when each of those under way began
        self._current: object = None  # the one that those behind it wait for

    def expect(self, owner: Any) -> None:
        """Announce the callback of a future. At the end of the program it is too late to start threads for it."""
        with self._changed:
            self._expected.add(owner)
            missing = self._reserve(_STANDING_BY - len(self._running))
        self._start(missing)

    def run(self, owner: Any, callback: Callable[[], None]) -> None:
        """Have the callback of a future run; returns at once."""
        with self._changed:
            self._expected.discard(owner)
            self._queue.append(callback)
            self._changed.notify()
            missing = self._reserve(1)
        self._start(missing)

    def finish(self, timeout: float) -> int:
        """Wait for what is queued and under way; returns how many have not ended in time."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue and not self._running, timeout)
            return len(self._queue) + len(self._running)

    # -- the threads -------------------------------------------------------------------------------------------------

    def _reserve(self, wanted: int) -> int:
        """Count threads as idle that are to be started, without the lock, until there are as many as wanted."""
        missing = max(0, wanted - self._idle)
        self._idle += missing
        return missing

    def _start(self, count: int) -> None:
        for started in range(count):
            try:
                threading.Thread(target=self._serve, name="pywren-callbacks", daemon=True).start()
            except RuntimeError:  # there are too many threads, or the interpreter is at its end
                self._do_without(count - started)
                return

    def _do_without(self, count: int) -> None:
        """Give up threads that could not be started; where there is none at all, callbacks run here."""
        with self._changed:
            self._idle -= count
            left = [] if self._idle or self._running else list(self._queue)
            if left:
                self._queue.clear()
        for callback in left:
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
                del callback, taken  # it may hold the last reference to a big result
                self._end(token)

    def _take(self) -> tuple[object, Callable[[], None], int] | None:
        """Wait for a callback that may run now, and say how many threads are missing then; ``None`` ends the thread."""
        with self._changed:
            while not self._queue or self._seconds_to_wait() > 0:
                woken = self._changed.wait(self._seconds_to_wait() if self._queue else _LINGER_SECONDS)
                is_needed = self._queue or (self._expected and self._idle <= _STANDING_BY)
                if not woken and not is_needed:
                    self._idle -= 1
                    return None
            token = self._current = object()
            self._running[token] = time.monotonic()
            self._idle -= 1
            callback = self._queue.popleft()
            return token, callback, self._reserve(1) if self._queue else 0

    def _seconds_to_wait(self) -> float:
        """Return how long the next callback still has to wait for the current one."""
        began = self._running.get(self._current)
        return 0.0 if began is None else began + PATIENCE_SECONDS - time.monotonic()

    def _end(self, token: object) -> None:
        with self._changed:
            del self._running[token]
            self._idle += 1
            self._changed.notify_all()


callbacks = Callbacks()
"""The one queue of this process."""


def _finish_at_exit() -> None:
    """Let callbacks of calls that have ended come to their end, too; they run in daemon threads."""
    try:
        left = callbacks.finish(EXIT_SECONDS)
    except KeyboardInterrupt:
        left = callbacks.finish(0.0)
    if left:
        logger.warning("%d functions that futures call when they are done had not returned at the program's end", left)


# Registered before any pool registers its end, so it runs after that: all outcomes are there then.
atexit.register(_finish_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=callbacks._reset)
