"""What callsets of one function share: many callsets of one call are driven as one callset of many calls is."""

from __future__ import annotations

import gc
import math
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
from simulation import LAMBDA, Client, Service, Trace, World
from test_traces import lasts

from pywren.client.driver.driver import Driver, Later, Ready
from pywren.client.driver.policy import Policy
from pywren.client.driver.service import Service as Shared
from pywren.wire.cause import Cause

pytestmark = pytest.mark.thorough


class Case(NamedTuple):
    calls: int
    service: Service
    client: Client
    repeats: int = 0  # at most
    seconds: float = math.inf  # until all have ended
    policy: Policy = LAMBDA


LONE = Client(lone=True, poll=5.0, cost=0.005)
THREADS = Client(lone=True, threads=200, cost=0.001)
AT_TEN = Service(concurrency=10, duration=lasts(30.0))
AT_TEN_IN_ORDER = replace(AT_TEN, backs_off=False)
CAPPED = LAMBDA._replace(max_concurrency=10)

CASES = {
    "1,000 calls of 30 s at a concurrency of 10": Case(1_000, AT_TEN_IN_ORDER, LONE),
    "500 calls of 30 s that Lambda puts aside": Case(500, AT_TEN, LONE, repeats=5),
    "500 calls of 30 s, 5 % dropped": Case(
        500, replace(AT_TEN_IN_ORDER, dropped=0.05), LONE, repeats=50, seconds=1_800.0
    ),
    "500 calls of 30 s that Lambda puts aside, 5 % dropped": Case(
        500, replace(AT_TEN, dropped=0.05), LONE, repeats=70, seconds=4_500.0
    ),
    "100 calls of 30 s, one at a time": Case(100, replace(AT_TEN_IN_ORDER, concurrency=1), LONE),
    "1,000 short calls": Case(1_000, Service(), LONE),
    "1,000 cold starts of 15 s": Case(1_000, Service(cold=15.0), LONE, repeats=5),
    "200 threads": Case(4_000, Service(duration=lasts(0.5)), THREADS),
    "200 threads, 5 % dropped": Case(
        4_000, Service(duration=lasts(0.5), dropped=0.05), THREADS, repeats=400, seconds=150.0
    ),
    "200 threads at a concurrency of 10": Case(
        1_000, replace(AT_TEN, duration=lasts(5.0)), replace(THREADS, cost=0.005), repeats=10
    ),
    "a lone call that is dropped": Case(1, Service(drops=frozenset({1})), Client(lone=True), 1, 12.0),
    "one after the other, the third dropped": Case(
        20, Service(drops=frozenset({3})), Client(lone=True, threads=1), 1, 30.0
    ),
    "every fault": Case(
        1_000,
        Service(concurrency=100, duration=lasts(1.0), killed=0.1, dropped=0.05, doubled=0.05, throttled=0.2),
        Client(lone=True, cost=0.002),
        repeats=300,
        seconds=150.0,
    ),
    "a cap": Case(500, Service(duration=lasts(1.0)), LONE, seconds=300.0, policy=CAPPED),
    "a cap, 5 % dropped and killed": Case(
        500, Service(duration=lasts(1.0), dropped=0.05, killed=0.05), LONE, 150, 400.0, CAPPED
    ),
}


def run(case: Case, seed: int) -> tuple[World, Trace]:
    world = World(case.calls, case.service, case.client, case.policy, seed)
    return world, world.run()


@pytest.mark.parametrize("name", CASES)
def test_lone_calls_end_in_time_and_few_are_repeated(name: str) -> None:
    case = CASES[name]
    world, trace = run(case, seed=1)
    assert (len(trace.ended), trace.failures) == (case.calls, {})
    assert trace.repeats <= case.repeats
    assert trace.seconds <= case.seconds
    if case.policy.max_concurrency is not None:
        assert trace.most_in_flight <= case.policy.max_concurrency
    # Nothing is left behind.
    shared = world.shared
    assert (len(shared.waiting), len(shared.running), len(shared.repeated), shared.outstanding()) == (0, 0, 0, 0)


