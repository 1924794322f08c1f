"""What a worker process is asked and what it answers, between the handler or the pool and its children."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pywren._pickling import Packed
from pywren._wire import Failure


@dataclass(frozen=True)
class Function:
    """What a child loads once and then calls many times.

    Args:
        id: equal ids mean the same function: a child keeps what it loaded under it.
        pickle: the pickled function, with its big closure variables out of band.
        modules: the user's modules and data files it needs, source by relative POSIX path.
        runtime_path: the directory of an extracted runtime, whose packages (and interpreter, if it has
            one) the child uses.
    """

    id: str
    pickle: Packed
    modules: Mapping[str, bytes] = field(default_factory=dict)
    runtime_path: str | None = None


@dataclass(frozen=True)
class Task:
    """One call, fetched and verified, ready to be run by a child.

    Args:
        function: the function.
        data: the pickled argument.
        references: encoded outcomes of earlier calls that futures among the argument stand for, in order.
        extra_env: environment variables of this call alone.
        timeout: seconds after which the child's process group is killed; ``None`` never.
    """

    function: Function
    data: Packed
    references: tuple[bytes, ...] = ()
    extra_env: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None


@dataclass(frozen=True)
class RunResult:
    """How a task ended: with an outcome of the function, or with a failure around it.

    Args:
        success: True when the function returned, False when it raised, None when there is no outcome.
        body: the pickled value or exception; None when there is no outcome.
        exception: the name of the exception's type, its text and its formatted traceback.
        failure: why there is no outcome: time-out, crash, cancelled.
        returncode: the child's exit code, 0 for an outcome; negative for a signal.
        stdout: the tail of what the call wrote to file descriptor 1, decoded with replacement.
        stderr: the tail of what it wrote to file descriptor 2.
        info: ``setup_time`` and ``exec_time`` in seconds, and what else the child tells.
    """

    success: bool | None
    body: Packed | None
    exception: tuple[str, str, str] | None = None
    failure: Failure | None = None
    returncode: int | None = 0
    stdout: str = ""
    stderr: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    """Something that runs tasks in child processes: the fork server, or the local pool."""

    def run(self, task: Task, *, stopped: object | None = None) -> RunResult:
        """Run one task to its end and say how it ended; never raises for what the task does."""

    def close(self) -> None:
        """End every child process."""
