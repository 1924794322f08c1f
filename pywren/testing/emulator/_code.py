"""``Code``: an unzipped zip. As on Lambda, the zip is checked before it is unzipped, and the files are read-only.

The function has the permissions that a file's mode grants to *others*, because Lambda runs it as a user who owns none
of the files. A zip whose files have mode 0600, as ``ZipFile.writestr`` creates them, fails with "Permission denied" on
AWS too.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pywren.testing.emulator._rest_json import Refusal

BAD_ZIP = "Could not unzip uploaded file. Please check your file, then try to upload again."


@dataclass(frozen=True)
class Code:
    """An unzipped function or layer; it never changes.

    Args:
        directory: the directory that the zip was extracted to.
        sha256: the SHA-256 of the zip in base64, as in ``CodeSha256``.
        size: the size of the zip in bytes.
        unzipped: the size of the extracted files in bytes.
    """

    directory: Path
    sha256: str
    size: int
    unzipped: int


def unpack(archive: bytes, directory: Path, most: int) -> Code:
    """Extract a zip into a directory that does not exist yet.

    Args:
        archive: the zip.
        directory: the directory to create.
        most: the maximum size of all extracted files in bytes.

    Returns:
        The code, whose files and directories are read-only.

    Raises:
        Refusal: the archive is not a zip, contains paths outside the directory, or is too big; no directory is left
            behind.
    """
    if not archive:
        raise Refusal("InvalidParameterValueException", "Uploaded file must be a non-empty zip")
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            members = [_Member.of(entry) for entry in opened.infolist()]
            unzipped = sum(member.entry.file_size for member in members)
            if not members:
                raise Refusal("InvalidParameterValueException", "Uploaded file must be a non-empty zip")
            if unzipped > most:
                raise Refusal("InvalidParameterValueException", f"Unzipped size must be smaller than {most} bytes")
            directory.mkdir(parents=True)
            _extract(opened, members, directory)
    except _NOT_A_ZIP as error:
        remove(directory)
        raise Refusal("InvalidParameterValueException", BAD_ZIP) from error
    except BaseException:
        remove(directory)
        raise
    digest = base64.b64encode(hashlib.sha256(archive).digest()).decode()
    return Code(directory, digest, len(archive), unzipped)


def remove(directory: Path) -> None:
    """Remove a directory that may contain read-only code; ignore files that cannot be removed."""
    with contextlib.suppress(OSError):  # another thread or process may be removing the directory too
        for path in _directories(directory):
            path.chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)


class _BadMemberError(Exception):
    """A member of a zip that Lambda does not extract, or that would be written outside the directory."""


_NOT_A_ZIP = (
    _BadMemberError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,
    # the next three: one member is a file where another member needs a directory, or vice versa
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)


class _Member(NamedTuple):
    """One member of a zip."""

    entry: zipfile.ZipInfo
    path: PurePosixPath
    mode: int  # the function's permissions
    link: bool

    @classmethod
    def of(cls, entry: zipfile.ZipInfo) -> _Member:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts:
            raise _BadMemberError(f"{entry.filename!r} is outside the directory")
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _BadMemberError(f"{entry.filename!r} is encrypted, or is not compressed with deflate")
        written = entry.external_attr >> 16
        # zips made on Windows store no modes
        others = stat.S_IMODE(written) & 0o005 if stat.S_IMODE(written) else 0o005 if entry.is_dir() else 0o004
        return cls(entry, path, others * 0o111, stat.S_ISLNK(written))


def _extract(opened: zipfile.ZipFile, members: Iterable[_Member], directory: Path) -> None:
    modes: dict[Path, int] = {}
    links: dict[Path, str] = {}
    for member in members:
        target = directory / member.path
        if member.entry.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            modes[target] = member.mode
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.link:
            links[target] = opened.read(member.entry).decode()
            continue
        with opened.open(member.entry) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        modes[target] = member.mode
    # create links last, so that no file is written through a link
    for target, destination in links.items():
        target.symlink_to(destination)
    _set_modes(directory, modes)


def _set_modes(directory: Path, modes: dict[Path, int]) -> None:
    """Make all files and directories read-only, the innermost first."""
    for path in _directories(directory):
        modes.setdefault(path, 0o555)
    for path in sorted(modes, key=lambda path: len(path.parts), reverse=True):
        path.chmod(modes[path])


def _directories(top: Path) -> Iterator[Path]:
    """Yield a directory and all directories below it, the outermost first, without following links."""
    if not top.is_dir() or top.is_symlink():
        return
    yield top
    with os.scandir(top) as found:
        inner = [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
    for path in inner:
        yield from _directories(Path(path))
