"""``await_all`` waits for many calls together, and ``Arrivals`` for one after the other in the order of their ends.

Any thread of the program may wait. It adds one ``_Countdown`` to every future that it waits for, while it holds the
condition of the future's callset. Then it sleeps until the countdown's gate is opened. The thread that settles the last
of these futures opens the gate. That thread holds the condition of the callset and then takes the countdown's lock; no
thread takes these two locks in the opposite order. ``Arrivals`` works alike; its gate is opened for each future that
ends while its thread sleeps.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from pywren.client.call_state import DONE, CallState, Waiter, install, uninstall
from pywren.exceptions import PywrenError, StorageTimeoutError, WaitTimeoutError
from pywren.system import shutdown

if TYPE_CHECKING:
    from pywren.client.protocols import Origin

logger = logging.getLogger(__name__)

_origin_of = attrgetter("_origin")

SILENCE = 60.0
"""Seconds without any result after which a waiting thread has the origins log why no results arrive."""

_NAMED = 5  # how many calls to name in the line that Ctrl-C prints

# The calls that went on when Ctrl-C ended the wait for them, until the next map has said so. Only the main thread adds
# to it, because Ctrl-C arrives there; any thread that makes calls may clear it.
_left_running: weakref.WeakSet[CallState] = weakref.WeakSet()


class Watcher(Protocol):
    """Shows how far a wait is, on the thread that waits."""

    def begin(self, waiting: int) -> float:
        """Note that the wait begins to sleep, for so many calls. Return in how many seconds to call ``look``."""

    def look(self) -> float:
        """Show how far the calls are. Return in how many seconds to call this again."""

    def end(self) -> None:
        """Stop showing it. May be called again."""


class _Waiter(Waiter):
    """A waiter that wakes one thread: when enough has ended, or on trouble."""

    def __init__(self) -> None:
        self._gate = threading.Lock()  # a bare lock, because threading.Event would double the cost of waiting
        self._gate.acquire()
        self._lock = threading.Lock()  # guards the fields: futures of several callsets end on several threads
        # Before installation, so that report_trouble() can tell a wait that began during a failed poll from an earlier
        # one.
        self.began = time.monotonic()
        # Written under ``_lock``. The waiting thread reads it without the lock: the gate was released after the write.
        self.trouble: PywrenError | None = None

    def fail(self, error: PywrenError) -> None:
        """Wake the waiting thread because the storage cannot be read."""
        raise NotImplementedError


class _Countdown(_Waiter):
    """Wakes its thread after a number of futures have ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0
        # None until start(): settling threads count from installation on, before the waiting thread knows its target.
        self._target: int | None = None
        self.is_over = False

    def start(self, target: int) -> None:
        """Open the gate once ``target`` futures have ended. Futures that ended before this call count too."""
        with self._lock:
            self._target = target
            self._check()

    def wait(self, timeout: float | None) -> bool:
        """Wait until the countdown ends or ``fail`` is called. Return False if the timeout expires first."""
        # Reading is_over without the lock is safe: it only ever becomes True. On POSIX a signal handler that raises
        # interrupts Lock.acquire(), so Ctrl-C ends the wait of the main thread.
        return self.is_over or self._gate.acquire(timeout=-1 if timeout is None else max(0.0, timeout))

    def fail(self, error: PywrenError) -> None:
        with self._lock:
            # Whoever comes first opens the gate, and opens it once: the last outcome, or the trouble. If outcomes
            # arrive after the trouble, is_over still becomes True and await_all() prefers it.
            if not self.is_over and self.trouble is None:
                self.trouble = error
                self._gate.release()

    def add_all(self, futures: Sequence[CallState]) -> None:
        # On a settling thread that holds a callset's condition. Only arithmetic and a release may happen under this
        # lock.
        with self._lock:
            self.ended += len(futures)
            self._check()

    def _check(self) -> None:
        if self._target is not None and self.ended >= self._target and not self.is_over:
            self.is_over = True
            if self.trouble is None:  # otherwise the gate is open already, and a lock cannot be released twice
                self._gate.release()


