"""Digests and signatures, which prove that bytes from a storage are the user's own.

Keys are derived, never stored: the user key gives the callset secret, which gives the attempt key. Only the attempt key
leaves the client, inside the payload. With that key, a worker can sign the status of one attempt of one call, and no
other status.
"""

from __future__ import annotations

import hashlib
import hmac

from pywren.exceptions import IntegrityError


def sha256(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of some bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def verify_sha256(data: bytes | bytearray | memoryview, expected: str | None, what: str) -> None:
    """Check bytes against the expected digest.

    Args:
        data: the bytes that were read.
        expected: 64 hexadecimal digits; ``None`` never matches.
        what: a name for the error message, such as the object's key.

    Raises:
        IntegrityError: the digests differ; the bytes must not be unpickled.
    """
    if expected is None or not hmac.compare_digest(sha256(data).encode(), expected.encode(errors="replace")):
        raise IntegrityError(
            f"{what} is not what was stored: its SHA-256 does not match. Someone or something else overwrote it; "
            "it was not unpickled"
        )


def callset_secret(key: bytes, callset_id: str) -> bytes:
    """Derive the secret of one callset from the user key."""
    return hmac.digest(key, f"callset:{callset_id}".encode(), "sha256")


def attempt_key(secret: bytes, call_id: str, attempt: int) -> bytes:
    """Derive the key with which a worker signs the status of one attempt of a call."""
    return hmac.digest(secret, f"attempt:{call_id}:{attempt}".encode(), "sha256")


def chunk_key(secret: bytes, chunk: str) -> bytes:
    """Derive the key with which a worker signs the pages of the journal of one chunk."""
    return hmac.digest(secret, f"chunk:{chunk}".encode(), "sha256")


def mark_key(secret: bytes, chunk: str) -> bytes:
    """Derive the key with which clients sign their pages of the journal of one chunk. It is in no payload."""
    return hmac.digest(secret, f"mark:{chunk}".encode(), "sha256")


def signature(key: bytes, message: bytes) -> str:
    """Return the HMAC-SHA256 of a message as 64 hexadecimal digits."""
    return hmac.digest(key, message, "sha256").hex()


def signature_matches(key: bytes, message: bytes, claimed: str) -> bool:
    """Tell whether a signature belongs to a message. The time that this takes reveals nothing about the signature."""
    return hmac.compare_digest(signature(key, message), claimed)
