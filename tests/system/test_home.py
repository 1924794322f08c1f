"""Pywren's own directory, and the user's key in it."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pywren.exceptions import ConfigError
from pywren.system import home
from pywren.system.home import user_key

ROOT = Path(__file__).parents[2]


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Set a umask of 0, so that new files get exactly the mode that is asked for."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- the key --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("open_umask")
def test_the_key_is_made_once_and_is_for_its_owner_only(pywren_home: Path) -> None:
    """The first use makes a directory 0700 and a key file 0600; later uses read it, and nothing else is left."""
    key = user_key()
    assert len(key) == 32
    assert user_key() == key
    assert (pywren_home / "key").read_bytes() == key
    assert mode(pywren_home) == 0o700
    assert mode(pywren_home / "key") == 0o600
    assert os.listdir(pywren_home) == ["key"]


def test_two_users_have_different_keys(pywren_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every home gets its own random key."""
    key = user_key()
    monkeypatch.setenv("PYWREN_HOME", str(pywren_home.parent / "other"))
    assert user_key() != key


def test_without_pywren_home_it_is_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default place is ``~/.pywren``."""
    monkeypatch.delenv("PYWREN_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.home() == tmp_path / ".pywren"


def test_many_processes_that_start_at_once_agree_on_one_key(pywren_home: Path) -> None:
    """The first process creates the key, all others use it, and no temporary file remains."""
    program = (
        "import sys; from pywren.system.home import user_key\n"
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
    assert keys == {user_key().hex()}
    assert os.listdir(pywren_home) == ["key"]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_file_that_is_no_key_is_named(pywren_home: Path, content: bytes) -> None:
    """The error for a truncated or foreign key file says which file to remove."""
    pywren_home.mkdir(mode=0o700)
    (pywren_home / "key").write_bytes(content)
    (pywren_home / "key").chmod(0o600)
    with pytest.raises(ConfigError, match="Remove the file") as caught:
        user_key()
    assert str(pywren_home / "key") in str(caught.value)


@pytest.mark.parametrize("shared", [0o720, 0o702, 0o777])
def test_a_directory_that_others_can_write_is_refused(pywren_home: Path, shared: int) -> None:
    """Row 203: anyone who can plant a key could have code unpickled here. Read access to the directory is allowed."""
    user_key()
    pywren_home.chmod(shared)
    with pytest.raises(ConfigError, match=f"others can write to {pywren_home}: run `chmod go-w {pywren_home}`"):
        user_key()
    pywren_home.chmod(0o755)
    user_key()


@pytest.mark.parametrize("shared", [0o644, 0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_read_or_write_is_refused(pywren_home: Path, shared: int) -> None:
    """Row 203: anyone with the key can sign results; the error gives the command that protects the file."""
    key = user_key()
    (pywren_home / "key").chmod(shared)
    with pytest.raises(ConfigError, match=f"others can read or write .*: run `chmod 600 {pywren_home / 'key'}`"):
        user_key()
    (pywren_home / "key").chmod(0o600)
    assert user_key() == key


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_of_somebody_else_is_refused(pywren_home: Path) -> None:
    """Row 203: another user's key file is refused, whatever its mode."""
    user_key()
    os.chown(pywren_home / "key", 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        user_key()


def test_without_a_place_for_the_key_the_process_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If no file can be written, this process uses its own key, and one warning says what that means."""
    monkeypatch.setattr(home, "_key_of_this_process", [])
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PYWREN_HOME", str(tmp_path / "file" / "home"))
    with caplog.at_level(logging.WARNING):
        keys = {user_key() for _ in range(3)}
    assert len(keys) == 1
    assert len(next(iter(keys))) == 32
    assert [record.message for record in caplog.records if "no other process can collect" in record.message]
    assert len(caplog.records) == 1


def test_a_home_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the directory is needed, the error names ``PYWREN_HOME``."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PYWREN_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ConfigError, match="PYWREN_HOME"):
        home.home()
