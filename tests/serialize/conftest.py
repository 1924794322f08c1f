"""A client and a worker: two fresh interpreters that share only what is sent."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import pywren

ROOT = str(Path(pywren.__file__).parent.parent)

PACK = """
import pickle as _pickle
from pywren.serialize import Serializer as _Serializer
try:
    _packed = _Serializer({options}).pack_call(func, {items}, **{pack_options})
    _shipped = _packed.func.data, [item.data for item in _packed.items], _packed.modules
except Exception as _error:
    _shipped = _error
with open({target!r}, "wb") as _file:
    _pickle.dump(_shipped, _file)
"""

RUN = """
import os, pickle, sys
sys.path.insert(0, os.path.abspath("modules"))
with open("shipped", "rb") as file:
    function, items = pickle.load(file)
results = []
for item in items:
    try:
        results.append((True, pickle.loads(function)(pickle.loads(item))))
    except Exception as error:
        results.append((False, error))
with open("results", "wb") as file:
    pickle.dump(results, file)
"""


def run(arguments: list[str], cwd: Path, *path: str) -> None:
    """Run Python in a directory; if it fails, so does the test."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, ROOT]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


class Shipping:
    """A helper that packs a script's ``func`` in one process and runs it in another, without the script's directory."""

    def __init__(self, base: Path) -> None:
        self.client = base / "client"
        self.worker = base / "worker"
        self.modules: dict[str, bytes] = {}
        self._base = base

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write files into the client's directory."""
        for name, content in files.items():
            path = self.client / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def pack(
        self, script: str, items: str = "[1]", options: str = "", path: tuple[str, ...] = (), **pack_options: Any
    ) -> tuple[bytes, list[bytes]]:
        """Run the script, and pack its ``func``; raise what packing raises."""
        target = str(self._base / "packed")
        tail = PACK.format(items=items, options=options, pack_options=pack_options, target=target)
        self.write({"main.py": script + tail})
        run(["main.py"], self.client, *path)
        shipped = pickle.loads(Path(target).read_bytes())
        if isinstance(shipped, Exception):
            raise shipped
        function, packed, self.modules = shipped
        return function, packed

    def run(self, function: bytes, items: list[bytes]) -> list[Any]:
        """Run what was packed, in a fresh interpreter without the client's directory."""
        shutil.rmtree(self.client)
        for name, content in self.modules.items():
            path = self.worker / "modules" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.worker.mkdir(exist_ok=True)
        (self.worker / "shipped").write_bytes(pickle.dumps((function, items)))
        (self.worker / "run.py").write_text(RUN)
        run(["run.py"], self.worker)
        return pickle.loads((self.worker / "results").read_bytes())

    def __call__(self, script: str, **options: Any) -> Any:
        """Pack and run a script's ``func``, and return its result or raise its error."""
        [(returned, value)] = self.run(*self.pack(script, **options))
        if not returned:
            raise value
        return value


@pytest.fixture
def ship(tmp_path: Path) -> Shipping:
    """Return a client and a worker in their own directories."""
    return Shipping(tmp_path)


@pytest.fixture(scope="module")
def make_shipping(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Shipping]:
    """Return a client and a worker that several tests share."""
    return lambda: Shipping(tmp_path_factory.mktemp("ship"))
