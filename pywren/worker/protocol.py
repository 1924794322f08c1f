"""The messages between a child and its parent: how both ends encode and decode them, on top of ``frames``.

======== ================ ==============================================================================================
message  from → to        content
======== ================ ==============================================================================================
function parent → child   ``Function``: modules and runtime in a pickle, then the function's own pickle and its buffers
task     parent → child   ``Task``: references and environment in a pickle, the function if it is new, the argument
result   child → parent   ``RunResult``: the body in segments; everything else as JSON
status   server → parent  ``STATUS`` on a pipe for each forked child: its pid, and how it ended
======== ================ ==============================================================================================

The parent unpickles nothing that comes from a child: notes are JSON, and a body stays packed.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Sequence
from typing import Any

from pywren.pickling.packed import Packed
from pywren.system.large_copies import copied
from pywren.wire.failure import Failure
from pywren.worker import frames
from pywren.worker.frames import Buffer, Channel, Frame, Outgoing
from pywren.worker.pages import Page
from pywren.worker.task import Function, RunResult, Task

# The user's function may replace any of these under its public name, and the child calls them after that function.
_loads = pickle.loads
_quoted = json.encoder.encode_basestring_ascii  # ``json.dumps`` itself calls functions that the user can replace
_PickleBuffer = pickle.PickleBuffer
_pack, _unpack = struct.pack, struct.unpack

# Eight bytes, written and read as a whole. A write of up to PIPE_BUF bytes is never torn (pipe(7)), and POSIX
# guarantees at least 512.
TICKET = struct.Struct("<Q")
"""A ticket on the ticket pipe: the number of a batch, shifted by ``TICKET_SHIFT``, and the index of a call in it."""

TICKET_SHIFT = 32
"""How many bits of a ticket are for the index of the call. A batch has fewer calls than these can count."""

# Two processes write to this pipe. 16 bytes are fewer than PIPE_BUF, so the parent never reads half of a message.
STATUS = struct.Struct("<qq")
"""The format of a forked child's status pipe: its pid, and ``RUNNING`` or its exit code.

The child itself writes the first message, the fork server the second.
"""

RUNNING = 1 << 32
"""Means, instead of an exit code, that the child has begun. No operating system has exit codes as large as this."""

# The tails travel as JSON within the frame, where escapes can make them several times as long.
TAIL_LIMIT = 64 * 1024
"""How many of the last bytes of each output stream go into a result."""

# Pickled once: most functions bring neither modules nor a runtime.
_NOTHING_BESIDE = pickle.dumps(({}, None), 5)  # no modules, no runtime


# -- tickets -----------------------------------------------------------------------------------------------------------


def pack_tickets(tickets: Sequence[int]) -> bytes:
    """Return the bytes of some tickets in a row."""
    return _pack(f"<{len(tickets)}Q", *tickets)


def unpack_tickets(data: bytes) -> tuple[int, ...]:
    """Return the tickets that ``pack_tickets`` has packed."""
    return _unpack(f"<{len(data) // TICKET.size}Q", data)


# -- pickles -----------------------------------------------------------------------------------------------------------


def packed_segments(packed: Packed) -> list[Buffer]:
    """Return the pickle and its buffers as a list of segments of plain memory."""
    return [packed.data, *(buffer.raw() for buffer in packed.buffers)]


def packed_from(segments: Sequence[Buffer], *, apart: bool = False) -> Packed:
    """Return the ``Packed`` whose pickle and buffers are the segments of a frame.

    Args:
        segments: the segments.
        apart: whether the pickle need not be ``bytes``: it is only unpickled, or written.
    """
    data = segments[0]
    pickled: Any = data if apart or isinstance(data, bytes) else copied(data)
    return Packed(pickled, tuple(_PickleBuffer(segment) for segment in segments[1:]))


# -- functions and tasks -----------------------------------------------------------------------------------------------


def function_segments(function: Function) -> list[Buffer]:
    """Return the segments that send a function to a child. They lack the ``id``: a child uses the parent's keys."""
    beside = _NOTHING_BESIDE
    if function.modules or function.runtime_path is not None:
        beside = pickle.dumps((dict(function.modules), function.runtime_path), 5)
    return [beside, *packed_segments(function.pickle)]


def function_from(segments: Sequence[Buffer], key: int = 0) -> Function:
    """Build a function from the segments that ``function_segments`` returned.

    Args:
        segments: the segments.
        key: the parent's key for the function, which becomes the ``id``.
    """
    # The child unpickles what the parent sends: the user's code runs there anyway. The other way round it would let a
    # call run code in the client.
    modules, runtime_path = _loads(segments[0])
    return Function(str(key), packed_from(segments[1:]), modules, runtime_path)


def encode_task(task: Task, *, with_function: bool, load_anew: bool = False) -> Outgoing:
    """Encode a task for a forked child.

    Args:
        task: the task.
        with_function: whether to include the function; a child keeps the function that came with its first task.
        load_anew: whether the child must load that function anew: the task is of another callset than the last one.
    """
    function = function_segments(task.function) if with_function else []
    head = pickle.dumps((len(function), task.references, dict(task.extra_env), load_anew, dict(task.trace)), 5)
    return frames.encode(frames.TASK, segments=[head, *function, *packed_segments(task.data)])


