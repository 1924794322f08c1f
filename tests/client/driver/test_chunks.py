"""``chunk_size``: no map is slower than with one call for each invocation, and most cost less."""

from __future__ import annotations

import math
import random

import pytest
from chunk_simulation import Setting, run
from hypothesis import given, settings
from hypothesis import strategies as st

from pywren.client.driver.chunks import (
    HANDLING,
    LEARNING,
    LEAST_WORK,
    LONG_LEARNING,
    SHORTEST_LIMIT,
    SHORTEST_WAIT,
    WORTH,
    Situation,
    Times,
    Wave,
    chunk_size,
    first_wave,
    time_limit,
)

NOTICED = 0.2
"""Seconds by which the client knows the last outcome later or earlier by chance: it polls every 0.1 s."""

NOTHING_KNOWN = Situation(left=5_000, slots=100, in_flight=0, ended=0, busy=0.0, invoking=0.002)
SHORT = NOTHING_KNOWN._replace(ended=100, busy=0.2)


def of_any_length(least: float, most: float, count: int, seed: int) -> list[float]:
    """Return durations that are spread evenly over the orders of magnitude."""
    rng = random.Random(seed)
    return [math.exp(rng.uniform(math.log(least), math.log(most))) for _ in range(count)]


MAPS = {
    "trivial": [0.001] * 3_000,
    "a tenth of a second": [0.1] * 1_500,
    "a second": [1.0] * 500,
    "longer and longer": sorted(of_any_length(0.01, 1.0, 600, 3)),
    "shorter and shorter": sorted(of_any_length(0.01, 1.0, 600, 4), reverse=True),
    "one of a hundred is long": [1.0 if index % 97 == 0 else 0.01 for index in range(800)],
    "few": [0.01] * 50,
    "one": [0.01],
}


@pytest.mark.parametrize("invoking", [0.0005, 0.003])
@pytest.mark.parametrize("slots", [20, 100, 1_000])
@pytest.mark.parametrize("name", MAPS)
def test_no_map_is_slower_than_with_one_call_an_invocation(name: str, slots: int, invoking: float) -> None:
    """Wall first, whatever the calls are like."""
    setting = Setting(slots=slots, invoking=invoking)
    chunked, alone = run(MAPS[name], setting, None), run(MAPS[name], setting, 1)
    assert chunked.wall <= 1.05 * alone.wall + NOTICED
    assert chunked.invocations <= len(MAPS[name])


@pytest.mark.parametrize("invoking", [0.0005, 0.003])
@pytest.mark.parametrize("slots", [20, 100, 1_000])
@pytest.mark.parametrize("least", [0.01, 0.1])
def test_maps_of_calls_that_differ_a_hundredfold_are_not_slower(least: float, slots: int, invoking: float) -> None:
    """On average: when the longest call begins is a matter of luck, with one call an invocation too."""
    chunked = alone = 0.0
    for seed in range(3):
        durations = of_any_length(least, 100 * least, 400, seed)
        setting = Setting(slots=slots, invoking=invoking)
        chunked += run(durations, setting, None).wall
        alone += run(durations, setting, 1).wall
    assert chunked <= 1.03 * alone + 3 * NOTICED


@pytest.mark.parametrize("long", [0.5, 2.0])
@pytest.mark.parametrize("slots", [8, 1_000])
def test_an_estimate_that_is_wrong_costs_a_moment(slots: int, long: float) -> None:
    """After many short calls come long ones, in chunks that were made for short ones."""
    durations = [0.001] * 1_500 + [long] * 300
    setting = Setting(slots=slots, invoking=0.0005)
    chunked, alone = run(durations, setting, None), run(durations, setting, 1)
    assert chunked.handed_back > 0
    assert chunked.wall <= 1.05 * alone.wall + SHORTEST_LIMIT + 2 * NOTICED


