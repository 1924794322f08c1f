"""Finds the file or directory of a module, and the files that a worker needs from it."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import stat
import sys
import sysconfig
import threading
import time
import types
import zipimport
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ModuleSpec
from pathlib import Path

from pywren.exceptions import SerializationError
from pywren.serialize._held_back import (
    BYTE_CODE,
    why_content_held_back,
    why_held_back,
    why_not_part,
    why_path_held_back,
)

PACKAGE_LIMIT = 50 * 1024 * 1024
"""The largest package, in bytes, that is sent."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Module:
    """A package or module that is sent as a whole. It is at the top level or inside a namespace package.

    Args:
        name: the dotted name; it contains a dot only if the module is inside a namespace package.
        path: the module's file or the package's directory; if it is in a zip file, its name in the zip file.
        is_package: whether ``path`` is a package's directory.
        is_library: whether the module is in site-packages.
        archive: the zip file that contains the module, if there is one.
    """

    name: str
    path: str
    is_package: bool = False
    is_library: bool = False
    archive: str | None = None

    @property
    def shown_path(self) -> str:
        """The path as users see it in ``__file__``."""
        return os.path.join(self.archive, self.path) if self.archive else self.path


@dataclass(frozen=True)
class File:
    """One file of a module, in its present state.

    Args:
        relative: the POSIX path at which the worker stores the file.
        path: the file's path on this machine; if it is in a zip file, its name in the zip file.
        stamp: the modification time in nanoseconds and the size in bytes, which tell whether the file has changed.
        archive: the zip file that contains the file, if there is one.
    """

    relative: str
    path: str
    stamp: tuple[int, int]
    archive: str | None = None

    @property
    def shown_path(self) -> str:
        """The path as users see it in ``__file__``."""
        return os.path.join(self.archive, self.path) if self.archive else self.path

    @property
    def module_name(self) -> str | None:
        """The dotted name of the module whose source this file is; ``None`` if it is not the source of a module."""
        if not self.relative.endswith(".py"):
            return None
        return self.relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def extension_name(self) -> str | None:
        """The dotted name of the C extension in this file; ``None`` if this file is not a C extension."""
        if not self.relative.endswith((".so", ".pyd")):
            return None
        folder, slash, name = self.relative.rpartition("/")
        return f"{folder}{slash}{name.partition('.')[0]}".replace("/", ".")  # the rest shows which Python it is for


# -- finding -------------------------------------------------------------------------------------------------


def locate(name: str) -> Module | None:
    """Find the module to send for a dotted name: its top-level module, or the module in a namespace package.

    This runs none of the user's code.

    Returns:
        The module, or ``None`` if there is no file because the module is built in, missing, or made by hand.
    """
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        prefix = ".".join(parts[:count])
        spec = _spec_of(prefix)
        if spec is None:
            return None
        if not _is_namespace(spec):
            return _module_of(prefix, spec)
    return None


def loaded_below_namespace(name: str) -> list[str]:
    """Return the names of the loaded modules inside a namespace package; empty if ``name`` is not such a package."""
    spec = _spec_of(name)
    if spec is None or not _is_namespace(spec):
        return []
    return [loaded for loaded in list(sys.modules) if loaded.startswith(name + ".")]


def _spec_of(name: str) -> ModuleSpec | None:
    module = sys.modules.get(name)
    if module is not None:
        spec = getattr(module, "__spec__", None)
        return spec if isinstance(spec, ModuleSpec) else _spec_of_module(name, module)
    parent = name.rpartition(".")[0]
    if parent:
        return _spec_below(name, _spec_of(parent))
    try:
        return importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None


def _spec_of_module(name: str, module: types.ModuleType) -> ModuleSpec | None:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is not None and hasattr(module, "__path__"):
        spec.submodule_search_locations = list(module.__path__)
    return spec


def _spec_below(name: str, parent: ModuleSpec | None) -> ModuleSpec | None:
    # importlib.util.find_spec would import the parent package.
    if parent is None or parent.submodule_search_locations is None:
        return None
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, list(parent.submodule_search_locations)) if find else None
        if isinstance(spec, ModuleSpec):
            return spec
    return None


def _is_namespace(spec: ModuleSpec) -> bool:
    return spec.origin is None and spec.submodule_search_locations is not None


