"""Functions that wait for many futures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar, overload

from pywren.client import call_state, waiting
from pywren.client.typevars import HasOutcome, T
from pywren.display.progress import Progress
from pywren.exceptions import ArgumentError, StorageError
from pywren.future import ResponseFuture
from pywren.system.threads import for_each
from pywren.wrenutil import iterate

ALL_COMPLETED = 1
ANY_COMPLETED = 2
ALWAYS = 3

# Enough to hide the latency of S3, tens of milliseconds for each PUT. With as many failures the storage is in trouble.
_CANCEL_THREADS = 32

F = TypeVar("F", bound=ResponseFuture)
"""A future: lists of futures keep the type of their items."""


def wait(
    fs: Iterable[F],
    return_when: int = ALL_COMPLETED,
    THREADPOOL_SIZE: int = 64,
    WAIT_DUR_SEC: float = 5,
    timeout: float | None = None,
    *,
    progress: bool | str = "auto",
) -> tuple[list[F], list[F]]:
    """Wait for futures. They may come from different maps, executors and storages.

    Args:
        fs: the futures.
        return_when: ``ALL_COMPLETED``, ``ANY_COMPLETED`` (at least one), or ``ALWAYS`` (poll once, do not wait).
        THREADPOOL_SIZE: has no effect; kept for 0.4.
        WAIT_DUR_SEC: has no effect; kept for 0.4, which polled at this interval.
        timeout: the longest time to wait, in seconds; ``None`` for no limit.
        progress: whether to show a bar on stderr: True, False, or ``"auto"``, which shows it on a terminal or in a
            notebook once the wait has lasted a second, unless the map, ``PYWREN_PROGRESS`` or ``scheduler.progress``
            says otherwise.

    Returns:
        ``(done, not_done)``, both lists in the order of ``fs``.

    Raises:
        ArgumentError: ``return_when`` or ``progress`` is not one of its three values, or an item of ``fs`` is not a
            future.
        StorageError: the storage of some futures could not be reached for a minute. The calls continue; ``wait`` may be
            called again.
    """
    return _wait(list_of(fs, "wait()"), return_when, timeout, progress)


def _wait(
    futures: list[Any], return_when: int, timeout: float | None, progress: bool | str
) -> tuple[list[Any], list[Any]]:
    # A future that is listed twice would be counted twice, and the countdown would end too early. By identity: copies
    # of one future are counted separately.
    distinct = futures
    if len(set(map(id, futures))) < len(futures):
        distinct = list({id(item): item for item in futures}.values())
    watcher = Progress(distinct, progress)
    if return_when == ALWAYS:
        # On this thread, without sleeping. If the monitor is polling the same callset right now, take what is known.
        waiting.poll([item for item in distinct if not call_state.is_done(item)])
    elif return_when == ALL_COMPLETED:
        with watcher:
            waiting.await_all(distinct, timeout, watcher=watcher)
    elif return_when == ANY_COMPLETED:
        # min(): with no futures at all, waiting for one of them would never end.
        with watcher:
            waiting.await_all(distinct, timeout, at_least=min(1, len(distinct)), watcher=watcher)
    else:
        raise ArgumentError(f"return_when is {return_when!r}; it must be pywren.ALL_COMPLETED, ANY_COMPLETED or ALWAYS")
    # Look at the states only now: futures that ended after the wait was over are reported as done too.
    done, not_done = call_state.parted(futures)
    call_state.mark_collected(done)
    return done, not_done


@overload
def get_all_results(
    fs: Iterable[HasOutcome[T]],
    timeout: float | None = None,
    return_exceptions: Literal[False] = False,
    *,
    progress: bool | str = "auto",
) -> list[T]: ...


@overload
def get_all_results(
    fs: Iterable[HasOutcome[T]],
    timeout: float | None = None,
    *,
    return_exceptions: bool,
    progress: bool | str = "auto",
) -> list[T | BaseException]: ...


def get_all_results(
    fs: Iterable[Any],
    timeout: float | None = None,
    return_exceptions: bool = False,
    *,
    progress: bool | str = "auto",
) -> list[Any]:
    """Wait for all futures and return their results in order.

    Args:
        fs: the futures.
        timeout: the longest time to wait, in seconds; ``None`` for no limit.
        return_exceptions: return the exceptions of failed and cancelled calls in place of their results.
        progress: whether to show a bar meanwhile; see ``wait``.

    Raises:
        WaitTimeoutError: some calls had not ended after ``timeout`` seconds. They go on, and all futures stay valid.
        StorageError: the storage of some futures could not be reached for a minute. The calls continue.
        BaseException: what the first failed call in the list raised. It is raised after all calls have ended.
    """
    futures = list_of(fs, "get_all_results()")
    # First wait for all, on one countdown: result() of each in turn would wake this thread once for every call, and
    # raise the first error while later calls still run.
    _, not_done = _wait(futures, ALL_COMPLETED, timeout, progress)
    if not_done:
        what = f"{len(not_done)} of {len(futures)} calls have not ended after {timeout} s"
        raise waiting.time_out(what, not_done, "they are still running")
    if not return_exceptions:
        return call_state.results_of(futures)
    verdicts = [call_state.verdict_of(item) for item in futures]
    return [None if one is None else one.value if one.error is None else one.error for one in verdicts]


def as_completed(fs: Iterable[F], timeout: float | None = None) -> Iterator[F]:
    """Return an iterator over futures in the order in which their calls end. It keeps no future that it has returned.

    Args:
        fs: the futures; each is returned once. They may come from different maps, executors and storages.
        timeout: seconds from now within which all calls must end; ``None`` for no limit.

    Raises:
        WaitTimeoutError: raised by the iterator if some calls have not ended in time. They go on.
        StorageError: raised by the iterator if the storage of some futures could not be reached for a minute. The calls
            go on, and ``as_completed`` may be called again.
        ArgumentError: an item of ``fs`` is not a future.
    """
    futures = list_of(fs, "as_completed()")
    distinct: Any = list({id(item): item for item in futures}.values())
    # From the call on, as in ``concurrent.futures``, not from the first future that is taken.
    return _completed(distinct, timeout, None if timeout is None else time.monotonic() + timeout)


def _completed(futures: list[F], timeout: float | None, deadline: float | None) -> Iterator[F]:
    arrivals, total = waiting.Arrivals(), len(futures)
    arrivals.add(futures)
    futures.clear()  # so that each is kept only until it is taken
    try:
        while arrivals:
            taken: list[Any] = [arrivals.take(None if deadline is None else max(0.0, deadline - time.monotonic()))]
            if taken[0] is None:
                what = f"{len(arrivals)} of {total} calls have not ended after {timeout} s"
                raise waiting.time_out(what, arrivals.close(), "they are still running")
            call_state.mark_collected(taken)
            yield taken.pop()  # a variable would keep the future until the program asks for the next one
    finally:
        arrivals.close()


def cancel_each(futures: Sequence[ResponseFuture]) -> int:
    """Cancel calls, many at a time, and return how many were cancelled.

    Args:
        futures: the futures of the calls.

    Raises:
        StorageError: some calls could not be cancelled, because their storage cannot be written. The others were,
            unless there were so many that the storage itself must be in trouble.
    """
    cancelled: list[ResponseFuture] = []
    failed: list[StorageError] = []

    def cancel(future: ResponseFuture) -> None:
        # On a helper thread. list.append is atomic; this thread reads when for_each() has joined the helpers.
        try:
            if future.cancel():
                cancelled.append(future)
        except StorageError as error:
            failed.append(error)
            if len(failed) >= _CANCEL_THREADS:
                raise

    # Calls in memory and files of this machine have no latency to hide, and threads would only contend for the GIL.
    here = all(path[0] == "localhost" for path in (one.storage_path for one in futures) if path is not None)
    for_each(cancel, futures, 1 if here else _CANCEL_THREADS)
    if failed:
        raise failed[0]
    return len(cancelled)


def list_of(fs: Iterable[object], taker: str) -> list[ResponseFuture]:
    """Return futures as a list.

    Args:
        fs: the futures.
        taker: the name of the function that the program called, for the error message.

    Raises:
        ArgumentError: ``fs`` is not iterable, or contains something other than futures of invoked calls.
    """
    futures = []
    for item in iterate(fs, f"{taker} takes a list of futures"):
        if not isinstance(item, ResponseFuture):
            raise ArgumentError(f"{taker} takes pywren futures, not a {type(item).__name__}")
        # Refuse it here: nothing would ever settle a future without an origin, so a wait for it would never end.
        if item._origin is None:
            item._invoked()
        futures.append(item)
    return futures
