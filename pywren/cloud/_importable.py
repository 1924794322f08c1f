"""Checks whether the requested packages can be imported from a runtime, with the runtime's Python and system."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from pywren.cloud._packing import WORKERS_OWN, Distribution, standard_modules
from pywren.cloud._prefix import check_binary
from pywren.cloud._wheels import Say, Target
from pywren.exceptions import DeploymentError
from pywren.serialize._imports import Import, imports_of_source
from pywren.storage.runtime_info import LAMBDA_PREINSTALLS

_NOT_TRIED = frozenset({"test", "tests", "testing", "conftest", "setup", "docs", "doc", "examples", "example"})
"""Top-level modules that distributions contain by mistake and that nobody imports."""

_TIME_LIMIT = 300.0
"""Seconds for importing all modules."""


class Obstacle(NamedTuple):
    """The reason why an import fails.

    Args:
        text: the reason, after the names of the modules that lead to the failing import.
        missing: the top-level module that is missing; empty for other reasons.
    """

    text: str
    missing: str = ""


class ImportCheck:
    """Follows the imports in a directory of packages as Python would, but without running any code.

    It follows only unconditional imports, that is, imports at the top level of modules that are not in a ``try``
    statement with ``except ImportError`` nor under a condition.

    Args:
        site: the directory.
        target: the Python and system of the runtime.
    """

    def __init__(self, site: Path, target: Target) -> None:
        self._site = site
        self._target = target
        self._elsewhere = standard_modules(target.python) | {*LAMBDA_PREINSTALLS, *WORKERS_OWN}
        if (site / "_distutils_hack").is_dir():
            self._elsewhere |= {"distutils"}  # setuptools provides distutils, which Python 3.12 removed
        self._below: dict[str, set[str]] = {}
        self._loaded: dict[str, Obstacle | None] = {}

    def obstacle(self, module: str) -> Obstacle | None:
        """Return the reason why a module cannot be imported; ``None`` if none was found."""
        if module not in self._loaded:
            self._loaded[module] = None  # stops the recursion at circular imports
            self._loaded[module] = self._load(module)
        return self._loaded[module]

    def _load(self, module: str) -> Obstacle | None:
        parent, _, _ = module.rpartition(".")
        if parent and (found := self.obstacle(parent)):
            return found
        place = self._site.joinpath(*module.split("."))
        for source, package in ((place / "__init__.py", module), (place.with_name(f"{place.name}.py"), parent)):
            if source.is_file():
                return self._follow(module, source, package)
        return self._compiled(place)

    def _follow(self, module: str, source: Path, package: str) -> Obstacle | None:
        for item in imports_of_source(source.read_bytes(), package):
            for name in () if item.optional else self._certain(item):
                if found := self._obstacle_of_import(name, module):
                    return found._replace(text=f"{module}: {found.text}")
        return None

    def _certain(self, item: Import) -> Iterator[str]:
        """Yield the modules that an import is certain to load. In ``from a import b``, ``b`` need not be a module."""
        for name in item.names:
            if not name.startswith(f"{item.names[0]}.") or self._is_there(name):
                yield name

    def _is_there(self, name: str) -> bool:
        place = self._site.joinpath(*name.split("."))
        return place.is_dir() or place.with_name(f"{place.name}.py").is_file() or bool(_extensions(place))

    def _obstacle_of_import(self, name: str, importer: str) -> Obstacle | None:
        top = name.partition(".")[0]
        if self._is_there(top):
            # packages may create submodules when they run
            return self.obstacle(name) if self._is_there(name) else None
        if top in self._elsewhere or top in self._names_below(importer.partition(".")[0]):
            return None
        return Obstacle(f"No module named {top!r}", top)

    def _names_below(self, package: str) -> set[str]:
        """Return the names of all modules in a package, at any depth: setuptools puts inner directories on the path."""
        if package not in self._below:
            names = self._below[package] = set()
            for _, folders, files in os.walk(self._site / package):
                names.update(folders, (file.partition(".")[0] for file in files if file.endswith((".py", ".so"))))
        return self._below[package]

    def _compiled(self, place: Path) -> Obstacle | None:
        extensions = _extensions(place)
        tag = f"{place.name}.cpython-{self._target.python.replace('.', '')}-{self._target.machine}-linux-gnu.so"
        loadable = [path for path in extensions if path.name in (tag, f"{place.name}.abi3.so", f"{place.name}.so")]
        if loadable:
            try:
                check_binary(loadable[0], self._target)
            except DeploymentError as error:
                return Obstacle(str(error).replace(str(self._site) + os.sep, ""))
            return None
        if extensions:
            return Obstacle(f"{extensions[0].name} is not built for {self._target}")
        return None if place.is_dir() else Obstacle(f"{place.name} is not among the installed files")


def _extensions(place: Path) -> list[Path]:
    return [path for path in place.parent.glob(f"{place.name}.*") if path.suffix in (".so", ".pyd")]


def check_importable(
    distributions: Iterable[Distribution], site: Path, target: Target, say: Say, places: Mapping[str, str]
) -> None:
    """Check that the modules of distributions can be imported from a directory.

    Args:
        distributions: the requested distributions.
        site: the directory.
        target: the Python and system of the runtime.
        say: shows the user one line about each module that may fail to import there.
        places: where each distribution was requested, by name.

    Raises:
        DeploymentError: a module cannot be imported; the message says which, why, and where it was requested.
    """
    check, owners = ImportCheck(site, target), dict[str, Distribution]()
    for item in distributions:
        own = [module for module in item.modules if module not in _NOT_TRIED]
        if not own and not item.requires and not item.brings_anything:
            raise _refusal(item, places, "it has no module")
        for module in own:
            found = check.obstacle(module)
            if found is None or (found.missing and target.is_here):
                owners[module] = item  # import the module below, since packages may create modules when they run
            else:
                _refuse_or_tell(item, module, found, say, places)
    for module, (kind, found) in _failing(list(owners), site).items() if target.is_here else ():
        if kind == "ImportError":
            _refuse_or_tell(owners[module], module, found, say, places)
        else:
            say(f"importing {module} raises {kind} on this machine: {found.text}; check whether it works on Lambda")


def _refuse_or_tell(item: Distribution, module: str, found: Obstacle, say: Say, places: Mapping[str, str]) -> None:
    if not _is_missed_here(item, found):
        raise _refusal(item, places, f"{module} cannot be imported: {found.text}")
    say(f"{module} of {item.name} {item.version} cannot be imported, neither here nor from the runtime: {found.text}")


def _is_missed_here(item: Distribution, found: Obstacle) -> bool:
    """Tell whether the missing module is also missing on this machine, where the same version is installed.

    No program on this machine can use such a distribution, but ``pip freeze`` lists it. For example, IPython installs
    matplotlib_inline without matplotlib.
    """
    if not found.missing or importlib.util.find_spec(found.missing) is not None:
        return False
    try:
        return metadata.version(item.name) == item.version
    except metadata.PackageNotFoundError:
        return False


def _refusal(item: Distribution, places: Mapping[str, str], reason: str) -> DeploymentError:
    return DeploymentError(
        f"the runtime would not work: {places[item.name]} requires {item.name}, but in version {item.version} {reason}"
        ". Choose another version, or add what is missing; nothing was uploaded"
    )


# -- importing -----------------------------------------------------------------------------------------------

_TRY = """
import importlib, json, os, sys
modules, site, own, elsewhere = json.loads(sys.argv[1])
from importlib.machinery import PathFinder
class Own:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, elsewhere) if path is None and name in own else None
sys.path.insert(0, site)
sys.meta_path.append(Own)
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for module in modules:
    try:
        importlib.import_module(module)
        failure = None
    except BaseException as error:
        kind = "ImportError" if isinstance(error, ImportError) else type(error).__name__
        is_missing = isinstance(error, ModuleNotFoundError)
        missing = str(error.name).partition(".")[0] if is_missing else ""
        # Lambda has these, even if this machine does not
        failure = None if missing in own else [kind, str(error)[:500], missing]
    print(json.dumps([module, failure]), file=out, flush=True)
os._exit(0)
"""


def _failing(modules: Sequence[str], site: Path) -> dict[str, tuple[str, Obstacle]]:
    """Import modules in another process with a worker's modules; return the type and text of each error, by module."""
    failing: dict[str, tuple[str, Obstacle]] = {}
    waiting = list(modules)
    while waiting:
        told = _import(waiting, site)
        failing.update({module: (failure[0], Obstacle(*failure[1:])) for module, failure in told if failure})
        if len(told) < len(waiting):
            failing[waiting[len(told)]] = "an exit of the process", Obstacle("it crashed, or took too long")
        waiting = waiting[len(told) + 1 :]
    return failing


def _import(modules: Sequence[str], site: Path) -> list[tuple[str, Sequence[str] | None]]:
    own = [*LAMBDA_PREINSTALLS, *WORKERS_OWN]
    task = json.dumps([list(modules), str(site), own, sys.path])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-c", _TRY, task],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIME_LIMIT,
            check=False,
        )
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    return [tuple(json.loads(line)) for line in re.findall(rb"^\[.*\]$", output, re.MULTILINE)]
