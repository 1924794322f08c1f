"""Calls of the pool that run again: their arguments, their delays, and the races with everything that ends calls."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from child_processes import WAIT, is_alive, value, wait_until

from pywren.pickling.packed import dumps
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker import memory
from pywren.worker.parent import members
from pywren.worker.parent.members import Members
from pywren.worker.parent.pool import LocalPool
from pywren.worker.task import Function, Repeat, Repeats, RunResult

pytestmark = pytest.mark.usefixtures("by_value")


@pytest.fixture
def pool() -> Iterator[LocalPool]:
    """Return a pool of two processes."""
    pool = LocalPool(2)
    pool.acquire()
    yield pool
    pool.close()


class Calls:
    """Submits calls, has those that fail run again, and collects all results.

    Args:
        decide: called with an index and a failed result on the pump's thread; returns the delay, or ``None``.
    """

    def __init__(
        self,
        pool: LocalPool,
        called: Callable[..., Any],
        args: Sequence[Any],
        decide: Callable[[int, RunResult], float | None] = lambda index, result: 0.0,
        repeats: Repeats = Repeats.FAILURES,
        **options: Any,
    ) -> None:
        self.results: list[list[RunResult]] = [[] for _ in args]
        self._decide = decide
        self._changed = threading.Condition()
        self._repeats = repeats
        packed = [dumps(arg, out_of_band=True) for arg in args]
        self.batch = pool.submit(
            Function(os.urandom(8).hex(), dumps(called, out_of_band=True)), packed, on_results=self._take,
            repeats=repeats, **options,
        )  # fmt: skip

    def _take(self, found: list[tuple[int, RunResult]]) -> list[Repeat]:
        again = []
        for index, result in found:
            if not result.success and self._repeats.includes(result):
                delay = self._decide(index, result)
                if delay is not None:
                    again.append(Repeat(index, delay))
            with self._changed:
                self.results[index].append(result)
                self._changed.notify_all()
        return again

    def wait_for(self, index: int, count: int) -> list[RunResult]:
        """Wait until a call has had some results."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.results[index]) >= count, WAIT), self.results
        return self.results[index]


def dies_until(argument: tuple[str, int, Any]) -> Any:
    """End the process, as if it was killed from outside, until this was called some times."""
    import subprocess

    path, times, rest = argument
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) <= times:
        subprocess.run(["kill", "-9", str(os.getpid())], check=True)
        time.sleep(60)
    return rest if isinstance(rest, (str, int)) else float(rest.sum())


@pytest.mark.parametrize(
    ("rest", "expected"),
    [(7, 7), ("x" * 100_000, "x" * 100_000), (np.ones(1000), 1000.0), (np.ones(1_000_000), 1_000_000.0)],
    ids=["small", "big pickle", "middle", "big array"],
)
def test_a_call_runs_again_with_its_argument(pool: LocalPool, tmp_path: Any, rest: Any, expected: Any) -> None:
    """The snapshot of the argument survives a failed attempt, and not the last one."""
    calls = Calls(pool, dies_until, [(str(tmp_path / "x"), 2, rest)])
    results = calls.wait_for(0, 3)
    assert [result.failure and result.failure.cause for result in results] == [Cause.KILLED, Cause.KILLED, None]
    assert value(results[2]) == expected
    assert pool.wait(WAIT)
    assert calls.batch.entries == [None]
    assert not calls.batch.arenas


def test_what_has_returned_is_let_go_at_once(pool: LocalPool, tmp_path: Any) -> None:
    """Arguments of calls that succeed do not wait for others that run again."""
    arrays = [np.ones(10_000_000, np.uint8) for _ in range(14)]
    arguments = [(str(tmp_path / str(index)), int(index == 0), array) for index, array in enumerate(arrays)]
    calls = Calls(pool, dies_until, arguments, lambda index, result: 60.0)
    for index in range(1, 14):
        calls.wait_for(index, 1)
    calls.wait_for(0, 1)
    assert wait_until(lambda: [entry is None for entry in calls.batch.entries] == [False] + [True] * 13)
    assert len(calls.batch.arenas) == 1
    assert not pool.wait(0.0)
    assert pool.cancel(calls.batch, 0)
    assert pool.wait(WAIT)
    assert not calls.batch.arenas


def test_a_decision_against_another_attempt_is_final(pool: LocalPool, tmp_path: Any) -> None:
    """The call has had its only result, and nothing of it is kept."""
    calls = Calls(pool, dies_until, [(str(tmp_path / "x"), 9, 1)], lambda index, result: None)
    calls.wait_for(0, 1)
    assert pool.wait(WAIT)
    assert calls.batch.entries == [None]
    assert not pool.cancel(calls.batch, 0)
    assert len(calls.results[0]) == 1


def test_a_delay(pool: LocalPool, tmp_path: Any) -> None:
    """A call that runs again later waits for its time, and holds up no other."""
    calls = Calls(pool, dies_until, [(str(tmp_path / "x"), 1, 1)], lambda index, result: 0.5)
    calls.wait_for(0, 1)
    began = time.monotonic()
    assert value(Calls(pool, len, ["xy"]).wait_for(0, 1)[0]) == 2
    assert value(calls.wait_for(0, 2)[1]) == 1
    assert time.monotonic() - began >= 0.4


