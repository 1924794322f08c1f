"""``Copies``: which copy of a function gets the next call."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter

import pytest

from pywren.client import copies
from pywren.client.copies import RAMP, WINDOW, Copies
from pywren.exceptions import InvocationError, InvocationThrottledError
from pywren.wire.keys import MOST_COPIES, copies_of

NAMES = copies_of("f", 3)


class Service:
    """A Lambda that counts what each copy gets, and refuses what it is told to."""

    def __init__(self, names=NAMES):
        self.now = 1000.0
        self.got = Counter()
        self.refusals = {}
        self.copies = Copies(names, clock=lambda: self.now)

    def invoke(self, count=1):
        """Invoke calls as the driver does: what is too busy is offered again."""
        busy = 0
        for _ in range(count):
            try:
                self.copies.invoke(self._answer)
            except InvocationThrottledError:
                busy += 1
        return busy

    def _answer(self, name):
        if name in self.refusals:
            raise self.refusals[name]
        self.got[name] += 1
        return "request"


@pytest.fixture
def service():
    return Service()


def missing(name):
    return InvocationError(f"there is no function {name}", code="ResourceNotFoundException", request_id="r")


def test_small_maps_stay_at_the_function_itself(service):
    """The first copy gets all that it can start at once, so that its environments stay warm."""
    for _ in range(5):
        service.invoke(RAMP)
        service.now += WINDOW
    assert service.got == {"f": 5 * RAMP}
    assert service.copies.used == 1


def test_each_copy_gets_what_it_can_start(service):
    """Beyond 1,000 calls in ten seconds the next copy follows; then they take turns."""
    service.invoke(2 * RAMP + 1)
    assert service.got == {"f": RAMP, "f_copy2": RAMP, "f_copy3": 1}
    service.invoke(RAMP - 1 + 300)
    assert service.got == dict.fromkeys(NAMES, RAMP + 100)
    assert service.copies.used == 3


def test_a_copy_that_is_too_busy_rests(service):
    """The other copies take the calls; from time to time one call finds out whether it is still too busy."""
    service.refusals["f"] = InvocationThrottledError("busy", code="TooManyRequestsException", request_id="r")
    assert service.invoke(100) == 1
    assert service.got == {"f_copy2": 99}
    refused = 0
    for _ in range(60):
        service.now += 1.0
        refused += service.invoke(10)
    assert 4 <= refused <= 7  # after 1, 2, 4, … seconds
    del service.refusals["f"]
    service.now += copies.LONGEST_REST
    service.invoke(10)
    assert service.got["f"] == 10


def test_all_copies_too_busy(service):
    """The error goes to the driver, which knows how fast to go on."""
    for name in NAMES:
        service.refusals[name] = InvocationThrottledError("busy", code="TooManyRequestsException", request_id="r")
    assert service.invoke(10) == 10
    assert service.got == {}


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "AccessDeniedException"])
def test_a_missing_copy_is_passed_over(service, caplog, code):
    """It costs no call; one warning says what is wrong. After a minute it is tried again, as it may be back."""
    service.refusals["f"] = InvocationError("no f: pywren deploy_lambda", code=code, request_id="r")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert service.invoke(3) == 0
            service.now += copies.ABSENT + 1.0
    assert service.got == {"f_copy2": 15}
    (record,) = caplog.records
    assert "other copies" in record.getMessage()
    assert "pywren deploy_lambda" in record.getMessage()
    del service.refusals["f"]
    service.now += copies.ABSENT
    service.invoke()
    assert service.got["f"] == 1


def test_no_copy_at_all(service):
    """If none takes the call, the last refusal is raised."""
    service.refusals = {name: missing(name) for name in NAMES}
    with pytest.raises(InvocationError, match="there is no function f_copy3"):
        service.invoke()


def test_a_refusal_of_the_call_itself_is_raised(service):
    """Another copy would not take it either."""
    service.refusals["f"] = InvocationError("too large", code="RequestTooLargeException", request_id="r")
    with pytest.raises(InvocationError, match="too large"):
        service.invoke()
    assert service.got == {}


def test_a_function_without_copies():
    """It gets all calls, and its refusals are raised as they are."""
    service = Service(("f",))
    service.invoke(3 * RAMP)
    assert service.got == {"f": 3 * RAMP}
    service.refusals["f"] = missing("f")
    with pytest.raises(InvocationError, match="there is no function f"):
        service.invoke()


def test_what_may_have_got_calls_is_known_before_they_are_sent(service):
    """Lambda's records of a copy are read from its first call on."""
    seen = []
    service.invoke(RAMP)
    service.copies.invoke(lambda name: seen.append((name, service.copies.used)) or "request")
    assert seen == [("f_copy2", 2)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_another_thread_counts(service):
    """The child can invoke, though the lock was held when the program forked."""
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with service.copies._lock:
            held.set()
            go_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(0 if service.invoke(1) == 0 else 1)
    go_on.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_names_of_copies():
    """Names and ARNs, with or without a qualifier; the number of a copy is one digit."""
    assert copies_of("f", 1) == ("f",)
    assert copies_of("f:live", 2) == ("f:live", "f_copy2:live")
    arn = "arn:aws:lambda:us-west-2:123456789012:function:f"
    assert copies_of(arn, 2) == (arn, f"{arn}_copy2")
    assert copies_of(f"{arn}:7", 2) == (f"{arn}:7", f"{arn}_copy2:7")
    assert copies_of("f", MOST_COPIES)[-1] == "f_copy9"
