"""What futures and executors say about themselves, in text and in notebooks."""

from __future__ import annotations

import pickle

import pytest

import pywren
from pywren.exceptions import CallCancelledError
from pywren.testing import mock_aws


def odd_fails(x):
    if x % 2:
        raise ValueError(f"<script>alert(1)</script> {x}")
    return x


class Hostile(Exception):
    """An exception that cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def raise_hostile(x):
    raise Hostile


def nap(x):
    import time

    time.sleep(30)


def test_an_executor_tells_how_far_its_maps_are():
    """Its repr has the calls by state; a notebook shows a bar, a row for each map, and the first errors."""
    with pywren.local_executor() as executor:
        assert repr(executor) == "<Executor on this machine>"
        first, second = executor.map(odd_fails, range(10)), executor.map(abs, range(5))
        pywren.wait([*first, *second])
        assert repr(executor) == "<Executor on this machine: 15 calls of 2 maps: 10 succeeded, 5 failed>"
        shown = executor._repr_html_()
    assert f"callset {first[0].callset_id[:8]}" in shown
    assert "ValueError: &lt;script&gt;alert(1)&lt;/script&gt; 1" in shown
    assert shown.count("ValueError") == 5
    assert "<script" not in shown


def test_calls_that_run_and_wait_are_counted():
    """A notebook that is run again shows how far a map is."""
    with pywren.local_executor() as executor:
        futures = executor.map(nap, range(50))
        text = repr(executor)
        futures[-1].cancel()
        assert "50 calls of 1 map: " in text
        assert "waiting" in text
        assert "1 failed" in repr(executor)
        assert "CallCancelled" not in executor._repr_html_()  # the program has wanted it
        executor.cancel_all()
    assert "50 failed" in repr(executor)


def test_maps_whose_futures_are_gone_are_not_shown():
    """An executor knows its maps weakly."""
    with pywren.local_executor() as executor:
        pywren.get_all_results(executor.map(abs, [1]))
        kept = executor.map(abs, [1, 2])
        pywren.wait(kept)
        for _ in range(12):
            kept += executor.map(abs, [1])
        pywren.wait(kept)
        assert "14 calls of 13 maps" in repr(executor)
        assert "3 earlier maps not shown" in executor._repr_html_()


def test_an_executor_that_was_unpickled_is_not_made_by_looking_at_it():
    """Looking makes no storage and starts no process."""
    with pywren.local_executor() as executor:
        copy = pickle.loads(pickle.dumps(executor))
    assert repr(copy) == "<Executor that was not used yet>"
    assert "not used yet" in copy._repr_html_()
    assert not hasattr(copy, "_ipython_display_")  # a notebook asks for this first
    assert "_recipe" in vars(copy)


@pytest.mark.moto
def test_an_executor_on_lambda():
    """It names its function, and reads the driver's counts."""
    with mock_aws() as config, pywren.lambda_executor(config) as executor:
        futures = executor.map(odd_fails, range(6))
        pywren.wait(futures)
        function = config["lambda"]["function_name"]
        assert (
            repr(executor) == f"<Executor in the Lambda function {function}: 6 calls of 1 map: 3 succeeded, 3 failed>"
        )
        assert "call 00001: ValueError: &lt;script" in executor._repr_html_()
        assert f"in the Lambda function {function}" in futures[1]._repr_html_()


def test_a_future_shows_its_state_and_error_but_not_its_value():
    """A notebook shows the remote traceback, escaped."""
    with pywren.local_executor() as executor:
        good, bad = executor.map(odd_fails, [2, 3])
        pywren.wait([good, bad])
        cancelled = executor.call_async(nap, 1)
        cancelled.cancel()
    assert "success returned int" in good._repr_html_()
    assert "1 attempt on this machine" in good._repr_html_()
    assert "in odd_fails" in bad._repr_html_()
    assert "&lt;script&gt;" in bad._repr_html_()
    assert "<script" not in bad._repr_html_()
    assert "cancelled" in cancelled._repr_html_()
    with pytest.raises(CallCancelledError):
        cancelled.result()


def test_a_future_that_was_never_invoked_can_be_shown():
    """So can one that has not ended."""
    assert "new" in pywren.ResponseFuture("00000", "a-callset")._repr_html_()
    with pywren.local_executor() as executor:
        future = executor.call_async(nap, 1)
        assert "on this machine" in future._repr_html_()
        executor.cancel_all()


def test_an_exception_without_a_text_hurts_nobody():
    """``__str__`` of the program's exceptions may raise."""
    with pywren.local_executor() as executor:
        futures = executor.map(raise_hostile, [1])
        pywren.wait(futures)
        assert "Hostile" in executor._repr_html_()
        assert "Hostile" in futures[0]._repr_html_()
        assert "1 × Hostile" in str(pywren.summary(futures))


def test_few_errors_are_kept_in_words():
    """A map of ten thousand failures keeps five texts, and none leaves the process with a future."""
    with pywren.local_executor() as executor:
        futures = executor.map(odd_fails, [1] * 100)
        pywren.wait(futures)
        callset = futures[0]._origin.callset
    assert len(callset.failures) == 100
    assert sum(map(bool, callset.failures.values())) == 5
    assert pickle.loads(pickle.dumps(callset)).failures == {}
