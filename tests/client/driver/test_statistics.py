"""The statistics of a callset, and the stragglers that follow from them."""

from __future__ import annotations

import gc
import math

import pytest
from test_capacity import accept, callset, end, start

from pywren.client.driver.calls import AttemptRecord, Phase
from pywren.client.driver.driver import Driver, Ready
from pywren.client.driver.policy import Policy
from pywren.client.driver.service import Histogram, Service
from pywren.client.driver.stragglers import stragglers


def test_quantiles_are_right_within_a_tenth() -> None:
    histogram = Histogram()
    for number in range(1, 1_001):
        histogram.add(number / 10.0)
    assert histogram.quantile(0.5) == pytest.approx(50.0, rel=0.11)
    assert histogram.quantile(0.95) == pytest.approx(95.0, rel=0.11)
    assert histogram.quantile(1.0) >= 100.0
    assert (histogram.count, histogram.sum) == (1_000, pytest.approx(50_050.0))


def test_quantiles_of_few_numbers() -> None:
    histogram = Histogram()
    assert math.isnan(histogram.quantile(0.5))
    histogram.add(-3.0)  # a clock that was set back
    assert 0.0 < histogram.quantile(0.95) < 0.01
    histogram.add(10.0)
    assert histogram.quantile(0.95) == pytest.approx(10.0, rel=0.11)


def test_the_usual_wait_follows_a_queue_that_grows() -> None:
    record = callset(2_000)
    calls = accept(record, 2_000)
    start(record, calls[:1_000], 1.0)
    assert record.service.usual_wait() == pytest.approx(1.0, rel=0.11)
    start(record, calls[1_000:1_001], 300.0)
    assert record.service.usual_wait() == pytest.approx(300.0, rel=0.11)


def test_cold_starts_are_forgotten_after_two_generations() -> None:
    record = callset(100)
    start(record, accept(record, 20), 15.0)
    for now in (50.0, 90.0, 130.0):
        start(record, accept(record, 10, now - 0.5), now)
    assert record.service.usual_wait() < 1.0


def test_the_concurrency_is_the_most_that_a_look_has_seen() -> None:
    record = callset(30)
    calls = accept(record, 20)
    start(record, calls[:8], 2.0)
    # One look finds eight that have ended and eight others that have started.
    for call in calls[8:16]:
        record.note_start(call, call.attempts[0], 5.0)
    end(record, calls[:8], 5.0)
    assert (record.service.peak, record.service.last_full) == (8, 5.0)


def test_an_attempt_whose_call_has_ended_neither_waits_nor_runs() -> None:
    record = callset(1)
    (call,) = accept(record, 1)
    call.attempts += (AttemptRecord(2, sent=1.0),)
    record.move(call, Phase.SENDING)
    record.move(call, Phase.SENT)
    start(record, [call], 2.0)
    assert (len(record.waiting), len(record.running)) == (1, 1)
    end(record, [call], 3.0)
    record.note_start(call, call.attempts[1], 4.0)
    assert (len(record.waiting), len(record.running)) == (0, 0)


def test_a_callset_that_goes_after_a_look_leaves_nothing_behind() -> None:
    service = Service(lambda: 0.0)
    driver = Driver(["a", "b"], Policy(max_concurrency=2), service=service)
    for name in ("a", "b"):
        assert driver.next_call() == Ready(name, 1)
        driver.accepted(name, 1, "id", 0.0)
    driver.running("a", 1, None, "")
    driver.look()
    driver.decide()
    del driver
    gc.collect()
    service.forget_gone()
    assert (service.outstanding(), len(service.waiting), len(service.running)) == (0, 0, 0)


class TestStragglers:
    def test_none_before_half_of_the_calls_are_done(self) -> None:
        record = callset(10)
        calls = accept(record, 10)
        start(record, calls, 2.0)
        end(record, calls[:4], 5.0)
        assert not stragglers(record, 1_000.0)
        end(record, calls[4:5], 5.0)
        assert list(stragglers(record, 1_000.0)) == calls[5:]

    def test_those_that_take_over_three_times_the_median(self) -> None:
        record = callset(10)
        calls = accept(record, 10)
        start(record, calls, 2.0)
        end(record, calls[:8], 12.0)  # 10 s, and 2 s before that was seen
        assert not stragglers(record, 30.0)
        assert list(stragglers(record, 42.0)) == calls[8:]

    def test_none_that_have_a_backup_or_that_are_held(self) -> None:
        record = callset(4)
        calls = accept(record, 4)
        start(record, calls, 2.0)
        end(record, calls[:2], 3.0)
        calls[2].attempts += (AttemptRecord(2, backup=True),)
        record.hold(calls[3], 0.0)
        assert not stragglers(record, 1_000.0)

    def test_none_that_were_not_seen_to_run(self) -> None:
        record = callset(4)
        calls = accept(record, 4)
        start(record, calls[:2], 2.0)
        end(record, calls[:2], 3.0)
        assert not stragglers(record, 1_000.0)

    def test_none_in_a_callset_of_one(self) -> None:
        record = callset(1)
        start(record, accept(record, 1), 2.0)
        assert not stragglers(record, 1_000.0)
