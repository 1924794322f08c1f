"""Runtimes: tarballs of packages for the worker: made from wheels, kept in the bucket by their content.

A build fills a directory, describes it and packs it; a store uploads it and knows what is there. The order of what
is written makes every interruption harmless: the tarball, then its description, then the configuration that names it.
"""

from __future__ import annotations

import errno
import hashlib
import json
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
from pywren.exceptions import ArgumentError, DeploymentError, IntegrityError
from pywren.storage.backend import Backend
from pywren.storage.runtime_info import LAMBDA_PREINSTALLS, META_LIMIT, meta_key
from pywren.worker.runtime_cache import disk_bytes

__all__ = ["ARCHITECTURES", "Built", "RuntimeStore", "Stored", "Target", "build_from_environment", "build_from_prefix"]
__all__ += ["Disk", "build_from_requirements", "check_fits"]

logger = logging.getLogger(__name__)

FOLDER = "runtimes"
"""Where runtimes are below the configuration's prefix: the function's role may read there."""

SMALLEST_DISK = 512
"""Megabytes of ephemeral storage that every function has."""

_BIGGEST_DISK = 10_240
_BIGGEST_SHOWN = 5
_DIGITS = 20
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Built:
    """A runtime that was packed on this machine.

    Args:
        path: its tarball.
        sha256: the tarball's digest.
        meta: its description, as it stands beside the tarball.
        needed: bytes of disk that a worker needs to extract it.
        biggest: the distributions that take most of it, as ``(name, bytes)``.
    """

    path: Path
    sha256: str
    meta: Mapping[str, Any]
    needed: int
    biggest: Sequence[tuple[str, int]]

    @property
    def name(self) -> str:
        """What it is called in the bucket."""
        return f"python{self.meta['python_ver']}-{self.meta['arch']}-{self.sha256[:_DIGITS]}"

    def __str__(self) -> str:
        count, size = len(self.meta["pkg_ver_list"]), self.meta["size"]
        packages = "1 package" if count == 1 else f"{count} packages"
        return f"{self.name}: {packages}, {size / 1e6:,.1f} MB, packed {self.path.stat().st_size / 1e6:,.1f} MB"


# -- building ------------------------------------------------------------------------------------------------


def build_from_requirements(
    files: Sequence[Path], target: Target, directory: Path, say: Say, *, installers: Sequence[Installer] = ()
) -> Built:
    """Make a runtime of what files of requirements name, and what that requires.

    Args:
        files: requirements as pip reads them: files, or pipes that can be read once.
        target: where it is to be used.
        directory: an empty directory to work in; the tarball is left there.
        say: takes lines for the user.
        installers: resolve and install, the first of them that can; uv or pip when not given.

    Raises:
        DeploymentError: it cannot be made, or what is asked for cannot be imported from it; says why and what to do.
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
    """Make a runtime of what is installed for this interpreter, in the same versions where they have wheels.

    Args:
        target: where it is to be used.
        directory: an empty directory to work in; the tarball is left there.
        say: takes lines for the user: what is left out, and what is there in another version.
        installers: resolve and install, the first of them that can; uv or pip when not given.

    Raises:
        DeploymentError: it cannot be made; says why and what to do.
    """
    with _building(directory):
        pins = installed(say)
        site = _make_site(directory, target)
        install_nearest(pins, installers or find_installers(target), site, say)
        found = {item.name: item.version for item in SitePackages(site).distributions()}
        for pin in pins:
            if pin.name in found and found[pin.name] != pin.version:
                say(
                    f"{pin.name} {pin.version}, which is installed here, has no wheel for {target} that goes with the "
                    f"others: {found[pin.name]} is taken"
                )
        return _finish(directory, site, target, say)


def build_from_prefix(prefix: Path, target: Target, directory: Path, say: Say) -> Built:
    """Make a runtime of a virtual or conda environment as it stands.

    Args:
        prefix: the environment's directory.
        target: where it is to be used.
        directory: an empty directory to work in; the tarball is left there.
        say: takes lines for the user.

    Raises:
        DeploymentError: it is none, or for another Python or system.
    """
    with _building(directory):
        site = copy_prefix(prefix, target, directory / "tree")
        return _finish(directory, site, target, say, own_interpreter=is_conda(prefix))


@contextmanager
def _building(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = "; name a bigger disk in TMPDIR" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise DeploymentError(f"cannot make a runtime in {directory}: {error}{full}") from error


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
    """Take out what does not belong there, check that the rest is what was asked for, describe and pack it.

    ``wanted`` are the names of distributions that were asked for, each with the place that names it.
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
            _take_out_hiding(packages, item, hiding, say)
            left_out.update({item.name} if set(hiding) == set(item.modules) else ())
    packages.tidy()
    kept = packages.distributions()
    for item in kept:
        check_modules(item)
    there = {item.name for item in kept}
    for name in wanted.keys() - there - left_out:
        raise DeploymentError(
            f"{wanted[name]} asks for {name}, which is not among what was installed for {target}; where pip judged its "
            "marker by this machine, install uv, which judges by the function's. Nothing was uploaded"
        )
    check_importable([item for item in kept if item.name in wanted], site, target, say, wanted)
    if not kept and not own_interpreter:
        raise DeploymentError("there is no package to put into the runtime; workers need none to run plain Python")
    tree = directory / "tree"
    tarball = directory / "runtime.tar.gz"
    with tarball.open("wb") as file:
        write_tarball(tree, file)
    return _describe(tree, site, tarball, target, kept, own_interpreter)


