"""Every public name of PyWren 0.4 exists with its parameters, or docs/migrating.md gives a reason why not."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
LISTED = ROOT / "tests" / "golden" / "names_0.4.txt"
"""The names that 0.4's source distribution defines: modules, and below each its names."""


class Name(NamedTuple):
    """A public name of 0.4: its module, and its parameters if it can be called."""

    module: str
    path: str
    parameters: str | None

    def __str__(self) -> str:
        return f"{self.module}.{self.path}"


def names() -> Iterator[Name]:
    module = ""
    for line in LISTED.read_text().splitlines():
        if line.startswith("== "):
            module = line.removeprefix("== ")
            continue
        path, called, parameters = line.strip().removesuffix(")").partition("(")
        if path:
            yield Name(module, path, parameters if called else None)


NAMES = list(names())


def excuses() -> dict[str, str]:
    """Return the names that the page says are gone, with the reasons."""
    page = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", page.partition("## Gone")[2].partition("\n## ")[0], re.M)
    return {name: reason for told, reason in rows for name in re.findall(r"`([\w.]+)`", told)}


EXCUSES = excuses()


def find(name: Name) -> Any:
    value: Any = importlib.import_module(name.module)
    for part in name.path.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", [name for name in NAMES if str(name) not in EXCUSES], ids=str)
def test_names_of_0_4(name: Name) -> None:
    """The name can be imported, and takes 0.4's parameters by name and in order; new ones are optional."""
    value = find(name)
    if name.parameters is None or not callable(value):
        return
    wanted = [parameter for parameter in name.parameters.replace("**kwargs", "").split(", ") if parameter]
    found = list(inspect.signature(value).parameters.values())
    assert [parameter.name for parameter in found[: len(wanted)]] == wanted
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    assert all(p.default is not p.empty or p.kind in variable for p in found[len(wanted) :])


def test_modules_are_attributes_after_a_plain_import() -> None:
    """As in 0.4, ``import pywren`` makes nearly all modules available."""
    wanted = sorted({name.module for name in NAMES if not name.module.startswith("pywren.scripts")} - {"pywren.wait"})
    program = f"import pywren\nfor name in {wanted}: assert eval(name).__name__ == name, name"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("told", sorted(EXCUSES))
def test_excuses(told: str) -> None:
    """Each name that the page says is gone was a name in 0.4, no longer exists, and has a reason."""
    (name,) = [one for one in NAMES if str(one) == told]
    with pytest.raises(AttributeError):
        find(name)
    assert EXCUSES[told].strip()
