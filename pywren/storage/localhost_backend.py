"""``LocalhostBackend``: stores objects as files in one directory on this machine.

Processes share the directory without locks. A write goes to a temporary file, which ``link`` or ``replace`` then moves
into place in one step: readers see either the old object or the new object, and if two writers use ``if_absent``, only
one of them writes the object. Directories are created and removed with their files, so at each step another process may
have removed a directory that the step needs.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pywren.exceptions import StorageError, StorageNoSuchKeyError
from pywren.storage.backend import NamesOf04, check_range, read_at_most
from pywren.system import file_locks
from pywren.system.home import home
from pywren.system.private_files import make_directories, open_file, temporary_file
from pywren.wire.keys import jobs_prefix

KEEP_SECONDS = 7 * 86400.0
"""The age in seconds at which a callset is deleted if its executor did not delete it."""

KEEP_BYTES = 5 * 10**9
"""The most bytes that all callsets may occupy together. If there are more, the oldest callsets are deleted earlier."""

YOUNG_SECONDS = 86400.0
"""The age in seconds below which no callset is deleted to save space: its calls may still be running."""

EXPIRE_INTERVAL = 3600.0
"""Seconds between two searches for callsets to delete, in whichever process each search runs."""

_INCOMING = ".pywren-incoming"
_EXPIRED = ".pywren-expired"
_JOBS = jobs_prefix("").rstrip("/")
_CALLSET_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_UNSAFE = re.compile(r"[\0\\:]" if os.name == "nt" else r"\0")
# Each lost race needs a delete that falls between two system calls. So many in a row mean that something removes the
# directory on purpose.
_RACES = 20


class LocalhostBackend(NamesOf04):
    """Stores objects as files. Each file is written under a temporary name and then moved into place.

    Unlike in S3, there cannot be objects under both a key and a longer key below it (``a`` and ``a/b``).

    Args:
        root: the directory; by default ``jobs`` in pywren's own directory. The first write creates it, with mode 0700.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root) if root is not None else home() / "jobs"

    def __repr__(self) -> str:
        return f"LocalhostBackend({str(self.root)!r})"

    def put(self, key: str, data: bytes | bytearray | memoryview, *, if_absent: bool = False) -> bool:
        """Store an object. See ``Backend.put``."""
        path = self._path(key)
        with _translated(f"write {path}"):
            # A name of its own for every writer, so that two writers of one key never write to the same file.
            temporary = self._write_temporary(data)
            try:
                return _move(temporary, path, if_absent)
            finally:
                # link(2) leaves the temporary name, rename(2) does not. If this process is killed in between, expire()
                # removes it.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    def _write_temporary(self, data: bytes | bytearray | memoryview) -> str:
        incoming = self.root / _INCOMING
        try:
            handle, temporary = temporary_file(incoming)
        except FileNotFoundError:
            make_directories(incoming)
            handle, temporary = temporary_file(incoming)
        try:
            with os.fdopen(handle, "wb") as file:
                # No fsync: after a crash of the machine the calls are gone anyway, and it would cost more than all the
                # rest.
                file.write(data)
        except BaseException:
            os.unlink(temporary)
            raise
        return temporary

    def get(self, key: str, byte_range: tuple[int, int] | None = None, *, limit: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them. See ``Backend.get``."""
        check_range(key, byte_range)
        path = self._path(key)
        try:
            # Once it is open, the descriptor keeps reading this object, even if a writer replaces or a deletion removes
            # the name.
            with _translated(f"read {path}"), open(path, "rb") as file:
                if byte_range is not None:
                    return _read_range(file.fileno(), key, *byte_range)  # the range already limits the size
                if limit is None:
                    return file.read()
                size = os.fstat(file.fileno()).st_size  # needed because Python allocates the requested size
                return read_at_most(lambda most: file.read(min(most, size + 1)), limit, key)
        except StorageError as error:
            # The last two: a part of the key is a file, or the whole key is a directory. Neither is an object of that
            # key.
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | IsADirectoryError):
                raise StorageNoSuchKeyError(key) from None
            raise

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """Return keys in order. See ``Backend.list``."""
        folder = prefix.rpartition("/")[0]
        base = self._path(folder) if folder else self.root
        with _translated(f"list {base}"):
            # Not a snapshot: a file that appears meanwhile may be missing, but one that was there before the call and
            # stays is listed.
            keys = _keys_below(base, f"{folder}/" if folder else "", prefix)
            return sorted(key for key in keys if key > start_after)

    def list_timed(
        self, prefix: str, start_after: str = "", *, suffix: str, skip: tuple[str, str] | None = None
    ) -> tuple[Sequence[str], Mapping[str, float]]:
        """Return keys in order, and the times of some. See ``Backend.list_timed``."""
        keys, times = self.list(prefix, start_after), {}
        for key in keys:
            if key.endswith(suffix):
                with _translated(f"read {key}"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    times[key] = os.stat(self._path(key)).st_mtime
        return keys, times

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and the directories that become empty. See ``Backend.delete``."""
        folders = set()
        for key in keys:
            path = self._path(key)
            with _translated(f"delete {path}"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
                # Try the directories only at the end, once for each: a callset's thousands of files share a few.
                folders.add(path.parent)
        for folder in folders:
            self._remove_empty(folder)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.root:
            try:
                # rmdir(2) fails when a writer has just put a file there, so nothing is lost. A writer whose directory
                # goes away before its link or rename creates it again (_move).
                folder.rmdir()
            except OSError:  # the directory is not empty, or another process removed it first
                return
            folder = folder.parent

    def now(self) -> float:
        """Return this machine's time, which also gives the files their times."""
        # Files of this machine are stamped by this clock, so ages can be compared across processes.
        return time.time()

    def close(self) -> None:
        """Do nothing: no file stays open between calls."""

    def expire(
        self,
        max_age_seconds: float = KEEP_SECONDS,
        max_bytes: float = KEEP_BYTES,
        *,
        now: Callable[[], float] = time.time,
        budget_seconds: float = 0.3,
        clock: Callable[[], float] = time.monotonic,
    ) -> int:
        """Delete old callsets, the oldest first, except those that a living client has locked.

        Args:
            max_age_seconds: delete a callset if its newest file is older than this.
            max_bytes: the most bytes that callsets may occupy. If they occupy more, the oldest ones that are older than
                ``YOUNG_SECONDS`` are deleted too.
            now: returns seconds since the epoch.
            budget_seconds: search for half of this time, and delete for the rest of it. What is left is done by the
                next run.
            clock: returns monotonic seconds.

        Returns:
            How many callsets were deleted.
        """
        moment, began, deleted = now(), clock(), 0
        ages: list[_Age] = []
        # The oldest first, so that a run that is cut off by its budget has looked at those that matter.
        for callset in sorted(_callsets_below(self.root), key=_changed):
            # On the thread that makes the storage: a user must not notice it, however full the directory is.
            if clock() - began > budget_seconds / 2:
                break
            ages.append(_age(callset))
        taken = sum(age.size for age in ages)
        for age in sorted(ages):
            # Decide anew for each: a deletion may have made enough room.
            limit = min(YOUNG_SECONDS, max_age_seconds) if taken > max_bytes else max_age_seconds
            if moment - age.newest <= limit or clock() - began > budget_seconds:
                break
            # A process that has shared its calls with others holds this flock, and the kernel releases it when the
            # process dies. Without such a file only the age counts.
            if not is_locked(age.callset / "client"):
                # Another process may be deleting the same callset: what one has removed, the other ignores.
                shutil.rmtree(age.callset, ignore_errors=True)
                self._remove_empty(age.callset.parent)
                taken -= age.size
                deleted += 1
        # A day: a writer takes seconds, even for gigabytes on a slow disk.
        self._drop_leftovers(moment - YOUNG_SECONDS)
        _drop_jobs(self.root, moment - max_age_seconds)
        return deleted

    def expire_if_due(self, *, now: Callable[[], float] = time.time) -> None:
        """Run ``expire`` unless some process has run it within ``EXPIRE_INTERVAL``. Called when a program starts."""
        marker = self.root / _EXPIRED
        try:
            # abs(): a marker from the future, after the clock was set back, must not stop the clean-up for long.
            if abs(now() - marker.stat().st_mtime) < EXPIRE_INTERVAL:
                return
        except FileNotFoundError:
            if not self.root.is_dir():
                return
        except OSError:
            return
        with contextlib.suppress(OSError):  # if this user cannot write here, no files are this user's
            # Mark first, then search: of several programs that start together, most then find the mark. Two may still
            # search at the same time, which is harmless.
            os.close(open_file(marker))
            os.utime(marker, (now(), now()))
            self.expire(now=now)

    def _drop_leftovers(self, limit: float) -> None:
        """Delete the temporary files that writers left behind when they were killed."""
        with contextlib.suppress(OSError), os.scandir(self.root / _INCOMING) as entries:
            for entry in entries:
                if entry.stat().st_mtime < limit:
                    os.unlink(entry)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        # Keys come from payloads and from other machines: none may name a file outside the root.
        if {"", ".", ".."} & set(parts) or parts[0] in (_INCOMING, _EXPIRED) or _UNSAFE.search(key):
            raise StorageError(f"{key!r} cannot be an object's key")
        return self.root.joinpath(*parts)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot {doing}: {error.strerror or error}; check space and permissions, "
            "or set PYWREN_HOME to another directory"
        ) from error


def _move(temporary: str, path: Path, if_absent: bool) -> bool:
    for _ in range(_RACES):
        try:
            if if_absent:
                os.link(temporary, path)  # unlike rename, link fails if the object exists
            else:
                # rename(2) replaces the name in one step, within one file system: that is why the temporary file is
                # below the root.
                os.replace(temporary, path)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            # The directory does not exist yet, or another process has just removed it: create it and try again.
            make_directories(path.parent)
    raise FileNotFoundError(f"something keeps removing the directory {path.parent}")


def _read_range(handle: int, key: str, first: int, last: int) -> bytes:
    # Of the open file: it cannot be replaced between this and the read.
    size = os.fstat(handle).st_size
    if first >= size:
        raise StorageError(f"cannot read {key}: the object is shorter than the requested range")
    with open(handle, "rb", closefd=False) as file:
        file.seek(first)
        return file.read(min(last, size) - first + 1)


def _keys_below(folder: Path, key: str, prefix: str) -> Iterator[str]:
    """Yield the keys of all files below a directory. Skip subdirectories in which no key starts with the prefix."""
    try:
        # A directory that was removed since its parent was listed has no keys: skip it.
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if not key and entry.name in (_INCOMING, _EXPIRED):
                continue
            name = key + entry.name
            if entry.is_dir(follow_symlinks=False):
                if name.startswith(prefix) or prefix.startswith(name + "/"):
                    yield from _keys_below(Path(entry.path), name + "/", prefix)
            elif name.startswith(prefix):
                yield name


def _callsets_below(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                continue
            if _CALLSET_ID.match(entry.name):
                yield Path(entry.path)
            elif entry.name != _INCOMING:
                yield from _callsets_below(Path(entry.path))


def _drop_jobs(folder: Path, limit: float, *, is_jobs: bool = False) -> None:
    """Delete the names of jobs that are older than the oldest callset that is kept."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not _CALLSET_ID.match(entry.name) and entry.name != _INCOMING:
                    _drop_jobs(Path(entry.path), limit, is_jobs=entry.name == _JOBS)
            elif is_jobs and entry.name.endswith(".json") and entry.stat(follow_symlinks=False).st_mtime < limit:
                with contextlib.suppress(OSError):
                    os.unlink(entry)


class _Age(NamedTuple):
    """The age and size of a callset.

    Args:
        newest: when the newest file of the callset was written, in seconds since the epoch.
        size: the total size of the callset's files, in bytes.
        callset: the callset's directory.
    """

    newest: float
    size: int
    callset: Path


def _age(callset: Path) -> _Age:
    try:
        newest, size = _measured(callset)
    except FileNotFoundError:  # another process is deleting the callset
        # So it counts as the newest of all, and is left to the process that deletes it.
        newest, size = math.inf, 0
    return _Age(newest, size, callset)


def _measured(folder: Path | str) -> tuple[float, int]:
    newest, size = os.stat(folder).st_mtime, 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                within = _measured(entry.path)
            else:
                status = entry.stat(follow_symlinks=False)
                within = status.st_mtime, status.st_size
            newest, size = max(newest, within[0]), size + within[1]
    return newest, size


def _changed(folder: Path) -> float:
    try:
        return os.stat(folder).st_mtime
    except FileNotFoundError:
        return math.inf


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Tell whether a living process holds a lock on a file."""
    try:
        with open(path, "rb") as file:
            # Shared, so that two readers do not take each other for the living client. Closing the file releases it at
            # once. On Windows there are no lock files, so open() has failed before this.
            file_locks.lock(file, shared=True)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
