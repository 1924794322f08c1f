"""Functions that wait for many futures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pywren.client import call_state, waiting
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


def wait(
    fs: Iterable[ResponseFuture],
    return_when: int = ALL_COMPLETED,
    THREADPOOL_SIZE: int = 64,
    WAIT_DUR_SEC: float = 5,
    timeout: float | None = None,
    *,
    progress: bool | str = "auto",
) -> tuple[list[ResponseFuture], list[ResponseFuture]]:
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
    futures = list_of(fs, "wait()")
    # A future that is listed twice would be counted twice, and the countdown would end too early. By identity: copies
    # of one future are counted separately.
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
    done: list[ResponseFuture] = []
    not_done: list[ResponseFuture] = []
    for item in futures:
        (done if call_state.is_done(item) else not_done).append(item)
    call_state.mark_collected(done)
    return done, not_done


def get_all_results(fs: Iterable[ResponseFuture], *, progress: bool | str = "auto") -> list[Any]:
    """Wait for all futures and return their results in order.

    Args:
        fs: the futures.
        progress: whether to show a bar meanwhile; see ``wait``.

    Raises:
        BaseException: what the first failed call in the list raised. It is raised after all calls have ended.
    """
    futures = list_of(fs, "get_all_results()")
    # First wait for all, on one countdown: result() of each in turn would wake this thread once for every call, and
    # raise the first error while later calls still run.
    wait(futures, progress=progress)
    return [item.result() for item in futures]


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


def list_of(fs: Iterable[ResponseFuture], taker: str) -> list[ResponseFuture]:
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
        item._invoked()
        futures.append(item)
    return futures
