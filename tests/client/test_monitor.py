"""``Monitor``: when it polls, and that its thread lives only while there is something to poll."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import pytest

from pywren.client import monitor as _monitor
from pywren.client.monitor import FIRST_POLL, SLOWEST_POLL, Monitor, poll_delay


class Watched:
    """A callset that counts its polls and is finished after some of them."""

    def __init__(self, looks: int, delay: float = 0.0) -> None:
        self.left = looks
        self.delay = delay
        self.over = threading.Event()
        self.threads: set[str] = set()

    def examine(self):
        self.threads.add(threading.current_thread().name)
        self.left -= 1
        if self.left <= 0:
            self.over.set()
            return None
        return self.delay


def monitor_threads():
    return [thread for thread in threading.enumerate() if thread.name == "pywren-monitor"]


def test_delay_grows_with_the_wait_up_to_a_ceiling():
    """A short call is noticed within tens of milliseconds; a long one costs few polls."""
    delays = [poll_delay(idle, 0.001) for idle in (0, 0.1, 1, 10, 100, 10_000)]
    assert delays == sorted(delays)
    assert delays[0] == FIRST_POLL < 0.05
    assert delays[-1] == SLOWEST_POLL
    assert poll_delay(10, 0.001) == 1.0


def test_delay_leaves_the_processor_to_others():
    """An expensive poll is not repeated at once."""
    assert poll_delay(0.0, 0.5) == 1.0


def test_polls_until_nothing_is_outstanding_and_then_ends():
    """One thread polls all callsets, and ends with the last."""
    monitor = Monitor()
    callsets = [Watched(3), Watched(5)]
    for watched in callsets:
        monitor.watch(watched)
    threads = monitor_threads()
    for watched in callsets:
        assert watched.over.wait(10)
    for thread in threads:
        thread.join(10)
    assert monitor_threads() == []
    assert callsets[0].threads == callsets[1].threads == {"pywren-monitor"}


def test_starts_again_when_there_is_something_new():
    """A monitor that had stopped polls again for a new callset."""
    monitor = Monitor()
    for _ in range(2):
        watched = Watched(1)
        monitor.watch(watched)
        assert watched.over.wait(10)


def test_asking_brings_a_planned_poll_forward():
    """A new waiter does not have to wait for the next scheduled poll."""
    monitor = Monitor()
    watched = Watched(2, delay=3600.0)
    monitor.watch(watched)
    while watched.left == 2:
        threading.Event().wait(0.001)
    monitor.watch(watched)
    assert watched.over.wait(10)


def test_a_poll_that_fails_is_not_the_last(monkeypatch, caplog):
    """An unexpected error is logged, and the callset is polled again."""
    monkeypatch.setattr(_monitor, "SLOWEST_POLL", 0.01)
    watched = Watched(3)
    errors = iter([MemoryError("full"), SystemExit(3)])
    examine = watched.examine

    def fail_twice():
        for error in errors:
            raise error
        return examine()

    watched.examine = fail_twice
    Monitor().watch(watched)
    assert watched.over.wait(10)
    assert "full" in caplog.text


def test_a_thread_that_cannot_start_is_tried_again(monkeypatch):
    """When the system cannot start a thread, the caller gets the error, and the next caller is served."""
    monitor, watched = Monitor(), Watched(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no more")))
        with pytest.raises(RuntimeError, match="no more"):
            monitor.watch(watched)
    monitor.watch(watched)
    assert watched.over.wait(10)
