"""``copied``: copies bytes without keeping other threads waiting, such as one that runs an event loop.

Python copies bytes with its global lock held: 100 MB take 30 ms, and more if they come from a file that is mapped.
"""

from __future__ import annotations

import io

_LEAST = 1024 * 1024
_PIECE = 256 * 1024


def copied(data: bytes | bytearray | memoryview, start: int = 0) -> bytes:
    """Return a copy of bytes.

    Args:
        data: the bytes.
        start: how many bytes at the beginning to leave out.
    """
    view = memoryview(data)
    if len(view) < _LEAST:
        return bytes(view[start:])
    # The loop is Python code, which lets another thread have the lock between two pieces.
    copy = io.BytesIO()
    for position in range(start, len(view), _PIECE):
        copy.write(view[position : position + _PIECE])
    return copy.getvalue()  # without another copy
