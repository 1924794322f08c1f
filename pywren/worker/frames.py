"""Frames on a stream socket between a child and its parent, for both ends. ``protocol`` defines their meaning.

::

    frame = header, sizes of the segments, meta, payload

The header is fixed (``_HEADER``). The *segments* are a pickle and its out-of-band buffers; together they are the
payload. A payload of up to 64 KiB is part of the frame. A bigger one is sent as an unlinked file, whose descriptor is
sent with the frame (SCM_RIGHTS). The receiver maps the file copy-on-write, so that the arrays in it are writable
without being copied. *Meta* is a pickle on the way to the child and JSON on the way back, because the parent unpickles
nothing that comes from a child.

The child's end blocks and belongs to its main thread. The parent's end never blocks. A lock keeps the frames of two
threads apart: the lock of the pool or, for the fork server, the lock of ``Process``.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pywren.worker.descriptors import above_standard

INLINE_LIMIT = 64 * 1024
"""The largest payload, in bytes, that is part of the frame itself."""

# Sent by the parent.
FUNCTION = 1  # number: key; segments: modules and runtime, then its pickle and buffers
ARGUMENTS = 2  # number: batch; meta: (terms, {ticket: argument}), see below
ARENA = 3  # number: arena; the file holds many big arguments
FORGET = 5  # meta: (batches, arenas, function keys) that are no longer needed
SHOW = 6  # two descriptors: where shown output goes
FORK = 7  # number: call; descriptors: call socket, stdout, stderr, status pipe; meta: scratch directory
KILL = 8  # number: the call whose process group to kill
MEMORY = 10  # the file is the memory for pages (``pages``)
TASK = 9  # the next task for a forked child; segments: a head, the function if it is new, the argument
# The terms of a batch come with its first arguments: (function key, load_anew, extra_env, show_output); then None.
# An argument is a pickle, or (list of segments, references) or ((arena, offset, sizes), references). A reference is an
# encoded outcome, or (arena, offset, size).
# Sent by the child.
READY = 20
RESULT = 21  # number: ticket; first, second: setup and execution seconds; segments: value or exception
PAGE = 22  # meta: the entries of a page; segment: its values (``pages``)

_OWN_DESCRIPTORS = {SHOW: 2, FORK: 4}

IN_FILE = 1
SUCCESS = 2
RAISED = 4
LEFTOVERS = 8  # the call left threads or child processes: kill this child's group
STAYS = 16  # the process waits for another call of the same function
SPENT = 32  # the call changed its process permanently: kill the process
NOT_BEGUN = 64  # an earlier call spoiled the process: run this call in another process, and kill this one

# "<" means fixed sizes without padding: the other end may run in another interpreter, that of a runtime.
_HEADER = struct.Struct("<BBHIQddQ")  # kind, flags, segments, bytes of meta, number, first, second, bytes of payload
_SIZE = struct.Struct("<Q")
_DESCRIPTOR = struct.Struct("@i")
_RECEIVE_BYTES = 64 * 1024
# If this were too small, the kernel would close the rest of the descriptors (MSG_CTRUNC, recvmsg(2)). A frame has four
# at most (FORK), and one read ends behind a write that had descriptors (unix(7)), so those of two writes never add up.
_RECEIVE_CONTROL = 64  # room for eight descriptors
# A cache line: arrays that are mapped from a file are aligned as well as those that their library allocates itself.
_ALIGNMENT = 64
_MEGABYTE = 1024 * 1024
_CLOEXEC_FLAG = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Buffer = bytes | bytearray | memoryview


class UnlinkedFile:
    """A file without a name: in memory on Linux, an unlinked temporary file elsewhere. The last reference closes it."""

    __slots__ = ("__weakref__", "descriptor", "size")

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _unlinked() if descriptor is None else descriptor
        self.size = 0

    # A descriptor is closed with the last reference, on whichever thread drops that one. No list of open files is
    # needed.
    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def append(self, segments: Sequence[Buffer]) -> int:
        """Write segments at the end of the file, each at an aligned offset. Return the offset of the first segment."""
        # mmap(2) accepts only multiples of the page size as offsets.
        start = _aligned(self.size, mmap.ALLOCATIONGRANULARITY)
        offset = start
        for segment in segments:
            # With an offset for each write (pwrite(2)): the position in the file belongs to all processes that share
            # it.
            _write_all(self.descriptor, segment, offset)
            offset = _aligned(offset + memoryview(segment).nbytes)
        self.size = offset
        os.truncate(self.descriptor, offset)  # reserve the padding too: the next segment starts after the padding
        return start

    def read(self, offset: int, size: int) -> bytes:
        """Return some bytes of the file, beginning at an offset."""
        data = os.pread(self.descriptor, size, offset)
        if len(data) == size:
            return data
        parts = [data]
        while data:  # Linux reads at most 2 GB in one read (read(2))
            offset, size = offset + len(data), size - len(data)
            data = os.pread(self.descriptor, size, offset)
            parts.append(data)
        return b"".join(parts)

    def read_apart(self, offset: int, size: int) -> Buffer:
        """Return what ``read`` returns, in memory of its own if it is big.

        To free 100 MB takes free(3) 10 ms, in which Python's global lock stops every other thread, such as one that
        runs an event loop. ``mmap`` lets go of that lock.
        """
        if size < _MEGABYTE or not hasattr(os, "preadv"):
            return self.read(offset, size)
        view, count = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)), 0
        while part := os.preadv(self.descriptor, [view[count:]], offset + count):  # at most 2 GB at once (readv(2))
            count += part
        return view[:count]

    def map(self, offset: int, size: int) -> memoryview:
        """Map bytes of the file copy-on-write: the memory is writable, and writes to it are private."""
        extra = offset % mmap.ALLOCATIONGRANULARITY
        # Before Python 3.13 each map duplicates the descriptor and keeps it open (see ``_Mapped``).
        options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        mapped = mmap.mmap(self.descriptor, size + extra, access=mmap.ACCESS_COPY, offset=offset - extra, **options)
        return memoryview(mapped)[extra:]

    def tail(self, limit: int) -> bytes:
        """Return the last bytes of the file, which other processes may have written."""
        # A process that a dead child has left may write between these two calls. The answer is then a little old.
        size = os.fstat(self.descriptor).st_size
        return os.pread(self.descriptor, limit, max(0, size - limit))


def _unlinked() -> int:
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        # The content counts as memory of the machine, or of the container: on Lambda, against the function's memory
        # size.
        return above_standard(os.memfd_create("pywren", os.MFD_CLOEXEC))
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix="pywren-")
    # At once, so that the file goes with its last descriptor, even if both processes are killed.
    os.unlink(path)
    return above_standard(descriptor)


def _write_all(descriptor: int, data: Buffer, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        # Linux writes at most 2 GB at a time (write(2)), and a nearly full file system may take less.
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _aligned(offset: int, alignment: int = _ALIGNMENT) -> int:
    return -(-offset // alignment) * alignment


def offsets(sizes: Iterable[int], start: int = 0) -> Iterable[tuple[int, int]]:
    """Yield the offset and size of each segment that ``append`` wrote; the first is at ``start``."""
    for size in sizes:
        yield start, size
        start = _aligned(start + size)


class Frame(NamedTuple):
    """One received frame."""

    kind: int
    flags: int
    number: int
    first: float
    second: float
    sizes: Sequence[int]
    meta: bytes
    payload: bytes | UnlinkedFile
    descriptors: Sequence[int]

    def segments(self, *, apart: bool = False) -> list[Buffer]:
        """Return the pickle, and the buffers after it as writable memory.

        Args:
            apart: whether a big pickle need not be ``bytes`` (``UnlinkedFile.read_apart``).
        """
        payload = self.payload
        if isinstance(payload, UnlinkedFile):
            return read_segments(payload, self.sizes, apart=apart)
        if len(self.sizes) <= 1:
            return [payload]
        found: list[Buffer] = []
        start = 0
        for size in self.sizes:
            # A copy as bytearray, because a buffer must be writable: NumPy would make an array over bytes read-only.
            found.append(bytearray(payload[start : start + size]) if found else payload[start : start + size])
            start += size
        return found


def read_segments(file: UnlinkedFile, sizes: Sequence[int], start: int = 0, *, apart: bool = False) -> list[Buffer]:
    """Return segments of a file: the first one, a pickle, as bytes; the others as maps if they are big, or copies."""
    found: list[Buffer] = []
    for offset, size in offsets(sizes, start):
        if not found:
            found.append(file.read_apart(offset, size) if apart else file.read(offset, size))
        # A map costs system calls, and a page fault for each page that is touched, so smaller buffers are copied.
        elif size >= _MEGABYTE and _MAPPED.may_map():
            found.append(_MAPPED.map(file, offset, size))
        else:
            found.append(bytearray(file.read(offset, size)))
    return found


class _Mapped:
    """Counts the maps in use. Before Python 3.13 each map holds a descriptor, and descriptors may be scarce."""

    def __init__(self) -> None:
        self.alive = 0
        self.limit: int | None = None

    def may_map(self) -> bool:
        if sys.version_info >= (3, 13):
            return True
        if self.limit is None:
            import resource

            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            # A quarter of the descriptors, because calls open files and sockets too. RLIM_INFINITY is -1 in Python.
            self.limit = 256 if soft < 0 else min(256, soft // 4)
        return self.alive < self.limit

    def map(self, file: UnlinkedFile, offset: int, size: int) -> memoryview:
        import weakref

        view = file.map(offset, size)
        self.alive += 1
        # The map lives as long as any array over it. A finalizer at exit would only delay the end of the process.
        weakref.finalize(view.obj, self._gone).atexit = False
        return view

    def _gone(self) -> None:
        self.alive -= 1


_MAPPED = _Mapped()


class Outgoing(NamedTuple):
    """An encoded frame, with the descriptors and the file that must stay open until the frame is sent."""

    data: bytes
    descriptors: Sequence[int] = ()
    file: UnlinkedFile | None = None


def encode(
    kind: int,
    *,
    flags: int = 0,
    number: int = 0,
    first: float = 0.0,
    second: float = 0.0,
    meta: bytes = b"",
    segments: Sequence[Buffer] = (),
    descriptors: Sequence[int] = (),
    file: UnlinkedFile | None = None,
    sizes: Sequence[int] = (),
) -> Outgoing:
    """Encode a frame.

    A payload over 64 KiB is written to its own file, unless the caller gives a file that already contains the segments,
    which have the given sizes.
    """
    if file is None:
        sizes = [memoryview(segment).nbytes for segment in segments]
    total = sum(sizes)
    if file is None and total > INLINE_LIMIT:
        file = UnlinkedFile()
        file.append(segments)
    if file is not None:
        flags |= IN_FILE
        # The file comes first: ``FrameReader`` takes the descriptors in this order.
        descriptors = (file.descriptor, *descriptors)
        payload: Sequence[Buffer] = ()
    else:
        payload = segments
    head = _HEADER.pack(kind, flags, len(sizes), len(meta), number, first, second, total)
    packed_sizes = [_SIZE.pack(size) for size in sizes] if len(sizes) > 1 else []
    return Outgoing(b"".join((head, *packed_sizes, meta, *payload)), descriptors, file)


def encode_plain_result(flags: int, ticket: int, setup: float, execution: float, pickle: bytes) -> bytes:
    """Encode the most common result: one small pickle and no notes."""
    return _HEADER.pack(RESULT, flags, 1, 0, ticket, setup, execution, len(pickle)) + pickle


def encode_page(entries: bytes, values: bytes) -> bytes:
    """Encode the results on a page."""
    return _HEADER.pack(PAGE, 0, 1, len(entries), 0, 0.0, 0.0, len(values)) + entries + values


def encode_note(kind: int, meta: bytes, number: int = 0) -> Outgoing:
    """Encode a frame that has meta but no payload, like most frames that a parent sends."""
    return Outgoing(_HEADER.pack(kind, 0, 0, len(meta), number, 0.0, 0.0, 0) + meta)


class FrameReader:
    """Assembles frames from the bytes and descriptors that arrive on a socket."""

    def __init__(self) -> None:
        self._rest = b""
        self._descriptors: deque[int] = deque()

    def feed(self, data: bytes, descriptors: Iterable[int] = ()) -> list[Frame]:
        """Add bytes and descriptors that arrived. Return the frames that are now complete.

        Descriptors arrive with the first byte of their frame (unix(7)), so they are here before the frame is complete.
        """
        # Add them before looking at the bytes. They may be those of a later frame in the same read, so each frame takes
        # its own number of them from the front.
        self._descriptors.extend(descriptors)
        if self._rest:
            data = self._rest + data
        frames: list[Frame] = []
        position, end = 0, len(data)
        while end - position >= _HEADER.size:
            kind, flags, count, meta, number, first, second, total = _HEADER.unpack_from(data, position)
            body = position + _HEADER.size
            sizes: Sequence[int] = (total,)
            after = body + meta + (0 if flags & IN_FILE else total)
            if count > 1:
                after += count * _SIZE.size
            # A frame in pieces is normal: a stream socket has no message boundaries, and one read takes at most 64 KiB.
            if after > end:
                break
            if count > 1:
                sizes = struct.unpack_from(f"<{count}Q", data, body)
                body += count * _SIZE.size
            payload: bytes | UnlinkedFile = data[body + meta : after]
            if flags & IN_FILE:
                payload = UnlinkedFile(self._descriptors.popleft())
            own: Sequence[int] = ()
            if kind in _OWN_DESCRIPTORS:
                own = [self._descriptors.popleft() for _ in range(_OWN_DESCRIPTORS[kind])]
            frames.append(Frame(kind, flags, number, first, second, sizes, data[body : body + meta], payload, own))
            position = after
        self._rest = data[position:]
        return frames

    def close(self) -> None:
        """Close the descriptors of incomplete frames."""
        while self._descriptors:
            # Descriptors that were received are open in this process even if nothing has looked at them (unix(7)).
            os.close(self._descriptors.popleft())


class Channel:
    """One end of the data socket between a child and its parent.

    The parent's end never blocks: what does not fit into the socket is queued until ``flush`` finds room.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._reader = FrameReader()
        self._outgoing: deque[Outgoing] = deque()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the socket. Drop the frames that have not been sent."""
        self._outgoing.clear()
        self._reader.close()
        self.socket.close()

    def receive(self) -> list[Frame]:
        """Return the frames that are complete after one read.

        Raises:
            EOFError: the other end is closed.
            BlockingIOError: nothing has arrived, on a non-blocking end.
        """
        try:
            # Close-on-exec is set in the same step. Set later, a program that another thread starts in between would
            # inherit them.
            data, control, _, _ = self.socket.recvmsg(_RECEIVE_BYTES, _RECEIVE_CONTROL, _CLOEXEC_FLAG)
        # Linux reports this instead of the end of file when the other end was closed with data in it that it had not
        # read.
        except ConnectionResetError:
            data, control = b"", []
        if not data:
            raise EOFError("the other end of the channel is closed")
        return self._reader.feed(data, _descriptors_in(control) if control else ())

    @property
    def waiting(self) -> bool:
        """Whether anything is waiting for room in the socket."""
        return bool(self._outgoing)

    def send(self, frame: Outgoing) -> None:
        """Send a frame. If the socket is full, a blocking end waits, and a non-blocking end queues the rest."""
        self._outgoing.append(frame)
        # Otherwise earlier frames wait for room, and this one must stay behind them.
        if len(self._outgoing) == 1:
            self.flush()

    def send_whole(self, frame: Outgoing) -> None:
        """Send a frame on a non-blocking end, and return when the whole frame has been sent."""
        self.send(frame)
        if self.flush():
            return
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        # This may wait as long as the other side does not read, so the caller must not hold the pool's lock.
        while not self.flush():
            poll.poll()

    def queue(self, frame: Outgoing) -> None:
        """Queue a frame. The next ``flush`` sends it together with the frames that were queued before and after it."""
        self._outgoing.append(frame)

    def send_now(self, data: bytes) -> None:
        """Send a frame without descriptors, on a blocking end."""
        # ``send`` alone is the quickest. It sends only a part if a signal handler interrupts it (send(2)).
        sent = self.socket.send(data)
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def flush(self) -> bool:
        """Send the queued frames. Return True if all of them were sent or if the other end is closed."""
        queue = self._outgoing
        while queue:
            if len(queue) > 1:
                self._gather()
            frame = queue[0]
            try:
                sent = self._send_some(frame)
            except BlockingIOError:
                return False
            except OSError:  # the other end is closed; the owner of this end learns that from ``receive``
                queue.clear()
                return True
            if sent < len(frame.data):
                # The descriptors went with the first byte (unix(7)). Sent again, they would shift those of all later
                # frames.
                queue[0] = Outgoing(frame.data[sent:], (), frame.file)
            else:
                queue.popleft()
        return True

    def _gather(self) -> None:
        """Merge the first queued frames, up to one with descriptors: a single write wakes the reader only once."""
        queue = self._outgoing
        plain = []
        while queue and not queue[0].descriptors:
            plain.append(queue.popleft().data)
        if plain:
            queue.appendleft(Outgoing(b"".join(plain)))

    def _send_some(self, frame: Outgoing) -> int:
        if not frame.descriptors:
            return self.socket.send(frame.data)
        # The kernel takes its own references, so the sender may close the descriptors as soon as this returns.
        rights = b"".join(map(_DESCRIPTOR.pack, frame.descriptors))
        return self.socket.sendmsg([frame.data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def _descriptors_in(control: Iterable[tuple[int, int, bytes]]) -> list[int]:
    found = []
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            usable = len(data) - len(data) % _DESCRIPTOR.size
            found += [item[0] for item in _DESCRIPTOR.iter_unpack(data[:usable])]
    # macOS lacks the flag. A program that another thread starts before this line inherits the descriptors, and keeps
    # them open until it ends.
    if not _CLOEXEC_FLAG:
        for descriptor in found:
            os.set_inheritable(descriptor, False)
    return found
