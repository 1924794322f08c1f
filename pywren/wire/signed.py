"""Signed JSON: an object whose last member is the signature of all bytes before it.

The signature has a fixed length. So the signed bytes are exactly those before the signature, and the whole is still
plain JSON.
"""

from __future__ import annotations

import re

from pywren.exceptions import IntegrityError
from pywren.wire.digests import signature, signature_matches
from pywren.wire.reading import Reader, load_object


def sign(body: bytes, key: bytes, purpose: str = "") -> bytes:
    """Append a signature to a JSON object.

    Args:
        body: a JSON object with at least one member, as ``reading.dump`` writes it.
        key: the key.
        purpose: what kind of message it is. A message that was signed for one purpose is not valid for any other.
    """
    return body[:-1] + b',"signature":"' + signature(key, purpose.encode() + body).encode() + b'"}'


def is_signed(data: bytes, key: bytes, purpose: str = "") -> bool:
    """Tell whether ``sign`` made these bytes, with the same key and purpose."""
    match = _SIGNATURE.search(data)
    return match is not None and signature_matches(
        key, purpose.encode() + data[: match.start()] + b"}", match[1].decode()
    )


def opened(data: bytes, key: bytes, purpose: str, what: str, refusal: str) -> Reader:
    """Verify a signed JSON object, and return its members for reading.

    Args:
        data: the bytes.
        key: the key.
        purpose: the purpose for which it was signed.
        what: what it is, for the messages of ``DecodeError``.
        refusal: the message of ``IntegrityError``.

    Raises:
        IntegrityError: it is not signed with this key for this purpose.
        DecodeError: it is signed, but is not a JSON object.
    """
    if not is_signed(data, key, purpose):
        raise IntegrityError(refusal)
    return Reader(what, load_object(data, what))


_SIGNATURE = re.compile(rb',"signature":"([0-9a-f]{64})"\}\Z')
