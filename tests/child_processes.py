"""What the tests of workers share: reading results, and checking the state of other processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pywren.pickling.packed import loads
from pywren.pickling.packed_exceptions import load_exception
from pywren.worker.task import RunResult

WAIT = 60.0
"""Seconds that are enough for any of these waits, even on a busy machine."""

_ROOT = Path(__file__).parents[1]


def value(result: RunResult) -> Any:
    """Return what the function returned."""
    assert result.success, (result.failure, result.exception)
    assert result.body is not None
    return loads(result.body)


def error(result: RunResult) -> BaseException:
    """Return what the function raised."""
    assert result.success is False, result.failure
    assert result.body is not None
    return load_exception(result.body)


def complaints(stderr: str) -> str:
    """Return what a program has written to stderr, without the line that says that its end takes long.

    On a busy machine any end may take two seconds.
    """
    return "".join(line for line in stderr.splitlines(keepends=True) if "the program is ending" not in line)


def wait_until(condition: Callable[[], bool]) -> bool:
    """Wait until a condition outside this process holds, and return whether it does."""
    deadline = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended but was not reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def run_script(script: str, *arguments: str) -> str:
    """Run a script in its own interpreter, which can import little more than pywren, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
