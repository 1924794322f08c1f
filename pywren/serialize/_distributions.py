"""Finds installed distributions, the files of each distribution, and the distribution that a module comes from."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

OF_THIS_MACHINE = frozenset({"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
"""Files in a ``.dist-info`` that record where and how a distribution was installed. No worker needs these files."""

_INFO = (".dist-info", ".egg-info")
_MODULE_SUFFIXES = (".py", *EXTENSION_SUFFIXES)
_SETTLED_SECONDS = 0.1  # a directory changed within this time may change again at the same modification time


class Requirement(NamedTuple):
    """A distribution that another distribution requires.

    Args:
        name: the normalized name of the required distribution.
        conditional: whether it is required only on some systems or versions of Python.
    """

    name: str
    conditional: bool


@dataclass(frozen=True, eq=False)
class Installed:
    """An installed distribution.

    Args:
        name: the distribution's name according to its metadata.
        directory: the directory that contains its modules and metadata.
        info: the name of its ``.dist-info`` or ``.egg-info`` in that directory; an ``.egg-info`` may be a file.
        modules: the names of its top-level modules.
        source: the directory of its project, if the modules are imported from the project (``pip install -e``).
    """

    name: str
    directory: str
    info: str
    modules: tuple[str, ...]
    source: str | None

    @functools.cached_property
    def recorded(self) -> frozenset[str]:
        """The paths that the installer recorded, relative to ``directory``; empty if the installer kept no record."""
        return frozenset(path for path in _recorded(self._folder) if _is_inside(path))

    @functools.cached_property
    def requires(self) -> tuple[Requirement, ...]:
        """The distributions that this distribution requires, without the requirements of its extras."""
        found = []
        for requirement in _headers(self._folder, "Requires-Dist"):
            wanted, _, marker = requirement.partition(";")
            name = re.match(r"[\w.-]+", wanted)
            if name and "extra" not in marker:
                found.append(Requirement(normalized(name[0]), bool(marker.strip())))
        return tuple(found)

    def brings(self, path: str) -> bool:
        """Tell whether a file belongs to the distribution. The path is relative to ``directory``."""
        return path in self.recorded or (not self.recorded and path.partition("/")[0].partition(".")[0] in self.modules)

    def metadata_files(self) -> list[str]:
        """Return the paths of the metadata files that another machine can use, relative to ``directory``."""
        folder = self._folder
        if not folder.is_dir():
            return [self.info]
        found = [path.relative_to(self.directory).as_posix() for path in folder.rglob("*") if path.is_file()]
        return sorted(path for path in found if path.rpartition("/")[2] not in OF_THIS_MACHINE)

    @property
    def _folder(self) -> Path:
        return Path(self.directory, self.info)


def normalized(distribution: str) -> str:
    """Return a distribution's name in normalized form: ``Foo.Bar`` and ``foo-bar`` have the same normalized name."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


# -- finding distributions -----------------------------------------------------------------------------------


def find_distribution(name: str) -> Installed | None:
    """Return the installed distribution with a normalized name, or ``None`` if it is not installed."""
    for index in _indexes_on_path():
        if name in index.by_name:
            return index.by_name[name]
    return None


def distributions_with(directory: str, path: str) -> list[Installed]:
    """Return the distributions to which a file belongs. A file of an old namespace package may belong to several.

    Args:
        directory: the directory from which modules are imported.
        path: the file's path, relative to ``directory``.
    """
    top = path.partition("/")[0].partition(".")[0]
    return [one for one in _index_of(directory).by_module.get(top, ()) if one.brings(path)]


def editable_installs() -> list[Installed]:
    """Return the distributions that were installed as links to their projects (``pip install -e``)."""
    return [one for index in _indexes_on_path() for one in index.by_name.values() if one.source is not None]


def distributions_of(top: str) -> list[str]:
    """Return the names of the distributions that install a top-level module."""
    return [one.name for index in _indexes_on_path() for one in index.by_module.get(top, ())]


def installed_modules() -> list[str]:
    """Return the top-level names of all modules that are installed for this interpreter."""
    return sorted({name for index in _indexes_on_path() for name in index.by_module})


# -- the index of a directory --------------------------------------------------------------------------------


class _Index(NamedTuple):
    by_name: dict[str, Installed]
    by_module: dict[str, list[Installed]]


_NOTHING = _Index({}, {})
_known: dict[str, tuple[int, _Index]] = {}  # by directory; if two threads make the same entry, the entries are equal


def _indexes_on_path() -> Iterator[_Index]:
    for entry in dict.fromkeys(sys.path):
        yield _index_of(os.path.abspath(entry))


def _index_of(directory: str) -> _Index:
    """Return what is installed in a directory. Read the directory again if it has changed since the previous call."""
    try:
        changed = os.stat(directory).st_mtime_ns
        known = _known.get(directory)
        if known is not None and known[0] == changed:
            return known[1]
        infos = sorted(name for name in os.listdir(directory) if name.endswith(_INFO))
    except OSError:  # the directory does not exist, or is a zip file
        return _NOTHING
    index = _Index({}, {})
    for one in filter(None, (_read(directory, info) for info in infos)):
        index.by_name.setdefault(normalized(one.name), one)
        for module in one.modules:
            index.by_module.setdefault(module, []).append(one)
    if time.time() - changed / 1e9 > _SETTLED_SECONDS:
        _known[directory] = changed, index
    return index


def _read(directory: str, info: str) -> Installed | None:
    folder = Path(directory, info)
    name = next(iter(_headers(folder, "Name")), None)
    if name is None:
        return None  # left by an interrupted installation
    modules = _modules_among(_recorded(folder)) or tuple(_text(folder / "top_level.txt").split())
    return Installed(name, directory, info, modules, _project(_text(folder / "direct_url.json")))


def _headers(folder: Path, wanted: str) -> list[str]:
    """Return the values of a header in the metadata. Using email.parser would take ten times as long."""
    text = _text(folder / "METADATA") or _text(folder / "PKG-INFO") or _text(folder)
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    return [value.strip() for value in re.findall(rf"^{wanted}:(.*)", head, re.MULTILINE)]


def _recorded(folder: Path) -> Iterator[str]:
    """Yield the paths that the file RECORD lists, exactly as listed."""
    for line in _text(folder / "RECORD").splitlines():
        # Paths that contain a comma or a quotation mark are quoted.
        path = line[1:].partition('",')[0].replace('""', '"') if line.startswith('"') else line.partition(",")[0]
        if path:
            yield path.replace("\\", "/")


def _is_inside(path: str) -> bool:
    # Scripts are listed with paths that lead out of the directory; a distribution may list anything.
    return not path.startswith("/") and not {"", ".", "..", "__pycache__"} & set(path.split("/"))


def _modules_among(paths: Iterable[str]) -> tuple[str, ...]:
    found = set()
    for path in paths:
        if path.endswith(_MODULE_SUFFIXES) and _is_inside(path):
            found.add(path.partition("/")[0].partition(".")[0])
    return tuple(sorted(name for name in found if name.isidentifier() and not name.startswith("__editable__")))


def _project(direct_url: str) -> str | None:
    """Return the project's directory, given the ``direct_url.json`` of an editable installation; otherwise ``None``."""
    if "editable" not in direct_url:
        return None
    try:
        document = json.loads(direct_url)
        if not document["dir_info"]["editable"]:
            return None
        return os.path.realpath(unquote(urlsplit(document["url"]).path))
    except (ValueError, TypeError, KeyError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
