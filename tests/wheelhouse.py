"""A directory of tiny wheels that replaces the package index: builds are fast and need no network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest


class Wheelhouse:
    """A directory of wheels.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(
        self,
        name: str,
        version: str = "1.0",
        *,
        tag: str = "py3-none-any",
        requires: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
        recorded: Sequence[str] = (),
    ) -> Path:
        """Make a wheel; by default of one package with its version in it.

        Args:
            name: the distribution's name.
            version: its version.
            tag: the Pythons and platforms that it is for.
            requires: its requirements.
            files: contents by path.
            recorded: further paths that its RECORD claims.
        """
        files = {f"{name}/__init__.py": f"VERSION = {version!r}\n"} if files is None else files
        folder = f"{name}-{version}.dist-info"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        metadata = "\n".join([*lines, *(f"Requires-Dist: {item}" for item in requires), ""])
        pure = str(tag.endswith("any")).lower()
        wheel = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
        contents = {**files, f"{folder}/METADATA": metadata, f"{folder}/WHEEL": wheel}
        rows = [f"{path},{_digest(text)},{len(text)}" for path, text in contents.items()]
        rows += [f"{path},," for path in (*recorded, f"{folder}/RECORD")]
        path = self.path / f"{name}-{version}-{tag}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for inside, text in {**contents, f"{folder}/RECORD": "\n".join(rows) + "\n"}.items():
                archive.writestr(inside, text)
        return path


def _digest(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def make_the_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheelhouse:
    """Make uv and pip use a new directory of wheels, and no index."""
    path.mkdir()
    settings = path.parent / "uv.toml"
    settings.write_text(f'no-index = true\nfind-links = ["{path.as_posix()}"]\n')
    values = {
        "UV_CONFIG_FILE": str(settings),
        "UV_CACHE_DIR": str(path.parent / "uv-cache"),  # wheels of other tests may have the same names
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(path),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return Wheelhouse(path)
