"""``Container``: one execution environment: a process of the deployed code under awslambdaric, warm until it is ended.

It serves the Lambda Runtime API to that process on a port of its own (one request at a time), kills it at the
function's time-out, and watches its memory (the biggest process is killed, as the kernel would). A time-out or crash
*resets* the environment: the process starts anew, its ``/tmp`` stays. Where the kernel allows it (``unshare``), the
environment has user, mount and process namespaces of its own: a private ``/tmp`` of ``EphemeralStorage`` size, the
code read-only at ``/var/task``, layers at ``/opt``, no ``/dev/shm``, no home, and nothing in it outlives it.
Elsewhere: a directory named by ``TMPDIR``, and a supervisor that kills what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pywren.testing.emulator._functions import Revision
from pywren.testing.emulator._settings import Settings


@dataclass(frozen=True)
class Invocation:
    """One execution to be made.

    Args:
        request_id: its id.
        payload: JSON.
        kill_at: a fault: ``start`` or ``before_response``; ``None`` kills nothing.
        start_delay: a fault: seconds added to a cold start.
    """

    request_id: str
    payload: bytes
    kill_at: str | None = None
    start_delay: float = 0.0


@dataclass(frozen=True)
class Reply:
    """What became of an execution.

    Args:
        payload: what the function returned, or Lambda's JSON of the error (``errorType``, ``errorMessage``, …).
        error: ``""``, ``Handled``/``Unhandled`` as in ``X-Amz-Function-Error``.
        duration_ms: from handing the event over to the answer.
        billed_ms: rounded up, init included.
        init_ms: of a cold start, else ``None``.
        max_memory_mb: the most that the environment used.
        log_tail: the last 4 KiB of its log.
        outcome: ``ok``, ``error``, ``timeout``, ``killed``, ``exited`` or ``init``, as in ``Execution``.
        alive: whether the container can take another; false after a kill from outside.
    """

    payload: bytes
    error: str
    duration_ms: float
    billed_ms: int
    init_ms: float | None
    max_memory_mb: int
    log_tail: bytes
    outcome: str
    alive: bool


class Container:
    """One environment.

    Args:
        function_name: whose it is.
        arn: the function's.
        revision: what it runs.
        settings: limits, isolation.
        python: the interpreter.
        directory: its own, removed when it is closed.
        endpoint: the gateway's URL, for the function's own requests.
        credentials: access key, secret and token of the execution role.
        log: takes each line of the log with its time in milliseconds.
    """

    def __init__(
        self,
        function_name: str,
        arn: str,
        revision: Revision,
        *,
        settings: Settings,
        python: Path,
        directory: Path,
        endpoint: str,
        credentials: tuple[str, str, str],
        log: Callable[[int, str], None],
    ) -> None:
        raise NotImplementedError

    async def run(self, invocation: Invocation) -> Reply:
        """Run one invocation to its end, starting the process when none runs; never raises for what the function does.

        Cold, the init phase comes first and at no cost of the function's time-out, up to ``init_seconds``.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Kill everything in it, and remove its directory."""
        raise NotImplementedError


def can_isolate() -> bool:
    """Tell whether this machine lets us make the namespaces, by making them and starting Python there."""
    raise NotImplementedError
