"""Executors of four kinds, ready to use: what the tests of failures and of the executor's verbs run over.

``local`` keeps everything in memory, ``dummy`` stages in the storage of this machine, ``lambda`` in a mocked S3;
``emulated`` is the deployed zip, under Lambda's rules.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

import pywren
import pywren.testing
from pywren.executor import Executor
from pywren.future import ResponseFuture
from pywren.testing import _set_up

KINDS = ["local", "dummy", pytest.param("lambda", marks=pytest.mark.moto)]
"""The parameters of a fixture that runs its tests over every kind."""

STAGED_KINDS = KINDS[1:]
"""The kinds whose calls go through a storage."""

KINDS_AND_EMULATED = [*KINDS, pytest.param("emulated", marks=pytest.mark.emulator)]
"""Every kind, and the one that takes seconds to start."""

WAIT = 60.0
"""Seconds within which anything here ends."""


class Ready:
    """An executor whose calls run without anything further being done for it.

    Args:
        kind: ``local``, ``dummy``, ``lambda`` or ``emulated``.
        executor: the executor.
        config: its configuration, when it has one.
        emulator: the emulated AWS that it is on, when it is.
    """

    def __init__(self, kind: str, executor: Executor, config: dict[str, Any] | None, emulator: Any = None) -> None:
        self.kind = kind
        self.executor = executor
        self.config = config
        self.emulator = emulator

    @property
    def on_lambda(self) -> bool:
        """Whether the calls run on Lambda, mocked or emulated."""
        return self.kind in ("lambda", "emulated")

    def environment(self) -> AbstractContextManager[None]:
        """Have the process's environment as this executor's calls need it."""
        return _world(self.emulator)

    def map(self, func: Any, items: Any, **options: Any) -> list[ResponseFuture]:
        """Map, and have the calls run."""
        futures = self.executor.map(func, items, **options)
        self.run()
        return futures

    def call(self, func: Any, argument: Any = None, **options: Any) -> ResponseFuture:
        """Call a function once, and have the call run."""
        return self.map(func, [argument], **options)[0]

    def call_twice(self, func: Any, argument: Any, then: Any) -> tuple[ResponseFuture, ResponseFuture]:
        """Call one function, and when it has ended another one, in the same worker where there is one."""
        first = self.executor.call_async(func, argument)
        if self.kind != "dummy":
            pywren.wait([first])
        second = self.executor.call_async(then, None)
        self.run()
        return first, second

    def reduce(self, func: Any, futures: Any, **options: Any) -> ResponseFuture:
        """Reduce, and have the call run."""
        future = self.executor.reduce(func, futures, **options)
        self.run()
        return future

    def run(self) -> None:
        """Run what was invoked, where that does not happen by itself."""
        if self.kind == "dummy":
            self.executor.invoker.run_jobs()

    @contextmanager
    def max_runtime(self, seconds: float | None) -> Iterator[None]:
        """Make calls that are stopped after so many seconds; ``None`` changes nothing."""
        before = self.executor.job_max_runtime
        self.executor.job_max_runtime = before if seconds is None else seconds
        try:
            yield
        finally:
            self.executor.job_max_runtime = before


@contextmanager
def make(kind: str, home: Path, emulator: Any = None) -> Iterator[Ready]:
    """Make an executor of one kind, for the tests of a module to share.

    Args:
        kind: ``local``, ``dummy``, ``lambda`` or ``emulated``.
        home: its ``PYWREN_HOME``.
        emulator: for ``emulated``: where it is deployed; to be used within ``Ready.environment``.
    """
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYWREN_HOME", str(home))
        config = stack.enter_context(pywren.testing.mock_aws(concurrency=4)) if kind == "lambda" else None
        factory = {"local": pywren.local_executor, "dummy": pywren.dummy_executor}.get(kind, pywren.lambda_executor)
        with _world(emulator):
            config = config if emulator is None else emulator.deploy()
            executor = stack.enter_context(factory(config=config))
        patch.undo()
        yield Ready(kind, executor, config, emulator)


def _world(emulator: Any) -> AbstractContextManager[None]:
    return nullcontext() if emulator is None else _set_up.environment(emulator.environment)


class Presence:
    """Where functions show that they run, on this machine or behind walls: they hold a connection (``hostile.hold``).

    Attributes:
        address: what they are given.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.address: tuple[str, int] = self._listener.getsockname()

    def __enter__(self) -> Presence:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for each in (self._listener, *self._connections):
            each.close()

    def wait(self, count: int = 1, *, seconds: float = WAIT) -> bool:
        """Tell, after a while if need be, whether so many functions have shown themselves."""
        self._listener.settimeout(seconds)
        with suppress(TimeoutError, BlockingIOError):
            while len(self._connections) < count:
                self._connections.append(self._listener.accept()[0])
        return len(self._connections) >= count

    def let_go(self) -> None:
        """Have those go on that wait for it, and those that come later."""
        self._listener.close()
        for connection in self._connections:
            connection.sendall(b"!")

    def is_over(self) -> bool:
        """Tell, after a while if need be, whether no process lives any more that has shown itself."""
        for connection in self._connections:
            connection.settimeout(WAIT)
            try:
                if connection.recv(1):
                    return False
            except TimeoutError:
                return False
            except ConnectionError:  # it was killed before it had read everything
                pass
        return True


def is_released(path: Path) -> bool:
    """Tell, after a while if need be, whether no process that locked a file by ``hostile.hold`` lives."""
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
    """Tell, after a while if need be, whether a file exists."""
    deadline = time.monotonic() + WAIT
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
