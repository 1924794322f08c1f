"""Attempts of calls on this machine, as programs see them: who runs again, how often, and what is told about it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from child_processes import WAIT, run_script

import pywren
from pywren.client.callset import Callset, Submission
from pywren.client.driver import retrying
from pywren.client.driver.driver import Driver
from pywren.client.driver.policy import Policy
from pywren.client.local_attempts import LocalAttempts
from pywren.client.local_calls import LocalCallset
from pywren.client.verdict import Verdict
from pywren.exceptions import ArgumentError, CallCancelledError, CallTimeoutError, WorkerCrashedError
from pywren.executor import Executor
from pywren.future import ResponseFuture
from pywren.pickling.packed import Packed
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker.task import RunResult


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """Return an executor of this machine."""
    with pywren.local_executor() as made:
        yield made


def attempts(future: ResponseFuture) -> tuple[Any, ...]:
    """Return the attempts of a call."""
    assert future._origin is not None
    return future._origin.attempts(future)


def count(path: str) -> int:
    """Return how often this was called with a path."""
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)


def dies_until(path: str, times: int) -> int:
    """End the process, as if it was killed from outside, until this was called some times."""
    number = count(path)
    if number <= times:
        subprocess.run(["kill", "-9", str(os.getpid())], check=True)
        time.sleep(60)
    return number


def test_a_killed_call_returns_its_value(executor: Executor, tmp_path: Path) -> None:
    """Nobody sees the kill, except who asks for the attempts."""
    future = executor.call_async(lambda path: dies_until(path, 1), str(tmp_path / "x"))
    assert future.result(timeout=WAIT) == 2
    first, second = attempts(future)
    assert (first.number, first.cause, second.number, second.cause) == (1, "killed", 2, None)
    assert first.where.startswith("process ")
    assert "SIGKILL" in first.error
    assert first.invoked_at <= second.invoked_at <= second.started_at
    status = future.run_status
    assert status is not None
    assert [one["cause"] for one in status["attempts"]] == ["killed", None]


def test_a_call_that_kills_every_worker(executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After six more attempts the error names all of them."""
    monkeypatch.setattr(retrying, "SHORTEST_DELAY", 0.01)
    future = executor.call_async(lambda path: dies_until(path, 99), str(tmp_path / "x"))
    with pytest.raises(WorkerCrashedError, match=r"(?s)SIGKILL.*attempt 1: killed.*attempt 7: killed") as caught:
        future.result(timeout=2 * WAIT)
    assert caught.value.returncode == -9
    assert os.path.getsize(tmp_path / "x") == 7
    assert [one.number for one in attempts(future)] == [1, 2, 3, 4, 5, 6, 7]
    assert str(caught.value).count("SIGKILL") == 1  # what is the same for all attempts is said once
    assert [one.started_at for one in attempts(future)] == [None] * 7


def test_without_retries_nothing_runs_twice(executor: Executor, tmp_path: Path) -> None:
    """``retries=0`` means that a call which may have started is never started again."""
    future = executor.map(lambda path: dies_until(path, 1), [str(tmp_path / "x")], retries=0)[0]
    with pytest.raises(WorkerCrashedError):
        future.result(timeout=WAIT)
    assert len(attempts(future)) == 1
    assert os.path.getsize(tmp_path / "x") == 1


def raises_until(argument: tuple[str, int]) -> int:
    number = count(argument[0])
    if number <= argument[1]:
        raise ConnectionError("no route")
    return number


def test_exceptions_that_the_program_wants_retried(executor: Executor, tmp_path: Path) -> None:
    """They are tried again; after the last attempt the exception itself is raised."""
    arguments = [(str(tmp_path / "a"), 2), (str(tmp_path / "b"), 9)]
    futures = executor.map(raises_until, arguments, retries=2, retry_on=(ConnectionError,))
    assert futures[0].result(timeout=WAIT) == 3
    with pytest.raises(ConnectionError, match="no route") as caught:
        futures[1].result(timeout=WAIT)
    assert caught.value.args == ("no route",)
    assert [len(attempts(future)) for future in futures] == [3, 3]
    assert [(one.cause, one.error) for one in attempts(futures[1])] == [("exception", "ConnectionError: no route")] * 3


