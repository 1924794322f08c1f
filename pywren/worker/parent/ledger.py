"""``Ledger``: the unfinished batches of the local pool, the order in which they wait, and their results.

Everything except ``hand_over`` happens with the pool's lock held. Results are *collected* with the lock and *handed
over* without it, and only by the pump, because handing over runs the callbacks of programs. A result moves from one
place to the next in one step, so an error between two steps loses no result.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from pywren.wire.failure import Failure
from pywren.worker.parent.batch import Batch, OnResults, OnStart
from pywren.worker.parent.members import Members
from pywren.worker.protocol import TICKET_SHIFT
from pywren.worker.task import RunResult, cancelled_failure

logger = logging.getLogger(__name__)

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
        self._collected: deque[tuple[OnResults, list[tuple[int, RunResult]]]] = deque()
        # A condition on the pool's own lock: ``wait`` lets go of all levels of the reentrant lock while it sleeps, so
        # the pump can take its turns.
        self._finished = threading.Condition(lock)
        self.waiters = 0

    def add(self, batch: Batch) -> None:
        """Add a batch. Its calls wait behind all other calls."""
        self._numbers += 1
        batch.number = self._numbers
        for arena in batch.arenas:  # batches and arenas share one series of numbers; children tell them apart by kind
            self._numbers += 1
            arena.number = self._numbers
        self.outstanding += batch.remaining
        if batch.remaining:
            self._batches[batch.number] = batch
            self.queue.append(batch)

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

    # -- results -----------------------------------------------------------------------------------------------

    def finish(self, batch: Batch, index: int, result: RunResult) -> None:
        """Record the result of a call, unless the call already has a result."""
        if batch.done[index]:
            return
        if index in batch.cancelled and result.failure is None:
            # ``cancel`` reported the call as cancelled before its result arrived.
            result = failed(cancelled_failure(running=True))
        batch.done[index] = 1
        # Find the arena first: only the entry, which is dropped next, leads to it.
        arena = batch.arena_of(index) if batch.arenas else None
        batch.entries[index] = None  # the argument may be big
        batch.collected.append((index, result))
        batch.remaining -= 1
        self.outstanding -= 1
        self._touched[batch.number] = batch
        if arena is not None:
            arena.calls -= 1
            if not arena.calls:
                # The file closes with its last reference. Each child has a descriptor of the file, and is told to close
                # it.
                batch.arenas.remove(arena)
                for member in self._members:
                    member.forget_arena(arena.number)
        if not batch.remaining:
            del self._batches[batch.number]
            for member in self._members:
                member.forget(batch)
            self.ended_at = time.monotonic()

    def fail_all(self, failure: Failure) -> None:
        """Give every call that has no result a failure as its result."""
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
            self._collected.append((batch.on_results, batch.collected))
            batch.collected = []
        self._touched.clear()

    def hand_over(self) -> None:
        """Pass the collected results to their callbacks. Only the pump calls this method, without the lock."""
        # No lock: popleft() is atomic. A pump that is ending may still be here when its successor comes; each result is
        # handed over by one of the two.
        while True:
            try:
                results = (
                    self._collected.popleft()
                )  # before the call: a callback that raises loses only its own results
            except IndexError:
                return
            _call_back(*results)

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


def _call_back(function: Callable[..., None], argument: object) -> None:
    try:
        # No lock is held here: the callback may submit, cancel or close the pool, and may take locks of the program.
        function(argument)
    except Exception:
        # The pump serves every executor: a mistake in one executor's callback must not end the calls of the others.
        logger.exception("a callback of the local pool raised")
