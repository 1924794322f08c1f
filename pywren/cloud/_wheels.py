"""``Installer``: uv or pip, made to collect the wheels that suit a function instead of this machine."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pywren.exceptions import DeploymentError

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
"""Takes one line for the user."""

ARCHITECTURES: Mapping[str, str] = {"x86_64": "x86_64", "arm64": "aarch64"}
"""Lambda's names of the architectures, and those of wheels."""

_AMAZON_LINUX_2, _AMAZON_LINUX_2023 = 26, 34  # minor versions of their glibc
_OLDEST_GLIBC = 17
_LEGACY_PLATFORMS = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}


@dataclass(frozen=True)
class Target:
    """Where a runtime is to be used.

    Args:
        python: Python's version, such as ``"3.12"``.
        arch: Lambda's name of the architecture, ``x86_64`` or ``arm64``.
    """

    python: str
    arch: str = "x86_64"

    def __str__(self) -> str:
        return f"Python {self.python} on {self.arch} (glibc 2.{self.glibc})"

    @property
    def machine(self) -> str:
        """The name of the architecture in the tags of wheels."""
        return ARCHITECTURES[self.arch]

    @property
    def glibc(self) -> int:
        """The minor version of the function's C library: Lambda changed its Linux with Python 3.12."""
        return _AMAZON_LINUX_2023 if int(self.python.partition(".")[2]) >= 12 else _AMAZON_LINUX_2

    @property
    def platforms(self) -> list[str]:
        """The platform tags of the wheels that run there, the best first."""
        numbered = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, _OLDEST_GLIBC - 1, -1)]
        return [*numbered, *(f"{name}_{self.machine}" for name in _LEGACY_PLATFORMS[self.machine])]

    @property
    def is_here(self) -> bool:
        """Whether this program runs on the same Python, system and architecture, which pip takes markers from."""
        here = f"{sys.version_info.major}.{sys.version_info.minor}", sys.platform, platform.machine()
        return here == (self.python, "linux", self.machine)


class Installer:
    """Resolves requirements to wheels for a target, and installs them into a directory.

    Args:
        target: where the wheels are to run.
        tool: ``uv`` or ``pip``.
        command: how the tool is started.
    """

    def __init__(self, target: Target, tool: str, command: Sequence[str]) -> None:
        self.target = target
        self.tool = tool
        self._command = tuple(command)

    def install(self, arguments: Sequence[str], directory: Path) -> None:
        """Install requirements, and what they require, into an empty directory.

        Args:
            arguments: requirements, and ``-r`` with files of them.
            directory: the directory.

        Raises:
            DeploymentError: they cannot be had as wheels, or exclude each other; with the tool's own words.
        """
        done = self._run([*self._options(directory), *arguments])
        if done.returncode:
            # pip says on stdout which requirements exclude each other, among what it does otherwise
            conflict = _CONFLICT.search(done.stdout)
            raise self._refusal((conflict[0] if conflict else "") + done.stderr)

    def obtainable(self, requirements: Sequence[str], directory: Path) -> bool:
        """Tell whether each of some requirements can be had as a wheel, whatever it requires itself.

        Raises:
            DeploymentError: the tool does not know: it cannot reach the index, or fails otherwise.
        """
        done = self._run([*self._options(directory), "--dry-run", "--no-deps", *requirements])
        if done.returncode and (_says(_UNREACHABLE, done.stderr) or not _says(_UNOBTAINABLE, done.stderr)):
            raise self._refusal(done.stderr)
        return done.returncode == 0

    def choose(self, requirement: str, directory: Path, *, lowest: bool = False) -> str | None:
        """Return the version that a requirement leads to, ``None`` when none has a wheel.

        Args:
            requirement: of one distribution.
            directory: a directory to write nothing into.
            lowest: take the lowest version instead of the highest. pip cannot.
        """
        options = [*self._options(directory), "--dry-run", "--no-deps"]
        if self.tool == "pip":
            done = self._run([*options, "--quiet", "--report", "-", requirement])
            found = json.loads(done.stdout)["install"] if done.returncode == 0 else []
            return str(found[0]["metadata"]["version"]) if found else None
        done = self._run([*options, *(["--resolution", "lowest"] if lowest else []), requirement])
        chosen = re.search(r"^ \+ [^=\s]+==(\S+)", done.stderr, re.MULTILINE) if done.returncode == 0 else None
        return chosen[1] if chosen else None

    def _options(self, directory: Path) -> list[str]:
        common = ["install", "--target", str(directory), "--only-binary", ":all:"]
        if self.tool == "pip":
            platforms = [option for name in self.target.platforms for option in ("--platform", name)]
            where = ["--implementation", "cp", "--python-version", self.target.python, *platforms]
            return [*common, *where]
        # a hard link would lead into uv's cache, and what is written through it would stay there
        where = ["--python", sys.executable, "--python-version", self.target.python, "--link-mode", "copy"]
        return [*common, *where, "--python-platform", _uv_platform(self.target)]

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "NO_COLOR": "1", "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
        environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        return subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )

    def _refusal(self, output: str) -> DeploymentError:
        lines = [line.strip() for line in output.splitlines() if line.strip() and not _CHATTER.match(line)]
        said = "; ".join(lines[-_LINES_SHOWN:])[-_TEXT_SHOWN:]
        return DeploymentError(
            f"cannot make a runtime for {self.target}; {self.tool} says: {said}. {self._remedy(output)}"
        )

    def _remedy(self, output: str) -> str:
        if _says(_UNREACHABLE, output):
            return "Check the network, or name another index in UV_DEFAULT_INDEX (for pip PIP_INDEX_URL)"
        if _says(_NO_WHEEL, output):
            return (
                "Only wheels are taken, as nothing can be compiled for the function here: choose a version that has "
                f"one for {self.target.platforms[0]} or an older system; of a package that is pure Python make one "
                "with `pip wheel NAME`, and add `--find-links DIRECTORY` to the requirements"
            )
        return "Correct the requirements; nothing was uploaded"


