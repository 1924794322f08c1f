"""Fan-out with the mocked AWS: the real handler hands invocations on, and what follows when it cannot."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter

import pytest

import pywren
import pywren.testing
from pywren.aws.requests import AWS
from pywren.client import fan_out
from pywren.exceptions import CallCancelledError, CallLostError, InvocationError, InvocationThrottledError
from pywren.storage import Storage
from pywren.wire.call import Call
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.wire.keys import STATUS_SUFFIX, CallKeys
from pywren.wire.relay import BUSY, DENIED
from pywren.wire.status import Status
from pywren.worker import relay

pytestmark = pytest.mark.moto
WAIT = 60.0


@pytest.fixture(scope="module")
def config():
    with pywren.testing.mock_aws() as made:
        prices = dict.fromkeys(("gb_second", "million_requests", "thousand_puts", "thousand_gets"), 0.001)
        yield {**made, "lambda": {**made["lambda"], "fan_out": True}, "prices": prices}


class Invocations:
    """Counts what the client, which uses the function's name, and its workers, which use its ARN, invoke."""

    def __init__(self, monkeypatch):
        self.by_client, self.by_workers = [], []
        self.refusal = None  # raised to workers
        self._invoke = AWS.invoke_async
        monkeypatch.setattr(AWS, "invoke_async", lambda aws, name, body: self._take(aws, name, body))

    def _take(self, aws, name, body):
        if not name.startswith("arn:"):
            self.by_client.append(len(body))
        elif self.refusal is not None:
            raise self.refusal
        else:
            self.by_workers.append(name)
        return self._invoke(aws, name, body)


@pytest.fixture
def invoked(monkeypatch):
    """Let three calls be enough for a relay, and count invocations."""
    monkeypatch.setattr(fan_out, "LEAST", 2)
    return Invocations(monkeypatch)


@pytest.fixture
def executor(config):
    with pywren.lambda_executor(config=config) as made:
        yield made


def values(futures):
    return [future.result(WAIT) for future in futures]


def test_a_map_through_a_relay(config, executor, invoked):
    """One invocation by the program, one by the relay for each call; the function invokes itself only."""
    futures = executor.map(lambda x: x + 1, range(20))
    assert values(futures) == list(range(1, 21))
    assert len(invoked.by_client) == 1
    assert Counter(arn.rpartition(":")[2] for arn in invoked.by_workers) == {config["lambda"]["function_name"]: 20}
    assert [len(future.attempts) for future in futures] == [1] * 20


def test_chunks_through_a_relay(executor, invoked):
    """Fan-out is for what chunks leave."""
    futures = executor.map(lambda x: x + 1, range(20), chunksize=4)
    assert values(futures) == list(range(1, 21))
    assert (len(invoked.by_client), len(invoked.by_workers)) == (1, 5)


def test_what_it_costs(executor, invoked):
    """The relay is one more invocation; its seconds are not measured, which the summary says."""
    single = executor.map(lambda x: x, range(10))
    values(single)
    assert pywren.summary(single).costs.invocations == 11
    assert "the seconds of 1 relay" in pywren.summary(single).costs.missing
    chunked = executor.map(lambda x: x, range(12), chunksize=3)
    values(chunked)
    assert pywren.summary(chunked).costs.invocations == 5


def test_a_function_that_may_not_invoke_itself(executor, invoked, caplog):
    """Its calls are invoked directly, and so are all others of the executor; one warning says what to do."""
    invoked.refusal = InvocationError("not authorized to lambda:InvokeFunction", code="AccessDeniedException")
    with caplog.at_level(logging.WARNING):
        futures = executor.map(lambda x: x + 1, range(10))
        assert values(futures) == list(range(1, 11))
        assert values(executor.map(lambda x: x, range(5), chunksize=1)) == list(range(5))
    assert len(invoked.by_client) == 1 + 10 + 5
    warnings = [one.getMessage() for one in caplog.records if "fan-out" in one.getMessage()]
    assert len(warnings) == 1
    assert "lambda:InvokeFunction" in warnings[0]
    assert [one.cause for one in futures[0].attempts] == ["handed back", None]


def test_chunks_of_a_function_that_may_not_invoke_itself(executor, invoked):
    """The relay hands them back in their journals; all their calls return."""
    invoked.refusal = InvocationError("not authorized", code="AccessDeniedException")
    futures = executor.map(lambda x: x + 1, range(12), chunksize=3)
    assert values(futures) == list(range(1, 13))


