"""Which modules of the user a pickle needs on the worker.

A module is one of four things::

    the worker's own    standard library, pywren, what the worker has installed   nothing to do
    the user's          outside site-packages                                     shipped, its imports followed
    a library           in site-packages, but not on the worker                   shipped when it is pure Python
    missing             not here either                                           left to the worker's ImportError

A package is shipped whole. Its imports are followed from those of its modules that are reached or loaded. Imports
that the program may do without (in a function, in ``try … except ImportError``) are followed as far as they lead
to what can be shipped, and are never an error.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import types
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pywren.exceptions import SerializationError
from pywren.serialize._imports import Import, imports_of_code, imports_of_source
from pywren.serialize._modules import (
    File,
    Module,
    content_of,
    extension_among,
    files_of,
    is_standard_path,
    loaded_below_namespace,
    locate,
)

if TYPE_CHECKING:
    from importlib.metadata import Distribution

_WORKERS_OWN = frozenset({"__main__", "__mp_main__", "pywren", "cloudpickle", "tblib"})


class _ThisInterpreter(Container[str]):
    def __contains__(self, name: object) -> bool:
        return False  # nothing but its site-packages, which stand by their path


THIS_INTERPRETER: Container[str] = _ThisInterpreter()
"""The preinstalled modules of a worker that shares this interpreter: all that its site-packages hold, and C
extensions of the user's own run there."""


@dataclass(frozen=True)
class _Wanted:
    """One dotted name on its way through the analysis."""

    name: str
    required: bool
    because: str


class ModuleDependencyAnalyzer:
    """Finds the modules to ship; 0.4's class, with its ``add``, ``ignore`` and ``get_and_clear_paths``.

    Args:
        preinstalls: top-level names that the worker has installed, or ``THIS_INTERPRETER``.
        exclude: modules whose file path contains one of these strings are not shipped.
    """

    def __init__(self, preinstalls: Container[str] = frozenset(), exclude: Collection[str] = ()) -> None:
        self._preinstalls = preinstalls
        self._ignored: set[str] = set()
        self._exclude = tuple(exclude)
        self._clear()

    def _clear(self) -> None:
        self._queue: list[_Wanted] = []
        self._asked: dict[str, bool] = {}
        self._files: dict[str, dict[str, File]] = {}
        self._modules: dict[str, Module] = {}

    def ignore(self, modules: Iterable[str]) -> None:
        """Take modules, by their top-level names, for installed on the worker."""
        self._ignored.update(name.partition(".")[0] for name in modules)

    def add(self, module_name: str) -> None:
        """Have a module shipped, and what it imports.

        Args:
            module_name: its dotted name.
        """
        self._want(module_name, True, "the function or an argument refers to it")

    def add_hint(self, module_name: str) -> None:
        """Have a module of the user's shipped that only annotations name; a library is not sent for that.

        Args:
            module_name: its dotted name.
        """
        module = locate(module_name)
        if module is not None and not module.is_library:
            self._want(module_name, False, "an annotation names it")

    def add_code(self, code: types.CodeType, package: str) -> None:
        """Have shipped what a function imports that is itself pickled by value.

        Args:
            code: the function's code.
            package: the package that its relative imports start from.
        """
        for item in imports_of_code(code, package):
            self._want_import(item, f"{code.co_name}() imports it", required=True)

    def files(self) -> list[File]:
        """Return the files of all modules to ship.

        Raises:
            SerializationError: a module cannot be shipped: it has a C extension, is too big or cannot be read.
        """
        while self._queue:
            self._visit(self._queue.pop())
        return [file for files in self._files.values() for file in files.values()]

    def get_and_clear_paths(self) -> set[str]:
        """Return the paths of the modules to ship, a package's directory for a package, and start anew."""
        self.files()
        paths = {_root_of(module) for module in self._modules.values()}
        self._clear()
        return paths

    # -- the walk over names

    def _want(self, name: str, required: bool, because: str) -> None:
        asked = self._asked.get(name)
        if asked is None or (required and not asked):
            self._asked[name] = required
            self._queue.append(_Wanted(name, required, because))

    def _want_import(self, item: Import, because: str, *, required: bool) -> None:
        for name in item.names:
            self._want(name, required and not item.optional, because)

    def _visit(self, wanted: _Wanted) -> None:
        if self._is_known_to_worker(wanted.name.partition(".")[0]):
            return
        for name in loaded_below_namespace(wanted.name):
            self._want(name, wanted.required, wanted.because)
        module = locate(wanted.name)
        if module is None or self._is_excluded(module.shown_path) or self._is_installed(module):
            return
        if module.name not in self._files and not self._take(module, wanted):
            return
        if module.is_library:
            self._follow_library(module, wanted)
        else:
            self._follow(module, wanted)

    def _is_known_to_worker(self, top: str) -> bool:
        if top in _WORKERS_OWN or top in self._ignored or top in self._preinstalls:
            return True
        if top not in sys.stdlib_module_names:
            return False
        shadow = locate(top)  # a file of the user's that has the name of a standard module
        return shadow is None or is_standard_path(shadow.shown_path) or shadow.is_library

    def _is_installed(self, module: Module) -> bool:
        if module.is_library:
            return self._preinstalls is THIS_INTERPRETER
        return is_standard_path(module.shown_path)

    def _is_excluded(self, path: str) -> bool:
        return any(text in path for text in self._exclude)

    # -- one module

    def _take(self, module: Module, wanted: _Wanted) -> bool:
        """Put the files of a module on the list, unless it can do without and cannot be shipped."""
        files = [file for file in files_of(module) if not self._is_excluded(file.shown_path)]
        extension = None if self._preinstalls is THIS_INTERPRETER else extension_among(files)
        if extension is not None:
            if wanted.required:
                raise _has_extension(module, extension, wanted.because)
            return False
        self._modules[module.name] = module
        self._files[module.name] = {file.module_name or file.relative: file for file in files}
        return True

    def _follow(self, module: Module, wanted: _Wanted) -> None:
        files = self._files[module.name]
        if wanted.name != module.name:
            self._want(wanted.name.rpartition(".")[0], wanted.required, wanted.because)
        else:
            for name in files:
                if name in sys.modules:  # loaded in a way that no import statement shows
                    self._want(name, False, wanted.because)
        file = files.get(wanted.name)
        if file is not None and file.module_name is not None:
            for item in _imports_of_file(file):
                self._want_import(item, f"the module {wanted.name} imports it", required=wanted.required)

    def _follow_library(self, module: Module, wanted: _Wanted) -> None:
        # what its distribution declares: reading the sources of a whole library takes seconds
        for name in _required_by(module.name.partition(".")[0]):
            self._want(name, wanted.required, f"{module.name} requires it")


