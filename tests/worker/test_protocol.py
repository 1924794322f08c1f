"""The messages between a child and its parent: what one side encodes, the other decodes."""

from __future__ import annotations

import ast
import socket
from collections.abc import Iterator
from pathlib import Path
from pickle import PickleBuffer

import pytest

import pywren
from pywren.pickling.packed import Packed
from pywren.wire.failure import Failure
from pywren.worker import frames
from pywren.worker.frames import Channel, Frame, FrameReader, Outgoing
from pywren.worker.protocol import (
    decode_result,
    decode_task,
    encode_task,
    function_from,
    function_segments,
    send_result,
)
from pywren.worker.task import Function, RunResult, Task

TIMES = {"setup_time": 0.25, "exec_time": 0.5}
_FOLDER = Path(pywren.__file__).parent / "worker"


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    """Return the parent's end and the child's."""
    ends = [Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)]
    yield ends[0], ends[1]
    for end in ends:
        end.close()


def received(channels: tuple[Channel, Channel], result: RunResult, left: str = "", flags: int = 0) -> RunResult:
    """Send a result as a child does, and decode it as its parent does."""
    parent, child = channels
    send_result(child, 7, result, ("out", "err") if left else ("", ""), left, flags)
    found: list[Frame] = []
    while not found:
        found = parent.receive()
    assert found[0].number == 7
    assert found[0].flags & flags == flags
    return decode_result(found[0])


def frame_of(outgoing: Outgoing) -> Frame:
    """Return a frame without descriptors as the other side receives it."""
    return FrameReader().feed(outgoing.data)[0]


def test_a_plain_result_arrives(channels: tuple[Channel, Channel]) -> None:
    """A small pickle passes unchanged, with the times and the flags."""
    result = RunResult(True, Packed(b"pickle"), info=TIMES)
    assert received(channels, result, flags=frames.SPENT) == result


def test_a_result_arrives_with_everything_beside_it(channels: tuple[Channel, Channel]) -> None:
    """Output, exception and leftovers pass as text, however odd they are."""
    exception = ("Odd", 'a "quoted" \ud800 text\n', "Traceback …")
    found = received(channels, RunResult(False, Packed(b"pickle"), exception, info=TIMES), "1 thread(s)")
    assert found.exception == exception
    assert (found.stdout, found.stderr) == ("out", "err")
    assert found.info == {**TIMES, "leftovers": "1 thread(s)"}
    assert found.success is False


def test_a_result_that_cannot_be_pickled_arrives_as_a_failure(channels: tuple[Channel, Channel]) -> None:
    """The child gives the reason, and the parent gets the same failure."""
    failure = Failure("ResultSerializationError", "it holds a lock")
    found = received(channels, RunResult(None, None, failure=failure, info=TIMES))
    assert found.success is None
    assert found.failure == failure


def test_buffers_arrive_as_memory_that_can_be_written_to(channels: tuple[Channel, Channel]) -> None:
    """The client can write to the arrays of a result."""
    packed = Packed(b"pickle", (PickleBuffer(b"one"), PickleBuffer(bytes(100_000))))
    found = received(channels, RunResult(True, packed, info=TIMES)).body
    assert found is not None
    assert found.data == b"pickle"
    views = [buffer.raw() for buffer in found.buffers]
    assert [view.nbytes for view in views] == [3, 100_000]
    assert not any(view.readonly for view in views)


@pytest.mark.parametrize("modules", [{}, {"mine.py": b"x = 1"}])
@pytest.mark.parametrize("runtime_path", [None, "/runtime"])
def test_a_function_arrives_whole(modules: dict[str, bytes], runtime_path: str | None) -> None:
    """Its id is the key that the parent gave it."""
    function = Function("a long id", Packed(b"pickle"), modules, runtime_path)
    assert function_from(function_segments(function), 3) == function._replace(id="3")


def test_a_task_brings_its_function_once() -> None:
    """Later tasks are for the function that the child already has."""
    function = Function("id", Packed(b"function"), {"mine.py": b"x = 1"})
    task = Task(function, Packed(b"argument"), (b"outcome",), {"NAME": "value"}, 3.0, {"TRACE": "1", "NONE": None})
    first = decode_task(frame_of(encode_task(task, with_function=True)), None)
    assert first.function == function._replace(id="0")
    assert first == task._replace(function=first.function, timeout=None)
    later = decode_task(frame_of(encode_task(task, with_function=False)), first.function)
    assert later == first
    other = decode_task(frame_of(encode_task(task, with_function=False, load_anew=True)), first.function)
    assert other.function == first.function._replace(load_anew=True)


@pytest.mark.parametrize(("side", "other"), [("parent", "child"), ("child", "parent")])
def test_neither_side_imports_the_other(side: str, other: str) -> None:
    """What both must agree on is here, so that a child loads nothing that only its parent needs."""
    found = [
        f"{path.name}:{node.lineno}"
        for path in (_FOLDER / side).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom)) and f"pywren.worker.{other}" in ast.unparse(node)
    ]
    assert not found