def decode_task(frame: Frame, known: Function | None) -> Task:
    """Decode a task. If it does not include a function, it gets the known one. The parent handles time-outs."""
    segments = frame.segments()
    count, references, extra_env, load_anew, trace = _loads(segments[0])
    function = function_from(segments[1 : count + 1]) if known is None else known._replace(load_anew=load_anew)
    return Task(function, packed_from(segments[count + 1 :]), references, extra_env, trace=trace)


# -- results -----------------------------------------------------------------------------------------------------------


def send_result(
    channel: Channel, ticket: int, result: RunResult, tails: tuple[str, str], left: str, flags: int = 0
) -> None:
    """Send a result to the parent.

    Args:
        channel: the child's end of the channel, which blocks.
        ticket: the call.
        result: how the call ended; the output fields of this object are ignored.
        tails: the tails of what the call wrote to stdout and stderr.
        left: what the call left running; empty for nothing.
        flags: what happens to the process: ``frames.STAYS`` or ``frames.SPENT``.
    """
    body, info = result.body, result.info
    if result.success is not None:
        flags |= frames.SUCCESS if result.success else frames.RAISED
    has_notes = result.exception is not None or result.failure is not None or left or tails[0] or tails[1]
    if body is not None and not has_notes and not body.buffers and len(body.data) <= frames.INLINE_LIMIT:
        # Most results are like this. They take only one write, without a queue.
        setup_time, exec_time = info["setup_time"], info["exec_time"]
        # This must be complete before the child takes its next ticket. Otherwise a crash of the next call would take
        # this result along.
        channel.send_now(frames.encode_plain_result(flags, ticket, setup_time, exec_time, body.data))
        return
    # ``encode`` may open a file for a big result. If the call has used up the descriptors or the memory, this raises,
    # and the process ends without a result.
    frame = frames.encode(
        frames.RESULT,
        flags=flags | (frames.LEFTOVERS if left else 0),
        number=ticket,
        first=info["setup_time"],
        second=info["exec_time"],
        meta=_encode_notes(result, tails, left) if has_notes else b"",
        segments=[] if body is None else packed_segments(body),
    )
    # The channel blocks: the child waits here if the parent does not read, so results never pile up in its memory.
    channel.send(frame)


def _encode_notes(result: RunResult, tails: tuple[str, str], left: str) -> bytes:
    """Encode everything except the body as JSON, without ``json.dumps``, because a call may have broken it."""
    texts = {"stdout": tails[0], "stderr": tails[1], "leftovers": left}
    members = [f'"{name}":{_quoted(text)}' for name, text in texts.items() if text]
    if result.exception is not None:
        members.append(f'"exception":[{",".join(map(_quoted, result.exception))}]')
    if result.failure is not None:
        members.append(f'"failure":[{_quoted(result.failure.kind)},{_quoted(result.failure.message)}]')
    return f"{{{','.join(members)}}}".encode()


def results_on(page: Page) -> list[RunResult]:
    """Return the results on a page, each as the result of a call that was sent alone."""
    return [
        RunResult(True, Packed(data), info={"setup_time": 0.0, "exec_time": seconds})
        for data, seconds in zip(page.data, page.seconds, strict=True)
    ]


def decode_result(frame: Frame, stdout: str = "", stderr: str = "") -> RunResult:
    """Decode a result frame.

    Args:
        frame: the frame.
        stdout: the tail of the call's output, if the parent has read it; otherwise it is in the frame.
        stderr: the tail of the call's error output, likewise.
    """
    info: dict[str, Any] = {"setup_time": frame.first, "exec_time": frame.second}
    # IN_FILE is another flag, so a payload in a file never gets here.
    if frame.flags & ~(frames.STAYS | frames.SPENT) == frames.SUCCESS and not frame.meta:  # most results
        return RunResult(True, Packed(frame.payload), info=info, stdout=stdout, stderr=stderr)  # type: ignore[arg-type]
    # The user's code can write to the channel, so these are claims of the child, not facts. They are text and are never
    # run.
    notes: dict[str, Any] = json.loads(frame.meta) if frame.meta else {}
    if notes.get("leftovers"):
        info["leftovers"] = notes["leftovers"]
    stdout, stderr = stdout or notes.get("stdout", ""), stderr or notes.get("stderr", "")
    if not frame.flags & (frames.SUCCESS | frames.RAISED):
        failure = Failure(*notes.get("failure", ("ResultSerializationError", "the result could not be sent back")))
        return RunResult(None, None, failure=failure, stdout=stdout, stderr=stderr, info=info)
    exception = tuple(notes["exception"]) if notes.get("exception") else None
    success = bool(frame.flags & frames.SUCCESS)
    # The client unpickles it in pieces, and then drops it while an event loop may run on another thread.
    body = packed_from(frame.segments(apart=True), apart=True)
    return RunResult(success, body, exception, stdout=stdout, stderr=stderr, info=info)
