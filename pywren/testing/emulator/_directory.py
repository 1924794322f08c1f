"""The directory for all files that the emulator writes. If the emulator is killed, the next one removes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "pywren-emulator-"
_LOCK = "lock"


@contextmanager
def own_directory() -> Iterator[Path]:
    """Create a directory for this process, and remove it at the end; first remove directories of killed emulators."""
    sweep()
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    # lock the file before renaming it, so that sweep() never sees the file unlocked while this process lives
    with (directory / f"{_LOCK}.new").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (directory / f"{_LOCK}.new").rename(directory / _LOCK)
        try:
            yield directory
        finally:
            _remove(directory)


def sweep() -> None:
    """Remove the directories of emulators that no longer run."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (directory / _LOCK).open("rb") as lock:  # it is in use, or not ready yet
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_sockets(directory)
            _remove(directory)


def _remove_sockets(directory: Path) -> None:
    from pywren.testing.emulator._backends import PORTS_FILE, weed_sockets

    for path in directory.glob(f"*/{PORTS_FILE}"):
        for each in weed_sockets([int(port) for port in path.read_text(encoding="ascii").split()]):
            each.unlink(missing_ok=True)


def _remove(directory: Path) -> None:
    """Remove a directory, including read-only code and the files that functions left there."""
    for above, names, _ in os.walk(directory):
        for path in (os.path.join(above, name) for name in names):
            with contextlib.suppress(OSError):
                if not os.path.islink(path):  # never change the user's own packages, which are linked here
                    os.chmod(path, 0o700)
    shutil.rmtree(directory, ignore_errors=True)
