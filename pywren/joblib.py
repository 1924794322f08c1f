"""joblib's backend ``pywren``: importing this module registers it.

::

    import pywren.joblib

    with joblib.parallel_config(backend="pywren"):
        search.fit(X, y)

Needs ``pip install 'pywren[joblib]'``. Workers import this module too, so it imports the client only inside functions.

Which thread does what
----------------------
- The program's thread, and pywren's thread for callbacks, hand batches over with ``submit``. joblib holds its own lock
  then, so ``submit`` only puts the batch into a queue.
- The thread ``pywren-joblib``, one for each run of a ``joblib.Parallel``, takes the batches from the queue and makes
  the calls: what joblib dispatches together becomes one map, whose calls are staged and invoked in parallel.
- ``_changed`` guards the queue and the set of calls in flight. A thread that holds it only decides: it makes, cancels
  and reports no call.
"""

from __future__ import annotations

import concurrent.futures
import copy
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pywren.exceptions import ArgumentError
from pywren.pickling.large_arguments import loaded
from pywren.system.private_names import forget_ready_batches

try:
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
        register_parallel_backend,
    )
except ImportError as error:
    raise ImportError("pywren.joblib needs joblib 1.5 or later: pip install 'pywren[joblib]'") from error

if TYPE_CHECKING:
    from pywren.client.large_arguments import LargeArguments
    from pywren.future import ResponseFuture

__all__ = ["PywrenBackend", "RemoteTraceback"]

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.002
"""After so many seconds without another batch, joblib has dispatched all that it had."""

_STAGED_PAUSE_SECONDS = 0.05
"""The same for calls that go through a storage. Each map costs requests before its first call, so few maps are better
than many."""


class PywrenBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs the batches of ``joblib.Parallel`` as calls of an executor. Each ``Parallel`` gets an object of its own.

    ``Parallel`` calls within a call run one after the other: a worker has one processor for each call.

    Args:
        nesting_level: how deep in parallel code joblib is.
        inner_max_num_threads: not supported; workers use one thread for linear algebra, unless their environment says
            otherwise.
        executor: makes the calls; by default ``pywren.default_executor()``.

    Raises:
        ArgumentError: ``executor`` is something else.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, *, executor: Any = None
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if executor is not None and not hasattr(executor, "call_async"):
            raise ArgumentError(
                f"the backend pywren takes an executor such as pywren.lambda_executor(), not {executor!r}"
            )
        self._executor = executor
        self._serves_one = False
        self._calls: _Calls | None = None
        self._jobs = 1
        self._large: dict[str, Any] = {"least": None, "writable": False}

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches run at the same time.

        Args:
            n_jobs: the number that the program asks for; -1 for all workers, -2 for all but one, and so on.

        Raises:
            ValueError: ``n_jobs`` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")  # joblib's own wording
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        from pywren.client.pool_executor import workers_of

        return max(1, workers_of(self._made()) + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        max_nbytes: int | None = None,
        mmap_mode: str | None = "r",
        **ignored: Any,
    ) -> int:
        """Prepare for a run, and return how many batches run at the same time.

        Args:
            n_jobs: as for ``effective_n_jobs``.
            parallel: the ``joblib.Parallel``.
            prefer: a hint that concerns the choice of the backend only.
            require: likewise.
            max_nbytes: arrays of at least so many bytes are sent once, not with each batch; ``None`` for never.
            mmap_mode: "r", if such arrays are read-only on the workers; "c", if each batch may change its own copy.
            ignored: settings of joblib's own processes.
        """
        self.parallel = parallel
        self._jobs = self.effective_n_jobs(n_jobs)
        if self._jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if not self._serves_one:
            # Several Parallel may run at the same time in one parallel_config: in turns, if they return generators.
            own = type(self)(self.nesting_level, executor=self._made())
            own._serves_one = True
            raise FallbackToBackend(own)
        shares = mmap_mode in ("r", "c")  # changes that workers make to a file ("r+", "w+") reach no other machine
        self._large = {"least": max_nbytes if shares else None, "writable": mmap_mode == "c"}
        return self._jobs

    def start_call(self) -> None:
        """Begin a run."""
        from pywren.client.large_arguments import LargeArguments

        forget_ready_batches(self.parallel)
        executor = self._made()
        in_memory = bool(getattr(executor, "_is_in_memory", False))
        large = LargeArguments(executor, in_memory=in_memory, **self._large)
        self._calls = _Calls(executor, self._jobs, large, _PAUSE_SECONDS if in_memory else _STAGED_PAUSE_SECONDS)

    def submit(self, func: Any, callback: Callable[[Any], None]) -> None:
        """Queue a batch.

        Args:
            func: joblib's batch: an object with ``items``, which runs them when it is called.
            callback: takes the future of the call once it is done.
        """
        if self._calls is not None:
            self._calls.add(_Batch(func, callback))

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        """Return the results of a batch, or raise the exception of one of its functions.

        Args:
            out: the future that ``callback`` got.
        """
        try:
            return out.result()
        except Exception as error:
            # joblib removes the traceback, which here is that of the worker. As the cause it is shown too.
            if error.__cause__ is None:
                error.__cause__ = RemoteTraceback("".join(traceback.format_exception(error)))
            raise

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the batches that have not ended, after an error or Ctrl-C.

        Args:
            ensure_ready: of no importance here: the next run makes its calls with the same executor.
        """
        if self._calls is not None:
            self._calls.abort()

    def stop_call(self) -> None:
        """End a run."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.close()

    def terminate(self) -> None:
        """Forget how long batches took. The executor stays, for the next run."""
        self.reset_batch_stats()

    def get_nested_backend(self) -> tuple[Any, None]:
        """Return the backend of ``Parallel`` calls within a call, which runs them one after the other."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def _made(self) -> Any:
        from pywren.client.protocols import adapted

        if self._executor is None:
            from pywren.wren import default_executor

            self._executor = default_executor()
        if not adapted(self._executor.invoker).starts_calls:
            raise ArgumentError(
                "the calls of a dummy executor wait until the program runs them, and joblib would wait with them: "
                "use pywren.local_executor()"
            )
        return self._executor


class RemoteTraceback(Exception):
    """The cause of an exception that a function raised on a worker; its text is the traceback there."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class _Batch(NamedTuple):
    """A batch that joblib has dispatched.

    Args:
        calls: joblib's object.
        callback: takes the future of the call once it is done.
    """

    calls: Any
    callback: Callable[[Any], None]


