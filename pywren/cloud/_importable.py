"""Whether what a runtime was asked to have can be imported from it, on the Python and system that it is for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pywren.cloud._packing import Distribution, standard_modules
from pywren.cloud._prefix import check_binary
from pywren.cloud._wheels import Say, Target
from pywren.exceptions import DeploymentError
from pywren.serialize._imports import Import, imports_of_source
from pywren.storage.runtime_info import LAMBDA_PREINSTALLS

_NOT_TRIED = frozenset({"test", "tests", "testing", "conftest", "setup", "docs", "doc", "examples", "example"})
"""Top-level modules that distributions bring by mistake, and nobody imports."""

_TIME_LIMIT = 300.0


class ImportCheck:
    """The imports of a directory of packages, followed as Python does when it loads them.

    Imports that are made in any case are followed: at the top of modules, outside of ``try … except ImportError``
    and of conditions. None of the packages' code runs.

    Args:
        site: the directory.
        target: the Python and system that it is for.
    """

    def __init__(self, site: Path, target: Target) -> None:
        self._site = site
        self._target = target
        self._elsewhere = standard_modules(target.python) | {*LAMBDA_PREINSTALLS, "pywren", "cloudpickle", "tblib"}
        self._loaded: dict[str, str | None] = {}

    def why_not(self, module: str) -> str | None:
        """Say why a module cannot be imported, ``None`` when nothing speaks against it."""
        if module in self._loaded:
            return self._loaded[module]
        self._loaded[module] = None  # circles of imports end here
        self._loaded[module] = reason = self._load(module)
        return reason

    def _load(self, module: str) -> str | None:
        parent, _, _ = module.rpartition(".")
        if parent and (reason := self.why_not(parent)):
            return reason
        place = self._site.joinpath(*module.split("."))
        for source, package in ((place / "__init__.py", module), (place.with_name(f"{place.name}.py"), parent)):
            if source.is_file():
                return self._follow(module, source, package)
        return self._why_not_compiled(place)

    def _follow(self, module: str, source: Path, package: str) -> str | None:
        for item in imports_of_source(source.read_bytes(), package):
            for name in () if item.optional else self._certain(item):
                if reason := self._why_not_imported(name):
                    return f"{module} imports {name}: {reason}" if name not in reason else f"{module}: {reason}"
        return None

    def _certain(self, item: Import) -> Iterator[str]:
        """Yield what an import loads in any case; of ``from a import b`` the second may be no module."""
        for name in item.names:
            if not name.startswith(f"{item.names[0]}.") or self._is_there(name):
                yield name

    def _is_there(self, name: str) -> bool:
        place = self._site.joinpath(*name.split("."))
        return place.is_dir() or any(place.parent.glob(f"{place.name}.*"))

    def _why_not_imported(self, name: str) -> str | None:
        top = name.partition(".")[0]
        if self._is_there(top):
            # below the top, packages make modules up as they like
            return self.why_not(name) if self._is_there(name) else None
        return None if top in self._elsewhere else f"there is no module {top}"

    def _why_not_compiled(self, place: Path) -> str | None:
        extensions = [path for path in place.parent.glob(f"{place.name}.*") if path.suffix in (".so", ".pyd")]
        tag = f"{place.name}.cpython-{self._target.python.replace('.', '')}-{self._target.machine}-linux-gnu.so"
        loadable = [path for path in extensions if path.name in (tag, f"{place.name}.abi3.so", f"{place.name}.so")]
        if loadable:
            try:
                check_binary(loadable[0], self._target)
            except DeploymentError as error:
                return str(error).replace(str(self._site) + os.sep, "")
            return None
        if extensions:
            return f"{extensions[0].name} is not for {self._target}"
        return None if place.is_dir() else f"{place.name} is not among what was installed"


def check_importable(
    distributions: Iterable[Distribution], site: Path, target: Target, say: Say, places: Mapping[str, str]
) -> None:
    """Check that the modules of distributions can be imported from a directory.

    Args:
        distributions: those that were asked for.
        site: the directory.
        target: the Python and system that it is for.
        say: is told what may go wrong there.
        places: where each of them was asked for, by name.

    Raises:
        DeploymentError: one cannot; says which, why, and where it was asked for.
    """
    check, modules = ImportCheck(site, target), {}
    for item in distributions:
        own = [module for module in item.modules if module not in _NOT_TRIED]
        if not own and not item.requires and not item.brings_anything:
            raise _refusal(item, places, "it brings no module")
        for module in own:
            if reason := check.why_not(module):
                raise _refusal(item, places, f"{module} cannot be imported: {reason}")
            modules[module] = item
    if not target.is_here:
        return
    for module, (kind, text) in _failing(list(modules), site).items():
        if kind == "ImportError":
            raise _refusal(modules[module], places, f"{module} cannot be imported: {text}")
        say(f"importing {module} raises {kind} on this machine: {text}; see whether it works on Lambda")


def _refusal(item: Distribution, places: Mapping[str, str], reason: str) -> DeploymentError:
    place = places.get(item.name, "the requirements")
    return DeploymentError(
        f"the runtime would be of no use: {place} asks for {item.name}, but of version {item.version} {reason}. "
        "Name another version, or what is missing; nothing was uploaded"
    )


# -- trying it -----------------------------------------------------------------------------------------------

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
        failure = [kind, str(error)[:500]]
        if kind == "ImportError" and str(error.name).partition(".")[0] in own:
            failure = None  # Lambda has it, if not this machine
    print(json.dumps([module, failure]), file=out, flush=True)
os._exit(0)
"""


def _failing(modules: Sequence[str], site: Path) -> dict[str, tuple[str, str]]:
    """Import modules in a process of their own, with what a worker has; return what they raise."""
    own = [*LAMBDA_PREINSTALLS, "pywren", "cloudpickle", "tblib"]
    failing: dict[str, tuple[str, str]] = {}
    waiting = list(modules)
    while waiting:
        told = _import(waiting, site, own)
        failing.update({module: failure for module, failure in told if failure is not None})
        tried = len(told)
        if tried < len(waiting):
            failing[waiting[tried]] = "an end of the process", "it crashed, or took too long"
            tried += 1
        waiting = waiting[tried:]
    return failing


def _import(modules: Sequence[str], site: Path, own: Collection[str]) -> list[tuple[str, tuple[str, str] | None]]:
    task = json.dumps([list(modules), str(site), list(own), sys.path])
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
    lines = [json.loads(line) for line in re.findall(rb"^\[.*\]$", output, re.MULTILINE)]
    return [(module, tuple(failure) if failure else None) for module, failure in lines]
