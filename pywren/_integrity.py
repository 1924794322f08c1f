"""Digests and signatures: what proves that bytes from the storage are the user's own.

Keys are derived, never stored: user key → callset secret → attempt key. Only the attempt key leaves
the client, inside the payload; with it a worker signs the one status of one attempt of one call.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from pywren.exceptions import ConfigError, IntegrityError

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
    if expected is None or not hmac.compare_digest(sha256(data), expected):
        raise IntegrityError(
            f"{what} is not what was stored: its SHA-256 does not match. Someone or something else wrote there; "
            "it was not unpickled"
        )


def home() -> Path:
    """Return pywren's own directory, made with mode 0700 on first use: ``$PYWREN_HOME``, else ``~/.pywren``.

    Raises:
        ConfigError: it cannot be made.
    """
    path = Path(os.environ.get("PYWREN_HOME") or Path.home() / ".pywren")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the directory {path}: {error}; set PYWREN_HOME to one that can be written"
        ) from error
    return path


def user_key() -> bytes:
    """Return this user's secret key, a file of mode 0600 in ``home()`` that is made on first use.

    A machine that is to attach to calls made on another one needs a copy of the file.

    Raises:
        ConfigError: the file cannot be made, or is not a key.
    """
    path = home() / "key"
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = _make_user_key(path)
    except OSError as error:
        raise ConfigError(f"cannot read the key file {path}: {error}") from error
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"the key file {path} holds {len(key)} bytes, not {_KEY_BYTES}: remove it and a new one is made")
    return key


def _make_user_key(path: Path) -> bytes:
    """Make the key file so that of several processes doing so at once all end with the same key."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass  # another process was first: its key counts
        finally:
            os.unlink(temporary)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot make the key file {path}: {error}; set PYWREN_HOME to a writable directory") from error


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
