"""Copies a prefix (a virtual or conda environment) into a runtime unchanged."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pywren.cloud._wheels import Target
from pywren.exceptions import DeploymentError

_MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine of an ELF header
_EXTENSION = re.compile(r"\.(cpython-(?P<python>3\d+)-[\w-]+|abi3)\.so$|\.so$")
_NOT_NEEDED = ("__pycache__", "*.pyc", "*.a", "*.la", "pkgconfig", "cmake", "ensurepip", "idlelib", "conda-meta")


def copy_prefix(prefix: Path, target: Target, tree: Path) -> Path:
    """Copy the parts of an environment that a worker needs.

    For a virtual environment, these are its packages. A conda environment also has its own libraries and its own
    interpreter, which then runs the calls.

    Args:
        prefix: the environment's directory.
        target: the system to build for.
        tree: the directory that becomes the runtime.

    Returns:
        The directory of packages in the tree.

    Raises:
        DeploymentError: the directory is not an environment, or the environment is for another version of Python or
            another system.
    """
    packages = _packages(prefix, target)
    _check_extensions(prefix / packages, target)
    if not is_conda(prefix):
        shutil.copytree(prefix / packages, tree / packages, ignore_dangling_symlinks=True, ignore=_ignored)
        return tree / packages
    interpreter = prefix / "bin" / "python"
    if not interpreter.exists():
        raise DeploymentError(f"{prefix} has no bin/python: it is not a complete conda environment")
    check_binary(interpreter.resolve(), target)
    root = tree / "condaruntime"
    shutil.copytree(prefix / "lib", root / "lib", symlinks=True, ignore=_ignored)
    (root / "bin").mkdir()
    shutil.copy2(interpreter, root / "bin" / "python")  # copies the target of a symbolic link
    _drop_strange_links(root, prefix)
    return root / packages


def is_conda(prefix: Path) -> bool:
    """Tell whether a directory is a conda environment."""
    return (prefix / "conda-meta").is_dir()


def _packages(prefix: Path, target: Target) -> Path:
    found = sorted(path.parent.name for path in prefix.glob("lib/python3.*/site-packages"))
    if not found:
        raise DeploymentError(
            f"{prefix} is not a Python environment for Linux: it has no lib/python3.x/site-packages. "
            "Pass the directory that `python -c 'import sys; print(sys.prefix)'` prints in that environment"
        )
    if f"python{target.python}" not in found:
        raise DeploymentError(
            f"{prefix} is for Python {', '.join(name[6:] for name in found)}, but the runtime is for "
            f"{target.python}: add --python {found[-1][6:]}, or pass another environment"
        )
    return Path("lib", f"python{target.python}", "site-packages")


def _check_extensions(directory: Path, target: Target) -> None:
    for path in _files(directory):
        match = _EXTENSION.search(path.name)
        if match is None:
            continue
        compiled_for = match["python"]
        if compiled_for and compiled_for != target.python.replace(".", ""):
            raise DeploymentError(f"{path} is for Python 3.{compiled_for[1:]}, not for {target}")
        if compiled_for or match[1]:  # other libraries are not checked: they may be meant for other systems
            check_binary(path, target)


def check_binary(path: Path, target: Target) -> None:
    """Check that a binary, which is an extension module or an interpreter, runs on a target's system.

    Raises:
        DeploymentError: the binary is for another machine or C library, or needs a newer C library.
    """
    data = path.read_bytes()
    machine = _MACHINES.get(int.from_bytes(data[18:20], "little"), "another machine")
    if data[:4] != b"\x7fELF" or machine != target.machine:
        system = f"Linux on {machine}" if data[:4] == b"\x7fELF" else "another system"
        raise DeploymentError(f"{path} is for {system}, but the runtime is for {target}: {_REMEDY}")
    if b"libc.musl-" in data:
        raise DeploymentError(f"{path} is compiled for musl, but Lambda uses glibc: {_REMEDY}")
    needed = max((int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", data)), default=0)
    if needed > target.glibc:
        raise DeploymentError(f"{path} needs glibc 2.{needed}, but the runtime is for {target}: {_REMEDY}")


_REMEDY = "build from wheels with -r or --from-env, or create the environment on a system like the function's"


def _files(directory: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(directory):
        for name in names:
            yield Path(folder, name)


def _drop_strange_links(root: Path, prefix: Path) -> None:
    """Replace links that are absolute or leave the tree with copies of their targets: workers refuse such links."""
    for path in [path for path in root.rglob("*") if path.is_symlink()]:
        leads_to = Path(os.readlink(path))
        inside = not leads_to.is_absolute() and Path(os.path.normpath(path.parent / leads_to)).is_relative_to(root)
        steps = [step for step in leads_to.parts if step != "."]
        ups = next((index for index, step in enumerate(steps) if step != ".."), len(steps))
        if inside and ".." not in steps[ups:]:
            continue
        real = (prefix / path.relative_to(root)).resolve()
        path.unlink()
        if real.is_file():
            shutil.copy2(real, path)


_ignored = shutil.ignore_patterns(*_NOT_NEEDED)
