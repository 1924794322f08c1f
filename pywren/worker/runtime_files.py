"""``RuntimeFiles``: the user's runtimes on this worker, each fetched, verified and extracted once.

A runtime is a tarball in S3. Nothing of it is extracted before its SHA-256 was verified, and nothing of it is
ever written outside its own directory::

    <temporary directory>/pywren-runtimes-<uid>/      0700, its flock is held while something is made or removed
        new/                                          being made; found without that lock held, a dead worker's
        <sha256>-<time>/                              complete; its flock is shared by the calls that use it
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from pywren.exceptions import RuntimeSetupError, StorageError
from pywren.system.private_files import make_directories
from pywren.wire.call import Call
from pywren.wrenutil import split_s3_url

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo

logger = logging.getLogger(__name__)

TOO_BIG, READ_ERROR, ERROR = "RUNTIME_TOO_BIG", "RUNTIME_READ_ERROR", "RUNTIME_ERROR"
"""What ``RuntimeSetupError.args[1]`` may be."""

RESERVE = 16 * 1024 * 1024
"""Bytes of the disk that a runtime leaves free, for the call itself."""

MEMBER_LIMIT = 1_000_000
"""Members that an archive may have."""

HEADER_LIMIT = 1024 * 1024
"""Bytes that what comes before a member's content may have: its header, and long names and attributes beside it."""

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

_PIECE_BYTES = 16 * 1024 * 1024
_BLOCK_BYTES = 4096  # what the smallest file or directory takes of a disk
_TAR_BLOCK_BYTES = 512
_NEW = "new"
_INTERPRETER_SECONDS = 60.0


@dataclass(frozen=True)
class Archive:
    """A runtime's tarball, as a payload names it.

    Args:
        bucket: its bucket.
        key: its key.
        sha256: its digest, 64 lower-case hexadecimal digits.
        region: the bucket's region, when it is known.
        size: its bytes, beyond which nothing is read; ``None`` when they are not known.
    """

    bucket: str
    key: str
    sha256: str
    region: str | None = None
    size: int | None = None

    @property
    def url(self) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"

    @classmethod
    def of_call(cls, call: Call) -> Archive | None:
        """Return the runtime that a call asks for; ``None`` for the worker's own Python.

        Raises:
            RuntimeSetupError: the payload does not say where it is, or what its digest is.
        """
        if call.runtime_url is None and call.runtime_sha256 is None:
            return None
        if call.runtime_url is None:
            raise RuntimeSetupError("the payload has the digest of a runtime, but no runtime_url", ERROR)
        if not call.runtime_sha256:
            raise RuntimeSetupError(
                f"the payload gives no digest of the runtime {call.runtime_url}, and nothing is extracted unverified: "
                "write its SHA-256 in the configuration under runtime: sha256",
                ERROR,
            )
        try:
            bucket, key = split_s3_url(call.runtime_url)
        except ValueError as error:
            raise RuntimeSetupError(f"the runtime cannot be fetched: {error}", READ_ERROR) from error
        return cls(bucket, key, call.runtime_sha256.lower(), _region(call), call.runtime_size)


def _region(call: Call) -> str | None:
    backend: Mapping[str, Any] = call.storage_config.get("backend_config") or {}
    region = (call.runtime or {}).get("region") or backend.get("region")
    return str(region) if region else None


def fetch(archive: Archive, piece_bytes: int = _PIECE_BYTES) -> Iterator[bytes]:
    """Read a tarball from S3, piece by piece: a worker may have less memory than it has bytes.

    Args:
        archive: the tarball.
        piece_bytes: the length of a piece.

    Raises:
        StorageError: it cannot be read.
    """
    from pywren.aws.errors import error_code
    from pywren.storage.s3_backend import S3Backend

    backend = S3Backend(archive.bucket, archive.region)
    start = 0
    try:
        while archive.size is None or start < archive.size:
            wanted = piece_bytes if archive.size is None else min(piece_bytes, archive.size - start)
            piece = backend.get(archive.key, (start, start + wanted - 1), limit=wanted)
            yield piece
            start += len(piece)
            if len(piece) < wanted:
                return
    except StorageError as error:
        if error_code(error.__cause__ or error) != "InvalidRange":  # which says that the last piece was a whole one
            raise
    finally:
        backend.close()


def free_disk_bytes(directory: str) -> int:
    """Return the free bytes of the disk that a directory is on."""
    return shutil.disk_usage(directory).free


def disk_bytes(sizes: Iterable[int]) -> int:
    """Return the bytes of disk that a worker must have to extract a runtime.

    Args:
        sizes: the bytes of its archive, and of each member of it.
    """
    return RESERVE + sum(_whole_blocks(size + _BLOCK_BYTES) for size in sizes)


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


