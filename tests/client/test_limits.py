"""``budget``, ``timeout``, ``memory`` and ``job_max_runtime`` of a map, on every route."""

from __future__ import annotations

import decimal
import logging
import math
import pickle
import time
from unittest.mock import Mock

import numpy as np
import pytest

import pywren
from pywren.aws.requests import AWS
from pywren.client.driver.budget import Budget
from pywren.cloud.prices import Prices, Tariff
from pywren.exceptions import (
    ArgumentError,
    BudgetExceededError,
    CallTimeoutError,
    ConfigError,
    InvocationError,
    WorkerCrashedError,
)
from pywren.executor import Executor
from pywren.invokers import DummyInvoker, LambdaInvoker
from pywren.wire.cause import Cause
from pywren.wire.status import Status
from tests.client.test_attempts import Client

DOLLAR_A_SECOND = Tariff(Prices(1.0, 0.0, 0.0, 0.0, 0.0), 512, 1024, 10.0)  # of a function of 1 GB; 10 s at most
BAD_NUMBERS = [0, -1.0, math.nan, "5", b"5", True, None, [], 1j]


def first_returns(index):
    if index:
        time.sleep(3600)


def raise_error(_):
    raise ValueError("no")


def fail(*_):
    """Stand for a function that must not be called."""
    raise AssertionError


def identity(x):
    return x


def with_figures(client, call_id, seconds, value="value"):
    """Let a worker return a value after some seconds."""
    number = dict(client.invoked())[call_id]
    info = {"start_time": client.now - seconds, "end_time": client.now, "memory_limit_in_mb": "1024"}
    status = Status(
        client.callset.id,
        call_id,
        number,
        outcome=pywren.wire.outcome.Outcome(True, pickle.dumps(value)).encode(),
        info=info,
    )
    client.storage.commit_status(client.callset.call_keys(call_id).status, status.encode(client.key(number, call_id)))


class TestBudgetInAStorage:
    """The driver holds calls back, and ends them when the budget is spent."""

    def test_calls_are_held_until_it_is_known_what_they_cost(self):
        """Each could cost 10 dollars, but costs one."""
        client = Client(4, budget=Budget(15.0, DOLLAR_A_SECOND))
        assert [call_id for call_id, _ in client.invoked()] == ["00000", "00001"]
        assert "may need the rest of the budget of $15.00" in client.origin.held_back()
        with_figures(client, "00000", 1.0)
        client.look(3.0)
        assert len(client.invoked()) == 3
        with_figures(client, "00001", 1.0)
        with_figures(client, "00002", 1.0)
        client.look(3.0)
        with_figures(client, "00003", 1.0)
        client.look(3.0)
        assert [one.result() for one in client.items] == ["value"] * 4

    def test_what_was_not_invoked_ends(self):
        """Those in flight return their values."""
        client = Client(5, budget=Budget(15.0, DOLLAR_A_SECOND))
        with_figures(client, "00000", 20.0)
        client.look(3.0)
        assert [one.done() for one in client.items] == [True, False, True, True, True]
        error = client.items[4].exception()
        assert isinstance(error, BudgetExceededError)
        assert (error.budget, error.spent, error.not_invoked) == (15.0, 20.0, 3)
        assert (error.call_id, error.callset_id) == ("00004", client.callset.id)
        assert "about $20.00 so far, and about $" in str(error)
        with_figures(client, "00001", 1.0)
        client.look(3.0)
        assert client.items[1].result() == "value"
        assert len(client.invoked()) == 2
        assert client.driver.counts()[1:5] == (0, 0, 0, 0)

    def test_another_process_learns_of_it(self):
        """By the status."""
        client = Client(3, budget=Budget(15.0, DOLLAR_A_SECOND))
        elsewhere = pickle.loads(pickle.dumps(client.items[2]))
        with_figures(client, "00000", 20.0)
        client.look(3.0)
        error = elsewhere.exception(timeout=20)
        assert isinstance(error, BudgetExceededError)
        assert (error.budget, error.not_invoked) == (15.0, 1)
        copy = pickle.loads(pickle.dumps(error))
        assert (copy.spent, str(copy)) == (20.0, str(error))

    def test_a_platform_fault_is_not_repeated(self):
        """The error names the attempt."""
        client = Client(2, budget=Budget(15.0, DOLLAR_A_SECOND))
        with_figures(client, "00000", 20.0)
        client.reports(1, call_id="00001")
        client.look(3.0)
        error = client.items[1].exception()
        assert isinstance(error, BudgetExceededError)
        assert "(attempt 1: killed, its worker was killed)" in str(error)
        assert len(client.invoked()) == 2

    def test_a_status_without_figures(self):
        """Anyone may write anything into a status: it counts as a mean attempt."""
        budget = Budget(15.0, DOLLAR_A_SECOND)
        client = Client(1, budget=budget)
        client.returns(1, "value")
        client.look(3.0)
        assert client.items[0].result() == "value"
        assert (budget.spent, budget.in_flight) == (10.0, 0.0)

    def test_a_cancelled_call(self):
        """Its attempt counts, and does not block others."""
        budget = Budget(35.0, DOLLAR_A_SECOND)
        client = Client(4, budget=budget)
        client.items[0].cancel()
        assert budget.spent == 10.0
        with_figures(client, "00001", 1.0)
        client.look(3.0)
        assert ("00003", 1) not in client.invoked() or not budget.is_spent


