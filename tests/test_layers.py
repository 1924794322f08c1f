"""The architecture of docs/design.md, held against the imports of every module."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
SDK_DOOR = "pywren.aws.session"
SDKS = {"boto3", "botocore", "s3transfer"}
DOORS = {  # names of 0.4 that stand on the layer of what they open to
    "pywren": "scripts",
    "pywren.wrenhandler": "worker",
    "pywren.local": "invokers",
    "pywren.ec2standalone": "scripts",
}


class Import(NamedTuple):
    """One imported module, and where the import stands."""

    module: str
    line: int
    deferred: bool  # inside a function: it does not run when the module is loaded


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "pywren").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> list[Import]:
    """Every import of a module, except those for the type checker alone."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    return [
        Import(module, node.lineno, deferred)
        for node, deferred in _import_nodes(tree, deferred=False)
        for module in _imported(name, node)
    ]


def _import_nodes(node: ast.AST, *, deferred: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node, deferred
    deferred = deferred or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from _import_nodes(child, deferred=deferred)


def _imported(name: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"{name}:{node.lineno}: write the absolute name"
    # ``from pywren import storage`` imports a module, ``from pywren.storage import Storage`` a name of one
    full = [f"{node.module}.{alias.name}" for alias in node.names]
    return [module if module in MODULES else str(node.module) for module in full]


def layers() -> list[list[str]]:
    """The layers as docs/design.md draws them, the lowest first: names of modules, folders with a slash at the end."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    drawing = text.partition("## Layers")[2].split("```")[1]
    names = [re.sub(r"\([^)]*\)", "", re.split(r"\s{3,}", line.strip())[0]) for line in drawing.strip().splitlines()]
    return [[name.strip() for name in line.split(",")] for line in reversed(names)]


LAYERS = layers()


def layer(module: str) -> int | None:
    """How high a module stands, counted from 0."""
    name = DOORS[module] if module in DOORS else module.removeprefix("pywren.")
    heights = {member: height for height, members in enumerate(LAYERS) for member in members}
    folder = name.partition(".")[0] + "/"
    return heights.get(name, heights.get(folder))


def test_the_drawing_has_the_layers_it_should() -> None:
    """The drawing is read as it is meant: the wire at the bottom, the commands on top."""
    assert "wire/" in LAYERS[1]
    assert "scripts/" in LAYERS[-1]
    assert len(LAYERS) >= 9


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_layer(name: str) -> None:
    """A new module is given a place in the drawing of docs/design.md."""
    assert layer(name) is not None, f"name {name} in the layers of docs/design.md"


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_only(name: str) -> None:
    """No module imports one of a higher layer, not even inside a function."""
    own = layer(name)
    upward = []
    for item in imports(name):
        other = layer(item.module) if item.module.partition(".")[0] == "pywren" else None
        if own is not None and other is not None and other > own:
            upward.append(f"line {item.line} imports {item.module}")
    assert not upward, f"{name} on layer {own}: {upward}"


def test_there_are_no_import_cycles() -> None:
    """What runs when a module is loaded never comes back to that module."""
    graph = {
        name: {item.module for item in imports(name) if not item.deferred and item.module in MODULES} - {name}
        for name in MODULES
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", MODULES)
def test_the_sdk_is_imported_in_one_place(name: str) -> None:
    """Only the module that makes sessions and clients imports boto3 and botocore, and only once they are used.

    ``pywren.testing`` patches moto, which is botocore: it may, inside functions too.
    """
    used = [item for item in imports(name) if item.module.partition(".")[0] in SDKS]
    if name != SDK_DOOR and not name.startswith("pywren.testing"):
        assert not used
    assert all(item.deferred for item in used)


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_are_imported_where_they_are_used(name: str) -> None:
    """cloudpickle, tblib, numpy, yaml and moto are loaded by the function that needs them, not at import."""
    if name.startswith(("pywren.scripts", "pywren.testing")):
        heavy = {"numpy"}  # a command needs click to be one
    else:
        heavy = {"cloudpickle", "tblib", "numpy", "yaml", "moto", "click"}
    used = [item for item in imports(name) if item.module.partition(".")[0] in heavy and not item.deferred]
    if name in ("pywren.worker.child.main", "pywren.pickling.pickler"):  # loaded when they are needed
        used = [item for item in used if item.module.partition(".")[0] not in {"cloudpickle", "tblib"}]
    assert not used


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    """The first line of a module names its one noun."""
    assert ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8"))), f"{name} has no docstring"