_LINES_SHOWN, _TEXT_SHOWN = 8, 3000
_CHATTER = re.compile(r"\s*(WARNING|Looking in|Using (CPython|Python)|\[notice\])")
_CONFLICT = re.compile(r"The conflict is caused by:(\n {4}.*)+\n?")
_UNREACHABLE = re.compile(
    r"error sending request|dns error|Failed to (fetch|download)|NewConnectionError|Max retries exceeded|"
    r"name resolution|[Nn]etwork is unreachable|network was disabled|Connection (refused|broken|reset)|"
    r"connection error|[Rr]ead timed out"
)
_NO_WHEEL = re.compile(
    r"no usable wheels|no wheels|building from source is disabled|No matching distribution|not a supported wheel|"
    r"is not compatible|requires a different Python"
)


_UNOBTAINABLE = re.compile(r"No solution found|No matching distribution|requires a different Python")


def _says(pattern: re.Pattern[str], output: str) -> bool:
    """Tell whether a tool's output has these words, wherever the tool has wrapped its lines."""
    return pattern.search(" ".join(output.split())) is not None


def find_installers(target: Target) -> list[Installer]:
    """Return the tools that are here: the one to use first, then one that knows more wheels.

    Raises:
        DeploymentError: there is none.
    """
    uv, pip = _find_uv(), _find_pip()
    found = [Installer(target, "uv", uv)] if uv else []
    # uv knows of manylinux2014 and then 2_28; what lies between, Amazon Linux 2 runs and only pip can be told
    if pip and (not uv or target.glibc == _AMAZON_LINUX_2):
        found.append(Installer(target, "pip", pip))
    if not found:
        raise DeploymentError(
            "a runtime is made with uv or pip, and neither is here: install one, such as with `python -m ensurepip`"
        )
    return found


def install_with_any(installers: Sequence[Installer], arguments: Sequence[str], directory: Path, say: Say) -> None:
    """Install requirements, and what they require, with the first tool that can.

    Args:
        installers: the tools.
        arguments: requirements, and ``-r`` with files of them.
        directory: an empty directory.
        say: is told when what was installed may not be all that the target needs.

    Raises:
        DeploymentError: none of them can; with the words of the last.
    """
    first, *others = installers
    try:
        first.install(arguments, directory)
    except DeploymentError as error:
        if not others:
            raise
        logger.info("%s cannot install them, %s is tried: %s", first.tool, others[0].tool, error)
        install_with_any(others, arguments, directory, say)
        return
    if first.tool == "pip" and not first.target.is_here:
        say(
            f"pip collected these packages, and decides by this machine, not for {first.target}, what is required on "
            "some systems and Pythons only: see whether one is missing. uv, where it is installed and finds all, "
            "knows better"
        )


def _uv_platform(target: Target) -> str:
    exact = f"_2_{_AMAZON_LINUX_2023}" if target.glibc == _AMAZON_LINUX_2023 else "2014"
    return f"{target.machine}-manylinux{exact}"


def _find_uv() -> list[str] | None:
    path = shutil.which("uv")
    candidates = [[path, "pip"]] if path else []
    if importlib.util.find_spec("uv") is not None:
        candidates.append([sys.executable, "-m", "uv", "pip"])
    # a version manager's stand-in may be there without the tool
    return next((command for command in candidates if _starts([*command, "list", "--help"])), None)


def _find_pip() -> list[str] | None:
    return [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") is not None else None


def _starts(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False
