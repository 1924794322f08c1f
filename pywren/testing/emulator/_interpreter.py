"""Creates the Python for containers: a virtual environment with only the packages of Lambda's managed runtime.

These are the runtime client awslambdaric, boto3, botocore and their requirements, linked from the packages of the
interpreter that runs the emulator. The other packages of that interpreter (numpy, pywren itself) are not visible, as on
Lambda.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.util import cache_from_source
from pathlib import Path

from pywren import version
from pywren.system import private_names

PACKAGES = ("awslambdaric", "boto3")
"""The distributions to link, along with everything they require."""

PYTHON = f"python{version.PYTHON}"
"""The one runtime there is, by Lambda's name for it."""

_REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def make_interpreter(directory: Path) -> Path:
    """Create the virtual environment, and return the path of its ``python``.

    Args:
        directory: the directory of the environment; created if it does not exist.

    Returns:
        The path of ``bin/python3.x``, a link to the interpreter that runs this program.

    Raises:
        ImportError: awslambdaric or boto3 is not installed; the message names the extra to install.
    """
    entries = list(_entries())
    base = Path(private_names.base_executable()).resolve()
    binaries, packages = directory / "bin", site_packages(directory)
    binaries.mkdir(parents=True)
    packages.mkdir(parents=True)
    full = ".".join(map(str, sys.version_info[:3]))
    settings = f"home = {base.parent}\ninclude-system-site-packages = false\nversion = {full}\n"
    (directory / "pyvenv.cfg").write_text(settings, encoding="utf-8")
    for name in (PYTHON, "python3", "python"):
        (binaries / name).symlink_to(base)
    for entry in entries:
        _link(entry, packages)
    return binaries / PYTHON


def site_packages(directory: Path) -> Path:
    """Return the directory of the packages in a virtual environment."""
    return directory / "lib" / PYTHON / "site-packages"


def _entries() -> Iterator[Path]:
    """Yield the paths, directly below ``site-packages``, of the packages that Lambda's managed runtime has."""
    for distribution in _distributions():
        names = {file.parts[0] for file in distribution.files or () if file.parts}
        for name in sorted(names - {"..", "__pycache__"}):
            yield Path(str(distribution.locate_file(name)))


def _distributions() -> Iterator[Distribution]:
    """Yield the distributions of Lambda's managed runtime. Missing requirements apply only to other platforms."""
    seen: set[str] = set()
    wanted = list(PACKAGES)
    while wanted:
        name = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = Distribution.from_name(name)
        except PackageNotFoundError:
            if name in PACKAGES:
                raise ImportError(
                    f"{name} is not installed, but the emulator needs it: run pip install 'pywren[emulator]'"
                ) from None
            continue
        yield distribution
        wanted += [found[0] for text in distribution.requires or () if (found := _required(text))]


def _required(text: str) -> re.Match[str] | None:
    """Match the name at the start of a requirement. Return ``None`` if only an optional extra needs it."""
    return None if "extra ==" in text else _REQUIREMENT_NAME.match(text)


def _link(entry: Path, packages: Path) -> None:
    """Link a package; copy a module that is one file, with its byte code, which Python looks for next to the link."""
    if entry.suffix != ".py":
        (packages / entry.name).symlink_to(entry.resolve())
        return
    copy = packages / entry.name
    shutil.copy2(entry, copy)  # keeps the modification time, which must match the byte code
    compiled = Path(cache_from_source(str(entry)))
    if compiled.exists():  # it is next to the module, or under PYTHONPYCACHEPREFIX, which is not set in containers
        kept = packages / "__pycache__"
        kept.mkdir(exist_ok=True)
        shutil.copy2(compiled, kept / compiled.name)
