"""``pywren.summary``: counts, times, bytes, requests and costs, from what the client knows already."""

from __future__ import annotations

import concurrent.futures
import json
import math
import pickle
import time
from types import MappingProxyType

import pytest

import pywren
from pywren.cloud import prices
from pywren.cloud.prices import Billing, Prices, billing_of
from pywren.display.costs import costs_of
from pywren.display.facts import CallFacts, MapFacts
from pywren.display.summary import STEPS, Percentiles, Summary
from pywren.exceptions import ArgumentError, ConfigError
from pywren.testing import mock_aws
from pywren.wire.reading import number


def square(x):
    if x == 3:
        raise ValueError("<b>three</b>")
    return x * x


def nap(x):
    import time

    time.sleep(0.01)
    return b"x" * 100


def call(**members) -> CallFacts:
    """Return the facts of a call that ran for a second on Lambda, with changes."""
    facts = dict.fromkeys(CallFacts._fields)
    facts.update(
        call_id="00000", callset_id="a-callset", state="success", message="", submitted=100.0, invoked=101.0,
        began=102.0, started=102.5, returned=103.0, known=104.0, wait=1.0, start=0.5, run=0.5, transfer=1.0,
        billed=1.0, memory_mb=1024.0, architecture="x86_64", result_bytes=10, is_output_apart=False, downloads=1,
        attempts=1, backups=0, where="a stream", was_cold=False,
    )  # fmt: skip
    return CallFacts(**{**facts, **members})


def on_lambda(*calls: CallFacts, region: str | None = "us-east-1", storage: int = 512, own=None, **members) -> MapFacts:
    """Return the facts of a map on Lambda."""
    facts = MapFacts(
        "a-callset", "in the Lambda function f", 100.0, 100.5, 2000, 300, Billing(region, storage, own or Prices()),
        False, calls,
    )  # fmt: skip
    return facts._replace(**members)


# -- on this machine -------------------------------------------------------------------------------------------------


def test_a_summary_of_calls_on_this_machine():
    """Counts, times, bytes and errors; there are no dollars."""
    with pywren.local_executor() as executor:
        futures = executor.map(square, range(10))
        pywren.wait(futures)
        found = pywren.summary(futures)
    assert found.total == 10
    assert found.counts == {"success": 9, "error": 1, "cancelled": 0, "running": 0, "invoked": 0}
    assert found.attempts == 10
    assert found.costs is found.dollars is found.gb_seconds is None
    assert [one[:3] for one in found.errors] == [("ValueError", 1, "00003")]
    assert all(0.0 <= one.p50 <= one.p90 <= one.p99 <= one.max <= one.total for one in found.times.values())
    assert found.seconds > 0
    text = str(found)
    assert text.startswith(
        f"10 calls of callset {futures[0].callset_id[:8]} on this machine\n  9 succeeded, 1 failed; "
    )
    assert "1 × ValueError: <b>three</b> (first in call " in text
    assert "$" not in text
    assert repr(found) == text


def test_everything_that_is_shown_in_a_notebook_is_escaped():
    """What the program's errors say is text."""
    with pywren.local_executor() as executor:
        futures = executor.map(square, range(4))
        pywren.wait(futures)
        shown = pywren.summary(futures)._repr_html_()
    assert "&lt;b&gt;three&lt;/b&gt;" in shown
    assert "<b>" not in shown


def test_a_summary_does_not_wait_and_collects_nothing():
    """Calls that have not ended are counted as they are, and futures keep what the program was told before."""
    with pywren.local_executor() as executor:
        done, waiting = executor.map(square, [1]), executor.map(nap, range(200))
        concurrent.futures.wait(done)  # unlike pywren.wait, it does not mark them as collected
        found = pywren.summary([*done, *waiting])
        assert not done[0].succeeded()
        executor.cancel_all()
    assert found.total == 201
    assert found.counts["success"] >= 1
    assert found.counts["running"] + found.counts["invoked"] > 0
    assert "waiting to run" in str(found)
    assert "of 2 callsets on this machine" in str(found)


