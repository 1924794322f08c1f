"""``room``: how many calls may be in flight."""

from __future__ import annotations

import pytest
from lines import lines_run

from pywren.client.driver.calls import AttemptRecord, CallRecord, Phase
from pywren.client.driver.capacity import Room
from pywren.client.driver.capacity import room as room_of
from pywren.client.driver.policy import Policy
from pywren.client.driver.record import CallsetRecord
from pywren.client.driver.service import Service

SIX_HOURS = 21_600.0
LAMBDA = Policy(event_age=SIX_HOURS, job_max_runtime=900.0)


def accept(record: CallsetRecord, count: int, now: float = 0.0) -> list[CallRecord]:
    """Let the service accept the first calls that are held."""
    calls = []
    for _ in range(count):
        call = record.first_held()
        assert call is not None
        call.attempts += (AttemptRecord(1, sent=now),)
        record.move(call, Phase.SENDING)
        record.move(call, Phase.SENT)
        calls.append(call)
    return calls


def start(record: CallsetRecord, calls: list[CallRecord], now: float) -> None:
    for call in calls:
        record.note_start(call, call.attempts[0], now)
        call.attempts[0].shown = now
        record.move(call, Phase.RUNNING)
    record.service.note_look(record, now)


def end(record: CallsetRecord, calls: list[CallRecord], now: float) -> None:
    for call in calls:
        call.attempts[0].ended = now
        record.note_end(call, call.attempts[0])
        record.move(call, Phase.ENDED)
    record.service.note_look(record, now)


def callset(count: int) -> CallsetRecord:
    return CallsetRecord([f"{index:06d}" for index in range(count)], Service())


def room(record: CallsetRecord, policy: Policy, now: float) -> Room:
    return room_of(record.service, policy, now)


def test_there_is_no_limit_for_a_service_that_keeps_calls_for_ever() -> None:
    found = room(callset(10), Policy(), 0.0)
    assert (found.calls > 1_000_000, found.reason) == (True, "")


def test_the_cap_of_the_user_counts_what_is_sent_and_what_runs() -> None:
    record = callset(20)
    calls = accept(record, 6)
    start(record, calls[:3], 2.0)
    end(record, calls[:1], 3.0)
    found = room(record, Policy(max_concurrency=7), 3.0)
    assert found.calls == 2
    accept(record, 2)
    assert room(record, Policy(max_concurrency=7), 3.0) == (0, "scheduler.max_concurrency is 7")


def test_before_anything_has_started_a_usual_account_is_assumed() -> None:
    record = callset(13_000)
    assert room(record, LAMBDA, 0.0).calls == 12_000  # 1,000 at once, 900 s each, in three hours
    accept(record, 12_000)
    assert room(record, LAMBDA, 0.0).calls == 0


def test_a_small_account_gets_no_more_calls_than_it_starts_in_half_of_their_age() -> None:
    record = callset(10_000)
    calls = accept(record, 300)
    start(record, calls[:10], 2.0)
    found = room(record, LAMBDA, 13.0)
    assert found.calls == 0
    assert found.reason == "the service starts about 40 calls an hour, and forgets calls that have waited for 6 hours"


def test_the_durations_seen_so_far_make_room() -> None:
    record = callset(10_000)
    calls = accept(record, 300)
    start(record, calls[:10], 2.0)
    end(record, calls[:10], 12.0)
    # 10 at once, 12 s each (2 s before they are seen): 9,000 in three hours, of which 290 wait already.
    assert room(record, LAMBDA, 30.0).calls == pytest.approx(9_000 - 290, rel=0.02)


def test_the_concurrency_may_still_rise_in_the_first_ten_seconds() -> None:
    record = callset(10_000)
    start(record, accept(record, 300)[:10], 2.0)
    assert room(record, LAMBDA, 5.0).calls > 10_000


def test_short_calls_are_counted_when_they_end() -> None:
    record = callset(40_000)
    calls = accept(record, 20_000)
    for number, call in enumerate(calls[:2_000]):  # 100 end in a second; none is ever seen to run
        now = number / 100.0
        record.note_start(call, call.attempts[0], now)
        call.attempts[0].ended = now
        record.note_end(call, call.attempts[0])
        record.move(call, Phase.ENDED)
        record.service.note_look(record, now)
    assert room(record, LAMBDA, 20.0).calls > 900_000


def test_one_call_may_always_wait() -> None:
    record = callset(3)
    start(record, accept(record, 1), 2.0)
    policy = LAMBDA._replace(event_age=60.0)
    assert room(record, policy, 100.0).calls == 1
    accept(record, 1)
    assert room(record, policy, 100.0).calls == 0


def test_it_costs_the_same_for_a_hundred_thousand_calls() -> None:
    record = callset(100_000)
    accept(record, 50_000)
    _, count = lines_run("pywren.client", lambda: (room(record, LAMBDA, 1.0), record.first_held()))
    assert 0 < count < 100


def test_a_known_concurrency_limits_what_is_queued_from_the_start() -> None:
    """Row 334: an account that runs ten calls of 280 s at once starts 385 of them in three hours."""
    small = Policy(event_age=SIX_HOURS, job_max_runtime=280.0, concurrency=10)
    record = callset(1000)
    assert room(record, small, 0.0) == Room(385)
    accept(record, 385)
    held = room(record, small, 0.0)
    assert (held.calls, held.reason[:44]) == (0, "the service starts about 129 calls an hour, ")
    assert room(record, small._replace(concurrency=None), 0.0).calls > 1000
