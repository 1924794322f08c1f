"""``OutputTail``: passes one stream of a call on as it arrives, and keeps its last bytes."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable

from pywren.worker.protocol import TAIL_LIMIT

_READ_BYTES = 64 * 1024


def write_through(stream: str, text: str) -> None:
    """Write what a call printed to the same stream of this process."""
    target = getattr(sys, stream)
    if target is None:
        return
    try:
        target.write(text)
        target.flush()
    except (OSError, ValueError):
        pass  # if the client has closed the stream, the call must not lose its result because of that


class OutputTail:
    """Passes one stream of a call on as it arrives, and keeps its last bytes. One thread at a time uses it.

    Args:
        descriptor: the read end of a pipe; this object owns it.
        name: ``stdout`` or ``stderr``.
        sink: called with the name and each piece of text.
    """

    def __init__(self, descriptor: int, name: str, sink: Callable[[str, str], None]) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.name = name
        self._sink = sink
        self._tail = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def pump(self) -> bool:
        """Pass on what has arrived. Return False at the end of the stream."""
        while True:
            try:
                data = os.read(self.descriptor, _READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tail += data
            del self._tail[:-TAIL_LIMIT]
            if text := self._decoder.decode(data):
                self._sink(self.name, text)

    def take(self) -> str:
        """Return the tail of what has arrived since the last time."""
        self.pump()
        text = self._tail.decode("utf-8", "replace")
        self._tail.clear()
        return text

    def close(self) -> None:
        """Close the pipe."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