def test_a_cancelled_call_is_counted_apart():
    """It is no failure of the function."""
    with pywren.local_executor() as executor:
        futures = executor.map(nap, range(100))
        futures[-1].cancel()
        assert pywren.summary(futures).counts["cancelled"] == 1
        executor.cancel_all()
        found = pywren.summary(futures)
    count, first = found.counts["cancelled"], found.errors[0]
    assert f"{count} × CallCancelledError: the call was cancelled (first in call {first.callset_id[:8]}/" in str(found)
    assert first.message == found.rows()[-1]["message"] == "the call was cancelled"  # the call has fields of its own


def test_calls_that_never_began_have_no_times():
    """They are in no percentile, and the times in their rows are ``None``; so are those of a call that was killed."""
    with pywren.local_executor(
        config={"storage_backend": "localhost", "scheduler": {"max_concurrency": 1}}
    ) as executor:
        held = executor.map(nap, [0])
        pywren.wait(held)
        futures = [*held, *executor.map(time.sleep, [60.0] * 4)]
        executor.cancel_all()
        pywren.wait(futures)
        found = pywren.summary(futures)
    assert (found.counts["success"], found.counts["cancelled"]) == (1, 4)
    assert {step: one.calls for step, one in found.times.items()} == {"wait": 1, "start": 1, "run": 1, "transfer": 1}
    for row in found.rows()[1:]:
        assert {row[name] for name in ("began", "started", "returned", *STEPS)} == {None}


def test_no_calls_and_wrong_items():
    """A summary of nothing says so; something else than a future is refused."""
    nothing = pywren.summary([])
    assert (nothing.total, nothing.seconds, str(nothing)) == (0, None, "no calls\n  nothing to tell")
    assert "no calls" in nothing._repr_html_()
    json.dumps(nothing.to_dict())
    with pytest.raises(ArgumentError, match=r"summary\(\) takes pywren futures, not a int"):
        pywren.summary([1])
    with pytest.raises(ArgumentError, match="not yet invoked"):
        pywren.summary([pywren.ResponseFuture("00000", "c")])


def test_a_future_that_is_listed_twice_counts_once():
    """So does a pickled copy of it."""
    with pywren.local_executor() as executor:
        futures = executor.map(square, range(3))
        pywren.wait(futures)
        copy = pickle.loads(pickle.dumps(futures[0]))
        assert pywren.summary([*futures, futures[0], copy]).total == 3


def test_rows_are_for_pandas():
    """Each call is one row with its times."""
    pandas = pytest.importorskip("pandas")
    with pywren.local_executor() as executor:
        futures = executor.map(square, range(4))
        pywren.wait(futures)
        table = pandas.DataFrame(pywren.summary(futures).rows())
    assert list(table["call_id"]) == ["00000", "00001", "00002", "00003"]
    assert list(table["state"]) == ["success"] * 3 + ["error"]
    assert (table["run"] >= 0).all()
    assert set(STEPS) <= set(table.columns)


# -- on Lambda -------------------------------------------------------------------------------------------------------


@pytest.mark.moto
def test_a_summary_of_calls_on_lambda():
    """The figures of the workers become GB-seconds; dollars of a region without known prices are unknown."""
    with mock_aws() as config:
        del config["prices"]  # the stand-ins have those of us-east-1
        with pywren.lambda_executor(config) as executor:
            futures = executor.map(square, range(5))
            pywren.wait(futures)
            found = pywren.summary(futures)
            unpickled = pywren.summary(pickle.loads(pickle.dumps(futures)))
    # The mocked AWS is gone, so a request would raise an error.
    assert pywren.summary(futures).to_dict() == found.to_dict()
    assert "5 calls" in repr(pywren.timeline(futures))
    assert found.counts["success"] == 4
    assert found.costs.invocations == 5
    assert found.costs.puts == 6  # the function, and five statuses
    assert found.gb_seconds > 0
    assert found.dollars is None
    assert found.costs.elsewhere > 0
    assert "dollars are unknown (in us-east-1 it would be $0.0" in str(found)
    assert "the prices of us-west-2" not in str(found)
    assert all(row["memory_mb"] == 1536 and row["wait"] >= 0 for row in found.rows())
    json.dumps(found.to_dict())
    assert unpickled.costs.region == "us-west-2"


