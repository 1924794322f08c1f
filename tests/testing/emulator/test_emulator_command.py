"""``python -m pywren.testing.emulator -- CMD …``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pywren.testing.emulator.__main__ import _run_command

PROGRAM = [sys.executable, "-m", "pywren.testing.emulator"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_it_says_how_it_is_used() -> None:
    """The help explains every option, with its default."""
    text = run("--help").stdout
    for option in ("--memory", "--timeout", "--concurrency", "--containers", "--packages", "--fault", "--keep-going"):
        assert option in text
    assert "CMD" in text
    assert "1536" in text


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--", "no-such-command"], 127, "no-such-command: command not found"),
        (["--", "/etc/passwd"], 126, "/etc/passwd: cannot be executed"),
        ([], 2, "Missing argument"),
        (["--containers", "0", "--", "true"], 1, "containers"),
        (["--fault", "bad_luck=1", "--", "true"], 1, "bad_luck"),
        (["--fault", "kill_container", "--", "true"], 2, "NAME=VALUE"),
        (["--fault", "kill_container=often", "--", "true"], 1, "'often'"),
        (["--fault", "kill_container.times=2", "--", "true"], 1, "choose from share, most"),
        (["--fault", "kill_at=noon", "--", "true"], 1, "start, running, before_response"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_started(arguments: list[str], code: int, text: str) -> None:
    """The error is one line and an exit code, and no emulator is started."""
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr


JOB = """
import os, pathlib, pywren, time, yaml
path = pathlib.Path(os.environ["PYWREN_CONFIG_FILE"])
assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0
assert "AWS_PROFILE" not in os.environ
pwex = pywren.default_executor()
print(pywren.get_all_results(pwex.map(lambda x: x + 1, range(3))))
pwex.map(lambda x: time.sleep(0.5), range(2))
print(yaml.safe_load(path.read_text())["lambda"]["memory"])
raise SystemExit(7)
"""


@pytest.mark.emulator
def test_a_program_runs_under_it(tmp_path: Path) -> None:
    """Rows 114 and 115: its exit code is passed on; the final table has the calls that it did not wait for."""
    job = tmp_path / "job.py"
    job.write_text(JOB)
    options = "--memory", "512", "--fault", "s3_latency=0.01", "--packages", "click, tblib"
    ended = run(*options, "--", sys.executable, str(job), AWS_PROFILE="mine", PYWREN_EXECUTOR="local")
    assert re.search(r"^pywren-\w+ +5 +0 ", ended.stderr, re.MULTILINE), ended.stderr
    assert "PYWREN_EXECUTOR=local is unset" in ended.stderr
    assert (ended.returncode, ended.stdout) == (7, "[1, 2, 3]\n512\n"), ended.stderr
    assert "Invoke" in ended.stderr
    assert "CreateFunction" not in ended.stderr


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [
        ("#!/no/such/interpreter\n", 127, "No such file or directory"),
        ("neither a script nor a program", 126, "Exec format error"),
    ],
)
def test_what_cannot_be_run_after_all(
    text: str, code: int, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 113: the error is one line, with the exit code of a shell."""
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(0o755)
    assert _run_command([str(program)], {}) == code
    assert capsys.readouterr().err == f"{program}: cannot be executed: {why}\n"


def test_a_program_that_a_signal_ends() -> None:
    """The exit code is 128 + n, as from a shell."""
    assert _run_command(["sh", "-c", "kill -TERM $$"], os.environ) == 128 + signal.SIGTERM


@pytest.mark.emulator
def test_ctrl_c_is_the_programs_to_answer() -> None:
    """The emulator waits for the program, and passes its exit code on."""
    script = "trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*PROGRAM, "--", "sh", "-c", script], **pipes, start_new_session=True) as both:
        assert both.stdout is not None
        assert both.stdout.readline() == b"ready\n"
        os.killpg(both.pid, signal.SIGINT)
        assert b"received no requests" in both.communicate(timeout=60)[1]
        assert both.returncode == 5


@pytest.mark.emulator
def test_it_goes_on_until_it_is_interrupted() -> None:
    """``--keep-going`` prints how to reach it, with the configuration, and ends with the program's exit code."""
    command = [*PROGRAM, "--keep-going", "--", "sh", "-c", "exit 3"]
    environment = {**os.environ, "AWS_PROFILE": "mine"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as program:
        assert program.stderr is not None
        said = []
        for line in program.stderr:
            said.append(line)
            if "until Ctrl-C" in line:
                break
        shell = "".join(line for line in said if line.startswith(("export ", "unset ")))
        shell += 'echo "$AWS_PROFILE $AWS_ENDPOINT_URL"; grep -c function_name: "$PYWREN_CONFIG_FILE"'
        told = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True, env=environment).stdout
        assert re.fullmatch(r" http://127.0.0.1:\d+\n1\n", told)
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 3
