"""``LazyCalls``: the calls for a stream of items, made somewhat ahead of the results that the program takes.

The thread that takes results also takes items and makes calls. So a program that stops taking results stops all of it
(back-pressure), the user's iterator runs on the user's thread, and nothing is left behind when the program drops the
results. ``PoolExecutor.map``, ``Executor.imap`` and ``Executor.imap_unordered`` build on this.

Results are dropped on any thread, also by the garbage collector, when that thread may hold any lock. So the calls of
dropped results are cancelled on a thread of their own, ``pywren-drop``.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import queue
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic

from pywren.client import waiting
from pywren.client.call_state import is_done, verdict_of
from pywren.client.typevars import T
from pywren.exceptions import ArgumentError, PywrenError, StorageError
from pywren.system import shutdown
from pywren.wait import cancel_each

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from pywren.future import ResponseFuture

logger = logging.getLogger(__name__)

Make = Callable[[list[Any]], "Sequence[ResponseFuture]"]
"""Makes calls: takes their items, and returns one future for each."""

_PATIENCE = 0.05
"""Seconds after which a slow iterator of items is left alone for a while, so that results are taken meanwhile."""

_SHARE = 8
"""More calls are made once an eighth of those ahead is missing. Each submission has a fixed cost, so it should contain
many calls; but workers must not run out of calls while it is put off."""

_LINGER_SECONDS = 5.0  # how long the thread that cancels lives when there are no results to drop

_EXIT_SECONDS = 10.0  # how long the end of a program waits for it


class InOrder:
    """Futures, of which the first one is taken first. ``waiting.Arrivals`` has the same methods."""

    def __init__(self) -> None:
        self._futures: deque[ResponseFuture] = deque()

    def __len__(self) -> int:
        return len(self._futures)

    def add(self, futures: Sequence[ResponseFuture]) -> None:
        """Add futures at the end."""
        self._futures.extend(futures)
        waiting.expect(futures)  # so that they can end while nothing waits for them

    def has_one(self) -> bool:
        """Tell whether ``take`` would return a future without waiting."""
        return bool(self._futures) and is_done(self._futures[0])

    def take(self, timeout: float | None = None) -> ResponseFuture:
        """Wait for the first future to end, and return it. If this raises, the future stays.

        Raises:
            WaitTimeoutError: it has not ended in time.
            StorageError: the storage could not be reached for a minute.
        """
        self._futures[0]._await_outcome(timeout)
        return self._futures.popleft()

    def close(self) -> list[ResponseFuture]:
        """Drop the futures, and return them."""
        futures, self._futures = list(self._futures), deque()
        return futures


class LazyCalls:
    """Calls that are made as their results are taken. Only one thread at a time may use it.

    Args:
        make: makes calls.
        items: the items of the calls that have not been made yet.
        ahead: how many calls to make ahead of the results that are taken.
        futures: determines the order of the results.
    """

    def __init__(
        self, make: Make, items: Iterator[Any], ahead: int, futures: InOrder | waiting.Arrivals | None = None
    ) -> None:
        self._make = make
        self._items = items
        self._ahead = ahead
        self._futures: Any = InOrder() if futures is None else futures
        self._has_more = True
        # Calls that were just made, until ``_futures`` has them.
        self._made: deque[Sequence[ResponseFuture]] = deque()
        # Why there are no more calls, if the iterator or the making of calls raised. It is raised after the results of
        # the calls that were made before.
        self._failure: BaseException | None = None
        _drops.expect(self)

    def start(self, make: Make) -> None:
        """Make the first calls: as many as ``ahead``, however long the iterator of items takes.

        Args:
            make: makes these calls.

        Raises:
            BaseException: what the iterator or the making of calls raised. No calls were made. After Ctrl-C, those that
                have not begun on this machine are cancelled.
        """
        items = self._take_items(math.inf)
        if self._failure is not None:
            raise self._failure
        try:
            self._add(make, items)
        except KeyboardInterrupt:
            self.stop_waiting()
            raise

    def begin(self) -> None:
        """Make the first calls, as many as ``ahead`` or fewer if the iterator of items takes long.

        Raises:
            BaseException: what the iterator or the making of calls raised, if no calls were made before. After Ctrl-C,
                those that have not begun on this machine are cancelled.
        """
        try:
            self._fill()
        except KeyboardInterrupt:
            self.stop_waiting()
            raise
        if not self._futures:
            self._end()

    def take(self, timeout: float | None = None) -> ResponseFuture | None:
        """Wait for the next call to end, and return its future; return ``None`` when no call is left.

        Args:
            timeout: the longest time to wait, in seconds; ``None`` for no limit.

        Raises:
            WaitTimeoutError: the call has not ended in time. ``take`` may be called again.
            StorageError: the storage could not be reached for a minute. ``take`` may be called again.
            BaseException: no call is left, because the iterator or the making of calls raised this exception.
        """
        has_filled = False
        while not self._futures.has_one() and self._has_room():
            self._fill()
            has_filled = True
        if not self._futures:
            self._end()
            return None
        future: ResponseFuture = self._futures.take(timeout)
        # Once only: a slow iterator must not hold the result back for two items.
        if not has_filled and self._has_room():
            self._fill()
        return future

    def cancel(self) -> None:
        """Cancel the outstanding calls, and make no more."""
        cancel_each(self._drop())

    def stop_waiting(self) -> None:
        """After Ctrl-C, cancel only the calls that have not begun on this machine, and make no more."""
        stop_waiting(self._drop())

    def drop(self) -> None:
        """Make no more calls, and have another thread cancel the outstanding ones. Destructors call this."""
        # Here, so that a generator of items is closed on the thread that drops it.
        self._has_more, self._items, self._failure = False, iter(()), None
        if self._futures or self._made:
            _drops.take(self)

    def _has_room(self) -> bool:
        return self._has_more and (self._ahead - len(self._futures)) * _SHARE >= self._ahead

    def _fill(self) -> None:
        items = self._take_items(_PATIENCE)
        try:
            self._add(self._make, items)
        except BaseException as error:  # noqa: BLE001 -- pickling the user's items may raise anything
            self._fail(error)

    def _add(self, make: Make, items: list[Any]) -> None:
        if items:
            # Ctrl-C comes between two steps of the interpreter. While calls are made, the executor withdraws them then;
            # afterwards they are here, because no step comes between the return of ``make`` and the end of ``extend``.
            self._made.extend(map(make, (items,)))
        while self._made:
            self._futures.add(self._made[0])
            self._made.popleft()

    def _fail(self, error: BaseException) -> None:
        shutdown.raise_ctrl_c(error)
        self._failure, self._has_more = error, False

    def _take_items(self, patience: float) -> list[Any]:
        """Take items for all calls that may be made now, or fewer if that takes more than ``patience`` seconds."""
        items: list[Any] = []
        count, until = self._ahead - len(self._futures), time.monotonic() + patience
        try:
            while len(items) < count and self._has_more:
                items.append(next(self._items))
                if time.monotonic() >= until:
                    break
        except StopIteration:
            self._has_more = False
        except BaseException as error:  # noqa: BLE001 -- the user's iterator may raise anything, even SystemExit
            self._fail(error)
        return items

    def _end(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _drop(self) -> list[ResponseFuture]:
        self._has_more, self._items, self._failure = False, iter(()), None
        dropped: list[ResponseFuture] = self._futures.close()
        while self._made:
            dropped += self._made.popleft()
        return dropped


class _Drops:
    """Cancels the calls of results that the program has dropped, on a daemon thread that exists while there are some.

    What drops results only puts them into the queue: its thread may hold any lock, so it must neither wait nor send
    requests nor start a thread, and ``SimpleQueue.put`` is made for that. ``_starting`` guards ``_is_running``. It is
    reentrant, because an allocation under it may run the garbage collector, and that any destructor.
    """

    def __init__(self) -> None:
        self._dropped: queue.SimpleQueue[LazyCalls | threading.Event] = queue.SimpleQueue()
        self._starting = threading.RLock()
        self._expected: weakref.WeakSet[LazyCalls] = weakref.WeakSet()
        self._is_running = False

    def expect(self, calls: LazyCalls) -> None:
        """Start the thread, unless it runs. It runs at least until these calls are gone."""
        with self._starting:
            self._expected.add(calls)
            starts, self._is_running = not self._is_running, True
        if starts:
            try:
                threading.Thread(target=self._serve, name="pywren-drop", daemon=True).start()
            except RuntimeError:  # there are too many threads, or the program is ending: dropped calls go on
                self._is_running = False

    def take(self, calls: LazyCalls) -> None:
        """Have the outstanding calls cancelled soon."""
        self._dropped.put(calls)

    def finish(self, timeout: float) -> None:
        """Wait until the calls of what was dropped before are cancelled."""
        if self._is_running:
            is_over = threading.Event()
            self._dropped.put(is_over)
            is_over.wait(timeout)

    def _serve(self) -> None:
        while True:
            try:
                dropped = self._dropped.get(timeout=_LINGER_SECONDS)
            except queue.Empty:
                with self._starting:
                    # Calls are among the expected ones until they are in the queue.
                    if not self._expected and self._dropped.empty():
                        self._is_running = False
                        return
                continue
            if isinstance(dropped, threading.Event):
                dropped.set()
                continue
            try:
                dropped.cancel()
            except PywrenError as error:
                logger.warning("the calls of results that were dropped could not be cancelled: %s", error)
            del dropped  # otherwise this variable would keep the last futures


_drops = _Drops()
atexit.register(lambda: _drops.finish(0.0 if shutdown.is_interrupted() else _EXIT_SECONDS))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drops.__init__)  # type: ignore[misc]


class Results(Generic[T]):
    """An iterator over the results of calls, which are made as the results are taken.

    It keeps no result that it has returned. If a call fails, the iterator raises its error and cancels the outstanding
    calls. So does ``close``, the end of a ``with`` block, and dropping the iterator.

    Args:
        calls: the calls.
        return_exceptions: return the exceptions of failed calls in place of results, and go on.
    """

    def __init__(self, calls: LazyCalls, *, return_exceptions: bool = False) -> None:
        self._calls = calls
        self._return_exceptions = return_exceptions
        self._process = os.getpid()
        # Never waited for: it only shows that another thread, or the iterator of items itself, is inside.
        self._inside = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of a stream of calls: take them with a for loop or next()>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """Return the next result.

        Raises:
            StorageError: the storage could not be reached for a minute. The calls go on, and so may the iteration.
            ArgumentError: another thread is taking a result, or the iterator was made before a fork.
            BaseException: what a call raised, or what the iterator of items raised, after the results of all items
                that it had returned.
        """
        self._enter()
        try:
            return self._take()
        except KeyboardInterrupt:
            self._calls.stop_waiting()
            raise
        finally:
            self._inside.release()

    def close(self) -> None:
        """Cancel the outstanding calls, and make no more."""
        if self._process == os.getpid():  # otherwise the calls belong to the parent process
            self._enter()
            try:
                self._calls.cancel()
            finally:
                self._inside.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._calls.stop_waiting()  # one Ctrl-C must be enough
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:  # module globals may be gone
        # On whichever thread drops the iterator last. Not if __init__ was interrupted, nor in a forked process, whose
        # parent has the calls, nor while the interpreter ends: it has waited for what runs on this machine.
        if "_inside" in self.__dict__ and self._process == os.getpid() and not is_finalizing():
            self._calls.drop()

    def _enter(self) -> None:
        if self._process != os.getpid():
            raise ArgumentError("results can be taken only in the process that made the calls, not in a forked one")
        if not self._inside.acquire(blocking=False):
            raise ArgumentError("this iterator is in use: let one thread take the results and hand them on")

    def _take(self) -> T:
        future = self._calls.take()
        if future is None:
            raise StopIteration
        if self._return_exceptions:
            verdict = verdict_of(future)
            if verdict is not None and verdict.error is not None:
                return verdict.error  # type: ignore[return-value]  # T then includes BaseException
        try:
            result: T = future.result()
        except BaseException:
            self._cancel_others()
            raise
        return result

    def _cancel_others(self) -> None:
        try:
            self._calls.cancel()
        except StorageError as error:  # the program is about to hear of something that concerns it more
            logger.warning("a call of a stream has failed, and the others could not be cancelled: %s", error)


def stop_waiting(futures: Iterable[ResponseFuture]) -> None:
    """After Ctrl-C, cancel the calls that have not begun on this machine; say what runs, if nothing has said it yet."""
    origins = {id(origin): origin for one in futures if (origin := one._origin) is not None}
    if not shutdown.is_interrupted():
        waiting.stop_waiting(origins.values())
        return
    for origin in origins.values():
        origin.withdraw()
