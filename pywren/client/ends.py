"""``Ends``: the statuses with which this client ends calls of one callset, until the storage has taken them.

A client ends a call when it cancels the call, when it gives up after the last attempt, or when the service refuses the
call. The driver decides only once that a call ends. So an end is kept until its call is settled, whatever becomes of
the request or of the thread that sends it.

Any thread may add an end. One thread at a time writes them (``StagedCallset`` polls on one thread). ``_lock`` guards
the two tables; it is innermost, and not held during requests.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pywren.aws.errors import was_denied
from pywren.client.callset import Callset
from pywren.client.journals import Journals, Known
from pywren.exceptions import PywrenError, StorageError
from pywren.storage import Storage
from pywren.system.threads import for_each
from pywren.wire.digests import sha256
from pywren.wire.failure import Failure
from pywren.wire.keys import CallKeys
from pywren.wire.outcome import INLINE_OUTCOME_LIMIT
from pywren.wire.status import CLIENT_ATTEMPT, Status

logger = logging.getLogger(__name__)

MOST_EXPOSURES = 3
"""How often a status that anybody may have written is deleted to make room for another attempt."""


class End(NamedTuple):
    """A status with which this client ends a call, once it is written.

    Args:
        status: the status.
        over_what_stands: whether to overwrite the present status, because it is not believed.
        error: the error that the futures of this process raise; ``None`` for the one that the status reports.
        attempts: words that name all attempts, for an exception of the program's own; empty if there was only one.
    """

    status: Status
    over_what_stands: bool = False
    error: PywrenError | None = None
    attempts: str = ""


class Ends:
    """The ends of the calls of one callset.

    Args:
        callset: the callset.
        storage: where the statuses are written.
        journals: those of the callset's chunks. What ends a call of a chunk is written into its journal.
    """

    def __init__(self, callset: Callset, storage: Storage, journals: Journals) -> None:
        self.storage = storage
        self._journals = journals
        self._callset = callset
        self._lock = threading.RLock()  # reentrant, because replacing an entry may run a destructor
        self._ends: dict[str, End] = {}
        self._exposures: dict[str, int] = {}  # how often a status that is not believed was deleted

    def status(self, call_id: str, failure: Failure | None) -> Status:
        """Return a status by which this client ends a call; without a failure, an outcome is to be added."""
        # Signed as attempt 0, whose key is in no payload: no record can ever show it.
        return Status(self._callset.id, call_id, CLIENT_ATTEMPT, failure, info={"ended_by": "client"})

    def add(self, end: End) -> None:
        """Remember an end, unless the call has one already."""
        with self._lock:
            exposed = self._exposures.get(end.status.call_id, 0) > 0
            self._ends.setdefault(end.status.call_id, replace_standing(end) if exposed else end)

    def __bool__(self) -> bool:
        return bool(self._ends)  # without the lock: one reference

    def forget(self, call_id: str) -> None:
        """Forget a call that was settled, or that nothing waits for any more."""
        with self._lock:
            self._ends.pop(call_id, None)
            self._exposures.pop(call_id, None)

    def make_room(self, call_id: str) -> bool:
        """Delete a status that anybody may have written, since it would keep every other attempt from ending the call.

        Returns:
            Whether there is room now. It is False if such statuses have come again and again.

        Raises:
            StorageError: the status cannot be deleted now. Nothing has been decided, so the next poll tries again.
        """
        with self._lock:
            end = self._ends.get(call_id)
            if end is not None:  # the driver has decided before; now it is known that nothing that stands counts
                self._ends[call_id] = replace_standing(end)
                return True
            count = self._exposures[call_id] = self._exposures.get(call_id, 0) + 1
        if count > MOST_EXPOSURES:
            return False
        # A worker that is still running may have lost to the status; the driver then invokes the call once more.
        self.storage.backend.delete([self._callset.call_keys(call_id).status])
        return True

    def write(self, status: Status, *, over_what_stands: bool = False) -> bool:
        """Write a status that ends a call. Return whether it was written: without ``over_what_stands``, the first wins.

        Raises:
            StorageError: the storage cannot be written.
        """
        known = None if over_what_stands else self._journals.of(status.call_id)
        if known is not None:
            return bool(self._mark(known, [status]))
        # commit_status() is a PUT with ``If-None-Match: *`` (S3 conditional writes): of two writers S3 lets one win.
        if not over_what_stands:
            return self._commit(status)
        data = status.encode(self._callset.attempt_key(status.call_id, status.attempt))
        return self.storage.put(self._callset.call_keys(status.call_id).status, data)

    def write_each(self, statuses: Sequence[Status], threads: int) -> None:
        """Write statuses that end calls, unless the calls have ended otherwise.

        Args:
            statuses: the statuses.
            threads: the most requests in parallel.

        Raises:
            StorageError: the storage cannot be written.
        """

        def write(group: tuple[Known | None, list[End]]) -> None:
            known, ends = group
            if known is None:
                self.write(ends[0].status)
            else:
                self._mark(known, [end.status for end in ends])

        for_each(write, self._together([End(status) for status in statuses]), threads)

    def write_all(self, threads: int) -> tuple[list[End], StorageError | None]:
        """Write all statuses.

        Args:
            threads: the most requests in parallel.

        Returns:
            The ends of calls that have ended by them, and why others could not be written.
        """
        with self._lock:
            ends = list(self._ends.values())
        done: list[End] = []  # helper threads append to it; the caller reads it when they have returned
        trouble: list[StorageError] = []

        def write(known: Known | None, some: Sequence[End]) -> None:
            try:
                if known is not None:
                    ended = self._mark(known, [end.status for end in some])
                    done.extend(end for end in some if end.status.call_id in ended)
                    return
                # Conditional, unless nothing that stands is believed: a status that arrives at the last moment wins,
                # and the next poll reads it. If that status is not believed then, the end is written over it.
                if not self.write(some[0].status, over_what_stands=some[0].over_what_stands):
                    return
            except StorageError as problem:
                if not was_denied(problem):
                    trouble.append(problem)
                    return
                # This process knows of the end all the same.
                logger.debug("cannot record the end of call %s of callset %s: %s", some[0].status.call_id,
                             self._callset.id, problem)  # fmt: skip
            done.extend(some)

        for_each(lambda group: write(*group), self._together(ends), threads)
        return done, trouble[0] if trouble else None

    def _together(self, ends: Sequence[End]) -> list[tuple[Known | None, list[End]]]:
        """Return the ends that are written with one request each: those of calls of one chunk together."""
        groups: list[tuple[Known | None, list[End]]] = []
        of_chunk: dict[str, list[End]] = {}
        for end in ends:
            known = None if end.over_what_stands else self._journals.of(end.status.call_id)
            if known is None:
                groups.append((None, [end]))
            elif known.name in of_chunk:
                of_chunk[known.name].append(end)
            else:
                groups.append((known, of_chunk.setdefault(known.name, [end])))
        return groups

    def _mark(self, known: Known, statuses: Sequence[Status]) -> set[str]:
        """Write ends of calls of one chunk into its journal, and return those that count."""
        ended, free = self._journals.mark(known, statuses)
        # The journal has ended meanwhile, and has said nothing of these calls: now a status of their own ends them.
        own = [one for one in statuses if one.call_id in free and self._commit(one)]
        return {*ended, *(one.call_id for one in own)}

    def _commit(self, status: Status) -> bool:
        data = status.encode(self._callset.attempt_key(status.call_id, status.attempt))
        return self.storage.commit_status(self._callset.call_keys(status.call_id).status, data)

    def forget_parent_threads(self) -> None:
        """In a forked child, forget the ends: the parent writes them."""
        self._lock = threading.RLock()
        self._ends, self._exposures = {}, {}


def store_outcome(storage: Storage, keys: CallKeys, outcome: bytes) -> dict[str, Any]:
    """Return the fields of a status that has this outcome. A big outcome is stored as a separate object.

    Args:
        storage: the storage.
        keys: the keys of the call.
        outcome: the encoded outcome.

    Raises:
        StorageError: the outcome cannot be stored.
    """
    if len(outcome) <= INLINE_OUTCOME_LIMIT:
        return {"outcome": outcome}
    # The output before the status: whoever reads the status must find the output that it names.
    storage.put(keys.output, outcome)
    return {"output_key": keys.output, "output_sha256": sha256(outcome), "output_size": len(outcome)}


def replace_standing(end: End) -> End:
    """Return an end that is written over whatever stands."""
    return end._replace(over_what_stands=True)


def with_attempts(status: Status, message: str) -> Status:
    """Return a status whose failure also names all attempts of the call, if ``message`` does."""
    if status.failure is None or not message:
        return status
    return replace(status, failure=status.failure._replace(message=f"{status.failure.message} {message}"))
