"""``Looker``: reads what a storage knows about the calls of one callset.

One look lists the callset, unless so few calls are outstanding that reading their statuses costs less; reads the
statuses, the reports of failed attempts and the pages of journals that are new; then lists Lambda's records if
something new was found; and leaves the decision what to believe to ``belief.weigh`` and ``Journals.weigh``.

The thread that polls looks. Helper threads (``for_each``) only send requests for it. ``look`` runs on one thread at a
time (``StagedCallset`` sees to that); ``look_at_once`` uses nothing that ``look`` changes, so ``cancel`` may call it on
any thread.

A look that fails half-way changes nothing here, so the next look finds the same things again. What a look has found may
still get lost on the way: a report counts as read only when the caller has said so (``heed``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from pywren.client.belief import Findings, Read, Sign, weigh
from pywren.client.callset import Callset
from pywren.client.failure_records import Death, FailureRecords
from pywren.client.journals import Journals, Reading
from pywren.exceptions import DecodeError, IntegrityError, VersionMismatchError
from pywren.storage import Storage
from pywren.storage.journals import by_chunk
from pywren.storage.storage import Listing
from pywren.system.threads import for_each
from pywren.wire.beacon import Beacon
from pywren.wire.failure import Failure
from pywren.wire.keys import chunk_name

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
        self.cost = math.inf
        """How many seconds the last look took without reading what was new; ``inf`` if it is not known."""
        # Only a listing shows the chunks that another process has invoked.
        self._must_list = callset.has_chunks
        self.journals = Journals(callset, lambda: self._storage)
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
        learn = in_flight is None  # otherwise this process has made all chunks that count
        if learn:
            self.journals.reread(wanted)
        reported: list[tuple[str, int]] = []
        beacons: dict[tuple[str, int], float] = {}
        pages: dict[str, set[int]] = {}
        began, self.cost = self._timer(), math.inf
        lists = len(unknown) > _DIRECT_READS or began - self._last_listing >= FULL_LOOK
        if lists or (learn and self._must_list):
            # S3 is strongly consistent since December 2020: a listing shows every status whose PUT has been answered.
            listing = self._list(start_after, learn=learn)
            self._last_listing = self._timer()
            self.cost = self._last_listing - began
            self._must_list = False
            # The listing also shows calls that were settled before: reading those again would be wasted.
            ended = [call_id for call_id in listing.statuses if call_id in wanted]
            # What attempts before the job was resumed left behind tells nothing about the present ones.
            first = self._callset.first_attempt
            if in_flight is not None:
                reported = [one for one in listing.attempts if one[0] in wanted and self._is_new(one)]
            beacons = {
                one: when
                for one, when in listing.beacons.items()
                if one[1] >= first and (one[0] in wanted or (self.journals and self.journals.named(chunk_name(*one))))
            }
            pages = by_chunk(listing.pages)
            beyond: set[str] = set()
        else:
            chunks = {call_id: self.journals.of(call_id) for call_id in unknown} if self.journals else {}
            beyond = {known.name for known in chunks.values() if known is not None}
            ended = [call_id for call_id in unknown if chunks.get(call_id) is None]
        fresh, signs = self._read_beacons(beacons)
        reading = self.journals.read(pages, learn=learn, beyond=beyond, threads=self.threads)
        found = self._weigh(unknown, ended, reported, in_flight, client_gone, is_new=bool(reading))
        if reading or self.journals:
            found, more = self._add_pages(found, reading, wanted, driven=not learn)
            signs += more
        # Only now: if anything above has failed, the caller has not got the signs, and the next look finds them again.
        self._modified.update((one, beacons[one]) for one in fresh)
        for one in reported:
            self._reads[one] = self._reads.get(one, 0) + 1
        return found._replace(signs=signs)

    def _list(self, start_after: str, *, learn: bool) -> Listing:
        """List what may be new: from the first outstanding call, and from the first chunk whose journal is open.

        Args:
            start_after: a call before the first that is outstanding.
            learn: whether other processes may have made chunks.
        """
        first = self.journals.first_open()
        # The beacon of a chunk is next to its first call, which may have ended already.
        if first is not None and first.first <= start_after:
            start_after = first.first[:-1]  # what an id begins with sorts before it, because "/" sorts before digits
        first_chunk = None if first is None else first.name
        return self._storage.look(self._callset.id, start_after, "" if learn else first_chunk)

    def heed(self, call_id: str, number: int) -> None:
        """Record that the caller has carried out what follows from a report. Later looks do not read it again."""
        # Possibly on two threads: cancel() reads no reports, and adding to a set is atomic.
        self._heeded.add((call_id, number))
        self._reads.pop((call_id, number), None)
        self.journals.heed(call_id, number)

    def _is_new(self, one: tuple[str, int]) -> bool:
        # What attempts before the job was resumed have failed of does not count.
        if one[1] < self._callset.first_attempt or one in self._heeded:
            return False
        return self._reads.get(one, 0) < _MOST_READS

    def look_at_once(self, call_id: str, in_flight: InFlight | None) -> Findings:
        """Find out what became of one call, without a listing. See ``look``."""
        return self._weigh([call_id], [call_id], [], in_flight)

    def end_journals(self, chunks: Iterable[str]) -> None:
        """Write marks that end the journals of chunks. The next look finds what was said before.

        Raises:
            StorageError: the storage cannot be read or written.
        """
        for_each(lambda one: self.journals.end(one, lambda: self._current_records(True, True)), chunks, self.threads)

    def forget_parent_threads(self) -> None:
        """In a forked child, read the journals again, as those of another process."""
        self.journals.forget()
        self._must_list = self._callset.has_chunks

    def _add_pages(
        self, found: Findings, reading: Reading, wanted: Collection[str], *, driven: bool
    ) -> tuple[Findings, list[Sign]]:
        """Return what was found, with what pages say, and the signs of life that they are."""
        records = None if self._records is None or self._records.is_empty else self._records
        weighed = self.journals.weigh(reading, records)
        self.journals.keep(weighed)
        outcomes = self.journals.outcomes(wanted)
        # A status of its own counts more: whoever has written it may not have known of the journal.
        found.believed.update((call_id, outcomes[call_id]) for call_id in sorted(outcomes.keys() & found.missing))
        found.reports.update(self.journals.reports() if driven else {})
        self._spread_refusals(found, wanted)
        found.missing.difference_update(found.believed, found.failed)
        deaths = self.journals.exposed(records)
        if not driven:
            self._note_deaths(found, deaths)
        signs = [Sign(one.chunk, 0, one.started_at, one.where, one.running) for one in weighed.shown]
        return found._replace(chunk_deaths=deaths if driven else {}), signs

    def _spread_refusals(self, found: Findings, wanted: Collection[str]) -> None:
        """Apply the refusal of a chunk, which its worker has written as the status of its first call, to all calls."""
        for call_id, error in list(found.failed.items()):
            known = self.journals.of(call_id)
            if known is None or known.first != call_id or not isinstance(error, (VersionMismatchError, DecodeError)):
                continue
            failure = Failure.of(error)
            for other in known.journal.missing():
                if other in wanted and other not in found.believed:
                    found.failed.setdefault(other, failure.error(self._callset.id, other, {}))

    def _note_deaths(self, found: Findings, deaths: Mapping[str, Death]) -> None:
        for name, death in deaths.items():
            known = self.journals.named(name)
            attempts = {} if known is None else known.journal.plan.attempts
            for call_id in [] if known is None else known.journal.missing():
                found.deaths.setdefault(call_id, {})[attempts[call_id]] = death

    def _weigh(
        self,
        unknown: Sequence[str],
        ended: Sequence[str],
        reported: Sequence[tuple[str, int]],
        in_flight: InFlight | None,
        client_gone: bool = False,
        *,
        is_new: bool = False,
    ) -> Findings:
        read: dict[str, Read] = dict.fromkeys(ended)
        reports: dict[tuple[str, int], Read] = dict.fromkeys(reported)

        def read_status(call_id: str) -> None:
            read[call_id] = self._bounded(lambda: self._storage.read_status(self._callset.id, call_id))

        def read_report(one: tuple[str, int]) -> None:
            reports[one] = self._bounded(lambda: self._storage.read_attempt(self._callset.id, *one))

        # Each helper thread sets a different key, and all keys exist already, so no lock is needed.
        for_each(read_status, ended, self.threads)
        for_each(read_report, reported, self.threads)
        is_new = is_new or any(data is not None for data in read.values()) or bool(reports)
        records = self._current_records(is_new, bool(unknown))
        # Most callsets have no records, and then nobody asks which of 100,000 calls are in flight.
        attempts = None if in_flight is None else {} if records is None else in_flight(unknown)
        return weigh(self._callset, unknown, read, records, client_gone, reports=reports, attempts=attempts)

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

    def _read_beacons(self, beacons: Mapping[tuple[str, int], float]) -> tuple[list[tuple[str, int]], list[Sign]]:
        """Find the attempts whose beacons were written since the last look. Read and verify each beacon once.

        Returns:
            Which beacons are believed, and what they show.
        """
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
        believed = [one for one in fresh if one in self._beacons]
        return believed, [self._sign_of(one, self._beacons[one]) for one in believed]

    def _sign_of(self, one: tuple[str, int], beacon: Beacon) -> Sign:
        # The worker of a chunk writes the beacon of the first call, whatever has become of that call.
        known = self.journals.named(chunk_name(*one)) if self.journals else None
        if known is None:
            return Sign(*one, beacon.started_at, beacon.where)
        running = next(iter(known.journal.missing()), None)
        return Sign(known.name, 0, beacon.started_at, beacon.where, running)

    def _read_beacon(self, one: tuple[str, int], modified: float) -> None:
        # On a helper thread; each sets another key. Later, the times of the object are believed without reading it
        # again: whoever can write to the prefix can then only make a dead worker look alive, until the call is overdue.
        try:
            data = self._storage.read_beacon(self._callset.id, *one) or b""
            self._beacons[one] = Beacon.verify(data, self._callset.known_secret(), self._callset.id, *one)
        except (IntegrityError, DecodeError) as error:
            self._forged[one] = modified
            logger.debug("ignoring the beacon of attempt %d of call %s: %s", one[1], one[0], error)
