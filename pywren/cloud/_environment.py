"""Finds the packages in this program's environment (``Pin``), and the nearest versions that a function can use."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pywren.cloud._packing import INSTALLERS, LAMBDAS_OWN, WORKERS_OWN
from pywren.cloud._wheels import Installer, Say, install_with_any
from pywren.exceptions import DeploymentError
from pywren.serialize._distributions import normalized

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pin:
    """One version of a distribution.

    Args:
        name: its normalized name.
        version: its version.
    """

    name: str
    version: str

    @property
    def requirement(self) -> str:
        """The requirement for exactly this version."""
        return f"{self.name}=={self.version}"

    @property
    def requirement_below(self) -> str:
        """The requirement for this version or a lower one."""
        return f"{self.name}<={self.public_version}"

    @property
    def public_version(self) -> str:
        """The version without its local part, such as ``+cpu``, which PEP 440 forbids in ranges."""
        return self.version.partition("+")[0]


def installed(say: Say, distributions: Iterable[Distribution] | None = None) -> list[Pin]:
    """Return the installed packages that an index provides.

    Packages installed from a directory or a repository are left out: their modules are sent with each map.

    Args:
        say: shows the user one line about each package that is left out.
        distributions: the installed distributions; by default those of this interpreter.

    Raises:
        DeploymentError: there are no such packages.
    """
    if distributions is None:
        from importlib import metadata

        distributions = metadata.distributions()
    pins: dict[str, Pin] = {}
    for distribution in distributions:
        name = normalized(str(distribution.metadata["Name"] or ""))
        if not name or name in pins or name in WORKERS_OWN | LAMBDAS_OWN | INSTALLERS:
            continue  # if two packages on the path have the same name, Python imports the first
        origin = _origin(distribution)
        if origin is None:
            pins[name] = Pin(name, distribution.version)
        else:
            say(
                f"{name} {distribution.version} is left out: it was installed from {origin}; its pure Python modules "
                "are sent with each map"
            )
    if not pins:
        raise DeploymentError("no package that is installed here can go into a runtime; name packages with -r")
    return sorted(pins.values(), key=lambda pin: pin.name)


def _origin(distribution: Distribution) -> str | None:
    """Return the URL that a distribution was installed from; ``None`` for an index, a wheel or a conda build."""
    try:
        document: Any = json.loads(distribution.read_text("direct_url.json") or "null")
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    url = str(document.get("url", "elsewhere"))
    if url.endswith(".whl") or (_CONDA.search(url) and not os.path.exists(unquote(urlsplit(url).path))):
        return None
    return re.sub(r"//[^/@]*@", "//", url)  # removes a password from the URL


_CONDA = re.compile(r"^file://.*/(croot|feedstock_root|conda-bld)/")  # the directories in which conda builds packages


def install_nearest(pins: Sequence[Pin], installers: Sequence[Installer], directory: Path, say: Say) -> None:
    """Install these versions of packages, or the nearest versions that have wheels for the target.

    Args:
        pins: the wanted versions.
        installers: the tools; each finds at least the wheels that the previous ones find.
        directory: an empty directory.
        say: shows the user one line about each package that has no wheel at all.

    Raises:
        DeploymentError: the packages conflict with each other.
    """
    if _install_exactly(pins, installers, directory, say):
        return
    missing = list(pins)
    for installer in installers:
        missing = _unobtainable(missing, installer, directory)
    wanted = [pin for pin in pins if pin not in missing]
    for pin in missing:
        nearest = _nearest(pin, installers, directory)
        if nearest is None:
            say(f"{pin.name} {pin.version} is left out: no version of it has a wheel for {installers[0].target}")
        else:
            wanted.append(nearest)
    if not missing or not _install_exactly(wanted, installers, directory, say):
        # a package that requires one of the replaced packages may itself have to be of a lower version
        install_with_any(installers, [pin.requirement_below for pin in wanted], directory, say)


def _install_exactly(pins: Sequence[Pin], installers: Sequence[Installer], directory: Path, say: Say) -> bool:
    try:
        install_with_any(installers, [pin.requirement for pin in pins], directory, say)
    except DeploymentError as error:
        logger.debug("these exact versions cannot be installed: %s", error)
        return False
    return True


def _unobtainable(pins: list[Pin], installer: Installer, directory: Path) -> list[Pin]:
    """Return the pins that have no wheel. Queries are slow, so query all pins together first, then each half."""
    if not pins or installer.obtainable([pin.requirement for pin in pins], directory):
        return []
    if len(pins) == 1:
        return pins
    middle = len(pins) // 2
    return [*_unobtainable(pins[:middle], installer, directory), *_unobtainable(pins[middle:], installer, directory)]


def _nearest(pin: Pin, installers: Sequence[Installer], directory: Path) -> Pin | None:
    """Return the highest lower version that has a wheel, or else the lowest higher version that has one."""
    for installer in reversed(installers):
        if version := installer.choose(pin.requirement_below, directory):
            return Pin(pin.name, version)
    for installer in installers:
        if version := installer.choose(f"{pin.name}>{pin.public_version}", directory, lowest=True):
            return Pin(pin.name, version)
    return None