@settings(max_examples=20, deadline=None)
@given(
    durations=st.lists(st.floats(1e-3, 0.1) | st.floats(0.1, 10.0), min_size=1, max_size=100),
    slots=st.sampled_from([1, 3, 20, 1_000]),
    invoking=st.sampled_from([0.0002, 0.002, 0.02]),
    poll=st.sampled_from([0.02, 0.5]),
    cold=st.sampled_from([0.0, 2.0]),
)
def test_any_map_ends_with_each_call_once(
    durations: list[float], slots: int, invoking: float, poll: float, cold: float
) -> None:
    """Whatever is handed back is invoked again, and nothing waits for ever."""
    setting = Setting(slots=slots, invoking=invoking, poll=poll, cold=cold)
    result = run(durations, setting, None)
    assert sum(result.sizes) == len(durations) + result.handed_back
    # Each wrong estimate costs no more than the longest call and the shortest limit; there is one for each wave.
    alone = run(durations, setting, 1)
    assert result.wall <= 1.5 * alone.wall + 2 * (max(durations) + SHORTEST_LIMIT + poll)


@pytest.mark.parametrize("calls", [3_000, 10_000])
@pytest.mark.parametrize("seconds", [0.001, 0.01])
@pytest.mark.parametrize("cold", [0.0, 0.25])
def test_trivial_calls_take_few_invocations(calls: int, seconds: float, cold: float) -> None:
    """At most one invocation for ten."""
    for invoking in (0.0005, 0.003):
        result = run([seconds] * calls, Setting(invoking=invoking, cold=cold), None)
        assert result.invocations <= calls // 10
        assert result.wall < 3.0


def test_maps_that_the_service_runs_at_once_do_not_wait() -> None:
    """Of others a hundred calls are invoked at first, or all if there are fewer."""
    assert first_wave(1_000, 0, 1_000) == Wave(1_000, math.inf)
    assert first_wave(1_000, 1, 1_000) == first_wave(10**6, 0, 1_000) == Wave(100, LEARNING)
    assert first_wave(500, 0, 20) == Wave(100, LEARNING)
    assert first_wave(30, 0, 20).calls == 30


def test_calls_wait_no_longer_for_which_the_service_has_room() -> None:
    """What it has no room for would wait there; after some time it waits there."""
    assert first_wave(10_000, 0, 1_000, waited=LEARNING) == Wave(1_000, LONG_LEARNING)
    assert first_wave(10_000, 0, 20, waited=LEARNING) == Wave(100, LONG_LEARNING)
    assert first_wave(10_000, 0, 1_000, waited=LONG_LEARNING) == Wave(10_000, math.inf)


def test_calls_wait_for_a_part_of_the_time_that_chunks_might_save() -> None:
    """And never for longer than ``LEARNING``."""
    assert first_wave(1_200, 0, 500, invoking=0.002) == Wave(100, pytest.approx(0.6))
    assert first_wave(1_200, 0, 500, waited=0.7, invoking=0.002) == Wave(1_200, math.inf)
    assert first_wave(1_200, 0, 500, invoking=0.001) == Wave(100, SHORTEST_WAIT)
    assert first_wave(4_000, 0, 500, waited=0.8, invoking=0.001) == Wave(500, pytest.approx(1.0))
    assert first_wave(10**6, 0, 1_000, invoking=0.002).until == LEARNING


def test_calls_of_a_map_that_the_client_invokes_within_a_second_do_not_wait() -> None:
    """Chunks would not save what the wait costs. Only those wait that the service has no room for."""
    assert first_wave(1_000, 0, 500, invoking=0.001) == Wave(100, SHORTEST_WAIT)
    assert first_wave(900, 0, 500, invoking=0.001) == Wave(500, SHORTEST_WAIT)
    assert first_wave(900, 0, 20, invoking=0.001) == Wave(100, SHORTEST_WAIT)


def test_calls_wait_longer_once_short_ones_have_ended() -> None:
    """Soon enough of them will have ended."""
    assert first_wave(1_000, 0, 500, waited=0.6, invoking=0.001, short=True) == Wave(100, LEARNING)


