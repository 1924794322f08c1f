"""``RuntimeCache``: the users' runtimes on this worker, each fetched, verified and extracted once.

A runtime is a tarball in S3. Its SHA-256 is verified before anything is extracted, and nothing is ever extracted
outside its own directory::

    <temporary directory>/pywren-runtimes-<uid>/      0700; a process that adds or removes a runtime holds its flock
        new/                                          under construction; without that flock, left by a dead worker
        <sha256>-<time>/                              complete; each call that uses it holds its flock, shared

Threads and processes share the directory. So the locks are ``flock``s of descriptors, which the system releases when a
process dies. Each thread opens its own descriptor, so these locks also exclude threads of the same process. The flock
of the root is deliberately held while a runtime is downloaded: other threads most likely need the same runtime, and the
disk has room for only a few.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from pywren.exceptions import RuntimeSetupError, StorageError
from pywren.system.private_files import make_directories
from pywren.version import PYTHON
from pywren.wire.call import Call
from pywren.worker.extraction import BLOCK_BYTES, ERROR, extract
from pywren.wrenutil import split_s3_url

logger = logging.getLogger(__name__)

TOO_BIG, READ_ERROR = "RUNTIME_TOO_BIG", "RUNTIME_READ_ERROR"
"""The other values that ``RuntimeSetupError.args[1]`` may have besides ``ERROR``."""

RESERVE = 16 * 1024 * 1024
"""The disk space, in bytes, that a runtime must leave free for the call itself."""

_PIECE_BYTES = 16 * 1024 * 1024
_NEW = "new"
# Cold files on Lambda's /tmp and a loaded machine make an interpreter slow to start; beyond this it hangs.
_INTERPRETER_SECONDS = 60.0


@dataclass(frozen=True)
class Archive:
    """The tarball of a runtime, as it is named in a payload.

    Args:
        bucket: the bucket that contains the tarball.
        key: the key of the tarball.
        sha256: the SHA-256 of the tarball, 64 lower-case hexadecimal digits.
        region: the bucket's region; ``None`` if it is unknown.
        size: the length of the tarball in bytes, beyond which nothing is read; ``None`` if it is unknown.
    """

    bucket: str
    key: str
    sha256: str
    region: str | None = None
    size: int | None = None

    @property
    def url(self) -> str:
        """The URL ``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"

    @classmethod
    def of_call(cls, call: Call) -> Archive | None:
        """Return the runtime that a call requires, or ``None`` for the worker's own Python.

        Raises:
            RuntimeSetupError: the payload lacks the URL or the digest of the runtime.
        """
        if call.runtime_url is None and call.runtime_sha256 is None:
            return None
        if call.runtime_url is None:
            raise RuntimeSetupError("the payload has the digest of a runtime but no runtime_url", ERROR)
        if not call.runtime_sha256:
            raise RuntimeSetupError(
                f"the payload has no digest of the runtime {call.runtime_url}, and workers extract nothing unverified: "
                "set `runtime: sha256` in the configuration to the SHA-256 of the archive",
                ERROR,
            )
        try:
            bucket, key = split_s3_url(call.runtime_url)
        except ValueError as error:
            raise RuntimeSetupError(f"cannot fetch the runtime: {error}", READ_ERROR) from error
        return cls(bucket, key, call.runtime_sha256.lower(), _region(call), call.runtime_size)


def _region(call: Call) -> str | None:
    backend: Mapping[str, Any] = call.storage_config.get("backend_config") or {}
    region = (call.runtime or {}).get("region") or backend.get("region")
    return str(region) if region else None


