"""``ServiceClock``: the time of a service, even when this machine's clock is wrong."""

from __future__ import annotations

import time

import pytest

from pywren.aws.service_clock import RENEWAL, ServiceClock

DATE, SECONDS = "Mon, 01 Jun 2026 12:00:00 GMT", 1780315200.0


class Clocks:
    """A service's clock as seen from a machine whose own two clocks the test sets."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.own = 5_000_000.0
        self.service = ServiceClock(lambda: self.monotonic, lambda: self.own)


def test_before_the_first_answer_it_is_this_machines() -> None:
    """Before the first answer, the machine's own time is used."""
    clocks = Clocks()
    assert clocks.service.now() == clocks.own
    assert abs(ServiceClock().now() - time.time()) < 60


def test_goes_on_between_answers() -> None:
    """Between answers the monotonic clock counts, so setting this machine's clock has no effect."""
    clocks = Clocks()
    clocks.service.note(DATE)
    clocks.monotonic += 90
    clocks.own -= 1e6
    assert clocks.service.now() == SECONDS + 90


def test_is_set_again_now_and_then() -> None:
    """The date of a later answer is used only once the earlier one is old."""
    clocks = Clocks()
    clocks.service.note(DATE)
    clocks.monotonic += RENEWAL / 2
    clocks.own += RENEWAL / 2
    clocks.service.note("Mon, 01 Jun 2026 13:00:00 GMT")
    assert clocks.service.now() == SECONDS + RENEWAL / 2
    clocks.monotonic += RENEWAL / 2
    clocks.own += RENEWAL / 2
    clocks.service.note("Mon, 01 Jun 2026 13:00:00 GMT")
    assert clocks.service.now() == SECONDS + 3600


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 10.0, 1e8])
def test_after_the_machine_has_slept(jump: float) -> None:
    """Row 223: the monotonic clock stops while the machine sleeps, so the date of the next answer is used at once."""
    clocks = Clocks()
    clocks.service.note(DATE)
    clocks.monotonic += 1
    clocks.own += 1 + jump
    clocks.service.note("Mon, 01 Jun 2026 13:00:01 GMT")
    assert clocks.service.now() == SECONDS + 3601
    clocks.monotonic += 1
    clocks.own += 1
    clocks.service.note("Mon, 01 Jun 2026 14:00:00 GMT")
    assert clocks.service.now() == SECONDS + 3602


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Mon, 99 Jun 2026 12:00:00 GMT", "Mon, 01 Jun 99999 12:00:00 GMT", "1780315200"]
)
def test_what_is_no_date_changes_nothing(date: str | None) -> None:
    """An invalid date is ignored."""
    clocks = Clocks()
    clocks.service.note(date)
    assert clocks.service.now() == clocks.own


@pytest.mark.parametrize("answer", [None, {}, {"ResponseMetadata": {}}, {"ResponseMetadata": {"HTTPHeaders": {}}}])
def test_an_answer_without_a_date_changes_nothing(answer: dict[str, object] | None) -> None:
    """Answers without a date, as from stubs and some servers, are ignored."""
    clocks = Clocks()
    clocks.service.note_answer(parsed=answer, model=None)
    assert clocks.service.now() == clocks.own


@pytest.mark.parametrize("date", [DATE, "Mon, 01 Jun 2026 14:00:00 +0200", "Mon, 01 Jun 2026 12:00:00 -0000"])
def test_every_spelling_of_a_date(date: str) -> None:
    """All date formats are parsed; a date without a zone is in UTC."""
    clocks = Clocks()
    clocks.service.note(date)
    assert clocks.service.now() == SECONDS
