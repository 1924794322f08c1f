"""``Environment``: controls a container's processes from the emulator's process; ``_sandbox`` runs in the container."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pywren.exceptions import EmulatorError
from pywren.system import private_names
from pywren.testing.emulator._interpreter import PYTHON, site_packages
from pywren.testing.emulator._sandbox import sandbox_command

logger = logging.getLogger(__name__)

TASK_ROOT = "/var/task"
LAYER_ROOT = "/opt"
INTERPRETER = f"/var/lang/bin/{PYTHON}"
"""Where Lambda and isolated containers have the code, the layers and Python."""

KILLED = -9
_UID = 993  # Lambda's functions run as this user
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "nix", "gnu")
_CLOSE_SECONDS = 5.0
_KIB_PER_MB = 1024


@dataclass(frozen=True)
class Plan:
    """How to set up an environment. The plan is sent to the first process of the environment as JSON.

    Args:
        isolated: whether the environment has its own namespaces and its own root directory.
        command: the runtime's command line inside the environment.
        env: the runtime's environment variables.
        cwd: the runtime's working directory.
        memory_kib: the memory limit of all processes together.
        tmp_bytes: the size of ``/tmp`` (only if isolated).
        root: an empty directory that the new root is mounted on (only if isolated).
        binds: pairs of a path and the path where it is mounted read-only (only if isolated).
        links: pairs of a symbolic link's target and its path (only if isolated).
        uid: the user id that the runtime runs as (only if isolated).
    """

    isolated: bool
    command: Sequence[str]
    env: dict[str, str]
    cwd: str
    memory_kib: int
    tmp_bytes: int = 0
    root: str = ""
    binds: list[tuple[str, str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    uid: int = _UID

    def encode(self) -> bytes:
        """Return the plan as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


class Environment(asyncio.Protocol):
    """The processes of one container, which are controlled through the first process.

    Args:
        plan: how to set it up.
        output: the descriptor that all its processes write their output to.
    """

    def __init__(self, plan: Plan, output: int) -> None:
        loop = asyncio.get_running_loop()
        self._plan, self._output = plan, output
        self._ready: asyncio.Future[str] = loop.create_future()
        self._measured: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        """The runtime's exit code, negative for a signal. When it is set, no other process is left either."""
        self.running = False
        self.lost = False
        """Whether the first process has ended, so that the environment cannot be used any more."""
        self.most_kib = 0
        """The highest memory use measured."""
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    async def start(self) -> None:
        """Start the first process, and wait until the environment is set up.

        Raises:
            EmulatorError: the environment cannot be set up on this machine.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = start_first(self._plan.isolated, theirs, self._output)
            except OSError as error:
                ours.close()
                raise EmulatorError(f"cannot start an execution environment: {error}") from error
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(lambda: self, sock=ours)
        self._transport.write(self._plan.encode())
        problem = await self._ready
        if problem:
            raise EmulatorError(
                f"cannot set up an execution environment: {problem}; pass isolated=False to run without isolation"
            )

    def launch(self) -> None:
        """Start the runtime."""
        self.exited = asyncio.get_running_loop().create_future()
        self.running = True
        self.send("start")
        self.send("watch")
        if self.lost:
            self._runtime_ended(KILLED)

    def send(self, word: str) -> None:
        """Send a command to the first process; ``_sandbox`` describes the commands."""
        if self._transport is not None:
            self._transport.write(word.encode() + b"\n")

    async def kill(self) -> None:
        """Kill all processes except the first, and wait until they have ended."""
        if self.running:
            self.send("kill")
            await asyncio.wait({self.exited})

    async def rest(self) -> None:
        """Stop watching the memory, and wait until the first process has reported the maximum."""
        self._measured = asyncio.get_running_loop().create_future()
        self.send("rest")
        either: tuple[asyncio.Future[Any], ...] = (self._measured, self.exited)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """End all processes of the environment."""
        if self._transport is not None:
            self._transport.close()
        if self._process is not None:
            await asyncio.to_thread(end_first, self._process)

    def data_received(self, data: bytes) -> None:
        """Handle the reports of the first process."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, _, argument = line.decode("utf-8", "replace").partition(" ")
            self._reported(word, argument)

    def connection_lost(self, exc: Exception | None) -> None:
        """Record that the first process, and with it all other processes, has ended."""
        self.lost = True
        if not self._ready.done():
            self._ready.set_result("its first process ended at once")
        self._runtime_ended(KILLED)

    def _reported(self, word: str, argument: str) -> None:
        if word in ("ready", "failed"):
            self._ready.set_result(argument)
        elif word == "exit":
            self._runtime_ended(int(argument))
        elif word == "memory":
            self.most_kib = max(self.most_kib, int(argument))
            if not self._measured.done():
                self._measured.set_result(None)

    def _runtime_ended(self, code: int) -> None:
        self.running = False
        if not self.exited.done():
            self.exited.set_result(code)


