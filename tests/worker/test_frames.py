"""Frames arrive complete, in pieces of any size, with their descriptors, and never block the parent."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywren.worker import frames
from pywren.worker.frames import Channel, FrameReader, UnlinkedFile, encode, read_segments


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    """Return both ends of a channel; the first does not block."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    first.setblocking(False)
    ends = Channel(first), Channel(second)
    yield ends
    for end in ends:
        end.close()


@settings(deadline=None)  # a busy machine is no defect
@given(
    st.lists(st.tuples(st.lists(st.binary(max_size=50), max_size=4), st.binary(max_size=20)), max_size=5),
    st.integers(1, 60),
)
def test_frames_in_pieces(contents: list[tuple[list[bytes], bytes]], step: int) -> None:
    """However the stream is split, the same frames arrive."""
    stream = b"".join(
        encode(frames.RESULT, number=number, first=0.5, meta=meta, segments=segments).data
        for number, (segments, meta) in enumerate(contents)
    )
    reader, found = FrameReader(), []
    for start in range(0, len(stream), step):
        found += reader.feed(stream[start : start + step])
    assert [frame.number for frame in found] == list(range(len(contents)))
    assert [frame.meta for frame in found] == [meta for _, meta in contents]
    assert [list(map(bytes, frame.segments())) for frame in found] == [segments or [b""] for segments, _ in contents]


def test_a_plain_result_is_a_frame() -> None:
    """The shortcut for encoding a result gives the same bytes as the normal way."""
    short = frames.encode_plain_result(frames.SUCCESS, 7, 0.25, 0.5, b"pickle")
    assert (
        short
        == encode(frames.RESULT, flags=frames.SUCCESS, number=7, first=0.25, second=0.5, segments=[b"pickle"]).data
    )


@pytest.mark.parametrize("sizes", [(65_537,), (10, 70_000), (5, 2_000_000, 3, 1_500_000), (100_000, 0, 1)])
def test_big_segments_cross_in_a_file(channels: tuple[Channel, Channel], sizes: tuple[int, ...]) -> None:
    """A payload over the limit is sent as a descriptor; only the receiver can write to its buffers."""
    segments = [os.urandom(size) for size in sizes]
    parent, child = channels
    parent.send(encode(frames.RESULT, segments=segments))
    assert not parent.waiting
    (frame,) = child.receive()
    assert isinstance(frame.payload, UnlinkedFile)
    first, second = frame.segments(), frame.segments()
    assert [bytes(segment) for segment in first] == segments
    for segment in first[1:]:
        view = memoryview(segment)
        view[:1] = b"\0"[: len(view[:1])]
    assert [bytes(segment) for segment in second] == segments


def test_descriptors_cross_with_their_frame(channels: tuple[Channel, Channel]) -> None:
    """A frame's own descriptors follow that of its file, and are not inheritable."""
    parent, child = channels
    read, write = os.pipe()
    parent.send(encode(frames.SHOW, descriptors=[write, write]))
    os.close(write)
    (frame,) = child.receive()
    os.write(frame.descriptors[1], b"x")
    assert os.read(read, 1) == b"x"
    assert not any(map(os.get_inheritable, frame.descriptors))
    for descriptor in (read, *frame.descriptors):
        os.close(descriptor)


def test_sending_never_blocks(channels: tuple[Channel, Channel]) -> None:
    """Frames that do not fit wait in a queue, in order, until the other end reads."""
    parent, child = channels
    for number in range(100):
        parent.send(encode(frames.RESULT, number=number, segments=[bytes(60_000)]))
    assert parent.waiting
    found: list[int] = []
    while len(found) < 100:
        found += [frame.number for frame in child.receive()]
        parent.flush()
    assert found == list(range(100))
    assert not parent.waiting


def test_the_other_end_is_gone(channels: tuple[Channel, Channel]) -> None:
    """If the other end is closed, reading raises ``EOFError``, and sending does nothing."""
    parent, child = channels
    with pytest.raises(BlockingIOError):
        parent.receive()
    child.close()
    parent.send(encode(frames.READY))
    assert not parent.waiting
    with pytest.raises(EOFError):
        parent.receive()


def test_descriptors_of_half_a_frame_are_closed() -> None:
    """A channel that ends in the middle of a frame leaves no descriptor open."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sender, receiver = Channel(first), Channel(second)
    read, write = os.pipe()
    frame = encode(frames.SHOW, meta=b"x" * 100, descriptors=[write, write])
    sender.send(frame._replace(data=frame.data[:50]))
    os.close(write)
    assert receiver.receive() == []
    sender.close()
    receiver.close()
    assert os.read(read, 1) == b""  # nobody holds the write end any more
    os.close(read)


def test_many_segments_in_one_file() -> None:
    """Appended segments are read where they are, and the file is closed with its last reference."""
    file = UnlinkedFile()
    placed = [(file.append(segments), segments) for segments in ([b"a" * 5000, b"b"], [b"c"], [b"", b"d" * 70_000])]
    for start, segments in placed:
        sizes = [len(segment) for segment in segments]
        assert [bytes(part) for part in read_segments(file, sizes, start)] == segments
    descriptor = file.descriptor
    del file
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


def test_maps_are_counted_and_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """If many maps are in use, big buffers are copied instead, so that descriptors do not run out."""
    monkeypatch.setattr(frames._MAPPED, "limit", 0)
    file = UnlinkedFile()
    content = [b"p", b"x" * 2_000_000]
    start = file.append(content)
    (_, found) = read_segments(file, [1, 2_000_000], start)
    assert bytes(found) == content[1]
