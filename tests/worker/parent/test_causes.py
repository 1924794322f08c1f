"""Why the process of a call ended, as the pool and the fork server tell it: by what the call did, or from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from child_processes import WAIT, value, wait_until

from pywren.pickling.packed import dumps
from pywren.wire.cause import Cause
from pywren.worker import own_signals, process_tree
from pywren.worker.parent.fork_server import ForkServer
from pywren.worker.parent.pool import LocalPool
from pywren.worker.task import Function, Runner, RunResult, Stop, Task, crash_failure

pytestmark = pytest.mark.usefixtures("by_value")


def run(runner: Runner, called: Callable[..., Any], arg: Any = None, **options: Any) -> RunResult:
    """Run one call."""
    stopped = options.pop("stopped", None)
    task = Task(Function(os.urandom(8).hex(), dumps(called)), dumps(arg), **options)
    return runner.run(task, stopped=stopped)


def cause(result: RunResult) -> Cause | None:
    """Return why there is no outcome."""
    assert result.failure is not None, result
    return result.failure.cause


def from_a_fork(number: int) -> None:
    """Send the worker a signal from a process that it has forked."""
    if os.fork() == 0:
        os.kill(os.getppid(), number)
        os._exit(0)
    time.sleep(WAIT)


def interrupted(_: object) -> None:
    raise KeyboardInterrupt


def alarmed(_: object) -> None:
    signal.alarm(1)
    time.sleep(WAIT)


def uses_up_its_time(_: object) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
    while True:
        pass


OWN = [
    pytest.param(lambda number: os.kill(os.getpid(), number), signal.SIGKILL, id="kill"),
    pytest.param(lambda number: os.kill(os.getpid(), number), signal.SIGTERM, id="kill SIGTERM"),
    pytest.param(lambda number: os.kill(os.getpid(), number), signal.SIGINT, id="kill SIGINT"),
    pytest.param(lambda number: os.kill(os.getpid(), number), signal.SIGQUIT, id="kill SIGQUIT"),
    pytest.param(lambda number: os.kill(0, number), signal.SIGKILL, id="kill 0"),
    pytest.param(lambda number: os.kill(-os.getpgrp(), number), signal.SIGKILL, id="kill -group"),
    pytest.param(lambda number: os.killpg(0, number), signal.SIGKILL, id="killpg 0"),
    pytest.param(lambda number: os.killpg(os.getpgrp(), number), signal.SIGHUP, id="killpg"),
    pytest.param(lambda number: signal.raise_signal(number), signal.SIGTERM, id="raise_signal"),
    pytest.param(lambda number: signal.pthread_kill(threading.get_ident(), number), signal.SIGHUP, id="pthread_kill"),
    pytest.param(lambda number: psutil.Process().send_signal(number), signal.SIGKILL, id="psutil"),
    pytest.param(from_a_fork, signal.SIGKILL, id="a fork"),
    pytest.param(interrupted, None, id="KeyboardInterrupt"),
    pytest.param(sys.exit, 0, id="sys.exit"),
    pytest.param(os._exit, 3, id="os._exit"),
    pytest.param(lambda number: os.kill(os.getpid(), number), signal.SIGSEGV, id="SIGSEGV"),
    pytest.param(lambda number: os.kill(os.getpid(), number), signal.SIGUSR1, id="SIGUSR1"),
    pytest.param(lambda _: os.abort(), None, id="abort"),
    pytest.param(alarmed, None, id="alarm"),
    pytest.param(uses_up_its_time, None, id="processor time"),
    pytest.param(lambda _: os.closerange(3, 4096), None, id="closerange"),
]


@pytest.mark.parametrize(("called", "arg"), OWN)
def test_a_process_that_its_call_ends(runner: Runner, called: Callable[..., Any], arg: Any) -> None:
    """A call that ends its process would do so again."""
    assert cause(run(runner, called, arg)) is Cause.ENDED_ITSELF


def call_processes(runner: Runner) -> list[int]:
    """Return the processes that run calls, as soon as the runner knows of one."""
    # A call may begin before the pool's thread has read that its process is ready.
    assert wait_until(lambda: bool(_call_processes(runner)))
    return _call_processes(runner)


def _call_processes(runner: Runner) -> list[int]:
    if isinstance(runner, LocalPool):
        return [member.process.pid for member in runner._members if member.tickets and member.ready]
    assert isinstance(runner, ForkServer)
    return [child for server in runner._servers.values() for child in process_tree.children_of(server.pid)]


def says_so_and_sleeps(path: str) -> str:
    Path(path).touch()
    time.sleep(WAIT)
    return "slept"


def killed_from_outside(
    runner: Runner, path: Path, kill: Callable[[], None], called: Callable[[str], Any] = says_so_and_sleeps
) -> RunResult:
    """Run a call, and call ``kill`` when it has begun."""

    def when_it_runs() -> None:
        assert wait_until(path.exists)
        kill()

    killer = threading.Thread(target=when_it_runs)
    killer.start()
    try:
        return run(runner, called, str(path))
    finally:
        killer.join()


@pytest.mark.parametrize("number", sorted(own_signals.DEADLY), ids=lambda number: signal.Signals(number).name)
def test_a_process_that_somebody_kills(runner: Runner, number: int, tmp_path: Path) -> None:
    """Whoever sends one of these signals from outside, the call cannot help it."""

    def kill() -> None:
        for pid in call_processes(runner):
            os.kill(pid, number)

    result = killed_from_outside(runner, tmp_path / "begun", kill)
    assert (cause(result), result.returncode) == (Cause.KILLED, -number)


def kills_by_a_program(path: str) -> None:
    Path(path).touch()
    subprocess.run(["kill", "-9", str(os.getpid())], check=True)
    time.sleep(WAIT)


def test_a_kill_by_a_program_is_ambiguous(runner: Runner, tmp_path: Path) -> None:
    """What another program sends cannot be told from a kill from outside."""
    assert cause(run(runner, kills_by_a_program, str(tmp_path / "begun"))) is Cause.KILLED


def survives(path: str) -> str:
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.kill(os.getpid(), signal.SIGTERM)
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(WAIT)
    with contextlib.suppress(ProcessLookupError, TypeError):
        os.kill("no process", 9)  # type: ignore[arg-type]
    return says_so_and_sleeps(path)


def test_a_signal_that_a_call_survives_is_forgotten(runner: Runner, tmp_path: Path) -> None:
    """After a signal that the call handled, a kill from outside is still one."""

    def kill() -> None:
        for pid in call_processes(runner):
            os.kill(pid, signal.SIGKILL)

    assert cause(killed_from_outside(runner, tmp_path / "begun", kill, survives)) is Cause.KILLED


def blocks(_: object) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
    return os.getpid()


def test_a_deadly_signal_that_is_blocked_spends_the_process(runner: Runner) -> None:
    """The next call runs in another process."""
    assert value(run(runner, blocks)) != value(run(runner, lambda _: os.getpid()))


def test_functions_that_send_signals_are_what_they_were(runner: Runner) -> None:
    """They have their names, pickle by them, and raise what they raised."""

    def looks(_: object) -> tuple[Any, ...]:
        import pickle

        with contextlib.suppress(ProcessLookupError):
            os.kill(2**22 + 1, 0)
        return os.kill.__name__, pickle.loads(pickle.dumps(os.kill)) is os.kill, signal.raise_signal.__name__

    assert value(run(runner, looks)) == ("kill", True, "raise_signal")
    result = run(runner, lambda _: os.kill("x", 9))  # type: ignore[arg-type]
    assert result.exception is not None
    assert result.exception[0].endswith("TypeError")


def test_the_death_of_the_fork_server_is_a_kill(tmp_path: Path) -> None:
    """Without the server nobody tells how the call's process ended. If the call killed the server, that is known."""
    with ForkServer(lambda name, text: None) as server:

        def kill() -> None:
            for mother in server._servers.values():
                os.kill(mother.pid, signal.SIGKILL)

        assert cause(killed_from_outside(server, tmp_path / "begun", kill)) is Cause.KILLED
        result = run(server, lambda _: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(WAIT)))
        assert cause(result) is Cause.ENDED_ITSELF
        assert value(run(server, len, "xy")) == 2


def test_a_time_limit_and_a_cancellation(runner: Runner) -> None:
    """The worker's own kills have their own causes."""
    assert cause(run(runner, time.sleep, WAIT, timeout=0.2)) is Cause.TIMED_OUT
    stopped = Stop()
    threading.Timer(0.3, stopped.set).start()
    assert cause(run(runner, time.sleep, WAIT, stopped=stopped)) is Cause.CANCELLED


@pytest.mark.parametrize(
    ("returncode", "by_itself", "expected"),
    [
        (0, False, Cause.ENDED_ITSELF),
        (255, False, Cause.ENDED_ITSELF),
        (None, False, Cause.KILLED),
        (None, True, Cause.ENDED_ITSELF),
        (-9, False, Cause.KILLED),
        (-9, True, Cause.ENDED_ITSELF),
        (-11, False, Cause.ENDED_ITSELF),
        (-64, False, Cause.ENDED_ITSELF),
    ],
)
def test_exit_codes(returncode: int | None, by_itself: bool, expected: Cause) -> None:
    """What an exit code means, with and without the mark of a signal that the process sent itself."""
    assert crash_failure(returncode, by_itself=by_itself).cause is expected
