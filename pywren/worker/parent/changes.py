"""``Changes``: keeps the local pool whole although Ctrl-C may come between any two steps of a change.

Python runs signal handlers on the main thread, between two steps of the program. So a ``KeyboardInterrupt``, or
whatever else a handler raises, may end a change of the pool half-way: a call is in no queue and in no process, and its
future would stay pending. Undoing the change at that moment would not do, because a second Ctrl-C may come meanwhile.
So a change notes its beginning and its end. A change that begins after one without an end first makes the pool whole
again, and so does the pump in each turn. No handler runs on the pump's thread, so nothing interrupts a repair there.

Everything here happens with the pool's lock held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Changes:
    """Makes the changes of one pool.

    Args:
        repair: makes the pool whole after a change that was interrupted. It may be interrupted too, and is then called
            again.
        wake: wakes the pump.
    """

    def __init__(self, repair: Callable[[], object], wake: Callable[[], object]) -> None:
        self._repair = repair
        self._wake = wake
        # Held during a change, only to recognize one that a destructor makes in the middle of another on this thread:
        # the pool's lock is reentrant. A ``with`` statement releases it however the change ends; a flag might stay set.
        self._running = threading.Lock()
        self._begun = self._ended = 0

    def make(self, change: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        """Call a function that changes the pool, and return what it returns."""
        if self._running.locked():
            return self._make(change, *args, **options)
        try:
            with self._running:
                if self._begun != self._ended:
                    self.finish()
                return self._make(change, *args, **options)
        except BaseException:
            # Only for speed: whatever a program does next with the pool repairs it, too.
            self._wake()
            raise

    def _make(self, change: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        self._begun += 1
        result = change(*args, **options)
        # An error, even one of the change itself, skips this. A repair that was not needed does no harm.
        self._ended += 1
        return result

    def finish(self) -> None:
        """Make the pool whole, if a change was interrupted."""
        if self._begun != self._ended:
            self._repair()
            self._begun = self._ended