class TestDrivers:
    """Some drivers of one call each, on one service."""

    now = 0.0

    def make(self, count: int, policy: Policy = LAMBDA) -> tuple[Shared, list[Driver]]:
        self.now = 0.0
        shared = Shared(lambda: self.now)
        return shared, [Driver(["a"], policy, service=shared) for _ in range(count)]

    def send(self, *drivers: Driver) -> None:
        for driver in drivers:
            assert driver.next_call() == Ready("a", 1)
            driver.accepted("a", 1, "id", 0.0)

    def later(self, seconds: float, *drivers: Driver) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            for driver in drivers:
                driver.look()

    def test_a_call_of_another_callset_is_a_witness(self) -> None:
        _, (first, *others) = self.make(10)
        self.send(first, *others)
        self.later(1, first)
        for driver in others:
            driver.ended("a", 1, 0.0, "worker", failed=False)
        self.later(10, first)
        first.decide()
        assert first.counts().held == 1
        assert first.attempts("a")[0].cause == "dropped"

    def test_few_of_many_lone_calls_are_repeated_while_nothing_starts(self) -> None:
        _, drivers = self.make(2_000)
        self.send(*drivers)
        self.later(15, drivers[0])
        for driver in drivers:
            driver.decide()
        assert sum(driver.counts().held for driver in drivers) == 1

    def test_the_cap_counts_the_calls_of_all_callsets(self) -> None:
        _, (first, second) = self.make(2, Policy(max_concurrency=1))
        self.send(first)
        assert second.next_call() == Later(None, "scheduler.max_concurrency is 1")
        first.ended("a", 1, None, "", failed=False)
        self.send(second)

    def test_a_call_that_waits_for_room_is_not_due_until_another_ends(self) -> None:
        _, (first, second, third) = self.make(3, Policy(max_concurrency=1))
        woken: list[Driver] = []
        for driver in (second, third):
            driver.waker = lambda driver=driver: lambda: woken.append(driver)
        self.send(first)
        for driver in (second, third, second):
            driver.next_call()
            assert driver.next_due() is None
        assert first.to_wake() == []
        first.ended("a", 1, None, "", failed=False)
        for wake in first.to_wake():
            wake()
        assert woken == [second]
        assert second.next_due() == 0.0

    def test_a_call_that_waits_for_others_is_not_given_up_however_long_they_take(self) -> None:
        policy = Policy(event_age=100.0, job_max_runtime=10.0, max_concurrency=1)
        shared, (first, waiting) = self.make(2, policy)
        for _ in range(20):
            self.send(first)
            assert isinstance(waiting.next_call(), Later)
            self.later(60, first)
            assert waiting.shut_out(60.0) == []
            first.ended("a", 1, None, "", failed=False)
            first = Driver(["a"], policy, service=shared)
        self.later(180, first)
        assert waiting.shut_out(60.0) == ["a"]

    def test_the_waits_of_a_queue_that_has_ended_do_not_delay_the_last_repeats(self) -> None:
        _, (lost, late, *others) = self.make(40)
        self.send(lost, late, *others)
        for driver in others:  # they had to wait for up to a minute
            self.later(1.6, lost)
            driver.ended("a", 1, 0.0, "worker", failed=False)
        self.later(300, lost)  # by now also what Lambda has put aside would have started
        repeats = 0
        for _ in range(120):
            for driver in (lost, late):
                driver.decide()
                if isinstance(ready := driver.next_call(), Ready):
                    driver.accepted("a", ready.number, "id", 0.0)
                    repeats += 1
            self.later(1, lost)
        assert 4 <= repeats <= 12

    def test_calls_of_a_callset_that_is_dropped_do_not_count(self) -> None:
        shared, (first, second, third) = self.make(3, Policy(max_concurrency=2))
        self.send(first, second)
        first.running("a", 1, None, "")
        for driver in (first, second, third):
            driver.look()
            driver.decide()
        assert isinstance(third.next_call(), Later)
        del first, driver
        gc.collect()
        self.send(third)
        assert (len(shared.running), len(shared.waiting), shared.outstanding()) == (0, 2, 2)

    def test_nothing_of_a_callset_outlives_it(self) -> None:
        shared, drivers = self.make(50)
        self.send(*drivers)
        records = [weakref.ref(driver._record) for driver in drivers]
        self.later(12, *drivers)
        for driver in drivers:
            driver.decide()
            driver.waker = lambda: None
        del driver
        drivers.clear()
        gc.collect()
        shared.forget_gone()
        assert [one for one in records if one() is not None] == []
        assert (len(shared.waiting), len(shared.repeated), shared.outstanding()) == (0, 0, 0)

    def test_a_call_that_a_destructor_ends_during_a_look_is_forgotten(self) -> None:
        """The garbage collector may run it at any point, on the thread that holds the lock."""
        shared = Shared(lambda: 0.0)
        names = [str(index) for index in range(10)]
        driver = Driver(names, LAMBDA, service=shared)
        for name in names:
            assert driver.next_call() == Ready(name, 1)
            driver.accepted(name, 1, "id", 0.0)
        driver.look()
        driver.decide()
        for name in names[:6]:
            driver.settled(name, failed=False)

        class Cancels:
            def __del__(self) -> None:
                driver.settled("8", failed=True, cancelled=True)

        before = gc.get_threshold()
        gc.collect()
        gc.disable()
        try:
            one = Cancels()
            one.itself = one  # type: ignore[attr-defined] -- only the collector frees it
            del one
            with shared.lock:
                gc.set_threshold(1)
                gc.enable()
                driver._record.tidy()
        finally:
            gc.set_threshold(*before)
            gc.enable()
        gc.collect()
        assert [call.call_id for call in driver._record.waiting.values()] == ["6", "7", "9"]
        assert list(shared.waiting) == list(driver._record.waiting)

    def test_a_pause_of_an_hour_is_not_observed_by_any_callset(self) -> None:
        _, drivers = self.make(3)
        self.send(*drivers)
        self.now = 3_600.0
        for driver in drivers:
            driver.running("a", 1, None, "")
            driver.look()
            driver.decide()
        assert [driver.counts().running for driver in drivers] == [1, 1, 1]

    def test_after_a_while_without_calls_earlier_waits_say_nothing(self) -> None:
        shared, (first, second) = self.make(2)
        self.send(first)
        self.later(300, first)
        first.ended("a", 1, None, "", failed=False)
        self.later(40, first)
        self.send(second)
        assert shared.usual_wait() == 0.0
        self.later(11, second)
        second.decide()
        assert second.counts().held == 1

    def test_what_is_known_of_starts_is_bounded(self) -> None:
        shared, (first,) = self.make(1)
        self.send(first)  # it waits for ever
        for _ in range(10_000):
            driver = Driver(["a"], LAMBDA, service=shared)
            self.send(driver)
            self.later(1, first)
            driver.ended("a", 1, None, "", failed=False)
        assert len(shared._newest) <= 4_096
        assert shared.overtaken_at(next(iter(shared.waiting))) < 10.0

    def test_two_callsets_may_fail_at_the_same_time(self) -> None:
        _, (first, second) = self.make(2)
        self.send(first, second)
        for driver in (first, second):
            driver.failed("a", 1, Cause.KILLED, RuntimeError("killed"))
        assert [driver.counts().held for driver in (first, second)] == [1, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_starts_anew_though_a_thread_of_the_parent_held_the_lock() -> None:
    shared = Shared()
    driver = Driver(["a"], Policy(max_concurrency=1), service=shared)
    driver.next_call()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with shared.lock:
            held.set()
            done.wait(60.0)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60.0)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            other = Driver(["a"], Policy(max_concurrency=1), service=shared)
            del driver
            gc.collect()
            status = 0 if other.next_call() == Ready("a", 1) and shared.outstanding() == 1 else 2
        finally:
            os._exit(status)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_threads_that_each_wait_for_a_lone_call_stay_below_the_cap() -> None:
    shared = Shared()
    policy = Policy(max_concurrency=5)
    lock, in_flight, most = threading.Lock(), 0, 0

    def change(by: int) -> None:
        nonlocal in_flight, most
        with lock:
            in_flight += by
            most = max(most, in_flight)

    def call(finished: Callable[[], object]) -> None:
        for _ in range(30):
            driver = Driver(["a"], policy, service=shared)
            woken = threading.Event()
            driver.waker = lambda woken=woken: woken.set
            while isinstance(driver.next_call(), Later):
                assert woken.wait(60.0)
                woken.clear()
            change(1)
            driver.accepted("a", 1, "", 0.0)
            change(-1)
            driver.ended("a", 1, None, "", failed=False)
            for wake in driver.to_wake():
                wake()
        finished()

    finished: list[int] = []
    threads = [threading.Thread(target=call, args=(lambda: finished.append(1),)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120.0)
    assert (len(finished), shared.outstanding()) == (20, 0)
    assert most <= 5
