"""``announce``: shows the other processes of this machine that the client of a callset is alive.

Each process keeps one file locked (flock) until it ends, however it ends. The file has a further name, a hard link, in
the directory of each callset whose calls this process runs. ``localhost_backend.is_locked`` reads the lock.

Any thread may announce a callset. No lock of pywren is needed: two threads that make a file at the same time keep both.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import IO, NamedTuple

from pywren.client.callset import Callset
from pywren.exceptions import StorageError
from pywren.storage import Storage
from pywren.storage.localhost_backend import is_locked
from pywren.system import file_locks
from pywren.system.private_files import make_directories, temporary_file

_NOTE_LIMIT = 256  # bytes that are read of the file
_POLL = 0.02  # seconds; nothing tells of the end of a lock that somebody else holds

_Key = tuple[int, str]
_locked: dict[_Key, str] = {}
# The files stay open as long as the process lives: closing one would release its lock.
_open: list[IO[bytes]] = []


class Client(NamedTuple):
    """A living process that runs calls on this machine.

    Args:
        pid: the process.
        since: when it announced its first callset, in seconds since the epoch.
    """

    pid: int
    since: float


def client_file(storage: Storage, callset: Callset) -> Path | None:
    """Return the file that the client of a callset keeps locked; ``None`` if the storage is not on this machine."""
    backend, root, _ = storage.path
    return Path(root, callset.keys.root, "client") if backend == "localhost" else None


def announce(path: Path, scratch: Path) -> None:
    """Show that this process runs the calls of a callset, until it ends.

    Args:
        path: the file that other processes test. A file that an earlier client has left there is replaced.
        scratch: a directory for temporary files in the same file system.

    Raises:
        StorageError: the file cannot be made or locked.
    """
    try:
        make_directories(path.parent)
        _link(path, scratch)
    except OSError as error:
        raise StorageError(
            f"cannot show other processes that this one runs calls, in {path}: {error}; set PYWREN_HOME to a "
            "writable directory"
        ) from error


def client_of(path: Path, patience: float = 0.0) -> Client | None:
    """Return the living process that has announced a callset under a path; ``None`` if there is none.

    Args:
        path: the file that the process keeps locked.
        patience: for how many seconds to wait for the end of the lock if the process does not exist. A child that a
            process was starting when it was killed keeps the lock until execve(2) closes the child's copy of the file.
            But the process may exist all the same, in another container that shares the directory.
    """
    until = time.monotonic() + patience
    while (client := _read(path)) is not None and _is_gone(client.pid) and time.monotonic() < until:
        time.sleep(_POLL)
    return client


def _is_gone(pid: int) -> bool:
    try:
        # Never on Windows, where this would end the process: it has no such locks.
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it exists, and belongs to somebody else; or the file holds no such number
        return False
    return False


def _read(path: Path) -> Client | None:
    if not is_locked(path):
        return None
    try:
        with open(path, "rb") as file:
            pid, since = json.loads(file.read(_NOTE_LIMIT))
            return Client(int(pid), float(since))
    except (OSError, ValueError, TypeError):  # something else keeps a lock there
        return Client(0, time.time())


def _link(path: Path, scratch: Path) -> None:
    temporary = scratch / f"client-{os.urandom(8).hex()}"
    own = _locked.get((os.getpid(), str(scratch))) or _make(scratch)
    try:
        os.link(own, temporary)
    except FileNotFoundError:  # the clean-up of temporary files has removed its first name
        os.link(_make(scratch), temporary)
    try:
        os.replace(temporary, path)
    finally:
        # If both are already names of the same file, rename(2) does nothing and leaves both.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _make(scratch: Path) -> str:
    make_directories(scratch)
    handle, name = temporary_file(scratch, "client-")
    file = os.fdopen(handle, "wb")
    file.write(json.dumps([os.getpid(), time.time()]).encode())
    file.flush()
    file_locks.lock(file)
    _open.append(file)
    _locked[os.getpid(), str(scratch)] = name
    return name


def forget_all() -> None:
    """Show no more that this process is alive. A forked child does this at once, and tests when they end."""
    # flock(2) belongs to the open file, which fork(2) shares: a copy that stays open in a child would keep the lock
    # after the parent has died.
    for file in _open:
        file.close()
    _open.clear()
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_all)