def fetch(archive: Archive, piece_bytes: int = _PIECE_BYTES) -> Iterator[bytes]:
    """Read a tarball from S3 piece by piece, because it may be larger than the worker's memory.

    Args:
        archive: the tarball.
        piece_bytes: the length of a piece in bytes.

    Raises:
        StorageError: the tarball cannot be read.
    """
    from pywren.aws.errors import error_code
    from pywren.storage.s3_backend import S3Backend

    backend = S3Backend(archive.bucket, archive.region)
    start = 0
    try:
        while archive.size is None or start < archive.size:
            wanted = piece_bytes if archive.size is None else min(piece_bytes, archive.size - start)
            # Each piece is a request of its own, so a connection that breaks costs 16 MB and not the whole download. If
            # the object is replaced midway, the digest no longer matches.
            piece = backend.get(archive.key, (start, start + wanted - 1), limit=wanted)
            yield piece
            start += len(piece)
            # A short piece is the last one: spare a request beyond the end.
            if len(piece) < wanted:
                return
    except StorageError as error:
        if error_code(error.__cause__ or error) != "InvalidRange":  # otherwise the tarball ended with the last piece
            raise
    finally:
        backend.close()


def free_disk_bytes(directory: str) -> int:
    """Return the number of free bytes on the disk that contains a directory."""
    return shutil.disk_usage(directory).free


def disk_bytes(sizes: Iterable[int]) -> int:
    """Return how much free disk space, in bytes, a worker needs to extract a runtime.

    Args:
        sizes: the sizes in bytes of the archive and of each of its members.
    """
    return RESERVE + sum(_whole_blocks(size + BLOCK_BYTES) for size in sizes)


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


class Lease(NamedTuple):
    """A runtime that a call is using.

    Args:
        path: the directory of the runtime.
        cached: whether an earlier call extracted the runtime.
    """

    path: str
    cached: bool


