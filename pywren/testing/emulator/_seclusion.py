"""Runs a program so that no other user of the machine can reach it; ``_backends`` runs this file by its path.

SeaweedFS does not authenticate its clients, and its parts communicate over local ports and sockets in ``/tmp``. Here
SeaweedFS gets its own network namespace, and its own mount namespace with an empty ``/tmp``. It can be reached only
through a Unix socket in the working directory, which is the emulator's directory and open only to its owner.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
_PR_SET_PDEATHSIG = 1
_HOME = "/tmp/home"
FAILED = 125
"""The exit code where the machine does not allow namespaces."""


def secluded(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command in seclusion. There, its working directory has another path."""
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *command]


def main() -> None:
    """Run ``_seclusion.py CMD…``; exit with ``FAILED`` where seclusion is not possible."""
    os.umask(0o077)  # anyone with write permission for the socket can connect
    try:
        program = _seclude(sys.argv[1])
    except OSError as error:
        os.write(2, f"this machine allows no namespaces: {error}\n".encode())
        sys.exit(FAILED)
    os.execve(program, sys.argv[1:], {**os.environ, "HOME": _HOME, "PWD": _HOME})


def _seclude(path: str) -> int:
    """Create namespaces and enter them. Return an open descriptor of the program, whose path may be gone by then."""
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "only Linux has namespaces")
    parent, uid, gid = os.getppid(), os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    # A new user namespace clears this process's request to be killed when the parent ends, so repeat the request.
    libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
    if os.getppid() != parent:
        os._exit(FAILED)
    program, home = os.open(path, os.O_RDONLY), os.open(".", os.O_PATH)
    _mount(libc, "none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount(libc, "tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV)
    os.mkdir(_HOME)
    _mount(libc, f"/proc/self/fd/{home}", _HOME, "", _MS_BIND)  # the directory may have been below the old /tmp
    os.close(home)
    os.chdir(_HOME)
    _raise_loopback()
    os.set_inheritable(program, True)  # if the program is a script, its interpreter opens it again
    return program


def _raise_loopback() -> None:
    """Bring up the loopback interface, which is down in a new network namespace."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def _mount(libc: ctypes.CDLL, source: str, target: str, kind: str, flags: int) -> None:
    status = libc.mount(source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), None)
    _check(status, f"mount at {target}")


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
