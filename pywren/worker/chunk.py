"""``ChunkRun``: runs the calls of a chunk one after the other, and writes what became of them into its journal.

Threads: the thread that handles the invocation runs the calls. A thread ``pywren-status-watch`` sends all requests
about the journal meanwhile, one after the other: it writes pages, looks for pages of others, and writes the beacon. At
the end the first thread waits for it, and writes the last page itself. ``_changed``, a condition, guards what the two
share: the outcomes that are not written yet, and the call that runs. No thread holds it during a request.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pywren.exceptions import CallLostError, StorageError
from pywren.storage import Storage
from pywren.wire.call import Call
from pywren.wire.cause import Cause
from pywren.wire.chunk import Chunk
from pywren.wire.failure import Failure
from pywren.wire.journal import FULL_PAGE
from pywren.wire.status import Status
from pywren.worker.journal import JournalWriter
from pywren.worker.task import Stop
from pywren.worker.watch import BeaconWriter

logger = logging.getLogger(__name__)

MOST_UNWRITTEN = 4 * FULL_PAGE
"""The most bytes of outcomes that wait to be written; then the next call waits too."""

LEAST_LEFT = 5.0
TIMES_LONGEST = 10.0
"""A call that may be repeated starts if the platform leaves this many seconds, and this many times what the longest
call of the chunk has taken."""

RETRY_WRITE = 1.0
"""Seconds after which a page that could not be written is tried again."""


class Done(NamedTuple):
    """How a call has ended.

    Args:
        status: its status.
        size: about how many bytes the status takes.
        is_report: whether another attempt may follow.
        cause: why it has no value; ``None`` if it has one.
    """

    status: Status
    size: int
    is_report: bool
    cause: Cause | None


class ChunkRun:
    """One run of a chunk.

    Args:
        chunk: the chunk.
        storage: where its journal is.
        run_call: runs a call until it ends or is stopped.
        late: whether the chunk starts so late that others may have ended it.
        beacon: writes the beacon; ``None`` if there is none to write.
        pauses: the seconds before the first look at the journal, and between later ones.
        remaining: returns how many seconds the platform leaves for calls; ``None`` for no limit.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        chunk: Chunk,
        storage: Storage,
        run_call: Callable[[Call, Stop], Done],
        *,
        late: bool,
        beacon: BeaconWriter | None,
        pauses: tuple[float, float],
        remaining: Callable[[], float | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chunk = chunk
        self._journal = JournalWriter(chunk, storage)
        self._run_call = run_call
        self._late = late
        self._keeper = _Keeper(chunk, self._journal, beacon, pauses, clock)
        self._remaining = remaining
        self._clock = clock
        self._longest = 0.0
        self._ran = 0

    def run(self) -> dict[str, Any]:
        """Run the calls until there are no more, or no time for more. Return what became of them, in numbers.

        Raises:
            StorageError: the journal cannot be written. What is not in it has to run again.
        """
        if self._late:
            self._journal.look()
        entitled = self._remaining()
        with self._keeper:
            for call in self._chunk.calls:
                if self._journal.ended or (self._ran and not self._has_time_for(call, entitled)):
                    break
                if call.call_id not in self._journal.others and not self._run_one(call, entitled):
                    break
        return self._end()

    def refuse(self, statuses: Sequence[Status]) -> dict[str, Any]:
        """End all calls without running them."""
        self._journal.write(statuses, last=True)
        return self._summary(0)

    def _run_one(self, call: Call, entitled: float | None) -> bool:
        """Run a call. Return whether this worker may run others."""
        stop = self._keeper.begin(call.call_id)
        if stop is None:
            return False
        left, began = self._remaining(), self._clock()
        done = self._run_call(call, stop)
        self._ran += 1
        self._longest = max(self._longest, self._clock() - began)
        if stop.is_set():
            return True  # somebody else has ended the call
        # Alone it would have had the time.
        if self._is_cut_short(call, done, left, entitled):
            done = _taken_away(done)
        self._keeper.add(done)
        return done.cause is not Cause.WORKER_FAILED

    def _has_time_for(self, call: Call, entitled: float | None) -> bool:
        left = self._remaining()
        if left is None or entitled is None:
            return True
        alone = min(call.job_max_runtime, entitled)
        # A call that may not be repeated must not lose the time that it would have had alone.
        return left >= (min(alone, max(LEAST_LEFT, TIMES_LONGEST * self._longest)) if call.retryable else alone)

    def _is_cut_short(self, call: Call, done: Done, left: float | None, entitled: float | None) -> bool:
        if done.cause is not Cause.TIMED_OUT or left is None or entitled is None:
            return False
        return self._ran > 1 and call.retryable and left < min(call.job_max_runtime, entitled)

    def _end(self) -> dict[str, Any]:
        statuses, reports = self._keeper.rest()
        known = self._journal.others | self._keeper.written | {one.call_id for one in statuses}
        back = sum(call.call_id not in known for call in self._chunk.calls)
        # If every call is in the journal, it has ended without a last page. Otherwise the rest goes back.
        if statuses or back:
            self._journal.write(statuses, reports, last=True)
        return self._summary(back + self._keeper.handed_back)

    def _summary(self, back: int) -> dict[str, Any]:
        return {"callset_id": self._chunk.callset_id, "chunk": self._chunk.name, "ran": self._ran, "handed_back": back}


def _taken_away(done: Done) -> Done:
    text = "the platform's time for the worker was over before the call had as much as it may take"
    failure = Failure("WorkerCrashedError", text, (None,), Cause.KILLED)
    status = done.status
    cut = Status(status.callset_id, status.call_id, status.attempt, failure, info=status.info)
    return Done(cut, done.size, is_report=True, cause=Cause.KILLED)


def _not_begun(call: Call) -> Done:
    failure = Failure(CallLostError.__name__, "the worker of the chunk has handed the call back", (), Cause.HANDED_BACK)
    return Done(Status(call.callset_id, call.call_id, call.attempt, failure), 0, is_report=True, cause=failure.cause)


class _Keeper:
    """Keeps the journal of a chunk while its calls run; see the top of this module."""

    def __init__(
        self,
        chunk: Chunk,
        journal: JournalWriter,
        beacon: BeaconWriter | None,
        pauses: tuple[float, float],
        clock: Callable[[], float],
    ) -> None:
        self.written: frozenset[str] = frozenset()
        """The calls whose outcomes this worker has written."""
        self.handed_back = 0
        """How many calls it has handed back while another one ran."""
        self._limit = chunk.time_limit
        self._interval = chunk.page_interval
        self._journal = journal
        self._beacon = beacon
        self._look_interval = pauses[1]
        self._clock = clock
        self._look_due = clock() + pauses[0]
        self._changed = threading.Condition()
        # _changed guards everything below.
        self._unwritten: list[Done] = []  # a page that is on its way keeps its outcomes here until it is written
        self._size = 0
        self._due = math.inf  # when the next page is to be written
        self._left = {call.call_id: call for call in chunk.calls}  # what has not begun
        self._limit_due = math.inf  # when that goes back
        self._running: tuple[str, Stop] | None = None
        self._trouble: StorageError | None = None  # why the last page could not be written
        self._over = False
        self._thread = threading.Thread(target=self._keep, name="pywren-status-watch", daemon=True)

    def __enter__(self) -> _Keeper:
        # There are too many threads, or the program is ending (Python 3.12 starts no threads then): add() writes pages,
        # and nothing looks for those of others.
        with contextlib.suppress(RuntimeError):
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()  # as long as a request takes that is on its way

    # -- for the thread that runs the calls ---------------------------------------------------------------------------

    def begin(self, call_id: str) -> Stop | None:
        """Say which call runs now, and return what stops it; ``None`` if it goes back, because the time is over."""
        stop = Stop()
        with self._changed:
            if self._clock() > self._limit_due or self._left.pop(call_id, None) is None:
                return None
            if self._limit is not None:  # since the first call, which runs in any case
                self._limit_due, self._limit = self._clock() + self._limit, None
                self._changed.notify_all()
            self._running = call_id, stop
        return stop

    def add(self, done: Done) -> None:
        """Have an outcome written.

        Returns when the next call may start: if no more is unwritten than may be, and if outcomes need not be written
        before.

        Raises:
            StorageError: more is unwritten, and the storage cannot be written.
        """
        now = self._clock()
        with self._changed:
            self._running = None
            self._unwritten.append(done)
            self._size += done.size
            due = now if self._size >= FULL_PAGE else now + self._interval
            if due < self._due:
                self._due = due
                self._changed.notify_all()
        if self._thread.ident is None and due <= now:
            self._turn()
        self._wait_for_room()

    def _wait_for_room(self) -> None:
        with self._changed:
            if self._may_go_on():
                return
            if self._thread.ident is not None:
                self._trouble = None  # what happened before has been logged; the next try counts
                self._due = -math.inf
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._may_go_on() or self._trouble is not None)
            if self._trouble is not None and not self._may_go_on():
                raise self._trouble

    def rest(self) -> tuple[list[Status], frozenset[str]]:
        """Return the outcomes that are not written, and which of them are reports. The thread has ended before."""
        with self._changed:
            return _split(self._unwritten)

    def _may_go_on(self) -> bool:
        is_full = self._size >= MOST_UNWRITTEN or (self._interval <= 0.0 and bool(self._unwritten))
        return not is_full or self._journal.ended

    # -- for the thread that keeps the journal -----------------------------------------------------------------------

    def _keep(self) -> None:
        while self._wait():
            self._turn()

    def _wait(self) -> bool:
        """Wait until a page or a look is due. Return False when the calls have ended."""
        with self._changed:
            while not self._over:
                seconds = min(self._due, self._look_due, self._limit_due) - self._clock()
                if seconds <= 0.0:
                    return True
                self._changed.wait(seconds)
            return False

    def _turn(self) -> None:
        now = self._clock()
        looks = now >= self._look_due
        with self._changed:
            if now > self._limit_due:
                self._hand_back()
            page = list(self._unwritten) if self._due <= now else []
            running = None if self._running is None else self._running[0]
        trouble: StorageError | None = None
        try:
            if page:
                statuses, reports = _split(page)
                self._journal.write(statuses, reports, running=running)
            else:
                self._journal.look()
        except StorageError as error:
            # The calls go on. What is not written is kept; the last page contains it, if not one before.
            logger.warning("cannot keep the journal of a chunk: %s", error)
            trouble = error
        # A page shows as well as a beacon that the worker lives, and comes before it.
        if looks and not page and self._beacon is not None:
            self._beacon.turn()
        self._note(page, trouble)

    def _hand_back(self) -> None:
        """Have it written that what has not begun is for others. With the condition, so that it does not begin now."""
        # A call may run for an hour more, and the next ones may even be what it waits for.
        self.handed_back = len(self._left)
        self._unwritten += map(_not_begun, self._left.values())
        self._left, self._limit_due = {}, math.inf
        self._due = -math.inf if self._unwritten else math.inf

    def _note(self, page: Sequence[Done], trouble: StorageError | None) -> None:
        now = self._clock()
        self._look_due = now + self._look_interval
        with self._changed:
            if page:
                self._trouble = trouble
            if page and trouble is None:
                self.written |= {one.status.call_id for one in page}
                del self._unwritten[: len(page)]
                self._size -= sum(one.size for one in page)
                # What has come meanwhile waits for as long as if it had come now.
                self._due = now + self._interval if self._unwritten else math.inf
            elif page:
                self._due = now + RETRY_WRITE
            self._changed.notify_all()
            running = self._running
        # Without the condition: stopping a call takes a lock of its own, and kills processes.
        if running is not None and (self._journal.ended or running[0] in self._journal.others):
            running[1].set()


def _split(page: Sequence[Done]) -> tuple[list[Status], frozenset[str]]:
    return [one.status for one in page], frozenset(one.status.call_id for one in page if one.is_report)
