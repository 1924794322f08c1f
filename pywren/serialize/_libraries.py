"""Finds the files of a distribution that are sent, and whether they work without its C extensions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pywren.serialize._distributions import Installed
from pywren.serialize._held_back import why_path_held_back
from pywren.serialize._imports import Import, imports_of_source
from pywren.serialize._modules import File, content_of, file_at, files_below, unreadable

_SCRIPTS = ("bin/", "Scripts/")


@dataclass(frozen=True)
class Contents:
    """The files of a package or distribution.

    Args:
        files: the files that work on any system.
        extensions: the C extensions, which work only on this system and with this version of Python.
    """

    files: list[File]
    extensions: list[File]

    @classmethod
    def of(cls, files: Iterable[File]) -> Contents:
        """Return ``Contents`` in which the C extensions are separate from the other files."""
        contents = cls([], [])
        for file in files:
            (contents.files if file.extension_name is None else contents.extensions).append(file)
        return contents

    def stands_in_for(self, extension: File) -> bool:
        """Tell whether the other files work without a C extension.

        They do if the extension is the compiled form of one of these files. They also do if all imports of the
        extension are in a ``try`` that catches ``ImportError``, as is usual if the extension only makes a library
        faster.
        """
        name = str(extension.extension_name)
        if name.endswith("__mypyc") or any(file.module_name == name for file in self.files):
            return True
        imports = [item for item in self._imports_of(name) if name in item.names]
        return bool(imports) and all(item.guarded for item in imports)

    def _imports_of(self, name: str) -> Iterator[Import]:
        word = name.rpartition(".")[2].encode()
        for file in self.files:
            if file.module_name is not None and word in content_of(file):
                yield from imports_of_file(file)


def contents_of_distribution(installed: Installed) -> Contents:
    """Return the files of an installed distribution: its modules, the data files in its packages, and its metadata.

    Raises:
        SerializationError: the files cannot be read.
    """
    key = _stamp(installed)
    known = _known.get(installed)
    if known is not None and known[0] == key:
        return known[1]
    files = {file.relative: file for file in _files(installed)}
    contents = Contents.of(files.values())
    _known[installed] = key, contents
    return contents


# The files of an installed distribution do not change, nor do its modules once they are loaded.
_known: dict[Installed, tuple[tuple[int, int], Contents]] = {}


def _stamp(installed: Installed) -> tuple[int, int]:
    status = os.stat(os.path.join(installed.directory, installed.info))
    return status.st_mtime_ns, status.st_ino


def _files(installed: Installed) -> Iterator[File]:
    yield from metadata_of(installed)
    try:
        for module in installed.modules:
            yield from _files_of_module(installed, module)
        for path in sorted(installed.recorded):
            if _is_shipped(installed, path) and os.path.isfile(full := os.path.join(installed.directory, path)):
                yield file_at(full, path)
    except OSError as error:
        raise unreadable(installed.name, installed.directory, error) from error


def _files_of_module(installed: Installed, module: str) -> Iterator[File]:
    """Yield the files of a top-level module, even unrecorded ones: a library may have added data files itself."""
    place = os.path.join(installed.directory, module)
    if installed.brings(f"{module}/__init__.py") and os.path.isfile(os.path.join(place, "__init__.py")):
        yield from files_below(place, module)
    elif not installed.recorded and os.path.isfile(f"{place}.py"):
        yield file_at(f"{place}.py", f"{module}.py")


def _is_shipped(installed: Installed, path: str) -> bool:
    top = path.partition("/")[0]
    if top == installed.info or path.endswith(".pth") or (path.startswith(_SCRIPTS) and top not in installed.modules):
        return False  # metadata_files() selects metadata; other files are of use only on this machine
    return why_path_held_back(path, is_recorded=True) is None


def metadata_of(installed: Installed) -> list[File]:
    """Return the files of a distribution's metadata, for ``importlib.metadata``.

    Raises:
        SerializationError: the files cannot be read.
    """
    try:
        return [file_at(os.path.join(installed.directory, path), path) for path in installed.metadata_files()]
    except OSError as error:
        raise unreadable(installed.name, installed.directory, error) from error


# -- imports ---------------------------------------------------------------------------------------------------

_parsed: dict[str, tuple[bytes, list[Import]]] = {}


def imports_of_file(file: File) -> list[Import]:
    """Return the imports of a source file. The file is parsed again only if it has changed."""
    source = content_of(file)
    known = _parsed.get(file.shown_path)
    if known is not None and known[0] is source:  # the same bytes object means that the file is unchanged
        return known[1]
    name = file.module_name or ""
    package = name if file.relative.endswith("/__init__.py") else name.rpartition(".")[0]
    imports = imports_of_source(source, package)
    _parsed[file.shown_path] = source, imports
    return imports