@pytest.mark.moto
def test_calls_that_were_not_invoked_cost_the_request_that_ends_them():
    """They are no invocations and no attempts, here and in a process that got the futures."""
    with mock_aws() as config:
        own = dict.fromkeys(Prices._fields, 1.0)
        with pywren.lambda_executor({**config, "prices": own}) as executor:
            futures = executor.map(square, range(8), budget=1e-9)
            pywren.wait(futures)
            found = pywren.summary(futures)
            copies = pickle.loads(pickle.dumps(futures))
            pywren.wait(copies)
            unpickled = pywren.summary(copies)
    invoked = sum(bool(one.attempts) for one in futures)
    assert invoked < 8
    assert found.attempts == found.costs.invocations == invoked
    assert found.costs.puts == 1 + 8  # the function, and a status for each call
    assert found.costs.unmeasured == 0
    assert f"; {invoked} attempt" in str(found)
    assert {(row["invoked"], row["run"]) for row in found.rows() if not row["attempts"]} == {(None, None)}
    assert (unpickled.costs.invocations, unpickled.costs.puts) == (invoked, 9)


@pytest.mark.moto
def test_the_configuration_says_the_prices_of_its_region():
    """With the section ``prices`` the sum is known in every region."""
    with mock_aws() as config:
        own = dict(zip(Prices._fields, (0.00002, 0.3, 0.0, 0.006, 0.0005), strict=True))
        with pywren.lambda_executor({**config, "prices": own}) as executor:
            futures = executor.map(square, range(2))
            pywren.wait(futures)
            found = pywren.summary(futures)
    compute = found.gb_seconds * 0.00002
    assert found.dollars == pytest.approx(compute + 2 * 0.3 / 1e6 + 3 * 0.006 / 1000 + found.costs.gets * 0.0005 / 1000)


def test_a_sum_is_that_of_the_price_list():
    """Ten calls of a second with 1 GB: the documented prices, and each part."""
    found = costs_of([on_lambda(*(call(call_id=str(number)) for number in range(10)))])
    assert (found.gb_seconds, found.invocations, found.puts, found.gets) == (10.0, 10, 11, 20)
    assert found.parts == {
        "compute": pytest.approx(10 * 0.0000166667),
        "invocations": pytest.approx(10 * 0.20 / 1e6),
        "/tmp": 0.0,
        "S3": pytest.approx(11 * 0.005 / 1000 + 20 * 0.0004 / 1000),
    }
    assert found.dollars == pytest.approx(math.fsum(found.parts.values()))
    assert found.spoken() == "10 GB-s, at least $0.00023 (compute $0.00017, invocations $0.0000020, S3 $0.000063)"


def test_lambda_bills_whole_milliseconds():
    """A call of 0.2 ms is billed as 1 ms."""
    assert costs_of([on_lambda(call(billed=0.0002))]).gb_seconds == 0.001


def test_arm_is_cheaper_and_more_tmp_costs():
    """The worker says its architecture; what exceeds 512 MB of ``/tmp`` is paid for."""
    found = costs_of([on_lambda(call(architecture="arm64"), storage=1536)])
    assert found.parts["compute"] == pytest.approx(0.0000133334)
    assert found.parts["/tmp"] == pytest.approx(0.0000000309)


def test_an_output_of_its_own_costs_two_requests():
    """It is written and read."""
    small, big = costs_of([on_lambda(call())]), costs_of([on_lambda(call(is_output_apart=True))])
    assert (big.puts - small.puts, big.gets - small.gets) == (1, 1)


@pytest.mark.parametrize("region", ["eu-central-1", None])
def test_what_is_not_known_is_not_guessed(region):
    """In a region whose prices are not known, the dollars are unknown, and the remedy is named."""
    found = costs_of([on_lambda(call(), region=region)])
    assert found.dollars is None
    assert found.elsewhere == costs_of([on_lambda(call())]).dollars
    assert found.spoken().startswith("1 GB-s; dollars are unknown (in us-east-1 it would be $0.0000")
    assert "set `prices` in the configuration" in found.spoken()


def test_one_own_price_leaves_the_others():
    """The configuration may say some prices only; those of us-east-1 remain there, and nothing elsewhere."""
    own = Prices(gb_second=1.0)
    assert costs_of([on_lambda(call(), own=own)]).parts["compute"] == 1.0
    assert costs_of([on_lambda(call(), own=own)]).dollars > 1.0
    assert costs_of([on_lambda(call(), own=own, region="eu-west-1")]).dollars is None


