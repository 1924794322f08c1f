"""``Budget``: what calls may cost, have cost and will cost, and what the driver does when it is spent."""

from __future__ import annotations

import math

import pytest

from pywren.client.driver.budget import Budget, affordable
from pywren.client.driver.calls import AttemptRecord
from pywren.client.driver.driver import Driver, Later, Ready
from pywren.client.driver.policy import Policy
from pywren.client.driver.retrying import Over
from pywren.cloud.prices import Prices, Tariff, Usage
from pywren.exceptions import BudgetExceededError, CallLostError
from pywren.wire.cause import Cause
from tests.client.driver.simulation import LAMBDA, Service, World

DOLLAR_A_SECOND = Tariff(Prices(1.0, 0.0, 0.0, 0.0, 0.0), 512, 1024, 10.0)  # of a function of 1 GB; 10 s at most


def used(seconds: float) -> Usage:
    return Usage.of_attempt(seconds, 1024, is_output_apart=False, downloads=0)


def attempt(number: int = 1) -> AttemptRecord:
    return AttemptRecord(number, sent=0.0)


def run(budget: Budget, *seconds: float) -> None:
    """Let calls run and end."""
    for each in seconds:
        one = attempt()
        budget.take(one)
        budget.accepted(one)
        budget.close(one, used(each))