def _module_of(name: str, spec: ModuleSpec) -> Module | None:
    is_package = spec.submodule_search_locations is not None
    loader: object = spec.loader
    if isinstance(loader, zipimport.zipimporter):
        inside = loader.prefix.replace(os.sep, "/") + name.rpartition(".")[2]
        path = inside if is_package else inside + os.path.splitext(spec.origin or ".py")[1]
        return Module(name, path, is_package, is_library_path(loader.archive), loader.archive)
    if spec.origin is None or not spec.has_location or not os.path.isfile(spec.origin):
        return None
    origin = os.path.abspath(spec.origin)
    return Module(name, os.path.dirname(origin) if is_package else origin, is_package, is_library_path(origin))


@functools.lru_cache(maxsize=4096)
def is_library_path(path: str) -> bool:
    """Tell whether a path lies in a site-packages directory."""
    parts = Path(path).parts
    return "site-packages" in parts or "dist-packages" in parts or os.path.realpath(path).startswith(_library_roots())


@functools.lru_cache(maxsize=4096)
def is_standard_path(path: str) -> bool:
    """Tell whether a path lies in the standard library."""
    return not is_library_path(path) and os.path.realpath(path).startswith(_standard_roots())


@functools.cache
def _library_roots() -> tuple[str, ...]:
    import site

    roots = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        roots.append(site.getusersitepackages())
    return tuple(os.path.realpath(root) + os.sep for root in roots if root)


@functools.cache
def _standard_roots() -> tuple[str, ...]:
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    return tuple(os.path.realpath(root) + os.sep for root in roots if root)


# -- files ---------------------------------------------------------------------------------------------------


def files_of(module: Module) -> list[File]:
    """List the files of a module. Data files in a package are included, but not files that are held back.

    Raises:
        SerializationError: the files cannot be read.
    """
    base = module.name.replace(".", "/")
    folder = base.rpartition("/")[0]
    try:
        if module.archive is not None:
            files = list(_files_in_zip(module, module.archive, folder))
        elif module.is_package:
            files = list(files_below(module.path, base))
        else:
            relative = f"{folder}/{_file_name(module)}".lstrip("/")
            files = [File(relative, module.path, _stamp(os.stat(module.path)))]
    except OSError as error:
        raise unreadable(module.name, module.shown_path, error) from error
    return files


def _file_name(module: Module) -> str:
    """Return a file name that matches the module's name, for the worker. On this machine the file name may differ."""
    suffixes = (*EXTENSION_SUFFIXES, ".so", ".pyd", *BYTECODE_SUFFIXES)
    suffix = next((suffix for suffix in suffixes if module.path.endswith(suffix)), SOURCE_SUFFIXES[0])
    return module.name.rpartition(".")[2] + suffix


def files_below(directory: str, relative: str) -> Iterator[File]:
    """Yield the files in a directory that are sent with the directory.

    Args:
        directory: the directory.
        relative: the POSIX path at which the worker stores the directory.

    Raises:
        OSError: the directory cannot be read.
    """
    return _Walk(directory).files(directory, relative)