def test_attempts_without_figures_are_named():
    """What died without a status was paid for, and is not in the sum."""
    found = costs_of([on_lambda(call(attempts=3), call(call_id="1", billed=None, state="error"))])
    assert found.gb_seconds == 1.0
    assert found.invocations == 4
    assert "the seconds of 3 attempts that left no figures" in found.missing
    assert any("INIT" in text for text in found.missing)


def test_workers_of_a_queue_have_no_known_price():
    """Instances are paid for by the hour, so the whole sum is unknown."""
    queue = on_lambda(call(), billing=None, place="on the workers of the queue q")
    assert costs_of([queue]).dollars is None
    both = costs_of([queue, on_lambda(call())])
    assert (both.dollars, both.gb_seconds, both.elsewhere) == (None, 1.0, None)
    assert Summary([queue]).to_dict()["costs"]["dollars"] is None


def test_the_table_has_a_date():
    """Each sum says of which region and month its prices are."""
    table = costs_of([on_lambda(call())]).to_dict()["table"]
    assert table == {"region": prices.REGION, "checked": prices.CHECKED}


def test_prices_in_the_configuration_are_checked():
    """A price is a number that is not negative."""
    assert billing_of({"prices": {"gb_second": 0.5}}, "x") == Billing("x", 512, Prices(gb_second=0.5))
    for wrong in (-1, "0.2", True):
        with pytest.raises(ConfigError, match="`prices: gb_second`"):
            pywren.wrenconfig.validate({"storage_backend": "localhost", "prices": {"gb_second": wrong}})


def test_attempts_and_backups_are_told():
    """More attempts than calls are worth a word."""
    text = str(Summary([on_lambda(call(attempts=3, backups=1))]))
    assert "1 succeeded; 3 attempts, 1 of them as backups; 4 s from map to the last outcome" in text


# -- the figures -----------------------------------------------------------------------------------------------------


def test_percentiles_are_those_of_calls():
    """Each percentile is the nearest rank: a duration that a call has."""
    found = Percentiles.of([None, *range(1, 101)])
    assert found == (100, 50, 90, 99, 100, 5050)
    assert Percentiles.of([7.0]) == (1, 7.0, 7.0, 7.0, 7.0, 7.0)
    assert Percentiles.of([3.0, 1.0, 2.0])[1:5] == (2.0, 3.0, 3.0, 3.0)
    assert Percentiles.of([None]) is None


@pytest.mark.parametrize("value", [None, "1", True, math.nan, math.inf, 10**400, [], MappingProxyType({})])
def test_a_status_may_say_anything(value):
    """Statuses come from workers: what is not a finite number is not known."""
    assert number(value) is None


def test_a_hundred_kinds_of_errors_do_not_fill_the_screen():
    """The most frequent are shown, with the first line of a message, cut to 200 characters."""
    calls = [
        call(call_id=str(n), state="error", error=f"Error{n % 100}", message="x" * 300 + "\n" * 9) for n in range(101)
    ]
    text = str(Summary([on_lambda(*calls)]))
    assert text.count("×") == 5
    assert f"2 × Error0: {'x' * 200}… (first in call a-callse/0)" in text


def test_the_sum_over_other_workers_names_no_remedy():
    """No setting tells what the workers of a queue cost."""
    told = costs_of([on_lambda(call(), billing=None)]).spoken()
    assert told == "0 GB-s; dollars are unknown, as some calls did not run on Lambda, or another process made them"


@pytest.mark.slow
def test_the_sum_is_a_lower_bound_of_what_lambda_bills(emulator):
    """Workers of the deployed function say how much memory they have; Lambda bills what they measured and more."""
    config = emulator.deploy(memory=512, timeout=60)
    function = config["lambda"]["function_name"]
    before = emulator.counters()
    with pywren.lambda_executor(config) as executor:
        futures = executor.map(nap, range(6))
        pywren.wait(futures)
        found = pywren.summary(futures)
    emulator.wait_idle()
    billed = (emulator.counters() - before).executions[function]
    assert {row["memory_mb"] for row in found.rows()} == {512.0}
    assert found.costs.invocations == billed.invocations == 6
    assert 0 < found.gb_seconds <= billed.gb_seconds