def test_the_first_invocations_have_one_call_each() -> None:
    """Nothing is known of the calls, and chunks might take parallelism from the program."""
    result = run([0.01] * 5_000, Setting(slots=50), None)
    assert result.sizes[:50] == [1] * 50
    assert max(result.sizes) > 1


def test_the_last_chunks_are_small() -> None:
    """At the end nobody waits for one worker."""
    result = run([0.05] * 5_000, Setting(slots=50), None)
    assert max(result.sizes[-40:]) * 0.05 <= LEAST_WORK < max(result.sizes) * 0.05


def test_an_explicit_size_is_kept() -> None:
    """``chunksize=n`` holds for all chunks but the last."""
    result = run([0.01] * 100, Setting(slots=4), 30)
    assert result.sizes == [30, 30, 30, 10]


class TestSizes:
    """Single decisions."""

    def test_calls_are_alone_as_long_as_nothing_is_known(self) -> None:
        """They may take hours."""
        assert chunk_size(NOTHING_KNOWN._replace(in_flight=10_000)) == 1

    def test_long_calls_are_alone(self) -> None:
        """A call of some seconds is worth an invocation."""
        assert chunk_size(SHORT._replace(busy=100 * 2 * WORTH)) == 1
        assert chunk_size(SHORT._replace(left=10**6, busy=100 * 2 * WORTH)) == 1

    def test_calls_that_the_service_runs_all_at_once_are_alone(self) -> None:
        """Unless they are shorter than an invocation."""
        now = NOTHING_KNOWN._replace(left=500, slots=1_000, in_flight=300, ended=10, invoking=0.01)
        assert chunk_size(now._replace(busy=10 * 0.1)) == 1
        assert chunk_size(now._replace(busy=10 * 0.001)) > 1

    def test_a_slow_client_makes_large_chunks(self) -> None:
        """The slower it invokes, the fewer invocations there are."""
        sizes = [chunk_size(SHORT._replace(invoking=seconds)) for seconds in (0.002, 0.02, 0.2)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]

    def test_calls_that_take_no_time_by_their_clock(self) -> None:
        """A chunk still has an end."""
        assert 1 < chunk_size(SHORT._replace(busy=0.0)) <= SHORT.left

    def test_a_chunk_has_some_work(self) -> None:
        """Also the last one; unless chunks save less time than a wrong estimate costs."""
        last = SHORT._replace(left=50, slots=1_000, busy=100 * 0.01, invoking=0.0005)
        assert chunk_size(last._replace(calls=3_000)) == pytest.approx(LEAST_WORK / 0.01)
        assert chunk_size(last._replace(calls=500)) == 2
        assert chunk_size(last._replace(calls=3_000, busy=100 * 0.04)) == int(LEAST_WORK / 0.04)

    def test_chunks_end_together(self) -> None:
        """One that is invoked later is shorter, by what a worker runs meanwhile."""
        now, sizes = SHORT._replace(left=9_900, slots=1_000, busy=100 * 0.005, invoking=0.001), []
        while now.left > 1_000:
            sizes.append(chunk_size(now))
            now = now._replace(left=now.left - sizes[-1])
        ends = [0.001 * index + 0.005 * size for index, size in enumerate(sizes)]
        assert max(ends) - min(ends) < 0.01

    def test_what_was_handed_back_is_alone_where_the_service_has_room(self) -> None:
        """Calls are longer than expected."""
        now = SHORT._replace(left=500, slots=1_000, calls=3_000)
        assert chunk_size(now) > 1
        assert chunk_size(now._replace(again=True)) == 1
        assert chunk_size(now._replace(again=True, slots=100)) > 1

    def test_in_doubt_a_call_is_alone_that_the_service_could_run(self) -> None:
        """Chunks would save little there; where they save more than a wrong estimate costs, the doubt is no reason."""
        now = NOTHING_KNOWN._replace(left=500, slots=1_000, ended=10, busy=10 * 0.001)
        assert chunk_size(now) > 1
        assert chunk_size(now._replace(doubtful=1.0)) == chunk_size(now._replace(doubtful=1.0, calls=200)) == 1
        assert chunk_size(now._replace(doubtful=1.0, calls=3_000)) > 1
        assert chunk_size(now._replace(doubtful=1.0, slots=100)) == chunk_size(now._replace(slots=100)) > 1

    @given(
        now=st.builds(
            Situation,
            left=st.integers(1, 10**7),
            slots=st.integers(0, 10**5),
            in_flight=st.integers(0, 10**5),
            ended=st.integers(0, 10**7),
            busy=st.floats(0, 1e300),
            invoking=st.floats(0, 10),
            doubtful=st.floats(0, 1e300),
            calls=st.integers(0, 10**7),
            again=st.booleans(),
        )
    )
    def test_every_size_is_possible(self, now: Situation) -> None:
        """Whatever is known, a chunk has a call at least, and no more than there are."""
        size = chunk_size(now)
        assert 1 <= size <= now.left
        assert time_limit(size, 1.0) >= SHORTEST_LIMIT


