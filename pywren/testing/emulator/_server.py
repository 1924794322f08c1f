"""The emulator's process: it starts the parts, reports on standard output, and serves until its standard input ends.

The standard input is a pipe that the parent holds. However the parent ends, the pipe closes, and the emulator and all
its children end too. The first line of the standard input holds the settings. The first line of the standard output
holds what the client needs to know, or the error.

Who runs where:

    user's process     ``Emulator`` starts this process and talks to the gateway over HTTP
    this process       one thread runs the event loop: gateway, Lambda's API, dispatcher and ``Container`` objects; they
                       share state without locks, and must not block
      threads          ``asyncio.to_thread`` for unzipping, imports and other slow work; ``LogShipper`` has its own
      supervisor       one per child: kills the child and all its descendants when this process ends
        SeaweedFS      S3
        moto's server  IAM, STS, SQS, logs, EC2, SSM
        sandbox        the first process of a container; below it awslambdaric with the deployed code
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import secrets
import signal
import sys
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pywren.exceptions import EmulatorError
from pywren.testing.emulator._backends import Backend, MotoServer, SeaweedFS
from pywren.testing.emulator._descriptors import Descriptors, raise_limit
from pywren.testing.emulator._directory import own_directory
from pywren.testing.emulator._door import Door
from pywren.testing.emulator._settings import Settings

if TYPE_CHECKING:
    from pywren.testing.emulator._container import Container
    from pywren.testing.emulator._functions import Function, Revision
    from pywren.testing.emulator._logs import LogShipper

logger = logging.getLogger(__name__)


def main() -> None:
    """Run the emulator, as ``python -m pywren.testing.emulator._server`` does."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s: %(message)s")
    settings = Settings.decode(json.loads(sys.stdin.buffer.readline() or b"{}"))
    raise_limit()
    try:
        with own_directory() as directory:
            asyncio.run(_serve(settings, directory))
    except EmulatorError as error:
        _say({"error": str(error)})
        sys.exit(1)


def _say(what: Mapping[str, Any]) -> None:
    """Send the parent one line of JSON."""
    with contextlib.suppress(BrokenPipeError):  # the parent has ended
        os.write(1, json.dumps(what).encode() + b"\n")


