"""``Requirements``: the contents of requirements files, read once and rewritten for uv and pip."""

from __future__ import annotations

import codecs
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pywren.cloud._packing import WORKERS_OWN
from pywren.cloud._wheels import Say, Target
from pywren.exceptions import DeploymentError
from pywren.serialize._distributions import normalized

_NAME = re.compile(r"([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(\[[^]]*\])?\s*(.*)")
_OPTION = re.compile(r"(-[rcef]|--requirement|--constraint|--editable|--find-links)(?:\s*=\s*|\s+|(?<=-[rcef]))(.*)")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_URL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True)
class Requirement:
    """A distribution that is requested by name.

    Args:
        name: its normalized name.
        marker: the condition under which it is required; empty if it always is.
        place: the file and the line that name it.
    """

    name: str
    marker: str
    place: str

    def is_for(self, target: Target) -> bool:
        """Tell whether the requirement applies to a target."""
        return not self.marker or holds(self.marker, environment_of(target))


@dataclass
class Requirements:
    """The requirements in requirements files.

    Args:
        directory: the directory for files that the installer reads.
        say: shows the user one line about each requirement that is left out.
        named: the distributions that are requested by name.
        lines: the lines for the installer.
    """

    directory: Path
    say: Say
    named: list[Requirement] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    _read: set[Path] = field(default_factory=set)
    _constraints: int = 0

    def add(self, file: Path, where: Path | None = None) -> None:
        """Read a requirements file, and the files that it includes.

        Args:
            file: a file or a pipe, which can be read only once.
            where: the directory that relative paths in the file start from; by default the directory of the file.

        Raises:
            DeploymentError: a file cannot be read, or a requirement cannot be part of a runtime.
        """
        is_file = file.is_file()
        if is_file and file.resolve() in self._read:
            return
        self._read.add(file.resolve())
        # a shell's <(command) is a pipe in /dev/fd: paths in it are relative to the working directory
        where = where or (file.parent if is_file else Path.cwd())
        for number, line in _logical_lines(_text_of(file)):
            self._add_line(line, where, f"line {number} of {file}")

    def write(self) -> list[str]:
        """Write the file for the installer, and return the installer's arguments."""
        path = self.directory / "requirements.txt"
        path.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        return ["-r", str(path)]

    def _add_line(self, line: str, where: Path, place: str) -> None:
        option = _OPTION.match(line)
        if option is None:
            self.lines += [line] if line.startswith("-") else self._requirement(line, place)
            return
        value = os.path.expandvars(option[2].strip().strip("\"'"))
        kind = option[1].lstrip("-")[0]
        if kind == "e":
            self.say(f"{value} is left out: it is an editable install; its pure Python modules are sent with each map")
        elif _URL.match(value):
            self.lines.append(line)
        elif kind == "r":
            self.add(where / value)
        elif kind == "c":
            self.lines.append(f"-c {self._constraint(where / value)}")
        else:
            beside = where / value
            self.lines.append(f"--find-links {beside.resolve()}" if beside.exists() else line)

    def _constraint(self, file: Path) -> str:
        """Copy a constraints file without the lines that installers refuse, and return its path."""
        self._constraints += 1
        path = self.directory / f"constraints-{self._constraints}.txt"
        limits = Requirements(path.parent, _say_nothing, _constraints=self._constraints * 100)
        limits.add(file)
        path.write_text("".join(f"{line}\n" for line in limits.lines), encoding="utf-8")
        return str(path)

    def _requirement(self, line: str, place: str) -> list[str]:
        """Return the installer's lines for a requirement; none if the distribution's modules are sent with each map."""
        wheel = _wheel_in(line)
        match = _NAME.match(line)
        if match is None or _URL.match(line) or line[len(match[1]) :].startswith(("/", "\\")):
            if wheel is not None:  # a path or URL without a name
                self.named.append(Requirement(wheel[0], "", place))
            return [line]
        name, rest = normalized(match[1]), match[3]
        if rest.startswith("@"):
            url, _, marker = rest[1:].partition(" ;")
            return self._at_url(line, Requirement(name, _marker(marker), place), url.split()[0], wheel)
        self.named.append(Requirement(name, _marker(rest.partition(";")[2]), place))
        return [line]

    def _at_url(self, line: str, item: Requirement, url: str, wheel: tuple[str, str] | None) -> list[str]:
        """Return the installer's lines for ``name @ URL``; the URL is that of a wheel, a directory or a repository."""
        address = urlsplit(os.path.expandvars(url))
        is_gone = address.scheme == "file" and not os.path.exists(unquote(address.path))
        version = _version_here(item.name)
        if wheel is not None and not is_gone:
            self.named.append(item)
            return [line]
        if is_gone and (wheel is not None or version is not None):  # conda gives its build directory as the URL
            version = wheel[1] if wheel is not None else version
            self.say(f"{item.name}: {_shown(url)} does not exist; using {item.name}=={version} instead")
            self.named.append(item)
            return [f"{item.name}=={version}" + (f" ; {item.marker}" if item.marker else "")]
        if version is None and item.name not in WORKERS_OWN:
            raise DeploymentError(
                f"{item.place} names the source of {item.name}, {_shown(url)}, but only wheels can be used: build one "
                f"with `pip wheel '{_shown(url)}'`, and name the wheel's file instead"
            )
        self.say(
            f"{item.name} is left out: it is installed from {_shown(url)}; its pure Python modules are sent with each "
            "map"
        )
        return []


