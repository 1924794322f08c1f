"""Invocations that go through relays: when, how many in one, and what follows when a relay is refused."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter

import pytest

from pywren.client import fan_out, invoking
from pywren.client.driver.driver import Driver
from pywren.client.driver.policy import Policy
from pywren.client.driver.retrying import Again, Over
from pywren.client.driver.service import Service
from pywren.client.fan_out import LEAST, REST, SLOW, FanOut
from pywren.client.invoking import Invocations
from pywren.client.protocols import Invoker
from pywren.exceptions import InvocationError, InvocationThrottledError, StorageError
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.wire.relay import BUSY, DENIED, MOST_RELAYED, RELAY_ROOM, relay_payload


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


# -- when --------------------------------------------------------------------------------------------------------


def test_many_invocations_are_worth_it():
    """More than some thousand, or as many as take long on a slow line."""
    decides = FanOut()
    assert not decides.is_worth(LEAST)
    assert decides.is_worth(LEAST + 1)
    assert not decides.is_worth(500, rate=500 / SLOW)
    assert decides.is_worth(501, rate=500 / SLOW)


def failure(*details):
    return Failure("CallLostError", "lambda:InvokeFunction is missing", details, Cause.HANDED_BACK)


def test_a_busy_relay_rests():
    """For a minute; then relays are used again."""
    clock = Clock()
    decides = FanOut(clock)
    assert decides.handed_back(failure(BUSY))
    assert not decides.is_worth(LEAST + 1)
    clock.now += REST
    assert decides.is_worth(LEAST + 1)
    decides.refused(InvocationError("no"))
    assert not decides.is_usable()


def test_a_function_that_may_not_invoke_itself(caplog):
    """Relays are not used any more, and one warning says what to do, however many calls come back."""
    clock = Clock()
    decides = FanOut(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            assert decides.handed_back(failure(DENIED))
        assert decides.handed_back(failure(BUSY))
        decides.refused(InvocationError("no"))
    clock.now += 1e9
    assert not decides.is_usable()
    (record,) = caplog.records
    for word in ("pywren deploy_lambda", "lambda: fan_out", "lambda:InvokeFunction is missing"):
        assert word in record.getMessage()


@pytest.mark.parametrize("details", [(), ("OUTATIME",), (None,), (1,), ([],), ({},)])
def test_other_reports_are_none_of_its_business(details):
    """What a worker reports about a call of its own changes nothing."""
    decides = FanOut()
    assert not decides.handed_back(failure(*details))
    assert decides.is_usable()


# -- a relay that has died ---------------------------------------------------------------------------------------


def in_flight(number, **policy):
    """Return a driver with a call whose attempt of this number is in flight, the earlier ones having been killed."""
    driver = Driver(["00000"], Policy(may_lose_calls=True, **policy), jitter=lambda: 0.0)
    for one in range(1, number + 1):
        driver.accepted(*driver.take("00000"), "", 1.0)
        if one < number:
            driver.failed("00000", one, Cause.KILLED, InvocationError("killed"))
    return driver


def test_an_attempt_that_may_have_ended_in_vain():
    """Another one is made at once; the result of either counts."""
    driver = in_flight(2)
    assert isinstance(driver.outrun("00000"), Again)
    assert driver.counts().held == 1
    assert driver.outrun("00000") is None  # it waits to be invoked already
    assert [one.cause for one in driver.attempts("00000")] == ["killed", "vanished"]
    driver.ended("00000", 2, 1.0, "worker", failed=False)
    driver.settled("00000", failed=False)
    assert driver.counts().done == 1
    assert driver.outrun("00000") is None
    assert driver.outrun("unknown") is None


def test_attempts_in_vain_are_limited():
    """They count like attempts that were killed; and without retries nothing is repeated."""
    assert isinstance(in_flight(7).outrun("00000"), Over)
    assert in_flight(1, retries=0).outrun("00000") is None


# -- invoking ----------------------------------------------------------------------------------------------------


class Function(Invoker):
    """A function that takes payloads, and relays; it answers what it is told to."""

    def __init__(self):
        self.fan_out = FanOut()
        self.direct, self.relays, self.got = [], [], Counter()
        self.answer_relay = self.answer = lambda payload: None
        self._lock = threading.Lock()

    def invoke(self, payload):
        self.answer(payload)
        with self._lock:
            self.direct.append(payload["call_id"])
            self.got[payload["call_id"]] += 1
        return "direct"

    def relay(self, first, bodies):
        assert first == json.loads(bodies[0])
        payloads = json.loads(relay_payload(first, bodies))["relay"]
        self.answer_relay(payloads)
        with self._lock:
            self.relays.append(len(payloads))
            self.got.update(one["call_id"] for one in payloads)
            return f"relay-{len(self.relays)}"


@pytest.fixture
def function():
    return Function()


def run(function, count=5000, payload=None, threads=8, service=None, patient=True, **policy):
    """Invoke calls, and return the driver and what was noted."""
    driver = Driver([f"{n:05d}" for n in range(count)], Policy(retries=2, **policy), service=service)
    noted, refused = [], []

    def make(ready):
        return {"call_id": ready.call_id, "attempt": ready.number}

    invocations = Invocations(
        driver, function, payload=payload or make, now=lambda: 1.0, refused=lambda *one: refused.append(one),
        note=lambda ready, *_: noted.append(ready.call_id), callset_id="a callset", threads=threads,
        fan_out=function.fan_out,
    )  # fmt: skip
    driver.noted, driver.invocations, driver.refusals = noted, invocations, refused
    if patient:
        invocations.run()
    return driver


def test_a_few_calls_go_directly(function):
    """Up to some thousand: a relay would only delay them."""
    driver = run(function, LEAST)
    assert function.relays == []
    assert driver.counts().sent == LEAST


def test_many_calls_go_through_relays(function):
    """Each once, all accepted, and each attempt has a name that tells its relay."""
    driver = run(function)
    # At the end a thread may be left with a single call, for which a relay would be of no use.
    assert len(function.direct) < 8
    assert set(function.got.values()) == {1}
    assert len(function.got) == driver.counts().sent == len(driver.noted) == 5000
    relayed = 5000 - len(function.direct)
    assert relayed / MOST_RELAYED <= len(function.relays) <= relayed / MOST_RELAYED + 8
    names = {driver.attempts(f"{n:05d}")[0].request_id for n in range(5000)} - {"direct"}
    assert len(names) == relayed
    assert all(name.startswith("relay-") for name in names)


def test_relays_are_for_invocations_that_are_certain(function):
    """Calls that may share invocations go directly, until it shows that they will not."""
    driver = run(function, 5000, chunksize=None, concurrency=1000)
    first = 100  # the first wave
    assert first - 8 <= len(function.direct) < 2000  # each thread may have one when another begins with relays
    assert sum(function.relays) + len(function.direct) == driver.counts().sent == 5000
    assert not run(Function(), 5000, chunksize=2).invocations.fan_out.is_worth(2500)


def test_big_payloads(function):
    """A relay takes what fits; a payload that no relay takes is invoked by itself."""

    def payload(ready):
        size = {"00007": RELAY_ROOM, "00011": RELAY_ROOM - 100}.get(ready.call_id, 20_000)
        return {"call_id": ready.call_id, "attempt": ready.number, "data_inline": "x" * size}

    sizes = []
    function.answer_relay = lambda payloads: sizes.append(sum(len(json.dumps(one)) for one in payloads))
    driver = run(function, LEAST + 1, payload, threads=2)
    assert set(function.got.values()) == {1}
    assert "00007" in function.direct
    assert driver.counts().sent == len(function.got) == LEAST + 1
    assert max(sizes) <= RELAY_ROOM + 1000


def test_a_busy_service_gets_them_later(function):
    """Everything of a relay that was throttled goes back, and counts as one request that was refused."""
    refused = []

    def answer(payloads):
        if len(refused) < 3:
            refused.append(len(payloads))
            raise InvocationThrottledError("busy")

    function.answer_relay = answer
    driver = run(function)
    assert len(refused) == 3
    assert set(function.got.values()) == {1}
    assert driver.counts().sent == 5000
    assert [driver.attempts(f"{n:05d}")[0].number for n in range(0, 5000, 100)] == [1] * 50


@pytest.mark.parametrize("error", [InvocationError("too large", code="RequestTooLargeException"), ValueError("odd")])
def test_a_relay_that_is_refused(function, error):
    """Its calls are invoked directly, and so are all others for a while."""

    def answer(payloads):
        raise error

    function.answer_relay = answer
    driver = run(function)
    assert len(function.direct) == driver.counts().sent == 5000
    assert not function.fan_out.is_usable()


def test_a_service_that_refuses_everything(function):
    """``map`` raises what the service says to a single call."""

    def answer(payload):
        raise InvocationError("no such function")

    function.answer = function.answer_relay = answer
    with pytest.raises(InvocationError, match="no such function"):
        run(function)


def test_a_payload_that_cannot_be_made(function):
    """Only the error of that call is raised; what was prepared before has been handed over."""

    def payload(ready):
        if ready.call_id == "00100":
            raise StorageError("the plan cannot be written")
        return {"call_id": ready.call_id, "attempt": ready.number}

    with pytest.raises(StorageError, match="plan"):
        run(function, payload=payload, threads=1)
    assert len(function.got) == MOST_RELAYED - 1


def test_ctrl_c_while_a_relay_is_sent(function):
    """The service may have accepted it, so all its calls count as accepted."""

    def answer(payloads):
        raise KeyboardInterrupt

    function.answer_relay = answer
    driver = run(function, patient=False, threads=1)
    with pytest.raises(KeyboardInterrupt):
        driver.invocations.run()
    assert driver.invocations.uncertain == MOST_RELAYED
    assert driver.counts().sent == MOST_RELAYED
    assert driver.counts().failed == 5000 - MOST_RELAYED  # taken out of the queue


def test_ctrl_c_while_a_relay_is_prepared(function):
    """No call is left in between."""

    def payload(ready):
        if ready.call_id == "00100":
            raise KeyboardInterrupt
        return {"call_id": ready.call_id, "attempt": ready.number}

    driver = run(function, payload=payload, patient=False, threads=1)
    with pytest.raises(KeyboardInterrupt):
        driver.invocations.run()
    assert function.got == {}
    assert driver.counts().failed == 5000


def test_a_relay_is_no_way_around_a_limit(function):
    """``scheduler.max_concurrency`` and the pace of the service hold for what a relay invokes."""
    driver = run(function, max_concurrency=70, patient=False)
    driver.invocations.wake()
    deadline = threading.Event()
    for _ in range(600):
        if driver.counts().sent == 70:
            break
        deadline.wait(0.05)
    assert driver.counts().sent == 70
    assert sum(function.relays) + len(function.direct) == 70


def test_repeats_go_directly(function):
    """The first attempt may have failed because its relay did."""
    driver = run(function, patient=False)
    first = driver.next_call()
    driver.accepted(*first, "relay/0", 1.0)
    driver.failed(*first, Cause.KILLED, InvocationError("killed"))
    driver.invocations.run()
    if function.direct == []:  # it is due after a moment, which map() does not wait for
        again = driver.take(first.call_id)
        assert invoking._Crew(driver.invocations, patient=True)._together(again) == [again]
    else:
        assert first.call_id in function.direct  # others may be alone in a batch
    assert set(function.got.values()) == {1}


def test_the_pace_holds_for_what_a_relay_invokes(function):
    """At a rate that the service has set by refusing, a relay takes no more than that lets go."""
    clock = Clock()
    service = Service(clock)
    service.pace.rate = 100.0
    driver = run(function, patient=False, service=service)
    first = driver.next_call()
    crew = invoking._Crew(driver.invocations, patient=True)
    crew._relays = True
    assert 1 <= len(crew._together(first)) <= 15


# -- what comes back ---------------------------------------------------------------------------------------------


def test_only_a_relay_hands_attempts_back(function):
    """A worker that reports of an attempt that no relay has invoked has begun it: nothing follows from its words."""
    driver = run(function, LEAST + 1)
    assert driver.invocations.handed_back("00000", 1, failure(BUSY))
    directly = run(function, 2)
    for number in (1, 2):
        assert not directly.invocations.handed_back("00000", number, failure(BUSY))
        assert not directly.invocations.handed_back("00000", number, failure(DENIED))
    assert not directly.invocations.handed_back("unknown", 1, failure(DENIED))


@pytest.mark.parametrize("code", [BUSY, DENIED])
def test_a_relay_hands_attempts_back_before_its_invocation_is_answered(function, code):
    """A relay that may not invoke says so at once, which a poll may find before the program has Lambda's answer."""
    seen = []
    driver = run(function, LEAST + 1, threads=1, patient=False)
    function.answer_relay = lambda payloads: seen.append(
        driver.invocations.handed_back(payloads[0]["call_id"], payloads[0]["attempt"], failure(code))
    )
    driver.invocations.run()
    assert seen == [True]  # then the others are invoked directly
    assert driver.invocations._relaying == set()


