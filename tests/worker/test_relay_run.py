"""``RelayRun`` and the handler: what a worker does with the payload of a relay."""

from __future__ import annotations

import json
import logging
from collections import Counter
from unittest import mock

import pytest

from pywren.exceptions import DecodeError, InvocationError, InvocationThrottledError, StorageError
from pywren.storage import Storage
from pywren.wire import digests
from pywren.wire.call import Call
from pywren.wire.cause import Cause
from pywren.wire.chunk import Chunk
from pywren.wire.journal import Page
from pywren.wire.keys import CallsetKeys
from pywren.wire.relay import BUSY, DENIED, Relay, relay_payload
from pywren.wire.status import Status
from pywren.worker import relay as relays
from pywren.worker.handler import Container
from pywren.worker.relay import RelayRun

SECRET = b"s" * 32
ARN = "arn:aws:lambda:us-west-2:123456789012:function:pywren_1"


@pytest.fixture
def storage(tmp_path):
    return Storage(
        {"storage_backend": "localhost", "storage_prefix": "jobs", "backend_config": {"root": str(tmp_path)}}
    )


def call(storage, index, **members):
    keys = CallsetKeys("jobs", "callset").call(f"{index:05d}")
    return Call(
        storage_config=storage.storage_config, callset_id="callset", call_id=f"{index:05d}", func_key="f",
        data_key=keys.data, output_key=keys.output, status_key=keys.status, cancel_key=keys.cancel,
        job_max_runtime=60, retryable=True, attempt=2,
        attempt_key=digests.attempt_key(SECRET, f"{index:05d}", 2), **members,
    )  # fmt: skip


class Lambda:
    """A Lambda that takes payloads, and answers what it is told to."""

    def __init__(self):
        self.now = 0.0
        self.got = []
        self.answer = lambda payload: None

    def invoke(self, body):
        self.now += 0.1
        payload = json.loads(body)
        self.answer(payload)
        self.got.append(payload)

    def run(self, storage, payloads, remaining=None):
        relay = Relay(storage.storage_config, "callset", payloads)
        run = RelayRun(
            relay, self.invoke, storage, remaining=lambda: remaining, info={"start_time": 1.0, "log_stream_name": "s"},
            clock=lambda: self.now,
        )  # fmt: skip
        with mock.patch.object(run._over, "wait", self._wait):
            return run.run()

    def _wait(self, seconds):
        self.now += seconds
        return False


@pytest.fixture
def service():
    return Lambda()


def reported(storage, index):
    """Return what the relay has reported about a call; ``None`` if nothing."""
    data = storage.read_attempt("callset", f"{index:05d}", 2)
    return None if data is None else Status.verify(data, SECRET, "callset", f"{index:05d}")


def busy(payload):
    raise InvocationThrottledError("Lambda is busy", code="TooManyRequestsException")


def denied(payload):
    raise InvocationError("no permission: lambda:InvokeFunction", code="AccessDeniedException")


def test_every_payload_is_handed_on_as_it_is(storage, service):
    """Once each; nothing is reported."""
    payloads = [call(storage, index).encode() for index in range(50)]
    said = service.run(storage, payloads)
    assert said == {"callset_id": "callset", "handed_on": 50, "handed_back": 0}
    assert sorted(service.got, key=lambda one: one["call_id"]) == payloads
    assert [reported(storage, index) for index in range(50)] == [None] * 50


def test_a_busy_service_is_asked_again(storage, service):
    """A relay waits, and goes on."""
    refusals = Counter()

    def answer(payload):
        refusals[payload["call_id"]] += 1
        if refusals[payload["call_id"]] < 4:
            busy(payload)

    service.answer = answer
    assert service.run(storage, [call(storage, index).encode() for index in range(4)])["handed_back"] == 0
    assert len(service.got) == 4


@pytest.mark.parametrize("remaining", [None, 300.0, 12.0])
def test_a_service_that_stays_busy(storage, service, remaining):
    """After half a minute, or when the platform's time is nearly over, the rest is handed back."""

    def answer(payload):
        if payload["call_id"] >= "00005":
            busy(payload)

    service.answer = answer
    said = service.run(storage, [call(storage, index).encode() for index in range(10)], remaining)
    assert said["handed_back"] == 5
    assert service.now <= 2 * relays.PATIENCE + 10.0
    status = reported(storage, 7)
    assert (status.failure.cause, status.failure.details) == (Cause.HANDED_BACK, (BUSY,))
    assert status.signed
    assert "busy" in status.failure.message or remaining == 12.0
    assert reported(storage, 4) is None


@pytest.mark.parametrize("remaining", [5.0, 0.5, -1.0])
def test_a_worker_with_little_time(storage, service, remaining):
    """Nothing more is handed on when Lambda would soon stop the worker: its death would cost all calls a repeat."""
    said = service.run(storage, [call(storage, index).encode() for index in range(50)], remaining)
    assert said["handed_back"] >= 25
    assert len(service.got) == said["handed_on"]
    assert sum(reported(storage, index) is not None for index in range(50)) == said["handed_back"]


