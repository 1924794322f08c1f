"""``Output``: sends a container's output and Lambda's own lines to the log, and keeps the end of the log."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
import time
from collections.abc import Callable

_LONGEST_LINE = 256 * 1024 - 26  # CloudWatch's limit for an event
_READ_BYTES = 256 * 1024


class Output:
    """The log of one container.

    Processes may keep the pipe open after a call, so the end of a call's output is not marked. The output is whatever
    the pipe contains when the call ends.

    Args:
        log: takes each line with its time in milliseconds.
        tail: the number of bytes to keep.
    """

    def __init__(self, log: Callable[[int, str], None], *, tail: int) -> None:
        self._log, self._limit = log, tail
        self._reading, self.descriptor = os.pipe()
        os.set_blocking(self._reading, False)
        self._partial = b""
        self._tail = bytearray()
        asyncio.get_running_loop().add_reader(self._reading, self._read, _READ_BYTES)

    def begin(self) -> None:
        """Start to collect the end of the log for a new invocation."""
        self._tail.clear()

    @property
    def tail(self) -> bytes:
        """The end of the part of the log that was written since ``begin``."""
        return bytes(self._tail[-self._limit :])

    def say(self, line: str) -> None:
        """Add one of Lambda's own lines."""
        self._write(line)

    def drain(self) -> None:
        """Read the current contents of the pipe; an incomplete last line counts as a line."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self._reading, termios.FIONREAD, waiting)
        if waiting[0]:  # read no more than what is in the pipe now: a process may print endlessly
            self._read(waiting[0])
        if self._partial:
            self._line(self._partial)
            self._partial = b""

    def close(self) -> None:
        """Read the remaining output, and close the pipe."""
        self.drain()
        asyncio.get_running_loop().remove_reader(self._reading)
        os.close(self._reading)
        os.close(self.descriptor)

    def _read(self, size: int) -> None:
        try:
            data = os.read(self._reading, size)
        except BlockingIOError:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._partial) >= _LONGEST_LINE:
            self._line(self._partial)
            self._partial = b""

    def _line(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), _LONGEST_LINE):
            text = line[start : start + _LONGEST_LINE].decode("utf-8", "replace")
            # The runtime client separates the lines of a traceback with \r to keep them in one event.
            self._write(text.replace("\r", "\n"))

    def _write(self, text: str) -> None:
        self._log(time.time_ns() // 1_000_000, text)
        self._tail += text.encode("utf-8", "replace") + b"\n"
        if len(self._tail) > 16 * self._limit:
            del self._tail[: -self._limit]