def _root_of(module: Module) -> str:
    if module.archive is not None:
        return module.archive
    path = module.path
    for _ in range(module.name.count(".")):
        path = os.path.dirname(path)
    return path


def _has_extension(module: Module, extension: str, because: str) -> SerializationError:
    return SerializationError(
        f"the module {module.name} is not installed on the worker, and cannot be shipped because it has a C extension "
        f"({extension}); {because}. Give the worker a runtime or a layer that has it and name it in the "
        f"configuration under runtime: preinstalls, or leave it out with exclude_modules=[{module.name!r}]",
        path=module.name,
    )


# -- imports of files and libraries ----------------------------------------------------------------------------

_parsed: dict[str, tuple[bytes, list[Import]]] = {}


def _imports_of_file(file: File) -> list[Import]:
    source = content_of(file)
    known = _parsed.get(file.shown_path)
    if known is not None and known[0] is source:  # the same object as long as the file is unchanged
        return known[1]
    name = file.module_name or ""
    package = name if file.relative.endswith("/__init__.py") else name.rpartition(".")[0]
    imports = imports_of_source(source, package)
    _parsed[file.shown_path] = source, imports
    return imports


def installed_modules() -> list[str]:
    """Return the top-level names of all that is installed for this interpreter."""
    return sorted(_distributions()[0])


@functools.cache
def _distributions() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the distributions of each top-level name, and the top-level names of each distribution."""
    from importlib.metadata import distributions  # 15 ms that most programs do not need

    by_name: dict[str, list[str]] = {}
    by_distribution: dict[str, list[str]] = {}
    for distribution in distributions():
        names = _top_levels(distribution)
        by_distribution[normalized(distribution.metadata["Name"])] = names
        for name in names:
            by_name.setdefault(name, []).append(distribution.metadata["Name"])
    return by_name, by_distribution


def _top_levels(distribution: Distribution) -> list[str]:
    declared = distribution.read_text("top_level.txt")
    if declared:
        return declared.split()
    # importlib.metadata.packages_distributions looks at the files on Python 3.11 and later only
    files = (file.parts for file in distribution.files or () if file.suffix == ".py")
    return sorted({parts[0].removesuffix(".py") for parts in files})


def _required_by(top: str) -> list[str]:
    """Return the top-level names that a library's distribution requires, those of its extras left out."""
    from importlib.metadata import requires

    by_name, by_distribution = _distributions()
    names: list[str] = []
    for distribution in by_name.get(top, ()):
        for requirement in requires(distribution) or ():
            wanted, _, marker = requirement.partition(";")
            found = re.match(r"[\w.-]+", wanted)
            if found and "extra" not in marker:
                names += by_distribution.get(normalized(found[0]), ())
    return names


def distributions_of(top: str) -> list[str]:
    """Return the names of the distributions that a top-level module is installed from."""
    return _distributions()[0].get(top, [])


def normalized(distribution: str) -> str:
    """Return a distribution's name as it is compared: ``Foo.Bar`` and ``foo-bar`` are one."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