class TestTimeoutInAStorage:
    """At the end of its time a map ends, whatever its calls do."""

    def test_calls_in_flight_and_calls_that_wait(self):
        """Results that are there by then count."""
        client = Client(3, timeout=60.0, max_concurrency=2, retries=0)
        assert client.origin._until_next_poll() <= 60.0
        client.look(59.0)
        assert not any(one.done() for one in client.items)
        client.returns(1, "value")
        client.look(1.5)
        assert client.items[0].result() == "value"
        in_flight, waiting = (one.exception() for one in client.items[1:])
        assert type(in_flight) is type(waiting) is CallTimeoutError
        assert not isinstance(in_flight, TimeoutError)
        text = "the call was stopped, because it was not {} 60 s after its map was submitted (timeout=60)"
        assert str(in_flight).startswith(text.format("done"))
        assert str(waiting).startswith(text.format("invoked yet"))
        assert len(client.invoked()) == 2
        assert client.storage.read_status(client.callset.id, "00001") is not None  # its worker finds it, and stops
        assert client.items[1].attempts[0].cause == "cancelled"

    def test_a_result_that_arrives_at_the_last_moment(self, monkeypatch):
        """The first status counts."""
        client = Client(1, timeout=60.0)
        write = client.origin._ends.write

        def late(status, **how):
            client.returns(1, "value")
            return write(status, **how)

        monkeypatch.setattr(client.origin._ends, "write", late)
        client.look(61.0)
        assert not client.items[0].done()
        client.look(1.0)
        assert client.items[0].result() == "value"

    def test_an_attempt_that_fails_afterwards(self):
        """It is not repeated."""
        client = Client(1, timeout=60.0)
        client.reports(1)
        client.look(61.0)
        error = client.items[0].exception()
        assert type(error) in (CallTimeoutError, WorkerCrashedError)
        assert client.invoked() == [("00000", 1)]

    def test_a_storage_that_is_out_of_reach_then(self, monkeypatch):
        """The calls end as soon as it can be reached."""
        client = Client(1, timeout=60.0)
        monkeypatch.setattr(client.storage.backend, "put_new", fail, raising=False)
        look = client.storage.look
        monkeypatch.setattr(client.storage, "look", Mock(side_effect=pywren.exceptions.StorageError("out of reach")))
        monkeypatch.setattr(client.storage, "read_status", Mock(side_effect=pywren.exceptions.StorageError("gone")))
        client.look(61.0)
        assert not client.items[0].done()
        monkeypatch.undo()
        assert look is not None
        client.look(5.0)
        assert isinstance(client.items[0].exception(), CallTimeoutError)

    def test_nobody_holds_the_futures(self):
        """The calls are stopped all the same."""
        client = Client(1, timeout=60.0)
        client.items.clear()
        client.look(1.0)
        client.look(61.0)
        data = client.storage.read_status(client.callset.id, "00000")
        assert Status.decode(data).failure.kind == "CallTimeoutError"


