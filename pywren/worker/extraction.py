"""Extracts an untrusted tarball safely.

The tarball's digest has been verified, but its author may have put anything into it. The filter ``data`` of ``tarfile``
exists only since Python 3.10.12 and 3.11.4. So this module checks every member itself, and enforces limits that keep an
archive from filling the memory or the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

from pywren.exceptions import RuntimeSetupError

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo

ERROR = "RUNTIME_ERROR"
"""``RuntimeSetupError.args[1]`` for a runtime that cannot be used as it is."""

MEMBER_LIMIT = 1_000_000
"""The most members that an archive may have."""

HEADER_LIMIT = 1024 * 1024
"""The most bytes that may precede a member's content: its header, with long names and extended attributes."""

BLOCK_BYTES = 4096
"""The disk space in bytes that the smallest file or directory takes."""

_TAR_BLOCK_BYTES = 512


def extract(tarball: IO[bytes], target: str, take: Callable[[int], None]) -> None:
    """Extract a tarball, compressed or not. Nothing is written outside the directory, and no link leads out of it.

    Args:
        tarball: the archive.
        target: an empty directory.
        take: called with the number of bytes about to be written; raises when they do not fit.

    Raises:
        RuntimeSetupError: the archive is damaged, is not a tarball, or has a member that could do harm.
        OSError: the files cannot be written.
    """
    import tarfile

    try:
        # "r:*" needs a seekable file but finds out the compression itself. Imports are local: most workers never
        # extract.
        with tarfile.open(fileobj=tarball, mode="r:*", tarinfo=_bounded_tarinfo()) as tar:
            for count, member in enumerate(_members(tar), 1):
                # Every member takes an inode, however small it is, and bytes alone would not limit those.
                if count > MEMBER_LIMIT:
                    raise _unsafe(member, f"exceeds the limit of {MEMBER_LIMIT:,} members")
                # In the archive's order, each checked against what is on the disk by then: an earlier member may be the
                # link that a later one tries to write through.
                _extract_member(tar, member, target, take)
            _check_end(tar)
    except RuntimeSetupError:
        raise
    except Exception as error:  # tarfile and the decompressors raise almost anything for a damaged archive
        # An errno comes from the file system (ENOSPC, EACCES). tarfile and the decompressors raise OSErrors without one
        # for bad data.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise RuntimeSetupError(f"it is not a tar archive, or is damaged: {error}", ERROR) from error


def _members(tar: TarFile) -> Iterator[TarInfo]:
    """Yield the members without keeping them: tarfile would keep every member and every global header in memory."""
    kept: Any = tar
    while (member := tar.next()) is not None:
        yield member
        kept.members.clear()
        # An archive may have a million headers of 1 MB each; only the current ones are needed.
        kept.pax_headers.clear()


def _bounded_tarinfo() -> type[TarInfo]:
    """Return a subclass of ``TarInfo`` that limits the size of headers. ``TarInfo`` reads headers of any size."""
    import tarfile

    class BoundedTarInfo(tarfile.TarInfo):
        __slots__ = ()

        @classmethod
        def fromtarfile(cls, tarfile: Any) -> Any:
            file = tarfile.fileobj
            if isinstance(file, _HeaderBytes):  # this header extends the next one, and both share the limit
                return super().fromtarfile(tarfile)
            tarfile.fileobj = _HeaderBytes(file)
            try:
                return super().fromtarfile(tarfile)
            finally:
                tarfile.fileobj = file

    return BoundedTarInfo


