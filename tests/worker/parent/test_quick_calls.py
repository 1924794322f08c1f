"""Calls that only compute run in quick succession, and behave in every way as all other calls.

| what happens | what the program sees |
|---|---|
| quick calls are followed by one that does not end | the results of the quick ones, at once |
| its process is killed | the quick ones have their results, it has a failure, and those behind it run elsewhere |
| it is cancelled, or its time is over | the same |
| calls raise | each its own error, with the line of the function |
| results are big, or cannot be pickled | each arrives, or says why not |
| results of many sizes, so that pages fill up | each under its own index |
| the function changes with the batch | no call runs with another batch's function |
| Ctrl-C comes at any point | ``tests/client/test_ctrl_c_at_any_point.py`` |
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest
from child_processes import WAIT, error, value, wait_until

from pywren.pickling.packed import Packed, Scalars, dumps
from pywren.wire.cause import Cause
from pywren.worker.parent.batch import Batch
from pywren.worker.parent.pool import LocalPool
from pywren.worker.task import Function, RunResult

pytestmark = pytest.mark.usefixtures("by_value")

FOREVER = -1
BASE = 10


def echo(x: Any) -> Any:
    """Return the argument; never return for ``FOREVER``."""
    while x == FOREVER:
        pass
    return x


def pickles(args: Sequence[Any]) -> Sequence[Packed]:
    """Pickle each argument."""
    return [dumps(arg, out_of_band=True) for arg in args]


def scalars(args: Sequence[Any]) -> Sequence[Packed]:
    """Leave numbers and strings as they are, as maps do."""
    return Scalars.of([*args]) or pickles(args)


packed = pickles


@pytest.fixture(autouse=True, params=[pickles, scalars])
def _packed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the arguments of calls packed in one way or the other."""
    monkeypatch.setattr(sys.modules[__name__], "packed", request.param)


@pytest.fixture(params=[1, 2])
def pool(request: pytest.FixtureRequest) -> Iterator[LocalPool]:
    """Return a pool of one or two processes."""
    pool = LocalPool(request.param)
    pool.acquire()
    yield pool
    pool.close()


class Calls:
    """Submits calls and collects their results."""

    def __init__(
        self, pool: LocalPool, called: Callable[..., Any] | Function, args: Sequence[Any], **options: Any
    ) -> None:
        self.results: dict[int, RunResult] = {}
        self.started: set[int] = set()
        self.count = len(args)
        self._changed = threading.Condition()
        function = called if isinstance(called, Function) else Function(os.urandom(8).hex(), dumps(called))
        self.batch: Batch = pool.submit(
            function,
            packed(args),
            on_results=self._take,
            on_start=self._start,
            **options,
        )

    def _start(self, index: int) -> None:
        with self._changed:
            self.started.add(index)
            self._changed.notify_all()

    def wait_until_running(self, *indices: int) -> None:
        """Wait until processes have begun these calls."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.started >= {*indices}, WAIT), sorted(self.started)

    def _take(self, found: list[tuple[int, RunResult]]) -> None:
        with self._changed:
            for index, result in found:
                assert index not in self.results
                self.results[index] = result
            self._changed.notify_all()

    def wait_for(self, *indices: int) -> None:
        """Wait until these calls have results."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.results.keys() >= {*indices}, WAIT), sorted(self.results)

    def values(self) -> list[Any]:
        """Wait for all results, and return what the calls returned."""
        self.wait_for(*range(self.count))
        return [value(self.results[index]) for index in range(self.count)]


def hang(pool: LocalPool, calls: int = 700) -> Calls:
    """Run quick calls, and then one for each process that does not end. Return when only these run."""
    Calls(pool, echo, range(300)).values()
    processes = len(children())
    found = Calls(pool, echo, [*range(calls), *[FOREVER] * processes])
    found.wait_for(*range(calls))
    found.wait_until_running(*range(calls, found.count))
    # A call counts as running once a process is to take it next. The process has taken it when it computes again.
    used = {process: process.cpu_times().user for process in children()}
    assert wait_until(lambda: all(process.cpu_times().user > used[process] + 0.05 for process in used))
    return found


def children() -> list[psutil.Process]:
    """Return the processes of the pool."""
    return [one for one in psutil.Process().children() if "pywren" in " ".join(one.cmdline())]


def end(pool: LocalPool, calls: Calls) -> None:
    """Cancel the calls that do not end."""
    for index in range(calls.count):
        pool.cancel(calls.batch, index)
    calls.wait_for(*range(calls.count))


def test_quick_calls_do_not_wait_for_a_slow_one(pool: LocalPool) -> None:
    """All processes are in a call that does not end, and the calls before these have their results."""
    calls = hang(pool)
    assert [value(calls.results[index]) for index in range(700)] == list(range(700))
    end(pool, calls)
    assert Calls(pool, echo, range(300)).values() == list(range(300))


def test_a_process_that_is_killed_takes_no_other_result_along(pool: LocalPool) -> None:
    """Its call fails, and each of the others has its value."""
    calls = hang(pool)
    for process in children():
        process.send_signal(signal.SIGKILL)
    calls.wait_for(*range(calls.count))
    assert [value(calls.results[index]) for index in range(700)] == list(range(700))
    failures = [calls.results[index].failure for index in range(700, calls.count)]
    assert all(failure is not None and failure.cause is Cause.KILLED for failure in failures)


