"""``Trouble``: when a storage failure is logged, and when waiting clients get its error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pywren.client.trouble import PATIENCE, Trouble
from pywren.exceptions import StorageError


def test_it_lasts_after_a_minute_without_a_break() -> None:
    """A storage is considered in trouble after a minute of failures; one good poll starts the minute again."""
    trouble, error = Trouble(), StorageError("out of reach")
    trouble.note(error, None, 0.0)
    assert trouble.lasting(PATIENCE - 1) is None
    assert trouble.lasting(PATIENCE) is error
    trouble.note(None, None, PATIENCE)
    trouble.note(error, None, PATIENCE + 1)
    assert trouble.lasting(PATIENCE + 2) is None


def test_it_is_worth_a_line_a_minute() -> None:
    """Intermittent trouble is logged when it begins, and then at most once a minute."""
    trouble, error = Trouble(), StorageError("out of reach")
    lines = 0
    for second in range(int(2 * PATIENCE)):
        lines += trouble.note(error if second % 2 else None, None, float(second))
    assert lines == 2


def test_it_concerns_the_calls_that_it_is_about() -> None:
    """Trouble with one output concerns that call; trouble with the storage concerns all."""
    futures: Any = [SimpleNamespace(call_id=f"{number:05d}") for number in range(3)]
    trouble = Trouble()
    trouble.note(StorageError("this one"), frozenset({"00001"}), 0.0)
    assert trouble.concerned(futures) == [futures[1]]
    trouble.note(StorageError("all"), None, 0.0)
    assert trouble.concerned(futures) == futures


def test_it_keeps_no_frames() -> None:
    """A stored error drops its tracebacks and those of its causes."""
    try:
        try:
            raise OSError("cause")
        except OSError as cause:
            raise StorageError("out of reach") from cause
    except StorageError as caught:
        error = caught
    Trouble().note(error, None, 0.0)
    assert error.__traceback__ is None
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None
