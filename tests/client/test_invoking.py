"""The threads that invoke what a driver lets go."""

from __future__ import annotations

import threading
import time

import pytest
from lines import lines_run

from pywren.client.driver.driver import Driver
from pywren.client.driver.policy import Policy
from pywren.client.invoking import Invocations
from pywren.client.protocols import Invoker
from pywren.exceptions import InvocationError, InvocationThrottledError, WorkerCrashedError
from pywren.wire.cause import Cause


class Service(Invoker):
    """A service that answers what a function says."""

    def __init__(self, answer):
        self.answer = answer
        self.taken = []

    def invoke(self, payload):
        self.answer(payload)
        self.taken.append(payload)
        return "an id"


def make(answer, count=100, threads=8, **policy):
    """Return a driver, its invocations, its service, and the calls that were refused."""
    driver, service, refused = Driver([f"{n:05d}" for n in range(count)], Policy(**policy)), Service(answer), []
    invocations = Invocations(
        driver, service, payload=tuple, now=time.time, refused=lambda *call: refused.append(call),
        note=lambda *_: None, callset_id="a callset", threads=threads,
    )  # fmt: skip
    return driver, invocations, service, refused


def test_each_call_once():
    """Every call is invoked once, whatever thread invokes it."""
    driver, invocations, service, _ = make(lambda _: None)
    invocations.run()
    assert sorted(service.taken) == [(f"{n:05d}", 1) for n in range(100)]
    assert driver.counts().sent == 100


def test_a_busy_service():
    """Calls that are throttled are offered again, until all are accepted."""
    offered = []

    def answer(payload):
        offered.append(payload)
        if len(offered) % 5 == 0:
            raise InvocationThrottledError("busy")

    driver, invocations, service, _ = make(answer, count=20)
    invocations.run()
    assert sorted(service.taken) == [(f"{n:05d}", 1) for n in range(20)]
    assert driver.counts().sent == 20


@pytest.mark.parametrize("error", [InvocationError("no such function"), KeyboardInterrupt(), SystemExit(3)])
def test_what_stops_a_map(error):
    """A refusal, or Ctrl-C, is raised at once, and no thread goes on."""

    def answer(payload):
        if payload[0] == "00003":
            raise error

    driver, invocations, service, _ = make(answer)
    before = set(threading.enumerate())
    with pytest.raises(type(error)):
        invocations.run()
    assert set(threading.enumerate()) <= before
    taken = len(service.taken)
    assert driver.counts().held == 0  # a poll that comes now invokes nothing
    assert invocations.wake()
    assert len(service.taken) == taken


def test_polls_that_begin_with_a_map_leave_its_calls_to_it():
    """So ``map`` raises what is refused."""
    driver, invocations, service, _ = make(lambda _: None, count=3)
    woken = []
    invocations.run(begun=lambda: woken.append((invocations.wake(), len(service.taken))))
    assert woken == [(False, 0)]
    assert driver.counts().sent == 3


def test_map_does_not_wait_for_repeats():
    """A call that is to be invoked again later is left to the background."""
    driver, invocations, service, _ = make(lambda _: None, count=2)
    first = driver.next_call()
    driver.accepted(*first, "", 0.0)
    driver.failed(*first, Cause.WORKER_FAILED, InvocationError("failed"))
    began = time.monotonic()
    invocations.run()
    assert ("00001", 1) in service.taken
    assert time.monotonic() - began < 20
    assert driver.counts().held + driver.counts().sent == 2


def test_a_small_crew_grows():
    """Calls that come back while a single thread invokes are invoked by several threads at the same time."""
    together, began, go_on = threading.Barrier(4), threading.Event(), threading.Event()

    def answer(payload):
        if payload == ("00040", 1):
            began.set()
            assert go_on.wait(60)
        else:
            together.wait(60)

    driver, invocations, service, _ = make(answer, count=41, chunksize=1)
    taken = [driver.next_call() for _ in range(40)]
    for ready in taken:
        driver.accepted(*ready, "", 0.0)
    assert invocations.wake()
    assert began.wait(60)
    for ready in taken:
        driver.failed(*ready, Cause.HANDED_BACK, WorkerCrashedError("no time left"))
    go_on.set()
    assert driver.wait_until_invoked(60)
    assert sorted(service.taken) == sorted([("00040", 1), *((f"{n:05d}", 2) for n in range(40))])


def test_a_cap_holds_calls_back():
    """``max_concurrency`` lets only so many go; the rest waits in the driver, and ``run`` returns."""
    driver, invocations, service, _ = make(lambda _: None, max_concurrency=10)
    invocations.run()
    assert (len(service.taken), driver.not_invoked_yet()) == (10, 90)
    driver.ended("00000", 1, None, "", failed=False)
    invocations.wake()
    deadline = time.monotonic() + 20
    while len(service.taken) < 11 and time.monotonic() < deadline:
        driver.wait(0.05)
    assert len(service.taken) == 11


def test_a_call_that_is_just_being_invoked():
    """The end of the program waits until it is accepted, also while a lost call waits to be invoked again."""
    driver = Driver(["00000", "00001"], Policy(retries=3))
    lost = driver.next_call()
    driver.accepted(*lost, "an id", time.time())
    other = driver.next_call()
    driver.failed(*lost, Cause.KILLED, WorkerCrashedError("killed"))
    assert driver.not_invoked_yet() == 1
    assert not driver.wait_until_invoked(0.0)
    accept = threading.Timer(0.1, driver.accepted, [*other, "an id", time.time()])
    accept.start()
    assert driver.wait_until_invoked(20)
    accept.join()
    assert driver.not_invoked_yet() == 0


def test_it_costs_the_end_of_a_program_little_to_wait_for_many_calls():
    """What an invocation and a look cost does not depend on how many calls the map has."""

    def look(count):
        driver = Driver([f"{number:05d}" for number in range(count)], Policy(chunksize=1))
        assert not driver.wait_until_invoked(0.0)
        ready = driver.next_call()
        _, invoking = lines_run("pywren.client", driver.accepted, *ready, "an id", 0.0)
        is_over, waiting = lines_run("pywren.client", driver.wait_until_invoked, 0.0)
        assert not is_over
        return invoking, waiting

    assert look(10_000) == look(100)


def test_a_process_that_can_start_no_thread(monkeypatch):
    """At the end of a program on Python 3.12, for example, the thread that polls invokes the calls."""
    driver, invocations, service, _ = make(lambda _: None, count=20, max_concurrency=10)
    invocations.run()
    for index in range(10):
        driver.ended(f"{index:05d}", 1, None, "", failed=False)

    def start(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    invocations.wake()
    assert (len(service.taken), driver.not_invoked_yet()) == (20, 0)
