"""The architecture in docs/design.md, checked against every module's imports and functions."""

from __future__ import annotations

import ast
import graphlib
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FACE = "pywren"  # imports modules by name for its users, and so may import from every layer; no other module may
SDK_DOORS = {"pywren.aws.session", "pywren.aws.lean"}
SDKS = {"boto3", "botocore", "s3transfer"}
DOORS = {  # names of 0.4, which belong to the layer of the modules that they load
    "pywren": "scripts",
    "pywren.wrenhandler": "worker",
    "pywren.local": "client",
    "pywren.ec2standalone": "cloud",
}
MOST_FILES = 19
"""The most files that ``pywren/`` may have beside its folders."""

MEDIAN, NINETIETH, LONGEST = 7, 19, 66
"""Lines of the functions of the package, docstrings included."""

LONG_BY_0_4 = {"invoke_with_keys", "map"}
"""Functions that are long because PyWren 0.4 gave them nine or fourteen parameters."""


class Import(NamedTuple):
    """One imported module, and where the import is."""

    module: str
    line: int
    deferred: bool  # the import is in a function, and does not run when the module is loaded


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "pywren").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@cache
def imports(name: str) -> tuple[Import, ...]:
    """Return every import of a module, including by ``importlib``, except those for type checkers only."""
    return tuple(
        Import(module, node.lineno, deferred)
        for node, deferred in _import_nodes(parsed(name), deferred=False)
        for module in _imported(name, node)
    )


def _import_nodes(node: ast.AST, *, deferred: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom | ast.Call, bool]]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)) or (isinstance(node, ast.Call) and _imports_by_name(node)):
        yield node, deferred
    deferred = deferred or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from _import_nodes(child, deferred=deferred)


def _imports_by_name(call: ast.Call) -> bool:
    """Return whether a call imports: ``import_module(…)``, ``__import__(…)``, or a call with one of them."""
    mentioned = [call.func, *call.args]
    names = {getattr(node, "attr", None) or getattr(node, "id", None) for node in mentioned}
    return bool(names & {"import_module", "__import__"})


def _imported(name: str, node: ast.Import | ast.ImportFrom | ast.Call) -> list[str]:
    if isinstance(node, ast.Call):
        return _named_in_call(name, node)
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"{name}:{node.lineno}: write the absolute name"
    # ``from pywren import storage`` imports a module, ``from pywren.storage import Storage`` a name in one
    full = [f"{node.module}.{alias.name}" for alias in node.names]
    return [module if module in MODULES else str(node.module) for module in full]


def _named_in_call(name: str, call: ast.Call) -> list[str]:
    """Return the modules that a call imports by name. A name built at run time may be any that appears as a text
    in the module, such as a lazy package's own submodules."""
    texts = {node.value for arg in call.args for node in ast.walk(arg) if isinstance(node, ast.Constant)}
    named = [text for text in texts if text in MODULES]
    if named or not any(isinstance(arg, ast.JoinedStr) for arg in call.args):
        return named
    spelled = {node.value for node in ast.walk(parsed(name)) if isinstance(node, ast.Constant)}
    return sorted(full for text in spelled if (full := f"{name}.{text}") in MODULES)


