"""``OutputTail``: passes on what a call writes to one stream as it arrives, and keeps the last bytes."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable

from pywren.worker.protocol import TAIL_LIMIT

_READ_BYTES = 64 * 1024
_READS = 4  # together more than a pipe holds (64 KB on Linux and macOS): these reads take all that was in it at first


def write_through(stream: str, text: str) -> None:
    """Write what a call printed to the same stream of this process."""
    # Looked up with each write: programs replace ``sys.stdout``, for example to capture it, and it may be None.
    target = getattr(sys, stream)
    if target is None:
        return
    try:
        # This may block for as long as the terminal or the pipe behind it does, so no lock may be held here.
        target.write(text)
        target.flush()
    except (OSError, ValueError):
        pass  # the client may have closed the stream; the call must not lose its result because of that


Sink = Callable[[str, str], None]
"""Takes the name of a stream, ``stdout`` or ``stderr``, and a piece of text that was written to it."""


class LabelledLines:
    """A sink that passes on whole lines, each after a label. Without a label it passes on everything as it comes.

    Args:
        sink: takes the lines.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._label = ""
        self._begun: dict[str, str] = {}  # for each stream, the line that has no end yet

    def __call__(self, stream: str, text: str) -> None:
        """Take a piece of text."""
        if not self._label:
            self._sink(stream, text)
            return
        lines, _, begun = (self._begun.pop(stream, "") + text).rpartition("\n")
        if len(begun) > TAIL_LIMIT:
            lines, begun = f"{lines}\n{begun}", ""  # a progress bar, perhaps, which ends no line for hours
        if begun:
            self._begun[stream] = begun
        if lines:
            self._sink(stream, labelled(self._label, lines))

    def begin(self, label: str) -> None:
        """Put another label before all following lines."""
        self.end_lines()
        self._label = label

    def end_lines(self) -> None:
        """Pass on the lines that have begun: their call has ended."""
        for stream, begun in self._begun.items():
            self._sink(stream, labelled(self._label, begun))
        self._begun.clear()


def labelled(label: str, text: str) -> str:
    """Return a text with a label before each line."""
    return "".join(f"{label} {line}\n" for line in text.splitlines())


class OutputTail:
    """Passes on what a call writes to one stream, and keeps the last bytes. Only one thread at a time may use it.

    Args:
        descriptor: the read end of a pipe; this object owns it.
        name: ``stdout`` or ``stderr``.
        sink: called with each piece of text as it arrives.
    """

    def __init__(self, descriptor: int, name: str, sink: Sink) -> None:
        # Each end of a pipe is an open file of its own, so the call's end goes on blocking. A call that prints faster
        # than the parent reads is slowed down and loses nothing.
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.name = name
        self._sink = sink
        self._tail = bytearray()
        # A read may end inside a character. The decoder keeps its first bytes for the next read.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def pump(self) -> bool:
        """Pass on the output that has arrived. Return False at the end of the stream.

        The number of reads is limited, so that a process that writes without a pause does not keep the caller here.
        ``poll`` reports again if there is more.
        """
        for _ in range(_READS):
            try:
                # End of file comes when the last write end is closed, including those that the call's own child
                # processes have.
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
        """Return the last bytes, as text, of the output that has arrived since the previous call of this method."""
        # What the call wrote before its result is in the pipe already, so it is read here and counts for this call.
        self.pump()
        text = self._tail.decode("utf-8", "replace")
        self._tail.clear()
        return text

    def close(self) -> None:
        """Close the pipe."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
