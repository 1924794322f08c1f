"""``lines_run``: what code costs, in lines of Python, which are the same on any machine and however busy it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def lines_run(prefix: str, function: Callable[..., T], *args: Any) -> tuple[T, int]:
    """Call a function; return what it returns, and how many lines of some modules ran meanwhile.

    Args:
        prefix: how the names of the modules begin.
        function: what to call, with ``args``.
    """
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace if str(frame.f_globals.get("__name__")).startswith(prefix) else None

    saved = sys.gettrace()
    sys.settrace(trace)
    try:
        return function(*args), count
    finally:
        sys.settrace(saved)
