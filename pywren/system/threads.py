"""``for_each``: sends many short requests in parallel, in threads that end before it returns.

The thread that calls ``for_each`` works too. All threads take items from one iterator under one lock. No thread holds
this lock while it processes an item.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")

MOST_AT_ONCE = 256
"""The most requests in parallel, and the number of connections that a client keeps open for them.

With more requests than connections, urllib3 would reconnect for every request, and warn each time.
"""


def for_each(function: Callable[[_Item], object], items: Iterable[_Item], threads: int) -> None:
    """Call a function for every item in several threads, and return when all calls have returned.

    After the first exception no more items are taken. The exception is raised when the running calls have returned. The
    same applies to an exception in the thread that calls ``for_each``, such as ``KeyboardInterrupt``.

    Args:
        function: takes one item; any of the threads may call it.
        items: the items, taken in order.
        threads: the most threads to use, up to ``MOST_AT_ONCE``; with one thread or one item, only the thread that
            calls ``for_each`` works.

    Raises:
        BaseException: whatever the first call that failed raised.
    """
    # On the caller's thread: a user's iterator must not run in several threads, and its errors belong to the caller.
    todo = list(items)
    # Nothing runs in parallel then, so spare the thread: most maps of a single call come this way.
    if threads <= 1 or len(todo) <= 1:
        for item in todo:
            function(item)
        return
    crew = _Crew(function, iter(todo))
    helpers = [
        # Daemon, although they are joined: a Ctrl-C during the join must not make the end of the program wait for a
        # request.
        threading.Thread(target=crew.work, name="pywren-request", daemon=True)
        # One fewer: the caller's thread is one of the crew.
        for _ in range(min(threads, len(todo), MOST_AT_ONCE) - 1)
    ]
    try:
        with contextlib.suppress(RuntimeError):  # if no more threads can be started, use fewer
            for helper in helpers:
                helper.start()
        # A helper that failed to start leaves its share to the others, since all take from the same iterator.
        crew.work()
    # work() keeps what a call raises. Only an interrupt between two calls, in the main thread, arrives here.
    except BaseException:
        crew.stop()
        raise
    finally:
        for helper in helpers:
            # A helper that could not be started has no ident, and joining it would raise RuntimeError.
            if helper.ident is not None:
                # Join even after an error: a helper must not write into the caller's tables when the caller has gone
                # on.
                helper.join()
    if crew.error is not None:
        raise crew.error


class _Crew:
    """The threads of one ``for_each``. They take items from one iterator until it ends or a call fails."""

    def __init__(self, function: Callable[[_Item], object], items: Iterator[_Item]) -> None:
        self.error: BaseException | None = None
        self._function: Callable[..., object] = function
        self._items = items
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def work(self) -> None:
        while True:
            with self._lock:
                if self._stopped:
                    return
                try:
                    # The check and this are one step under the lock, so that no item is taken after the first error. A
                    # list iterator alone would need no lock under the GIL, but would on a free-threaded build.
                    item = next(self._items)
                except StopIteration:
                    return
            try:
                self._function(item)
            except BaseException as error:  # noqa: BLE001 -- for_each() raises it in the thread of its caller
                with self._lock:
                    # The first error wins; the later ones are most often its echoes, such as the same refusal of the
                    # same service.
                    self.error = self.error or error
                    self._stopped = True
                return
