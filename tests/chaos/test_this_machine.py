"""Calls on this machine whose workers are killed: every call returns its value, and nobody sees the kills.

A call that seven kills hit ends with an error. On a busy machine, where processes start slowly, many kills would hit
the same calls. So processes are killed only after some more calls have ended. ``PYWREN_CHAOS=full`` runs 500 calls
instead of 200, and kills in any case, so that its time depends on how long a process takes to start.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pywren
from pywren.executor import Executor
from pywren.invokers import LocalInvoker
from pywren.worker.parent.pool import LocalPool

FULL = os.environ.get("PYWREN_CHAOS") == "full"
CALLS = 500 if FULL else 200
CALL_SECONDS = 0.02
KILL_SECONDS = 0.15
WAIT = 600.0
BETWEEN = 4
"""How many calls end between two kills."""


@contextmanager
def machine() -> Iterator[tuple[Executor, LocalPool]]:
    """Yield an executor whose pool of two processes is its own, so that only its processes are killed."""
    pool = LocalPool(2)
    try:
        with pywren.local_executor(LocalInvoker(pool=pool)) as executor:
            yield executor, pool
    finally:
        pool.close()


def kill(pid: int) -> bool:
    """Kill a process that may have ended already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def processes(pool: LocalPool) -> list[int]:
    """Return the processes of the pool, those that are starting included."""
    return [member.process.pid for member in list(pool._members) if not member.process.reaped]


@contextmanager
def struck(
    pool: LocalPool, choose: Callable[[list[int]], list[int]], seconds: float, ended: Path | None = None
) -> Iterator[Counter[str]]:
    """Kill some of a pool's processes again and again, and yield the count of kills.

    Args:
        pool: the pool.
        choose: returns those of its processes that are killed this time.
        seconds: the time between two kills.
        ended: the file to which each call adds a byte when it ends; kill only after ``BETWEEN`` more have ended.
    """
    done, counts = threading.Event(), Counter[str]()

    def strike() -> None:
        due = 0
        while not done.wait(seconds):
            if ended is not None:
                if not ended.exists() or ended.stat().st_size < due:
                    continue
                due = ended.stat().st_size + BETWEEN
            found = processes(pool)
            counts["kills"] += sum(map(kill, choose(found))) if found else 0

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield counts
    finally:
        done.set()
        thread.join()


def squares(executor: Executor, calls: int, place: Path) -> list[int]:
    """Square numbers, and return the squares.

    Each call adds a byte to a file of its own, and at its end to ``ended``.
    """

    def add_byte(name: str) -> None:
        with open(place / name, "a") as file:
            file.write("x")

    def square(number: int) -> int:
        add_byte(str(number))
        time.sleep(CALL_SECONDS)
        add_byte("ended")
        return number**2

    futures = executor.map(square, range(calls))
    pywren.wait(futures, timeout=WAIT)
    return [future.result(timeout=WAIT) for future in futures]


EXPECTED = [number**2 for number in range(CALLS)]


@pytest.mark.timeout(2 * WAIT)
def test_workers_that_are_killed_at_random(tmp_path: Path) -> None:
    """A worker is killed every 0.15 s, whatever it does at that moment."""
    choice, ended = random.Random(7), None if FULL else tmp_path / "ended"
    with machine() as (executor, pool):
        with struck(pool, lambda found: [choice.choice(found)], KILL_SECONDS, ended) as counts:
            assert squares(executor, CALLS, tmp_path) == EXPECTED
        assert counts["kills"] > 5
        begun = [len((tmp_path / str(number)).read_bytes()) for number in range(CALLS)]
    assert max(begun) <= 7


def test_all_workers_die_at_once(tmp_path: Path) -> None:
    """All processes die together, several times."""
    with machine() as (executor, pool), struck(pool, list, 0.3, tmp_path / "ended"):
        assert squares(executor, CALLS // 4, tmp_path) == EXPECTED[: CALLS // 4]


def test_workers_that_die_while_they_boot(tmp_path: Path) -> None:
    """The first six processes die before they can run a call, the very first one included."""
    dead: set[int] = set()

    def choose(found: list[int]) -> list[int]:
        chosen = [pid for pid in found if pid not in dead][: 6 - len(dead)]
        dead.update(chosen)
        return chosen

    with machine() as (executor, pool), struck(pool, choose, 0.01):
        assert squares(executor, CALLS // 4, tmp_path) == EXPECTED[: CALLS // 4]
    assert len(dead) == 6


def test_a_worker_that_is_stopped_and_killed(tmp_path: Path) -> None:
    """A process that was stopped first dies in the same way."""
    with machine() as (executor, pool):

        def choose(found: list[int]) -> list[int]:
            os.kill(found[0], signal.SIGSTOP)
            return found[:1]

        with struck(pool, choose, 0.3, tmp_path / "ended"):
            assert squares(executor, CALLS // 4, tmp_path) == EXPECTED[: CALLS // 4]
