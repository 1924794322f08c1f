"""``Workers``: run chunks with the real handler, in virtual time.

Each environment has a ``Container`` of pywren, in which a chunk runs on threads of its own: it decodes and checks the
payload, runs the calls one after the other, writes pages and beacons, looks for marks, and minds the time that is left.
Simulated are requests, and the processes that run the user's function (``_Child``). It returns its argument, which is
the index of the call.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from typing import Any

from benchmarks.simulated.functions import Event, Functions
from benchmarks.simulated.storage import Objects
from benchmarks.simulated.threads import Thread, VirtualTime
from pywren.storage import Storage
from pywren.worker.handler import Container
from pywren.worker.task import RunResult, Stop, Task, cancelled_failure, timeout_failure
from pywren.wrenutil import create_call_id

LONGEST_RUN = 900.0
"""Seconds after which Lambda stops a function at the latest (AWS Lambda Developer Guide, Lambda quotas)."""


class Workers:
    """The environments of one function that run chunks.

    Args:
        world: the time.
        objects: the storage of client and workers.
        context: what Lambda says about each invocation.
    """

    def __init__(self, world: VirtualTime, objects: Objects, context: Mapping[str, str]) -> None:
        self._world, self._objects = world, objects
        self._context = {**context, "remaining_seconds": LONGEST_RUN}
        self._containers: dict[int, Container] = {}
        self._storage: Storage | None = None

    def handle(self, event: Event, environment: int, functions: Functions) -> None:
        """Begin to run a chunk. ``functions`` is told of its calls and of its end."""
        name = f"environment {environment}"
        Thread(self._world, target=self._run, name=name, args=(event, environment, functions), elsewhere=True).start()

    def _run(self, event: Event, environment: int, functions: Functions) -> None:
        began = self._world.now
        container = self._containers.get(environment)
        if container is None:
            container = self._containers[environment] = Container(
                _Child(self._world, functions), make_storage=self._make_storage, clock=self._world.time
            )
        try:
            container.handle(json.loads(event.body), self._context)
        except _TakenAway:
            del self._containers[environment]
            functions.end(event, environment, began, is_killed=True)
        else:
            functions.end(event, environment, began)

    def _make_storage(self, config: Mapping[str, Any]) -> Storage:
        if self._storage is None:
            self._storage = Storage(config)
            self._storage.backend = self._objects  # type: ignore[assignment]
        return self._storage


class _TakenAway(BaseException):
    """The environment is gone. No ``Exception``: of those the handler makes a status."""


class _Child:
    """A ``Runner``: what the process of a call does, as the handler sees it."""

    def __init__(self, world: VirtualTime, functions: Functions) -> None:
        self._world, self._functions = world, functions

    def run(self, task: Task, *, stopped: Stop | None = None) -> RunResult:
        world = self._world
        duration, is_killed = self._functions.begin(create_call_id(pickle.loads(task.data.data)))
        limit = duration if task.timeout is None else task.timeout
        ticket = world.ticket()
        if stopped is not None:
            stopped.listen(lambda: world.wake(ticket))
        if world.wait(min(duration, limit)):
            return RunResult(None, None, failure=cancelled_failure(running=True), returncode=None)
        if stopped is not None:
            stopped.listen(None)
        if is_killed:
            raise _TakenAway
        if duration > limit:
            return RunResult(None, None, failure=timeout_failure(limit), returncode=None)
        return RunResult(True, task.data, info={"setup_time": 0.0, "exec_time": duration})

    def end_waiting(self) -> None:
        pass

    def close(self) -> None:
        pass
