"""Files and directories that are this user's alone, whatever the umask: it takes rights away, from the owner too."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600


def make_directories(path: str | Path) -> None:
    """Make a directory and those above it that are missing, each with mode 0700.

    Those that are there stay as they are. Other processes may make or remove some meanwhile.

    Raises:
        OSError: one cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        try:
            _make_directory(path)
        except FileNotFoundError:
            make_directories(os.path.dirname(os.path.abspath(path)))
            with contextlib.suppress(FileNotFoundError):
                _make_directory(path)


def _make_directory(path: str | Path) -> None:
    os.mkdir(path, _DIRECTORY_MODE)
    os.chmod(path, _DIRECTORY_MODE)  # mkdir has asked the umask


def temporary_file(directory: str | Path, prefix: str = "tmp") -> tuple[int, str]:
    """Make a new file of mode 0600 and return its descriptor, open for reading and writing, and its path."""
    import tempfile  # here: every worker loads this module, and few make a file

    descriptor, path = tempfile.mkstemp(dir=directory, prefix=prefix)
    _own(descriptor)
    return descriptor, path


def open_file(path: str | Path) -> int:
    """Open a file for writing, made with mode 0600 if there is none, and return its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), _FILE_MODE)
    _own(descriptor)
    return descriptor


def _own(descriptor: int) -> None:
    if hasattr(os, "fchmod"):  # Windows has neither this nor such modes
        os.fchmod(descriptor, _FILE_MODE)
