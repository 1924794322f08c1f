"""Digests, signatures, and the user's key that they rest on."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pywren.exceptions import ConfigError, IntegrityError
from pywren.wire import digests

ROOT = Path(__file__).parents[2]


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Let new files be as open as their maker asks for."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- the key --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("open_umask")
def test_the_key_is_made_once_and_is_for_its_owner_only(pywren_home: Path) -> None:
    """First use makes a directory 0700 and a key file 0600, later use reads it, and nothing else is left there."""
    key = digests.user_key()
    assert len(key) == 32
    assert digests.user_key() == key
    assert (pywren_home / "key").read_bytes() == key
    assert mode(pywren_home) == 0o700
    assert mode(pywren_home / "key") == 0o600
    assert os.listdir(pywren_home) == ["key"]


def test_two_users_have_different_keys(pywren_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every home gets a random key of its own."""
    key = digests.user_key()
    monkeypatch.setenv("PYWREN_HOME", str(pywren_home.parent / "other"))
    assert digests.user_key() != key


def test_without_pywren_home_it_is_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default place is ``~/.pywren``."""
    monkeypatch.delenv("PYWREN_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert digests.home() == tmp_path / ".pywren"


def test_many_processes_that_start_at_once_agree_on_one_key(pywren_home: Path) -> None:
    """Whoever is first makes the key; all others use it, and no temporary file stays."""
    program = (
        "import sys; from pywren.wire.digests import user_key\n"
        "print('ready', flush=True); sys.stdin.read(1); print(user_key().hex())"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(8)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("g")
        child.stdin.flush()
    keys = {child.communicate(timeout=60)[0].strip() for child in children}
    assert keys == {digests.user_key().hex()}
    assert os.listdir(pywren_home) == ["key"]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_file_that_is_no_key_is_named(pywren_home: Path, content: bytes) -> None:
    """A truncated or foreign key file is an error that says which file to remove."""
    pywren_home.mkdir(mode=0o700)
    (pywren_home / "key").write_bytes(content)
    (pywren_home / "key").chmod(0o600)
    with pytest.raises(ConfigError, match=r"remove it") as caught:
        digests.user_key()
    assert str(pywren_home / "key") in str(caught.value)


@pytest.mark.parametrize("shared", [0o720, 0o702, 0o777])
def test_a_directory_that_others_can_write_is_refused(pywren_home: Path, shared: int) -> None:
    """Row 203: who could plant a key could have code unpickled here. Who can only look in finds nothing to read."""
    digests.user_key()
    pywren_home.chmod(shared)
    with pytest.raises(ConfigError, match=f"others can write to {pywren_home}: run `chmod go-w {pywren_home}`"):
        digests.user_key()
    pywren_home.chmod(0o755)
    digests.user_key()


@pytest.mark.parametrize("shared", [0o644, 0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_read_or_write_is_refused(pywren_home: Path, shared: int) -> None:
    """Row 203: it is a secret, and who has it can sign results; the error has the command that closes the file."""
    key = digests.user_key()
    (pywren_home / "key").chmod(shared)
    with pytest.raises(ConfigError, match=f"others can read or write .*: run `chmod 600 {pywren_home / 'key'}`"):
        digests.user_key()
    (pywren_home / "key").chmod(0o600)
    assert digests.user_key() == key


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_of_somebody_else_is_refused(pywren_home: Path) -> None:
    """Row 203: another user's file is no key of ours, whatever its mode."""
    digests.user_key()
    os.chown(pywren_home / "key", 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        digests.user_key()


def test_without_a_place_for_the_key_the_process_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no file can be written, one key serves this process, and one warning says what that means."""
    monkeypatch.setattr(digests, "_key_of_this_process", [])
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PYWREN_HOME", str(tmp_path / "file" / "home"))
    with caplog.at_level(logging.WARNING):
        keys = {digests.user_key() for _ in range(3)}
    assert len(keys) == 1
    assert len(next(iter(keys))) == 32
    assert [record.message for record in caplog.records if "no other process can collect" in record.message]
    assert len(caplog.records) == 1


def test_a_home_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory itself is needed by who asks for it: the error names ``PYWREN_HOME``."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PYWREN_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ConfigError, match="PYWREN_HOME"):
        digests.home()


# -- digests and derived keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"text", bytearray(b"text"), memoryview(b"text")])
def test_a_digest_is_sha256(data: bytes | bytearray | memoryview) -> None:
    """Digests are plain SHA-256 in hexadecimal, of any bytes-like object."""
    assert digests.sha256(data) == hashlib.sha256(data).hexdigest()
    digests.verify_sha256(data, hashlib.sha256(data).hexdigest(), "it")


@pytest.mark.parametrize("expected", [None, "", "0" * 64, "é" * 64, "\ud800"])
def test_a_wrong_digest_names_what_was_altered(expected: str | None) -> None:
    """A missing, false or absurd digest is an ``IntegrityError`` that names the object."""
    with pytest.raises(IntegrityError, match=r"jobs/c/func\.pickle .* not unpickled"):
        digests.verify_sha256(b"text", expected, "jobs/c/func.pickle")


def test_keys_are_derived_for_one_purpose_each() -> None:
    """Another user, callset, call or attempt has another key, and none shows the one it came from."""
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
    """A future pickled by one release is collected by the next: these values are fixed."""
    secret = digests.callset_secret(bytes(32), "6f3cf9f0-3c5e-4c3e-9f2b-2f8a0d9c1e77")
    assert secret.hex() == "e00f95612fccc5624b074fbff7b8e36be2094e3d500171ebd1d6fec4d1b73760"
    assert (
        digests.attempt_key(secret, "00003", 1).hex()
        == "f784fe2b3a931de2475a07b70365a325d227eca92451e822bfec915e10d43e6c"
    )


def test_a_signature_holds_for_its_message_only() -> None:
    """A signature matches the key and message it was made with, and nothing else."""
    signature = digests.signature(b"key", b"message")
    assert digests.signature_matches(b"key", b"message", signature)
    assert not digests.signature_matches(b"key", b"messagf", signature)
    assert not digests.signature_matches(b"kez", b"message", signature)
    assert not digests.signature_matches(b"key", b"message", signature[:-1])
    assert not digests.signature_matches(b"key", b"message", "")
