"""Back-off and retries, and values made once per process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pywren.aws.per_process import PerProcess
from pywren.aws.sending import Retry, compute_backoff


def test_backoff_doubles_up_to_its_ceiling() -> None:
    """The longest wait doubles with every attempt, up to a ceiling."""
    waits = [compute_backoff(attempt, base=1.0, ceiling=10.0, jitter=lambda: 1.0) for attempt in (0, 1, 2, 3, 4, 10**6)]
    assert waits == [1, 2, 4, 8, 10, 10]


def test_backoff_keeps_half() -> None:
    """Jitter keeps at least half of a wait."""
    assert compute_backoff(2, base=1.0, jitter=lambda: 0.0) == 2.0
    assert compute_backoff(2, base=1.0, jitter=lambda: 0.5) == 3.0


def test_retry_stops_before_patience_is_exceeded() -> None:
    """The total wait never exceeds the patience, and then the last error is raised."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def fail() -> None:
        raise OSError(f"at {now[0]:.1f}")

    retry = Retry(patience=lambda error: 5.0, sleep=sleep, clock=lambda: now[0], jitter=lambda: 1.0)
    with pytest.raises(OSError, match=r"at 3\.1"):
        retry.run(fail)


def test_other_errors_are_raised_at_once() -> None:
    """Only throttling and network errors are retried."""
    tries = []

    def fail() -> None:
        tries.append(1)
        raise KeyError("x")

    with pytest.raises(KeyError):
        Retry().run(fail)
    assert len(tries) == 1


def test_threads_share_one_value() -> None:
    """Concurrent threads make the value only once."""
    made = []
    barrier = threading.Barrier(8)

    def make() -> object:
        made.append(1)
        return object()

    holder = PerProcess(make)

    def use(_: int) -> object:
        barrier.wait(timeout=30)
        return holder.get()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(use, range(8)))) == 1
    assert len(made) == 1


def test_a_failed_making_is_tried_again() -> None:
    """An error while the value is made reaches the caller, and the next use tries again."""
    results = iter([None, "value"])

    def make() -> str:
        value = next(results)
        if value is None:
            raise OSError("not yet")
        return value

    holder = PerProcess(make)
    assert holder.peek() is None
    with pytest.raises(OSError, match="not yet"):
        holder.get()
    assert holder.get() == holder.peek() == "value"
