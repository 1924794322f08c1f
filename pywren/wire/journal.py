"""``Plan`` and ``Page``: the pages of the journal of a chunk, which say what became of its calls.

``docs/chunks.md`` says who writes which page, and which of them count. ``Journal`` applies these rules to the pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pywren.exceptions import DecodeError, IntegrityError
from pywren.wire.digests import chunk_key, mark_key
from pywren.wire.reading import Reader, dump, load_object
from pywren.wire.signed import is_signed, opened, sign
from pywren.wire.status import CLIENT_ATTEMPT, Status

PAGE_LIMIT = 8 * 1024 * 1024
"""The largest page, in bytes: one that was full is written at once, and then contains at most one more status."""

FULL_PAGE = 1024 * 1024
"""The size, in bytes of its statuses, from which on a page is written at once."""


@dataclass(frozen=True)
class Plan:
    """The calls of a chunk: page 0 of its journal, by the client that invokes it.

    Args:
        callset_id: the callset.
        chunk: the name of the chunk.
        attempts: the number of the attempt of each call, keyed by the call's id, in the order in which they run.
    """

    callset_id: str
    chunk: str
    attempts: Mapping[str, int]

    def encode(self, secret: bytes) -> bytes:
        """Return page 0, signed with the callset's secret."""
        document = {"callset_id": self.callset_id, "chunk": self.chunk, "calls": list(self.attempts.items())}
        return sign(dump(document), mark_key(secret, self.chunk), _PLAN)

    @classmethod
    def verify(cls, data: bytes, secret: bytes, callset_id: str, chunk: str) -> Plan:
        """Read page 0 of the journal of a chunk.

        Raises:
            IntegrityError: no client of this user has written it there.
            DecodeError: it is not a plan of this version.
        """
        refusal = f"the plan of chunk {chunk} of callset {callset_id} was not written by the client of these calls"
        plan = cls._of(opened(data, mark_key(secret, chunk), _PLAN, "the plan", refusal))
        if (plan.callset_id, plan.chunk) != (callset_id, chunk):
            raise IntegrityError(refusal)
        return plan

    @classmethod
    def decode(cls, data: bytes) -> Plan:
        """Read page 0 without checking its signature: what it says must not be believed.

        Raises:
            DecodeError: the bytes are not a plan.
        """
        return cls._of(Reader("the plan", load_object(data, "the plan")))

    @classmethod
    def _of(cls, reader: Reader) -> Plan:
        attempts: dict[str, int] = {}
        for item in reader.take("calls", list):
            if not isinstance(item, list) or len(item) != 2 or type(item[0]) is not str or type(item[1]) is not int:
                raise DecodeError("the plan: a call is not a pair of its id and its attempt")
            attempts[item[0]] = item[1]
        return cls(reader.take("callset_id", str), reader.take("chunk", str), attempts)


