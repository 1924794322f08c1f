"""Keeps pywren's file descriptors away from the numbers that programs close, reopen or take for granted.

Libraries and child processes write to descriptors 1 and 2, whatever these are, and daemons close the low numbers in
bulk. So pywren's descriptors in the client stay above the standard streams, and a child moves its own to high numbers.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Set

LONGEST_POLL = 86_400_000.0
"""The longest single wait, in milliseconds: ``poll`` accepts at most 2**31 - 1 (25 days), and calls may run longer."""

_LAST_STANDARD = 2


def high_descriptor(descriptor: int) -> int:
    """Move a descriptor out of the low numbers, which programs close in bulk, and return the new number."""
    import fcntl

    # The usual soft limit is 1024 on Linux and on Lambda, but 256 on macOS, where F_DUPFD from 256 on fails (EINVAL).
    for lowest in (256, 64, 16):
        try:
            # One step instead of dup(2) and a flag: a program that another thread starts in between would inherit the
            # descriptor.
            moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
        except OSError:
            continue  # the limit on descriptors (RLIMIT_NOFILE) is lower
        os.close(descriptor)
        return moved
    return descriptor


def above_standard(descriptor: int) -> int:
    """Move a descriptor if it got the number of a standard stream that the client had closed. Return its new number."""
    return high_descriptor(descriptor) if descriptor <= _LAST_STANDARD else descriptor


def pipe() -> tuple[int, int]:
    """Open a pipe whose descriptors are above the standard streams. Return the read end and the write end."""
    # A program that has closed its standard input gets 0 here. A daemon that closes 0 to 2 later would close our pipe.
    read, write = os.pipe()
    return above_standard(read), above_standard(write)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Open a pair of stream sockets whose descriptors are above the standard streams."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return _above_standard(one), _above_standard(other)


def _above_standard(sock: socket.socket) -> socket.socket:
    if sock.fileno() > _LAST_STANDARD:
        return sock
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=above_standard(sock.detach()))


def close_all_but(kept: Set[int]) -> None:
    """Close every descriptor of this process except the given ones."""
    # Not every number up to RLIMIT_NOFILE: containers set it to a billion, and the loop would take minutes.
    for entry in ("/proc/self/fd", "/dev/fd"):
        try:
            # The whole list first, because closing changes the directory that is being read. Only a process with one
            # thread may do this: another thread could open a file in between, under a number of the list.
            numbers = [int(name) for name in os.listdir(entry)]
        except OSError:
            continue  # this directory does not exist on this platform, or is not mounted in this container
        for number in numbers:
            if number not in kept:
                _close(number)
        return


def _close(number: int) -> None:
    try:
        os.close(number)
    except OSError:
        pass  # the descriptor with which the directory was listed


def wait_readable(descriptor: int, seconds: float) -> bool:
    """Wait some seconds for a descriptor to become readable. Return whether it is; if closed, it counts as readable."""
    if descriptor < 0:
        return True
    # poll(2), because select(2) fails for numbers from 1024 on. POLLHUP and POLLNVAL are reported without being
    # requested, so the end of a pipe counts as readable too.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def drain(descriptor: int) -> None:
    """Read and discard everything in a non-blocking pipe."""
    try:
        # It also ends at the end of file, which would be readable forever.
        while os.read(descriptor, 512):
            pass
    except BlockingIOError:
        pass