def test_the_call_that_was_killed_is_the_one_that_ran(pool: LocalPool) -> None:
    """Quick calls before it, whose results were on their way, and behind it, which had not begun, return."""
    Calls(pool, echo, range(300)).values()
    calls = Calls(pool, echo, [*range(200), FOREVER, *range(200)])
    calls.wait_for(*range(200))
    assert wait_until(lambda: pool.cancel(calls.batch, 200))
    calls.wait_for(*range(401))
    assert [value(calls.results[index]) for index in range(401) if index != 200] == [*range(200), *range(200)]
    failure = calls.results[200].failure
    assert failure is not None
    assert failure.cause is Cause.CANCELLED


def test_a_time_limit_ends_the_call_that_runs(pool: LocalPool) -> None:
    """Not the quick ones before it, whose results have not been sent, and not those behind it."""
    Calls(pool, echo, range(300)).values()
    calls = Calls(pool, echo, [*range(200), FOREVER, *range(200)], timeout=1.0)
    calls.wait_for(*range(401))
    assert [value(calls.results[index]) for index in range(401) if index != 200] == [*range(200), *range(200)]
    failure = calls.results[200].failure
    assert failure is not None
    assert failure.cause is Cause.TIMED_OUT


def test_errors_arrive_with_their_line(pool: LocalPool) -> None:
    """Of many calls, every third raises: each has its own error, and the traceback names the function."""

    def call(x: int) -> float:
        return 1 / (x % 3)

    calls = Calls(pool, call, range(600))
    calls.wait_for(*range(600))
    for index, result in calls.results.items():
        if index % 3:
            assert value(result) == 1 / (index % 3)
        else:
            assert isinstance(error(result), ZeroDivisionError)
            assert result.exception is not None
            assert "in call" in result.exception[2]
            assert "pool_mode" not in result.exception[2]
            assert "runner" not in result.exception[2]


def test_results_of_many_sizes(pool: LocalPool) -> None:
    """Small ones are sent together, bigger ones alone, and each arrives under its own index."""
    sizes = [(index * 37) % 97 * (900 if index % 11 == 0 else 50) for index in range(800)]
    assert Calls(pool, lambda n: "x" * n, sizes).values() == ["x" * n for n in sizes]


def test_results_of_many_kinds(pool: LocalPool) -> None:
    """Containers and numbers of any size, and results that cannot be pickled, among plain ones."""

    def call(x: int) -> Any:
        if x % 50 == 7:
            return (n for n in [x])
        return [x, (x, {x: str(x)}), 10**x, None, x / 2][x % 5]

    calls = Calls(pool, call, range(700))
    calls.wait_for(*range(700))
    for x, result in calls.results.items():
        if x % 50 == 7:
            assert result.failure is not None
            assert result.failure.kind == "ResultSerializationError"
        else:
            assert value(result) == [x, (x, {x: str(x)}), 10**x, None, x / 2][x % 5]


def test_batches_that_alternate(pool: LocalPool) -> None:
    """Calls of several functions, of the same kind and of others, each run with their own."""
    found = [
        Calls(pool, called, range(300))
        for _ in range(3)
        for called in (lambda x: x + 1, lambda x: x * 2, lambda x: os.getpid() and x - 1, echo)
    ]
    expected = [[x + 1 for x in range(300)], [2 * x for x in range(300)], [x - 1 for x in range(300)], list(range(300))]
    assert [calls.values() for calls in found] == expected * 3


def test_arguments_that_are_no_plain_data(pool: LocalPool) -> None:
    """An argument of a class of its own among numbers runs as any other call."""
    arguments = [ValueError(x) if x % 7 == 3 else x for x in range(300)]
    found = Calls(pool, lambda x: str(x), arguments).values()
    assert found == [str(one) for one in arguments]


def test_times_are_told(pool: LocalPool) -> None:
    """Each result says how long its own function ran."""

    def call(n: int) -> int:
        return sum(range(n))

    calls = Calls(pool, call, [10] * 300 + [5_000_000])
    calls.wait_for(*range(301))
    seconds = [calls.results[index].info["exec_time"] for index in range(301)]
    assert 0 < sorted(seconds)[150] < seconds[300]


def test_the_pump_sleeps_while_a_call_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for results that were not sent less and less often, and not at all behind the last call."""
    pool = LocalPool(1)
    pool.acquire()
    try:
        calls = hang(pool)
        looks = threading.Event()
        monkeypatch.setattr(pool._feeder, "look_for_unsent", lambda _: looks.set())
        assert not looks.wait(0.5)
        end(pool, calls)
    finally:
        pool.close()


class Meddler:
    """When it is added to something, it changes the variables of the function that adds it."""

    def __radd__(self, other: int) -> int:
        sys._getframe(1).f_globals["BASE"] = 99
        return other


def test_a_map_after_one_whose_argument_has_changed_something() -> None:
    """It begins with the function as it was sent."""
    pool = LocalPool(1)
    pool.acquire()
    try:
        function = Function(b"shared by maps", dumps(lambda x: BASE + x), load_anew=True)
        for arguments, expected in (([1, 2], [11, 12]), ([Meddler()], [10]), ([3], [13])):
            assert Calls(pool, function, arguments).values() == expected
    finally:
        pool.close()