def layers() -> list[list[str]]:
    """Return the layers in docs/design.md, the lowest first: names of modules, folders with a trailing slash."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    drawing = text.partition("## Layers")[2].split("```")[1]
    names = [re.sub(r"\([^)]*\)", "", re.split(r"\s{3,}", line.strip())[0]) for line in drawing.strip().splitlines()]
    return [[name.strip() for name in line.split(",")] for line in reversed(names)]


LAYERS = layers()


@cache
def layer(module: str) -> int | None:
    """Return the layer of a module, counted from 0."""
    parts = (DOORS[module] if module in DOORS else module.removeprefix("pywren.")).split(".")
    heights = {member: height for height, members in enumerate(LAYERS) for member in members}
    folders = [".".join(parts[:count]) + "/" for count in range(len(parts), 0, -1)]  # the innermost first
    return next((heights[one] for one in [".".join(parts), *folders] if one in heights), None)


def functions() -> list[tuple[int, str]]:
    """Return the length in lines of every function in the package, with its name."""
    return sorted(
        ((node.end_lineno or 0) - node.lineno + 1, f"{module}.{node.name}")
        for module in MODULES
        for node in ast.walk(parsed(module))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name not in LONG_BY_0_4
    )


def test_the_drawing_has_the_layers_it_should() -> None:
    """The diagram is parsed as intended: the wire at the bottom, the commands on top."""
    assert "wire/" in LAYERS[1]
    assert "scripts/" in LAYERS[-1]
    assert len(LAYERS) >= 9


def test_the_drawing_names_no_module_that_is_gone() -> None:
    """Every name in the diagram is a module or folder of the package."""
    for names in LAYERS:
        for name in names:
            assert f"pywren.{name.rstrip('/')}" in MODULES, f"{name} in the layers of docs/design.md"


def test_every_module_has_a_layer() -> None:
    """Every module has a place in the diagram in docs/design.md."""
    missing = [name for name in MODULES if layer(name) is None]
    assert not missing, f"name these in the layers of docs/design.md: {missing}"


def test_imports_point_down_only() -> None:
    """No module imports from a higher layer, not even inside a function or by name."""
    upward = []
    for name in MODULES:
        own = layer(name)
        for item in imports(name):
            other = layer(item.module) if item.module in MODULES and item.module != FACE else None
            if own is not None and other is not None and other > own and name != FACE:
                upward.append(f"{name}:{item.line} (layer {own}) imports {item.module} (layer {other})")
    assert not upward, "\n".join(upward)


def test_there_are_no_import_cycles() -> None:
    """No chain of imports leads back to its beginning, including imports inside functions and by name."""
    graph = {
        name: {item.module for item in imports(name) if item.module in MODULES} - {name, FACE}
        for name in MODULES
        if name != FACE
    }
    found = []
    while cycle := _cycle(graph):
        found.append(" imports ".join(cycle))
        graph[cycle[0]].discard(cycle[1])
    assert not found, "\n".join(found)


def _cycle(graph: dict[str, set[str]]) -> list[str] | None:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))  # graphlib orders imported modules first
    return None


def test_only_users_of_the_face_import_it() -> None:
    """Only the highest layers import the package itself, which loads modules of every layer."""
    users = {name for name in MODULES for item in imports(name) if item.module == FACE}
    allowed = {name for name in MODULES if name.startswith(("pywren.scripts", "pywren.testing"))}
    assert users <= allowed, sorted(users - allowed)


def test_the_sdk_is_imported_in_one_place() -> None:
    """Only the modules that make clients and send for them import boto3 and botocore, and only once they are used.

    ``pywren.testing`` patches moto, which is built on botocore, so it may import botocore inside functions.
    """
    used = [(name, item) for name in MODULES for item in imports(name) if item.module.partition(".")[0] in SDKS]
    elsewhere = {name for name, _ in used if name not in SDK_DOORS and not name.startswith("pywren.testing")}
    assert not elsewhere
    assert not [f"{name}:{item.line}" for name, item in used if not item.deferred]


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    """cloudpickle, tblib, numpy, yaml, moto and so on are imported by the functions that need them, not by modules."""
    loaded = [
        f"{name}:{item.line} imports {item.module}"
        for name in MODULES
        for item in imports(name)
        if not item.deferred and item.module.partition(".")[0] in _heavy(name)
    ]
    assert not loaded


def _heavy(name: str) -> set[str]:
    if name.startswith(("pywren.scripts", "pywren.testing")):
        return {"numpy"}  # commands are made with click
    heavy = {"cloudpickle", "tblib", "numpy", "yaml", "moto", "click", "tqdm", "matplotlib"}
    deferred = ("pywren.worker.child.main", "pywren.pickling.pickler")  # are themselves loaded only when needed
    return heavy - {"cloudpickle", "tblib"} if name in deferred else heavy


def test_every_module_says_what_it_is() -> None:
    """The first line of a module's docstring names its one subject."""
    silent = [name for name in MODULES if not ast.get_docstring(parsed(name))]
    assert not silent


def test_the_package_shows_its_plan() -> None:
    """Besides its folders, ``pywren/`` has the public names and little else."""
    files = sorted(path.name for path in (ROOT / "pywren").iterdir() if path.is_file())
    assert len(files) <= MOST_FILES, files


def test_functions_are_short() -> None:
    """Their median, 90th percentile and maximum length do not grow."""
    found = functions()
    lengths = [length for length, _ in found]
    assert statistics.median(lengths) <= MEDIAN
    assert lengths[len(lengths) * 9 // 10] <= NINETIETH
    too_long = [f"{name}: {length} lines" for length, name in found if length > LONGEST]
    assert not too_long