class Arrivals(_Waiter):
    """Hands futures to one thread in the order in which they end, and keeps none that it has handed over.

    One thread at a time calls ``add``, ``take`` and ``close``; any thread may settle the futures. A forked child may go
    on where its parent was: it waits anew for the futures that were not taken before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()
        self._ended: deque[CallState] = deque()
        # Those that were not taken yet; only the taking thread uses it. The waiter stays installed in those that were
        # taken: they are done, so nobody looks at their waiters any more.
        self._pending: set[CallState] = set()
        self._is_asleep = False  # under ``_lock``: the gate is opened only for a thread that sleeps, so once each time

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, futures: Sequence[CallState]) -> None:
        """Add futures, each only once. Those that are done can be taken immediately, in their order."""
        # Before the installation: settling threads may hand over a future from then on, and take() removes it here.
        self._pending.update(futures)
        waiting = install(self, futures)
        installed = set(waiting)
        self._ended.extend(one for one in futures if one not in installed)
        expect(waiting)

    def has_one(self) -> bool:
        """Tell whether ``take`` would return a future without waiting."""
        return bool(self._ended)

    def take(self, timeout: float | None = None) -> CallState | None:
        """Return the next future that has ended; ``None`` if the timeout expires first, or no future is left.

        Raises:
            StorageError: the storage of some of the futures could not be reached for a while. The futures stay.
        """
        if not self._pending:
            return None
        if self._process != os.getpid():
            self._start_over()
        shutdown.go_on()
        try:
            if not self._ended:
                with self._lock:  # a new wait, which hears only of polls that begin from now on and fail
                    self.trouble, self.began = None, time.monotonic()
                _wait(self, timeout, self._pending)
        except KeyboardInterrupt:
            stop_waiting([origin for origin, _ in _by_origin(self._pending)])
            raise
        if not self._ended:
            if self.trouble is not None:
                raise copied(self.trouble)
            return None
        future = self._ended.popleft()
        self._pending.discard(future)
        return future

    def _start_over(self) -> None:
        # In a forked child, the futures have lost the waiters of the parent, and a thread of the parent may have held
        # the lock. Here rather than right after the fork: only then do the futures know what became of their calls.
        pending = list(self._pending)
        _Waiter.__init__(self)
        self._process, self._is_asleep = os.getpid(), False
        self._ended.clear()
        uninstall(self, pending)
        self.add(pending)

    def close(self) -> list[CallState]:
        """Wait for no future any more, and return those that were not taken."""
        left, self._pending = list(self._pending), set()
        self._ended.clear()
        uninstall(self, left)
        return left

    def wait(self, timeout: float | None) -> bool:
        """Wait until a future has ended or ``fail`` is called. Return False if the timeout expires first."""
        with self._lock:
            if self._ended or self.trouble is not None:
                return True
            self._is_asleep = True
        if self._gate.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return True
        with self._lock:
            if self._is_asleep:
                self._is_asleep = False
                return False
        self._gate.acquire()  # a future has ended since the timeout expired: shut the gate again
        return True

    def fail(self, error: PywrenError) -> None:
        with self._lock:
            self.trouble = error
            self._wake()

    def add_all(self, futures: Sequence[CallState]) -> None:
        # On a settling thread that holds a callset's condition.
        with self._lock:
            self._ended.extend(futures)
            self._wake()

    def _wake(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            self._gate.release()


def await_all(
    futures: Sequence[CallState], timeout: float | None, at_least: int | None = None, watcher: Watcher | None = None
) -> bool:
    """Wait until a number of futures are done. The thread sleeps meanwhile instead of polling.

    Args:
        futures: the futures, each only once; they may have different origins.
        timeout: the longest time to wait, in seconds; ``None`` for no limit.
        at_least: how many futures must be done; ``None`` means all.
        watcher: shows how far the wait is; ``None`` shows nothing.

    Returns:
        Whether that many futures are done.

    Raises:
        StorageError: the storage of some of the futures could not be reached for a while.
    """
    # Install the countdown before counting, so that it counts a future that ends in between.
    # A future must be in ``futures`` once only: a duplicate would be installed twice, counted twice, and the count
    # would reach its target too early.
    shutdown.go_on()
    countdown = _Countdown()
    waiting = install(countdown, futures)
    done = len(futures) - len(waiting)
    countdown.start((len(futures) if at_least is None else at_least) - done)
    try:
        if not countdown.is_over:
            # expect() may start the monitor's thread. Done after start(): if the last outcome arrived meanwhile, no
            # poll is needed.
            expect(waiting)  # without holding any condition: each origin takes its own locks
            _wait(countdown, timeout, waiting, watcher)
        # Outcomes win over trouble: what the caller asked for is there, although the storage could not be read for a
        # while.
        if countdown.trouble is not None and not countdown.is_over:
            raise copied(countdown.trouble)
        return countdown.is_over
    except KeyboardInterrupt:
        if watcher is not None:
            watcher.end()  # before the next line writes to the same terminal
        stop_waiting([origin for origin, _ in _by_origin(waiting)])
        raise
    finally:
        # After a time-out and after Ctrl-C: a countdown left behind would be notified, and would keep its memory, until
        # the future is gone. From futures that have ended, it has been removed.
        if countdown.ended < len(waiting):
            uninstall(countdown, waiting)


def time_out(what: str, futures: Iterable[CallState], state: str) -> WaitTimeoutError:
    """Return the error that tells a program that its time-out has expired.

    Args:
        what: what has not happened in time.
        futures: the futures that have not ended.
        state: what their calls do now, as far as the storage can be read.
    """
    # The last poll's error, if it failed. A timeout shorter than the storage's patience would otherwise hide the
    # reason.
    for origin, _ in _by_origin(futures):
        trouble = origin.trouble()
        if trouble is not None:
            text = f"{what}, as far as pywren knows; the storage could not be reached: {trouble}"
            error = StorageTimeoutError(text)
            error.__cause__ = trouble
            return error
    return WaitTimeoutError(f"{what}; {state}: wait again with a longer timeout, or call cancel()")


def _wait(
    waiter: _Countdown | Arrivals, timeout: float | None, futures: Collection[CallState], watcher: Watcher | None = None
) -> None:
    """Wait until the waiter is woken. Every ``SILENCE`` seconds, let the origins report why no results arrive."""
    now = time.monotonic()
    end = math.inf if timeout is None else now + float(min(timeout, threading.TIMEOUT_MAX))
    next_report = now + SILENCE
    next_look = math.inf if watcher is None else now + watcher.begin(len(futures))
    while not waiter.wait(min(end, next_report, next_look) - time.monotonic()):
        # On the waiting thread, so a slow terminal or a slow check of the reason delays no other thread.
        now = time.monotonic()
        if now >= end:
            return
        if now >= next_report:
            next_report = now + SILENCE
            for origin, _ in _by_origin([one for one in futures if one._state not in DONE]):
                origin.report_silence()
        if watcher is not None and now >= next_look:
            next_look = now + watcher.look()


def copied(error: PywrenError) -> PywrenError:
    """Return a copy of an error that several threads may raise, because each thread needs its own traceback."""
    copied: PywrenError = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


def report_trouble(futures: Sequence[CallState], error: PywrenError, since: float) -> None:
    """Tell the threads that wait for futures of one callset why the storage cannot be read. Only for origins.

    The futures keep their states. Callbacks, awaiting coroutines and the standard library's waiters are not notified
    and continue to wait.

    Args:
        futures: the futures.
        error: the reason.
        since: when the poll that failed began, in monotonic seconds. A thread that began to wait after that time is not
            told; it waits for the next poll.
    """
    if not futures:
        return
    with futures[0]._shared:  # the callset's condition guards all these lists
        # Copy them out and notify them below. A set, because one countdown is installed in many of these futures.
        waiters = {waiter for one in futures for waiter in one._waiting if isinstance(waiter, _Waiter)}
    for waiter in waiters:  # the thread of a waiter may have stopped waiting; then nothing reads its gate
        # A thread that has just begun to wait has not been patient yet; its own poll decides.
        if waiter.began <= since:
            waiter.fail(error)


# -- Ctrl-C --------------------------------------------------------------------------------------------------------


def stop_waiting(origins: Iterable[Origin]) -> None:
    """After Ctrl-C, cancel the calls that have not begun on this machine, and say which calls still run.

    The whole callset of every future is concerned: a program that waits for one future after the other would otherwise
    leave a queue of calls that nobody wants, and its next map would wait behind them.

    Args:
        origins: where the outcomes that the program has waited for come from.
    """
    shutdown.interrupt()
    cancelled, left = 0, []
    for origin in origins:
        cancelled += origin.withdraw()
        left.append((origin, origin.outstanding()))
    said = ["stopped waiting"]
    if cancelled:
        calls, were = ("1 call", "was") if cancelled == 1 else (f"{cancelled} calls", "were")
        said.append(f"{calls} that {were} still waiting on this machine {were} cancelled")
    running = [one for _, futures in left for one in futures]
    if running:
        _left_running.update(running)
        said.append(f"{_what_runs(left)}. {_how_to_go_on([origin for origin, _ in left])}")
    if len(said) > 1:
        logger.warning("%s", "; ".join(said))


def _what_runs(left: Iterable[tuple[Origin, Sequence[CallState]]]) -> str:
    counts: Counter[str] = Counter()
    names = []
    for origin, futures in left:
        counts[origin.place] += len(futures)
        names += [f"{one.callset_id[:8]}/{one.call_id}" for one in futures]
    (place, count), *others = [(place, count) for place, count in counts.items() if count]
    calls = "1 call is" if count == 1 else f"{count} calls are"
    where = ", ".join([f"{calls} still running {place}", *(f"{count} {place}" for place, count in others)])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{where}: {', '.join(names[:_NAMED])}{more}"


def _how_to_go_on(origins: Iterable[Origin]) -> str:
    jobs = [f"pywren.attach({name!r})" for origin in origins if (name := origin.callset.name)]
    attach = f". Another process gets the futures with {', '.join(jobs)}" if jobs else ""
    return (
        "If the program goes on, the futures stay valid: wait for them again to collect the results, or stop the calls "
        f"with cancel() or executor.cancel_all(){attach}"
    )


def say_what_is_in_the_way(place: str) -> None:
    """Say once which calls that an earlier Ctrl-C has left running are in the way of new calls.

    Args:
        place: where the new calls will run.
    """
    if not _left_running:
        return
    running = [one for one in list(_left_running) if one._state not in DONE]
    here = [one for one in running if one._origin is not None and one._origin.place == place]
    _left_running.clear()
    if here:
        calls, them = ("1 call", "it") if len(here) == 1 else (f"{len(here)} calls", "them")
        logger.warning(
            "%s of an interrupted wait still run%s %s, and the new calls may have to wait for %s: "
            "executor.cancel_all() stops %s",
            calls, "s" if len(here) == 1 else "", place, them, them,
        )  # fmt: skip


def expect(futures: Iterable[CallState]) -> None:
    """Tell the origins of these futures that something waits for them, with one call per origin."""
    for origin, group in _by_origin(futures):
        for future in group:
            future._awaited = True
        origin.expect(group)


def poll(futures: Iterable[CallState]) -> None:
    """Have the origins of these futures find out now which of the futures are done."""
    for origin, group in _by_origin(futures):
        origin.poll(group)


def _by_origin(futures: Iterable[CallState]) -> list[tuple[Origin, list[CallState]]]:
    groups: dict[int, tuple[Origin, list[CallState]]] = {}
    for origin, group in groupby(futures, _origin_of):
        if origin is not None:
            groups.setdefault(id(origin), (origin, []))[1].extend(group)
    return list(groups.values())
