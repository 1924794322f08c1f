"""``Looker``: reads what a storage knows about the calls of one callset.

One look lists the callset, unless so few calls are outstanding that reading their statuses costs less; reads the
statuses and the reports of failed attempts that are new; then lists Lambda's records if something new was found; and
leaves the decision what to believe to ``belief.weigh``.

The thread that polls looks. Helper threads (``for_each``) only send requests for it. ``look`` runs on one thread at a
time (``StagedCallset`` sees to that); ``look_at_once`` uses nothing that ``look`` changes, so ``cancel`` may call it on
any thread.

A look that fails half-way changes nothing here, so the next look finds the same things again. What a look has found may
still get lost on the way: a report counts as read only when the caller has said so (``heed``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from pywren.client.belief import Findings, Read, Sign, weigh
from pywren.client.callset import Callset
from pywren.client.failure_records import FailureRecords
from pywren.exceptions import DecodeError, IntegrityError
from pywren.storage import Storage
from pywren.system.threads import for_each
from pywren.wire.beacon import Beacon

logger = logging.getLogger(__name__)

# Enough to hide the latency of S3, tens of milliseconds for each GET.
FETCH_THREADS = 32
_DIRECT_READS = 3  # read up to this many calls without a listing: a GET costs a twelfth of a LIST (S3 prices, 2026)

FULL_LOOK = 2.0
"""Seconds after which even a look at few calls lists the callset: only a listing shows beacons and failed attempts."""

BEACON_FRESH = 75.0
"""The age in seconds from which a beacon shows nothing any more: two renewals are missing, and some more."""

_MOST_READS = 5  # of a report that is not believed; its worker may still write the real one over it

InFlight = Callable[[Sequence[str]], Mapping[str, Sequence[int]]]
"""Returns for each of some calls the attempts that may be running."""


class Looker:
    """Looks at the calls of one callset.

    Args:
        callset: the callset.
        storage: where its objects are.
        records: Lambda's records of failed calls; ``None`` if there are none.
        clock: returns the storage's time, in seconds since the epoch.
        timer: returns monotonic seconds.
    """

    def __init__(
        self,
        callset: Callset,
        storage: Storage,
        records: FailureRecords | None,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        self._callset = callset
        self._storage = storage
        self._records = records
        self._clock = clock
        self._timer = timer
        self._last_listing = timer()
        self._reads: dict[tuple[str, int], int] = {}  # how often each report of a failed attempt was read in vain
        self._heeded: set[tuple[str, int]] = set()
        self._beacons: dict[tuple[str, int], Beacon] = {}
        self._modified: dict[tuple[str, int], float] = {}  # when the beacons were last written
        self._forged: dict[tuple[str, int], float] = {}  # when the beacons were written that are not believed

    @property
    def threads(self) -> int:
        """How many requests to send in parallel."""
        # Files of this machine have no latency to hide, and threads would only contend for the GIL.
        return 1 if self._storage.path[0] == "localhost" else FETCH_THREADS

    def look(
        self,
        unknown: Sequence[str],
        start_after: str,
        in_flight: InFlight | None,
        client_gone: bool = False,
    ) -> Findings:
        """Find out what became of some calls.

        Args:
            unknown: the calls, in order.
            start_after: a call before the first of them; keys up to there are not listed.
            in_flight: asked for the attempts that may be running; ``None`` if this process does not drive the calls.
            client_gone: whether the process that ran the calls had ended before.

        Raises:
            StorageError: something could not be read, so it cannot be decided what to believe.
        """
        wanted = set(unknown)
        ended: list[str] = list(unknown)
        reported: list[tuple[str, int]] = []
        beacons: dict[tuple[str, int], float] = {}
        if len(unknown) > _DIRECT_READS or self._timer() - self._last_listing >= FULL_LOOK:
            # S3 is strongly consistent since December 2020: a listing shows every status whose PUT has been answered.
            listing = self._storage.look(self._callset.id, start_after)
            self._last_listing = self._timer()
            # The listing also shows calls that were settled before: reading those again would be wasted.
            ended = [call_id for call_id in listing.statuses if call_id in wanted]
            # What attempts before the job was resumed left behind tells nothing about the present ones.
            first = self._callset.first_attempt
            if in_flight is not None:
                reported = [one for one in listing.attempts if one[0] in wanted and self._is_new(one)]
            beacons = {one: when for one, when in listing.beacons.items() if one[0] in wanted and one[1] >= first}
        signs = self._read_beacons(beacons)
        found = self._weigh(unknown, ended, reported, in_flight, client_gone)
        # Only now: if anything above has failed, the caller has not got the signs, and the next look finds them again.
        self._modified.update((sign[:2], beacons[sign[:2]]) for sign in signs)
        for one in reported:
            self._reads[one] = self._reads.get(one, 0) + 1
        return found._replace(signs=signs)

    def heed(self, call_id: str, number: int) -> None:
        """Record that the caller has carried out what follows from a report. Later looks do not read it again."""
        # Possibly on two threads: cancel() reads no reports, and adding to a set is atomic.
        self._heeded.add((call_id, number))
        self._reads.pop((call_id, number), None)

    def _is_new(self, one: tuple[str, int]) -> bool:
        # What attempts before the job was resumed have failed of does not count.
        if one[1] < self._callset.first_attempt or one in self._heeded:
            return False
        return self._reads.get(one, 0) < _MOST_READS

    def look_at_once(self, call_id: str, in_flight: InFlight | None) -> Findings:
        """Find out what became of one call, without a listing. See ``look``."""
        return self._weigh([call_id], [call_id], [], in_flight)

    def _weigh(
        self,
        unknown: Sequence[str],
        ended: Sequence[str],
        reported: Sequence[tuple[str, int]],
        in_flight: InFlight | None,
        client_gone: bool = False,
    ) -> Findings:
        read: dict[str, Read] = dict.fromkeys(unknown)
        reports: dict[tuple[str, int], Read] = dict.fromkeys(reported)

        def read_status(call_id: str) -> None:
            read[call_id] = self._bounded(lambda: self._storage.read_status(self._callset.id, call_id))

        def read_report(one: tuple[str, int]) -> None:
            reports[one] = self._bounded(lambda: self._storage.read_attempt(self._callset.id, *one))

        # Each helper thread sets a different key, and all keys exist already, so no lock is needed.
        for_each(read_status, ended, self.threads)
        for_each(read_report, reported, self.threads)
        is_new = any(data is not None for data in read.values()) or bool(reports)
        records = self._current_records(is_new, bool(read))
        # Most callsets have no records, and then nobody asks which of 100,000 calls are in flight.
        attempts = None if in_flight is None else {} if records is None else in_flight(unknown)
        return weigh(self._callset, read, records, client_gone, reports=reports, attempts=attempts)

    def _bounded(self, read: Callable[[], bytes | None]) -> Read:
        try:
            return read()
        except IntegrityError as error:  # the object is larger than any status, so it is not read
            return error

    def _current_records(self, is_new: bool, is_any: bool) -> FailureRecords | None:
        """Return Lambda's records, listed now if needed; ``None`` if there are none about any call."""
        records = self._records
        if records is None:
            return None
        now = self._clock()
        # The order matters. A status that is forged with a key from a record is written after that record. So a
        # listing made after the statuses were read shows every record whose key may have signed one of them.
        if is_new or (is_any and records.is_due(now)):
            # If this raises, no status of this poll is believed: without the records a forged one cannot be told
            # from a real one. The next poll reads everything again.
            records.refresh(now)
        return None if records.is_empty else records

    def _read_beacons(self, beacons: Mapping[tuple[str, int], float]) -> list[Sign]:
        """Return the attempts whose beacons were written since the last look. Read and verify each beacon once."""
        # The beacon of a worker that died stays in the storage. An old one shows nothing, also to a client that has
        # only just begun to look, or that was suspended. Both times are by the storage's clock.
        oldest, first = self._clock() - BEACON_FRESH, self._callset.first_attempt
        fresh = [
            one
            for one, when in beacons.items()
            if one[1] >= first and when >= oldest and self._modified.get(one, 0.0) < when
        ]
        # A beacon that is not believed is read again only when it was written again: somebody may write thousands.
        unread = [one for one in fresh if one not in self._beacons and self._forged.get(one) != beacons[one]]
        for_each(lambda one: self._read_beacon(one, beacons[one]), unread, self.threads)
        signs = []
        for one in fresh:
            beacon = self._beacons.get(one)
            if beacon is not None:
                signs.append(Sign(*one, beacon.started_at, beacon.where))
        return signs

    def _read_beacon(self, one: tuple[str, int], modified: float) -> None:
        # On a helper thread; each sets another key. Later, the times of the object are believed without reading it
        # again: whoever can write to the prefix can then only make a dead worker look alive, until the call is overdue.
        try:
            data = self._storage.read_beacon(self._callset.id, *one) or b""
            self._beacons[one] = Beacon.verify(data, self._callset.known_secret(), self._callset.id, *one)
        except (IntegrityError, DecodeError) as error:
            self._forged[one] = modified
            logger.debug("ignoring the beacon of attempt %d of call %s: %s", one[1], one[0], error)