@dataclass(frozen=True)
class Page:
    """A page of a journal after the first.

    Args:
        callset_id: the callset.
        chunk: the name of the chunk.
        number: the number of the page, from 1.
        statuses: what became of calls.
        reports: the ids of those calls among them whose attempt has failed, and may be followed by another.
        last: whether the journal ends with this page.
        running: the id of the call that ran when the page was written; ``None`` if none did, or if a client writes.
        believed: in the page with which a client ends a journal, the SHA-256 of each page that it has believed before.
        by_client: whether a client has written it. Only ``verify`` sets it.
    """

    callset_id: str
    chunk: str
    number: int
    statuses: Sequence[Status] = ()
    reports: frozenset[str] = frozenset()
    last: bool = False
    running: str | None = None
    believed: Sequence[str] = ()
    by_client: bool = field(default=False, compare=False)

    def encode(self, key: bytes) -> bytes:
        """Return the page, signed with the key of the chunk, or with that of a client's marks."""
        shared, calls = _factored([status.members() for status in self.statuses])
        document: dict[str, Any] = {"callset_id": self.callset_id, "chunk": self.chunk, "number": self.number}
        optional = {
            "last": self.last,
            "running": self.running,
            "believed": list(self.believed),
            "reports": sorted(self.reports),
            "shared": shared,
            "calls": calls,
        }
        document.update((name, value) for name, value in optional.items() if value)
        return sign(dump(document), key, _PAGE)

    @classmethod
    def decode(cls, data: bytes) -> Page:
        """Read a page without checking its signature: what it says must not be believed.

        Raises:
            DecodeError: the bytes are not a page.
        """
        return cls._of(data)

    @classmethod
    def _of(cls, data: bytes, key: str | None = None, *, signed: bool = False, by_client: bool = False) -> Page:
        reader = Reader("the page", load_object(data, "the page"))
        shared = reader.take("shared", dict, {})
        calls = reader.take("calls", list, [])
        if not all(isinstance(one, dict) for one in calls):
            raise DecodeError("the page: a member of 'calls' is not an object")
        return cls(
            callset_id=reader.take("callset_id", str),
            chunk=reader.take("chunk", str),
            number=reader.take("number", int),
            statuses=tuple(Status.of_members({**shared, **one}, page=key, signed=signed) for one in calls),
            reports=frozenset(_texts(reader, "reports")),
            last=reader.take("last", bool, False),
            running=reader.take("running", str, None),
            believed=_texts(reader, "believed"),
            by_client=by_client,
        )

    @classmethod
    def verify(
        cls, data: bytes, secret: bytes, callset_id: str, chunk: str, number: int, key: str | None = None
    ) -> Page:
        """Read a page, and check that the worker of the chunk or a client of its calls has written it there.

        Args:
            data: the bytes of the object.
            secret: the callset's secret.
            callset_id: the callset of the expected page.
            chunk: the chunk of the expected page.
            number: the number of the expected page.
            key: the key of the object, for ``Status.page``.

        Raises:
            IntegrityError: nobody who may has written it there.
            DecodeError: it is signed, and not a page of this version.
        """
        # Nearly all pages are a worker's, and may be long: so its key is tried first.
        by_worker = is_signed(data, chunk_key(secret, chunk), _PAGE)
        if by_worker or is_signed(data, mark_key(secret, chunk), _PAGE):
            page = cls._of(data, key, signed=True, by_client=not by_worker)
            if (page.callset_id, page.chunk, page.number) == (callset_id, chunk, number):
                return page
        raise IntegrityError(
            f"page {number} of the journal of chunk {chunk} of callset {callset_id} is ignored: something other than "
            "the worker of the chunk or the client of its calls wrote it"
        )


class Journal:
    """What the pages of one journal say, read one after the other.

    Args:
        plan: page 0.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.number = 1
        """The number of the page to read next."""
        self.ended = False
        """Whether nothing that follows counts."""
        self.outcomes: dict[str, Status] = {}
        """The statuses that have ended calls, by the ids of the calls."""
        self.reports: dict[str, Status] = {}
        """Those of attempts that have failed, and may be followed by another."""
        self._missing = dict(plan.attempts)

    def missing(self) -> list[str]:
        """Return the calls of which no page says what became of them, in the order in which they run."""
        return list(self._missing)

    def is_missing(self, call_id: str) -> bool:
        """Tell whether no page says what became of a call of the chunk."""
        return call_id in self._missing

    def branch(self) -> Journal:
        """Return a journal that knows which pages were read and which calls are missing, but not what was said."""
        branch = Journal(self.plan)
        branch.number, branch.ended, branch._missing = self.number, self.ended, dict(self._missing)
        return branch

    def add(self, page: Page | None) -> list[Status]:
        """Add the next page, and return the statuses of the calls that it has decided about.

        Args:
            page: the page, verified; ``None`` if what stands there is not believed, which ends the journal.
        """
        self.number += 1
        if self.ended or page is None:
            self.ended = True
            return []
        found = []
        for status in page.statuses:
            call_id = status.call_id
            attempt = CLIENT_ATTEMPT if page.by_client else self.plan.attempts.get(call_id)
            # The first page counts, and each writer speaks only of what is its own.
            if call_id not in self._missing or status.attempt != attempt:
                continue
            del self._missing[call_id]
            (self.reports if call_id in page.reports else self.outcomes)[call_id] = status
            found.append(status)
        self.ended = page.last or not self._missing
        return found


def _factored(documents: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the members that several objects share, and the rest of each."""
    if len(documents) < 2:
        return {}, documents
    shared = {
        name: value
        for name, value in documents[0].items()
        if name != "call_id" and all(name in one and one[name] == value for one in documents)
    }
    return shared, [{name: value for name, value in one.items() if name not in shared} for one in documents]


def _texts(reader: Reader, name: str) -> tuple[str, ...]:
    texts = reader.take(name, list, [])
    if not all(isinstance(text, str) for text in texts):
        raise DecodeError(f"{reader.what}: {name!r} is not a list of strings")
    return tuple(texts)


_PLAN, _PAGE = "plan:", "page:"