def raises_until(argument: tuple[str, int]) -> int:
    path, times = argument
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) <= times:
        raise ConnectionError("no")
    return os.path.getsize(path)


def test_exceptions_are_final_unless_asked(pool: LocalPool, tmp_path: Any) -> None:
    """Only a batch that says so is asked about calls that raised."""
    calls = Calls(pool, raises_until, [(str(tmp_path / "a"), 2)])
    assert calls.wait_for(0, 1)[0].success is False
    assert pool.wait(WAIT)
    calls = Calls(pool, raises_until, [(str(tmp_path / "b"), 2)], repeats=Repeats.ERRORS)
    assert [result.success for result in calls.wait_for(0, 3)] == [False, False, True]
    calls = Calls(pool, raises_until, [(str(tmp_path / "c"), 2)], repeats=Repeats.NEVER)
    calls.wait_for(0, 1)
    assert pool.wait(WAIT)


@pytest.mark.parametrize("when", ["undecided", "delayed"])
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_failed_call_is_cancelled(pool: LocalPool, tmp_path: Any, when: str, how: str) -> None:
    """While its next attempt is decided about, and while that waits for its time."""
    deciding, decided = threading.Event(), threading.Event()

    def decide(index: int, result: RunResult) -> float:
        deciding.set()
        if when == "undecided":
            assert decided.wait(WAIT)
            return 0.0
        return 60.0

    calls = Calls(pool, dies_until, [(str(tmp_path / "x"), 9, 1)], decide)
    assert deciding.wait(WAIT)
    if when == "delayed":
        calls.wait_for(0, 1)
    closing = threading.Thread(target=pool.close)
    if how == "cancel":
        assert pool.cancel(calls.batch, 0)
    else:
        closing.start()
        assert wait_until(lambda: pool.lifetime.closed)
    decided.set()
    results = calls.wait_for(0, 2)
    assert results[1].failure is not None
    assert results[1].failure.cause is Cause.CANCELLED
    assert pool.wait(WAIT)
    if how == "close":
        closing.join(WAIT)
        assert not closing.is_alive()
    assert len(results) == 2


def test_a_callback_that_raises_ends_its_calls(pool: LocalPool, tmp_path: Any) -> None:
    """Nothing stays outstanding when nobody has decided."""

    def decide(index: int, result: RunResult) -> float:
        raise RuntimeError("a mistake")

    Calls(pool, dies_until, [(str(tmp_path / "x"), 9, 1)], decide)
    assert pool.wait(WAIT)
    assert value(Calls(pool, len, ["xy"]).wait_for(0, 1)[0]) == 2


def test_calls_of_many_batches_run_again(pool: LocalPool) -> None:
    """Every call has its value, whatever is killed."""
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(1.0):
            for pid in [member.process.pid for member in list(pool._members)][:1]:
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        batches = [Calls(pool, lambda x: time.sleep(0.05) or x, range(20)) for _ in range(5)]
        assert pool.wait(2 * WAIT)
    finally:
        stop.set()
        killer.join()
    values = [[value(one[-1]) for one in calls.results] for calls in batches]
    assert values == [list(range(20))] * 5


def test_a_batch_that_may_use_one_process(pool: LocalPool) -> None:
    """It runs one call at a time, and others use the other process."""
    calls = Calls(pool, lambda _: (time.time(), time.sleep(0.05), time.time()), range(8), most_processes=1)
    other = Calls(pool, time.sleep, [0.01])
    other.wait_for(0, 1)
    assert sum(map(len, calls.results)) < 8
    spans = sorted(value(calls.wait_for(index, 1)[0]) for index in range(8))
    assert all(before[2] <= after[0] for before, after in itertools.pairwise(spans))


# -- processes that are killed while they start ----------------------------------------------------------------


def test_processes_that_are_killed_while_they_start(pool: LocalPool) -> None:
    """However many are killed, calls do not fail: the next process may live."""
    assert wait_until(lambda: any(member.ready for member in pool._members))
    killed: set[int] = set()
    calls = None
    while len(killed) < 10:
        for pid in {member.process.pid for member in list(pool._members)} - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        calls = calls or Calls(pool, len, ["x"] * 20)
        time.sleep(0.005)
    assert [value(calls.wait_for(index, 1)[-1]) for index in range(20)] == [1] * 20
    assert wait_until(lambda: not any(is_alive(pid) for pid in killed))


def test_the_first_process_is_killed_at_its_start() -> None:
    """The pool starts another one for the first call."""
    pool = LocalPool(2)
    try:
        os.kill(next(iter(pool._members)).process.pid, signal.SIGKILL)
        assert value(Calls(pool, len, ["xy"]).wait_for(0, 1)[0]) == 2
    finally:
        pool.close()


class _Dead:
    """A process that has ended before it was ready."""

    ready = killed = False
    dying = True


