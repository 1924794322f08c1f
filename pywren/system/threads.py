"""Doing many short requests at once in threads that do not outlive the call."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")

MOST_AT_ONCE = 256
"""Requests that are under way together at most, and the connections that a client keeps for them.

More would not be quicker, connect anew for every request, and have urllib3 complain of each.
"""


def for_each(function: Callable[[_Item], object], items: Iterable[_Item], threads: int) -> None:
    """Call a function for every item, from several threads at once; returns when all are done.

    The first exception stops the handing out of further items, and is raised when the calls under way have
    ended. So does an exception in the caller's own thread, such as ``KeyboardInterrupt``.

    Args:
        function: what to call with one item; called from any thread.
        items: the items, taken in order.
        threads: how many threads at most, up to ``MOST_AT_ONCE``; with one, or for one item, all happens in the
            caller's.

    Raises:
        BaseException: what the first failing call raised.
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
        with contextlib.suppress(RuntimeError):  # no more threads are to be had: those that started will do
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
    """The threads of one ``for_each``: they take items from one iterator until it ends or one fails."""

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
            except BaseException as error:  # noqa: BLE001 -- carried to the caller's thread, whatever it is
                with self._lock:
                    self.error = self.error or error
                    self._stopped = True
                return
