"""``Executor.estimate``: what a map would take and cost, from a sample that runs."""

from __future__ import annotations

import json

import pytest
from test_summary import call, on_lambda

import pywren
from pywren.display.estimate import Estimate, choose
from pywren.display.summary import Summary
from pywren.exceptions import ArgumentError
from pywren.testing import mock_aws


def fails_often(x):
    if x % 2:
        raise ValueError("<i>odd</i>")
    return x


def test_an_estimate_on_this_machine():
    """It says the time, that a sample has run, and which part has failed; there are no dollars."""
    with pywren.local_executor(
        config={"storage_backend": "localhost", "scheduler": {"max_concurrency": 1}}
    ) as executor:
        found = executor.estimate(fails_often, iter(range(35)), sample=5)
    assert (found.total, found.sample.total, found.at_once) == (35, 5, 1)
    assert [row["state"] for row in found.sample.rows()] == ["success", "error", "success", "error", "success"]
    assert found.dollars is found.costs is None
    assert found.seconds >= found.run_seconds > 0
    text = str(found)
    assert text.startswith("35 calls, estimated from 5 of them, which ran and may have cost money\n")
    assert "2 of the sample failed, the first in call 00001: ValueError" in text
    assert "with 1 call at once" in text
    assert "$" not in text
    assert "<i>" not in found._repr_html_()
    json.dumps(found.to_dict())


@pytest.mark.moto
def test_money_without_an_account():
    """The configurations of the stand-ins have the prices of us-east-1: an estimate has dollars, and a budget works."""
    with mock_aws() as config, pywren.lambda_executor(config) as executor:
        found = executor.estimate(abs, range(-100, 0), sample=2)
        assert found.dollars == found.costs.dollars > 0
        assert found.costs.elsewhere is None
        assert executor.map(abs, [-1], budget=1.00)[0].result() == 1


@pytest.mark.moto
def test_an_estimate_on_lambda():
    """Dollars are those of the sample times the number of calls; without a known limit, AWS's usual one is assumed."""
    with mock_aws() as config:
        own = {"gb_second": 1.0, "million_requests": 0.0, "thousand_puts": 0.0, "thousand_gets": 0.0}
        with pywren.lambda_executor({**config, "prices": own}) as executor:
            found = executor.estimate(abs, range(100), sample=2)
    assert found.dollars == pytest.approx(50 * found.sample.dollars)
    assert (found.costs.invocations, found.costs.puts) == (100, 101)
    assert "with 1,000 calls at once, as AWS usually allows" in str(found)
    assert "costs: " in str(found)
    assert "about $" in str(found)


@pytest.mark.parametrize("size", [1, 10])
def test_what_a_map_needs_once_is_counted_once(size):
    """The function is written once, whatever the size of the sample."""
    sample = Summary([on_lambda(*(call(call_id=str(index)) for index in range(size)))])
    found = Estimate(sample, 5000, 1000).costs
    assert (found.invocations, found.puts, found.gets, found.gb_seconds) == (5000, 5001, 10_000, pytest.approx(5000.0))
    assert found.parts["S3"] == pytest.approx(5001 * 0.005 / 1000 + 10_000 * 0.0004 / 1000)
    assert Estimate(sample, size, 1000).costs == sample.costs


def test_the_time_is_not_less_than_the_longest_call():
    """A thousand workers do not make one call shorter."""
    sample = Summary([on_lambda(call(run=1.0, start=0.0), call(call_id="1", run=3.0, start=0.0))])
    assert Estimate(sample, 10, 1000).seconds == 3.0
    assert Estimate(sample, 10, 2).seconds == 10.0
    assert Estimate(sample, 10, None).seconds is None
    assert "how many calls run at once is unknown" in str(Estimate(sample, 10, None))


def test_a_sample_that_never_ran_says_nothing_about_the_time():
    """All its calls were lost, or refused."""
    lost = call(run=None, start=None, billed=None, state="error", error="CallLostError")
    found = Estimate(Summary([on_lambda(lost)]), 10, 2)
    assert (found.seconds, found.run_seconds) == (None, None)
    assert "nothing can be said about the time" in str(found)


def test_the_sample_is_spread_evenly():
    """Each item at most once, all of them if there are few."""
    assert choose(range(100), 4) == [0, 25, 50, 75]
    assert choose([1, 2], 10) == [1, 2]
    assert choose("abcde", 5) == list("abcde")


@pytest.mark.parametrize("sample", [0, -1, 1.5, "2", None, True])
def test_a_wrong_sample_is_refused(sample):
    """Nothing runs."""
    with pywren.local_executor() as executor, pytest.raises(ArgumentError, match=r"sample is .*whole number"):
        executor.estimate(abs, [1], sample=sample)


def test_nothing_to_estimate_is_refused():
    """Without items there is no sample, and calls that do not start by themselves would be waited for in vain."""
    with pywren.local_executor() as executor, pytest.raises(ArgumentError, match="no items"):
        executor.estimate(abs, [])
    with pywren.dummy_executor() as executor, pytest.raises(ArgumentError, match="run_jobs"):
        executor.estimate(abs, [1])