def test_a_relay_for_which_lambda_is_too_busy(executor, invoked, monkeypatch):
    """What it cannot hand on in time comes back, and is invoked directly."""
    monkeypatch.setattr(relay, "PATIENCE", 0.5)
    invoked.refusal = InvocationThrottledError("too busy", code="TooManyRequestsException")
    futures = executor.map(lambda x: x + 1, range(10))
    assert values(futures) == list(range(1, 11))
    assert invoked.by_workers == []
    assert not executor.invoker.fan_out.is_usable()


@pytest.mark.parametrize("options", [{"overwrite_invoke_args": {"use_cached_runtime": True}}, {"budget": 100.0}])
def test_maps_that_the_program_invokes_itself(executor, invoked, options):
    """Payloads that the program changes, and maps with a budget."""
    assert values(executor.map(lambda x: x + 1, range(5), **options)) == list(range(1, 6))
    assert (len(invoked.by_client), invoked.by_workers) == (5, [])


def test_calls_that_may_not_be_repeated(executor, invoked):
    """A relay may die with them, so they are invoked directly."""
    assert values(executor.map(lambda x: x + 1, range(5), retries=0)) == list(range(1, 6))
    assert (len(invoked.by_client), invoked.by_workers) == (5, [])


def test_a_call_that_is_cancelled_meanwhile(executor, invoked, monkeypatch):
    """It ends at once, whatever the relay does with its payload later."""
    go_on = threading.Event()
    invoke = relay.OwnFunction.invoke

    def wait(function, body):
        assert go_on.wait(WAIT)
        return invoke(function, body)

    monkeypatch.setattr(relay.OwnFunction, "invoke", wait)
    futures = executor.map(lambda x: x + 1, range(5))
    assert futures[3].cancel()
    go_on.set()
    assert values(futures[:3]) == [1, 2, 3]
    with pytest.raises(CallCancelledError):
        futures[3].result(WAIT)


def test_a_relay_that_is_delivered_twice(executor, invoked, monkeypatch):
    """Its calls are invoked twice, and one result of each counts."""
    from pywren.worker.handler import Container

    handle = Container._handle_relay

    def twice(container, payload, context, started):
        handle(container, payload, context, started)
        return handle(container, payload, context, started)

    monkeypatch.setattr(Container, "_handle_relay", twice)
    futures = executor.map(lambda x: x + 1, range(10))
    assert values(futures) == list(range(1, 11))
    assert len(invoked.by_workers) == 20


class Liar:
    """A worker that runs calls, and reports each as handed back by a relay that was too busy, or had no permission."""

    def __init__(self, monkeypatch, code):
        self.code, self.began = code, Counter()
        monkeypatch.setattr(AWS, "invoke_async", lambda aws, name, body: self._invoke(json.loads(body)))

    def _invoke(self, payload):
        storage = Storage(payload["storage_config"])
        failure = Failure("CallLostError", "it is too busy", (self.code,), Cause.HANDED_BACK)
        calls = [Call.decode(one) for one in payload.get("relay", [payload])]
        for call in calls:
            self.began[call.call_id] += 1
            status = Status(call.callset_id, call.call_id, call.attempt, failure, info={"status_key": call.status_key})
            key = CallKeys(call.status_key.removesuffix(STATUS_SUFFIX)).attempt(call.attempt)
            storage.put(key, status.encode(call.attempt_key))
        return "a request"


@pytest.mark.parametrize("code", [BUSY, DENIED])
def test_a_worker_that_pretends_to_be_a_relay(executor, monkeypatch, code, caplog):
    """Its reports count as failures of the worker: so its calls have as many attempts as any, and relays go on."""
    liar = Liar(monkeypatch, code)
    futures = executor.map(lambda x: x, range(5))
    for future in futures:
        with pytest.raises(CallLostError):
            future.result(WAIT)
    assert liar.began == {f"{index:05d}": 3 for index in range(5)}  # retries=2
    assert {one.cause for one in futures[0].attempts} == {"worker failed"}
    assert executor.invoker.fan_out.is_usable()
    assert "fan-out" not in caplog.text


def test_a_worker_behind_a_relay_that_pretends_to_be_the_relay(executor, invoked, monkeypatch):
    """One attempt of each call is for nothing, as repeats are invoked directly."""
    liar = Liar(monkeypatch, BUSY)
    futures = executor.map(lambda x: x, range(5))
    for future in futures:
        with pytest.raises(CallLostError):
            future.result(WAIT)
    assert liar.began == {f"{index:05d}": 4 for index in range(5)}


def test_it_is_off_unless_the_configuration_says_otherwise(config, invoked):
    """Without `lambda: fan_out` nothing changes."""
    section = {**config["lambda"], "fan_out": False}
    with pywren.lambda_executor(config={**config, "lambda": section}) as executor:
        assert values(executor.map(lambda x: x + 1, range(5))) == list(range(1, 6))
        assert len(invoked.by_client) == 5
        assert executor.invoker.fan_out is None
