"""Runtimes in the bucket: what is uploaded, how one is found, and what is deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pywren.cloud.runtime_builder import Built
from pywren.cloud.runtime_store import RuntimeStore
from pywren.exceptions import StorageError, StorageNoSuchKeyError


class Objects:
    """A bucket in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.broken: str | None = None

    def put(self, key: str, data: Any, *, if_absent: bool = False) -> bool:
        if self.broken and key.endswith(self.broken):
            raise StorageError("broken")
        self.puts.append(key)
        self.objects[key] = bytes(data)
        return True

    def now(self) -> float:
        return time.time()

    def get(self, key: str, byte_range: tuple[int, int] | None = None, *, limit: int | None = None) -> bytes:
        if key not in self.objects:
            raise StorageNoSuchKeyError(key)
        return self.objects[key]

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def delete(self, keys: Iterator[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    def close(self) -> None:
        """Nothing to close."""


def test_the_store(tmp_path: Path) -> None:
    """Uploaded once, the description last; found by name, key and URL; deleted completely."""
    (tarball_here := tmp_path / "runtime.tar.gz").write_bytes(b"a tarball")
    built = Built(tarball_here, "ab" * 32, {"python_ver": "3.12", "arch": "x86_64"}, 0, [])
    bucket = Objects()
    store = RuntimeStore("mine", "/p/", backend=bucket)
    bucket.broken = ".meta.json"
    with pytest.raises(StorageError):
        store.upload(built)
    assert store.list()[0].meta == {}
    assert not store.holds(built)
    bucket.broken = None
    assert not store.upload(built)
    assert store.holds(built)
    assert not store.upload(built)
    tarball = f"p/runtimes/{built.name}.tar.gz"
    assert bucket.puts == [tarball, f"p/runtimes/{built.name}.meta.json"]
    assert store.section(built) == {"s3_bucket": "mine", "s3_key": tarball, "sha256": built.sha256}
    for name in (built.name, built.name[:-5], tarball, f"s3://mine/{tarball}"):
        assert store.find(name).meta == built.meta
    bucket.objects["p/runtimes/mine/of-somebody"] = b""
    assert len(store.list()) == 1
    store.delete(store.find(built.name))
    assert list(bucket.objects) == ["p/runtimes/mine/of-somebody"]
