"""Builds a layer of installed distributions: a zip with ``python/…``, from which the function can import."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError
from typing import NamedTuple

from pywren.exceptions import ArgumentError

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)([^;]*)(;.*)?")


class Layer(NamedTuple):
    """A layer to publish.

    Args:
        archive: the zip.
        modules: the top-level modules in the layer.
    """

    archive: bytes
    modules: tuple[str, ...]


def layer_of(packages: Iterable[str]) -> Layer:
    """Build a layer of distributions that are installed here, and of all their requirements.

    Args:
        packages: the names of distributions, such as ``numpy``.

    Raises:
        ArgumentError: a distribution is not installed.
    """
    modules: set[str] = set()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # the zip never leaves this machine
        for distribution in _with_requirements(packages):
            for file in distribution.files or ():
                if ".." in file.parts or "__pycache__" in file.parts:
                    continue  # leaves out programs and byte code
                archive.write(str(file.locate()), f"python/{file.as_posix()}")
                modules.update(_module(file.parts))
    return Layer(buffer.getvalue(), tuple(sorted(modules)))


def _module(parts: tuple[str, ...]) -> Iterator[str]:
    name = parts[0].partition(".")[0]
    if name.isidentifier() and (len(parts) > 1) == (name == parts[0]) and parts[-1].endswith((".py", ".so", ".pyd")):
        yield name


def _with_requirements(packages: Iterable[str]) -> list[Distribution]:
    """Return distributions and their requirements; requirements that are not installed are for other platforms."""
    found: dict[str, Distribution] = {}
    wanted = [(name, True) for name in packages]
    while wanted:
        name, asked = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = Distribution.from_name(name)
        except (PackageNotFoundError, ValueError) as error:
            if asked:
                raise ArgumentError(f"{name!r} is not installed here, so it cannot go into a layer") from error
            continue
        wanted += [(required, False) for required in _required(found[key])]
    return list(found.values())


def _required(distribution: Distribution) -> Iterator[str]:
    for requirement in distribution.requires or ():
        match = _REQUIREMENT.match(requirement)
        if match and "extra" not in (match[3] or ""):
            yield match[1]
