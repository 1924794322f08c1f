"""``SitePackages``: a directory of installed distributions that becomes a runtime's tarball.

The same distributions always give a tarball with the same bytes, so an unchanged runtime is not uploaded again.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pywren.exceptions import DeploymentError
from pywren.serialize._distributions import OF_THIS_MACHINE, normalized

WORKERS_OWN = frozenset({"pywren", "cloudpickle", "tblib"})
"""Modules that every worker has in the client's version; another version could not read the client's messages."""

LAMBDAS_OWN = frozenset({"boto3", "botocore", "s3transfer"})
"""Distributions that Lambda provides; they are left out unless a requirement names them."""

INSTALLERS = frozenset({"pip", "uv"})

_EPOCH = 315_532_800  # 1980-01-01, the earliest time that a zip file can store


@dataclass(frozen=True)
class Distribution:
    """An installed distribution.

    Args:
        name: its normalized name: lower case, words joined by dashes.
        version: its version.
        folder: its ``.dist-info`` directory.
        files: its files, as POSIX paths relative to the directory of packages.
        requires: its requirements, as its metadata states them.
    """

    name: str
    version: str
    folder: Path
    files: tuple[str, ...]
    requires: tuple[str, ...] = ()

    @property
    def modules(self) -> dict[str, bool]:
        """The top-level modules, and whether each is a package."""
        found: dict[str, bool] = {}
        for file in self.files:
            top, _, below = file.partition("/")
            name = top if below else top.partition(".")[0]
            if name.isidentifier() and "__pycache__" not in file and file.endswith((".py", ".so")):
                found[name] = found.get(name, False) or bool(below)
        return found

    @property
    def preinstalls(self) -> dict[str, bool]:
        """The modules that clients need not send, and whether each is a package; for a namespace, those below it."""
        present = set(self.files)
        found: dict[str, bool] = {}
        for file in self.files:
            if file.endswith((".py", ".so")) and file.partition("/")[0].partition(".")[0] in self.modules:
                *folders, last = file.split("/")
                above = [folders[: count + 1] for count in range(len(folders))]
                package = next((parts for parts in above if f"{'/'.join(parts)}/__init__.py" in present), None)
                found[".".join(package or [*folders, last.partition(".")[0]])] = package is not None
        return found

    @property
    def brings_anything(self) -> bool:
        """Whether the distribution contains files other than its metadata."""
        return any(not file.startswith(f"{self.folder.name}/") for file in self.files)


class SitePackages:
    """A directory of installed packages.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def distributions(self) -> list[Distribution]:
        """Return the installed distributions, sorted by name."""
        found = [_read(folder) for folder in self.path.glob("*.dist-info") if folder.is_dir()]
        return sorted((item for item in found if item is not None), key=lambda item: item.name)

    def remove(self, distribution: Distribution) -> None:
        """Delete a distribution's files, and the directories that become empty."""
        self._remove_files(distribution, distribution.files)
        shutil.rmtree(distribution.folder, ignore_errors=True)

    def remove_modules(self, distribution: Distribution, modules: Collection[str]) -> None:
        """Delete top-level modules of a distribution."""
        own = [file for file in distribution.files if file.partition("/")[0].partition(".")[0] in modules]
        self._remove_files(distribution, own)

    def _remove_files(self, distribution: Distribution, files: Iterable[str]) -> None:
        keep = {file for other in self.distributions() if other.name != distribution.name for file in other.files}
        for file in files:
            path = self.path / file
            # RECORD comes from the distribution and may name any path: delete only inside this directory
            if file not in keep and self._is_inside(path):
                path.unlink(missing_ok=True)
                self._remove_empty(path.parent)

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(self.path)) and not path.is_dir()

    def _remove_empty(self, directory: Path) -> None:
        while directory != self.path and directory.is_dir():
            shutil.rmtree(directory / "__pycache__", ignore_errors=True)
            try:
                directory.rmdir()
            except OSError:
                return  # not empty
            directory = directory.parent

    def tidy(self) -> None:
        """Delete files that workers do not need or that depend on this machine: scripts, byte code, install records."""
        for cache in [path for path in self.path.rglob("__pycache__") if path.is_dir()]:
            shutil.rmtree(cache)
        for path in [*self.path.rglob("*.pyc"), *self.path.glob(".lock"), *self.path.glob("__editable__*")]:
            path.unlink()
        for path in (self.path / "bin").glob("*"):
            if path.is_file() and _is_script(path):
                path.unlink()
                self._remove_empty(path.parent)
        for folder in self.path.glob("*.dist-info"):
            self._tidy_folder(folder)

    def _tidy_folder(self, folder: Path) -> None:
        for name in OF_THIS_MACHINE:
            (folder / name).unlink(missing_ok=True)
        record = folder / "RECORD"
        if record.is_file():
            rows = [row for row in _rows(record) if row and (self.path / row[0]).is_file()]
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(sorted(rows))
            record.write_text(text.getvalue(), encoding="utf-8")