KILLED = Failure("WorkerCrashedError", "killed", (-9,), Cause.KILLED)
EXITED = Failure("WorkerCrashedError", "exited", (1,), Cause.ENDED_ITSELF)
UNKNOWN = Failure("WorkerCrashedError", "unknown", (None,), Cause.KILLED)


def rounds(last: Failure, seconds: float, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Return after how many starts, one after the other, the pool gives up; ``None`` if it does not."""
    now = [100.0]
    monkeypatch.setattr(members.time, "monotonic", lambda: now[0])
    kept = Members(1)
    for number in range(1, 200):
        now[0] += seconds
        dead: Any = _Dead()
        kept._members.append(dead)
        kept.remove(dead, last)
        failure = kept.give_up(last)
        if failure is not None:
            assert "worker processes cannot start" in failure.message
            return number
    return None


def test_when_the_pool_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three processes that ended by themselves, but after two minutes of kills."""
    assert rounds(EXITED, 0.1, monkeypatch) == 3
    assert rounds(UNKNOWN, 0.1, monkeypatch) == 3
    found = rounds(KILLED, 1.0, monkeypatch)
    assert found is not None
    assert 120 <= found <= 130


# -- memory ----------------------------------------------------------------------------------------------------


def test_memory_that_is_known_to_be_exhausted(pool: LocalPool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the system has killed to get memory does not look as if it was killed by somebody."""
    assert wait_until(lambda: any(member.ready for member in pool._members))
    counts = iter(range(5, 100))
    monkeypatch.setattr(memory, "oom_kills", lambda *_: next(counts))
    calls = Calls(pool, dies_until, [(str(tmp_path / "x"), 9, 1)], lambda index, result: None)
    failure = calls.wait_for(0, 1)[0].failure
    assert failure is not None
    assert failure.cause is Cause.OUT_OF_MEMORY
    assert "ran out of memory" in failure.message


# -- calls that two processes have -----------------------------------------------------------------------------


def slow_first(path: str) -> int:
    """Hang at the first call with a path, and return the process's id at the second."""
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) == 1:
        time.sleep(600)
    return os.getpid()


def back_up(pool: LocalPool, calls: Calls) -> int:
    """Have an idle process run the first call, too, as soon as there is one."""
    found: list[int] = []
    assert wait_until(lambda: bool(found.append(pid) if (pid := pool.back_up(calls.batch, 0)) else found))
    return found[0]


def test_the_first_result_of_two_attempts_counts(pool: LocalPool, tmp_path: Any) -> None:
    """The process of the other attempt is killed."""
    path = tmp_path / "x"
    calls = Calls(pool, slow_first, [str(path)])
    assert wait_until(path.exists)
    (slow,) = [member.process.pid for member in pool._members if member.tickets]
    quick = back_up(pool, calls)
    (result,) = calls.wait_for(0, 1)
    assert value(result) == quick == result.info["process"]
    assert pool.wait(WAIT)
    assert wait_until(lambda: not is_alive(slow))
    assert len(calls.results[0]) == 1
    assert pool.back_up(calls.batch, 0) is None


def test_a_backed_up_call_loses_one_attempt(pool: LocalPool, tmp_path: Any) -> None:
    """The failure of one attempt does not end the call while the other runs."""
    path = tmp_path / "x"
    calls = Calls(pool, lambda path: time.sleep(1.5) or slow_first(path), [str(path)], lambda index, result: None)
    path.touch()
    path.write_text("x")
    assert wait_until(lambda: any(member.tickets and member.ready for member in pool._members))
    (first,) = [member.process.pid for member in pool._members if member.tickets]
    second = back_up(pool, calls)
    os.kill(first, signal.SIGKILL)
    failed, returned = calls.wait_for(0, 2)
    assert failed.failure is not None
    assert (failed.failure.cause, failed.info["process"]) == (Cause.KILLED, first)
    assert value(returned) == second
    assert pool.wait(WAIT)


def test_a_backed_up_call_is_cancelled(pool: LocalPool, tmp_path: Any) -> None:
    """Both processes that have begun it end."""

    def begin(directory: str) -> None:
        os.mkdir(os.path.join(directory, str(os.getpid())))
        time.sleep(600)

    calls = Calls(pool, begin, [str(tmp_path)])
    assert wait_until(lambda: any(member.tickets and member.ready for member in pool._members))
    (first,) = [member.process.pid for member in pool._members if member.tickets]
    second = back_up(pool, calls)
    assert wait_until(lambda: {path.name for path in tmp_path.iterdir()} == {str(first), str(second)})
    assert pool.cancel(calls.batch, 0)
    (result,) = calls.wait_for(0, 1)
    assert result.failure is not None
    assert result.failure.cause is Cause.CANCELLED
    assert wait_until(lambda: not is_alive(first) and not is_alive(second))
    assert pool.wait(WAIT)


def test_ticks(pool: LocalPool) -> None:
    """A batch that asks for it hears of the time, as long as it has calls."""
    ticks: list[int] = []
    Calls(pool, time.sleep, [0.5], on_tick=ticks.append).wait_for(0, 1)
    assert pool.wait(WAIT)
    heard = len(ticks)
    assert heard >= 2
    time.sleep(0.3)
    assert len(ticks) == heard
