"""``Agenda``: virtual time, and what happens when."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Agenda:
    """Steps in the order of their times. Steps at the same time happen in the order in which they were entered.

    Args:
        now: the time at the beginning, in seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._steps: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, step: Callable[..., object], *arguments: object) -> None:
        """Have a step happen at a time, in seconds."""
        heapq.heappush(self._steps, (when, next(self._numbers), step, arguments))

    def advance(self) -> None:
        """Go to the time of the next step, and do it."""
        when, _, step, arguments = heapq.heappop(self._steps)
        self.now = max(self.now, when)
        step(*arguments)
