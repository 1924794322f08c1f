"""Finds the user's modules that a pickle needs on the worker.

A module is one of four things::

    the worker's own    standard library, pywren, what the worker has installed   not sent
    the user's          outside site-packages                                     sent; its imports are followed
    a library           in site-packages, but not on the worker                   sent if it is pure Python
    missing             neither on the worker nor on this machine                 the worker raises ImportError

A user's package is sent as a whole, with the metadata of the distribution that it belongs to. If one of its modules is
imported or loaded, the imports of that module are followed. A library is sent as its installed distribution: all its
modules and metadata, and the distributions that it requires. The program may not need some imports: those in a
function, or in ``try … except ImportError``. They are followed too, but if such a module cannot be sent, that is not an
error.
"""

from __future__ import annotations

import logging
import os
import sys
import types
import weakref
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass

from pywren.exceptions import SerializationError
from pywren.serialize._distributions import (
    Installed,
    distributions_with,
    editable_installs,
    find_distribution,
    normalized,
)
from pywren.serialize._imports import Import, imports_of_code
from pywren.serialize._libraries import Contents, contents_of_distribution, imports_of_file, metadata_of
from pywren.serialize._modules import (
    File,
    Module,
    check_size,
    files_of,
    is_library_path,
    is_standard_path,
    loaded_below_namespace,
    locate,
)

logger = logging.getLogger(__name__)

_WORKERS_OWN = frozenset({"__main__", "__mp_main__", "pywren", "cloudpickle", "tblib"})


class _ThisInterpreter(Container[str]):
    def __contains__(self, name: object) -> bool:
        return False  # modules in its site-packages are recognized by their paths


THIS_INTERPRETER: Container[str] = _ThisInterpreter()
"""Stands for the preinstalled modules of a worker that shares this interpreter: everything in its site-packages. The
user's own C extensions work on such a worker too."""


@dataclass(frozen=True)
class _Wanted:
    """A dotted name of a module whose files and imports are still to be found."""

    name: str
    required: bool
    because: str


# The loaded modules that have been found to be part of Python. To find that out takes longer than a small call.
_standard: weakref.WeakSet[types.ModuleType] = weakref.WeakSet()


def _is_standard(name: str) -> bool:
    """Tell whether a name of the standard library means a module of Python, and not a file of the user."""
    loaded = sys.modules.get(name)
    if type(loaded) is types.ModuleType and loaded in _standard:
        return True
    shadow = locate(name)
    is_standard = shadow is None or is_standard_path(shadow.shown_path) or shadow.is_library
    if is_standard and type(loaded) is types.ModuleType:
        _standard.add(loaded)
    return is_standard


def is_always_there(module_name: str) -> bool:
    """Tell whether every worker has a module, because it is one of the worker's own."""
    return module_name.partition(".")[0] in _WORKERS_OWN


