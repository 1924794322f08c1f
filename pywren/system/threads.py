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
    todo = list(items)
    if threads <= 1 or len(todo) <= 1:
        for item in todo:
            function(item)
        return
    crew = _Crew(function, iter(todo))
    helpers = [
        threading.Thread(target=crew.work, name="pywren-request", daemon=True)
        for _ in range(min(threads, len(todo), MOST_AT_ONCE) - 1)
    ]
    try:
        with contextlib.suppress(RuntimeError):  # if no more threads can be started, use fewer
            for helper in helpers:
                helper.start()
        crew.work()
    except BaseException:
        crew.stop()
        raise
    finally:
        for helper in helpers:
            if helper.ident is not None:
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
                    item = next(self._items)
                except StopIteration:
                    return
            try:
                self._function(item)
            except BaseException as error:  # noqa: BLE001 -- for_each() raises it in the thread of its caller
                with self._lock:
                    self.error = self.error or error
                    self._stopped = True
                return
