"""``Installer``: runs uv or pip to collect wheels for a function's system instead of this machine's."""

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
from pywren.version import PYTHON

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
"""A function that shows one line to the user."""

ARCHITECTURES: Mapping[str, str] = {"x86_64": "x86_64", "arm64": "aarch64"}
"""The names of the architectures on Lambda, and in the tags of wheels."""

_AMAZON_LINUX_2, _AMAZON_LINUX_2023 = 26, 34  # the minor versions of glibc 2 on these systems
_OLDEST_GLIBC = 17
_LEGACY_PLATFORMS = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}


@dataclass(frozen=True)
class Target:
    """The system that a runtime is built for.

    Args:
        python: the version of Python, such as ``"3.12"``.
        arch: Lambda's name for the architecture, ``x86_64`` or ``arm64``.
    """

    python: str
    arch: str = "x86_64"

    def __str__(self) -> str:
        return f"Python {self.python} on {self.arch} (glibc 2.{self.glibc})"

    @property
    def machine(self) -> str:
        """The name of the architecture in wheel tags."""
        return ARCHITECTURES[self.arch]

    @property
    def glibc(self) -> int:
        """The minor version of the function's glibc; from Python 3.12 on, Lambda runs on Amazon Linux 2023."""
        return _AMAZON_LINUX_2023 if int(self.python.partition(".")[2]) >= 12 else _AMAZON_LINUX_2

    @property
    def platforms(self) -> list[str]:
        """The platform tags of the wheels that run on the target, the best first."""
        numbered = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, _OLDEST_GLIBC - 1, -1)]
        return [*numbered, *(f"{name}_{self.machine}" for name in _LEGACY_PLATFORMS[self.machine])]

    @property
    def is_here(self) -> bool:
        """Whether this program has the target's Python and system, so that pip's environment markers hold for both."""
        here = PYTHON, sys.platform, platform.machine()
        return here == (self.python, "linux", self.machine)


class Installer:
    """Resolves requirements to wheels for a target, and installs them into a directory.

    Args:
        target: where the wheels will run.
        tool: ``uv`` or ``pip``.
        command: the command line that starts the tool.
    """

    def __init__(self, target: Target, tool: str, command: Sequence[str]) -> None:
        self.target = target
        self.tool = tool
        self._command = tuple(command)

    def install(self, arguments: Sequence[str], directory: Path) -> None:
        """Install requirements and their dependencies into an empty directory.

        Args:
            arguments: requirements, and ``-r`` with requirements files.
            directory: the directory.

        Raises:
            DeploymentError: some requirements have no wheel or conflict with each other; the message quotes the tool.
        """
        done = self._run([*self._options(directory), *arguments])
        if done.returncode:
            # pip prints conflicting requirements on stdout, among its progress messages
            conflict = _CONFLICT.search(done.stdout)
            raise self._refusal((conflict[0] if conflict else "") + done.stderr)

    def obtainable(self, requirements: Sequence[str], directory: Path) -> bool:
        """Tell whether every requirement has a wheel; whether the requirements' dependencies have one does not matter.

        Raises:
            DeploymentError: the tool cannot tell, because it cannot reach the index or fails for another reason.
        """
        done = self._run([*self._options(directory), "--dry-run", "--no-deps", *requirements])
        if done.returncode and (_says(_UNREACHABLE, done.stderr) or not _says(_UNOBTAINABLE, done.stderr)):
            raise self._refusal(done.stderr)
        return done.returncode == 0

    def choose(self, requirement: str, directory: Path, *, lowest: bool = False) -> str | None:
        """Return the version that the tool chooses for a requirement; ``None`` when no version has a wheel.

        Args:
            requirement: a requirement for one distribution.
            directory: any directory; nothing is written.
            lowest: choose the lowest version instead of the highest; pip ignores this.
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
        # a hard link would share the file with uv's cache, and changing it would damage the cache
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
            f"cannot build a runtime for {self.target}; {self.tool} says: {said}. {self._remedy(output)}"
        )

    def _remedy(self, output: str) -> str:
        if _says(_UNREACHABLE, output):
            return "Check the network, or set UV_DEFAULT_INDEX (for pip: PIP_INDEX_URL) to another index"
        if _says(_NO_WHEEL, output):
            return (
                "Only wheels can be used, because nothing can be compiled for the function here: choose a version that "
                f"has a wheel for {self.target.platforms[0]} or an older system. For a pure Python package, build a "
                "wheel with `pip wheel NAME`, and add `--find-links DIRECTORY` to the requirements"
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
    """Tell whether a tool's output matches a pattern, no matter where the tool wraps lines."""
    return pattern.search(" ".join(output.split())) is not None


def find_installers(target: Target) -> list[Installer]:
    """Return the installed tools: first the preferred tool, then a tool that may find more wheels.

    Raises:
        DeploymentError: neither uv nor pip is installed.
    """
    uv, pip = _find_uv(), _find_pip()
    found = [Installer(target, "uv", uv)] if uv else []
    # Amazon Linux 2 runs wheels up to manylinux_2_26; pip accepts that, uv only manylinux2014 or manylinux_2_28
    if pip and (not uv or target.glibc == _AMAZON_LINUX_2):
        found.append(Installer(target, "pip", pip))
    if not found:
        raise DeploymentError(
            "building a runtime needs uv or pip, and neither is installed: install one, for example with "
            "`python -m ensurepip`"
        )
    return found


def install_with_any(installers: Sequence[Installer], arguments: Sequence[str], directory: Path, say: Say) -> None:
    """Install requirements and their dependencies with the first tool that succeeds.

    Args:
        installers: the tools.
        arguments: requirements, and ``-r`` with requirements files.
        directory: an empty directory.
        say: shows the user one line if the target may need more packages than were installed.

    Raises:
        DeploymentError: no tool succeeds; the message quotes the last tool.
    """
    first, *others = installers
    try:
        first.install(arguments, directory)
    except DeploymentError as error:
        if not others:
            raise
        logger.info("%s cannot install the packages; trying %s: %s", first.tool, others[0].tool, error)
        install_with_any(others, arguments, directory, say)
        return
    if first.tool == "pip" and not first.target.is_here:
        say(
            f"pip collected these packages, but pip evaluates environment markers for this machine, not for "
            f"{first.target}: check that no package is missing. uv evaluates markers for the target"
        )


def _uv_platform(target: Target) -> str:
    exact = f"_2_{_AMAZON_LINUX_2023}" if target.glibc == _AMAZON_LINUX_2023 else "2014"
    return f"{target.machine}-manylinux{exact}"


def _find_uv() -> list[str] | None:
    path = shutil.which("uv")
    candidates = [[path, "pip"]] if path else []
    if importlib.util.find_spec("uv") is not None:
        candidates.append([sys.executable, "-m", "uv", "pip"])
    # version managers may leave a stub for a tool that is not installed
    return next((command for command in candidates if _starts([*command, "list", "--help"])), None)


def _find_pip() -> list[str] | None:
    return [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") is not None else None


def _starts(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False