class ModuleDependencyAnalyzer:
    """Finds the modules to send. PyWren 0.4's methods ``add``, ``ignore`` and ``get_and_clear_paths`` are kept.

    Args:
        preinstalls: top-level names that the worker has installed, or ``THIS_INTERPRETER``.
        exclude: modules whose file path contains one of these strings are not sent.
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
        self._libraries: dict[Installed, list[File]] = {}
        self._metadata: dict[Installed, list[File]] = {}

    def ignore(self, module_name: str | Iterable[str]) -> None:
        """Treat one or several modules, given by their top-level names, as installed on the worker."""
        names = [module_name] if isinstance(module_name, str) else module_name
        self._ignored.update(name.partition(".")[0] for name in names)

    def add(self, module_name: str) -> None:
        """Add a module, and the modules that it imports, to the modules to send.

        Args:
            module_name: the module's dotted name.
        """
        self._want(module_name, True, "the function or an argument refers to it")

    def add_hint(self, module_name: str) -> None:
        """Add a user's module that only annotations mention. Libraries are not sent because of annotations.

        Args:
            module_name: the module's dotted name.
        """
        module = locate(module_name)
        if module is not None and not module.is_library:
            self._want(module_name, False, "an annotation names it")

    def add_code(self, code: types.CodeType, package: str) -> None:
        """Add the modules that a function imports. The function itself is pickled by value.

        Args:
            code: the function's code.
            package: the package from which relative imports start.
        """
        for item in imports_of_code(code, package):
            self._want_import(item, f"{code.co_name}() imports it", required=True)

    def files(self) -> list[File]:
        """Return the files of all modules to send.

        Raises:
            SerializationError: a module cannot be sent: it has a C extension, is too big or cannot be read.
        """
        while self._queue:
            self._visit(self._queue.pop())
        found = [file for files in self._files.values() for file in files.values()]
        for files in (*self._libraries.values(), *self._metadata.values()):
            found += files
        return found

    def get_and_clear_paths(self) -> set[str]:
        """Return the paths of the modules to send, and forget these modules.

        The path of a package is its directory. Directories of metadata are included.
        """
        self.files()
        paths = {_root_of(module) for module in self._modules.values()}
        for installed, files in {**self._libraries, **self._metadata}.items():
            paths.update(os.path.join(installed.directory, file.relative.partition("/")[0]) for file in files)
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
        if self._is_known_to_worker(wanted.name):
            return
        for name in loaded_below_namespace(wanted.name):
            self._want(name, wanted.required, wanted.because)
        module = locate(wanted.name)
        if module is None or self._is_excluded(module.shown_path) or self._is_installed(module):
            return
        owners = _distributions_of(module) if module.is_library else []
        for installed in owners:
            self._take_library(installed, wanted)
        if not owners and (module.name in self._files or self._take(module, wanted)):
            self._follow(module, wanted)

    def _is_known_to_worker(self, name: str) -> bool:
        top = name.partition(".")[0]
        if top in _WORKERS_OWN or top in self._ignored or self._is_preinstalled(name):
            return True
        return top in sys.stdlib_module_names and _is_standard(top)

    def _is_preinstalled(self, name: str) -> bool:
        """Tell whether the worker has a module, or a package that contains the module.

        Of a namespace package, the worker may have only some modules.
        """
        while name not in self._preinstalls:
            name = name.rpartition(".")[0]
            if not name:
                return False
        return True

    def _is_installed(self, module: Module) -> bool:
        if module.is_library:
            return self._preinstalls is THIS_INTERPRETER
        return is_standard_path(module.shown_path)

    def _is_excluded(self, path: str) -> bool:
        return any(text in path for text in self._exclude)

    # -- one module

    def _take(self, module: Module, wanted: _Wanted) -> bool:
        """Add the files of a module. If they cannot be sent, skip an optional module, and raise for a required one."""
        contents = self._shippable(Contents.of(files_of(module)), module.name, module.shown_path, wanted)
        if contents is None:
            return False
        self._modules[module.name] = module
        self._files[module.name] = {file.module_name or file.relative: file for file in contents}
        for installed in self._projects_of(module):
            self._metadata[installed] = metadata_of(installed)
        return True

    def _shippable(self, contents: Contents, name: str, path: str, wanted: _Wanted) -> list[File] | None:
        """Return the files to send; ``None`` if they cannot be sent and the program may not need them."""
        files = [file for file in contents.files if not self._is_left_out(file)]
        extensions = [file for file in contents.extensions if not self._is_left_out(file)]
        try:
            if self._preinstalls is THIS_INTERPRETER:
                files += extensions
            else:
                _check_extensions(extensions, contents, name, wanted.because)
            check_size(files, name, path)
        except SerializationError as error:
            if wanted.required:
                raise
            logger.debug("%s is not sent; the worker must have it: %s", name, error)
            return None
        return files

    def _is_left_out(self, file: File) -> bool:
        return self._is_excluded(file.shown_path) or self._is_known_to_worker(file.relative.replace("/", "."))

    def _projects_of(self, module: Module) -> list[Installed]:
        """Return the distributions that a user's module belongs to: those installed next to it or as links to it."""
        if module.archive is not None:
            return []
        root = _root_of(module)
        directory, name = os.path.split(root)
        found = distributions_with(directory, f"{name}/__init__.py" if module.is_package else name)
        if self._preinstalls is not THIS_INTERPRETER:  # THIS_INTERPRETER has the metadata of links
            real = os.path.realpath(root) + os.sep
            links = [one for one in editable_installs() if one.source and real.startswith(one.source + os.sep)]
            found += sorted(links, key=lambda one: len(one.source or ""))[-1:]  # the innermost of nested projects
        return found

    def _follow(self, module: Module, wanted: _Wanted) -> None:
        files = self._files[module.name]
        if wanted.name != module.name:
            self._want(wanted.name.rpartition(".")[0], wanted.required, wanted.because)
        else:
            for name in files:
                if name in sys.modules:  # the module was loaded in a way that no import statement shows
                    self._want(name, False, wanted.because)
        file = files.get(wanted.name)
        if file is not None and file.module_name is not None:
            for item in imports_of_file(file):
                self._want_import(item, f"the module {wanted.name} imports it", required=wanted.required)

    # -- one library

    def _take_library(self, installed: Installed, wanted: _Wanted) -> None:
        """Add a library's distribution and the distributions that it requires, as far as they can be sent."""
        waiting = [(installed, wanted)]
        while waiting:
            installed, wanted = waiting.pop()
            if installed in self._libraries or self._is_on_worker(installed):
                continue
            contents = contents_of_distribution(installed)
            files = self._shippable(contents, _shown_name(installed), installed.directory, wanted)
            if files is None or (installed.modules and all(file.relative.startswith(installed.info) for file in files)):
                continue  # only now is it known which parts of a namespace package the worker has
            self._libraries[installed] = files
            # Use its declared requirements: reading all sources of a library would take seconds.
            for requirement in installed.requires:
                required = find_distribution(requirement.name)
                if required is not None:
                    needed = wanted.required and (not requirement.conditional or _is_loaded(required))
                    because = f"{installed.name} requires it"
                    waiting.append((required, _Wanted(wanted.name, needed, because)))

    def _is_on_worker(self, installed: Installed) -> bool:
        modules = installed.modules
        if modules and all(self._is_known_to_worker(module) for module in modules):
            return True
        return self._preinstalls is THIS_INTERPRETER and is_library_path(os.path.join(installed.directory, ""))