class Client:
    """A driver with a clock that the test sets."""

    def __init__(self, count: int, dollars: float, **rules: object) -> None:
        self.now = 100.0
        self.budget = Budget(dollars, DOLLAR_A_SECOND)
        policy = Policy(job_max_runtime=10.0, budget=self.budget)._replace(**rules)  # type: ignore[arg-type]
        self.driver = Driver(map(str, range(count)), policy, clock=lambda: self.now, jitter=lambda: 0.5)

    def invoke(self) -> list[Ready]:
        """Invoke what may be invoked."""
        found = []
        while isinstance(step := self.driver.next_call(), Ready):
            self.driver.accepted(*step, "id", 1e9)
            found.append(step)
        return found

    def later(self, seconds: float) -> None:
        """Let time pass, in which the driver looks."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.driver.look()

    def end(self, ready: Ready, seconds: float) -> None:
        self.driver.ended(*ready, None, "worker", failed=False, usage=used(seconds))


class TestWhatMayBeInvoked:
    """As long as what is spent and in flight is less than the budget."""

    @pytest.mark.parametrize(("dollars", "calls"), [(35.0, 4), (30.0, 3), (10.0, 1), (0.01, 1), (1e9, 100_000_000)])
    def test_the_first_wave_pays_for_the_longest_calls(self, dollars, calls):
        """Before anything has ended each call counts as the most that it may cost, here 10 dollars."""
        assert affordable(Budget(dollars, DOLLAR_A_SECOND)).calls == calls

    def test_the_mean_of_those_that_ended_counts_then(self):
        """What a call may cost at most counts as one call at the first end, and soon as next to nothing."""
        budget = Budget(100.0, DOLLAR_A_SECOND)
        run(budget, 1.0)
        assert budget.mean == pytest.approx((10.0 + 1.0) / 2)
        run(budget, *[1.0] * 8)
        assert budget.spent == pytest.approx(9.0)
        assert budget.mean == pytest.approx((10.0 / 81 + 9.0) / (9 + 1 / 81))
        assert affordable(budget).calls == math.ceil(91.0 / budget.mean)

    def test_a_small_budget_does_not_let_calls_run_one_at_a_time(self):
        """Sixteen calls of a second, of which the budget pays for 32, are invoked in six waves at the most."""
        budget = Budget(32.0, DOLLAR_A_SECOND._replace(longest=280.0))
        waves, left = [], 16
        while left:
            waves.append(min(left, affordable(budget).calls, 8))  # eight run at once
            left -= waves[-1]
            run(budget, *[1.0] * waves[-1])
        assert waves == [1, 1, 1, 3, 8, 2]

    def test_those_that_still_run_count_with_their_time(self):
        """The first calls to end are the short ones."""
        budget = Budget(100.0, DOLLAR_A_SECOND)
        long = attempt()
        budget.take(long)
        long.started = 0.0
        run(budget, 1.0)
        budget.review(5.0)  # it was seen 2 s after it had started
        assert budget.mean == pytest.approx((10.0 + 1.0 + 7.0) / 2)
        budget.review(1e6)  # it ends after 10 s, even if this is not known yet
        assert budget.mean == pytest.approx((10.0 + 1.0 + 10.0) / 2)

    def test_calls_in_flight_hold_others_back_until_they_end(self):
        """What they have cost less than estimated is there for others."""
        client = Client(100, 20.0)
        first = client.invoke()
        assert len(first) == 2
        step = client.driver.next_call()
        assert step == Later(None, "the calls in flight may need the rest of the budget of $20.00")
        client.end(first[0], 1.0)
        client.driver.decide()
        assert len(client.invoke()) == 3  # 20 - 1 - 5.5, at 5.5 each
        assert client.driver.stops() == []

    def test_everything_is_free(self):
        """A configuration may say so."""
        budget = Budget(1.0, DOLLAR_A_SECOND._replace(prices=Prices(0.0, 0.0, 0.0, 0.0, 0.0)))
        assert affordable(budget).calls > 1_000_000
        run(budget, 10.0)
        assert not budget.is_spent

    def test_invocations_and_requests_cost_too(self):
        """The invocation as soon as it is accepted, the requests with the end."""
        prices = Prices(0.0, 1e6, 0.0, 1000.0, 1000.0)  # a dollar for each
        budget = Budget(100.0, DOLLAR_A_SECOND._replace(prices=prices))
        one = attempt()
        budget.take(one)
        budget.accepted(one)
        assert budget.spent == 1.0
        budget.close(one, Usage.of_attempt(1.0, 1024, is_output_apart=True, downloads=1))
        assert budget.spent == 1.0 + 2.0 + 3.0


class TestWithoutFigures:
    """Attempts that have left no figures cost what the others cost, unless it is known that they did not run."""

    @pytest.mark.parametrize("cause", [Cause.KILLED, Cause.VANISHED, None])
    def test_a_killed_attempt(self, cause):
        """It ran for some time."""
        client = Client(1, 100.0)
        (ready,) = client.invoke()
        client.later(20.0)
        if cause is None:
            client.driver.settled("0", failed=True)
        else:
            client.driver.failed(*ready, cause, RuntimeError())
        assert (client.budget.spent, client.budget.in_flight) == (10.0, 0.0)

    def test_one_that_was_killed_soon(self):
        """It cannot have cost more than since it was invoked, so it does not spend a small budget."""
        client = Client(2, 5.0)
        (ready,) = client.invoke()
        client.later(2.0)
        client.driver.failed(*ready, Cause.KILLED, RuntimeError())
        assert (client.budget.spent, client.budget.in_flight) == (2.0, 0.0)
        assert client.driver.stops() == []

    @pytest.mark.parametrize("cause", [Cause.TOO_OLD, Cause.DROPPED, Cause.REFUSED])
    def test_one_that_never_ran(self, cause):
        """It costs nothing but its invocation."""
        client = Client(1, 100.0)
        (ready,) = client.invoke()
        client.driver.failed(*ready, cause, RuntimeError())
        assert (client.budget.spent, client.budget.in_flight) == (0.0, 0.0)

    def test_a_throttled_one(self):
        """It was not accepted."""
        client = Client(1, 100.0)
        ready = client.driver.next_call()
        assert isinstance(ready, Ready)
        client.driver.throttled(*ready)
        assert client.budget.in_flight == 0.0

    def test_one_that_was_believed_to_be_dropped(self):
        """It does not block the rest; if it has run nevertheless, it counts."""
        client = Client(1, 5.0, event_age=21_600.0, may_lose_calls=True)
        (ready,) = client.invoke()
        for _ in range(10):
            client.now += 10.0
            client.driver.look()
            client.driver.decide()
        assert client.budget.in_flight in (0.0, 10.0)
        assert len(client.driver.attempts("0")) + len(client.invoke()) > 1
        client.end(ready, 2.0)
        assert client.budget.spent >= 2.0
        assert client.budget.in_flight == 0.0


class TestChunks:
    """Calls that share an invocation."""

    def test_the_calls_of_a_chunk_are_paid_for_one_by_one(self):
        """Those without an outcome when its worker dies count as mean attempts, and the rest costs nothing."""
        client = Client(4, 100.0, chunksize=4)
        (ready,) = client.invoke()
        assert client.budget.in_flight == 40.0
        client.driver.ended("0", 1, None, "worker", failed=False, usage=used(1.0))
        client.driver.failed("3", 1, Cause.HANDED_BACK, CallLostError("handed back"))
        assert client.budget.spent == 1.0
        assert client.budget.in_flight == 2 * (10.0 + 1.0) / 2
        client.later(20.0)
        client.driver.died(ready.call_id, Cause.KILLED, CallLostError("killed"))
        client.driver.leave(ready.call_id)
        assert client.budget.spent == 1.0 + 2 * (10.0 + 1.0) / 2
        assert client.budget.in_flight == 0.0
        assert sorted(one.call_id for one in client.invoke()) == ["1", "2", "3"]

    def test_an_invocation_and_its_pages_are_paid_for_once(self):
        """When the service has accepted it: a plan, a page, and reading the page."""
        prices = Prices(0.0, 1e6, 0.0, 1000.0, 1000.0)  # a dollar for each
        client = Client(4, 100.0, chunksize=4)
        budget = Budget(100.0, DOLLAR_A_SECOND._replace(prices=prices))
        driver = Driver("0123", client.driver.policy._replace(budget=budget), clock=lambda: 0.0)
        step = driver.next_call()
        assert isinstance(step, Ready)
        driver.accepted(*step, "id", 1e9)
        assert budget.spent == 1.0 + 3.0

    def test_a_throttled_chunk_costs_nothing(self):
        """And is charged when it is accepted later."""
        client = Client(4, 100.0, chunksize=4)
        ready = client.driver.next_call()
        assert isinstance(ready, Ready)
        client.driver.throttled(*ready)
        assert client.budget.in_flight == 0.0
        client.now += 1.0
        assert len(client.invoke()) == 1
        assert client.budget.in_flight == 40.0

    def test_a_chunk_has_the_calls_that_the_budget_pays_for(self):
        """Others wait for its end."""
        client = Client(10, 35.0, chunksize=8)
        assert [one.call_id for one in client.invoke()] == ["0.1"]
        assert client.driver.counts()[1:4] == (6, 0, 4)

    def test_a_chunk_runs_one_call_at_a_time(self):
        """Those that wait in it have no time so far."""
        client = Client(4, 100.0, chunksize=4)
        client.invoke()
        client.now += 5.0
        client.driver.look()
        client.driver.ended("0", 1, None, "worker", failed=False, usage=used(4.0))
        client.now += 3.0
        client.driver.look()
        client.driver.decide()
        assert client.budget.mean == (10.0 + 4.0 + 3.0) / 2
        assert client.budget.in_flight == 3.0 + 3 * client.budget.mean


class TestWhenItIsSpent:
    """What was not invoked ends; what is in flight goes on."""

    def test_the_calls_that_were_not_invoked(self):
        """Their error names the budget, what was spent, and how many they are."""
        client = Client(10, 30.0)
        first, second, third = client.invoke()
        client.end(first, 10.0)
        client.end(second, 10.0)
        assert client.driver.stops() == []
        client.end(third, 10.0)
        assert isinstance(client.driver.next_call(), Later)
        stops = client.driver.stops()
        assert [one.call_id for one in stops] == [str(index) for index in range(3, 10)]
        error = stops[0].error
        assert isinstance(error, BudgetExceededError)
        assert (error.budget, error.spent, error.not_invoked) == (30.0, 30.0, 7)
        assert str(error) == (
            "the call was not invoked, because the budget of $30.00 is spent: about $30.00 so far. 7 calls were not "
            "invoked: map over the items whose futures have this error, with another budget, to run the rest"
        )
        assert {str(one.error) for one in stops} == {str(error)}
        assert client.driver.must_stop()

    def test_calls_in_flight_end_as_usual(self):
        """Only those in the queue are stopped."""
        client = Client(3, 15.0)
        first, second = client.invoke()
        client.end(first, 15.0)
        assert [one.call_id for one in client.driver.stops()] == ["2"]
        client.driver.settled("2", failed=True)
        assert client.driver.stops() == []
        client.end(second, 1.0)
        assert client.driver.counts()[:5] == (3, 0, 0, 0, 0)

    def test_a_platform_fault_is_not_repeated(self):
        """The error names the attempt."""
        client = Client(2, 15.0)
        first, second = client.invoke()
        client.end(first, 15.0)
        client.driver.failed(*second, Cause.KILLED, RuntimeError("the worker was killed"))
        (stop,) = client.driver.stops()
        assert (stop.call_id, stop.attempts) == ("1", 1)
        assert str(stop.error).startswith("the call was not invoked again, because the budget of $15.00 is spent")
        assert str(stop.error).endswith("(attempt 1: killed, RuntimeError: the worker was killed)")

    def test_an_exception_of_the_function_is_its_error(self):
        """It says more than that there is no other attempt."""
        client = Client(2, 15.0, retry_on=(ValueError,))
        first, second = client.invoke()
        client.end(first, 15.0)
        assert client.driver.failed(*second, Cause.EXCEPTION, ValueError()) == Over()
        assert client.driver.stops() == []

    def test_a_call_that_was_to_get_a_backup_goes_on(self):
        """It is in flight, and needs no second attempt."""
        client = Client(4, 35.0, backup=True)
        ready = client.invoke()
        for one in ready:
            client.driver.running(*one, 1e9, "worker")
        for one in ready[:3]:
            client.end(one, 1.0)
        client.now += 10.0
        client.driver.look()
        client.budget.spent = 34.0
        client.driver.decide()
        assert client.driver.counts().held == 1
        client.budget.spent = 35.0
        assert client.driver.stops() == []
        assert (client.driver.counts().held, client.driver.counts().running) == (0, 1)

    def test_callsets_may_share_one(self):
        """As the two of ``map_reduce`` do."""
        client = Client(2, 15.0)
        other = Driver(["x"], client.driver.policy, service=client.driver._service)
        first, _ = client.invoke()
        assert isinstance(other.next_call(), Later)
        client.end(first, 15.0)
        assert [one.call_id for one in other.stops()] == ["x"]


SHAPES = {
    "even": (lambda rng, _: 2.0, 1.03),
    "varied": (lambda rng, _: rng.expovariate(0.5), 1.03),
    "a few very long ones": (lambda rng, _: rng.lognormvariate(0.0, 1.2), 1.25),
}
"""How long calls of about 2 s take, and how many times the budget they may cost."""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES)
def test_many_calls_cost_about_the_budget(seed, shape):
    """Of 5,000 calls of about 2 s those are run that the budget pays for."""
    duration, most = SHAPES[shape]
    tariff = DOLLAR_A_SECOND._replace(longest=900.0)
    policy = LAMBDA._replace(budget=Budget(4_000.0, tariff))
    trace = World(5_000, Service(duration=duration, killed=0.01), policy=policy, seed=seed).run()
    assert len(trace.ended) == 5_000
    assert 0.95 * 4_000 <= trace.worked <= most * 4_000
    # One or two calls may have been killed in the end.
    assert all(one.startswith("the call was not invoked") for one in trace.failures.values())


def test_a_budget_that_suffices_changes_nothing():
    """All calls end, in about the same time."""
    tariff = DOLLAR_A_SECOND._replace(longest=900.0)
    plain = World(2_000, Service()).run()
    bounded = World(2_000, Service(), policy=LAMBDA._replace(budget=Budget(1e6, tariff))).run()
    assert (len(bounded.ended), bounded.failures) == (2_000, {})
    assert bounded.seconds == pytest.approx(plain.seconds, rel=0.2)
