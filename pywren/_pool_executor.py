"""``PoolExecutor``: the standard library's ``Executor`` interface over any executor of pywren."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from pywren._adapters import Application, Chunk
from pywren.exceptions import ArgumentError, WaitTimeoutError
from pywren.executor import Executor
from pywren.future import ResponseFuture
from pywren.wait import wait


class PoolExecutor(concurrent.futures.Executor):
    """A ``concurrent.futures.Executor`` whose workers are pywren's.

    For programs written for ``ProcessPoolExecutor``; no ``if __name__ == "__main__"`` guard is needed.

    Args:
        executor: the executor to use, which stays open; ``None`` makes ``pywren.default_executor()``.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        self._is_own = executor is None
        if executor is None:
            from pywren.wren import default_executor  # it imports this package's other public modules

            executor = default_executor()
        self._executor = executor
        self._changed = threading.Condition()
        self._starting = 0
        self._outstanding: set[ResponseFuture] = set()
        self._shut_down = False

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._executor,)  # one that has submitted nothing yet

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ResponseFuture:
        """Call a function on a worker.

        Args:
            fn: the function.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            RuntimeError: the executor was shut down.
            PywrenError: as ``Executor.map`` of pywren.
        """
        return self._start(Application(fn), [(args, kwargs)])[0]

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """Call a function with the items of one or several iterables, as the built-in ``map`` does.

        Args:
            fn: takes one item of each iterable.
            iterables: consumed at once; the shortest decides.
            timeout: seconds from now within which each result must come; ``None`` for ever.
            chunksize: how many calls of ``fn`` share one call of a worker.

        Returns:
            An iterator over the results, in order; it cancels what is outstanding when it is closed early.

        Raises:
            ArgumentError: ``chunksize`` is less than 1.
            RuntimeError: the executor was shut down.
        """
        if chunksize < 1:
            raise ArgumentError(f"chunksize is {chunksize}; it must be at least 1")
        deadline = None if timeout is None else time.monotonic() + timeout
        tuples = zip(*iterables)  # noqa: B905 -- the shortest decides, as in the standard library
        chunks = iter(lambda: list(islice(tuples, chunksize)), [])
        return _results(self._start(Chunk(fn), list(chunks)), deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.

        Args:
            wait: return only when all calls have ended.
            cancel_futures: cancel the calls that have not begun to run, as far as that is known.
        """
        with self._changed:
            self._shut_down = True
            if wait:
                self._changed.wait_for(lambda: not self._starting)
            outstanding = list(self._outstanding)
        if cancel_futures:
            for future in outstanding:
                if not future.running():
                    future.cancel()
        if wait:
            _await(outstanding)
        if self._is_own:
            self._executor.close()

    def _start(self, function: Callable[[Any], Any], items: list[Any]) -> list[ResponseFuture]:
        with self._changed:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")  # the standard library's own words
            self._starting += 1
        try:
            # Not under the lock: this may wait for a future among the arguments, and a callback may submit more.
            futures = self._executor.map(function, items)
            self._outstanding.update(futures)
        finally:
            with self._changed:
                self._starting -= 1
                self._changed.notify_all()
        for future in futures:
            future.add_done_callback(self._outstanding.discard)
        return futures


def _await(futures: list[ResponseFuture]) -> None:
    wait(futures)


def _results(futures: list[ResponseFuture], deadline: float | None) -> Iterator[Any]:
    futures.reverse()  # so that each future can be let go as soon as its result is handed on
    try:
        while futures:
            future = futures.pop()
            try:
                yield from future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except (WaitTimeoutError, KeyboardInterrupt):
                futures.append(future)
                raise
            del future
    finally:
        for future in futures:
            future.cancel()
