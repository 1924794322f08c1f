"""``loads``: unpickles without keeping other threads waiting, such as one that runs an event loop.

``pickle.loads`` holds Python's global lock from the first byte to the last, which takes a third of a second for 100 MB.
Python code lets go of the lock when another thread has waited for 5 ms (``sys.getswitchinterval``). So here Python code
hands the unpickler its bytes, in pieces for which it needs a fraction of that, and lets go of the lock after each.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterable
from typing import Any

LEAST = 1024 * 1024
"""Bytes of the smallest pickle for which this is worth while. ``pickle.loads`` takes some milliseconds for so many."""

_PIECE = 256 * 1024
_LINE = 1024  # bytes in which the end of a line is looked for at a time

_Unpickler = pickle.Unpickler  # saved before any of the user's code can replace it

_let_others_run = time.sleep  # with 0 seconds it only lets go of the lock


def loads(data: bytes, buffers: Iterable[Any] = ()) -> Any:
    """Unpickle an object.

    Args:
        data: its pickle, and perhaps more bytes after it.
        buffers: its out-of-band buffers.
    """
    return _Unpickler(_Pieces(data), buffers=buffers).load()


class _Pieces:
    """A file for an unpickler, which reads a frame of 64 KB, or a large object, at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        found = bytes(self._data[self._at : self._at + size])
        self._at += len(found)
        return found

    def readinto(self, target: Any) -> int:
        """Fill a buffer with the next bytes, and return how many there were."""
        into, size = memoryview(target), min(len(target), len(self._data) - self._at)
        for start in range(0, size, _PIECE):
            stop = min(start + _PIECE, size)
            into[start:stop] = self._data[self._at + start : self._at + stop]
            _let_others_run(0)
        self._at += size
        return size

    def readline(self) -> bytes:
        """Return the bytes up to the next end of a line. Only old protocols and text opcodes ask for lines."""
        # A search does not copy the rest of the pickle, as most lines are names and numbers.
        start, end = self._at, -1
        while end < 0 and self._at < len(self._data):
            piece = bytes(self._data[self._at : self._at + _LINE])
            end = piece.find(b"\n")
            self._at += end + 1 or len(piece)
        return bytes(self._data[start : self._at])
