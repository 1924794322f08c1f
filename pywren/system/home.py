"""The directory of pywren on this machine, and the user's secret key in this directory."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from pywren.exceptions import ConfigError
from pywren.system.private_files import make_directories, temporary_file

if TYPE_CHECKING:
    from pathlib import Path

_KEY_BYTES = 32


def home() -> Path:
    """Return pywren's directory: ``$PYWREN_HOME``, or else ``~/.pywren``. Create it with mode 0700 if necessary.

    Raises:
        ConfigError: the directory cannot be created, or others can write to it.
    """
    try:
        return _make_home()
    except OSError as error:
        raise ConfigError(
            f"cannot make pywren's own directory: {error}. Set PYWREN_HOME to a directory that you can write to"
        ) from error


def home_path() -> Path:
    """Return the path of ``home()`` without creating the directory.

    Raises:
        ConfigError: this user has no home directory, and ``PYWREN_HOME`` is not set.
    """
    from pathlib import Path  # imported here: workers load this module, but have no home directory

    try:
        return Path(os.environ.get("PYWREN_HOME") or Path.home() / ".pywren").absolute()
    except RuntimeError as error:
        raise ConfigError(
            f"there is no home directory: {error}. Set PYWREN_HOME to a directory that you can write to"
        ) from error


def _make_home() -> Path:
    path = home_path()
    make_directories(path)
    _refuse_foreign(path, 0o022, "chmod go-w")  # whoever can put a key here can have code unpickled
    return path


def user_key() -> bytes:
    """Return this user's secret key, which is in a file with mode 0600 in ``home()``. Create the file on first use.

    To wait for calls that were made on another machine, a user copies the file from that machine. If the file cannot be
    written, as on a worker, this process makes a key for itself.

    Raises:
        ConfigError: the file does not contain a key, or others can read or write it.
    """
    try:
        path = _make_home() / "key"
        if not path.exists():
            _make_user_key(path)
        _refuse_foreign(path, 0o077, "chmod 600")
        key = path.read_bytes()
    except OSError as error:
        return _process_key(str(error))
    if len(key) != _KEY_BYTES:
        raise ConfigError(
            f"the key file {path} holds {len(key)} bytes, not {_KEY_BYTES}. Remove the file, and pywren makes a new key"
        )
    return key


def _refuse_foreign(path: Path, shared: int, remedy: str) -> None:
    """Raise an error if a file or directory belongs to another user, or if others can access it.

    Args:
        path: the file or directory.
        shared: the mode bits that must not be set.
        remedy: the command that removes the access, without the path, for the error message.
    """
    if not hasattr(os, "getuid"):
        return
    status, me = path.stat(), os.getuid()
    if status.st_uid not in (me, 0):
        raise ConfigError(
            f"{path} belongs to another user. Change its owner to your user, or set PYWREN_HOME to a directory of your "
            "own"
        )
    # As with ssh, a file that root provides for this user may be readable by a group, but not writable by anyone else.
    if status.st_mode & (shared if status.st_uid == me else 0o022):
        can = "read or write" if shared & 0o044 else "write to"
        raise ConfigError(f"others can {can} {path}: run `{remedy} {path}`, or set PYWREN_HOME to another directory")


_key_of_this_process: list[bytes] = []


def _process_key(reason: str) -> bytes:
    """Return a secret key that only this process uses. Log a warning when the key is made."""
    if not _key_of_this_process:
        _key_of_this_process.append(os.urandom(_KEY_BYTES))
        logging.getLogger(__name__).warning(
            "cannot write the key file (%s): no other process can collect the results of this process", reason
        )
    return _key_of_this_process[0]


def _make_user_key(path: Path) -> None:
    """Create the key file. If several processes create the file at the same time, they all get the same key."""
    handle, temporary = temporary_file(path.parent, ".key-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first; its key is used
    finally:
        os.unlink(temporary)
