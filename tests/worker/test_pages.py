"""Every result on a page is read exactly once, whether the page is sent, or read because nothing comes.

| what happens | what the parent gets |
|---|---|
| the page is sent | its results, from the frame |
| nothing comes for a while | what is on the page, from the memory; later the rest, from the frame |
| the page was sent, and the child has not turned it yet | nothing more |
| the child sends the page and begins another one while the memory is read | nothing; the frame brings it |
| the child sends another result, and then begins its page, while the memory is read | nothing; the socket comes first |
| the page is full | the result does not fit; it begins the next page |
| the user's code has written to the memory, or to the socket | ``ValueError``, or nothing |
| the user's code has cut the file short | nothing |
"""

from __future__ import annotations

import os
import struct
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywren.worker import frames, pages
from pywren.worker.frames import FrameReader, UnlinkedFile
from pywren.worker.pages import MOST_BYTES, MOST_RESULTS, PageReader, PageWriter


class Both:
    """Both sides of the memory, with a socket in between that holds pages back."""

    def __init__(self) -> None:
        self.file = pages.create()
        self.writer, self.reader = PageWriter(self.file), PageReader(self.file)
        self.sent: deque[bytes] = deque()
        self.written: list[tuple[int, float, bytes]] = []
        self.read: list[tuple[int, float, bytes]] = []

    def add(self, data: bytes) -> bool:
        """Write a result."""
        one = (len(self.written) + 1, len(self.written) / 8, data)
        if not self.writer.add(*one):
            return False
        self.written.append(one)
        return True

    def send(self, *, turn: bool = True) -> None:
        """Send the page."""
        content = self.writer.content()
        if content is not None:
            self.sent.append(frames.encode_page(*content))
            if turn:
                self.writer.turn()

    def receive(self) -> None:
        """Receive all that was sent."""
        while self.sent:
            [frame] = FrameReader().feed(self.sent.popleft())
            assert isinstance(frame.payload, bytes)
            self.take(self.reader.received(frame.meta, frame.payload))

    def look(self) -> None:
        """Receive all that was sent, and read what was not."""
        self.receive()
        self.take(self.reader.unsent(len(self.read) + 1))

    def take(self, page: pages.Page) -> None:
        """Note results that were read."""
        self.read += zip(page.tickets, page.seconds, page.data, strict=True)


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=MOST_BYTES),
            st.sampled_from(["send", "receive", "look"]),
        ),
        max_size=60,
    )
)
def test_each_result_is_read_once(steps: list[bytes | str]) -> None:
    """However results, sending, receiving and looking follow each other, each result is read once, in order."""
    both = Both()
    for step in steps:
        if isinstance(step, str):
            getattr(both, step)()
        elif not both.add(step):
            both.send()
            assert both.add(step)
    both.look()
    assert both.read == both.written


def test_what_was_sent_is_not_read_again() -> None:
    """A child that is killed after it has sent its page, and before it turns it, leaves the results in the memory."""
    both = Both()
    both.add(b"one")
    both.send(turn=False)
    both.look()
    both.look()
    assert both.read == both.written


def test_a_page_that_was_half_read_is_sent() -> None:
    """The frame brings only what was not read before, and the next page begins anew."""
    both = Both()
    both.add(b"one")
    both.look()
    both.add(b"two")
    both.send()
    both.add(b"three")
    both.look()
    assert both.read == both.written


def test_a_page_that_is_turned_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the child writes the next page while the memory is read, what was read does not count."""
    both = Both()
    both.add(b"one")
    read = UnlinkedFile.read

    def slowly(file: UnlinkedFile, offset: int, size: int) -> bytes:
        if size > 8:  # the head was read, and the rest is read now
            both.send()
            both.add(b"two")
        return read(file, offset, size)

    monkeypatch.setattr(UnlinkedFile, "read", slowly)
    both.take(both.reader.unsent(1))
    assert both.read == []
    monkeypatch.undo()
    both.look()
    assert both.read == both.written


def test_what_follows_a_result_that_is_on_its_way_does_not_count_yet() -> None:
    """The child may send another result after the socket was read, and then begin its page."""
    both = Both()
    both.add(b"the second, as the first was sent alone")
    assert not both.reader.unsent(0).tickets
    both.look()
    assert both.read == both.written


def test_a_page_has_room_for_some_results() -> None:
    """No more fit than the most, and an empty page has room for the biggest result."""
    both = Both()
    assert [both.add(b"x") for _ in range(MOST_RESULTS + 1)] == [True] * MOST_RESULTS + [False]
    both.send()
    assert both.add(bytes(MOST_BYTES))
    both.look()
    assert both.read == both.written


@pytest.mark.parametrize(
    ("entries", "values"),
    [
        (b"x", b""),
        (bytes(23), b""),
        (struct.pack("<QdQ", 1, 0.5, 1 << 63), b"x"),
        (struct.pack("<QdQQdQ", 1, 0.5, 1, 2, 0.5, 0), b"x"),
        (struct.pack("<QdQ", 1, 0.5, 2), b"x"),
    ],
    ids=["short", "cut", "beyond", "before", "after"],
)
def test_what_is_no_page_is_refused(entries: bytes, values: bytes) -> None:
    """The user's code can write to the socket. Nothing that it writes is read beyond its bounds."""
    with pytest.raises(ValueError, match="page"):
        Both().reader.received(entries, values)


def test_memory_that_the_call_has_written_to() -> None:
    """Counts that cannot be, and bounds that are wrong, give no results."""
    both = Both()
    os.pwrite(both.file.descriptor, struct.pack("<Q", 1 << 16 | 60_000), 0)
    both.look()
    assert both.read == []
    os.pwrite(both.file.descriptor, struct.pack("<QdQ", 1, 0.5, 64 * 1024), 64)
    os.pwrite(both.file.descriptor, struct.pack("<Q", 1 << 16 | 1), 0)
    with pytest.raises(ValueError, match="page"):
        both.look()


@pytest.mark.parametrize("size", [0, 4, 8, 100])
def test_a_file_that_was_cut_short_ends_nothing(size: int) -> None:
    """The parent reads it as a file: memory of a file that is too short would end the client with SIGBUS."""
    both = Both()
    os.pwrite(both.file.descriptor, struct.pack("<Q", 1 << 16 | 3), 0)
    os.ftruncate(both.file.descriptor, size)
    try:
        both.look()
    except ValueError:
        assert size >= 8
    assert both.read == []
