"""Locks of files, and the systems that have none."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from pywren.system import file_locks


def test_an_exclusive_lock_excludes_every_other(tmp_path: Path) -> None:
    """A second lock is refused at once, even in the same process, until the first file is closed."""
    path = tmp_path / "lock"
    with open(path, "wb") as first, open(path, "rb") as second:
        file_locks.lock(first)
        for shared in (False, True):
            with pytest.raises(BlockingIOError):
                file_locks.lock(second, shared=shared)
        first.close()
        file_locks.lock(second)


def test_shared_locks_exclude_only_exclusive_ones(tmp_path: Path) -> None:
    """Several readers hold shared locks together."""
    path = tmp_path / "lock"
    path.touch()
    with open(path, "rb") as first, open(path, "rb") as second, open(path, "wb") as writer:
        file_locks.lock(first, shared=True)
        file_locks.lock(second, shared=True)
        with pytest.raises(BlockingIOError):
            file_locks.lock(writer)


def test_windows_has_no_such_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows the error says so, and is not mistaken for a lock of another process."""
    monkeypatch.setattr(sys, "platform", "win32")
    with open(tmp_path / "lock", "wb") as file, pytest.raises(OSError, match="Windows") as caught:
        file_locks.lock(file)
    assert caught.value.errno == errno.ENOTSUP
    assert not isinstance(caught.value, BlockingIOError)