class TestTimes:
    """What is known of the calls, and of the client."""

    def test_a_call_takes_no_less_than_its_handling(self) -> None:
        """The clocks of workers may be wrong, and what they report may be anything."""
        times = Times()
        for seconds in (-5.0, 0.0, 1.0):
            times.add(seconds)
        assert times.ended == pytest.approx(3, rel=0.01)
        assert times.busy == pytest.approx(1.0 + 2 * HANDLING, rel=0.01)

    def test_a_slow_start_is_no_long_call(self) -> None:
        """Where starts differ, a call counts as one that runs only when nearly all others would have begun."""
        times = Times()
        for index in range(200):
            times.add(0.1, 0.1 + (0.3, 0.7)[index % 2])
        assert times.latency == pytest.approx(0.5, abs=0.02)
        assert times.so_far(1.0, 0.0, math.nan) == (0.0, pytest.approx(0.5, abs=0.02))
        sure, likely = times.so_far(5.0, 0.0, math.nan)
        assert sure == pytest.approx(3.5, abs=0.05)
        assert likely == pytest.approx(4.5, abs=0.05)
        assert times.so_far(5.0, 0.0, 4.0) == (1.0, 1.0)  # it has shown when it ran
        times.review([(1.0, 1.5), (0.0, 0.5)])
        assert (times.unfinished, times.doubtful) == (1.0, 1.0)

    def test_what_one_look_finds_is_no_narrow_sample(self) -> None:
        """The quickest starts are seen first, and differ little: that does not show that all others have begun."""
        times = Times()
        for _ in range(20):
            times.add(0.001, 0.5)
        assert times.so_far(1.4, 0.0, math.nan) == (0.0, pytest.approx(0.9, abs=0.01))
        assert times.so_far(2.0, 0.0, math.nan)[0] == pytest.approx(0.5, abs=0.01)

    def test_each_end_counts_for_the_latency(self) -> None:
        """A look finds ends in the order of their invocations: the first were invoked long before the last."""
        times = Times()
        for index in range(100):
            times.add(0.001, 1.001 - index * 0.005)
        assert times.latency == pytest.approx(0.75, abs=0.01)

    def test_an_invocation_takes_what_lies_between_two_answers(self) -> None:
        """Except where the client had nothing to invoke."""
        times = Times()
        for now in (10.0, 10.01, 20.0, 20.01):
            times.accepted(now)
        assert times.invoking == pytest.approx(0.01)
        times.idle(True)
        for now in (20.06, 20.12):  # of other threads, which began before
            times.accepted(now)
        times.idle(False)
        times.accepted(20.07)
        assert times.invoking == pytest.approx(0.01)
        for index in range(100):
            times.accepted(20.07 + index * 0.002)
        assert times.invoking == pytest.approx(0.002, rel=0.1)


def test_the_time_limit_leaves_room_for_differences() -> None:
    """A chunk may take twice as long as expected, and never less than half a second."""
    assert time_limit(20, 0.1) == pytest.approx(4.0)
    assert time_limit(100, 0.001) == SHORTEST_LIMIT
