"""The first process of an execution environment: sets it up, starts the runtime, and finally kills all processes.

It is a separate program that runs without pywren on its path (see ``sandbox_command``), because every cold start waits
for it. Its standard input is a socket to the emulator. The first line says what to set up; one-word commands follow.
When the input ends, the whole environment ends. In an isolated environment this is process 1 of the namespaces that
``unshare`` created; otherwise it is the subreaper of all its descendants.

Commands: ``start`` the runtime, ``kill`` everything except this process, ``watch`` the memory until ``rest``, ``stop``
and ``cont`` (continue) everything. Reports: ``ready``, ``failed WHY``, ``exit CODE`` (negative for a signal; all other
processes have ended by then), ``memory KIB`` (the maximum so far).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

WATCH_SECONDS = 0.02
"""The interval between two checks of the memory."""

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC = 0x2, 0x4, 0x8, 0x1000, 0x4000
_ATTR_RDONLY, _ATTR_NOSUID = 0x1, 0x2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MNT_DETACH = 2
_CLONE_NEWUSER = 0x10000000
_MOUNT_SETATTR = 442  # the system call mount_setattr has this number on every architecture
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_NOTABLE_KIB = 1024
_OPEN_FILES = 1024  # Lambda's limit

_libc = ctypes.CDLL(None, use_errno=True)


def sandbox_command(python: str, *, isolated: bool) -> list[str]:
    """Return the command line that runs this program; its standard input must be a socket.

    Args:
        python: an interpreter of this version that is not in a virtual environment.
        isolated: whether to run it in its own namespaces.
    """
    start = "import sys; sys.path.insert(0, sys.argv[1]); import _sandbox; del sys.path[0]; _sandbox.main()"
    command = [python, "-I", "-S", "-c", start, os.path.dirname(os.path.abspath(__file__))]
    if not isolated:
        return command
    return ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--ipc", "--fork", "--kill-child", *command]


def main() -> None:
    """Set up the environment, and carry out the emulator's commands until the environment ends."""
    channel = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    commands = _Lines(channel)
    plan = json.loads(commands.first())
    try:
        if plan["isolated"]:
            _build_root(plan)
        elif sys.platform == "linux":
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    except OSError as error:
        _report(channel, f"failed {error}")
        os._exit(1)
    environment = _Environment(channel, plan)
    _report(channel, "ready")
    try:
        environment.serve(commands)
    finally:
        environment.kill()
        os._exit(0)


