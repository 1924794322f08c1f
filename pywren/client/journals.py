"""``Journals``: what the journals of the chunks of one callset say, and how this client writes into them.

``docs/chunks.md`` says who writes which page, and which pages count.

Threads: the thread that polls reads pages (``read``), decides which to believe (``weigh``) and remembers what they say
(``keep``); ``for_each`` helpers only send requests for it. A look that fails half-way keeps nothing, so the next one
finds the same pages again. Threads that invoke add chunks (``open``), each with calls that are in no other journal. Any
thread may end calls (``mark``): it works on a branch of a journal, and what it has written is read like all else. There
is no lock: every change is one operation on a dict, and each key is written by one thread at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pywren.client.callset import Callset
from pywren.client.failure_records import Death, FailureRecords
from pywren.exceptions import DecodeError, IntegrityError, StorageNoSuchKeyError
from pywren.storage import Storage
from pywren.storage.journals import write_mark
from pywren.system.threads import for_each
from pywren.wire.digests import chunk_key, mark_key, sha256
from pywren.wire.journal import PAGE_LIMIT, Journal, Page, Plan
from pywren.wire.status import Status

logger = logging.getLogger(__name__)

_MOST_PAGES = 64  # of one journal that one look reads: somebody may write thousands
_MOST_MARKS = 1_000  # numbers that an end mark tries; a worker adds a page a second


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of one chunk.

    Args:
        journal: its journal, as far as it was read.
        key: the key with which its worker signs.
        believed: the digests of the pages of its worker that were believed.
        driven: whether this process has invoked the chunk.
        damaged: whether the journal has ended with a page that nobody may have written.
    """

    journal: Journal
    key: bytes = field(repr=False)
    believed: tuple[str, ...] = ()
    driven: bool = False
    damaged: bool = False

    @property
    def name(self) -> str:
        """The name of the chunk."""
        return self.journal.plan.chunk

    @property
    def first(self) -> str:
        """The first call of the chunk."""
        return next(iter(self.journal.plan.attempts))


class Shown(NamedTuple):
    """The worker of a chunk has written a page.

    Args:
        chunk: the name of the chunk.
        started_at: when its first call on that page began, in seconds since the epoch; ``None`` if that is unknown.
        where: the worker.
        running: the call that ran when the page was written; ``None`` if none did.
    """

    chunk: str
    started_at: float | None
    where: str
    running: str | None


class Reading(NamedTuple):
    """Pages that were read: for each chunk what was known before, and the numbers and bytes of its new pages.

    Bytes are ``None`` for a page that is too large.
    """

    pages: dict[str, tuple[Known, list[tuple[int, bytes | None]]]]

    def __bool__(self) -> bool:
        return bool(self.pages)


class Weighed(NamedTuple):
    """What pages say that count.

    Args:
        known: what is known now, by the names of the chunks.
        outcomes: the statuses that have ended calls.
        reports: those of attempts that have failed, and may be followed by another.
        shown: which workers have written.
    """

    known: dict[str, Known]
    outcomes: dict[str, Status]
    reports: dict[tuple[str, int], Status]
    shown: list[Shown]