def _read(folder: Path) -> Distribution | None:
    from importlib.metadata import PathDistribution

    metadata = PathDistribution(folder).metadata
    name, version = metadata["Name"], metadata["Version"]
    if not name or not version:
        return None  # the installation was interrupted
    record = folder / "RECORD"
    files = tuple(row[0].replace(os.sep, "/") for row in _rows(record) if row) if record.is_file() else ()
    if not files:
        declared = PathDistribution(folder).read_text("top_level.txt") or ""
        files = tuple(_files_of(folder.parent, declared.split()))
    return Distribution(normalized(name), version, folder, files, tuple(metadata.get_all("Requires-Dist") or ()))


def _files_of(directory: Path, names: list[str]) -> Iterator[str]:
    """List the files of top-level modules, for conda packages, which have no RECORD."""
    for name in names:
        if not name.isidentifier():
            continue
        for path in [*directory.glob(f"{name}.*"), *(directory / name).rglob("*")]:
            if path.is_file():
                yield path.relative_to(directory).as_posix()


def _rows(record: Path) -> list[list[str]]:
    with record.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file))


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def reason_to_leave_out(distribution: Distribution, wanted: Collection[str] = ()) -> str | None:
    """Return why a distribution does not belong in a runtime; ``None`` if it belongs there.

    Args:
        distribution: the distribution.
        wanted: the names of distributions to keep even if Lambda has them or workers cannot use them.
    """
    if distribution.name in WORKERS_OWN:
        return "every worker has it"
    if distribution.name in LAMBDAS_OWN and distribution.name not in wanted:
        return "Lambda has it"
    if distribution.name in INSTALLERS and distribution.name not in wanted:
        return "workers install no packages"
    return None


_REMOVED: Mapping[str, frozenset[str]] = {  # https://docs.python.org/3/whatsnew/
    "3.11": frozenset({"binhex"}),
    "3.12": frozenset({"asynchat", "asyncore", "distutils", "imp", "smtpd"}),
    "3.13": frozenset(
        {
            *("aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "lib2to3", "mailcap", "msilib", "nis"),
            *("nntplib", "ossaudiodev", "pipes", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib"),
        }
    ),
}
_ADDED: Mapping[str, frozenset[str]] = {
    "3.11": frozenset({"tomllib"}),
    "3.14": frozenset({"annotationlib", "compression"}),
}


def standard_modules(python: str) -> frozenset[str]:
    """Return the standard library modules of a version of Python, such as ``"3.12"``."""

    def reached(version: str) -> bool:
        return _minor(version) <= _minor(python)

    names = set(sys.stdlib_module_names)
    for version, removed in _REMOVED.items():
        names = names - removed if reached(version) else names | removed
    for version, added in _ADDED.items():
        names = names | added if reached(version) else names - added
    return frozenset(names)


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


def hiding_modules(distribution: Distribution, python: str) -> list[str]:
    """Return the modules of a distribution that would hide modules of the standard library."""
    return sorted(standard_modules(python).intersection(distribution.modules))


def check_modules(distribution: Distribution) -> None:
    """Check that a distribution does not contain any of the worker's own modules.

    Raises:
        DeploymentError: the distribution contains such a module.
    """
    taken = sorted(WORKERS_OWN.intersection(distribution.modules))
    if taken:
        raise DeploymentError(
            f"{distribution.name} {distribution.version} has a module {taken[0]}, which would replace the worker's "
            f"own: remove {distribution.name} from the requirements"
        )


# -- the tarball ---------------------------------------------------------------------------------------------


def sizes(tree: Path) -> Mapping[str, int]:
    """Return the size of each file in a directory, in bytes by relative path; directories have size 0."""
    return {path.relative_to(tree).as_posix(): _size(path) for path in tree.rglob("*")}


def _size(path: Path) -> int:
    return path.lstat().st_size if path.is_file() and not path.is_symlink() else 0


def write_tarball(tree: Path, file: IO[bytes]) -> None:
    """Write a directory as a tarball whose bytes depend only on names, contents and execute permissions.

    Raises:
        DeploymentError: the directory contains something other than files, directories and links.
    """
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(tree.rglob("*"), key=lambda path: path.relative_to(tree).as_posix()):
            member = _member(path, path.relative_to(tree).as_posix())
            if member.isreg():
                with path.open("rb") as content:
                    tar.addfile(member, content)
            else:
                tar.addfile(member)


def _member(path: Path, name: str) -> tarfile.TarInfo:
    status = path.lstat()
    member = tarfile.TarInfo(name)
    member.mtime = _EPOCH
    member.mode = 0o755 if status.st_mode & 0o111 else 0o644
    if stat.S_ISLNK(status.st_mode):
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
    elif stat.S_ISDIR(status.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    elif stat.S_ISREG(status.st_mode):
        member.size = status.st_size
    else:
        raise DeploymentError(f"{path} is not a file, directory or link, so it cannot go into a runtime")
    return member
