"""The output of a call, passed on as it comes."""

from __future__ import annotations

import os

from pywren.worker.parent.output import OutputTail


def test_a_process_that_never_stops_writing_keeps_nobody() -> None:
    """``pump`` returns although there is always more to read, and ``poll`` tells of the rest."""
    read, write = os.pipe()
    tail = OutputTail(read, "stdout", lambda _, text: os.write(write, text.encode()))
    os.write(write, b"again")
    try:
        assert tail.pump()
        assert tail.take() == "again" * 8  # each of the two read four times
    finally:
        tail.close()
        os.close(write)


def test_the_end_of_a_stream() -> None:
    """Everything up to the end is passed on, also letters that arrive in parts."""
    read, write = os.pipe()
    passed: list[tuple[str, str]] = []
    tail = OutputTail(read, "stderr", lambda name, text: passed.append((name, text)))
    for part in ("é".encode()[:1], "é".encode()[1:]):
        os.write(write, part)
        assert tail.pump()
    os.close(write)
    assert not tail.pump()
    assert passed == [("stderr", "é")]
    assert tail.take() == "é"
    tail.close()
