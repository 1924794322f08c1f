"""Calls that follow others: the driver holds them until it is told to let them go, however long that takes."""

from __future__ import annotations

from pywren.client.driver.driver import FOLLOWS, Driver, Later, Ready
from pywren.client.driver.policy import Policy

HOUR = 3600.0
POLICY = Policy(event_age=6 * HOUR, job_max_runtime=300.0, may_lose_calls=True)


class Clock:
    """A clock that the test advances."""

    now = 0.0

    def __call__(self):
        return self.now


def test_they_are_held_behind_all_others():
    """Calls that follow others are passed over, and the driver says why nothing else is due."""
    driver = Driver(["a", "b", "c"], Policy(), following={"a", "b"})
    assert driver.next_call() == Ready("c", 1)
    assert driver.next_call() == Later(None, FOLLOWS)
    assert driver.next_due() is None
    assert driver.not_invoked_yet() == 3
    assert driver.let_go("b")
    assert driver.next_due() == 0.0
    assert driver.next_call() == Ready("b", 1)
    assert not driver.let_go("b")


def test_one_that_was_ended_is_not_let_go():
    """A call that was cancelled while it was held stays ended."""
    driver = Driver(["a", "b"], Policy(), following={"a", "b"})
    driver.settled("a", failed=True, cancelled=True)
    assert not driver.let_go("a")
    assert driver.drop_held() == ["b"]
    assert not driver.let_go("b")
    assert driver.next_call() is None


def test_they_are_never_lost():
    """The service has accepted nothing for days: it was not asked. After that a call has all its time."""
    clock = Clock()
    driver = Driver(["a"], POLICY, following={"a"}, clock=clock)
    for _ in range(100):
        clock.now += HOUR
        driver.look()
        assert driver.decide() == driver.shut_out(60.0) == driver.overdue(clock.now, 60.0) == []
    assert driver.let_go("a")
    driver.look()
    assert driver.shut_out(60.0) == []
    ready = driver.next_call()
    driver.accepted(*ready, "", clock.now)
    assert driver.overdue(clock.now + HOUR, 60.0) == []