class Function:
    """An executor for a Lambda function that does not exist, with a storage on this machine."""

    def __init__(self, region, **config):
        self.aws = Mock(spec=AWS)
        self.aws.invoke_async.return_value = "request"
        self.aws.function_config.return_value = {"MemorySize": 2048}
        self.config = {**pywren.wrenconfig.default(), **config}
        self.executor = Executor(LambdaInvoker(region, "function", aws=self.aws), self.config, 100)


@pytest.fixture
def on_lambda():
    """Return a function that makes a ``Function``. What is outstanding in the end is cancelled."""
    made = []

    def make(region="us-east-1", **config):
        made.append(Function(region, **config))
        return made[-1]

    yield make
    for one in made:
        one.executor.cancel_all()


class TestTimeoutOnThisMachine:
    """The pool stops calls too."""

    def test_calls_that_run_and_calls_that_wait(self):
        """Both end with the same error."""
        with pywren.local_executor() as local:
            futures = local.map(first_returns, range(2 + 2 * local.invoker.pool.size), timeout=1.5)
            errors = [one.exception(timeout=60) for one in futures]  # on a busy machine the first may be late too
            assert {type(one) for one in errors[1:]} == {CallTimeoutError}
            assert str(errors[1]).startswith("the call was stopped, because it was not done 1.5 s after its map was")
            assert futures[1].run_status["cause"] == Cause.TIMED_OUT.value
            assert local.map(identity, [1])[0].result() == 1  # the pool has processes again

    @pytest.mark.parametrize("verb", ["call_async", "starmap", "zip_map", "map_reduce"])
    def test_other_verbs(self, verb):
        """They take it too. The reduction ends with the calls that it follows."""
        arguments = {"call_async": (1,), "starmap": ([(1,)],), "zip_map": ([1],), "map_reduce": ([1], sum)}[verb]
        with pywren.local_executor() as local:
            found = getattr(local, verb)(wait_for_ever, *arguments, timeout=0.5)
            error = (found if verb == "call_async" else found[0]).exception(timeout=60)
            assert isinstance(error, CallTimeoutError)

    def test_a_call_that_waits_for_another(self):
        """It ends though the call that it waits for goes on."""
        with pywren.local_executor() as local:
            slow = local.call_async(wait_for_ever, 1)
            error = local.starmap(identity, [(slow,)], timeout=0.5)[0].exception(timeout=60)
            assert isinstance(error, CallTimeoutError)
            assert slow.cancel()

    def test_an_attempt_that_was_to_be_repeated(self):
        """It is not, once the time is over."""
        with pywren.local_executor() as local:
            (future,) = local.map(raise_error, [1], timeout=1.0, retries=100)
            error = future.exception(timeout=60)
            assert isinstance(error, (CallTimeoutError, ValueError))
            assert len(future.attempts) < 10

    def test_long_enough(self):
        """Nothing happens."""
        with pywren.local_executor() as local:
            assert pywren.get_all_results(local.map(identity, range(100), timeout=600)) == list(range(100))
            assert pywren.get_all_results(local.map(identity, [1], timeout=math.inf)) == [1]

    def test_a_staged_map(self):
        """With a name, the calls go through a storage."""
        with pywren.local_executor() as local:
            (future,) = local.map(wait_for_ever, [1], timeout=1.0, name="too-slow")
            assert isinstance(future.exception(timeout=60), CallTimeoutError)
            (again,) = pywren.attach("too-slow")
            assert isinstance(again.exception(timeout=20), CallTimeoutError)

    def test_the_dummy(self):
        """A call that was not run in time is not run later."""
        executor = Executor(DummyInvoker(), pywren.wrenconfig.default(), 100)
        (future,) = executor.map(raise_error, [1], timeout=0.3)
        assert isinstance(future.exception(timeout=20), CallTimeoutError)