@pytest.mark.parametrize("wrong", ["ConnectionError", ConnectionError("x"), int, (ValueError, 7), 7])
def test_what_is_no_class_of_exceptions(executor: Executor, wrong: object) -> None:
    """The message shows what was passed, not a part of it."""
    shown = wrong[1] if isinstance(wrong, tuple) else wrong
    with pytest.raises(ArgumentError, match=r"retry_on takes .*exceptions") as caught:
        executor.map(abs, [1], retry_on=wrong)  # type: ignore[arg-type]
    assert repr(shown) in str(caught.value) or type(shown).__name__ in str(caught.value)


def test_other_exceptions_are_not_retried(executor: Executor, tmp_path: Path) -> None:
    """Neither those of other classes, nor any if the program did not ask."""
    asked = executor.map(raises_until, [(str(tmp_path / "a"), 9)], retries=2, retry_on=(KeyError,))[0]
    plain = executor.map(raises_until, [(str(tmp_path / "b"), 9)])[0]
    for future in (asked, plain):
        with pytest.raises(ConnectionError):
            future.result(timeout=WAIT)
    assert os.path.getsize(tmp_path / "a") == os.path.getsize(tmp_path / "b") == 1


@pytest.mark.parametrize(
    "call", [lambda path: (count(path), os._exit(3)), lambda path: (count(path), os.kill(os.getpid(), 9))],
    ids=["os._exit", "its own signal"],
)  # fmt: skip
def test_a_call_that_ends_itself_runs_once(executor: Executor, tmp_path: Path, call: Any) -> None:
    """It would do so again, unless the program asks for it."""
    future = executor.call_async(call, str(tmp_path / "x"))
    with pytest.raises(WorkerCrashedError):
        future.result(timeout=WAIT)
    assert os.path.getsize(tmp_path / "x") == 1
    assert [one.cause for one in attempts(future)] == ["ended itself"]
    future = executor.map(call, [str(tmp_path / "y")], retries=1, retry_on=(WorkerCrashedError,))[0]
    with pytest.raises(WorkerCrashedError, match=r"attempt 2: ended itself"):
        future.result(timeout=WAIT)
    assert os.path.getsize(tmp_path / "y") == 2


