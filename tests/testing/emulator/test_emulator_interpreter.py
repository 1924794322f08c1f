"""The Python of the containers has what Lambda's runtime has, and nothing else."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

import pytest

pytest.importorskip("awslambdaric")

from pywren.testing.emulator._interpreter import PYTHON, make_interpreter

PROGRAM = """
import importlib.util, json, sys
from importlib.metadata import distributions
import awslambdaric, boto3, runtime_client, simplejson, six
find = importlib.util.find_spec
print(json.dumps({
    "hidden": [name for name in ("numpy", "pywren", "pytest", "cloudpickle", "pip") if find(name)],
    "packages": sorted(one.metadata["Name"] for one in distributions()),
    "boto3": boto3.__file__,
    "six": six.__cached__,
    "version": "python%d.%d" % sys.version_info[:2],
}))
"""


def run(python: Path) -> dict[str, object]:
    """Return the output of the program."""
    done = subprocess.run([str(python), "-I", "-c", PROGRAM], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_it_has_the_runtime_client_and_boto3_and_what_they_need_and_no_more(tmp_path: Path) -> None:
    """Packages of the emulator's own interpreter are hidden; those that are there have their metadata."""
    python = make_interpreter(tmp_path / "python")
    found = run(python)
    assert found["hidden"] == []
    assert found["version"] == PYTHON == python.name
    assert {"awslambdaric", "boto3", "botocore", "jmespath", "s3transfer", "simplejson"} <= set(found["packages"])
    assert not {"moto", "numpy", "aiohttp", "pytest"} & set(found["packages"])
    assert str(found["boto3"]).startswith(str(tmp_path))


def test_nothing_outside_its_directory_is_written(tmp_path: Path) -> None:
    """Single-file modules have their bytecode beside the copy."""
    found = run(make_interpreter(tmp_path / "python"))
    assert str(found["six"]).startswith(str(tmp_path))


def test_a_package_that_is_missing_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is reported before anything is made."""

    def absent(name: str) -> Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(Distribution, "from_name", absent)
    with pytest.raises(ImportError, match=r"pywren\[emulator\]"):
        make_interpreter(tmp_path / "python")
    assert list(tmp_path.iterdir()) == []
