"""Type checkers: mypy and pyright accept the right examples, and find every mistake in the wrong ones.

They check ``tests/typed/`` for each platform, without running it. pyright comes from the package ``basedpyright``,
which contains Node.js, so it needs no network.
"""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import subprocess
import sys
import typing
from pathlib import Path

import cloudpickle
import pytest

import pywren
from pywren.client import arguments
from pywren.executor import Executor
from pywren.future import ResponseFuture

ROOT = Path(__file__).parent.parent
TYPED = ROOT / "tests" / "typed"

HAS_PYRIGHT = importlib.util.find_spec("basedpyright") is not None


def check(*command: str) -> None:
    """Run a type checker, and fail with its output if it finds anything."""
    checked = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_mypy(platform: str, tmp_path: Path) -> None:
    """mypy accepts what is right, and rejects what is wrong. ``--strict`` includes ``--warn-unused-ignores``."""
    # silent: as for a program's author, mypy says nothing about the library itself.
    check(
        "mypy", "--strict", "--follow-imports=silent", f"--platform={platform}", f"--cache-dir={tmp_path}", str(TYPED)
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        # Code for other systems only counts as unreachable there, which is right.
        pytest.param(["--platform=darwin", "--no-warn-unreachable"], id="darwin"),
        pytest.param(["--platform=win32", "--config-file=tests/typed/windows.ini", "pywren"], id="win32"),
    ],
)
def test_the_package_on_other_platforms(options: list[str], tmp_path: Path) -> None:
    """On macOS all of the package is typed, and on Windows all but the workers and the emulator, which need POSIX."""
    check("mypy", f"--cache-dir={tmp_path}", *options)


@pytest.mark.thorough
@pytest.mark.skipif(not HAS_PYRIGHT, reason="needs basedpyright")
@pytest.mark.parametrize("platform", ["Linux", "Darwin", "Windows"])
def test_pyright(platform: str) -> None:
    """pyright, in its strict mode, agrees with mypy."""
    check("basedpyright", f"--pythonplatform={platform}", "--project", str(TYPED))


def test_the_options_of_map_are_those_that_other_verbs_pass_on() -> None:
    """``MapOptions`` has the optional arguments of ``map``, with the same types."""
    parameters = inspect.signature(Executor.map).parameters
    options = {name: one.annotation for name, one in parameters.items() if one.default is not inspect.Parameter.empty}
    assert {name: one.__forward_arg__ for name, one in arguments.MapOptions.__annotations__.items()} == options


class Labelled(ResponseFuture[str]):
    """A subclass of the future of a text."""


def test_a_future_is_generic_at_run_time() -> None:
    """``ResponseFuture[str]`` works in annotations that are evaluated, as a base class, and in pickles."""
    alias = ResponseFuture[str]
    assert typing.get_origin(alias) is ResponseFuture
    assert typing.get_args(alias) == (str,)
    assert pickle.loads(pickle.dumps(alias)) == alias
    assert cloudpickle.loads(cloudpickle.dumps(alias)) == alias
    future = Labelled("00000", "callset")
    assert isinstance(future, ResponseFuture)
    assert typing.get_args(Labelled.__orig_bases__[0]) == (str,)  # type: ignore[attr-defined]


def test_a_function_with_futures_in_its_signature_can_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations of futures travel with the function."""
    monkeypatch.setenv("PYWREN_HOME", str(tmp_path))

    def annotated(x: int, earlier: list[pywren.ResponseFuture[int]] | None = None) -> int:
        return x

    annotated.__annotations__["earlier"] = list[pywren.ResponseFuture[int]]  # evaluated, as without ``__future__``
    with pywren.local_executor() as executor:
        assert executor.call_async(annotated, 3).result(60) == 3


def test_every_submodule_is_declared_to_type_checkers() -> None:
    """A submodule that is an attribute at run time is one for type checkers too."""
    source = Path(pywren.__file__).read_text(encoding="utf-8")
    assert not [name for name in pywren._SUBMODULES if f"    from pywren import {name} as {name}\n" not in source]
