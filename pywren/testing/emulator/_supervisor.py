"""The supervisor of one child process. It ensures that the child and its descendants do not outlive the emulator.

``supervised(command)`` starts the command under this module, in a process between the emulator and the command. The
supervisor adopts orphaned descendants (it is their subreaper). It kills all descendants when its standard input ends,
which happens however the emulator ends, or when the command ends. It runs as a script, by its path: importing pywren
would take longer than starting a container.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_NOT_FOUND = 127

_RUN_MODULE = (
    "import runpy, sys; module, *sys.path = sys.argv[1:]; sys.argv[1:] = []; "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def supervised(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command under a supervisor.

    The caller holds the other end of the supervisor's standard input; the command reads from ``/dev/null``. The command
    inherits standard output and error, the environment, the working directory and descriptors. The exit code is the
    command's: 128 + n if signal n ended it, 127 if it cannot start.
    """
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *command]


def module_command(module: str) -> list[str]:
    """Return the command line that runs a module in a new interpreter with this interpreter's import path.

    ``python -m`` would search the working directory first, which may contain anything.
    """
    return [sys.executable, "-c", _RUN_MODULE, module, *sys.path]


def main() -> None:
    """Run ``_supervisor.py CMD…``."""
    wakeup = _wakeup_pipe()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    command = _start(sys.argv[1:])
    status = None
    try:
        status = _watch(command, wakeup)
    finally:
        _kill_all(command)
    os._exit(status)


def _wakeup_pipe() -> int:
    """Return a descriptor that becomes readable when a child ends or a signal asks this process to end."""
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # Python writes to the pipe only for signals that have a Python handler
    return reading


def _start(command: Sequence[str]) -> int:
    """Start the command in its own process group, and return its process id."""
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # the child may have done this itself and already be running the command
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # in case the supervisor itself is killed
        if os.getppid() == supervisor:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.execvp(command[0], list(command))
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {error}\n".encode())
    finally:
        os._exit(_NOT_FOUND)


def _watch(command: int, wakeup: int) -> int:
    """Reap children until the command or the standard input ends; return the exit code for the supervisor."""
    while True:
        readable, _, _ = select.select([0, wakeup], [], [])
        if wakeup in readable:
            asked = set(os.read(wakeup, 4096)) - {signal.SIGCHLD}
            if asked:
                return 128 + min(asked)
            status = _reap(command)
            if status is not None:
                return status
        if 0 in readable and not os.read(0, 4096):
            return 128 + signal.SIGKILL


def _reap(command: int) -> int | None:
    """Reap every child that has ended; return the exit code of the command if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


def _kill_all(command: int) -> None:
    """Kill all descendants, even those that left the process group: kill and adopt orphans until none is left."""
    with contextlib.suppress(OSError):
        os.killpg(command, signal.SIGKILL)
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Return the process ids of this process's children; empty without ``/proc``."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # the kernel was built without CONFIG_PROC_CHILDREN
        return [pid for pid in _processes() if _parent(pid) == own]


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])  # the name before ")" may contain any text
    except OSError:
        return None


def _prctl(option: int, value: int) -> None:
    """Call Linux's ``prctl``; do nothing on other systems, where process groups must suffice."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