class Lease(NamedTuple):
    """A runtime while a call uses it.

    Args:
        path: its directory.
        cached: whether an earlier call had extracted it.
    """

    path: str
    cached: bool


class RuntimeFiles:
    """The runtimes that are extracted on this worker; threads and processes share them.

    Args:
        root: the directory they are in; one for each user under the temporary directory when not given.
        fetch: reads a tarball, piece by piece.
        free_disk: tells the free bytes of the disk that a directory is on.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        fetch: Callable[[Archive], Iterator[bytes]] = fetch,
        free_disk: Callable[[str], int] = free_disk_bytes,
    ) -> None:
        self.root = root or os.path.join(tempfile.gettempdir(), f"pywren-runtimes-{os.geteuid()}")
        self._fetch = fetch
        self._free_disk = free_disk
        self._made: set[str] = set()
        self._used = False

    @contextmanager
    def lease(self, archive: Archive, *, fresh: bool = False) -> Iterator[Lease]:
        """Have a runtime extracted, and kept from being removed while the context lasts.

        Args:
            archive: its tarball.
            fresh: extract it anew, whatever stands there.

        Raises:
            RuntimeSetupError: it cannot be fetched, is not what was promised, or does not fit.
        """
        with self._locked():
            self._used = True
            path = None if fresh else self._find(archive)
            cached = path is not None
            if path is None:
                path = self._make(archive)
            in_use = _lock_directory(path, shared=True)
        try:
            yield Lease(path, cached)
        finally:
            os.close(in_use)

    def close(self) -> None:
        """Remove what was extracted here, unless another process's call uses it."""
        if not self._used or not os.path.isdir(self.root):
            return
        self._used = False
        with self._locked():
            made, self._made = self._made, set()
            for name in made:
                self._remove_idle(name)
            try:
                os.rmdir(self.root)
            except OSError:
                logger.debug("%s is still in use", self.root)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads and processes from making or removing anything."""
        descriptor = self._lock_root()
        try:
            yield
        finally:
            os.close(descriptor)

    def _lock_root(self) -> int:
        while True:
            try:
                make_directories(self.root)
                descriptor = _lock_directory(self.root)
            except FileNotFoundError:
                continue  # another process has just removed it
            except OSError as error:
                raise RuntimeSetupError(f"{self.root} cannot be used for runtimes: {error}", ERROR) from error
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                os.close(descriptor)
                raise RuntimeSetupError(
                    f"{self.root} belongs to another user, or others may write there: remove it, or set TMPDIR", ERROR
                )
            try:
                if os.path.samestat(found, os.stat(self.root)):
                    return descriptor
            except FileNotFoundError:
                pass
            os.close(descriptor)  # it was removed while this waited for its lock

    # -- with the lock held ----------------------------------------------------------------------------------

    def _find(self, archive: Archive) -> str | None:
        names = [name for name in os.listdir(self.root) if name.startswith(f"{archive.sha256}-")]
        return os.path.join(self.root, max(names)) if names else None

    def _make(self, archive: Archive) -> str:
        """Fetch, verify and extract a runtime, and let it supersede others with the same digest."""
        started = time.monotonic()
        new = os.path.join(self.root, _NEW)
        shutil.rmtree(new, ignore_errors=True)
        try:
            self._fill(new, archive)
            # a name of its own each time: what runs from an earlier directory never finds other files in it
            name = f"{archive.sha256}-{time.time_ns():020d}"
            os.rename(new, os.path.join(self.root, name))
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self._made.add(name)
        for other in self._names():
            if other != name and other.startswith(archive.sha256):
                self._remove_idle(other)
        logger.info("the runtime %s was set up in %.1f s", archive.url, time.monotonic() - started)
        return os.path.join(self.root, name)

    def _fill(self, new: str, archive: Archive) -> None:
        room = _Room(lambda: self._free_disk(self.root), self._remove_all_idle)
        try:
            make_directories(new)
            with tempfile.TemporaryFile(dir=self.root) as tarball:
                self._download(archive, tarball, room)
                tarball.seek(0)
                extract(tarball, new, room.take)
            check_python(new)
        except RuntimeSetupError as error:
            raise _about(archive, error) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            told = room.too_big() if full else RuntimeSetupError(f"it cannot be set up: {error}", ERROR)
            raise _about(archive, told) from error

    def _download(self, archive: Archive, tarball: IO[bytes], room: _Room) -> None:
        """Write the tarball to a file, and verify it."""
        digest = hashlib.sha256()
        try:
            for piece in self._fetch(archive):
                room.take(len(piece))
                tarball.write(piece)
                digest.update(piece)
        except StorageError as error:
            raise RuntimeSetupError(f"it cannot be fetched: {error}", READ_ERROR) from error
        if digest.hexdigest() != archive.sha256:
            raise RuntimeSetupError(
                f"its SHA-256 is {digest.hexdigest()}, not {archive.sha256} as the configuration says under runtime: "
                "sha256; nothing was extracted. If it is you who replaced it, compute the new one with `sha256sum`",
                ERROR,
            )

    def _names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.root) if name != _NEW and "-" in name)

    def _remove_all_idle(self) -> bool:
        """Remove the runtimes that no call uses; returns whether there were any."""
        return [self._remove_idle(name) for name in self._names()].count(True) > 0

    def _remove_idle(self, name: str) -> bool:
        path = os.path.join(self.root, name)
        try:
            os.close(_lock_directory(path, blocking=False))
        except OSError:
            return False  # in use, or removed already
        logger.info("removing the runtime %s", path)
        shutil.rmtree(path, ignore_errors=True)
        self._made.discard(name)
        return True


def _about(archive: Archive, error: RuntimeSetupError) -> RuntimeSetupError:
    return RuntimeSetupError(f"the runtime {archive.url}: {error.args[0]}", *error.args[1:])


def _lock_directory(path: str, *, shared: bool = False, blocking: bool = True) -> int:
    """Open a directory and take its lock, which lasts until the descriptor is closed or the process ends."""
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class _Room:
    """The disk space that one runtime may still take.

    Args:
        free: tells the free bytes of the disk.
        make_room: removes what is not needed; returns whether there was anything.
    """

    def __init__(self, free: Callable[[], int], make_room: Callable[[], bool]) -> None:
        self._free = free
        self._make_room = make_room
        self._taken = 0
        self._left = free() - RESERVE

    def take(self, size: int) -> None:
        """Take note that so many bytes are about to be written.

        Raises:
            RuntimeSetupError: there is no room for them.
        """
        whole = _whole_blocks(size)
        self._taken += whole
        self._left -= whole
        if self._left < 0 and self._make_room():
            self._left = self._free() - RESERVE - whole  # what was taken before is on the disk already
        if self._left < 0:
            raise self.too_big()

    def too_big(self) -> RuntimeSetupError:
        """Return the error that says so."""
        return RuntimeSetupError(
            f"it does not fit: with its archive it needs more than {self._taken / 1e6:,.0f} MB, and the worker's disk "
            f"has {self._free() / 1e6:,.0f} MB free. Give the function more ephemeral storage, or make it smaller",
            TOO_BIG,
        )


# -- extraction ----------------------------------------------------------------------------------------------


def extract(tarball: IO[bytes], target: str, take: Callable[[int], None]) -> None:
    """Extract a tarball, compressed or not, so that nothing of it is or leads outside the directory.

    Args:
        tarball: the archive.
        target: an empty directory.
        take: is told the bytes that are about to be written, and raises when there is no room for them.

    Raises:
        RuntimeSetupError: it is no tarball, is damaged, or has a member that could do harm.
        OSError: it cannot be written.
    """
    import tarfile

    try:
        with tarfile.open(fileobj=tarball, mode="r:*", tarinfo=_bounded_tarinfo()) as tar:
            for count, member in enumerate(_members(tar), 1):
                if count > MEMBER_LIMIT:
                    raise _unsafe(member, f"is beyond the {MEMBER_LIMIT:,} that there may be")
                _extract_member(tar, member, target, take)
            _check_end(tar)
    except RuntimeSetupError:
        raise
    except Exception as error:  # whatever a damaged archive makes tarfile and the decompressors raise
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise RuntimeSetupError(f"it is not a tar archive, or is damaged: {error}", ERROR) from error


def _members(tar: TarFile) -> Iterator[TarInfo]:
    """Yield the members, and keep none of them: tarfile would keep all, and what applies to all that follow."""
    kept: Any = tar
    while (member := tar.next()) is not None:
        yield member
        kept.members.clear()
        kept.pax_headers.clear()


def _bounded_tarinfo() -> type[TarInfo]:
    """Return tarfile's class of members, but for headers that would fill the memory: tarfile reads each at once."""
    import tarfile

    class BoundedTarInfo(tarfile.TarInfo):
        __slots__ = ()

        @classmethod
        def fromtarfile(cls, tarfile: Any) -> Any:
            file = tarfile.fileobj
            if isinstance(file, _HeaderBytes):  # a header that extends the next one, and counts with it
                return super().fromtarfile(tarfile)
            tarfile.fileobj = _HeaderBytes(file)
            try:
                return super().fromtarfile(tarfile)
            finally:
                tarfile.fileobj = file

    return BoundedTarInfo


