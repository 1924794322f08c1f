"""The whole driver on traces of a simulated service, in virtual time.

The first table: nothing was lost, so nothing may be repeated, or almost nothing. The second: calls were lost, and every
one of them has to end with its value, soon.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
from lines import lines_run
from simulation import LAMBDA, Client, Service, Trace, World

from pywren.client.driver.driver import Driver, Ready
from pywren.wire.cause import Cause

pytestmark = pytest.mark.thorough


def lasts(seconds: float) -> Callable[[random.Random, int], float]:
    return lambda rng, index: seconds


def varies(least: float, most: float) -> Callable[[random.Random, int], float]:
    return lambda rng, index: math.exp(rng.uniform(math.log(least), math.log(most)))


class Case(NamedTuple):
    calls: int
    service: Service
    client: Client = Client()
    repeats: int = 0  # at most
    seconds: float = math.inf  # until all have ended


IN_ORDER = Service(backs_off=False)
HEALTHY = {
    "warm environments": Case(1_000, Service(warm=1_000)),
    "cold starts of 15 s": Case(1_000, Service(cold=15.0), repeats=1),
    "cold starts of 15 s, long calls": Case(1_000, Service(cold=15.0, duration=lasts(20.0)), repeats=1),
    "cold starts of 15 s beside warm environments": Case(
        1_000, Service(cold=15.0, warm=50, duration=lasts(5.0)), repeats=10
    ),
    "cold starts of 15 s while the client still invokes": Case(
        1_000, Service(cold=15.0, warm=50, duration=lasts(5.0)), Client(sends=20.0), repeats=10
    ),
    "scaling by 1,000 in 10 s": Case(3_000, Service(cold=15.0, concurrency=3_000, duration=lasts(60.0)), repeats=1),
    "a queue of 10,000 at a concurrency of 10": Case(10_000, replace(IN_ORDER, concurrency=10)),
    "a queue of 10,000 calls of 30 s at a concurrency of 10": Case(
        10_000, replace(IN_ORDER, concurrency=10, duration=lasts(30.0)), Client(poll=5.0)
    ),
    "a queue of 10,000 that Lambda puts aside": Case(10_000, Service(concurrency=10)),
    "calls of 20 s that Lambda puts aside": Case(1_000, Service(concurrency=10, duration=lasts(20.0)), repeats=1),
    "calls of 300 s that Lambda puts aside": Case(300, Service(concurrency=10, duration=lasts(300.0)), repeats=2),
    "a first wave of 1,000 calls of 60 s": Case(5_000, Service(duration=lasts(60.0))),
    "a second wave of which some go first": Case(2_500, Service(duration=lasts(60.0))),
    "a first wave in order": Case(5_000, replace(IN_ORDER, duration=lasts(60.0))),
    "events that overtake each other by 50 ms": Case(
        500, replace(IN_ORDER, concurrency=10, jitter=0.05, duration=lasts(100.0)), repeats=5
    ),
    "durations that vary a hundredfold": Case(3_000, Service(concurrency=100, duration=varies(0.5, 50.0))),
    "durations that vary a hundredfold, in order": Case(
        3_000, replace(IN_ORDER, concurrency=100, duration=varies(0.5, 50.0))
    ),
    "durations that vary a hundredfold, all at once": Case(1_000, Service(duration=varies(3.0, 300.0))),
    "workers whose clocks are an hour ahead": Case(1_000, Service(duration=varies(3.0, 300.0), clocks=3_600.0)),
    "workers whose clocks are an hour behind": Case(1_000, Service(duration=varies(0.1, 10.0), clocks=-3_600.0)),
    "a poll every 5 s": Case(3_000, Service(concurrency=100, duration=varies(0.5, 50.0)), Client(poll=5.0)),
    "a client that is suspended for an hour": Case(
        1_000, Service(concurrency=50, duration=varies(1.0, 100.0)), Client(away=((20.0, 3_620.0),))
    ),
    "a client that is suspended while it invokes": Case(
        1_000, Service(concurrency=50, duration=varies(1.0, 100.0)), Client(away=((1.0, 3_601.0),))
    ),
    "a client that is suspended again and again": Case(
        1_000,
        Service(concurrency=50, duration=varies(1.0, 100.0)),
        Client(away=tuple((20.0 + 50 * number, 55.0 + 50 * number) for number in range(40))),
    ),
    "an account that is full for a minute": Case(1_000, Service(concurrency=100, pauses=((0.0, 60.0),)), repeats=8),
    "invocations throttled at random": Case(1_000, Service(throttled=0.2)),
    "a limit of invocations": Case(1_000, Service(rate=50.0)),
}
"""Nothing is lost."""


def outcome(case: Case, seed: int = 0) -> Trace:
    world = World(case.calls, case.service, case.client, seed=seed)
    trace = world.run()
    counts = world.driver.counts()
    assert len(trace.ended) == case.calls, f"{case.calls - len(trace.ended)} calls are pending: {counts}"
    assert not trace.failures
    assert (counts.done, counts.failed) == (case.calls, 0)
    return trace


@pytest.mark.parametrize("name", HEALTHY)
def test_a_service_that_is_merely_slow_gets_no_repeats(name: str) -> None:
    case = HEALTHY[name]
    assert outcome(case).repeats <= case.repeats


@pytest.mark.parametrize("service", [Service(), IN_ORDER], ids=["put aside", "in order"])
@pytest.mark.parametrize("start", [0.0, 20.0])
def test_a_service_that_pauses_for_five_minutes_gets_few_repeats(service: Service, start: float) -> None:
    """Nothing can tell a pause from lost calls. The repeats are bounded, and most of them start at once at the end."""
    paused = replace(service, concurrency=100, duration=lasts(5.0), pauses=((start, start + 300.0),))
    assert outcome(Case(1_000, paused)).repeats <= 100


LOSSY = {
    "5 % dropped": Case(1_000, Service(dropped=0.05), seconds=75.0),
    "5 % dropped, 8 at once": Case(100, Service(dropped=0.05, concurrency=8), seconds=80.0),
    "5 % dropped from a queue": Case(
        2_000, replace(IN_ORDER, dropped=0.05, concurrency=10, duration=lasts(1.0)), seconds=500.0
    ),
    "a lone call": Case(1, Service(drops=frozenset({1})), seconds=12.0),
    "a lone call, twice": Case(1, Service(drops=frozenset({1, 2})), seconds=45.0),
    "one of 100": Case(100, Service(drops=frozenset({57})), seconds=13.0),
    "one of 100 long calls": Case(100, Service(drops=frozenset({57}), duration=lasts(300.0)), seconds=313.0),
    "the first": Case(100, Service(drops=frozenset({1})), seconds=13.0),
    "the last": Case(100, Service(drops=frozenset({100})), seconds=14.0),
    "the last of 100 calls of 30 s": Case(100, Service(drops=frozenset({100}), duration=lasts(30.0)), seconds=75.0),
    "the last ten": Case(100, Service(drops=frozenset(range(91, 101))), seconds=20.0),
    "the first 50 of 100": Case(100, Service(drops=frozenset(range(1, 51))), seconds=20.0),
    "the first 50 of 100 long calls": Case(
        100, Service(drops=frozenset(range(1, 51)), duration=lasts(300.0)), seconds=330.0
    ),
    "all of 50": Case(50, Service(drops=frozenset(range(1, 51))), seconds=25.0),
    "all of 50 long calls": Case(50, Service(drops=frozenset(range(1, 51)), duration=lasts(100.0)), seconds=140.0),
    "10 % killed": Case(1_000, Service(killed=0.1), seconds=40.0),
    "10 % killed without a record": Case(1_000, Service(killed=0.1, records=0.0), seconds=110.0),
    "10 % of long calls killed without a record": Case(
        1_000, Service(killed=0.1, records=0.0, duration=lasts(60.0)), seconds=600.0
    ),
    "5 % doubled": Case(1_000, Service(doubled=0.05), seconds=6.0),
}
"""Attempts are lost."""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LOSSY)
def test_calls_that_the_service_loses_end_with_their_values_in_time(name: str, seed: int) -> None:
    case = LOSSY[name]
    trace = outcome(case, seed)
    assert trace.seconds <= case.seconds


FEW_WORKERS = replace(IN_ORDER, concurrency=8, cold=1.0, duration=lasts(0.2))
MIXED = {
    "put aside": Service(concurrency=100, duration=lasts(1.0)),
    "in order": replace(IN_ORDER, concurrency=100, duration=lasts(1.0)),
    "few workers": FEW_WORKERS,
    "few workers, nearly in order": replace(FEW_WORKERS, jitter=1.0),
}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", MIXED)
def test_every_mix_of_faults_ends_in_three_times_the_time_without_faults_and_a_minute(name: str, seed: int) -> None:
    client = Client(poll=1.0)
    without = outcome(Case(1_000, MIXED[name], client), seed).seconds
    faulty = replace(MIXED[name], killed=0.1, dropped=0.05, doubled=0.05, throttled=0.2)
    assert outcome(Case(1_000, faulty, client), seed).seconds <= 3.0 * without + 60.0


@pytest.mark.parametrize("seed", range(30))
def test_calls_end_whatever_the_service_is_like(seed: int) -> None:
    """A property: every call ends with its value, on services that are made up at random."""
    rng = random.Random(seed)
    least = rng.choice([0.05, 0.5, 5.0, 50.0])
    service = Service(
        concurrency=rng.choice([1, 10, 100, 1_000]),
        cold=rng.choice([0.1, 3.0, 15.0]),
        warm=0,
        duration=varies(least, least * rng.choice([1.1, 10.0])),
        backs_off=rng.random() < 0.5,
        jitter=rng.choice([0.0, 0.05, 1.0]),
        dropped=rng.choice([0.0, 0.05, 0.3]),
        doubled=rng.choice([0.0, 0.05]),
        killed=rng.choice([0.0, 0.1]),
        records=rng.choice([0.0, 0.5, 1.0]),
        throttled=rng.choice([0.0, 0.2]),
        clocks=rng.choice([-3_600.0, 0.0, 3_600.0]),
    )
    client = Client(sends=rng.choice([20.0, 300.0]), poll=rng.choice([0.1, 1.0, 5.0]))
    outcome(Case(rng.choice([1, 7, 60]), service, client), seed)


def test_a_hundred_thousand_calls_at_a_concurrency_of_a_thousand() -> None:
    service = replace(IN_ORDER, duration=lasts(5.0))
    assert outcome(Case(100_000, service, Client(sends=1_000.0, poll=1.0))).repeats == 0


def test_a_call_that_kills_all_its_workers_ends_with_the_names_of_seven_attempts() -> None:
    world = World(3, Service(killed=1.0))
    trace = world.run()
    assert len(trace.failures) == 3
    assert set(trace.attempts.values()) == {7}
    assert all(message.count(": killed") == 6 and "1 more" in message for message in trace.failures.values())


def test_without_retries_nothing_is_repeated_though_calls_are_lost() -> None:
    world = World(200, Service(dropped=0.1, killed=0.1), policy=LAMBDA._replace(retries=0))
    trace = world.run(3_600.0)
    assert trace.repeats == 0
    assert len(trace.ended) > 150


def test_a_service_that_keeps_every_call_is_not_suspected_to_drop_any() -> None:
    world = World(10, Service(drops=frozenset({3})), policy=LAMBDA._replace(may_lose_calls=False))
    trace = world.run(3_600.0)
    assert (len(trace.ended), trace.repeats) == (9, 0)


def test_calls_that_became_too_old_are_invoked_again() -> None:
    service = replace(IN_ORDER, concurrency=2, duration=lasts(30.0), event_age=60.0)
    policy = LAMBDA._replace(event_age=60.0, job_max_runtime=40.0)
    world = World(30, service, policy=policy)
    trace = world.run()
    assert len(trace.ended) == 30
    assert not trace.failures


def test_no_more_calls_are_in_flight_than_the_user_allows() -> None:
    service = Service(duration=varies(0.5, 5.0), dropped=0.02, killed=0.05)
    trace = World(300, service, policy=LAMBDA._replace(max_concurrency=17)).run()
    assert len(trace.ended) == 300
    assert trace.most_in_flight <= 17


def test_backups_end_a_callset_with_a_straggler_sooner() -> None:
    slow = {7, 30}

    def duration(rng: random.Random, index: int) -> float:
        if index in slow:
            slow.remove(index)  # its second attempt is as fast as the others
            return 400.0
        return 10.0

    trace = World(50, Service(duration=duration), policy=LAMBDA._replace(backup=True)).run()
    assert trace.repeats == 2
    assert trace.seconds < 60.0


def test_a_decision_about_a_hundred_thousand_calls_that_wait_is_cheap() -> None:
    now = 0.0
    calls = [f"{index:06d}" for index in range(100_000)]
    driver = Driver(calls, LAMBDA, clock=lambda: now)
    for call_id in calls:
        driver.take(call_id)
        driver.accepted(call_id, 1, "", now)
    for call_id in calls[::10]:  # others have started, in an order that says little
        driver.running(call_id, 1, None, "")
    took = []
    for _ in range(3):
        now += 15.0
        driver.look()
        for call_id in calls[::10]:
            driver.running(call_id, 1, None, "")
        took.append(lines_run("pywren.client", driver.decide)[1])
    assert max(took) < 20 * len(calls)


def full(slots: int, calls: int = 1_000, lost: int = -1) -> Driver:
    """Return a driver after a minute. Sixty-four calls at a time were on their way, and were accepted in any order.

    Args:
        slots: how many calls the service runs at once; the first that were sent.
        calls: how many there are.
        lost: the index of a call that the service has lost.
    """
    clock, rng = [0.0], random.Random(3)
    driver = Driver([f"{index:05d}" for index in range(calls)], LAMBDA, clock=lambda: clock[0])
    under_way: list[Ready] = []
    for index in range(calls + 64):
        if index < calls:
            step = driver.next_call()
            assert isinstance(step, Ready)
            under_way.append(step)
        if index >= 64:
            driver.accepted(*under_way.pop(rng.randrange(len(under_way))), "id", 0.0)
    for _ in range(30):
        clock[0] += 2.0
        driver.look()
        for index in range(slots):
            if index != lost:
                driver.running(f"{index:05d}", 1, 1.0, "log")
        driver.decide()
    return driver


def test_calls_for_which_a_service_has_no_room_are_not_repeated() -> None:
    """Those that it runs, and those that it has put aside, have overtaken each other on their way."""
    assert full(100).counts().held == 0


@pytest.mark.parametrize("lost", [10, 60, 90])
def test_a_call_is_repeated_that_a_service_with_room_for_all_has_lost(lost: int) -> None:
    """Whatever was on its way at the same time: nothing waits behind it."""
    assert full(100, calls=100, lost=lost).counts().held == 1


class TestSignsOfLife:
    """What the driver makes of a sign of life that comes late."""

    def driver(self) -> tuple[Driver, Callable[[float], None]]:
        clock = [0.0]
        driver = Driver(["a"], LAMBDA, clock=lambda: clock[0], jitter=lambda: 0.5)
        assert driver.next_call() == Ready("a", 1)
        driver.accepted("a", 1, "id", 0.0)

        def pass_time(seconds: float) -> None:
            for _ in range(int(seconds)):
                clock[0] += 1.0
                driver.look()

        return driver, pass_time

    def test_a_suspected_attempt_that_shows_itself_is_not_repeated(self) -> None:
        driver, pass_time = self.driver()
        pass_time(11)
        assert driver.decide() == []
        assert driver.counts().held == 1
        driver.running("a", 1, 1.0, "worker")
        assert driver.counts().running == 1
        assert driver.next_call() is None
        assert driver.attempts("a")[0].cause is None

    def test_the_beacon_of_an_attempt_that_has_ended_says_nothing(self) -> None:
        driver, pass_time = self.driver()
        driver.running("a", 1, 1.0, "worker")
        pass_time(3)
        driver.failed("a", 1, Cause.KILLED, RuntimeError("killed"))
        driver.running("a", 1, 1.0, "worker")
        assert driver.counts().held == 1

    def test_a_worker_vanishes_after_two_beacons_were_missing(self) -> None:
        driver, pass_time = self.driver()
        driver.running("a", 1, 1.0, "worker")
        pass_time(74)
        assert (driver.decide(), driver.counts().held) == ([], 0)
        pass_time(2)
        assert (driver.decide(), driver.counts().held) == ([], 1)
        assert driver.attempts("a")[0].cause == "vanished"

    def test_a_worker_that_shows_itself_again_has_not_vanished(self) -> None:
        driver, pass_time = self.driver()
        for _ in range(20):
            driver.running("a", 1, 1.0, "worker")
            pass_time(70)
            driver.decide()
        assert driver.counts().running == 1

    def test_the_first_outcome_of_two_attempts_counts(self) -> None:
        driver, pass_time = self.driver()
        pass_time(11)
        driver.decide()
        assert driver.next_call() == Ready("a", 2)
        driver.accepted("a", 2, "id", 11.0)
        driver.ended("a", 1, 1.0, "worker", failed=False)
        assert driver.counts().done == 1
        driver.running("a", 2, 12.0, "worker")
        assert driver.failed("a", 2, Cause.KILLED, RuntimeError("killed")) is None
        assert driver.counts()[1:] == (0, 0, 0, 0, 1, 0, 1)
        first, second = driver.attempts("a")
        assert (first.cause, second.cause) == (None, "cancelled")

    def test_the_attempt_whose_error_counts_has_a_cause(self) -> None:
        driver, _ = self.driver()
        driver.ended("a", 1, 1.0, "worker", failed=True, cause=Cause.OUT_OF_MEMORY, error="used 512 MB")
        assert [(one.cause, one.error) for one in driver.attempts("a")] == [("out of memory", "used 512 MB")]
