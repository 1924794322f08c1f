"""Directories for the temporary files of worker processes: created, locked while in use, and removed.

A worker keeps its directory locked while it runs, and worker processes end with their client, however the client ends.
So a directory that is not locked is abandoned, and any later client may remove it.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator

from pywren.system.private_files import make_directories
from pywren.worker.descriptors import high_descriptor

_NAME = re.compile(r"pywren-(\d+)-[0-9a-f]{16}(\.new)?")
_NEW = ".new"
# O_NOFOLLOW, because the parent directory is usually /tmp, where every user can place a link under any name.
_OPEN_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def private_directory() -> str:
    """Return a path for a new private directory for temporary files. The child creates the directory."""
    # The random part also makes the path a mark that no other process has in its environment
    # (``process_tree.kill_marked``).
    return os.path.join(_temporary_directory(), f"pywren-{os.getpid()}-{os.urandom(8).hex()}")


def _temporary_directory() -> str:
    """Return what ``tempfile.gettempdir()`` usually returns. Importing ``tempfile`` would delay the first result."""
    for place in (os.environ.get("TMPDIR"), "/tmp"):
        if place and os.path.isabs(place) and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK):
            return place
    import tempfile

    return tempfile.gettempdir()


def hold_directory(path: str) -> int:
    """Create a private directory, and keep it locked until this process ends.

    The directory gets its name only when it is locked: another process would take an unlocked directory for an
    abandoned one.

    Returns:
        The descriptor that holds the lock. To close it is to release the lock.
    """
    import fcntl

    new = path + _NEW
    make_directories(new)
    descriptor = high_descriptor(os.open(new, _OPEN_DIRECTORY))
    with contextlib.suppress(OSError):  # a file system without locks: see ``_is_abandoned``
        # The lock belongs to the open directory (flock(2)), not to the process: the kernel releases it even after
        # SIGKILL, and programs that a call starts do not keep it, because the descriptor is close-on-exec. A remover
        # asks for LOCK_EX.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.rename(new, path)
    return descriptor


@contextlib.contextmanager
def own_umask() -> Iterator[None]:
    """While the context lasts, create files that are private to this user, whatever umask the client or a call has set.

    The umask belongs to the whole process, so use this only in processes with one thread.
    """
    saved = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(saved)


# -- removing --------------------------------------------------------------------------------------------------------


def remove_directory(path: str) -> None:
    """Remove a directory of temporary files, whatever calls have done to it. Files that cannot be removed stay."""
    for name in (path, path + _NEW):  # a process that was killed at its very beginning has left the second one
        try:
            directory = _open_directory(name)
        except OSError:
            continue  # the directory was never created, or has been removed
        try:
            _remove_opened(name, directory)
        finally:
            os.close(directory)


def remove_abandoned_directories(older_than: float = 86_400.0) -> None:
    """Remove the directories that killed clients left: this user's directories that are not locked.

    Args:
        older_than: the minimum age in seconds. A younger directory may be in use although it is not locked: it may be
            under construction, or another container may use it on a file system without locks.
    """
    parent = _temporary_directory()
    for name in os.listdir(parent):
        match = _NAME.fullmatch(name)
        if match:
            with contextlib.suppress(OSError):  # the directory belongs to another user, is a link, or no longer exists
                _remove_if_abandoned(os.path.join(parent, name), int(match[1]), older_than)


def _remove_if_abandoned(path: str, pid: int, older_than: float) -> None:
    # Use the opened directory for everything, not its name: anyone may replace the name with a link meanwhile.
    directory = os.open(path, _OPEN_DIRECTORY)
    try:
        # First the owner, then the lock: a stranger's directory must not be locked even for a moment.
        if os.fstat(directory).st_uid == os.getuid() and _is_abandoned(path, directory, pid, older_than):
            _remove_opened(path, directory)
    finally:
        os.close(directory)


def _is_abandoned(path: str, directory: int, pid: int, older_than: float) -> bool:
    import fcntl

    try:
        # Held until the caller closes the directory, so of two clients that find it, only one removes it.
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # An unlocked directory with the final name had its lock before its name, so its owner is dead. One that still
        # has the first name may be a moment from its lock: only its age can tell.
        if not path.endswith(_NEW):
            return True
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    if time.time() - os.fstat(directory).st_mtime <= older_than:
        return False
    try:
        # Signal 0 only asks whether the process exists (kill(2)). In another container the number means another
        # process, or none, which is why the age comes first.
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _remove_opened(path: str, directory: int) -> None:
    _empty(directory)
    with contextlib.suppress(OSError):  # something could not be removed, or the name now belongs to another file
        # By name, because rmdir(2) knows no descriptors. If somebody has placed a link here meanwhile, it fails
        # (ENOTDIR).
        os.rmdir(path)


def _open_directory(name: str, parent: int | None = None) -> int:
    """Open a directory, even if a call removed its owner's permissions, but never through a link."""
    try:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    except PermissionError:
        if os.stat(name, dir_fd=parent, follow_symlinks=False).st_uid != os.getuid():
            raise
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)


def _empty(top: int) -> None:
    """Remove everything in an open directory.

    The contents of each inner directory are moved to the top first, so that deep nesting uses up neither the stack nor
    the descriptors.
    """
    waiting = _remove_entries(top)
    # Names that a call cannot have used, because two directories must not get one name at the top.
    mark, count = os.urandom(8).hex(), 0
    while waiting:
        name = waiting.pop()
        try:
            # Relative to an open directory (openat(2)): a path could be longer than PATH_MAX, or be redirected by a
            # link on the way.
            inner = _open_directory(name, top)
        except OSError:
            continue  # this entry cannot be removed
        try:
            for entry in _remove_entries(inner):
                count += 1
                _lift(entry, inner, f"{mark}-{count}", top)
                waiting.append(f"{mark}-{count}")
        finally:
            os.close(inner)
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=top)


def _remove_entries(directory: int) -> list[str]:
    """Remove files, links and empty directories from a directory. Return the names of the entries that remain."""
    left = []
    for name in os.listdir(directory):
        try:
            # Try instead of asking for the type first: a process that is still running might replace the entry in
            # between. A link is removed and never followed (unlink(2)).
            os.unlink(name, dir_fd=directory)
        except OSError:
            try:
                os.rmdir(name, dir_fd=directory)
            except OSError:
                left.append(name)
    return left


def _lift(name: str, inner: int, lifted: str, top: int) -> None:
    """Move a directory from an inner directory to the top directory."""
    try:
        os.rename(name, lifted, src_dir_fd=inner, dst_dir_fd=top)
    except PermissionError:  # moving a directory changes its "..", which requires write permission on it
        os.close(_open_directory(name, inner))
        with contextlib.suppress(OSError):
            os.rename(name, lifted, src_dir_fd=inner, dst_dir_fd=top)
