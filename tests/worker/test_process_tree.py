"""Processes that calls start outside their process group end with the call, however it ends, in pool and forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child_processes import WAIT, is_alive, wait_until

from pywren.pickling.packed import dumps
from pywren.worker import process_tree
from pywren.worker.task import Function, Runner, RunResult, Stop, Task

pytestmark = [
    pytest.mark.usefixtures("by_value"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere process groups are all there is"),
]


def double_fork() -> int:
    """Become a daemon as Unix programs do."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            os.closerange(0, 256)
            os.chdir("/")
            time.sleep(1000)
        os._exit(0)
    os.close(write)
    return int(os.read(read, 20))


def new_session() -> int:
    """Start a new session, as ``subprocess`` can."""
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid


def shell() -> int:
    """Start a shell's job that ignores SIGHUP; the shell ends."""
    command = "nohup setsid sleep 1000 >/dev/null 2>&1 & echo $!"
    pid = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, check=True).stdout
    return int(pid)


def deaf_grandchild() -> int:
    """Start a daemon whose child ignores every signal that it can."""
    code = (
        "import os, signal, subprocess, sys;"
        "[signal.signal(number, signal.SIG_IGN) for number in (1, 2, 3, 15)];"
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True);"
        "print(child.pid, flush=True); child.wait()"
    )
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert daemon.stdout is not None
    return int(daemon.stdout.readline())


def multiprocessing_daemon() -> int:
    """Start a daemon of ``multiprocessing`` that leaves the group."""
    import multiprocessing

    def run() -> None:
        os.setsid()
        time.sleep(1000)

    child = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    child.start()
    assert child.pid is not None
    while os.getsid(child.pid) != child.pid:
        time.sleep(0.001)
    return child.pid


def without_environment() -> int:
    """Start a command that inherits no variable, and so no mark; it is still a descendant of its call."""
    return subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True, env={}).pid


STARTS: list[Callable[[], int]] = [
    double_fork,
    new_session,
    shell,
    deaf_grandchild,
    multiprocessing_daemon,
    without_environment,
]


def leave(given: tuple[Callable[[], int], str, str]) -> str:
    """Start a process, write down its id, and end as requested."""
    start, path, end = given
    pid = start()
    with open(path + ".tmp", "w") as file:
        file.write(str(pid))
    os.rename(path + ".tmp", path)
    if end == "exit":
        os._exit(3)
    if end == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if end == "run":
        time.sleep(1000)
    return end


def run(runner: Runner, start: Callable[[], int], path: Path, end: str, **options: Any) -> RunResult:
    stopped = options.pop("stopped", None)
    task = Task(Function(os.urandom(8).hex(), dumps(leave)), dumps((start, str(path), end)), **options)
    return runner.run(task, stopped=stopped)


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.__name__)
class TestLeft:
    """A process that has left the group and the session of its call."""

    def test_ends_with_a_call_that_returns(self, runner: Runner, start: Callable[[], int], tmp_path: Path) -> None:
        """Row 19: the result arrives, and the process is killed."""
        result = run(runner, start, tmp_path / "pid", "return")
        assert result.success
        assert "child processes" in result.info["leftovers"]
        assert wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())))

    def test_ends_with_a_call_over_its_time(self, runner: Runner, start: Callable[[], int], tmp_path: Path) -> None:
        """Row 16: nothing of the call survives."""
        path = tmp_path / "pid"
        stop, ended = Stop(), []
        thread = threading.Thread(target=lambda: ended.append(run(runner, start, path, "run", stopped=stop)))
        thread.start()
        assert wait_until(path.exists)
        stop.set()
        thread.join(WAIT)
        assert ended[0].failure.kind == "CallCancelledError"
        assert wait_until(lambda: not is_alive(int(path.read_text())))


@pytest.mark.parametrize("start", [double_fork, new_session, shell, deaf_grandchild], ids=lambda start: start.__name__)
@pytest.mark.parametrize("end", ["exit", "crash"])
def test_what_a_call_that_crashes_has_left_ends(
    runner: Runner, start: Callable[[], int], end: str, tmp_path: Path
) -> None:
    """Row 246: when the call's process is gone, the mark in the environment identifies its other processes."""
    result = run(runner, start, tmp_path / "pid", end)
    assert result.failure is not None
    assert result.failure.kind == "WorkerCrashedError"
    assert wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())))


