"""Digests and signatures: what proves that bytes from the storage are the user's own.

Keys are derived, never stored: user key → callset secret → attempt key. Only the attempt key leaves
the client, inside the payload; with it a worker signs the one status of one attempt of one call.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from typing import TYPE_CHECKING

from pywren.exceptions import ConfigError, IntegrityError
from pywren.system.private_files import make_directories, temporary_file

if TYPE_CHECKING:
    from pathlib import Path

_KEY_BYTES = 32


def sha256(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of some bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def verify_sha256(data: bytes | bytearray | memoryview, expected: str | None, what: str) -> None:
    """Check bytes against the digest that was promised for them.

    Args:
        data: the bytes as they were read.
        expected: 64 hexadecimal digits; ``None`` is a mismatch.
        what: a name for the error, such as the object's key.

    Raises:
        IntegrityError: the digests differ; the bytes must not be unpickled.
    """
    if expected is None or not hmac.compare_digest(sha256(data).encode(), expected.encode(errors="replace")):
        raise IntegrityError(
            f"{what} is not what was stored: its SHA-256 does not match. Someone or something else wrote there; "
            "it was not unpickled"
        )


def home() -> Path:
    """Return pywren's own directory, made with mode 0700 on first use: ``$PYWREN_HOME``, else ``~/.pywren``.

    Raises:
        ConfigError: it cannot be made, or others could write to it.
    """
    try:
        return _make_home()
    except OSError as error:
        raise ConfigError(
            f"cannot make pywren's own directory: {error}; set PYWREN_HOME to one that can be written"
        ) from error


def home_path() -> Path:
    """Return where ``home()`` is, without making it.

    Raises:
        ConfigError: this user has no home directory, and ``PYWREN_HOME`` is not set.
    """
    from pathlib import Path  # here: workers load this module, and have no home

    try:
        return Path(os.environ.get("PYWREN_HOME") or Path.home() / ".pywren").absolute()
    except RuntimeError as error:
        raise ConfigError(f"there is no home directory: {error}; set PYWREN_HOME to one that can be written") from error


def _make_home() -> Path:
    path = home_path()
    make_directories(path)
    _refuse_foreign(path, 0o022, "chmod go-w")  # who can plant a key can have code run here
    return path


def user_key() -> bytes:
    """Return this user's secret key, a file of mode 0600 in ``home()`` that is made on first use.

    A machine that is to attach to calls made on another one needs a copy of the file. Where there is no place
    for the file, as on a worker, a key of this process alone serves.

    Raises:
        ConfigError: the file is not a key, or others could have read or written it.
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
            f"the key file {path} holds {len(key)} bytes, not {_KEY_BYTES}: remove it and a new one is made"
        )
    return key


def _refuse_foreign(path: Path, shared: int, remedy: str) -> None:
    """Refuse a file or directory that is not this user's, or that others have access to.

    Args:
        path: the file or directory.
        shared: the mode bits that must not be set.
        remedy: the beginning of the command that takes the access away.
    """
    if not hasattr(os, "getuid"):
        return
    status, me = path.stat(), os.getuid()
    if status.st_uid not in (me, 0):
        raise ConfigError(
            f"{path} belongs to another user: make it yours alone, or set PYWREN_HOME to a directory of yours"
        )
    # What root has put there for this user may be for its group to read, as ssh sees it; nobody else may write to it.
    if status.st_mode & (shared if status.st_uid == me else 0o022):
        can = "read or write" if shared & 0o044 else "write to"
        raise ConfigError(f"others can {can} {path}: run `{remedy} {path}`, or set PYWREN_HOME to another directory")


_key_of_this_process: list[bytes] = []


def _process_key(reason: str) -> bytes:
    if not _key_of_this_process:
        _key_of_this_process.append(os.urandom(_KEY_BYTES))
        logging.getLogger(__name__).warning(
            "no place for the key file (%s): no other process can collect the futures of this one", reason
        )
    return _key_of_this_process[0]


def _make_user_key(path: Path) -> None:
    """Make the key file so that of several processes doing so at once all end with the same key."""
    handle, temporary = temporary_file(path.parent, ".key-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first: its key counts
    finally:
        os.unlink(temporary)


def callset_secret(key: bytes, callset_id: str) -> bytes:
    """Derive the secret of one callset from the user key."""
    return hmac.digest(key, f"callset:{callset_id}".encode(), "sha256")


def attempt_key(secret: bytes, call_id: str, attempt: int) -> bytes:
    """Derive the key with which the worker signs the status of one attempt of one call."""
    return hmac.digest(secret, f"attempt:{call_id}:{attempt}".encode(), "sha256")


def signature(key: bytes, message: bytes) -> str:
    """Return the HMAC-SHA256 of a message as 64 hexadecimal digits."""
    return hmac.digest(key, message, "sha256").hex()


def signature_matches(key: bytes, message: bytes, claimed: str) -> bool:
    """Tell, in constant time, whether a signature belongs to a message."""
    return hmac.compare_digest(signature(key, message), claimed)
