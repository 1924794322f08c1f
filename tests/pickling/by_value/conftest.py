"""Fixtures for the tests of this folder: a worker process, and scripts."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pywren

WAIT = 120


@pytest.fixture(scope="session")
def there() -> Iterator[Callable[..., Any]]:
    """Return a runner of a function with one argument in a worker process, which returns or raises what it did."""
    with pywren.local_executor() as pwex:
        yield lambda function, argument=None: pwex.map(function, [argument])[0].result(timeout=WAIT)


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Return a runner of programs as scripts; in them, ``run(function, argument)`` calls a function on a worker."""
    before = "import pywren\npwex = pywren.local_executor()\nrun = lambda f, x=None: pwex.map(f, [x])[0].result()\n"

    def run(text: str, *, future: bool = False) -> str:
        path = tmp_path / "the_script.py"
        first = "from __future__ import annotations\n" if future else ""
        path.write_text(first + before + textwrap.dedent(text), encoding="utf-8")
        done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
