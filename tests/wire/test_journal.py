"""``Plan``, ``Page`` and ``Journal``: what the journal of a chunk says, and whom it believes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_values import CALLSET, SECRET, hostile_bytes, json_values

from pywren.exceptions import DecodeError, IntegrityError
from pywren.wire.cause import Cause
from pywren.wire.digests import chunk_key, mark_key
from pywren.wire.failure import Failure
from pywren.wire.journal import Journal, Page, Plan
from pywren.wire.signed import sign
from pywren.wire.status import CLIENT_ATTEMPT, Status

NAME = "00003.2"
PLAN = Plan(CALLSET, NAME, {"00003": 2, "00004": 1, "00005": 1})
WORKER, CLIENT = chunk_key(SECRET, NAME), mark_key(SECRET, NAME)


def status(call_id: str, attempt: int | None = None, **changes: Any) -> Status:
    """Return a status by the worker of the chunk."""
    number = PLAN.attempts[call_id] if attempt is None else attempt
    info = {"start_time": 1.0, "stdout": "out " + call_id, "server_info": {"uname": "x" * 100}}
    return replace(Status(CALLSET, call_id, number, outcome=b"value", info=info), **changes)


def cancelled(call_id: str) -> Status:
    """Return the status by which a client ends a call."""
    failure = Failure("CallCancelledError", "the call was cancelled", cause=Cause.CANCELLED)
    return Status(CALLSET, call_id, CLIENT_ATTEMPT, failure)


def page(number: int, *statuses: Status, **changes: Any) -> Page:
    return Page(CALLSET, NAME, number, statuses, **changes)


def verify(data: bytes, number: int = 1, name: str = NAME) -> Page:
    """Read a page as the client does."""
    return Page.verify(data, SECRET, CALLSET, name, number)


def read(*pages: Page) -> Journal:
    """Read the pages of the worker."""
    journal = Journal(PLAN)
    for one in pages:
        journal.add(verify(one.encode(WORKER), one.number))
    return journal


PAGE = page(1, status("00003"), status("00004"), reports=frozenset({"00004"}), running="00005")


def test_a_plan_survives_its_encoding() -> None:
    """The calls stay in the order in which they run."""
    read_plan = Plan.verify(PLAN.encode(SECRET), SECRET, CALLSET, NAME)
    assert read_plan == PLAN
    assert list(read_plan.attempts) == list(PLAN.attempts)


def test_a_page_survives_its_encoding() -> None:
    """Statuses come back as from ``status.json``, and signed."""
    assert [one.signed for one in verify(PAGE.encode(WORKER)).statuses] == [True, True]
    unsigned = Page.decode(PAGE.encode(WORKER))
    assert replace(unsigned, statuses=[replace(one, info={}) for one in unsigned.statuses]) == replace(
        PAGE, statuses=[replace(one, info={}) for one in PAGE.statuses]
    )
    for before, after in zip(PAGE.statuses, unsigned.statuses, strict=True):
        assert after == Status.decode(before.encode(None))


def test_what_statuses_share_is_there_once() -> None:
    """Most of a status says where its worker ran."""
    assert PAGE.encode(WORKER).count(b"x" * 100) == 1


def test_who_has_written_a_page() -> None:
    """Its key tells."""
    assert not verify(page(1).encode(WORKER)).by_client
    assert verify(page(1).encode(CLIENT)).by_client


@given(data=hostile_bytes)
def test_what_is_no_page_is_refused(data: bytes) -> None:
    """Anyone who can write to the storage may write anything."""
    with pytest.raises(IntegrityError, match=r"page 1 of the journal of chunk 00003\.2"):
        verify(data)
    with pytest.raises(IntegrityError, match="plan of chunk"):
        Plan.verify(data, SECRET, CALLSET, NAME)


def test_a_page_counts_in_its_place_only() -> None:
    """A copy at another number, of another chunk, or with a changed byte is not believed."""
    data = PAGE.encode(WORKER)
    for number, name in ((2, NAME), (1, "00003.1")):
        with pytest.raises(IntegrityError):
            verify(data, number, name)
    for position in range(0, len(data), 7):
        with pytest.raises(IntegrityError):
            verify(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    with pytest.raises(IntegrityError):
        Page.verify(data, SECRET, "another", NAME, 1)


def test_a_plan_is_no_page_and_a_page_no_plan() -> None:
    """Both may be signed with the key of a client, and neither can be passed off as the other."""
    with pytest.raises(IntegrityError):
        verify(PLAN.encode(SECRET))
    with pytest.raises(IntegrityError):
        Plan.verify(page(1).encode(CLIENT), SECRET, CALLSET, NAME)
    with pytest.raises(IntegrityError):  # the worker cannot write the plan
        Plan.verify(sign(PLAN.encode(SECRET)[:-79] + b"}", WORKER, "plan:"), SECRET, CALLSET, NAME)


@given(
    document=st.dictionaries(
        st.sampled_from(["callset_id", "chunk", "number", "calls", "shared", "reports", "last", "believed", "running"]),
        json_values,
    )
)
def test_only_decode_errors(document: dict[str, Any]) -> None:
    """A worker of another version may have signed something that is not a page of this one."""
    body = json.dumps({**document, "x": 1}, separators=(",", ":")).encode()
    for key in (WORKER, CLIENT):
        with pytest.raises((DecodeError, IntegrityError)):
            verify(sign(body, key, "page:"))
        with pytest.raises((DecodeError, IntegrityError)):
            Plan.verify(sign(body, key, "plan:"), SECRET, CALLSET, NAME)


class TestJournal:
    """Which pages count."""

    def test_it_ends_when_nothing_is_missing(self) -> None:
        """Then it needs no last page."""
        journal = read(page(1, status("00003")), page(2, status("00004"), status("00005")))
        assert journal.ended
        assert list(journal.outcomes) == ["00003", "00004", "00005"]

    def test_the_first_page_that_mentions_a_call_counts(self) -> None:
        """The worker was too late for a call that was cancelled, and a client for one that had ended."""
        journal = Journal(PLAN)
        journal.add(verify(page(1, status("00003")).encode(WORKER)))
        journal.add(verify(page(2, cancelled("00003"), cancelled("00004")).encode(CLIENT), 2))
        assert journal.add(verify(page(3, status("00004")).encode(WORKER), 3)) == []
        assert journal.outcomes["00003"].failure is None
        assert journal.outcomes["00004"].failure is not None
        assert journal.missing() == ["00005"]

    def test_nothing_counts_after_the_last_page(self) -> None:
        """What is missing then is free for another invocation."""
        journal = read(page(1, last=True), page(2, status("00003")))
        assert journal.ended
        assert journal.missing() == ["00003", "00004", "00005"]

    def test_garbage_ends_a_journal(self) -> None:
        """For every reader alike, since nobody can tell who has written what follows."""
        journal = read(page(1, status("00003")))
        assert journal.add(None) == []
        journal.add(verify(page(3, status("00004")).encode(WORKER), 3))
        assert journal.ended
        assert journal.missing() == ["00004", "00005"]

    def test_a_page_speaks_for_the_calls_of_the_plan(self) -> None:
        """And for the attempts that it names; a worker cannot speak for a client, nor the other way round."""
        others = status("00009", 1), status("00004", 7), cancelled("00005")
        assert read(page(1, *others)).missing() == list(PLAN.attempts)
        journal = Journal(PLAN)
        journal.add(verify(page(1, status("00003")).encode(CLIENT)))
        assert journal.missing() == list(PLAN.attempts)

    def test_a_report_is_no_outcome(self) -> None:
        """The driver decides what becomes of the call; it is not missing."""
        journal = read(PAGE)
        assert list(journal.reports) == ["00004"]
        assert journal.missing() == ["00005"]