def _distributions_of(module: Module) -> list[Installed]:
    if module.archive is not None:
        return []
    directory = os.path.dirname(_root_of(module))
    path = os.path.join(module.path, "__init__.py") if module.is_package else module.path
    return distributions_with(directory, os.path.relpath(path, directory).replace(os.sep, "/"))


def _shown_name(installed: Installed) -> str:
    """Return the name that messages use for a distribution: a module with the same name, or else a public module."""
    names = sorted(installed.modules, key=lambda name: (normalized(name) != normalized(installed.name), name[0] == "_"))
    return next(iter(names), installed.name)


def _is_loaded(installed: Installed) -> bool:
    return any(module in sys.modules for module in installed.modules)


def _root_of(module: Module) -> str:
    if module.archive is not None:
        return module.archive
    path = module.path
    for _ in range(module.name.count(".")):
        path = os.path.dirname(path)
    return path


def _check_extensions(extensions: Iterable[File], contents: Contents, name: str, because: str) -> None:
    """Check that a package works without its C extensions, which are not sent because they fit only this system."""
    extension = next((file for file in extensions if not contents.stands_in_for(file)), None)
    if extension is None:
        return
    raise SerializationError(
        f"the module {name} is not installed on the worker, and cannot be shipped because it has a C extension "
        f"({extension.shown_path}). The module is needed because {because}. Either put {name} into a runtime or layer "
        f"and add {name!r} to `runtime: preinstalls`, or leave {name} out with exclude_modules=[{name!r}]",
        path=name,
    )
