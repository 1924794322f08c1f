"""``Tally`` and ``Counters``: counting, subtracting, sending and showing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pywren.testing.emulator import _counters
from pywren.testing.emulator._counters import Counters, Execution, Executions, RequestKind, Tally, Traffic

PUT = RequestKind("function:f", "s3", "PutObject")
LIST = RequestKind("client", "s3", "ListObjectsV2")
ENDED = Execution("f", "id", 1, True, 100.5, 101, 50.0, 70, "ok")


@pytest.fixture
def tally() -> Tally:
    """Return the tally of a small run."""
    tally = Tally()
    for key in "ab":
        tally.request(PUT, status=200, bytes_in=10, bytes_out=0, action=("s3:PutObject", f"arn:aws:s3:::b/{key}", ""))
    tally.request(PUT, status=412, bytes_in=10, bytes_out=300, action=("s3:PutObject", "arn:aws:s3:::b/a", ""))
    tally.request(LIST, status=200, bytes_in=0, bytes_out=2_000, action=("s3:ListBucket", "arn:aws:s3:::b", "p/"))
    tally.event("f", "accepted", 3)
    tally.event("f", "waiting")
    tally.execution(ENDED, memory_mb=2048, at_once=2)
    tally.execution(replace(ENDED, cold=False, outcome="timeout", billed_ms=899), memory_mb=2048, at_once=1)
    tally.fault("drop_event")
    return tally


def test_requests_are_counted_by_kind(tally: Tally) -> None:
    """Each kind has the number of requests, the number refused, and the bytes in each direction."""
    assert tally.snapshot().traffic == {PUT: Traffic(3, 1, 30, 300), LIST: Traffic(1, 0, 0, 2_000)}


def test_kinds_can_be_summed(tally: Tally) -> None:
    """They are summed by caller, service and operation; ``function`` stands for every function."""
    counters = tally.snapshot()
    assert counters.count().requests == 4
    assert counters.count(caller="function") == counters.count(caller="function:f") == Traffic(3, 1, 30, 300)
    assert counters.count(caller="client", operation="ListObjectsV2").bytes_out == 2_000
    assert counters.count(service="sqs") == counters.count(caller="function:g") == Traffic()


def test_executions_are_counted_by_function(tally: Tally) -> None:
    """All failed executions are errors; GB-seconds are memory times billed time."""
    ran = tally.snapshot().executions["f"]
    assert (ran.invocations, ran.errors, ran.cold_starts, ran.billed_ms, ran.most_at_once) == (2, 1, 1, 1000, 2)
    assert ran.gb_seconds == pytest.approx(2.0)
    assert (ran.accepted, ran.waiting) == (3, 1)


def test_actions_are_kept_once_each(tally: Tally) -> None:
    """An action is what a policy must allow: caller, action, resource, and the prefix of listings."""
    assert tally.snapshot().actions == {
        ("function:f", "s3:PutObject", "arn:aws:s3:::b/a", ""),
        ("function:f", "s3:PutObject", "arn:aws:s3:::b/b", ""),
        ("client", "s3:ListBucket", "arn:aws:s3:::b", "p/"),
    }


def test_an_unknown_event_is_a_mistake(tally: Tally) -> None:
    """A misspelt field is an error instead of a new counter."""
    with pytest.raises(KeyError):
        tally.event("f", "trottles")


def test_a_difference_is_what_happened_in_between(tally: Tally) -> None:
    """It has only the counters that grew; states (waiting, most at once) have their current values."""
    before = tally.snapshot()
    assert (before - before).traffic == (before - before).faults == {}
    tally.request(LIST, status=200, bytes_in=0, bytes_out=5, action=("s3:ListBucket", "arn:aws:s3:::b", "q/"))
    tally.execution(ENDED, memory_mb=1024, at_once=1)
    tally.fault("drop_event")
    grown = tally.snapshot() - before
    assert grown.traffic == {LIST: Traffic(1, 0, 0, 5)}
    assert grown.executions["f"].gb_seconds == pytest.approx(0.101)
    assert replace(grown.executions["f"], gb_seconds=0) == Executions(
        invocations=1, cold_starts=1, billed_ms=101, most_at_once=2, waiting=1
    )
    assert grown.faults == {"drop_event": 1}
    assert grown.actions == {("client", "s3:ListBucket", "arn:aws:s3:::b", "q/")}


def test_a_snapshot_does_not_change(tally: Tally) -> None:
    """Later events do not change it."""
    before = tally.snapshot()
    tally.request(PUT, status=200, bytes_in=1, bytes_out=1, action=None)
    tally.event("f", "accepted")
    tally.fault("drop_event")
    assert (before.count(operation="PutObject").requests, before.executions["f"].accepted) == (3, 3)
    assert before.faults == {"drop_event": 1}


def test_counters_cross_as_json(tally: Tally) -> None:
    """Counters and executions survive being encoded as JSON."""
    counters = tally.snapshot()
    assert Counters.decode(json.loads(json.dumps(counters.encode()))) == counters
    assert Execution.decode(json.loads(json.dumps(ENDED.encode()))) == ENDED


def test_the_last_executions_are_kept(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are listed oldest first, and their number is limited."""
    assert [execution.outcome for execution in tally.executions()] == ["ok", "timeout"]
    monkeypatch.setattr(_counters, "_KEPT_EXECUTIONS", 2)
    short = Tally()
    for number in range(5):
        short.execution(replace(ENDED, request_id=str(number)), memory_mb=128, at_once=1)
    assert [execution.request_id for execution in short.executions()] == ["3", "4"]


def test_the_table(tally: Tally) -> None:
    """The table printed at the end of a run is as expected."""
    tally.event("f", "waiting", -1)
    assert str(tally.snapshot()) == (
        "caller      service  operation      requests  refused    in     out\n"
        "client      s3       ListObjectsV2         1        0   0 B  2.0 kB\n"
        "function:f  s3       PutObject             3        1  30 B   300 B\n"
        "\n"
        "function  invocations  errors  cold  throttled  at once  billed ms   GB-s\n"
        "f                   2       1     1          0        2      1,000  2.000\n"
        "\n"
        "fault       struck\n"
        "drop_event       1"
    )


def test_what_is_in_no_table_yet(tally: Tally) -> None:
    """Running executions and waiting events are listed beside the table."""
    assert "still run" not in str(Counters())
    tally.event("f", "running", 2)
    tally.event("g", "waiting", 3)
    assert str(tally.snapshot()).endswith("\n\nnot counted yet: 2 running executions and 4 waiting events")


def test_the_table_of_nothing() -> None:
    """A run without requests says so."""
    assert str(Counters()) == "the emulated AWS received no requests"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (2_500_000, "2.5 MB"), (3e9, "3.0 GB"), (4e15, "4,000.0 TB")],
)
def test_sizes(count: int, shown: str) -> None:
    """Sizes are shown in readable units."""
    tally = Tally()
    tally.request(PUT, status=200, bytes_in=int(count), bytes_out=0, action=None)
    assert f" {shown} " in str(tally.snapshot())