async def _serve(settings: Settings, directory: Path) -> None:
    """Start all parts, and serve until asked to end; raise ``EmulatorError`` if a part ends earlier."""
    end = _time_to_end()
    starting = asyncio.ensure_future(_run(settings, directory, end))
    await asyncio.wait([starting, end], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()  # cancelling runs the task's clean-up, which ends the children
        with contextlib.suppress(asyncio.CancelledError):
            await starting
    else:
        starting.result()


def _time_to_end() -> asyncio.Future[None]:
    """Return a future that is done when the standard input ends, or on SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not end.done():
            end.set_result(None)

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            tell()

    loop.add_reader(0, read)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    return end


async def _run(settings: Settings, directory: Path, end: asyncio.Future[None]) -> None:
    descriptors = Descriptors()
    async with _backends(directory) as (doors, backends), _Parts(settings, directory, doors) as parts:
        _say(parts.ready)
        may_end = [*(backend.ended for backend in backends), parts.ended, descriptors.ended]
        endings: list[asyncio.Future[Any]] = [asyncio.ensure_future(ended()) for ended in may_end]
        try:
            done, _ = await asyncio.wait([*endings, end], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for ending in endings:
                ending.cancel()
        for ended in endings:
            if ended in done:
                raise ended.result()


@asynccontextmanager
async def _backends(directory: Path) -> AsyncIterator[tuple[list[Door], list[Backend]]]:
    """Start SeaweedFS and moto at the same time, and meanwhile import the rest of the emulator."""
    homes = [directory / "s3", directory / "moto"]
    for home in homes:
        home.mkdir()
    backends: list[Backend] = [SeaweedFS(homes[0]), MotoServer(homes[1])]
    starting = [asyncio.ensure_future(backend.start()) for backend in backends]
    try:
        await asyncio.sleep(0)  # let both start before the imports occupy the processor
        await asyncio.to_thread(_load)
        yield await asyncio.gather(*starting), backends
    finally:
        for each in starting:
            each.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        await asyncio.gather(*(backend.close() for backend in backends))


def _load() -> None:
    """Import modules and load models now, so that the first request does not have to wait for them."""
    from pywren.testing.emulator import _gateway
    from pywren.testing.emulator._operations import service_model

    logger.debug("%s is loaded", _gateway.__name__)
    for service in ("lambda", "s3"):
        service_model(service)


class _Parts:
    """The parts that run in this process: functions, dispatcher, containers and gateway, connected with each other.

    Args:
        settings: the emulator's settings.
        directory: the emulator's directory.
        doors: the doors to SeaweedFS and moto.
    """

    def __init__(self, settings: Settings, directory: Path, doors: list[Door]) -> None:
        self._settings = settings
        self._directory = directory
        self._s3, self._moto = doors
        self._endpoint = ""
        self._stack = AsyncExitStack()
        self._containers = itertools.count(1)
        self._by_token: weakref.WeakValueDictionary[str, Container] = weakref.WeakValueDictionary()
        self._access_key = f"AKIA{secrets.token_hex(8).upper()}"
        self._secret_key = secrets.token_urlsafe(30)
        self._token = secrets.token_urlsafe(30)

    @property
    def ready(self) -> dict[str, str]:
        """The fields of the client's ``Ready``."""
        return {
            "endpoint": self._endpoint,
            "access_key_id": self._access_key,
            "secret_access_key": self._secret_key,
            "control_token": self._token,
            "directory": str(self._directory),
        }

    async def ended(self) -> EmulatorError:
        """Wait until the dispatcher cannot continue, and return the error that is the reason."""
        return await self._dispatcher.ended()

    async def __aenter__(self) -> _Parts:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> None:
        from pywren.testing.emulator._counters import Tally
        from pywren.testing.emulator._dispatch import Dispatcher
        from pywren.testing.emulator._faults import FaultPlan, Faults
        from pywren.testing.emulator._functions import FunctionTable
        from pywren.testing.emulator._gateway import Gateway
        from pywren.testing.emulator._interpreter import make_interpreter
        from pywren.testing.emulator._lambda_api import LambdaApi
        from pywren.testing.emulator._logs import LogShipper
        from pywren.testing.emulator._services import Services

        tally, callers = Tally(), {self._access_key: "client"}
        self._python = await asyncio.to_thread(make_interpreter, self._directory / "python")
        self._logs = LogShipper(self._moto, self._settings.region)
        stack.callback(self._logs.close)
        services = Services(s3=self._s3, moto=self._moto, settings=self._settings, tally=tally)
        stack.push_async_callback(services.close)
        functions = FunctionTable(
            self._directory / "code",
            settings=self._settings,
            check_role=services.check_role,
            fetch_object=services.fetch_object,
            callers=callers,
            on_retired=lambda function: dispatcher.retire(function),
        )
        self._dispatcher = dispatcher = Dispatcher(
            make_container=self._make_container,
            tally=tally,
            find=functions.find,
            send_record=services.send_record,
            settings=self._settings,
            unreserved=lambda: functions.unreserved,
        )
        stack.push_async_callback(dispatcher.close)
        gateway = Gateway(
            s3=self._s3,
            moto=self._moto,
            functions=LambdaApi(functions, dispatcher),
            callers=callers,
            tally=tally,
            plan=FaultPlan(Faults()),
            token=self._token,
            wait_idle=self._wait_idle,
            cut_off=self._cut_off,
        )
        self._endpoint = f"http://127.0.0.1:{await gateway.start()}"
        stack.push_async_callback(gateway.close)

    async def _wait_idle(self, seconds: float) -> bool:
        """Wait until no event is waiting or running and the log is written; tell whether ``seconds`` were enough."""
        try:
            await asyncio.wait_for(self._dispatcher.wait_idle(), seconds)
        except asyncio.TimeoutError:
            return False
        return await asyncio.to_thread(self._logs.flush, seconds)

    def _cut_off(self, token: str) -> bool:
        container = self._by_token.get(token)
        return container is not None and container.cut_off()

    def _make_container(self, function: Function, revision: Revision) -> Container:
        from pywren.testing.emulator._container import Container

        number, token = next(self._containers), secrets.token_urlsafe(30)
        self._by_token[token] = container = Container(
            function.name,
            function.arn,
            revision,
            settings=self._settings,
            python=self._python,
            directory=self._directory / "containers" / str(number),
            endpoint=self._endpoint,
            credentials=(function.access_key, secrets.token_urlsafe(30), token),
            log=_Log(self._logs, f"/aws/lambda/{function.name}"),
        )
        return container


class _Log:
    """A container's log stream."""

    def __init__(self, shipper: LogShipper, group: str) -> None:
        self._shipper = shipper
        self.group = group
        self.stream = f"{time.strftime('%Y/%m/%d', time.gmtime())}/[$LATEST]{uuid.uuid4().hex}"
        shipper.stream(group, self.stream)

    def __call__(self, timestamp_ms: int, line: str) -> None:
        self._shipper.write(self.group, self.stream, timestamp_ms, line)


if __name__ == "__main__":
    main()
