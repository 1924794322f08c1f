"""Tasks for worker processes, and their results: what the handler or the local pool and its children exchange."""

from __future__ import annotations

import enum
import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from pywren.pickling.packed import Packed
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker import own_signals

# Whoever decides about another attempt must not ask for one after these: the pool has let go of the call.
_FINAL = frozenset({Cause.CANCELLED, Cause.REFUSED})
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Function(NamedTuple):
    """A function that a child loads once and then calls many times.

    Args:
        id: equal ids mean the same function. A child keeps a loaded function under its id. For a small function, the
            pickle can serve as the id.
        pickle: the pickled function, with its big closure variables out of band.
        modules: the user's modules and data files that the function needs: contents keyed by relative POSIX path.
        runtime_path: the directory of an extracted runtime, whose packages (and interpreter, if it has
            one) the child uses.
        load_anew: whether each submission loads the function again. This is for an id that several callsets use: calls
            of one callset must not see the changes that calls of another made to the function's variables.
        shared_as: functions that are equal in this are one function that a client has sent for several callsets. A
            forked process that has run calls of one of them may run calls of another, after loading it anew. ``None``
            if such a process may run no other function than this one.
    """

    id: str | bytes
    pickle: Packed
    modules: Mapping[str, bytes] = _NOTHING
    runtime_path: str | None = None
    load_anew: bool = False
    shared_as: tuple[str | None, ...] | None = None


class Task(NamedTuple):
    """One call, fetched and verified, ready for a child to run.

    Args:
        function: the function.
        data: the pickled argument.
        references: encoded outcomes of earlier calls, in the order of the futures that they replace in the argument.
        extra_env: environment variables for this call only.
        timeout: seconds after which the child's process group is killed; ``None`` for no limit.
        trace: environment variables that say which invocation this is; ``None`` removes one. Calls that differ in
            these may share a process, unlike calls that differ in ``extra_env``.
    """

    function: Function
    data: Packed
    references: tuple[bytes, ...] = ()
    extra_env: Mapping[str, str] = _NOTHING
    timeout: float | None = None
    trace: Mapping[str, str | None] = _NOTHING


class RunResult(NamedTuple):
    """How a task ended: with the outcome of the function, or with a failure of the process that ran it.

    The child makes the result if its process survives the call; otherwise the parent makes it.

    Args:
        success: True when the function returned, False when it raised, ``None`` when there is no outcome.
        body: the pickled value or exception; ``None`` when there is no outcome.
        exception: the name of the exception's type, its text and its formatted traceback.
        failure: why there is no outcome: a time-out, a crash, a cancellation, a result that cannot be pickled.
        returncode: the child's exit code: 0 for an outcome, negative for a signal, ``None`` when unknown.
        stdout: the tail of what the call wrote to file descriptor 1, decoded with replacement.
        stderr: the tail of what the call wrote to file descriptor 2.
        info: ``setup_time`` and ``exec_time`` in seconds, and ``leftovers``: what the call left running, in words.
        begun: whether the function was called; False when it, or its argument, could not be loaded.
    """

    success: bool | None
    body: Packed | None
    exception: tuple[str, str, str] | None = None
    failure: Failure | None = None
    returncode: int | None = 0
    stdout: str = ""
    stderr: str = ""
    info: Mapping[str, Any] = _NOTHING
    begun: bool = True


class Repeats(enum.Enum):
    """Which calls of a batch may run again after they have failed: ``on_results`` decides about each of them."""

    NEVER = "never"
    """None: every result is final."""
    FAILURES = "failures"
    """Calls whose process could not bring an outcome."""
    ERRORS = "errors"
    """These, and calls that raised an exception."""

    def includes(self, result: RunResult) -> bool:
        """Tell whether a call with this result may run again."""
        if self is Repeats.NEVER or result.success:
            return False
        if result.failure is None:
            return self is Repeats.ERRORS
        return result.failure.cause not in _FINAL


class Repeat(NamedTuple):
    """A call to run again: its index in the batch, and how many seconds from now."""

    call: int
    delay: float


