"""The processes below a process, including daemons, which have left its process group and session (Linux).

A worker process is a *subreaper* (prctl(2), PR_SET_CHILD_SUBREAPER): orphans among its descendants become its own
children. So everything that its call has started is below it as long as it lives. After it has died, its daemons are
found by a mark in the environment, which each worker process has and all of its descendants inherit.

These functions act on process ids. An id is safe as long as its process is not reaped. So ``pid`` must always be an
unreaped child of the caller, or a process that a pidfd refers to.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable

MARK = "PYWREN_WORKER"
"""The environment variable that names the directories of the worker processes above a process."""

_PR_SET_CHILD_SUBREAPER = 36
# A process in state D (proc(5)) ends only when its I/O does. The pump must not wait for that.
_END_SECONDS = 1.0  # seconds to wait for killed processes to end
_ROUNDS = 100  # the most rounds of killing processes that were started meanwhile


def mark(environment: dict[str, str], directory: str) -> None:
    """Add the mark to the environment of a worker process that is about to start."""
    # Appended, not replaced: a worker of a nested pool carries the marks of all workers above it, and dies with any of
    # them.
    environment[MARK] = os.pathsep.join(filter(None, (environment.get(MARK), directory)))


def load_prctl() -> Callable[..., int] | None:
    """Return the C function ``prctl``, or ``None`` on systems without it."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes
    except ImportError:  # a Python that was built without libffi
        return None
    # Loaded once before any fork: ``dlopen`` takes locks, and takes longer than the fork itself.
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    return prctl


def adopt_orphans(prctl: Callable[..., int] | None) -> bool:
    """Make this process the parent of the orphans among its descendants (Linux). Return whether that succeeded."""
    # A fork does not inherit this attribute (prctl(2)), so each forked process must call this itself.
    return prctl is not None and prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def kill_group(pid: int) -> None:
    """Kill a process and its process group."""
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    for kill in (os.killpg, os.kill):  # at first a process does not have its own group
        try:
            kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # nothing is left of it (macOS returns EPERM for a group of zombies)


def kill_tree(pid: int) -> None:
    """Kill an unreaped process, its process group, and everything below it."""
    # This order: as soon as the process is dead, its children belong to another parent, and are not found below it.
    kill_descendants(pid)
    kill_group(pid)


def kill_descendants(pid: int) -> bool:
    """Kill everything below an unreaped process, and wait until all of it has ended.

    The process is stopped first, and is never continued. So it starts nothing more, and orphans become its children,
    where the next round finds them.

    Returns:
        Whether everything has ended; False if the process itself has already died, because then what it left is no
        longer below it.
    """
    # The kernel's lists of children are complete only while the parents are stopped (proc(5)). SIGSTOP cannot be
    # caught.
    _signal_group(pid, signal.SIGSTOP)
    for _ in range(_ROUNDS):
        found = _running_below(pid)
        if not found:
            # A stopped process (state T) counts as running. If it has died, its children went elsewhere between two
            # looks.
            return _is_running(pid)
        # Some do not end in time. More rounds would each wait just as long, while the pump's other work waits for this.
        if not _kill_and_wait(found):
            break
    return False


def kill_marked(directory: str) -> None:
    """Kill the processes that a dead worker process left in other process groups. Its mark identifies them."""
    needle, until = os.fsencode(directory), time.monotonic() + _END_SECONDS
    ended: set[int] = set()
    for _ in range(_ROUNDS):
        found, new = [], False
        for pid in _all_processes():
            marks = _marks_of(pid, until)
            if marks is None:
                # It ended after the list was made, or before. In the first case it may have forked in between.
                new = new or pid not in ended
                ended.add(pid)
            elif needle in marks:
                found.append(pid)
        # Repeated until a look finds none: a process that was about to fork may have done so before its SIGKILL.
        if not _kill_and_wait(found) or not (found or new) or time.monotonic() >= until:
            return


def children_of(pid: int) -> list[int]:
    """Return the children of a process, including zombies."""
    try:
        # The kernel lists children by thread: each thread has those that it has forked.
        return [child for task in os.listdir(f"/proc/{pid}/task") for child in _children_of_task(pid, task)]
    except FileNotFoundError:
        pass  # the process no longer exists, or this kernel has no such lists (CONFIG_PROC_CHILDREN)
    # Either there is no /proc at all, as on macOS, or this kernel does have the lists, so the process is gone.
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
    """Kill processes and wait until they have ended. Return whether they ended within ``_END_SECONDS``."""
    poll = select.poll()
    descriptors: list[int] = []
    for pid in pids:
        with contextlib.suppress(OSError):
            # macOS has no /proc either, so no list of processes leads here there.
            if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
                os.kill(pid, signal.SIGKILL)
                continue
            # Open first, then kill through the descriptor: from here on the signal and the wait concern the same
            # process, even if its number is reused. It becomes readable when the process is a zombie (pidfd_open(2));
            # the reaping is for its parent.
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
    # A zombie (Z) needs no killing, and nothing but its parent can remove it.
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/<pid>/stat``, beginning with the state; an empty list if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name of the program comes before this, in parentheses, and may itself contain spaces and parentheses
            # (proc(5)).
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _all_processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _marks_of(pid: int, until: float) -> bytes | None:
    """Return the marks in a process's environment, or ``None`` if the process has ended.

    Args:
        pid: the process.
        until: how long to wait for the end of an execve(2), in seconds of ``time.monotonic``. One limit for all
            processes: the pump's other work waits for this.
    """
    try:
        # The environment with which the program was started (proc(5)). Later changes, as by ``os.environ``, do not show
        # here.
        environment = _read(pid, "environ")
        while not environment and _is_program(pid) and time.monotonic() < until:
            # In the middle of execve(2) a process has neither an environment nor arguments.
            has_arguments = bool(_read(pid, "cmdline"))
            if not has_arguments:
                time.sleep(0.001)  # no event tells the end of execve(2)
            environment = _read(pid, "environ")
            if has_arguments:
                break  # it was started without any variable
    except PermissionError:  # it belongs to another user
        return b""
    except OSError:  # it no longer exists
        return None
    if not environment and not _is_running(pid):
        return None
    return b"".join(variable for variable in environment.split(b"\0") if variable.startswith(_MARK_PREFIX))


def _is_program(pid: int) -> bool:
    """Tell whether a process is neither a zombie nor a thread of the kernel, which have no environment."""
    state = _stat(pid)
    return bool(state) and state[0] not in "ZX" and not int(state[_FLAGS]) & _PF_KTHREAD


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read(_MOST_ENVIRONMENT)


_FLAGS, _PF_KTHREAD = 6, 0x00200000  # the index of the flags in what _stat() returns; linux/sched.h
_MARK_PREFIX = os.fsencode(f"{MARK}=")
_MOST_ENVIRONMENT = 4 * 1024 * 1024
