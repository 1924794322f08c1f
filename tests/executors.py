"""Executors of three kinds, ready to use: what the tests of failures and of the executor's verbs run over.

``local`` keeps everything in memory, ``dummy`` stages in the storage of this machine, ``lambda`` in a mocked S3.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import pywren
import pywren.testing
from pywren.executor import Executor
from pywren.future import ResponseFuture

KINDS = ["local", "dummy", pytest.param("lambda", marks=pytest.mark.moto)]
"""The parameters of a fixture that runs its tests over every kind."""

STAGED_KINDS = KINDS[1:]
"""The kinds whose calls go through a storage."""

WAIT = 60.0
"""Seconds within which anything here ends."""


class Ready:
    """An executor whose calls run without anything further being done for it.

    Args:
        kind: ``local``, ``dummy`` or ``lambda``.
        executor: the executor.
        config: its configuration, when it has one.
    """

    def __init__(self, kind: str, executor: Executor, config: dict[str, Any] | None) -> None:
        self.kind = kind
        self.executor = executor
        self.config = config

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
def make(kind: str, home: Path) -> Iterator[Ready]:
    """Make an executor of one kind, for the tests of a module to share.

    Args:
        kind: ``local``, ``dummy`` or ``lambda``.
        home: its ``PYWREN_HOME``.
    """
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYWREN_HOME", str(home))
        config = stack.enter_context(pywren.testing.mock_aws(concurrency=4)) if kind == "lambda" else None
        factory = {"local": pywren.local_executor, "dummy": pywren.dummy_executor, "lambda": pywren.lambda_executor}
        executor = stack.enter_context(factory[kind](config=config))
        patch.undo()
        yield Ready(kind, executor, config)


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