class Stop:
    """A request to end a running call. Any thread may make the request, which cannot be undone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listener: Callable[[], object] | None = None
        self._asked = False

    def set(self) -> None:
        """Kill the call's process group. The call then ends as cancelled, unless its result arrived first."""
        with self._lock:  # held while the listener runs, so that no listener runs after ``listen(None)`` returns
            self._asked = True
            listener, self._listener = self._listener, None
            if listener is not None:
                listener()

    def is_set(self) -> bool:
        """Tell whether ``set`` was called."""
        return self._asked

    def listen(self, listener: Callable[[], object] | None) -> None:
        """Set the function that is called once when ``set`` is called; call it now if ``set`` was called already.

        The code that runs the call uses this method. It passes ``None`` when the call has ended.
        """
        with self._lock:
            asked = self._asked
            self._listener = None if asked else listener
        if asked and listener is not None:
            listener()


class Runner(Protocol):
    """Runs tasks in child processes: the fork server, or the local pool."""

    def run(self, task: Task, *, stopped: Stop | None = None) -> RunResult:
        """Run one task to its end, and return how it ended. Nothing that the task does makes this method raise."""

    def end_waiting(self) -> None:
        """End the processes that only wait for another call, to free their memory and open files."""

    def close(self) -> None:
        """End every child process."""


# -- failures ------------------------------------------------------------------------------------------------

_TAIL_LINES = 10


def timeout_failure(seconds: float) -> Failure:
    """Return the failure of a call that was stopped because it ran longer than ``job_max_runtime``."""
    return Failure(
        "CallTimeoutError",
        f"the call ran out of time: it was stopped after {seconds:g} s. "
        "Raise job_max_runtime (and the function's timeout on Lambda, or --max_run_time of pywren-server), or give "
        "each call less to do",
        cause=Cause.TIMED_OUT,
    )


def cancelled_failure(*, running: bool) -> Failure:
    """Return the failure of a call that was cancelled, before it began or while it ran."""
    text = "the call was cancelled" + (" while it ran" if running else "")
    return Failure("CallCancelledError", text, cause=Cause.CANCELLED)


def crash_failure(
    returncode: int | None, stdout: str = "", stderr: str = "", *, was_lost: bool = False, by_itself: bool = False
) -> Failure:
    """Return the failure of a call whose process ended without an outcome.

    Args:
        returncode: the exit code of the process; negative for a signal, ``None`` if it is unknown.
        stdout: the tail of the call's output.
        stderr: the tail of the call's error output.
        was_lost: whether the process closed its connection and lived on, so that it had to be killed.
        by_itself: whether the process is known to have sent itself the signal that ended it (``own_signals``), or to
            have closed its connection.
    """
    how = _how_it_ended(returncode, was_lost=was_lost)
    killed = not by_itself and (returncode is None or -returncode in own_signals.DEADLY)
    cause = Cause.KILLED if killed else Cause.ENDED_ITSELF
    return Failure("WorkerCrashedError", how + _last_lines(stdout, stderr), (returncode,), cause)


def _how_it_ended(returncode: int | None, *, was_lost: bool) -> str:
    if returncode is None:
        return "the process that ran the call ended with an unknown (non-zero return code) status"
    if returncode == 0:
        return (
            "the function ended its process before it returned, for example with sys.exit(0) or os._exit(0); "
            "use return to end a call"
        )
    if returncode > 0:
        return f"the process that ran the call ended with a non-zero return code: {returncode}"
    text = f"the process that ran the call ended with a non-zero return code: {returncode} ({signal_name(-returncode)})"
    if -returncode != getattr(signal, "SIGKILL", 9):
        return text
    text += f". Running out of memory may be the cause: {_memory()}give the worker more memory, or each call less to do"
    if was_lost:
        text += "; or the function closed file descriptors that it had not opened, as os.closerange does"
    return text


def _memory() -> str:
    """Return a clause that says how much memory this worker has; an empty text if the size was not configured."""
    size = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
    return f"the function has {size} MB (`lambda: memory` in the configuration); " if size else ""


def signal_name(number: int) -> str:
    """Return the name of a signal, such as ``SIGSEGV``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_lines(stdout: str, stderr: str) -> str:
    """Return the last lines of what a call wrote, ready to append to a message."""
    parts = []
    for name, text in (("stderr", stderr), ("stdout", stdout)):
        lines = text.rstrip().splitlines()[-_TAIL_LINES:]
        if lines:
            parts.append(f"\nlast lines of {name}:\n" + "\n".join(f"  {line[-500:]}" for line in lines))
    return "".join(parts)