@pytest.mark.parametrize("error", [InvocationThrottledError("busy"), InvocationError("no"), KeyboardInterrupt()])
def test_a_relay_that_was_not_accepted_hands_nothing_back(function, error):
    """Its calls are invoked directly then. After Ctrl-C nobody knows, so what it may say later is believed."""
    driver = run(function, LEAST + 1, threads=1, patient=False)
    refusals = [error]

    def answer(payloads):
        if refusals:
            function.fan_out.refused(refusals[0])  # no other relay
            raise refusals.pop()

    function.answer_relay = answer
    try:
        driver.invocations.run()
    except KeyboardInterrupt:
        pass
    assert driver.invocations.handed_back("00000", 1, failure(BUSY)) == isinstance(error, KeyboardInterrupt)


def test_a_slow_line(function, monkeypatch):
    """Calls go directly until it shows that this would take long."""
    monkeypatch.setattr(fan_out, "SLOW", 0.01)
    pause = threading.Event()
    function.answer = lambda payload: pause.wait(0.005)
    driver = run(function, 1000)
    assert 200 <= len(function.direct) < 900
    assert function.relays
    assert set(function.got.values()) == {1}
    assert driver.counts().sent == 1000


def test_without_fan_out_nothing_changes(function):
    """It is off unless the configuration says otherwise."""
    function.fan_out = None
    assert run(function).counts().sent == 5000
    assert function.relays == []
