"""Digests, signatures, and the keys derived for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pywren.exceptions import IntegrityError
from pywren.wire import digests

ROOT = Path(__file__).parents[2]


# -- digests and derived keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"text", bytearray(b"text"), memoryview(b"text")])
def test_a_digest_is_sha256(data: bytes | bytearray | memoryview) -> None:
    """Digests are plain SHA-256 in hexadecimal, of any bytes-like object."""
    assert digests.sha256(data) == hashlib.sha256(data).hexdigest()
    digests.verify_sha256(data, hashlib.sha256(data).hexdigest(), "it")


@pytest.mark.parametrize("expected", [None, "", "0" * 64, "é" * 64, "\ud800"])
def test_a_wrong_digest_names_what_was_altered(expected: str | None) -> None:
    """A missing, wrong or malformed digest is an ``IntegrityError`` that names the object."""
    with pytest.raises(IntegrityError, match=r"jobs/c/func\.pickle .* not unpickled"):
        digests.verify_sha256(b"text", expected, "jobs/c/func.pickle")


def test_keys_are_derived_for_one_purpose_each() -> None:
    """Each user, callset, call and attempt has its own key, and no key reveals the one that it was derived from."""
    secrets = {digests.callset_secret(key, callset) for key in (b"1" * 32, b"2" * 32) for callset in ("a", "b")}
    assert len(secrets) == 4
    keys = {
        digests.attempt_key(secret, call, attempt)
        for secret in secrets
        for call in ("00000", "00001")
        for attempt in (1, 2)
    }
    assert len(keys) == 16
    assert all(len(key) == 32 for key in keys | secrets)


def test_derived_keys_never_change() -> None:
    """These values are fixed, because the next release must collect futures that this one has pickled."""
    secret = digests.callset_secret(bytes(32), "6f3cf9f0-3c5e-4c3e-9f2b-2f8a0d9c1e77")
    assert secret.hex() == "e00f95612fccc5624b074fbff7b8e36be2094e3d500171ebd1d6fec4d1b73760"
    assert (
        digests.attempt_key(secret, "00003", 1).hex()
        == "f784fe2b3a931de2475a07b70365a325d227eca92451e822bfec915e10d43e6c"
    )


def test_a_signature_holds_for_its_message_only() -> None:
    """A signature is valid only for the key and message that it was made with."""
    signature = digests.signature(b"key", b"message")
    assert digests.signature_matches(b"key", b"message", signature)
    assert not digests.signature_matches(b"key", b"messagf", signature)
    assert not digests.signature_matches(b"kez", b"message", signature)
    assert not digests.signature_matches(b"key", b"message", signature[:-1])
    assert not digests.signature_matches(b"key", b"message", "")