class _Lines:
    """Reads the emulator's commands from a descriptor, one command a line."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._rest = b""

    def first(self) -> str:
        """Wait for a line and return it."""
        while True:
            line, found, rest = self._rest.partition(b"\n")
            if found:
                self._rest = rest
                return line.decode()
            if not self._fill():
                os._exit(0)

    def arrived(self) -> list[str] | None:
        """Return the lines that have arrived; ``None`` at the end of the input."""
        more = self._fill()
        lines = self.waiting()
        return lines if more or lines else None

    def waiting(self) -> list[str]:
        """Return the complete lines among the data that was already read."""
        *lines, self._rest = self._rest.split(b"\n")
        return [line.decode() for line in lines]

    def _fill(self) -> bool:
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:  # the other end was closed before it had read all reports
            return False
        self._rest += data
        return bool(data)


class _Environment:
    """The processes of an execution environment.

    Args:
        channel: the descriptor to write reports to.
        plan: ``command``, ``env``, ``cwd``, ``uid``, ``isolated``, ``memory_kib``.
    """

    def __init__(self, channel: int, plan: dict[str, Any]) -> None:
        self._channel, self._plan = channel, plan
        self._isolated = bool(plan["isolated"])
        self._runtime: int | None = None
        self._group: int | None = None
        self._watching = False
        self._look_at = 0.0
        self._most_kib = 0
        self._looked_kib = 0
        self._dying: int | None = None

    def serve(self, commands: _Lines) -> None:
        """Carry out the emulator's commands until the emulator ends."""
        wakeup = _wakeup_pipe()
        poll = select.poll()
        poll.register(commands.descriptor, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        for word in commands.waiting():
            self._obey(word)
        while True:
            left = max(0.0, self._look_at - time.monotonic()) * 1000 + 1 if self._watching else None
            ready = dict(poll.poll(left))
            if wakeup in ready:
                os.read(wakeup, 4096)
                self._reap()
            if commands.descriptor in ready:
                words = commands.arrived()
                if words is None:
                    return
                for word in words:
                    self._obey(word)
            if self._watching and time.monotonic() >= self._look_at:
                self._check_memory()
                self._look_at = time.monotonic() + WATCH_SECONDS

    def kill(self) -> None:
        """Kill all other processes in the environment, and reap them."""
        while True:
            self._signal(signal.SIGKILL)
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            self._ended(pid, status)

    def _obey(self, word: str) -> None:
        if word == "start":
            self._runtime = self._start()
        elif word == "kill":
            self.kill()
        elif word in ("watch", "rest"):
            self._watching = word == "watch"
            self._look_at = time.monotonic() + WATCH_SECONDS  # calls that end sooner are measured only at their end
            if not self._watching:
                self._check_memory()
                _report(self._channel, f"memory {self._most_kib}")
        elif word in ("stop", "cont"):
            self._signal_each(signal.SIGSTOP if word == "stop" else signal.SIGCONT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._isolated:
                os.kill(-1, number)  # every process in the namespace except this one
                return
        if sys.platform != "linux" and self._group:  # without /proc, only the runtime's process group can be found
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, number)
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _signal_each(self, number: int) -> None:
        """Signal the processes one by one, and then those that they have started meanwhile.

        Not with ``kill(-1)``: if a process forks just then, Linux hands the SIGSTOP on to the new process, but not a
        SIGCONT that follows before the fork is over. The new process would stay stopped for ever.
        """
        if sys.platform != "linux":
            self._signal(number)
            return
        seen: set[int] = set()
        while new := set(self._processes()) - seen:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            seen |= new

    def _start(self) -> int:
        """Start the runtime in a new session, and return its process id."""
        pid = os.fork()
        if pid:
            self._group = pid
            return pid
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= _OPEN_FILES:  # a hard limit can only be lowered
                resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
            plan = self._plan
            if self._isolated:
                _become(plan["uid"])
            elif sys.platform == "linux":
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # in case this process itself is killed
            os.chdir(plan["cwd"])
            os.execve(plan["command"][0], plan["command"], plan["env"])
        except OSError as error:
            os.write(2, f"the runtime cannot be started: {error}\n".encode())
        finally:
            os._exit(127)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        """Handle the end of a process. If it was the runtime, kill all other processes and then report the end."""
        if pid == self._dying:
            self._dying = None
        if pid != self._runtime:
            return
        self._runtime = None
        self.kill()
        self._watching = False
        _report(self._channel, f"memory {self._most_kib}")
        _report(self._channel, f"exit {os.waitstatus_to_exitcode(status)}")

    def _check_memory(self) -> None:
        """Check the memory use. Beyond the limit, kill the process that uses most memory, as the kernel would.

        Each check reads the resident sizes. These count shared pages once for each process, so the real use is never
        higher. To report the real use, the kernel must walk through all pages; the real use is therefore read only when
        the resident sizes have grown or are beyond the limit.
        """
        resident = {pid: _resident_kib(pid) for pid in self._processes()}
        total = sum(resident.values())
        if total < min(self._looked_kib + _NOTABLE_KIB, self._plan["memory_kib"]):
            self._looked_kib = min(self._looked_kib, total)
            return
        self._looked_kib = total
        self._most_kib = max(self._most_kib, _used_kib(resident))
        if self._most_kib > self._plan["memory_kib"] and self._dying not in resident:
            self._most_kib = self._plan["memory_kib"]  # a control group, as on Lambda, would not have allowed more
            self._dying = max(resident, key=resident.__getitem__)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._dying, signal.SIGKILL)

    def _processes(self) -> list[int]:
        """Return the ids of the environment's processes."""
        if self._isolated:
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        found = _children(os.getpid())
        for pid in found:
            found += _children(pid)
        return found


