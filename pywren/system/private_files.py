"""Makes files and directories that this user, and nobody else, can access, whatever the umask is."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600


def make_directories(path: str | Path) -> None:
    """Create a directory and any missing parent directories, each with mode 0700.

    Existing directories are not changed. Other processes may create or remove these directories at the same time.

    Raises:
        OSError: a directory cannot be created.
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
    os.chmod(path, _DIRECTORY_MODE)  # needed because mkdir applies the umask, which may deny even the owner access


def temporary_file(directory: str | Path, prefix: str = "tmp") -> tuple[int, str]:
    """Create a new file of mode 0600. Return its descriptor, open for reading and writing, and its path."""
    import tempfile  # imported here: every worker loads this module, but few create a file

    descriptor, path = tempfile.mkstemp(dir=directory, prefix=prefix)
    _own(descriptor)
    return descriptor, path


def open_file(path: str | Path) -> int:
    """Open a file for reading and writing, and return its descriptor. Create the file with mode 0600 if necessary."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), _FILE_MODE)
    _own(descriptor)
    return descriptor


def _own(descriptor: int) -> None:
    if hasattr(os, "fchmod"):  # Windows has neither fchmod nor such modes
        os.fchmod(descriptor, _FILE_MODE)
