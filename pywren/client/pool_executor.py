"""``ExecutorAdapter``: gives any executor of pywren the interface of the standard library's ``Executor``.

``pywren.PoolExecutor`` is a subclass that chooses the executor, and bounds how many calls it has in flight
(``pywren.wren``).
"""

from __future__ import annotations

import concurrent.futures
import operator
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence, Sized
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, overload

from pywren import wrenconfig
from pywren.client.call_state import tell_when_done
from pywren.client.driver.capacity import USUAL_CONCURRENCY
from pywren.client.lazy_calls import LazyCalls, stop_waiting
from pywren.client.protocols import Verbs
from pywren.client.typevars import T
from pywren.client.verbs import Submits
from pywren.exceptions import ArgumentError, BrokenPoolError, ShutdownError
from pywren.future import ResponseFuture
from pywren.pickling.adapters import Application, Chunk, Initialized, Setup
from pywren.system import private_names
from pywren.system import shutdown as _shutdown
from pywren.system.forks import in_each_child
from pywren.wait import cancel_each, wait

if TYPE_CHECKING:
    from types import TracebackType

LAZY_CALLS = 10_000
"""How many calls ``map`` makes ahead of the results taken when it does not know how many calls there will be."""

_MOST_AT_ONCE = 1_000_000  # a map with a known number of calls makes up to this many calls together