def test_a_time_out_ends_a_daemon(runner: Runner, tmp_path: Path) -> None:
    """Row 16: ``job_max_runtime`` ends it too."""
    result = run(runner, double_fork, tmp_path / "pid", "run", timeout=3.0)
    assert result.failure is not None
    assert result.failure.kind == "CallTimeoutError"
    assert wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())))


def test_what_starts_others_again_and_again_ends(runner: Runner, tmp_path: Path) -> None:
    """A process that keeps replacing itself is caught too."""

    def hydra() -> int:
        code = (
            "import os, sys\n"
            "while True:\n"
            "    if os.fork(): os._exit(0)\n"
            "    os.setsid()\n"
            "    with open(sys.argv[1], 'w') as file: file.write(str(os.getpid()))\n"
        )
        return subprocess.Popen([sys.executable, "-c", code, str(last)], start_new_session=True).pid

    last = tmp_path / "last"
    assert run(runner, hydra, tmp_path / "pid", "return").success
    assert wait_until(lambda: not any(str(last).encode() in command for command in commands()))


def commands() -> list[bytes]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    return found


def test_processes_of_others_stay(runner: Runner, tmp_path: Path) -> None:
    """Processes of the client itself live on, whatever their session."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as other:
        run(runner, double_fork, tmp_path / "pid", "exit")
        run(runner, double_fork, tmp_path / "again", "return")
        assert wait_until(lambda: not is_alive(int((tmp_path / "again").read_text())))
        assert other.poll() is None
        other.kill()


def test_marks_of_nested_workers_are_added() -> None:
    """A worker within a worker has the marks of both."""
    environment = {"PATH": "/bin"}
    process_tree.mark(environment, "/tmp/one")
    process_tree.mark(environment, "/tmp/two")
    assert environment == {"PATH": "/bin", process_tree.MARK: "/tmp/one:/tmp/two"}


def test_a_kernel_without_lists_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``/proc/…/children``, all processes are searched."""

    def none(pid: int, task: str) -> list[int]:
        raise FileNotFoundError

    real = os.path.exists
    monkeypatch.setattr(process_tree, "_children_of_task", none)
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).endswith("/children") and real(path))
    with subprocess.Popen(["sleep", "1000"]) as child:
        assert child.pid in process_tree.children_of(os.getpid())
        assert child.pid not in process_tree.children_of(child.pid)
        child.kill()


@pytest.fixture
def marked() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process with a mark."""
    environment = dict(os.environ)
    process_tree.mark(environment, "a-mark")
    with subprocess.Popen(["sleep", "1000"], env=environment, start_new_session=True) as process:
        yield process
        process.kill()


def test_a_process_in_the_middle_of_an_exec_is_found(
    marked: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a moment, a process that starts another program has neither an environment nor arguments."""
    looks: dict[str, int] = {"environ": 0, "cmdline": 0}
    read = process_tree._read

    def read_during_exec(pid: int, name: str) -> bytes:
        if pid == marked.pid and looks[name] < (2 if name == "environ" else 1):
            looks[name] += 1
            return b""
        return read(pid, name)

    monkeypatch.setattr(process_tree, "_read", read_during_exec)
    process_tree.kill_marked("a-mark")
    assert marked.wait(WAIT) == -signal.SIGKILL
    assert looks == {"environ": 2, "cmdline": 1}


def test_what_a_process_forks_that_then_ends_is_found(
    marked: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has ended since it was listed may have started another, which the list does not have."""
    listed, ended = process_tree._all_processes, subprocess.Popen(["true"])
    ended.wait()
    lists = iter([[ended.pid]])
    monkeypatch.setattr(process_tree, "_all_processes", lambda: next(lists, None) or listed())
    process_tree.kill_marked("a-mark")
    assert marked.wait(WAIT) == -signal.SIGKILL


def test_processes_that_start_one_program_after_the_other_end(tmp_path: Path) -> None:
    """Each is killed, whenever the look comes."""
    script = tmp_path / "again"
    script.write_text('exec /bin/sh "$0"\n')
    for number in range(10):
        environment = dict(os.environ)
        process_tree.mark(environment, f"{tmp_path}-{number}-")
        with subprocess.Popen(["/bin/sh", str(script)], env=environment, start_new_session=True) as process:
            process_tree.kill_marked(f"{tmp_path}-{number}-")
            try:
                assert process.wait(WAIT) == -signal.SIGKILL
            finally:
                process.kill()
