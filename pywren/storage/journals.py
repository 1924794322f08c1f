"""What the journals of chunks say, for readers that have no future of the call; and how clients write into them.

Futures read journals with ``client.journals``, which remembers what it has read. ``find`` and ``ended_in_chunks`` begin
at the beginning: they are for ``Storage.get_call_status`` and its kind. ``docs/chunks.md`` says which pages count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pywren.exceptions import DecodeError, IntegrityError, StorageNoSuchKeyError
from pywren.wire.digests import mark_key, sha256
from pywren.wire.journal import PAGE_LIMIT, Journal, Page, Plan
from pywren.wire.status import CLIENT_ATTEMPT, Status

if TYPE_CHECKING:
    from pywren.storage.storage import Storage


class Found(NamedTuple):
    """A status in a journal that has ended a call.

    Args:
        status: the status.
        chunk: the name of the chunk.
        by_client: whether a client has written it.
        endorsed: whether the client that has ended the journal had believed the page before.
    """

    status: Status
    chunk: str
    by_client: bool
    endorsed: bool


class _Journals:
    """The journals of a callset.

    Args:
        storage: where they are.
        callset_id: the callset.
        secret: the callset's secret; ``None`` to read without checking who has written what.
    """

    def __init__(self, storage: Storage, callset_id: str, secret: bytes | None) -> None:
        self._storage = storage
        self._callset_id = callset_id
        self._secret = secret
        self._keys = storage.keys(callset_id)

    def listed(self) -> dict[str, set[int]]:
        """Return the numbers of the pages of each journal."""
        keys = self._storage.backend.list(self._keys.journals)
        return by_chunk(page for page in map(self._keys.parse_page, keys) if page is not None)

    def plan(self, chunk: str) -> Plan | None:
        """Return the plan of a chunk; ``None`` if there is none that is believed."""
        try:
            data = self._storage.get(self._keys.page(chunk, 0), limit=PAGE_LIMIT)
            if self._secret is None:
                plan = Plan.decode(data)
                return plan if (plan.callset_id, plan.chunk) == (self._callset_id, chunk) else None
            return Plan.verify(data, self._secret, self._callset_id, chunk)
        except (StorageNoSuchKeyError, IntegrityError, DecodeError):
            return None

    def pages(self, chunk: str, numbers: Iterable[int]) -> Iterator[tuple[Page | None, str]]:
        """Yield the pages of a journal that were listed, and their digests, up to one that is not believed."""
        listed = set(numbers)
        number = 1
        while number in listed:
            try:
                data = self._storage.get(self._keys.page(chunk, number), limit=PAGE_LIMIT)
                page = self._page(data, chunk, number)
            except (StorageNoSuchKeyError, IntegrityError, DecodeError):
                yield None, ""
                return
            yield page, sha256(data)
            number += 1

    def _page(self, data: bytes, chunk: str, number: int) -> Page:
        key = self._keys.page(chunk, number)
        if self._secret is not None:
            return Page.verify(data, self._secret, self._callset_id, chunk, number, key)
        page = Page.decode(data)
        if (page.callset_id, page.chunk, page.number) != (self._callset_id, chunk, number):
            raise IntegrityError(f"the page {key} belongs to another journal")
        # As the attempts tell, since no signature was looked at.
        clients = bool(page.statuses) and all(one.attempt == CLIENT_ATTEMPT for one in page.statuses)
        return replace(page, by_client=clients)


def by_chunk(pages: Iterable[tuple[str, int]]) -> dict[str, set[int]]:
    """Return the numbers of listed pages by the names of their chunks."""
    numbers: dict[str, set[int]] = {}
    for chunk, number in pages:
        numbers.setdefault(chunk, set()).add(number)
    return numbers


def find(storage: Storage, callset_id: str, call_id: str, secret: bytes | None = None) -> Found | None:
    """Return the status with which a page has ended a call; ``None`` if no journal says that it has ended.

    Args:
        storage: where the callset is.
        callset_id: the callset.
        call_id: the call.
        secret: the callset's secret; ``None`` to read without checking who has written what.

    Raises:
        StorageError: the storage cannot be read.
    """
    journals = _Journals(storage, callset_id, secret)
    listed = journals.listed()
    for chunk in _nearest_first(listed, call_id):
        plan = journals.plan(chunk)
        if plan is None or call_id not in plan.attempts:
            continue
        journal, found, digest, endorsed = Journal(plan), None, "", False
        for page, read in journals.pages(chunk, listed[chunk]):
            if page is not None and page.by_client and page.last:
                endorsed = digest in page.believed
            journal.add(page)
            if found is None and call_id in journal.outcomes and page is not None:
                found, digest = Found(journal.outcomes[call_id], chunk, page.by_client, endorsed=False), read
        if found is not None:
            return found._replace(endorsed=endorsed)
    return None


def ended_in_chunks(storage: Storage, callset_id: str, pages: Iterable[tuple[str, int]]) -> set[str]:
    """Return the calls of a callset that have ended according to the journals, without checking who has written them.

    Args:
        storage: where the callset is.
        callset_id: the callset.
        pages: the pages that a listing has shown.

    Raises:
        StorageError: the storage cannot be read.
    """
    journals = _Journals(storage, callset_id, None)
    ended: set[str] = set()
    for chunk, numbers in by_chunk(pages).items():
        plan = journals.plan(chunk) if len(numbers) > 1 else None  # page 0 alone says of no call that it has ended
        if plan is None:
            continue
        journal = Journal(plan)
        for page, _ in journals.pages(chunk, numbers):
            journal.add(page)
        ended.update(journal.outcomes)
    return ended


def end_in_chunk(storage: Storage, secret: bytes, status: Status) -> bool:
    """End a call by a status in the journal of the chunk that it is in. Return whether a journal has ended the call.

    Args:
        storage: where the callset is.
        secret: the callset's secret.
        status: the status of a client.

    Raises:
        StorageError: the storage cannot be read or written.
    """
    call_id = status.call_id
    journals = _Journals(storage, status.callset_id, secret)
    listed = journals.listed()
    for chunk in _nearest_first(listed, call_id):
        plan = journals.plan(chunk)
        if plan is None or call_id not in plan.attempts:
            continue
        journal = Journal(plan)
        for page, _ in journals.pages(chunk, listed[chunk]):
            journal.add(page)
        if write_mark(storage, secret, journal, [status]) or call_id in journal.outcomes:
            return True
    return False


def write_mark(storage: Storage, secret: bytes, journal: Journal, statuses: Sequence[Status]) -> list[str]:
    """End calls of a chunk, unless its journal says already what became of them. Return which calls have ended by it.

    Args:
        storage: where the callset is.
        secret: the callset's secret.
        journal: the journal, as far as it was read; a branch of its own, as pages are added that stand in the way.
        statuses: the statuses that end the calls.

    Raises:
        StorageError: the storage cannot be read or written.
    """
    plan = journal.plan
    keys = storage.keys(plan.callset_id)
    while not journal.ended:
        left = [one for one in statuses if journal.is_missing(one.call_id)]
        if not left:
            return []
        key, number = keys.page(plan.chunk, journal.number), journal.number
        data = Page(plan.callset_id, plan.chunk, number, left).encode(mark_key(secret, plan.chunk))
        # The storage decides the race with the worker: what the first page says of a call counts.
        if storage.put(key, data, if_absent=True):
            return [one.call_id for one in left]
        try:
            there = storage.get(key, limit=PAGE_LIMIT)
            if there == data:  # the answer to the first request was lost, and botocore has sent it again
                return [one.call_id for one in left]
            journal.add(Page.verify(there, secret, plan.callset_id, plan.chunk, number, key))
        except (IntegrityError, DecodeError):
            journal.add(None)
    return []


def _nearest_first(chunks: Mapping[str, object], call_id: str) -> list[str]:
    """Return the chunks in the order in which they probably contain a call: those before it, the nearest first."""
    firsts = {chunk: chunk.rpartition(".")[0] for chunk in chunks}
    before = [chunk for chunk in chunks if firsts[chunk] <= call_id]
    after = [chunk for chunk in chunks if firsts[chunk] > call_id]
    return sorted(before, key=firsts.__getitem__, reverse=True) + after