class TestArguments:
    """Wrong values are refused before anything is invoked."""

    @pytest.mark.parametrize("value", [*(one for one in BAD_NUMBERS if one is not None), math.inf])
    def test_budget(self, value, on_lambda):
        """It is a positive, finite number."""
        service = on_lambda()
        with pytest.raises(ArgumentError, match=r"budget is .*US dollars, for example 5\.00"):
            service.executor.map(fail, [1], budget=value)
        service.aws.invoke_async.assert_not_called()
        with pywren.local_executor() as local, pytest.raises(ArgumentError, match="budget is"):
            local.map(fail, [1], budget=value)

    @pytest.mark.parametrize("value", [one for one in BAD_NUMBERS if one is not None])
    def test_timeout(self, value):
        """It is a positive number."""
        with pywren.local_executor() as local:
            for make in (
                lambda: local.map(fail, [1], timeout=value),
                lambda: local.call_async(fail, 1, timeout=value),
                lambda: local.starmap(fail, [(1,)], timeout=value),
                lambda: local.map_reduce(fail, [1], fail, timeout=value),
            ):
                with pytest.raises(ArgumentError, match="timeout is"):
                    make()

    @pytest.mark.parametrize("value", [0, -1, 1.5, "1024", True, math.nan])
    def test_memory(self, value):
        """It is a whole number above 0."""
        with pywren.local_executor() as local, pytest.raises(ArgumentError, match=r"memory is .*megabytes"):
            local.map(fail, [1], memory=value)

    @pytest.mark.parametrize("value", [0, -1, "60", True, math.nan])
    def test_job_max_runtime(self, value):
        """It is a positive number, as for an executor."""
        with pywren.local_executor() as local, pytest.raises(ArgumentError, match="job_max_runtime is"):
            local.map(fail, [1], job_max_runtime=value)

    @pytest.mark.parametrize("option", ["timeout", "budget"])
    def test_streams_have_neither(self, option):
        """A stream is many maps."""
        with pywren.local_executor() as local, pytest.raises(ArgumentError, match=f"a stream has no {option}"):
            local.imap(fail, [1], **{option: 5})

    def test_an_unknown_price(self, on_lambda):
        """A map without a known price is not a map without a limit."""
        service = on_lambda("eu-central-1")
        with pytest.raises(ConfigError, match=r"eu-central-1: write gb_second, .*, thousand_gets into .*`prices`"):
            service.executor.map(abs, [1, 2], budget=5)
        with pytest.raises(ConfigError):
            service.executor.map_reduce(abs, [1, 2], sum, budget=5)
        service.aws.invoke_async.assert_not_called()

    def test_prices_of_the_configuration(self, on_lambda):
        """They make the prices known."""
        prices = {"gb_second": 2e-5, "million_requests": 0.2, "thousand_puts": 0.005, "thousand_gets": 0.0004}
        service = on_lambda("eu-central-1", prices=prices)
        assert len(service.executor.map(abs, [1, 2], budget=decimal.Decimal(5))) == 2
        assert service.aws.invoke_async.call_count == 2

    def test_workers_that_are_paid_for_by_the_hour(self):
        """Their costs do not depend on the calls."""
        invoker = Mock(spec=["invoke", "config"])
        invoker.config.return_value = {}
        executor = Executor(invoker, pywren.wrenconfig.default(), 100)
        with pytest.raises(ArgumentError, match="paid for by the hour"):
            executor.map(identity, [1], budget=5)
        invoker.invoke.assert_not_called()

    def test_where_nothing_costs_anything(self, caplog):
        """It has no effect, and one line says so."""
        caplog.set_level(logging.INFO, "pywren")
        dummy = Executor(DummyInvoker(), pywren.wrenconfig.default(), 100)
        with pywren.local_executor() as local:
            for _ in range(2):
                assert pywren.get_all_results(local.map(identity, [1, 2], budget=0.01, memory=10**6)) == [1, 2]
                assert len(dummy.map(identity, [1, 2], budget=np.float64(1e-9))) == 2
        for name in ("budget", "memory"):
            lines = [
                one.getMessage() for one in caplog.records if one.getMessage().startswith(f"{name}= has no effect")
            ]
            assert len(lines) == (2 if name == "budget" else 1)


