"""The processes below a process: those that left its process group and session too, as daemons do (Linux).

A worker process is a *subreaper*: what its descendants leave running becomes its own child, so as long as it lives
everything that its call has started is below it. When it has died, its daemons are found by the mark that each
worker process has in its environment, which everything that it starts inherits.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable

MARK = "PYWREN_WORKER"
"""The environment variable with the directories of the worker processes that a process comes from."""

_PR_SET_CHILD_SUBREAPER = 36
_END_SECONDS = 1.0
_ROUNDS = 100


def mark(environment: dict[str, str], directory: str) -> None:
    """Mark the environment of a worker process that is to be started."""
    environment[MARK] = os.pathsep.join(filter(None, (environment.get(MARK), directory)))


def load_prctl() -> Callable[..., int] | None:
    """Return the function with which a process on Linux says what it is to the kernel."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes
    except ImportError:  # not every Python has it
        return None
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    return prctl


def adopt_orphans(prctl: Callable[..., int] | None) -> bool:
    """Have what descendants of this process leave running become its own children, as jobs of a shell do (Linux)."""
    return prctl is not None and prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def kill_group(pid: int) -> None:
    """Kill a process and its process group."""
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    for kill in (os.killpg, os.kill):  # the group is not there yet in the first moment of a process
        try:
            kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # nothing is left of it (macOS says so by EPERM)


def kill_tree(pid: int) -> None:
    """Kill a process that was not reaped yet, its process group, and all that is below it."""
    kill_descendants(pid)
    kill_group(pid)


def kill_descendants(pid: int) -> bool:
    """Kill all that is below a process that was not reaped yet, and wait for the ends of it.

    The process is stopped first, for good. So it starts nothing more, and what becomes an orphan meanwhile comes to
    it: it is found in the next round.

    Returns:
        Whether all of it is gone. If the process has died already, what it left is not below it any more.
    """
    _signal_group(pid, signal.SIGSTOP)
    for _ in range(_ROUNDS):
        found = _running_below(pid)
        if not found:
            return _is_running(pid)
        if not _kill_and_wait(found):
            break
    return False


def kill_marked(directory: str) -> None:
    """Kill what a worker process that has died left in other process groups: what has its mark."""
    needle = os.fsencode(directory)
    for _ in range(_ROUNDS):
        found = [pid for pid in _all_processes() if needle in _marks_of(pid) and _is_running(pid)]
        if not found or not _kill_and_wait(found):
            return


def children_of(pid: int) -> list[int]:
    """Return the children of a process, those that have ended and were not reaped too."""
    try:
        return [child for task in os.listdir(f"/proc/{pid}/task") for child in _children_of_task(pid, task)]
    except FileNotFoundError:
        pass  # the process is gone; or this kernel keeps no such lists
    if not os.path.exists("/proc/self/stat") or os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
        return []
    return [other for other in _all_processes() if _stat(other)[1:2] == [str(pid)]]


def _children_of_task(pid: int, task: str) -> list[int]:
    with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def _running_below(pid: int) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children_of(waiting.pop())
        waiting += below
        found += filter(_is_running, below)
    return found


def _kill_and_wait(pids: Iterable[int]) -> bool:
    """Kill processes and wait until they have ended; returns whether they did so in a moment."""
    poll = select.poll()
    descriptors = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if not hasattr(os, "pidfd_open"):
                os.kill(pid, signal.SIGKILL)
                continue
            descriptors.append(os.pidfd_open(pid))
            poll.register(descriptors[-1], select.POLLIN)
            signal.pidfd_send_signal(descriptors[-1], signal.SIGKILL)
    try:
        ended = 0
        while ended < len(descriptors):
            ready = poll.poll(_END_SECONDS * 1000)
            if not ready:
                return False
            for descriptor, _ in ready:
                poll.unregister(descriptor)
            ended += len(ready)
        return True
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _is_running(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def _stat(pid: int) -> list[str]:
    """Return state, parent and so on; nothing when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _all_processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _marks_of(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read(_MOST_ENVIRONMENT).split(b"\0")
    except OSError:  # another user's, or gone
        return b""
    return b"".join(variable for variable in variables if variable.startswith(_MARK_PREFIX))


_MARK_PREFIX = os.fsencode(f"{MARK}=")
_MOST_ENVIRONMENT = 4 * 1024 * 1024