class _Calls:
    """The calls of one run.

    Args:
        executor: makes the calls.
        most: the most calls in flight.
        large: sends large arguments.
        pause: after how many seconds without another batch the queue is taken.
    """

    def __init__(self, executor: Any, most: int, large: LargeArguments, pause: float) -> None:
        self._executor = executor
        self._most = min(most, executor.map_item_limit or most)
        self._large = large
        self._pause = pause
        self._changed = threading.Condition()
        self._queue: deque[_Batch] = deque()
        self._added = 0.0
        self._in_flight: set[ResponseFuture] = set()
        self._is_over = False
        self._is_aborted = False
        # Daemon: a program that ends in the middle of a run waits for no request.
        self._thread = threading.Thread(target=self._run, name="pywren-joblib", daemon=True)
        self._thread.start()

    def add(self, batch: _Batch) -> None:
        """Queue a batch. Any thread may do this, also one that holds locks of joblib's."""
        with self._changed:
            self._queue.append(batch)
            self._added = time.monotonic()
            self._changed.notify()

    def abort(self) -> None:
        """Make no more calls, and cancel those in flight."""
        from pywren.exceptions import StorageError
        from pywren.wait import cancel_each

        self._is_aborted = True
        try:
            # A map that the thread is just making is not in the set yet: the thread comes here itself when it is made.
            cancel_each(self._end())
        except StorageError as error:
            # The program is about to get the error, or the KeyboardInterrupt, for which the run is aborted.
            logger.warning("calls that nobody waits for any more could not be cancelled: %s", error)

    def close(self) -> None:
        """End the run. The thread removes the files when it ends."""
        self._end()
        # After an abort the thread may be in the middle of a map, which nobody should have to wait for. And the
        # collector of garbage may call this on any thread.
        if not self._is_aborted and self._thread is not threading.current_thread():
            self._thread.join()

    def _end(self) -> list[ResponseFuture]:
        with self._changed:
            self._is_over = True
            self._queue.clear()
            self._changed.notify()
            return list(self._in_flight)

    def _run(self) -> None:
        try:
            while batches := self._next():
                self._make(batches)
        finally:
            self._large.close()

    def _next(self) -> list[_Batch]:
        """Wait for batches, and take as many as may be in flight; return none at the end of the run."""
        with self._changed:
            while not self._is_over:
                room = self._most - len(self._in_flight)
                # joblib dispatches one batch after the other. Those that come together become one map.
                pause = self._added + self._pause - time.monotonic()
                if room > 0 and self._queue and (pause <= 0 or len(self._queue) >= self._most):
                    return [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
                self._changed.wait(pause if room > 0 and self._queue else None)
            return []

    def _make(self, batches: list[_Batch]) -> None:
        try:
            items = self._items(batches)
            futures = self._executor.map(_run_batch, items)
        # Whatever went wrong belongs to the program, not to this thread: pickling an argument may raise even
        # SystemExit, and if this thread ended, the program would wait for ever.
        except BaseException as error:  # noqa: BLE001
            for batch in batches:
                batch.callback(_failed(error))
            return
        with self._changed:
            self._in_flight.update(futures)
            is_over = self._is_over
        if is_over:
            self.abort()
        for future, batch in zip(futures, batches, strict=True):
            future.add_done_callback(_Done(self, batch.callback))

    def _items(self, batches: list[_Batch]) -> list[Any]:
        """Return what to send for each batch, with large arguments replaced."""
        arguments = [
            one for batch in batches for _, args, kwargs in batch.calls.items for one in (*args, *kwargs.values())
        ]
        stand_in = self._large.place(arguments)
        items = []
        for batch in batches:
            item = copy.copy(batch.calls)  # joblib's own object stays as it is
            item.items = [_with_each(stand_in, call) for call in batch.calls.items]
            items.append(item)
        return items

    def done(self, future: Any) -> None:
        """Make room for another call."""
        with self._changed:
            self._in_flight.discard(future)
            self._changed.notify()


class _Done(NamedTuple):
    """Tells the run, and then joblib, that a call is done."""

    calls: _Calls
    callback: Callable[[Any], None]

    def __call__(self, future: Any) -> None:
        # First make room: joblib may dispatch the next batch from within the callback.
        self.calls.done(future)
        self.callback(future)


def _with_each(change: Callable[[Any], Any], call: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Return a function with its arguments, each of them changed."""
    function, args, kwargs = call
    return function, tuple(map(change, args)), {name: change(value) for name, value in kwargs.items()}


def _run_batch(batch: Any) -> Any:
    """Run a batch of joblib's on a worker."""
    batch.items = [_with_each(loaded, call) for call in batch.items]
    return batch()


def _failed(error: BaseException) -> concurrent.futures.Future[Any]:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future.set_exception(error)
    return future


register_parallel_backend("pywren", PywrenBackend)