class ExecutorAdapter(Submits, concurrent.futures.Executor):
    """A ``concurrent.futures.Executor`` that makes its calls through an executor of pywren.

    Any thread may submit, shut down and take results. ``_changed`` guards the fields that ``__init__`` sets after it. A
    thread that holds ``_changed`` does only bookkeeping. It does not make calls: making a call may wait for a future in
    the arguments, and the callback of that future may submit more calls.

    Args:
        executor: the executor to use. It bounds how many calls are in flight.
        is_own: whether ``shutdown`` closes ``executor``.
        max_workers: how many calls that are, for programs that ask.
        setup: how the worker processes are prepared; ``None`` if they need no preparation.
    """

    def __init__(self, executor: Verbs, *, is_own: bool, max_workers: int, setup: Setup | None = None) -> None:
        self._is_own = is_own
        self._executor = executor
        self._max_workers = max_workers  # Dask, joblib and others read it, as they do with the standard library's
        self._setup = setup
        # How the initializer failed; False if it did not. Written once, by the thread that runs callbacks.
        self._broken: str | bool = False
        self._begin()
        # Changed without the lock: set.update and set.discard are atomic, and shutdown() copies it when nothing is
        # starting.
        self._outstanding: set[ResponseFuture] = set()
        self._shut_down = False
        _adapters.add(self)

    def _begin(self) -> None:
        """Begin without threads that make calls; in a forked child, the threads of the parent do not exist."""
        # Its RLock matters: a __del__ that runs on this thread meanwhile may submit more.
        self._changed = threading.Condition()
        # How many threads are between the check that the executor is open and the registration of their futures.
        self._starting = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # The copy has submitted nothing yet, and its executor bounds what is in flight as this one's does.
        return _copied, (type(self), self._executor, self._max_workers, self._setup)

    def _submit_one(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ResponseFuture:
        return self._start(Application(func), [(args, kwargs)])[0]

    @overload  # an ``async def`` function: its coroutine's value is the result
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Call a function with the items of one or several iterables, as the built-in ``map`` does.

        Args:
            fn: takes one item of each iterable.
            iterables: the shortest one determines how many calls there are. If an iterable has a length and there are
                up to a million calls, ``map`` consumes all items before it returns. Otherwise, as with generators, it
                consumes enough items for ``LAZY_CALLS`` calls, and more items as results are taken.
            timeout: seconds from now within which every result must arrive; ``None`` sets no limit.
            chunksize: how many calls of ``fn`` a worker makes in one pywren call.
            buffersize: how many pywren calls to make ahead of the results taken, as in ``concurrent.futures`` in Python
                3.14; with ``None``, as many as described for ``iterables``.

        Returns:
            An iterator over the results, in order. Closing the iterator early cancels the outstanding calls.

        Raises:
            ArgumentError: ``chunksize`` or ``buffersize`` is less than 1. It is a ``ValueError``.
            TypeError: ``buffersize`` is not a number, or one of ``iterables`` is not iterable.
            BrokenPoolError: the initializer has failed. It is a ``concurrent.futures.BrokenExecutor``.
            ShutdownError: the executor was shut down, or the program is ending. It is a ``RuntimeError``.
        """
        if chunksize < 1:
            raise ArgumentError("chunksize must be >= 1.")  # here and below the standard library's own words
        ahead = self._calls_ahead(iterables, chunksize) if buffersize is None else _checked_buffersize(buffersize)
        # From the call of map() on, as in ``concurrent.futures``, not from the first result that is taken.
        deadline = None if timeout is None else time.monotonic() + timeout
        tuples = zip(*iterables)  # noqa: B905 -- stop at the shortest iterable, as the standard library does
        make = partial(self._start, Chunk(fn))
        # Later calls are made even after ``shutdown``, because they belong to a map that was accepted earlier.
        calls = LazyCalls(partial(make, is_accepted=True), iter(lambda: list(islice(tuples, chunksize)), []), ahead)
        self._require_open()
        # The first calls start now, on the caller's thread, rather than when the generator is first advanced.
        calls.start(make)
        return _results(calls, deadline)

    def _calls_ahead(self, iterables: Sequence[Iterable[Any]], chunksize: int) -> int:
        lengths = [len(iterable) for iterable in iterables if isinstance(iterable, Sized)]
        if lengths and min(lengths) <= _MOST_AT_ONCE:
            return max(1, -(-min(lengths) // chunksize))
        limit = self._executor.map_item_limit
        return LAZY_CALLS if limit is None else min(LAZY_CALLS, limit)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls.

        Args:
            wait: return only when all calls have ended.
            cancel_futures: cancel the calls that are not known to be running.
        """
        with self._changed:
            # Set it first, under the lock: a thread that comes to _start() after this is refused, and one that came
            # before it is counted in _starting.
            self._shut_down = True
            if wait:
                # Otherwise calls that are being made right now would be missing from the copy below, and nobody would
                # wait for them. With wait=False they are neither cancelled nor awaited.
                self._changed.wait_for(lambda: not self._starting)
            # A copy: the threads that settle remove futures from the set while this thread cancels and waits.
            outstanding = list(self._outstanding)
        if cancel_futures:
            # Only calls on this machine report their start, so a call on Lambda is cancelled even if it runs. A call
            # that starts after this check is cancelled too.
            cancel_each([future for future in outstanding if not future.running()])
        if wait:
            # Without the lock: callbacks of these futures may submit, and must be refused rather than blocked.
            _await(outstanding)
        # Last: cancel() and the wait above still use the executor's pool or storage.
        if self._is_own:
            self._executor.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut down, and wait for the calls, unless Ctrl-C ends the block: one Ctrl-C must be enough.

        After Ctrl-C, calls that have not begun on this machine are cancelled, and the others go on.
        """
        is_interrupted = isinstance(error, KeyboardInterrupt)
        if is_interrupted:
            stop_waiting(list(self._outstanding))
        self.shutdown(wait=not is_interrupted)

    def _require_open(self) -> None:
        if self._broken:
            raise BrokenPoolError(str(self._broken))
        _shutdown.require_running()
        # Also read without the lock, by map(): a shutdown that comes right after this is caught again in _start().
        if self._shut_down:
            raise ShutdownError("cannot schedule new futures after shutdown")  # the standard library's own wording

    def _start(
        self, function: Callable[[Any], Any], items: list[Any], *, is_accepted: bool = False
    ) -> list[ResponseFuture]:
        """Make calls. After ``shutdown``, make only the calls of a map that was accepted earlier."""
        with self._changed:
            if not is_accepted:
                self._require_open()
            # In the same step as the check: shutdown() sees either the refusal or this count.
            self._starting += 1
        if self._setup is not None:
            function = Initialized(self._setup, function)
        futures: list[ResponseFuture] = []
        try:
            # Not under the lock: this may wait for a future in the arguments, and its callback may submit more calls.
            # Ctrl-C finds no step of the interpreter between the return of map() and the end of extend().
            futures.extend(chain.from_iterable(map(self._executor.map, (function,), (items,))))
        finally:
            # Before _starting goes down, so that shutdown() finds the futures in the set.
            self._outstanding.update(futures)
            with self._changed:
                self._starting -= 1
                # Also when making the calls failed: shutdown() must not wait for a thread that has given up.
                self._changed.notify_all()
        for future in futures:
            # It runs on the thread that settles, under the callset's condition, so it must not wait: discard() takes no
            # lock. A future that is done already is removed right here.
            tell_when_done(future, self._outstanding.discard)
            if self._setup is not None and self._setup.initializer is not None:
                future.add_done_callback(self._notice_failure)
        return futures

    def _notice_failure(self, future: concurrent.futures.Future[Any]) -> None:
        """Take no more calls if the initializer has failed. This runs on a thread that is reserved for callbacks."""
        error = future._exception
        if self._broken or not isinstance(error, BrokenPoolError):
            return
        if self._setup is not None and error.pool == self._setup.pool:  # otherwise it is about a pool of the function
            # As ThreadPoolExecutor does. First the line, then the state: whoever sees the state can read why.
            private_names.futures_logger().critical("Exception in initializer:", exc_info=error)
            self._broken = str(error)


_adapters: weakref.WeakSet[ExecutorAdapter] = weakref.WeakSet()
in_each_child(_adapters, ExecutorAdapter._begin)


def _copied(kind: type[ExecutorAdapter], executor: Verbs, max_workers: int, setup: Setup | None) -> ExecutorAdapter:
    pool = kind.__new__(kind)
    ExecutorAdapter.__init__(pool, executor, is_own=False, max_workers=max_workers, setup=setup)
    return pool


def checked_max_workers(max_workers: Any) -> int | None:
    """Return ``max_workers`` as an ``int``, if it is not ``None``.

    Raises:
        ArgumentError: it is less than 1. It is a ``ValueError``.
        TypeError: it is not a whole number.
    """
    if max_workers is None:
        return None
    try:
        number = operator.index(max_workers)
    except TypeError:
        raise TypeError(
            f"max_workers is {max_workers!r}; it must be an integer or None. To choose where the calls run, pass an "
            "executor, such as pywren.local_executor(), as executor="
        ) from None
    if number < 1:
        raise ArgumentError("max_workers must be greater than 0")
    return number


def checked_setup(
    initializer: Callable[..., object] | None, initargs: Iterable[Any], max_tasks_per_child: int | None
) -> Setup | None:
    """Return how worker processes are to be prepared; ``None`` if they need no preparation.

    Raises:
        ArgumentError: ``max_tasks_per_child`` is less than 1. It is a ``ValueError``.
        TypeError: ``initializer`` cannot be called, or ``max_tasks_per_child`` is not a whole number.
    """
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if max_tasks_per_child is not None:
        if not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child < 1:
            raise ArgumentError("max_tasks_per_child must be >= 1")
    if initializer is None and max_tasks_per_child is None:
        return None
    return Setup(uuid.uuid4().hex, initializer, tuple(initargs), max_tasks_per_child)


def workers_of(executor: Any) -> int:
    """Return how many calls an executor has in flight at most, as far as that is known."""
    from pywren.invokers import LocalInvoker

    invoker, config = getattr(executor, "invoker", None), getattr(executor, "config", {})
    if isinstance(invoker, LocalInvoker):
        return invoker.pool.size
    bound = wrenconfig.setting(config, "scheduler.max_concurrency")
    return int(bound or wrenconfig.setting(config, "lambda.concurrency") or USUAL_CONCURRENCY)


def has_verbs(executor: object) -> bool:
    """Tell whether an object has an executor's methods. An unpickled executor is not initialized for this check."""
    verbs = (getattr(type(executor), name, None) for name in ("map", "call_async"))
    return all(map(callable, verbs))


def _await(futures: list[ResponseFuture]) -> None:
    wait(futures)


def _checked_buffersize(buffersize: int) -> int:
    if not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ArgumentError("buffersize must be None or > 0")
    return buffersize


def _results(calls: LazyCalls, deadline: float | None) -> Iterator[Any]:
    try:
        while (future := calls.take(None if deadline is None else max(0.0, deadline - time.monotonic()))) is not None:
            results = future.result()
            del future  # otherwise this variable would keep alive a result that the program has dropped
            results.reverse()
            # Reverse and pop, so that each result is freed as soon as the program drops it, not with the whole chunk.
            while results:
                yield results.pop()
    except KeyboardInterrupt:
        calls.stop_waiting()
        raise
    except GeneratorExit:
        # The program closes the generator, or drops it, which any thread may do, with any lock held. A generator that
        # was never advanced has not entered this ``try``, so its calls go on.
        calls.drop()
        raise
    except BaseException:
        calls.cancel()
        raise
