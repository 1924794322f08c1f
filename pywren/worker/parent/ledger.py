"""``Ledger``: the unfinished batches of the local pool, the order in which they wait, and their results.

Everything except ``hand_over`` happens with the pool's lock held. Results are *collected* with the lock and *handed
over* without it, and only by the pump, because handing over runs the callbacks of programs. A result moves from one
place to the next in one step, so an error between two steps loses no result.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker.pages import Page
from pywren.worker.parent.batch import Batch, OnStart
from pywren.worker.parent.member import Member
from pywren.worker.parent.members import Members
from pywren.worker.protocol import TICKET_SHIFT, results_on
from pywren.worker.task import Repeat, RunResult, cancelled_failure

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
"""Seconds between two calls of ``Batch.on_tick``."""

INDEX_MASK = (1 << TICKET_SHIFT) - 1
"""The bits of a ticket that contain the index of the call in its batch."""


class Ledger:
    """The calls that the pool has accepted and whose results it has not yet handed over.

    Args:
        lock: the pool's lock.
        members: the processes that may hold data of a batch.

    Attributes:
        queue: batches with calls that no process holds, in the order in which they are given out.
        outstanding: how many calls have no result.
        ended_at: the monotonic time when the last batch ended.
        waiters: how many threads wait in ``wait``.
    """

    def __init__(self, lock: threading.RLock, members: Members) -> None:
        self.queue: deque[Batch] = deque()
        self.outstanding = 0
        self.ended_at = time.monotonic()
        self._members = members
        self._batches: dict[int, Batch] = {}
        self._numbers = 0
        self._touched: dict[int, Batch] = {}
        self._collected: deque[tuple[Batch, list[tuple[int, RunResult]], list[tuple[Sequence[int], Page]]]] = deque()
        # Calls that run again later: ``(monotonic time, ticket)``, a heap.
        self._delayed: list[tuple[float, int]] = []
        self._ticking: list[Batch] = []
        self._lock = lock
        # A condition on the pool's own lock: ``wait`` lets go of all levels of the reentrant lock while it sleeps, so
        # the pump can take its turns.
        self._finished = threading.Condition(lock)
        self.waiters = 0

    def add(self, batch: Batch) -> None:
        """Add a batch. Its calls wait behind all other calls."""
        self._numbers += 1
        batch.number = self._numbers
        if batch.remaining:
            # This step accepts the calls. If Ctrl-C comes before it, there are none; after it, ``repair`` does the
            # rest.
            self._batches[batch.number] = batch
            batch.is_accepted = True
            self.outstanding += batch.remaining
            self.queue.append(batch)
            self._begin_ticking(batch)

    def _begin_ticking(self, batch: Batch) -> None:
        if batch.on_tick is not None and batch not in self._ticking:
            batch.ticks_at = time.monotonic() + TICK_SECONDS
            self._ticking.append(batch)

    def extend(self, batch: Batch, argument: bytes) -> bool:
        """Add a call to a batch, behind all other calls. Return False if all calls of the batch have ended."""
        if batch.number not in self._batches:
            return False
        batch.extend(argument)
        self.outstanding += 1
        if batch not in self.queue:
            self.queue.append(batch)
        return True

    def is_anything_waiting(self) -> bool:
        """Tell whether a batch that any process may run waits, so that no process has room for another one.

        Room comes with a result, a call that is taken back or a process that starts. Then the pump fills it in its next
        turn, for which it needs no other wake-up.
        """
        return bool(self.queue) and self.queue[-1].most_processes is None

    def batch_of(self, ticket: int) -> Batch | None:
        """Return the batch of a ticket, or ``None`` if all calls of that batch have ended."""
        return self._batches.get(ticket >> TICKET_SHIFT)

    def has_ended(self, batch: Batch, index: int) -> bool:
        """Tell whether a call has a result."""
        return batch.number not in self._batches or bool(batch.done[index])

    def requeue(self, tickets: Sequence[int]) -> None:
        """Queue calls that were taken back from a process again, in front of all other calls."""
        by_batch: dict[int, list[int]] = {}
        for ticket in tickets:
            by_batch.setdefault(ticket >> TICKET_SHIFT, []).append(ticket & INDEX_MASK)
        for number, indices in by_batch.items():
            # The batch is gone if its last call was cancelled while another ticket of it was still in a pipe.
            batch = self._batches.get(number)
            if batch is not None:
                batch.give_back(indices)  # ``Batch.take`` skips the calls that have a result
                if batch not in self.queue:
                    self.queue.appendleft(batch)

    def let_go(self, batch: Batch, index: int, references: Sequence[bytes]) -> None:
        """Let a call go that was held, unless it has ended. It comes before all other calls: others may follow it."""
        if self.has_ended(batch, index):
            batch.held.discard(index)
        elif batch.let_go(index, references):
            self.requeue([batch.number << TICKET_SHIFT | index])
        elif batch not in self.queue:
            self.queue.appendleft(batch)

    def repair(self) -> None:
        """Make everything agree again, after Ctrl-C has come between two steps of a change.

        What counts is which calls have no result, and which calls the processes have. All other calls wait.
        """
        busy = {ticket for member in self._members for ticket in member.tickets}
        busy.update(ticket for _, ticket in self._delayed)
        for number, batch in list(self._batches.items()):
            batch.is_accepted = True
            batch.recount()
            for index, result in list(batch.collected):
                if not (batch.done[index] or index in batch.undecided):
                    self._conclude(batch, index, result)
            for index in [index for indices, _ in batch.pages for index in indices]:
                if not batch.done[index]:
                    self._release(batch, index)
            batch.recount()
            if batch.collected or batch.pages:
                self._touched[number] = batch
            if not batch.remaining:
                if number in self._batches:
                    self._drop(batch)
                continue
            batch.give_back([one for one in batch.given() if number << TICKET_SHIFT | one not in busy])
            if batch.waiting and batch not in self.queue:
                self.queue.append(batch)
            self._begin_ticking(batch)
        self.outstanding = sum(batch.remaining for batch in self._batches.values())

    # -- results -----------------------------------------------------------------------------------------------

    def finish(self, batch: Batch, index: int, result: RunResult) -> None:
        """Record the result of a call, unless the call already has a result."""
        if batch.done[index]:
            return
        if index in batch.cancelled and (result.failure is None or result.failure.cause is Cause.KILLED):
            # ``cancel`` reported the call as cancelled before its result arrived, or has killed both of its processes.
            result = failed(cancelled_failure(running=True))
        batch.collected.append((index, result))
        self._conclude(batch, index, result)

    def finish_page(self, batch: Batch, indices: Sequence[int], page: Page) -> None:
        """Record results of calls that have returned, and have no result yet. It is ``finish`` for many calls."""
        # The same order as there, for ``repair``: what was collected counts.
        batch.pages.append((indices, page))
        self._touched[batch.number] = batch
        done, entries = batch.done, batch.entries
        for index in indices:
            done[index], entries[index] = 1, None
        batch.remaining -= len(indices)
        self.outstanding -= len(indices)
        if not batch.remaining:
            self._drop(batch)

    def _conclude(self, batch: Batch, index: int, result: RunResult) -> None:
        self._touched[batch.number] = batch
        if not result.success and batch.repeats.includes(result):
            batch.undecided.add(index)  # until ``hand_over``, it counts as outstanding, and keeps its argument
        else:
            self._release(batch, index)

    def _release(self, batch: Batch, index: int) -> None:
        """Let go of a call whose result is final."""
        batch.done[index] = 1
        batch.undecided.discard(index)
        # Find the arenas first: only the entry, which is dropped next, leads to them.
        arenas = list(batch.arenas_of(index)) if batch.arenas else ()
        batch.entries[index] = None  # the argument may be big
        batch.remaining -= 1
        self.outstanding -= 1
        for arena in arenas:
            arena.calls -= 1
            if not arena.calls:
                # Each child has a descriptor of the file too, and is told to close it.
                batch.drop_arena(arena)
                for member in self._members:
                    member.forget_arena(arena.number)
        if not batch.remaining:
            self._drop(batch)

    def _drop(self, batch: Batch) -> None:
        """Let go of a batch whose calls have all ended."""
        if batch in self._ticking:
            self._ticking.remove(batch)
        for member in self._members:
            member.forget(batch)
        self.ended_at = time.monotonic()
        del self._batches[batch.number]  # last: until then ``repair`` finds the batch

    def fail_all(self, failure: Failure) -> None:
        """Give every call that has no result a failure as its result, which is final."""
        if failure.cause is not Cause.CANCELLED:
            failure = failure._replace(cause=Cause.REFUSED)
        # A copy, because ``finish`` removes a batch with its last call.
        for batch in list(self._batches.values()):
            for index in range(len(batch.done)):
                if not batch.done[index]:
                    self.finish(batch, index, failed(failure))
        self.queue.clear()

    @property
    def has_results(self) -> bool:
        """Whether results have arrived since the last ``collect``."""
        return bool(self._touched)

    def collect(self) -> None:
        """Prepare the results that have arrived for ``hand_over``. After that, no error can lose these results."""
        for batch in self._touched.values():
            # The list itself moves. The batch gets a new one, because ``hand_over`` reads the old one without the lock.
            self._collected.append((batch, batch.collected, batch.pages))
            batch.collected, batch.pages = [], []
        self._touched.clear()

    def hand_over(self) -> bool:
        """Pass the collected results to their callbacks. Only the pump calls this method, without the lock.

        Returns:
            Whether the callbacks have decided about calls that may run again, so that another turn is due.
        """
        has_decided = False
        # No lock: popleft() is atomic. A pump that is ending may still be here when its successor comes; each result is
        # handed over by one of the two.
        while True:
            try:
                # Before the call: a callback that raises loses only its own results.
                batch, results, pages = self._collected.popleft()
            except IndexError:
                return has_decided
            for indices, page in pages:
                if batch.on_page is None:
                    results.extend(zip(indices, results_on(page), strict=True))
                else:
                    _call_back(partial(batch.on_page, indices), page)
            if not results:
                continue
            again: Sequence[Repeat] = _call_back(batch.on_results, results) or ()
            if batch.undecided:  # read without the lock: only this thread removes the calls of ``results`` from it
                with self._lock:
                    self._decide(batch, results, again)
                has_decided = True

    def _decide(self, batch: Batch, results: Sequence[tuple[int, RunResult]], again: Sequence[Repeat]) -> None:
        """Queue the calls of ``again``, and let go of the others whose results are in ``results``."""
        now = time.monotonic()
        repeated = {index: now + delay for index, delay in again}
        for index, _ in results:
            # While the callback ran, ``fail_all`` may have ended the call.
            if index not in batch.undecided:
                continue
            batch.undecided.discard(index)
            if index not in repeated:
                # Another process may still have the call (``Feeder.back_up``), or may have died before it began: then
                # this attempt was not the last one.
                if index not in batch.doubled or not self._is_with_others(batch, index):
                    self._release(batch, index)
            elif index in batch.cancelled:
                self.finish(batch, index, failed(cancelled_failure(running=False)))
            else:
                heapq.heappush(self._delayed, (repeated[index], batch.number << TICKET_SHIFT | index))

    def _is_with_others(self, batch: Batch, index: int) -> bool:
        return batch.is_returned(index) or bool(self.holders(batch.number << TICKET_SHIFT | index))

    def holders(self, ticket: int) -> list[Member]:
        """Return the processes that hold a call: none, one, or two if the call is backed up."""
        return [member for member in self._members if ticket in member.tickets]

    # -- calls that run again ----------------------------------------------------------------------------------

    def next_time(self) -> float:
        """Return the monotonic time when the next call is to run again, or the next tick is due; infinity if none."""
        times = [batch.ticks_at for batch in self._ticking]
        return min([*times, self._delayed[0][0]]) if self._delayed else min(times, default=float("inf"))

    def ticks(self, now: float) -> list[tuple[OnStart, int]]:
        """Return the ``on_tick`` callbacks that are due, for ``announce``."""
        found: list[tuple[OnStart, int]] = []
        for batch in self._ticking:
            if now >= batch.ticks_at and batch.on_tick is not None:
                batch.ticks_at = now + TICK_SECONDS
                found.append((batch.on_tick, 0))
        return found

    def requeue_due(self, now: float) -> None:
        """Queue the calls that are to run again by now."""
        while self._delayed and self._delayed[0][0] <= now:
            self.requeue([heapq.heappop(self._delayed)[1]])

    # -- waiting for all ---------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> bool:
        """Wait until no call is outstanding, or until the time runs out. Return whether no call is outstanding."""
        # The caller holds the lock here, and the pump reads the count without it, after it has recorded a result. A
        # thread that begins to wait after that reading finds ``outstanding`` updated.
        self.waiters += 1  # so that the pump need not take the lock when no thread waits
        try:
            return self._finished.wait_for(lambda: not self.outstanding, timeout)
        finally:
            self.waiters -= 1

    def tell_waiters(self) -> None:
        """After the last result has been handed over, wake the threads that wait for it."""
        # Check again: between the turn and this, without the lock, a thread may have submitted more calls.
        if not self.outstanding:
            self._finished.notify_all()


def failed(failure: Failure) -> RunResult:
    """Return the result of a call that has no outcome."""
    return RunResult(None, None, failure=failure, returncode=None)


def announce(starts: Sequence[tuple[OnStart, int]]) -> None:
    """Call the ``on_start`` callbacks of calls that are running now. The caller must not hold the lock."""
    for on_start, index in starts:
        _call_back(on_start, index)


def _call_back(function: Callable[..., Any], argument: object) -> Any:
    try:
        # No lock is held here: the callback may submit, cancel or close the pool, and may take locks of the program.
        return function(argument)
    except Exception:
        # The pump serves every executor: a mistake in one executor's callback must not end the calls of the others.
        logger.exception("a callback of the local pool raised")
        return None
