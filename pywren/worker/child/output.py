"""``Output``: where the calls in a child write their output, and the tails of what they wrote."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from pywren.worker.descriptors import high_descriptor
from pywren.worker.protocol import TAIL_LIMIT


class Output:
    """File descriptors 1 and 2 of a child, and the text streams on top of them.

    Args:
        captured: True if the descriptors are files whose tails this object reads, False if they are pipes to the
            parent.
    """

    def __init__(self, *, captured: bool) -> None:
        self._captured = captured
        # The interpreter's own streams may be on top of something else. These streams write line by line, so that a
        # crash loses nothing, and accept any text, including surrogates.
        self._streams = self._open_streams()
        # The parent has opened /dev/null as descriptor 0 (``_spawn``).
        self._null = high_descriptor(os.dup(0))
        self._targets = (high_descriptor(os.dup(1)), high_descriptor(os.dup(2)))
        self._shown: tuple[int, int] | None = None
        # POSIX gives out the lowest free number, so this number tells about how many are in use, without reading /proc.
        first = self._lowest_free()
        self._most = first + max(0, _most_descriptors() - first) // 2

    def has_descriptors(self) -> bool:
        """Tell whether this process may still open at least half of the descriptors that it could open at first."""
        try:
            return self._lowest_free() < self._most
        except OSError:
            return False

    def _lowest_free(self) -> int:
        number = os.dup(self._null)  # the kernel returns the lowest free number; pywren's own are far above
        os.close(number)
        return number

    def show(self, descriptors: tuple[int, int]) -> None:
        """Accept the pipes for output that the parent shows as it arrives."""
        self._shown = descriptors

    def begin(self, *, shown: bool) -> None:
        """Before the next call, connect the descriptors to the pipes if the output is shown, otherwise to the files."""
        targets = self._shown if shown and self._shown is not None else self._targets
        # ``dup2`` makes 1 and 2 inheritable, as the call's own child processes need them.
        os.dup2(targets[0], 1)
        os.dup2(targets[1], 2)

    def flush(self) -> None:
        """Flush the streams. Ignore streams that a call has closed, or whose descriptors a call has closed."""
        for stream in self._streams:
            try:
                stream.flush()
            # A full disk behind a file of the call's own (ENOSPC), or a stream that is closed (``ValueError``).
            except (OSError, ValueError):
                continue

    def restore(self) -> None:
        """Restore the standard streams if the call closed or redirected them."""
        # In one step each (dup2(2)), so that a library's thread that writes just now never meets a closed number.
        os.dup2(self._null, 0)
        os.dup2(self._targets[0], 1)
        os.dup2(self._targets[1], 2)
        if self._streams[0].closed or self._streams[1].closed:
            self._streams = self._open_streams()

    @staticmethod
    def _open_streams() -> tuple[TextIO, TextIO]:
        sys.stdout, sys.stderr = (
            # ``closefd=False``: a stream that a call drops must not close the descriptor below the next one.
            open(number, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            for number in (1, 2)
        )
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
        return sys.stdout, sys.stderr

    @property
    def streams(self) -> tuple[TextIO, TextIO]:
        """The text streams on top of descriptors 1 and 2."""
        return self._streams

    def tails(self) -> tuple[str, str]:
        """Return the tails of what the call wrote to stdout and stderr, and empty the files."""
        if not self._captured:
            return "", ""
        # The position is that of the shared open file: it is still zero if nothing was written, and then a read is
        # spared.
        out, err = self._targets
        return _tail(out) if os.lseek(out, 0, os.SEEK_CUR) else "", _tail(err) if os.lseek(err, 0, os.SEEK_CUR) else ""


def _most_descriptors() -> int:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if most == resource.RLIM_INFINITY else most


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, TAIL_LIMIT, max(0, size - TAIL_LIMIT))
    # Truncate, then go back to the start, or the next write would leave a hole of zeros. The parent reads this file
    # only after the death of this process.
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return data.decode("utf-8", "replace")
