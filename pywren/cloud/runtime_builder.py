"""``Built``: a runtime, which is a tarball of packages for the worker, built on this machine.

A build fills a directory, removes what does not belong in a runtime, describes the rest and packs it.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.cloud._environment import install_nearest, installed
from pywren.cloud._importable import check_importable
from pywren.cloud._packing import (
    LAMBDAS_OWN,
    WORKERS_OWN,
    Distribution,
    SitePackages,
    check_modules,
    hiding_modules,
    reason_to_leave_out,
    sizes,
    write_tarball,
)
from pywren.cloud._prefix import copy_prefix, is_conda
from pywren.cloud._requirements import Requirements
from pywren.cloud._wheels import ARCHITECTURES, Installer, Say, Target, find_installers, install_with_any
from pywren.exceptions import DeploymentError
from pywren.storage.runtime_info import LAMBDA_PREINSTALLS
from pywren.worker.runtime_cache import disk_bytes

__all__ = ["ARCHITECTURES", "Built", "Disk", "Target", "build_from_environment", "build_from_prefix"]
__all__ += ["build_from_requirements", "check_fits"]

logger = logging.getLogger(__name__)

SMALLEST_DISK = 512
"""The megabytes of ephemeral storage that every function has ("Lambda quotas", AWS Lambda Developer Guide)."""

_BIGGEST_DISK = 10_240
_BIGGEST_SHOWN = 5
_DIGITS = 20
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Built:
    """A runtime that was packed on this machine.

    Args:
        path: its tarball.
        sha256: the tarball's SHA-256 in hexadecimal.
        meta: its description, which is stored next to the tarball.
        needed: the bytes of disk space that a worker needs to extract it.
        biggest: its largest distributions, as ``(name, bytes)``.
    """

    path: Path
    sha256: str
    meta: Mapping[str, Any]
    needed: int
    biggest: Sequence[tuple[str, int]]

    @property
    def name(self) -> str:
        """Its name in the bucket."""
        return f"python{self.meta['python_ver']}-{self.meta['arch']}-{self.sha256[:_DIGITS]}"

    def __str__(self) -> str:
        count, size = len(self.meta["pkg_ver_list"]), self.meta["size"]
        packages = "1 package" if count == 1 else f"{count} packages"
        return f"{self.name}: {packages}, {size / 1e6:,.1f} MB, packed {self.path.stat().st_size / 1e6:,.1f} MB"


# -- building ------------------------------------------------------------------------------------------------


def build_from_requirements(
    files: Sequence[Path], target: Target, directory: Path, say: Say, *, installers: Sequence[Installer] = ()
) -> Built:
    """Build a runtime from requirements files and their dependencies.

    Args:
        files: requirements files for pip; each may be a pipe, which can be read only once.
        target: the system to build for.
        directory: an empty directory to work in; the tarball stays there.
        say: shows lines to the user.
        installers: the tools to try in order; by default uv or pip.

    Raises:
        DeploymentError: the runtime cannot be built, or a requested package cannot be imported from it.
    """
    with _building(directory):
        site = _make_site(directory, target)
        requirements = Requirements(directory, say)
        for file in files:
            requirements.add(file)
        wanted = {item.name: item.place for item in requirements.named if item.is_for(target)}
        if requirements.lines:
            install_with_any(installers or find_installers(target), requirements.write(), site, say)
        return _finish(directory, site, target, say, wanted=wanted)


def build_from_environment(target: Target, directory: Path, say: Say, *, installers: Sequence[Installer] = ()) -> Built:
    """Build a runtime from this interpreter's packages, in the same versions if these versions have wheels.

    Args:
        target: the system to build for.
        directory: an empty directory to work in; the tarball stays there.
        say: shows the user one line about each package that is left out or has another version.
        installers: the tools to try in order; by default uv or pip.

    Raises:
        DeploymentError: the runtime cannot be built.
    """
    with _building(directory):
        pins = installed(say)
        site = _make_site(directory, target)
        install_nearest(pins, installers or find_installers(target), site, say)
        found = {item.name: item.version for item in SitePackages(site).distributions()}
        for pin in pins:
            if pin.name in found and found[pin.name] != pin.version:
                say(
                    f"{pin.name} {pin.version}, which is installed here, has no wheel for {target} that fits the "
                    f"other packages: using {found[pin.name]}"
                )
        return _finish(directory, site, target, say)


def build_from_prefix(prefix: Path, target: Target, directory: Path, say: Say) -> Built:
    """Build a runtime that is an unchanged copy of a virtual or conda environment.

    Args:
        prefix: the environment's directory.
        target: the system to build for.
        directory: an empty directory to work in; the tarball stays there.
        say: shows lines to the user.

    Raises:
        DeploymentError: the directory is not an environment, or the environment is for another version of Python or
            another system.
    """
    with _building(directory):
        site = copy_prefix(prefix, target, directory / "tree")
        return _finish(directory, site, target, say, own_interpreter=is_conda(prefix))


@contextmanager
def _building(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = "; set TMPDIR to a directory on a bigger disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise DeploymentError(f"cannot build a runtime in {directory}: {error}{full}") from error


def _make_site(directory: Path, target: Target) -> Path:
    site = directory / "tree" / "lib" / f"python{target.python}" / "site-packages"
    site.mkdir(parents=True)
    return site


_NONE: Mapping[str, str] = {}


def _finish(
    directory: Path,
    site: Path,
    target: Target,
    say: Say,
    *,
    wanted: Mapping[str, str] = _NONE,
    own_interpreter: bool = False,
) -> Built:
    """Remove files that do not belong in a runtime, check that the rest is as requested, then describe and pack it.

    ``wanted`` maps the names of the requested distributions to the places where they were requested.
    """
    packages = SitePackages(site)
    left_out: set[str] = set()
    for item in packages.distributions():
        reason = reason_to_leave_out(item, LAMBDAS_OWN if own_interpreter else wanted)
        if reason is not None:
            say(f"{item.name} {item.version} is left out: {reason}")
            packages.remove(item)
            left_out.add(item.name)
        elif hiding := hiding_modules(item, target.python):
            _remove_hiding(packages, item, hiding, say)
            left_out.update({item.name} if set(hiding) == set(item.modules) else ())
    packages.tidy()
    kept = packages.distributions()
    for item in kept:
        check_modules(item)
    there = {item.name for item in kept}
    for name in wanted.keys() - there - left_out:
        raise DeploymentError(
            f"{wanted[name]} requires {name}, which was not installed for {target}. If pip evaluated an environment "
            "marker for this machine, install uv, which evaluates markers for the function. Nothing was uploaded"
        )
    check_importable([item for item in kept if item.name in wanted], site, target, say, wanted)
    if not kept and not own_interpreter:
        raise DeploymentError("no package is left for the runtime; workers need no runtime to run plain Python")
    tree = directory / "tree"
    tarball = directory / "runtime.tar.gz"
    with tarball.open("wb") as file:
        write_tarball(tree, file)
    return _describe(tree, site, tarball, target, kept, own_interpreter)


def _remove_hiding(packages: SitePackages, item: Distribution, hiding: Sequence[str], say: Say) -> None:
    """Remove modules that would hide standard library modules; remove the whole distribution if it has no others."""
    reason = f"its module {hiding[0]} would hide the standard library's"
    if set(hiding) == set(item.modules):
        say(f"{item.name} {item.version} is left out: {reason}")
        packages.remove(item)
    else:
        say(f"{', '.join(hiding)} from {item.name} {item.version} is left out: {reason}")
        packages.remove_modules(item, hiding)


def _describe(
    tree: Path, site: Path, tarball: Path, target: Target, kept: Sequence[Distribution], own_interpreter: bool
) -> Built:
    by_file = sizes(tree)
    place = site.relative_to(tree).as_posix()
    biggest = sorted(
        ((item.name, sum(by_file.get(f"{place}/{file}", 0) for file in item.files)) for item in kept),
        key=lambda entry: -entry[1],
    )
    modules: dict[str, bool] = {} if own_interpreter else dict.fromkeys(LAMBDA_PREINSTALLS, True)
    modules.update(dict.fromkeys(WORKERS_OWN, True))
    for item in kept:
        modules.update(item.preinstalls)
    meta = {
        "python_ver": target.python,
        "arch": target.arch,
        "preinstalls": [[name, is_package] for name, is_package in sorted(modules.items())],
        "pkg_ver_list": [[item.name, item.version] for item in kept],
        "size": sum(by_file.values()),
    }
    archive_size = tarball.stat().st_size
    needed = disk_bytes([archive_size, *by_file.values()])
    with tarball.open("rb") as file:
        digest = _sha256(iter(lambda: file.read(_MIB), b""))
    return Built(
        tarball, digest, {**meta, "sha256": digest, "archive_size": archive_size}, needed, biggest[:_BIGGEST_SHOWN]
    )


def _sha256(pieces: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


# -- whether it fits ----------------------------------------------------------------------------------------


class Disk(NamedTuple):
    """The disk of a worker.

    Args:
        megabytes: its ephemeral storage, in Lambda's megabytes.
        told: the words before "… megabytes" in messages, such as ``the function NAME has``.
        to_come: the megabytes that the next deployment gives the function; 0 if ``megabytes`` is already the configured
            size.
    """

    megabytes: int
    told: str
    to_come: int

    @classmethod
    def configured(cls, config: Mapping[str, Any]) -> Disk:
        """Return the disk that the configuration sets, or else the smallest disk, which is Lambda's default."""
        megabytes = int(wrenconfig.setting(config, "lambda.ephemeral_storage"))
        return cls(megabytes, "the configuration says" if config else "by default a function has", 0)

    @classmethod
    def of_function(cls, config: Mapping[str, Any], aws: AWS) -> Disk:
        """Return the disk of the deployed function, or the configured disk if the function cannot be read."""
        configured, name = cls.configured(config), wrenconfig.setting(config, "lambda.function_name")
        try:
            existing = aws.function_config(name)
        except DeploymentError as error:
            logger.info("cannot find out the size of the function's disk: %s", error)
            return configured
        if existing is None:
            return configured
        megabytes = int((existing.get("EphemeralStorage") or {}).get("Size", SMALLEST_DISK))
        return cls(megabytes, f"the function {name} has", configured.megabytes)