def test_a_call_that_is_cancelled_between_its_attempts(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not run again."""
    monkeypatch.setattr(LocalAttempts, "failed", lambda *_: 60.0)
    future = executor.call_async(lambda path: dies_until(path, 99), str(tmp_path / "x"))
    other = executor.call_async(lambda path: dies_until(path, 1), str(tmp_path / "y"))
    deadline = time.monotonic() + WAIT
    while not (tmp_path / "x").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    assert future.cancel()
    with pytest.raises(CallCancelledError):
        future.result(timeout=WAIT)
    assert other.cancel()
    assert os.path.getsize(tmp_path / "x") == 1


def test_attempts_of_calls_that_were_tried_once(executor: Executor) -> None:
    """There is always one, whatever became of it."""
    values, errors = executor.map(abs, [-1, "x"])
    late = executor.call_async(time.sleep, 60)
    pywren.wait([values, errors], timeout=WAIT)
    (returned,), (raised,), (running,) = map(attempts, (values, errors, late))
    assert (returned.cause, returned.error) == (None, "")
    assert returned.invoked_at <= returned.started_at
    assert (raised.cause, raised.number) == ("exception", 1)
    assert "abs()" in raised.error
    assert (running.cause, running.started_at) == (None, None)
    assert late.cancel()
    assert [one.cause for one in attempts(late)] == ["cancelled"]
    assert values.run_status is not None
    assert "attempts" not in values.run_status


def test_a_program_that_ends_waits_for_the_next_attempt(tmp_path: Path) -> None:
    """A call whose worker was killed counts as outstanding until its last attempt."""
    path = tmp_path / "x"
    run_script(
        """
        import os, subprocess, sys, time, pywren
        def call(path):
            with open(path, "a") as file:
                file.write("x")
            if os.path.getsize(path) <= 2:
                subprocess.run(["kill", "-9", str(os.getpid())])
                time.sleep(60)
            with open(path, "a") as file:
                file.write("done")
        pywren.local_executor().call_async(call, sys.argv[1])
        """,
        str(path),
    )
    assert path.read_text() == "xxxdone"


class Odd(type):
    """The class of a class that cannot be compared with."""

    problem: type[BaseException] = RuntimeError

    def __instancecheck__(cls, instance: object) -> bool:
        raise cls.problem("odd")


class OddError(Exception, metaclass=Odd):
    """An exception class that breaks ``isinstance``."""


class ExitError(OddError):
    """An exception class that ends the thread which compares with it."""

    problem = SystemExit


class UnspeakableError(Exception):
    """An exception that ends the thread which asks for its text."""

    def __str__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize("odd", [OddError, ExitError])
def test_a_class_that_cannot_be_compared_with(odd: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """What pywren itself repeats is repeated; the program's exceptions are not, and the pool goes on."""
    asked = LocalAttempts(Callset("p"), Policy(retry_on=(odd,)))
    assert asked.failed("00000", *outcome(Cause.KILLED)) == 0.0
    verdict, result = outcome(Cause.EXCEPTION)
    assert asked.failed("00001", verdict, result) == verdict
    assert "cannot be decided" in caplog.text


def test_an_exception_without_a_text() -> None:
    """It has attempts all the same."""
    verdict, _ = outcome(Cause.EXCEPTION)
    asked = LocalAttempts(Callset("p"), Policy())
    (attempt,) = asked.of("00000", verdict._replace(error=UnspeakableError()))
    assert attempt.error == "UnspeakableError"


def test_a_decision_that_fails_ends_the_call(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the attempt counts, and nothing hangs."""
    monkeypatch.setattr(Driver, "failed", Mock(side_effect=RuntimeError("odd")))
    verdict, result = outcome(Cause.KILLED)
    assert LocalAttempts(Callset("p"), Policy()).failed("00000", verdict, result) is verdict
    assert "cannot be decided" in caplog.text


def outcome(cause: Cause) -> tuple[Verdict, RunResult]:
    """Return what is reported about an attempt that has failed."""
    result = RunResult(None, None, failure=Failure("WorkerCrashedError", "x", (-9,), cause), returncode=-9)
    return Verdict(None, WorkerCrashedError("x", -9), result, time.time()), result


def test_a_timeout_is_final() -> None:
    """A time limit is not the platform's fault."""
    result = RunResult(None, None, failure=Failure("CallTimeoutError", "x", (), Cause.TIMED_OUT))
    verdict = Verdict(None, CallTimeoutError("x"), result, time.time())
    asked = LocalAttempts(Callset("p"), Policy())
    assert asked.failed("00000", verdict, result) is verdict
    assert [one.cause for one in asked.of("00000", verdict)] == ["timed out"]


def hangs_once(argument: tuple[str, int]) -> int:
    if argument[1] == 3 and count(argument[0]) == 1:
        time.sleep(600)
    return argument[1]


def test_a_call_that_hangs_is_backed_up(executor: Executor, tmp_path: Path) -> None:
    """With ``backup=True`` a second attempt is started when half of the calls are done; the first result counts."""
    path = tmp_path / "x"
    futures = executor.map(hangs_once, [(str(path), number) for number in range(8)], backup=True)
    assert [future.result(timeout=WAIT) for future in futures] == list(range(8))
    first, second = attempts(futures[3])
    assert (first.cause, first.backup, second.cause, second.backup) == ("cancelled", False, None, True)
    assert second.where.startswith("process ")
    assert [len(attempts(future)) for future in futures if future is not futures[3]] == [1] * 7


def test_a_cap_on_what_runs_at_once() -> None:
    """``max_concurrency`` caps the processes that work for a map."""
    policy = Policy(max_concurrency=1)
    asked: dict[str, Any] = {}

    class Pool:
        def prepare(self, *arguments: Any, **options: Any) -> None:
            asked.update(options)

        def add(self, batch: None) -> None:
            """Nothing runs."""

    packed = Packed(b"")
    callset = LocalCallset(Callset("p"), None, Pool(), policy)  # type: ignore[arg-type]
    callset.submit(Submission(Callset("p"), packed, {}, [packed], [()]), False, None)
    assert asked["most_processes"] == 1
    assert asked["on_tick"] is None