class RuntimeCache:
    """The runtimes that were extracted on this worker. Threads and processes share them.

    Args:
        root: the directory of all runtimes; by default each user has one under the temporary directory.
        fetch: reads a tarball piece by piece.
        free_disk: returns the number of free bytes on the disk that contains a directory.
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
        # Changed only with the root's flock held, which excludes threads too; so it needs no lock of its own.
        self._made: set[str] = set()
        self._used = False

    @contextmanager
    def lease(self, archive: Archive, *, fresh: bool = False) -> Iterator[Lease]:
        """Extract a runtime if necessary, and keep it from being removed while the context lasts.

        Args:
            archive: the tarball of the runtime.
            fresh: whether to extract the runtime again even if it exists.

        Raises:
            RuntimeSetupError: the runtime cannot be fetched, its digest differs, or it does not fit on the disk.
        """
        with self._locked():
            self._used = True
            path = None if fresh else self._find(archive)
            cached = path is not None
            if path is None:
                path = self._make(archive)
            # Take this lock before releasing that of the root, so that the directory cannot be removed in between.
            # This never waits: only _remove_idle() takes it exclusively, under the root's flock, which this thread
            # holds.
            in_use = _lock_directory(path, shared=True)
        try:
            # Only the shared flock is held while the call runs: other calls may lease, extract and remove other
            # runtimes.
            yield Lease(path, cached)
        finally:
            # Closing releases the flock (flock(2)). If this process is killed, the kernel closes it. Programs that this
            # process starts do not keep it open: Python's descriptors are not inheritable (PEP 446).
            os.close(in_use)

    def close(self) -> None:
        """Remove the runtimes that this process extracted, unless a call in another process uses them."""
        # Without this a worker that never had a runtime would create the root only to remove it.
        if not self._used or not os.path.isdir(self.root):
            return
        self._used = False
        with self._locked():
            made, self._made = self._made, set()
            for name in made:
                self._remove_idle(name)
            try:
                # Fails with ENOTEMPTY while another process keeps a runtime there. A process that waits for the flock
                # of the removed directory notices it in _lock_root().
                os.rmdir(self.root)
            except OSError:
                logger.debug("%s is still in use", self.root)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """While the context lasts, keep other threads and processes from adding or removing runtimes."""
        descriptor = self._lock_root()
        try:
            yield
        finally:
            os.close(descriptor)

    def _lock_root(self) -> int:
        while True:
            try:
                # The temporary directory is open to all users, so anything may be here already: a link, or another
                # user's directory. O_NOFOLLOW refuses the first, and the check of the owner the second.
                make_directories(self.root)
                # This may block for as long as another call downloads a runtime, up to minutes. job_max_runtime does
                # not count that time, but Lambda's time-out does.
                descriptor = _lock_directory(self.root)
            except FileNotFoundError:
                continue  # another process removed it between the two steps
            except OSError as error:
                raise RuntimeSetupError(f"cannot use {self.root} for runtimes: {error}", ERROR) from error
            # Of the descriptor, not of the path: the path may name another directory by the time it is checked.
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                os.close(descriptor)
                raise RuntimeSetupError(
                    f"{self.root} belongs to another user, or other users can write to it: remove it, or set TMPDIR",
                    ERROR,
                )
            try:
                # A flock belongs to the inode. If the directory was replaced, another process can hold the lock of the
                # new one at the same time, so this lock would exclude nobody.
                if os.path.samestat(found, os.stat(self.root)):
                    return descriptor
            except FileNotFoundError:
                pass
            os.close(descriptor)  # the directory was removed, perhaps also created again, during the wait for the lock

    # -- with the lock held ----------------------------------------------------------------------------------

    def _find(self, archive: Archive) -> str | None:
        # Only complete runtimes have such names: _make() renames them into place when everything has been verified.
        names = [name for name in os.listdir(self.root) if name.startswith(f"{archive.sha256}-")]
        return os.path.join(self.root, max(names)) if names else None

    def _make(self, archive: Archive) -> str:
        """Fetch, verify and extract a runtime. Remove older copies of the runtime that no call uses."""
        started = time.monotonic()
        new = os.path.join(self.root, _NEW)
        shutil.rmtree(new, ignore_errors=True)
        try:
            self._fill(new, archive)
            # Use a new name each time: programs that run from an older copy never see its files change.
            name = f"{archive.sha256}-{time.time_ns():020d}"
            # rename(2) is atomic: a worker that is killed before it leaves only ``new``, which the next one removes.
            os.rename(new, os.path.join(self.root, name))
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self._made.add(name)
        for other in self._names():
            # After the rename, so that a failure leaves the older copy in place.
            if other != name and other.startswith(archive.sha256):
                self._remove_idle(other)
        logger.info("set up the runtime %s in %.1f s", archive.url, time.monotonic() - started)
        return os.path.join(self.root, name)

    def _fill(self, new: str, archive: Archive) -> None:
        room = _Room(lambda: self._free_disk(self.root), self._remove_all_idle)
        try:
            make_directories(new)
            # Without a name (O_TMPFILE, or unlinked at once): the space is free again when this process ends, however
            # it ends. Not in memory, which may be smaller than the archive.
            with tempfile.TemporaryFile(dir=self.root) as tarball:
                self._download(archive, tarball, room)
                tarball.seek(0)
                # Through the descriptor whose bytes were hashed, so that nothing can replace the archive between check
                # and use.
                extract(tarball, new, room.take)
            # Still under ``new``: a runtime with the wrong Python never gets a name that _find() returns.
            check_python(new)
        except RuntimeSetupError as error:
            raise _about(archive, error) from error
        except OSError as error:
            # Other processes write to the same disk, so it may fill up although _Room has counted correctly.
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            told = room.too_big() if full else RuntimeSetupError(f"cannot set it up: {error}", ERROR)
            raise _about(archive, told) from error

    def _download(self, archive: Archive, tarball: IO[bytes], room: _Room) -> None:
        """Download the tarball of a runtime into a file, and verify its digest."""
        digest = hashlib.sha256()
        try:
            for piece in self._fetch(archive):
                # Before writing: Lambda's /tmp has 512 MB unless configured, and a full disk fails the other calls too.
                room.take(len(piece))
                tarball.write(piece)
                digest.update(piece)
        except StorageError as error:
            raise RuntimeSetupError(f"cannot fetch it: {error}", READ_ERROR) from error
        if digest.hexdigest() != archive.sha256:
            raise RuntimeSetupError(
                f"its SHA-256 is {digest.hexdigest()}, but `runtime: sha256` in the configuration is "
                f"{archive.sha256}; nothing was extracted. If you replaced the archive, set the key to the new "
                "SHA-256 (`sha256sum` prints it)",
                ERROR,
            )

    def _names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.root) if name != _NEW and "-" in name)

    def _remove_all_idle(self) -> bool:
        """Remove the runtimes that no call uses. Return whether any were removed."""
        return [self._remove_idle(name) for name in self._names()].count(True) > 0

    def _remove_idle(self, name: str) -> bool:
        path = os.path.join(self.root, name)
        try:
            # A probe: LOCK_EX fails while any call, of any process, holds LOCK_SH. Releasing it at once is safe: new
            # leases need the root's flock, which this thread holds.
            os.close(_lock_directory(path, blocking=False))
        except OSError:
            return False  # the runtime is in use, or already removed
        logger.info("removing the runtime %s", path)
        shutil.rmtree(path, ignore_errors=True)
        self._made.discard(name)
        return True


def _about(archive: Archive, error: RuntimeSetupError) -> RuntimeSetupError:
    return RuntimeSetupError(f"the runtime {archive.url}: {error.args[0]}", *error.args[1:])


def _lock_directory(path: str, *, shared: bool = False, blocking: bool = True) -> int:
    """Open a directory and lock it until the descriptor is closed or the process ends."""
    import fcntl

    # A new open file description each time: flock(2) excludes descriptions, so threads with a shared one would all
    # succeed.
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
        free: returns the number of free bytes on the disk.
        make_room: removes runtimes that are not in use, and returns whether any were removed.
    """

    def __init__(self, free: Callable[[], int], make_room: Callable[[], bool]) -> None:
        self._free = free
        self._make_room = make_room
        self._taken = 0
        # Asked once: a statvfs(3) for each of up to a million members would slow the extraction down.
        self._left = free() - RESERVE

    def take(self, size: int) -> None:
        """Account for bytes that are about to be written.

        Args:
            size: how many bytes are about to be written.

        Raises:
            RuntimeSetupError: the bytes do not fit on the disk.
        """
        whole = _whole_blocks(size)
        self._taken += whole
        self._left -= whole
        # With the root's flock held. It removes at most every idle runtime; those that calls use stay.
        if self._left < 0 and self._make_room():
            self._left = self._free() - RESERVE - whole  # earlier bytes are already on the disk
        if self._left < 0:
            raise self.too_big()

    def too_big(self) -> RuntimeSetupError:
        """Return the error for a runtime that does not fit on the disk."""
        return RuntimeSetupError(
            f"it does not fit: with its archive it needs more than {self._taken / 1e6:,.0f} MB, and the worker's disk "
            f"has {self._free() / 1e6:,.0f} MB free. Give the function more ephemeral storage or shrink the runtime",
            TOO_BIG,
        )


# -- its Python ----------------------------------------------------------------------------------------------


def check_python(path: str) -> None:
    """Check that an extracted runtime has the worker's version of Python, for which functions are pickled.

    Raises:
        RuntimeSetupError: the runtime has another version of Python, or its own interpreter does not run.
    """
    interpreter = os.path.join(path, "condaruntime", "bin", "python")
    found = [_version_of(interpreter)] if os.path.lexists(interpreter) else _versions_of_packages(path)
    if found and PYTHON not in found:
        raise RuntimeSetupError(
            f"its python version is {', '.join(found)}, but the worker and the client run {PYTHON}: "
            f"build a runtime for Python {PYTHON}",
            ERROR,
        )


def _version_of(interpreter: str) -> str:
    import subprocess

    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        # -I: neither PYTHON* variables nor the current directory may change what this interpreter imports. subprocess
        # kills it at the time-out.
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