def check_fits(built: Built, ask: Callable[[], Disk]) -> None:
    """Check that the function has enough disk to extract a runtime.

    Args:
        built: the runtime.
        ask: returns the function's disk; not called for a runtime that fits every function.

    Raises:
        DeploymentError: the disk is too small; the message states both sizes, the largest packages and what to do.
    """
    megabytes = -(-built.needed // _MIB)
    if megabytes <= SMALLEST_DISK or megabytes <= (disk := ask()).megabytes:
        return
    biggest = ", ".join(f"{name} {size / _MIB:,.0f} MB" for name, size in built.biggest)
    if megabytes <= disk.to_come:
        remedy = f"run `pywren deploy_lambda`, which raises it to the configuration's {disk.to_come:,} MB"
    elif megabytes <= _BIGGEST_DISK:
        remedy = f"set `lambda: ephemeral_storage` to {megabytes} in the configuration and run `pywren deploy_lambda`"
    else:
        remedy = f"Lambda's limit is {_BIGGEST_DISK:,} MB"
    raise DeploymentError(
        f"the runtime and its archive need {megabytes:,} MB on the worker's disk, but {disk.told} "
        f"{disk.megabytes:,} MB of ephemeral storage: {remedy}, or name fewer packages with -r. "
        f"The biggest packages: {biggest}. Nothing was uploaded"
    )