def _take_out_hiding(packages: SitePackages, item: Distribution, hiding: Sequence[str], say: Say) -> None:
    """Take modules out that come before those of the standard library, and the distribution if it has no others."""
    reason = f"its {hiding[0]} would hide the standard library's"
    if set(hiding) == set(item.modules):
        say(f"{item.name} {item.version} is left out: {reason}")
        packages.remove(item)
    else:
        say(f"{', '.join(hiding)} of {item.name} {item.version} is left out: {reason}")
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


class Disk(NamedTuple):
    """The disk that a worker has for a runtime.

    Args:
        megabytes: of its ephemeral storage, as Lambda counts them.
        told: who has them, or says so.
        to_come: what the next deployment gives it.
    """

    megabytes: int
    told: str
    to_come: int

    @classmethod
    def configured(cls, config: Mapping[str, Any]) -> Disk:
        """Return what the configuration says; it may be empty."""
        megabytes = int(wrenconfig.setting(config, "lambda.ephemeral_storage"))
        return cls(megabytes, "the configuration says" if config else "without a configuration a function has", 0)

    @classmethod
    def of_function(cls, config: Mapping[str, Any], aws: AWS) -> Disk:
        """Return what the function has: as it was deployed, if it was and may be looked at."""
        configured, name = cls.configured(config), wrenconfig.setting(config, "lambda.function_name")
        try:
            existing = aws.function_config(name)
        except DeploymentError as error:
            logger.info("the disk of the function is not known: %s", error)
            return configured
        if existing is None:
            return configured
        megabytes = int((existing.get("EphemeralStorage") or {}).get("Size", SMALLEST_DISK))
        return cls(megabytes, f"the function {name} has", configured.megabytes)