class Journals:
    """The journals of the chunks of one callset.

    Args:
        callset: the callset.
        storage: returns where they are.
    """

    def __init__(self, callset: Callset, storage: Callable[[], Storage]) -> None:
        self._callset = callset
        self._storage = storage
        self._known: dict[str, Known] = {}
        self._of_call: dict[str, str] = {}  # the chunk of each call whose journal is open and says nothing of it
        self._ignored: set[str] = set()  # chunks without a plan that is believed
        self._over: dict[str, bool] = {}  # chunks of this process that left calls behind, and whether by damage
        # What was found, until the caller has carried it out.
        self._outcomes: dict[str, Status] = {}
        self._reports: dict[tuple[str, int], Status] = {}
        self._forgotten: set[str] = set()  # calls whose outcomes were carried out, for another copy of a future

    # -- threads that invoke -----------------------------------------------------------------------------------------

    def open(self, plan: Plan) -> None:
        """Note a chunk that this process is about to invoke."""
        self._known[plan.chunk] = self._new(plan, driven=True)
        self._of_call.update(dict.fromkeys(plan.attempts, plan.chunk))

    # -- any thread ---------------------------------------------------------------------------------------------------

    def of(self, call_id: str) -> Known | None:
        """Return the chunk in whose journal, which has not ended, nothing is said of a call yet."""
        name = self._of_call.get(call_id)
        return None if name is None else self._known.get(name)

    def named(self, chunk: str) -> Known | None:
        """Return an open journal by the name of its chunk."""
        known = self._known.get(chunk)
        return None if known is None or known.journal.ended else known

    def first_open(self) -> Known | None:
        """Return the first chunk whose journal is open, in the order of their names; ``None`` if none is."""
        still = [one for one in list(self._known.values()) if not one.journal.ended]
        return min(still, key=lambda one: one.name, default=None)

    def mark(self, known: Known, statuses: Sequence[Status]) -> tuple[list[str], list[str]]:
        """End calls of a chunk.

        Returns:
            The calls that have ended by this, and those that are in no open journal any more.

        Raises:
            StorageError: the journal cannot be read or written.
        """
        branch = known.journal.branch()
        ended = write_mark(self._storage(), self._callset.known_secret(), branch, statuses)
        free = [one.call_id for one in statuses if branch.ended and branch.is_missing(one.call_id)]
        return ended, [one for one in free if one not in ended]

    # -- the thread that polls ---------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self._known or self._outcomes)

    def read(
        self, listed: Mapping[str, Collection[int]], *, learn: bool, beyond: Iterable[str] = (), threads: int = 1
    ) -> Reading:
        """Read the pages that are new.

        Args:
            listed: the numbers of the pages that a listing has shown, by the names of the chunks.
            learn: whether to read the plans of unknown chunks too, which other processes have invoked.
            beyond: chunks whose next pages are to be read without a listing.
            threads: how many requests to send in parallel.

        Raises:
            StorageError: a page cannot be read.
        """
        wanted: dict[str, Collection[int] | None] = dict.fromkeys(beyond)
        wanted.update((name, numbers) for name, numbers in listed.items() if self._is_news(name, numbers, learn))
        found: dict[str, tuple[Known, list[tuple[int, bytes | None]]]] = {}

        def read_one(name: str) -> None:
            known = self._known.get(name) or self._learn(name)
            if known is not None:
                pages = self._read_pages(known, wanted[name])
                if pages or name not in self._known:
                    found[name] = known, pages

        for_each(read_one, wanted, threads)
        return Reading(found)

    def _is_news(self, name: str, numbers: Collection[int], learn: bool) -> bool:
        known = self._known.get(name)
        if known is None:
            return learn and 0 in numbers and name not in self._ignored
        return not known.journal.ended and known.journal.number in numbers

    def _learn(self, name: str) -> Known | None:
        try:
            data = self._storage().get(self._callset.keys.page(name, 0), limit=PAGE_LIMIT)
            return self._new(Plan.verify(data, self._callset.known_secret(), self._callset.id, name))
        except StorageNoSuchKeyError:
            return None
        except (IntegrityError, DecodeError) as error:
            self._ignored.add(name)
            logger.debug("ignoring a chunk: %s", error)
            return None

    def _new(self, plan: Plan, *, driven: bool = False) -> Known:
        return Known(Journal(plan), chunk_key(self._callset.known_secret(), plan.chunk), driven=driven)

    def _read_pages(self, known: Known, numbers: Collection[int] | None) -> list[tuple[int, bytes | None]]:
        pages: list[tuple[int, bytes | None]] = []
        first = known.journal.number
        for number in range(first, first + _MOST_PAGES):
            if numbers is not None and number not in numbers:
                break
            try:
                data = self._storage().get(self._callset.keys.page(known.name, number), limit=PAGE_LIMIT)
            except StorageNoSuchKeyError:
                break
            except IntegrityError:  # larger than any page
                pages.append((number, None))
                break
            pages.append((number, data))
        return pages

    def weigh(self, reading: Reading, records: FailureRecords | None) -> Weighed:
        """Decide which pages count, without changing anything.

        Args:
            reading: the pages.
            records: Lambda's records, listed after the pages were read; ``None`` if there are none.
        """
        found = Weighed({}, {}, {}, [])
        for known, pages in reading.pages.values():
            found.known[known.name] = self._weigh_one(known, pages, records, found)
        return found

    def _weigh_one(
        self, known: Known, pages: Sequence[tuple[int, bytes | None]], records: FailureRecords | None, found: Weighed
    ) -> Known:
        branch, believed, damaged = known.journal.branch(), list(known.believed), known.damaged
        read = [self._verified(known, number, data) for number, data in pages]
        exposed = records is not None and records.shown(known.key) is not None
        # Once a record shows the key, it proves nothing any more. Then those pages count that the client that has ended
        # the journal had believed before.
        marks = (page for page, _ in read if page is not None and page.by_client and page.last)
        mark = next(marks, None) if exposed else None
        if exposed and mark is None and len(read) == _MOST_PAGES:
            branch.add(None)  # somebody who has the key keeps everybody from reading on to the mark
            return replace(known, journal=branch, damaged=True)
        for page, digest in read:
            if branch.ended:
                break
            if page is not None and not page.by_client:
                if exposed and mark is None:
                    break  # the client that drives the calls is about to write it
                if exposed and mark is not None and digest not in mark.believed:
                    page = replace(page, statuses=(), last=False)
                else:
                    believed.append(digest)
                    found.shown.append(_shown(page))
            damaged = page is None
            for status in branch.add(page):
                if status.call_id in branch.reports:
                    found.reports[status.call_id, status.attempt] = status
                else:
                    found.outcomes[status.call_id] = status
        # Another branch, as what was said must not be kept here.
        return replace(known, journal=branch.branch(), believed=tuple(believed), damaged=damaged)

    def _verified(self, known: Known, number: int, data: bytes | None) -> tuple[Page | None, str]:
        if data is None:
            return None, ""
        callset = self._callset
        try:
            key = callset.keys.page(known.name, number)
            page = Page.verify(data, callset.known_secret(), callset.id, known.name, number, key)
        except (IntegrityError, DecodeError) as error:
            logger.debug("a journal ends: %s", error)
            return None, ""
        return page, sha256(data)

    def keep(self, weighed: Weighed) -> None:
        """Remember what was read and weighed."""
        for name, known in weighed.known.items():
            before = self._known.get(name)
            before_missing = known.journal.plan.attempts if before is None else before.journal.missing()
            for call_id in before_missing:
                if known.journal.ended or not known.journal.is_missing(call_id):
                    if self._of_call.get(call_id) == name:
                        del self._of_call[call_id]
                elif before is None:
                    self._of_call[call_id] = name
            self._known[name] = known
            if known.journal.ended and known.driven:
                del self._known[name]  # a listing that shows it again tells nothing new
                if known.journal.missing():
                    self._over[name] = known.damaged
        self._outcomes.update(weighed.outcomes)
        self._reports.update(weighed.reports)

    def outcomes(self, wanted: Collection[str]) -> dict[str, Status]:
        """Return the statuses on pages that have ended calls, and forget those of other calls.

        Args:
            wanted: the calls whose ends are not known yet.
        """
        for call_id in [one for one in self._outcomes if one not in wanted]:
            del self._outcomes[call_id]
            self._forgotten.add(call_id)
        return self._outcomes

    def reread(self, wanted: Collection[str]) -> None:
        """Forget what was read if a call is wanted whose outcome was carried out before, for another future."""
        # Of the chunks of this process, each outcome is wanted once.
        if self._forgotten and not self._forgotten.isdisjoint(wanted):
            self.forget()

    def forget(self) -> None:
        """Forget everything that was read. In a forked child, the parent drives the calls."""
        self._known, self._of_call, self._over = {}, {}, {}
        self._outcomes, self._reports, self._forgotten = {}, {}, set()

    def reports(self) -> dict[tuple[str, int], Status]:
        """Return what pages say of attempts that may be followed by another, until ``heed``."""
        return self._reports

    def heed(self, call_id: str, number: int) -> None:
        """Forget a report that was carried out."""
        self._reports.pop((call_id, number), None)

    def exposed(self, records: FailureRecords | None) -> dict[str, Death]:
        """Return the chunks whose journals are open and whose keys Lambda's records show, and how they have died."""
        if records is None:
            return {}
        shown = ((name, records.shown(known.key)) for name, known in list(self._known.items()) if self.named(name))
        return {name: death for name, death in shown if death is not None}

    def over(self) -> list[tuple[str, bool]]:
        """Return the chunks of this process that have left calls behind, and whether their journals were damaged."""
        return list(self._over.items())

    def close(self, chunk: str) -> None:
        """Note that the calls that a chunk has left behind are taken care of."""
        self._over.pop(chunk, None)

    def end(self, chunk: str, refresh: Callable[[], FailureRecords | None]) -> None:
        """Write a mark that ends a journal. What follows from it is found with the next look.

        Args:
            chunk: the name of the chunk.
            refresh: lists Lambda's records, and returns them.

        Raises:
            StorageError: the journal, or the records, cannot be read or written.
        """
        known = self.named(chunk)
        if known is None:
            return
        plan, believed = known.journal.plan, list(known.believed)
        key = mark_key(self._callset.known_secret(), chunk)
        for number in range(known.journal.number, known.journal.number + _MOST_MARKS):
            place = self._callset.keys.page(chunk, number)
            data = Page(plan.callset_id, chunk, number, last=True, believed=believed).encode(key)
            if self._storage().put(place, data, if_absent=True):
                return
            try:
                there = self._storage().get(place, limit=PAGE_LIMIT)
            except IntegrityError:
                return  # the journal ends there
            page, digest = self._verified(known, number, there)
            if page is None or (page.by_client and page.last):
                return
            # A page that has just come counts like one that was read before, if its key is still a secret. The records
            # are listed after it was read.
            records = refresh()
            if not page.by_client and (records is None or records.shown(known.key) is None):
                believed.append(digest)
                if page.last:
                    return


def _shown(page: Page) -> Shown:
    info: Mapping[str, object] = page.statuses[0].info if page.statuses else {}
    began, where = info.get("start_time"), info.get("log_stream_name")
    return Shown(
        page.chunk,
        began if isinstance(began, int | float) else None,
        where if isinstance(where, str) else "",
        page.running,
    )