def start_first(isolated: bool, channel: socket.socket, output: int) -> subprocess.Popen[bytes]:
    """Start the first process of an environment; ``channel`` becomes its standard input."""
    command = sandbox_command(base_python(), isolated=isolated)
    command[0] = shutil.which(command[0]) or command[0]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.Popen(
        command, stdin=channel.fileno(), stdout=output, stderr=output, env=kept, start_new_session=True
    )


def end_first(process: subprocess.Popen[bytes]) -> None:
    """Wait until the first process, whose channel was closed, has ended; kill it if this takes too long."""
    try:
        process.wait(_CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def base_python() -> str:
    """Return the path of the interpreter that this process's virtual environment was created from."""
    return os.path.realpath(private_names.base_executable())


def system_view() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the binds and links that show the system and the interpreter, but not the user's own files."""
    binds: list[tuple[str, str]] = []
    links: list[tuple[str, str]] = []
    for name in _SYSTEM:
        path = f"/{name}"
        if os.path.islink(path):
            links.append((os.readlink(path), path))
        elif os.path.isdir(path):
            binds.append((path, path))
    for needed in (sys.base_prefix, sys.base_exec_prefix, base_python(), "/etc/resolv.conf"):
        real = os.path.realpath(needed)
        if os.path.exists(real) and not any(Path(real).is_relative_to(target) for _, target in binds):
            binds.append((real, real))
    return binds, links


def container_view(
    python: Path, code: Path, layers: Path | None
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the binds and links of a container: for the system, the interpreter, the code and the layers.

    Args:
        python: the interpreter that ``make_interpreter`` created.
        code: the directory of the function's code.
        layers: the directory of the merged layers.
    """
    binds, links = system_view()
    venv = python.parent.parent
    lang = str(Path(INTERPRETER).parent.parent)
    links += [(os.path.realpath(python), f"{lang}/bin/{name}") for name in (PYTHON, "python3", "python")]
    binds.append((str(venv / "pyvenv.cfg"), f"{lang}/pyvenv.cfg"))
    for entry in sorted(site_packages(venv).iterdir()):
        binds.append((os.path.realpath(entry), f"{lang}/lib/{PYTHON}/site-packages/{entry.name}"))
    binds.append((str(code), TASK_ROOT))
    for entry in sorted(layers.iterdir()) if layers else []:
        target = f"{LAYER_ROOT}/{entry.name}"
        if entry.is_symlink():
            links.append((os.readlink(entry), target))
        else:
            binds.append((str(entry), target))
    return binds, links


_probing = threading.Lock()


def can_isolate() -> bool:
    """Tell whether this machine allows namespaces; to find out, create namespaces and start Python in them."""
    with _probing:  # the first containers ask at the same time, but one probe is enough
        return _probe()


@functools.lru_cache(maxsize=1)
def _probe() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        problem = "there is no unshare"
    else:
        with tempfile.TemporaryDirectory(prefix="pywren-emulator-") as directory:
            problem = _try_isolated(directory)
    if problem:
        logger.warning("containers have no namespaces of their own on this machine: %s", problem)
    return not problem


def _try_isolated(directory: str) -> str:
    """Set up an isolated environment and start Python in it; return what went wrong, or ``""`` if nothing did."""
    binds, links = system_view()
    command = [base_python(), "-I", "-c", "pass"]
    plan = Plan(True, command, {}, "/", memory_kib=2**30, tmp_bytes=2**20, root=directory, binds=binds, links=links)
    ours, theirs = socket.socketpair()
    with ours, open(os.devnull, "wb") as null:
        with theirs:
            process = start_first(True, theirs, null.fileno())
        ours.settimeout(10)
        try:
            ours.sendall(plan.encode() + b"start\n")
            with ours.makefile("r", encoding="utf-8") as reports:
                for report in reports:
                    word, _, argument = report.strip().partition(" ")
                    if word in ("exit", "failed"):
                        return "" if report == "exit 0\n" else f"{word} {argument}"
        except OSError as error:
            return str(error)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            end_first(process)
    return "unshare was refused"


def memory_kib(memory_mb: int) -> int:
    """Convert a function's ``MemorySize`` from megabytes to KiB, the kernel's unit."""
    return memory_mb * _KIB_PER_MB
