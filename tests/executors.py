"""Four kinds of executor for the tests of failures and of the executor's methods.

``local`` keeps everything in memory, ``dummy`` stages in local storage, and ``lambda`` in a mocked S3. ``emulated``
runs the deployed zip under Lambda's rules.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

import pywren
import pywren.testing
from pywren.client.lease import FIRST_WRITE
from pywren.executor import Executor
from pywren.future import ResponseFuture
from pywren.testing import _set_up
from pywren.worker.watch import FIRST_LOOK

KINDS = ["local", "dummy", pytest.param("lambda", marks=pytest.mark.moto)]
"""Parameters of a fixture whose tests run over every kind but the emulated one."""

STAGED_KINDS = KINDS[1:]
"""The kinds whose calls go through a storage."""

KINDS_AND_EMULATED = [*KINDS, pytest.param("emulated", marks=pytest.mark.emulator)]
"""All kinds, including the one that takes seconds to start."""

WAIT = 60.0
"""Seconds after which these waits give up."""


class Ready:
    """An executor that is ready for tests: its calls can be run whatever its kind.

    Args:
        kind: ``local``, ``dummy``, ``lambda`` or ``emulated``.
        executor: the executor.
        config: its configuration, if it has one.
        emulator: the emulated AWS that it uses, if it uses one.
    """

    def __init__(self, kind: str, executor: Executor, config: dict[str, Any] | None, emulator: Any = None) -> None:
        self.kind = kind
        self.executor = executor
        self.config = config
        self.emulator = emulator

    @property
    def on_lambda(self) -> bool:
        """Return whether the calls run on Lambda, mocked or emulated."""
        return self.kind in ("lambda", "emulated")

    def environment(self) -> AbstractContextManager[None]:
        """Set the environment variables that this executor's calls need."""
        return _world(self.emulator)

    def map(self, func: Any, items: Any, **options: Any) -> list[ResponseFuture]:
        """Map a function, and run the calls."""
        futures = self.executor.map(func, items, **options)
        self.run()
        return futures

    def call(self, func: Any, argument: Any = None, **options: Any) -> ResponseFuture:
        """Call a function once, and run the call."""
        return self.map(func, [argument], **options)[0]

    def call_twice(self, func: Any, argument: Any, then: Any) -> tuple[ResponseFuture, ResponseFuture]:
        """Call one function, and after it another, in the same worker if workers persist."""
        first = self.executor.call_async(func, argument)
        if self.kind != "dummy":
            pywren.wait([first])
        second = self.executor.call_async(then, None)
        self.run()
        return first, second

    def reduce(self, func: Any, futures: Any, **options: Any) -> ResponseFuture:
        """Reduce futures, and run the call."""
        future = self.executor.reduce(func, futures, **options)
        self.run()
        return future

    def run(self) -> None:
        """Run the invoked calls, if the executor does not run them itself."""
        if self.kind == "dummy":
            self.executor.invoker.run_jobs()

    @contextmanager
    def max_runtime(self, seconds: float | None) -> Iterator[None]:
        """Stop calls made in this context after this many seconds; ``None`` changes nothing."""
        before = self.executor.job_max_runtime
        self.executor.job_max_runtime = before if seconds is None else seconds
        try:
            yield
        finally:
            self.executor.job_max_runtime = before


@contextmanager
def make(kind: str, home: Path, emulator: Any = None) -> Iterator[Ready]:
    """Make an executor of one kind that the tests of a module share.

    Args:
        kind: ``local``, ``dummy``, ``lambda`` or ``emulated``.
        home: its ``PYWREN_HOME``.
        emulator: for ``emulated``, where to deploy; use the executor within ``Ready.environment``.
    """
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYWREN_HOME", str(home))
        config = stack.enter_context(pywren.testing.mock_aws(concurrency=4)) if kind == "lambda" else None
        factory = {"local": pywren.local_executor, "dummy": pywren.dummy_executor}.get(kind, pywren.lambda_executor)
        with _world(emulator):
            config = config if emulator is None else emulator.deploy()
            executor = stack.enter_context(factory(config=config))
        if emulator is not None:
            stack.callback(executor.storage.close)
            stack.callback(executor.invoker.close)
        patch.undo()
        yield Ready(kind, executor, config, emulator)


def _world(emulator: Any) -> AbstractContextManager[None]:
    return nullcontext() if emulator is None else _set_up.environment(emulator.environment)


def slow_machine_requests(executions: Sequence[Any], seconds: float) -> float:
    """Return how many requests may be due to a machine that does much else, and is slow; 0 on an idle one.

    A call that takes over 2 s looks every 3 s whether it was ended elsewhere, and writes a beacon every 30 s, which the
    client reads. A map that takes over 10 s writes a lease.

    Args:
        executions: the emulator's records of the calls.
        seconds: how long the map took.
    """
    each = [one.duration_ms / 1000 for one in executions]
    return sum(3 + long for long in each if long > FIRST_LOOK) + seconds // FIRST_WRITE


class Presence:
    """A server to which running functions connect (``hostile.hold``), also from containers.

    Attributes:
        address: the argument for ``hostile.hold``.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._late: list[socket.socket] = []
        self._usher = threading.Thread(target=self._let_pass)
        self._closing = False
        self.address: tuple[str, int] = self._listener.getsockname()

    def __enter__(self) -> Presence:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._usher.ident is not None:
            self._closing = True
            socket.create_connection(self.address).close()  # this wakes the usher
            self._usher.join(WAIT)
        for each in (self._listener, *self._connections, *self._late):
            each.close()

    def wait(self, count: int = 1, *, seconds: float = WAIT) -> bool:
        """Wait for this many functions to connect, and return whether they did in time."""
        self._listener.settimeout(seconds)
        with suppress(TimeoutError, BlockingIOError):
            while len(self._connections) < count:
                self._connections.append(self._listener.accept()[0])
        return len(self._connections) >= count

    def let_go(self) -> None:
        """Let the waiting functions go on, and any that connect later."""
        if self._usher.ident is not None:
            return
        for connection in self._connections:
            connection.sendall(b"!")
        self._listener.settimeout(None)
        self._usher.start()

    def _let_pass(self) -> None:
        # Not by closing the listener: somebody else may get its port, and would let the functions wait.
        while not self._closing:
            self._late.append(self._listener.accept()[0])
            with suppress(OSError):  # the process that connected may have been killed
                self._late[-1].sendall(b"!")

    def is_over(self) -> bool:
        """Wait until every process that connected has ended, and return whether it did in time."""
        for connection in self._connections:
            connection.settimeout(WAIT)
            try:
                if connection.recv(1):
                    return False
            except TimeoutError:
                return False
            except ConnectionError:  # the process was killed before it had read everything
                pass
        return True


def is_released(path: Path) -> bool:
    """Wait until every process that locked a file with ``hostile.hold`` has ended; return whether it did in time."""
    deadline = time.monotonic() + WAIT
    with open(path, "ab") as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
            else:
                return True
    return False


def is_there(path: str | os.PathLike[str]) -> bool:
    """Wait for a file to exist, and return whether it did in time."""
    deadline = time.monotonic() + WAIT
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def version_module(version: str) -> bytes:
    """Return the source of ``pywren/version.py`` of another release, to deploy a worker of that release."""
    source = Path(pywren.__file__).with_name("version.py").read_text("utf-8")
    changed = source.replace(f'"{pywren.__version__}"', f'"{version}"')
    assert changed != source
    return changed.encode()
