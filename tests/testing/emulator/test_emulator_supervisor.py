"""A supervised process and all its descendants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pywren.testing.emulator._supervisor import module_command, supervised

ORPHANS = """
import os, signal, sys, time
printed, write = os.pipe()
if os.fork() == 0:
    os.setsid()                       # it leaves the process group
    if os.fork() == 0:                # and its parent
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True)
        os.write(write, b"!")
        time.sleep(600)
    os._exit(0)
os.wait()
os.read(printed, 1)
"""


def run(*command: str) -> subprocess.CompletedProcess[bytes]:
    with subprocess.Popen(["sleep", "600"], stdout=subprocess.PIPE) as lifeline:
        try:
            return subprocess.run(supervised(command), stdin=lifeline.stdout, capture_output=True, timeout=60)
        finally:
            lifeline.kill()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 128 + 9), ("kill -15 $$", 128 + 15)]
)
def test_the_exit_code_is_the_commands(script: str, code: int) -> None:
    """A supervisor's exit code is its command's, in the form that shells use."""
    assert run("sh", "-c", script).returncode == code


def test_a_command_that_is_not_there_is_named() -> None:
    """The exit code is 127 with one line of output, as from a shell."""
    ended = run("/nowhere/at-all")
    assert ended.returncode == 127
    assert b"/nowhere/at-all cannot be started" in ended.stderr


def test_the_command_reads_nothing_and_writes_where_it_should() -> None:
    """The command's standard input is empty, and its output goes to the supervisor's."""
    ended = run(sys.executable, "-c", "import sys; print(repr(sys.stdin.read())); print('e', file=sys.stderr)")
    assert (ended.stdout, ended.stderr) == (b"''\n", b"e\n")


@pytest.mark.parametrize("ending", ["lifeline", "command", "terminate"])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has reapers other than init")
def test_nothing_survives(ending: str) -> None:
    """When the lifeline, the command or the supervisor ends, even processes that left the group are killed."""
    script = ORPHANS + ("" if ending == "command" else "time.sleep(600)")
    with subprocess.Popen(
        supervised([sys.executable, "-c", script]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        orphan = psutil.Process(int(supervisor.stdout.readline()))
        if ending == "lifeline":
            supervisor.stdin.close()
        elif ending == "terminate":
            supervisor.terminate()
        supervisor.wait(60)
        assert not orphan.is_running()
        assert supervisor.returncode == {"lifeline": 137, "command": 0, "terminate": 143}[ending]


def test_the_command_is_killed_when_its_supervisor_is() -> None:
    """On Linux, even a SIGKILL of the supervisor leaves no command behind."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux signals the death of a parent")
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen(
        supervised([sys.executable, "-c", script]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        command = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
        psutil.wait_procs([command], timeout=60)
        assert not command.is_running()


def test_a_module_is_found_where_this_interpreter_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``module_command`` copies the search path, and ignores the working directory."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "mine.py").write_text("import sys; print(__name__, sys.argv[1:])")
    (tmp_path / "json.py").write_text("raise SystemExit('the working directory is looked into')")
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    ended = subprocess.run(module_command("mine"), cwd=tmp_path, capture_output=True, check=True)
    assert ended.stdout == b"__main__ []\n"