class TestBudgetOnLambda:
    """The prices and the configuration say what the first calls may cost."""

    def test_the_first_wave(self, on_lambda):
        """A call of 100 s with 1,536 MB costs 0.0025 dollars."""
        service = on_lambda()
        service.executor.map(abs, range(90), budget=0.02)
        assert service.aws.invoke_async.call_count == math.ceil(0.02 / (100 * 1.5 * 0.0000166667 + 2e-7 + 5.4e-6))

    def test_a_map_with_a_shorter_time_limit(self, on_lambda):
        """Then each may cost less."""
        service = on_lambda()
        service.executor.map(abs, range(90), budget=0.02, job_max_runtime=10)
        assert service.aws.invoke_async.call_count == math.ceil(0.02 / (10 * 1.5 * 0.0000166667 + 2e-7 + 5.4e-6))

    def test_both_parts_of_map_reduce(self, on_lambda):
        """They share one sum."""
        service = on_lambda()
        service.executor.map_reduce(abs, range(10), sum, budget=0.001)
        assert service.aws.invoke_async.call_count == 1

    def test_a_refused_call(self, on_lambda):
        """It raises as ever."""
        service = on_lambda()
        service.aws.invoke_async.side_effect = InvocationError("no such function")
        with pytest.raises(InvocationError, match="no such function"):
            service.executor.map(abs, range(10), budget=0.02)


class TestMemory:
    """The memory of a function is set when it is deployed."""

    @pytest.mark.parametrize("megabytes", [1, 2048, np.int64(1024)])
    def test_enough(self, megabytes, on_lambda):
        """The calls are made."""
        service = on_lambda()
        assert len(service.executor.map(abs, [1, 2], memory=megabytes)) == 2
        assert service.aws.function_config.call_count == 1

    def test_too_little(self, on_lambda):
        """The error names both numbers and the remedy."""
        service = on_lambda()
        text = r"memory is 4,096, but the Lambda function function has 2,048 MB: write `memory: 4096` .*deploy_lambda"
        for verb in (service.executor.map, service.executor.starmap):
            with pytest.raises(ArgumentError, match=text):
                verb(abs, [(1,)], memory=4096)
        with pytest.raises(ArgumentError, match=text):
            service.executor.call_async(abs, 1, memory=4096)
        service.aws.invoke_async.assert_not_called()

    @pytest.mark.parametrize("answer", [None, {}, InvocationError("not allowed")])
    def test_if_lambda_does_not_say_it(self, answer, on_lambda):
        """Then the configuration does, which says 1,536 MB."""
        service = on_lambda()
        service.aws.function_config.side_effect = [answer, answer]
        assert service.executor.map(abs, [1], memory=1536)
        with pytest.raises(ArgumentError, match="has 1,536 MB"):
            service.executor.map(abs, [1], memory=1537)


def wait_for_ever(_):
    time.sleep(3600)


class TestTimeLimitOfCalls:
    """``job_max_runtime`` of a map takes precedence over that of the executor."""

    def test_on_this_machine(self):
        """Only the calls of that map are stopped."""
        with pywren.local_executor(job_max_runtime=3600) as local:
            error = local.map(wait_for_ever, [1], job_max_runtime=0.2)[0].exception(timeout=60)
            assert isinstance(error, CallTimeoutError)
            error = local.call_async(wait_for_ever, 1, job_max_runtime=0.2).exception(timeout=60)
            assert isinstance(error, CallTimeoutError)
            assert local.job_max_runtime == 3600
            assert local.map(identity, [1])[0].result() == 1

    def test_in_the_payload(self):
        """The worker enforces it."""
        executor = Executor(DummyInvoker(), pywren.wrenconfig.default(), 100)
        executor.map(identity, [1], job_max_runtime=7)
        executor.map(identity, [1])
        assert [one["job_max_runtime"] for one in executor.invoker.payloads] == [7, 100]

    def test_the_dummy(self):
        """``run_jobs`` stops the call."""
        executor = Executor(DummyInvoker(), pywren.wrenconfig.default(), 100)
        futures = executor.map(wait_for_ever, [1], job_max_runtime=0.3)
        executor.invoker.run_jobs()
        assert isinstance(futures[0].exception(timeout=20), CallTimeoutError)
        assert futures[0].run_status["cause"] == Cause.TIMED_OUT.value