class _HeaderBytes:
    """An archive while the header of one member is read from it.

    Args:
        file: the archive.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = HEADER_LIMIT
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            RuntimeSetupError: they are more than a header may have.
        """
        if not 0 <= size <= self._left:
            raise RuntimeSetupError(
                f"a member of its archive has a header of more than {HEADER_LIMIT / 1e6:.0f} MB; it was not extracted",
                ERROR,
            )
        self._left -= size
        data: bytes = self._file.read(size)
        return data


def _extract_member(tar: TarFile, member: TarInfo, target: str, take: Callable[[int], None]) -> None:
    import tarfile

    parts = _safe_parts(member, member.name)
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise _unsafe(member, "is neither a file, a directory nor a link")
    if member.size < 0:
        raise _unsafe(member, "has a negative size")
    if not parts:
        return
    take(member.size + _BLOCK_BYTES)
    _check_parents(member, target, parts)
    path = os.path.join(target, *parts)
    if os.path.islink(path) or (os.path.lexists(path) and not member.isdir()):
        os.unlink(path)  # what is there twice is there as it came last, and is never written through a link
    if member.issym():
        _check_symlink(member, parts)
    if member.islnk():
        _check_hardlink(member, target)
    member = _without_privileges(member)
    if hasattr(tarfile, "data_filter"):  # from Python 3.10.12 and 3.11.4 on
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
    """Nothing is written through a link, wherever that leads."""
    path = target
    for part in parts[:-1]:
        path = os.path.join(path, part)
        if os.path.islink(path):
            raise _unsafe(member, "lies beyond a link")


