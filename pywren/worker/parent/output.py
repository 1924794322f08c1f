"""``OutputTail``: passes one stream of a call on as it arrives, and keeps its last bytes."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable

from pywren.worker.protocol import TAIL_LIMIT

_READ_BYTES = 64 * 1024
_READS = 4  # more than a pipe holds (64 KB on Linux and macOS), so whatever was there before the first is taken


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


Sink = Callable[[str, str], None]
"""Takes the name of a stream, ``stdout`` or ``stderr``, and a piece of text that was written to it."""


class OutputTail:
    """Passes one stream of a call on as it arrives, and keeps its last bytes. One thread at a time uses it.

    Args:
        descriptor: the read end of a pipe; this object owns it.
        name: ``stdout`` or ``stderr``.
        sink: takes each piece of text as it comes.
    """

    def __init__(self, descriptor: int, name: str, sink: Sink) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.name = name
        self._sink = sink
        self._tail = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def pump(self) -> bool:
        """Pass on what has come; returns False at the end of the stream.

        A process that writes as fast as this reads does not keep the caller here: ``poll`` tells of the rest again.
        """
        for _ in range(_READS):
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
        return True

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