class _Walk:
    """Walks through a package's directory, follows symbolic links, and visits each directory only once."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self._visited: set[tuple[int, int]] = set()

    def files(self, directory: str, relative: str) -> Iterator[File]:
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in self._visited:
            return  # a symbolic link that leads back up
        self._visited.add((status.st_dev, status.st_ino))
        with os.scandir(directory) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        if reason := why_not_part(directory, {entry.name for entry in entries}):
            _tell(directory, reason)
            return
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:
                continue  # a broken link, or a file that has just been removed
            is_directory = stat.S_ISDIR(status.st_mode)
            if reason := self._why_held_back(entry, is_directory):
                _tell(entry.path, reason)
            elif is_directory:
                yield from self.files(entry.path, f"{relative}/{entry.name}")
            elif stat.S_ISREG(status.st_mode):
                yield File(f"{relative}/{entry.name}", entry.path, _stamp(status))

    def _why_held_back(self, entry: os.DirEntry[str], is_directory: bool) -> str | None:
        reason = why_held_back(entry.name, is_directory=is_directory)
        if reason is None and entry.is_symlink():
            # No link may cause ~/.aws/credentials to be sent, but many tools link to hidden directories.
            real = os.path.realpath(entry.path)
            parts = [part for part in os.path.relpath(real, self._root).split(os.sep) if part != ".."]
            return why_path_held_back("/".join(parts), is_recorded=True) if parts and parts != ["."] else None
        return reason


def _tell(path: str, reason: str) -> None:
    if reason != BYTE_CODE:  # byte code is very common, and harmless
        logger.debug("%s is not sent: %s", path, reason)


def _files_in_zip(module: Module, archive: str, folder: str) -> Iterator[File]:
    changed = os.stat(archive).st_mtime_ns
    above = module.path.rpartition("/")[0]
    from zipfile import ZipFile  # imported here: it takes 10 ms, and few programs need it

    with ZipFile(archive) as opened:
        for item in opened.infolist():
            name = item.filename
            wanted = name.startswith(module.path + "/") if module.is_package else name == module.path
            if not wanted or item.is_dir():
                continue
            inside = name.removeprefix(above).lstrip("/")
            if reason := why_path_held_back(inside):
                _tell(os.path.join(archive, name), reason)
            else:
                yield File(f"{folder}/{inside}".lstrip("/"), name, (changed, item.file_size), archive)


def file_at(path: str, relative: str) -> File:
    """Return the file at a path.

    Raises:
        OSError: the file does not exist.
    """
    return File(relative, path, _stamp(os.stat(path)))


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size


def check_size(files: Iterable[File], name: str, path: str) -> None:
    """Check that the files of a package or distribution are not too big to be sent with each map.

    Raises:
        SerializationError: the files exceed ``PACKAGE_LIMIT``. The message names the package, its size and the remedy.
    """
    size = sum(file.stamp[1] for file in files)
    if size > PACKAGE_LIMIT:
        raise SerializationError(
            f"the package {name} ({path}) is {size / 1e6:.0f} MB, over the limit of {PACKAGE_LIMIT / 1e6:.0f} MB for "
            "what is shipped with a function; keep the package's data elsewhere, leave the package out with "
            f"exclude_modules=[{name!r}], or give the worker a runtime or layer that has it (docs/runtimes.md)",
            path=name,
        )


def unreadable(name: str, path: str, error: Exception) -> SerializationError:
    """Return the error to raise for files that cannot be read."""
    return SerializationError(
        f"the module {name} cannot be shipped: {path} cannot be read ({error}); "
        f"make it readable, or leave it out with exclude_modules",
        path=name,
    )


# -- contents ------------------------------------------------------------------------------------------------

_CACHED_FILE_LIMIT = 1024 * 1024
_CACHE_LIMIT = 64 * 1024 * 1024
_SETTLED_SECONDS = 0.1  # a file changed within this time may change again at the same modification time


class _Contents:
    """A cache of the contents of files, by path. A file is read again after it has changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int], bytes]] = {}
        self._size = 0

    def read(self, file: File) -> bytes:
        key = file.shown_path
        known = self._known.get(key)
        if known is not None and known[0] == file.stamp:
            return known[1]
        data = self._read(file)
        if len(data) <= _CACHED_FILE_LIMIT and time.time() - file.stamp[0] / 1e9 > _SETTLED_SECONDS:
            self._keep(key, file.stamp, data)
        return data

    def _keep(self, key: str, stamp: tuple[int, int], data: bytes) -> None:
        with self._lock:
            if self._size + len(data) > _CACHE_LIMIT:
                self._known.clear()
                self._size = 0
            self._known[key] = stamp, data
            self._size += len(data)

    @staticmethod
    def _read(file: File) -> bytes:
        try:
            return Path(file.path).read_bytes() if file.archive is None else _read_from_zip(file.archive, file.path)
        except OSError as error:
            raise unreadable(file.module_name or file.relative, file.shown_path, error) from error


def _read_from_zip(archive: str, name: str) -> bytes:
    # The importer has already read the archive's directory. It uses the system's path separator.
    data: bytes = zipimport.zipimporter(archive).get_data(os.path.join(archive, *name.split("/")))
    return data


_contents = _Contents()


def content_of(file: File) -> bytes:
    """Return the present content of a file as bytes.

    Raises:
        SerializationError: the file cannot be read.
    """
    return _contents.read(file)


def contents_of(files: Iterable[File]) -> dict[str, bytes]:
    """Return the contents of files, keyed by their paths on the worker. Files that contain secrets are left out.

    Raises:
        SerializationError: a file cannot be read.
    """
    contents = {}
    for file in files:
        data = content_of(file)
        if reason := why_content_held_back(file.relative.rpartition("/")[2], data):
            _tell(file.shown_path, reason)
        else:
            contents[file.relative] = data
    return contents