def _say_nothing(_: str) -> None:
    """Ignore a message about a requirement that is left out: a constraint leaves no package out of a runtime."""


def _text_of(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DeploymentError(f"cannot read the requirements {file}: {error}") from error
    for bom, encoding in _BOMS:  # PowerShell's > writes UTF-16
        if data.startswith(bom):
            return data[len(bom) :].decode(encoding, "replace")
    return data.decode("utf-8", "replace")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line that is not blank; as in pip, a backslash continues a line."""
    pending, first = "", 0
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        first = first if pending else number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            pending += line[:-1] + " "
            continue
        whole = _COMMENT.sub("", pending + line).strip()
        pending = ""
        if whole:
            yield first, whole


def _wheel_in(line: str) -> tuple[str, str] | None:
    """Return the name and version of the wheel that a requirement refers to; ``None`` if it refers to no wheel."""
    match = re.search(r"([^/\\\s]+)\.whl(?=[\s;#?]|$)", line)
    parts = unquote(match[1]).split("-") if match else []
    return (normalized(parts[0]), parts[1]) if len(parts) >= 5 else None


def _marker(text: str) -> str:
    return re.split(r"\s--", text)[0].strip()


def _version_here(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _shown(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)  # removes a password from the URL


# -- markers -------------------------------------------------------------------------------------------------


def environment_of(target: Target) -> Mapping[str, str]:
    """Return the values of a target's environment markers.

    Source: https://packaging.python.org/specifications/dependency-specifiers.
    """
    here = platform.python_version()
    full = here if here.startswith(target.python + ".") else f"{target.python}.0"
    return {
        "python_version": target.python,
        "python_full_version": full,
        "implementation_version": full,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": target.machine,
        "extra": "",
    }


def holds(marker: str, environment: Mapping[str, str]) -> bool:
    """Tell whether a marker is true. A marker that cannot be parsed counts as true, so that the installer decides.

    Args:
        marker: a marker such as ``python_version < "3.11" and sys_platform == "linux"``.
        environment: the values of the variables that markers may contain.
    """
    tokens = _TOKEN.findall(marker)
    if "".join(tokens).replace(" ", "") != marker.replace(" ", ""):
        return True
    try:
        return _Marker(tokens, environment).any_of()
    except (IndexError, KeyError):
        return True


_TOKEN = re.compile(r"""\(|\)|"[^"]*"|'[^']*'|[<>=!~]=?=?|not\s+in\b|\w+""")
_VERSIONS = ("python_version", "python_full_version", "implementation_version")


class _Marker:
    """A parser that evaluates a marker from left to right."""

    def __init__(self, tokens: Sequence[str], environment: Mapping[str, str]) -> None:
        self._tokens = list(tokens)
        self._environment = environment

    def any_of(self) -> bool:
        found = self._all_of()
        while self._next_is("or"):
            found = self._all_of() or found
        return found

    def _all_of(self) -> bool:
        found = self._one()
        while self._next_is("and"):
            found = self._one() and found
        return found

    def _one(self) -> bool:
        if self._next_is("("):
            found = self.any_of()
            self._tokens.pop(0)
            return found
        left, operator, right = (self._tokens.pop(0) for _ in range(3))
        is_version = left in _VERSIONS or right in _VERSIONS
        return _compare(self._value(left), operator.split()[0], self._value(right), is_version)

    def _next_is(self, token: str) -> bool:
        if self._tokens and self._tokens[0] == token:
            self._tokens.pop(0)
            return True
        return False

    def _value(self, token: str) -> str:
        return token[1:-1] if token[0] in "\"'" else self._environment[token]


def _compare(left: str, operator: str, right: str, is_version: bool) -> bool:
    if operator in ("in", "not"):
        return (left in re.split(r"[\s,|]+", right) if is_version else left in right) == (operator == "in")
    if not is_version:
        return {"==": left == right, "===": left == right, "!=": left != right}.get(operator, False)
    if right.endswith(".*"):
        return (left + ".").startswith(right[:-1]) == (operator == "==")
    mine, other = _release(left), _release(right)
    outcomes = {"<": mine < other, "<=": mine <= other, ">": mine > other, ">=": mine >= other, "!=": mine != other}
    if operator == "~=":
        return mine >= other and mine[: len(right.split(".")) - 1] == other[: len(right.split(".")) - 1]
    return outcomes.get(operator, mine == other)


def _release(version: str) -> tuple[int, ...]:
    return (*(int(number) for number in re.findall(r"\d+", version)[:3]), 0, 0, 0)[:3]