def _check_symlink(member: TarInfo, parts: list[str]) -> None:
    """A link goes up first, and not beyond the top, then down: so it stays inside whatever other links it meets."""
    steps = [part for part in member.linkname.split("/") if part not in ("", ".")]
    ups = next((index for index, step in enumerate(steps) if step != ".."), len(steps))
    if member.linkname.startswith("/") or ups > len(parts) - 1 or ".." in steps[ups:]:
        raise _unsafe(member, f"is a link to {member.linkname!r}, which leads or may lead outside")


def _check_hardlink(member: TarInfo, target: str) -> None:
    parts = _safe_parts(member, member.linkname)
    _check_parents(member, target, parts)
    path = os.path.join(target, *parts)
    if os.path.islink(path) or not os.path.isfile(path):
        raise _unsafe(member, f"is a link to {member.linkname!r}, which is no file before it in the archive")


def _without_privileges(member: TarInfo) -> TarInfo:
    """Return a member that is the worker's own, without the setuid, setgid and sticky bits."""
    import copy

    member = copy.copy(member)
    member.mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o600)
    member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
    return member


def _check_end(tar: TarFile) -> None:
    """tarfile takes an archive that was cut between two members for a whole one; a whole one ends with zeros."""
    file: Any = tar.fileobj
    file.seek(tar.offset)
    if file.read(_TAR_BLOCK_BYTES) != bytes(_TAR_BLOCK_BYTES):
        raise RuntimeSetupError("its archive is damaged: it was cut off", ERROR)


def _unsafe(member: TarInfo, what: str) -> RuntimeSetupError:
    return RuntimeSetupError(f"the member {member.name[:200]!r} of its archive {what}; it was not extracted", ERROR)


# -- its Python ----------------------------------------------------------------------------------------------


def check_python(path: str) -> None:
    """Check that an extracted runtime is for the worker's Python: functions are pickled for that one.

    Raises:
        RuntimeSetupError: it is for another one, or its own interpreter does not run.
    """
    interpreter = os.path.join(path, "condaruntime", "bin", "python")
    found = [_version_of(interpreter)] if os.path.lexists(interpreter) else _versions_of_packages(path)
    if found and PYTHON not in found:
        raise RuntimeSetupError(
            f"its python version is {', '.join(found)}, but the worker and the client have {PYTHON}: "
            f"make a runtime for Python {PYTHON}",
            ERROR,
        )


def _version_of(interpreter: str) -> str:
    import subprocess

    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [interpreter, "-I", "-c", program], capture_output=True, text=True, timeout=_INTERPRETER_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or "").strip()[-500:]
        raise RuntimeSetupError(
            f"its interpreter condaruntime/bin/python does not run: {error} {said}", ERROR
        ) from error
    return answer.stdout.strip()


def _versions_of_packages(path: str) -> list[str]:
    found = []
    for library in (os.path.join(path, "condaruntime", "lib"), os.path.join(path, "lib")):
        if os.path.isdir(library):
            found += [name[6:] for name in sorted(os.listdir(library)) if name.startswith("python3.")]
    return found
