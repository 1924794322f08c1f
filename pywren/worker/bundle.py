"""The bundle: the files that a worker needs, and the zip that is deployed to Lambda.

No other module lists these files. The bundle is a real ``pywren`` package, because users' functions import it too. It
includes the client's own versions of cloudpickle and tblib, so that the worker can read what the client pickles. It
leaves out what runs only on a client: the commands, and the mocked and emulated AWS. The same files always give the
same bytes, so an unchanged worker has an unchanged hash and is not deployed again.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pywren.exceptions import DeploymentError

PACKAGES = ("pywren", "cloudpickle", "tblib")
"""The packages that a worker loads besides the standard library. Lambda provides boto3; instances install it."""

LEFT_OUT = ("pywren.scripts", "pywren.testing")
"""Packages that stay on the client, so that a change in them does not change the deployed function."""

HANDLER = "pywren.wrenhandler.aws_lambda_handler"
"""The function that Lambda calls."""

_SUFFIXES = frozenset({".py", ".typed", ".yaml"})
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def package_directory(name: str) -> Path:
    """Return the directory of a package that belongs to the bundle.

    Raises:
        DeploymentError: the package is missing, or is not installed as plain files.
    """
    spec = importlib.util.find_spec(name)
    locations = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not locations or not Path(locations[0]).is_dir():
        raise DeploymentError(
            f"workers need the package {name}, which is not installed here as a directory of files: "
            f"run 'pip install {name}'"
        )
    return Path(locations[0])


def worker_files() -> dict[str, bytes]:
    """Return every file that a worker needs: contents keyed by relative POSIX path, sorted by path.

    Raises:
        DeploymentError: a package is missing.
    """
    files = {path: data for name in PACKAGES for path, data in _package_files(name)}
    files.update((f"{_directory(name)}__init__.py", _PLACEHOLDER.format(name=name).encode()) for name in LEFT_OUT)
    return dict(sorted(files.items()))


# Users' modules are sent whole. One that imports pywren.testing at its top fails on the worker, and this text says why.
_PLACEHOLDER = '''\
"""{name} is not on workers."""
raise ImportError("{name} is not on workers: import it inside the functions that need it", name=__name__)
'''


def _directory(package: str) -> str:
    return package.replace(".", "/") + "/"


def _package_files(name: str) -> Iterator[tuple[str, bytes]]:
    directory = package_directory(name)
    for path in directory.rglob("*"):
        relative = path.relative_to(directory)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if path.suffix in _SUFFIXES and not hidden and path.is_file():
            entry = f"{name}/{relative.as_posix()}"
            if not entry.startswith(tuple(map(_directory, LEFT_OUT))):
                yield entry, path.read_bytes()


def build_zip(files: Mapping[str, bytes] | None = None) -> bytes:
    """Return the files as a zip with fixed times, modes and order, so that equal files give equal bytes.

    Args:
        files: contents keyed by relative path; by default ``worker_files()``.

    Raises:
        DeploymentError: a package is missing.
    """
    files = worker_files() if files is None else files
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, data in sorted(files.items()):
            entry = zipfile.ZipInfo(path, date_time=_ZIP_EPOCH)
            entry.create_system = 3  # Unix, even if built on Windows: this determines how readers interpret the mode
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return buffer.getvalue()


def code_sha256(archive: bytes) -> str:
    """Return the hash of a zip as Lambda reports it in ``CodeSha256``: SHA-256 in base64."""
    return base64.b64encode(hashlib.sha256(archive).digest()).decode("ascii")