class _HeaderBytes:
    """Wraps the archive while one member's header is read from it.

    Args:
        file: the archive.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = HEADER_LIMIT
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int) -> bytes:
        """Return the next bytes of the header.

        Raises:
            RuntimeSetupError: the header exceeds its limit.
        """
        # tarfile takes the size from the header itself, and passes on a negative one, which read() takes for
        # "everything".
        if not 0 <= size <= self._left:
            raise RuntimeSetupError(
                f"a member of its archive has a header larger than {HEADER_LIMIT / 1e6:.0f} MB; it was not extracted",
                ERROR,
            )
        self._left -= size
        data: bytes = self._file.read(size)
        return data


def _extract_member(tar: TarFile, member: TarInfo, target: str, take: Callable[[int], None]) -> None:
    import tarfile

    parts = _safe_parts(member, member.name)
    # Devices and FIFOs: opening one could hang the worker, or reach beyond the directory.
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise _unsafe(member, "is neither a file, a directory nor a link")
    # A negative size would give bytes back to take(), and so get round the disk limit.
    if member.size < 0:
        raise _unsafe(member, "has a negative size")
    if not parts:
        return
    take(member.size + BLOCK_BYTES)  # before anything is written, so that a tar bomb does not fill the disk first
    # No other process writes below ``new`` (its root is 0700 and locked), so nothing changes between check and use.
    _check_parents(member, target, parts)
    path = os.path.join(target, *parts)
    if os.path.islink(path) or (os.path.lexists(path) and not member.isdir()):
        os.unlink(path)  # if two members have the same name, the last one wins, and it is never written through a link
    if member.issym():
        _check_symlink(member, parts)
    if member.islnk():
        _check_hardlink(member, target)
    member = _without_privileges(member)
    # Where tarfile's own filter exists, use it too: two checks by different authors are safer than one.
    if hasattr(tarfile, "data_filter"):  # since Python 3.10.12 and 3.11.4
        tar.extract(member, target, filter="data")
    else:
        tar.extract(member, target)


def _safe_parts(member: TarInfo, name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/"):
        raise _unsafe(member, "has an absolute path")
    if ".." in parts:
        raise _unsafe(member, "has '..' in its path")
    return parts


def _check_parents(member: TarInfo, target: str, parts: list[str]) -> None:
    """Refuse to write through a link, wherever it points."""
    path = target
    for part in parts[:-1]:
        path = os.path.join(path, part)
        if os.path.islink(path):
            raise _unsafe(member, "has a link in its path")


def _check_symlink(member: TarInfo, parts: list[str]) -> None:
    """Accept only a link whose target goes up first, never above the archive's directory, and then down.

    Such a link stays inside the directory, even if its path leads through other links.
    """
    steps = [part for part in member.linkname.split("/") if part not in ("", ".")]
    ups = next((index for index, step in enumerate(steps) if step != ".."), len(steps))
    if member.linkname.startswith("/") or ups > len(parts) - 1 or ".." in steps[ups:]:
        raise _unsafe(member, f"is a link to {member.linkname!r}, which may lead outside")


def _check_hardlink(member: TarInfo, target: str) -> None:
    parts = _safe_parts(member, member.linkname)
    _check_parents(member, target, parts)
    path = os.path.join(target, *parts)
    # A hard link to a symbolic link or to a file outside would let a later member write through it.
    if os.path.islink(path) or not os.path.isfile(path):
        raise _unsafe(member, f"is a link to {member.linkname!r}, which is not an earlier file of the archive")


def _without_privileges(member: TarInfo) -> TarInfo:
    """Return a member that belongs to the worker's user, without the setuid, setgid and sticky bits."""
    import copy

    member = copy.copy(member)
    # The owner keeps write permission, without which the runtime could not be removed later.
    member.mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o600)
    member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
    return member


def _check_end(tar: TarFile) -> None:
    """Check for the zero block that ends an archive: tarfile accepts archives that were cut off between two members."""
    file: Any = tar.fileobj
    file.seek(tar.offset)
    if file.read(_TAR_BLOCK_BYTES) != bytes(_TAR_BLOCK_BYTES):
        raise RuntimeSetupError("its archive is damaged: it was cut off", ERROR)


def _unsafe(member: TarInfo, what: str) -> RuntimeSetupError:
    return RuntimeSetupError(f"the member {member.name[:200]!r} of its archive {what}; it was not extracted", ERROR)