def check_fits(built: Built, ask: Callable[[], Disk]) -> None:
    """Check that the function has the disk to extract a runtime.

    Args:
        built: the runtime.
        ask: tells the function's disk; not asked of a runtime that fits every function.

    Raises:
        DeploymentError: it has not; names both figures, what is big, and the remedy.
    """
    megabytes = -(-built.needed // _MIB)
    if megabytes <= SMALLEST_DISK or megabytes <= (disk := ask()).megabytes:
        return
    biggest = ", ".join(f"{name} {size / _MIB:,.0f} MB" for name, size in built.biggest)
    if megabytes <= disk.to_come:
        remedy = f"run `pywren deploy_lambda`, which gives it the {disk.to_come:,} MB of the configuration"
    elif megabytes <= _BIGGEST_DISK:
        remedy = f"write lambda: ephemeral_storage: {megabytes} in the configuration and run `pywren deploy_lambda`"
    else:
        remedy = f"Lambda has no more than {_BIGGEST_DISK:,} MB: name fewer packages"
    raise DeploymentError(
        f"the runtime needs {megabytes:,} MB on the worker's disk, with its archive, but {disk.told} "
        f"{disk.megabytes:,} MB of ephemeral storage: {remedy}, or name fewer packages with -r. "
        f"The biggest: {biggest}. Nothing was uploaded"
    )


# -- the bucket ----------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """A runtime in the bucket.

    Args:
        name: what it is called.
        key: its tarball's key.
        meta: its description; empty when its upload was interrupted.
    """

    name: str
    key: str
    meta: Mapping[str, Any]


class RuntimeStore:
    """The runtimes in a bucket.

    Args:
        bucket: the bucket.
        prefix: pywren's key prefix in it.
        region: its region; ``None`` takes that of the profile or environment.
        backend: reads and writes it; S3 when not given.
    """

    def __init__(self, bucket: str, prefix: str, region: str | None = None, *, backend: Backend | None = None) -> None:
        from pywren.storage.s3_backend import S3Backend

        self.bucket = bucket
        self.folder = f"{prefix.strip('/')}/{FOLDER}/".lstrip("/")
        self._backend: Backend = backend or S3Backend(bucket, region)

    def close(self) -> None:
        """Give up connections."""
        self._backend.close()

    def section(self, built: Built) -> dict[str, str | None]:
        """Return what the configuration's ``runtime`` section says of a runtime."""
        return {"s3_bucket": self.bucket, "s3_key": self._key(built.name), "sha256": built.sha256}

    def upload(self, built: Built) -> bool:
        """Store a runtime unless it is there; returns whether its tarball was sent.

        Raises:
            StorageError: the bucket cannot be written.
        """
        key, there = self._key(built.name), self._there(built)
        if key not in there:
            self._backend.put(key, built.path.read_bytes())
        if meta_key(key) not in there:
            self._backend.put(meta_key(key), json.dumps(built.meta, indent=1).encode())
        return key not in there

    def holds(self, built: Built) -> bool:
        """Tell whether a runtime is there, whole.

        Raises:
            StorageError: the bucket cannot be read.
        """
        key = self._key(built.name)
        return {key, meta_key(key)} <= self._there(built)

    def _there(self, built: Built) -> set[str]:
        return set(self._backend.list(f"{self.folder}{built.name}"))

    def list(self) -> list[Stored]:
        """Return the runtimes that are there, by name.

        Raises:
            StorageError: the bucket cannot be read.
        """
        keys = self._backend.list(self.folder)
        names = {key.removesuffix(_SUFFIX).removesuffix(_META_SUFFIX)[len(self.folder) :] for key in keys}
        return [self._stored(name, keys) for name in sorted(names) if "/" not in name]

    def find(self, name: str) -> Stored:
        """Return one by its name, or the beginning of it, or its key or URL.

        Raises:
            ArgumentError: there is none, or more than one.
        """
        wanted = name.removeprefix(f"s3://{self.bucket}/").removeprefix(self.folder).removesuffix(_SUFFIX)
        there = self.list()
        found = [item for item in there if item.name == wanted] or [
            item for item in there if wanted and item.name.startswith(wanted)
        ]
        if len(found) == 1:
            return found[0]
        names = ", ".join(item.name for item in (found or there)) or "none"
        what = "more than one runtime is called like" if found else "there is no runtime"
        raise ArgumentError(f"{what} {name!r} in s3://{self.bucket}/{self.folder}; there are: {names}")

    def delete(self, stored: Stored) -> None:
        """Delete a runtime.

        Raises:
            StorageError: the bucket cannot be written.
        """
        self._backend.delete([meta_key(stored.key), stored.key])

    def _key(self, name: str) -> str:
        return f"{self.folder}{name}{_SUFFIX}"

    def _stored(self, name: str, keys: Sequence[str]) -> Stored:
        key = self._key(name)
        meta: Any = {}
        if meta_key(key) in keys and key in keys:
            try:
                meta = json.loads(self._backend.get(meta_key(key), limit=META_LIMIT))
            except (ValueError, IntegrityError) as error:
                logger.debug("%s is no description of a runtime: %s", meta_key(key), error)
        return Stored(name, key, meta if isinstance(meta, dict) else {})


_SUFFIX, _META_SUFFIX = ".tar.gz", ".meta.json"