def _wakeup_pipe() -> int:
    """Return a descriptor that becomes readable when a child ends."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only signals with a Python handler are written to the pipe
    return reading


def _report(channel: int, text: str) -> None:
    with contextlib.suppress(OSError):  # the emulator has ended: the next read notices it
        os.write(channel, f"{text}\n".encode())


def _children(pid: int) -> list[int]:
    """Return the ids of a process's children, whichever thread created them; empty without ``/proc``."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except OSError:  # the process has ended
        pass
    return found


def _resident_kib(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_KIB
    except (OSError, IndexError):
        return 0


def _used_kib(resident: dict[int, int]) -> int:
    """Return the memory that the processes use together. As on Lambda, no other container counts as sharing it.

    Anonymous pages count by each process's proportional share. Pages of files are shared with other containers too,
    which lowers their proportional share. Therefore all pages of files together count at least as much as the pages of
    files in the process that has most of them.
    """
    own = files = most_files = 0
    for pid, kib in resident.items():
        pages = _pages_kib(pid)
        proportion = pages.get(b"Pss:", kib)
        own_here = pages.get(b"Pss_Anon:", 0)
        own += own_here
        files += proportion - own_here
        most_files = max(most_files, pages.get(b"Rss:", 0) - pages.get(b"Anonymous:", 0))
    return own + max(files, most_files)


def _pages_kib(pid: int) -> dict[bytes, int]:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return {line.split()[0]: int(line.split()[1]) for line in file if line.endswith(b" kB\n")}
    except OSError:  # the process has ended, or the kernel does not provide the file
        return {}


def _build_root(plan: dict[str, Any]) -> None:
    """Build a root that has only what the environment may see, and switch to this root; only ``/tmp`` is writable.

    It is a new root, not mounts over the old one: the interpreter and the emulator's directory may be below ``/tmp``,
    ``/opt`` or ``/var``, and users other than root cannot create ``/var/task``.
    """
    root = plan["root"]
    os.makedirs(root, exist_ok=True)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=16m")
    for name, flags, kind, options in (
        ("tmp", _MS_NOSUID | _MS_NODEV, "tmpfs", f"mode=1777,size={plan['tmp_bytes']}"),
        ("proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "proc", ""),
    ):
        os.mkdir(f"{root}/{name}")
        _mount(kind, f"{root}/{name}", kind, flags, options)
    for source, target in plan["binds"]:
        _bind(source, root + target)
    for source, target in plan["links"]:
        os.makedirs(os.path.dirname(root + target), exist_ok=True)
        os.symlink(source, root + target)
    os.makedirs(f"{root}/dev")
    for device in _DEVICES:
        _bind(f"/dev/{device}", f"{root}/dev/{device}", read_only=False)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(f"/proc/self/{target}", f"{root}/dev/{name}")
    _set_attributes(root, _ATTR_RDONLY)
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/")


def _bind(source: str, target: str, *, read_only: bool = True) -> None:
    """Make a file or directory visible at another path."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source, target, "", _MS_BIND | _MS_REC, "")
    if read_only:
        _set_attributes(target, _ATTR_RDONLY | _ATTR_NOSUID, _AT_RECURSIVE)


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    arguments = [text.encode() or None for text in (source, target, kind)]
    status = _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None)
    _check(status, f"mount of {source} at {target}")


def _set_attributes(path: str, attributes: int, flags: int = 0) -> None:
    structure = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    status = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR), _AT_FDCWD, path.encode(), flags, structure, ctypes.c_size_t(32)
    )
    _check(status, f"mount_setattr of {path}")


def _become(uid: int) -> None:
    """Become an unprivileged user, as on Lambda, through a namespace that maps this process's user to ``uid``."""
    own_uid, own_gid = os.getuid(), os.getgid()
    _check(_libc.unshare(_CLONE_NEWUSER), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {own_uid} 1"), ("gid_map", f"{uid} {own_gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _prctl(option: int, value: int) -> None:
    _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
