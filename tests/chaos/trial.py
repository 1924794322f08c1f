"""One map while things go wrong, and what has become of its calls."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pywren.future import ResponseFuture

HANGS = "still pending"
_CALLBACK_SECONDS = 5.0  # a future is done a moment before its callbacks are called


@dataclass(frozen=True)
class Outcome:
    """What has become of the calls of one map.

    Args:
        calls: how many calls there were.
        right: how many returned the right value.
        wrong: how many returned another value.
        errors: how many raised which error.
        pending: how many were pending at the end of the patience.
        miscounted: how many futures called their callback never or more than once, or changed their value.
        seconds: the time from the map to the last result.
        attempts: the number of all attempts, if the futures tell.
        faults: how often which fault struck.
        left: processes, threads and files that are left.
    """

    calls: int
    right: int
    wrong: int
    errors: Mapping[str, int]
    pending: int
    miscounted: int
    seconds: float
    attempts: int | None = None
    faults: Mapping[str, int] = field(default_factory=dict)
    left: Sequence[str] = ()

    @property
    def is_perfect(self) -> bool:
        """Whether every call has returned its value, once, and nothing is left."""
        return self.right == self.calls and not self.miscounted and not self.left

    def troubles(self) -> str:
        """Return in words what is not right; ``""`` if all is right."""
        found = [f"{count} {name}" for name, count in sorted(self.errors.items())]
        for count, what in ((self.wrong, "wrong"), (self.pending, HANGS), (self.miscounted, "not settled once")):
            found += [f"{count} {what}"] * bool(count)
        return ", ".join([*found, *(f"left: {one}" for one in self.left)])


def square_after(seconds: float) -> Callable[[int], tuple[int, int]]:
    """Return a function that takes this long and returns its argument and the square."""

    def square(x: int) -> tuple[int, int]:
        import time

        time.sleep(seconds)
        return x, x * x

    return square


def run(
    submit: Callable[[], Sequence[ResponseFuture]],
    *,
    patience: float,
    idle: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run a map of ``square_after`` over ``range``, and return what has become of its calls. Nothing stays pending.

    Args:
        submit: makes the map and returns its futures.
        patience: seconds after which a call counts as pending, from the map; it is then cancelled.
        idle: waits until late attempts have ended, too.
    """
    began = time.monotonic()
    futures = submit()
    settled = _Settlements(futures)
    concurrent.futures.wait(futures, timeout=max(0.0, began + patience - time.monotonic()))
    pending = {index for index, future in enumerate(futures) if not future.done()}
    seconds = time.monotonic() - began
    for index in pending:
        futures[index].cancel()
    first = [_ending(future) for future in futures]
    settled.wait()
    idle()
    second = [_ending(future) for future in futures]
    # A call that ended between the end of the patience and its cancellation counts as pending.
    ended = {index: ending for index, ending in enumerate(first) if index not in pending}
    right = sum(ending == (index, index * index) for index, ending in ended.items())
    errors = Counter(ending for ending in ended.values() if isinstance(ending, str))
    once = [settled.counts[index] == 1 and first[index] == second[index] for index in range(len(futures))]
    return Outcome(
        calls=len(futures),
        right=right,
        wrong=len(ended) - right - errors.total(),
        errors=errors,
        pending=len(pending),
        miscounted=once.count(False),
        seconds=seconds,
        attempts=_attempts(futures),
    )


class _Settlements:
    """Counts how often each future is settled. The threads that settle futures call ``_note``; a lock guards counts."""

    def __init__(self, futures: Sequence[ResponseFuture]) -> None:
        self.counts: Counter[int] = Counter()
        self._outstanding = len(futures)
        self._changed = threading.Condition()
        for index, future in enumerate(futures):
            future.add_done_callback(lambda _, index=index: self._note(index))

    def _note(self, index: int) -> None:
        with self._changed:
            self.counts[index] += 1
            self._outstanding -= self.counts[index] == 1
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait for every callback, for some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._outstanding == 0, _CALLBACK_SECONDS)


def _ending(future: ResponseFuture) -> Any:
    """Return the value of a future, or the name of its error."""
    try:
        return future.result(_CALLBACK_SECONDS)
    except (Exception, concurrent.futures.CancelledError) as error:  # noqa: BLE001 -- it is what is counted
        return type(error).__name__


def _attempts(futures: Sequence[ResponseFuture]) -> int | None:
    """Return how many attempts the calls took; ``None`` if the futures do not tell."""
    if not futures or not hasattr(futures[0], "attempts"):
        return None
    return sum(len(future.attempts) for future in futures)
