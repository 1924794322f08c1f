"""Pages: the results of several quick calls, in memory that a child of the local pool shares with its parent.

A call that takes microseconds takes less time than to send its result. So a child that runs such calls one after the
other writes each result to its *page*, and sends the page when it is full, when its first result is old enough, and
when there is nothing more to run.

**A result counts from the moment at which it is on the page.** The parent reads the page itself when the child falls
silent, which may mean that a slow call follows quick ones, and when the child has died. So no result is late, or lost
with its process, because others were to be sent with it.

::

    memory = number of the page and of the results on it, an entry for each result, then the pickled values

One thread of each process uses the memory, without a common lock. The child writes a result first, and then counts it
in a single store of eight bytes; a new page has another number. The parent reads the count, and then only results that
it covers. The child turns the page only after it was sent, and the parent reads it only after it has received all that
was sent, and if the results are those of its next tickets. So each result is read once, in one of the two ways, and in
the order in which the calls ran.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pywren.worker.frames import UnlinkedFile

MOST_RESULTS = 256
"""The most results on a page. Sending it costs as much as to run a few calls, so more would save next to nothing."""

MOST_BYTES = 4096
"""The size of the largest pickled value on a page, in bytes. A bigger one is sent alone."""

SECONDS = 0.001
"""How old the first result of a page may become before the page is sent. Calls that take longer are sent alone."""

# Of the machine's own kind, so that it is written in one store.
_HEAD = struct.Struct("@Q")  # the number of the page, shifted by ``_SHIFT``, and how many results are on it
_SHIFT = 16
_ENTRY = struct.Struct("@QdQ")  # ticket, seconds that the function ran, where its value ends among the values
_ENTRIES = 64
_VALUES = _ENTRIES + MOST_RESULTS * _ENTRY.size
_SIZE = 64 * 1024  # so that a page fits into one frame


class Page(NamedTuple):
    """The results on a page: calls that returned something small, and about which there is nothing else to say.

    Args:
        tickets: the calls, in the order in which they ran.
        seconds: for how long the function ran.
        data: the pickled values.
    """

    tickets: Sequence[int]
    seconds: Sequence[float]
    data: Sequence[bytes]


_EMPTY = Page((), (), ())


def create() -> UnlinkedFile:
    """Create the memory for the pages of one child.

    Raises:
        OSError: there is no memory, or no descriptor.
    """
    file = UnlinkedFile()
    os.ftruncate(file.descriptor, _SIZE)
    return file


class PageWriter:
    """The child's side.

    Args:
        file: the memory. It is mapped, and the file is not needed any more.
    """

    def __init__(self, file: UnlinkedFile) -> None:
        self._memory = mmap.mmap(file.descriptor, _SIZE)
        self._number = 1
        self._count = 0
        self._end = 0

    def add(self, ticket: int, seconds: float, data: bytes) -> bool:
        """Add a result. Return False if the page has no room for it."""
        memory, count, start = self._memory, self._count, self._end
        end = start + len(data)
        if count == MOST_RESULTS or end > _SIZE - _VALUES:
            return False
        memory[_VALUES + start : _VALUES + end] = data
        _pack_entry(memory, _ENTRIES + count * _ENTRY.size, ticket, seconds, end)
        self._count, self._end = count + 1, end
        # Last: from here on the parent may read the result.
        _pack_head(memory, 0, self._number << _SHIFT | self._count)
        return True

    def content(self) -> tuple[bytes, bytes] | None:
        """Return the entries and the values of the page, for a frame; ``None`` if it is empty."""
        if not self._count:
            return None
        memory, size = self._memory, self._count * _ENTRY.size
        return memory[_ENTRIES : _ENTRIES + size], memory[_VALUES : _VALUES + self._end]

    def turn(self) -> None:
        """Begin a new page, after the old one was sent."""
        self._number, self._count, self._end = self._number + 1, 0, 0
        _pack_head(self._memory, 0, self._number << _SHIFT)


class PageReader:
    """The parent's side. It takes nothing on trust: the user's code in the child may have written anything.

    Args:
        file: the memory. It is read as a file. A map would end this process if the user's code cut the file short
            (SIGBUS, mmap(2)).
    """

    def __init__(self, file: UnlinkedFile) -> None:
        self._file = file
        self._sent = 0  # how many pages have been received
        self._known = 0  # how many results of the present page were read from the memory

    def received(self, entries: bytes, values: bytes) -> Page:
        """Return the results on a page that the child has sent, except those that ``unsent`` has returned.

        Raises:
            ValueError: this is no page.
        """
        known, self._known = self._known, 0
        self._sent += 1
        return _parse(entries, values, known)

    def unsent(self, head: int) -> Page:
        """Return the results that are on the page now and were not sent or returned before.

        The caller must have received all that the child had sent at that time.

        Args:
            head: the ticket of the call that the next result must be of. If the page has others, the child has sent
                something meanwhile, and the caller will hear of these results again.

        Raises:
            ValueError: this is no page.
        """
        number, count = self._head()
        # Another number: the page that was received last, which the child has not turned yet.
        if number != self._sent + 1 or not self._known < count <= MOST_RESULTS:
            return _EMPTY
        memory = self._file.read(0, _SIZE)
        # The child may have sent the page meanwhile, and written to the next one. Then the socket brings the page.
        if self._head()[0] != number:
            return _EMPTY
        page = _parse(memory[_ENTRIES : _ENTRIES + count * _ENTRY.size], memory[_VALUES:], self._known)
        if not page.tickets or page.tickets[0] != head:
            return _EMPTY
        self._known = count
        return page

    def _head(self) -> tuple[int, int]:
        head = self._file.read(0, _HEAD.size)
        return divmod(int.from_bytes(head, sys.byteorder), 1 << _SHIFT)


def _parse(entries: bytes, values: bytes, known: int) -> Page:
    """Return the results on a page, without those that are known. At the speed of C: maps may have many thousands."""
    if len(entries) <= known * _ENTRY.size:
        return _EMPTY
    if len(entries) % _ENTRY.size:
        raise ValueError(f"a page has {len(entries)} bytes of entries")
    words, numbers = memoryview(entries).cast("Q"), memoryview(entries).cast("d")
    bounds = [0, *words[2::3].tolist()]
    if bounds != sorted(bounds) or bounds[-1] > len(values):
        raise ValueError("the values on a page have wrong bounds")
    data = [values[start:end] for start, end in pairwise(bounds[known:])]
    return Page(words[::3].tolist()[known:], numbers[1::3].tolist()[known:], data)


_pack_entry, _pack_head = _ENTRY.pack_into, _HEAD.pack_into