def test_a_function_that_may_not_invoke_itself(storage, service):
    """It asks once or a few times, and hands everything back; the report names what is missing."""
    asked = []

    def answer(payload):
        asked.append(payload)
        denied(payload)

    service.answer = answer
    assert service.run(storage, [call(storage, index).encode() for index in range(100)])["handed_back"] == 100
    assert len(asked) <= relays.THREADS
    for index in range(100):
        assert reported(storage, index).failure.details == (DENIED,)
        assert "lambda:InvokeFunction" in reported(storage, index).failure.message


def test_a_second_delivery_reports_nothing_new(storage, service):
    """The first report of an attempt stands."""
    service.answer = denied
    service.run(storage, [call(storage, 0).encode()])
    service.answer = busy
    service.run(storage, [call(storage, 0).encode()])
    assert reported(storage, 0).failure.details == (DENIED,)


def test_a_chunk_is_handed_back_in_its_journal(storage, service):
    """One page ends the journal: the first call is reported, and the others never started."""
    key = digests.chunk_key(SECRET, "00000.2")
    chunk = Chunk(tuple(call(storage, index) for index in range(3)), key)
    service.answer = denied
    service.run(storage, [chunk.encode()])
    page = Page.decode(storage.get(storage.keys("callset").page("00000.2", 1)))
    assert page.last
    assert page.reports == {"00000"}
    (status,) = page.statuses
    assert status.failure.details == (DENIED,)


def test_what_is_no_call(storage, service, caplog):
    """Nothing can be reported about it; the others are."""
    service.answer = denied
    with caplog.at_level(logging.WARNING):
        service.run(storage, [{"anything": 1}, call(storage, 1).encode()])
    assert reported(storage, 1) is not None
    assert "cannot hand" in caplog.text


def test_a_storage_that_fails(storage, service, caplog):
    """The relay ends as usual: an error would have Lambda record the calls that it has handed on as dead."""
    service.answer = denied
    with caplog.at_level(logging.WARNING), mock.patch.object(Storage, "put", side_effect=StorageError("no")):
        assert service.run(storage, [call(storage, 0).encode()])["handed_back"] == 1
    assert "cannot hand" in caplog.text


# -- the handler -------------------------------------------------------------------------------------------------


def event(storage, *payloads):
    """Return a relay as Lambda delivers it."""
    payloads = payloads or [call(storage, index).encode() for index in range(2)]
    return json.loads(relay_payload(payloads[0], [json.dumps(one).encode() for one in payloads]))


@pytest.fixture
def sent(monkeypatch):
    """Record what the worker invokes, as ``(function, payload)``."""
    found = []

    class OwnFunction:
        def __init__(self, arn):
            self.arn = arn

        def invoke(self, body):
            found.append((self.arn, json.loads(body)))

        def close(self):
            found.append((self.arn, "closed"))

    monkeypatch.setattr(relays, "OwnFunction", OwnFunction)
    return found


def test_the_function_of_the_context_is_invoked(storage, sent):
    """Never one that the payload names."""
    hostile = {"function": "other", "own_arn": "other", "invoked_function_arn": "other"}
    with Container(mock.Mock()) as container:
        for _ in range(2):
            container.handle({**event(storage), **hostile}, {"own_arn": lambda: ARN, "remaining_seconds": 60.0})
    assert Counter(arn for arn, _ in sent) == {ARN: 5}
    assert sent[-1] == (ARN, "closed")


def test_a_worker_elsewhere_hands_nothing_on(storage, sent):
    """A stand-alone worker has no function."""
    with Container(mock.Mock()) as container, pytest.raises(DecodeError, match="only a Lambda function"):
        container.handle(event(storage), {})
    assert sent == []


def test_a_chain_is_refused(storage, sent):
    """Nothing of a relay that contains a relay is handed on."""
    with Container(mock.Mock()) as container, pytest.raises(DecodeError, match="a relay itself"):
        container.handle(
            {**event(storage), "relay": [call(storage, 0).encode(), event(storage)]}, {"own_arn": lambda: ARN}
        )
    assert sent == []


def test_the_arn_is_in_no_status(storage):
    """Lambda's context has it; statuses show only what they showed before."""
    from types import SimpleNamespace

    from pywren.wrenhandler import handle_on_lambda

    handed = []
    container = SimpleNamespace(handle=lambda event, context: handed.append(context))
    context = SimpleNamespace(
        aws_request_id="r", log_group_name="g", log_stream_name="s", memory_limit_in_mb=1,
        get_remaining_time_in_millis=lambda: 1000, invoked_function_arn=ARN,
    )  # fmt: skip
    handle_on_lambda(container, {}, context)
    assert ARN not in [value for value in handed[0].values() if isinstance(value, str)]
    assert handed[0]["own_arn"]() == ARN
