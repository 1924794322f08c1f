"""``PerProcess``: a value that is made once in each process, by the first thread that needs it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pywren.system.forks import in_each_child

Value = TypeVar("Value")


class PerProcess(Generic[Value]):
    """Holds a value that threads share but forked processes must not, such as a client with open connections.

    Args:
        make: makes the value. If it raises, ``get`` raises the same exception, and the next ``get`` tries again.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[Value] | None = None
        # Weak: the hook must not keep clients alive. A child of fork(2) shares the parent's sockets, and two processes
        # that speak TLS on one would garble both.
        _everyone.add(self)

    def get(self) -> Value:
        """Return the value, making it on first use. Other threads that need the value wait meanwhile."""
        # Without the lock first: this is on the path of every request. Read it once, because forget() may clear it
        # meanwhile.
        made = self._made
        if made is None:
            with self._lock:
                made = self._made
                if made is None:
                    # A tuple, so that None can be a value. It is assigned whole, so a thread without the lock never
                    # sees half of it.
                    made = self._made = (self._make(),)
        return made[0]

    def peek(self) -> Value | None:
        """Return the value, or ``None`` if it has not been made yet."""
        return None if self._made is None else self._made[0]

    def put(self, value: Value) -> None:
        """Replace the value. Code that already has the earlier value may continue to use it."""
        # No lock: a get() that is making a value may overwrite this one. Then the next refused request renews it again.
        self._made = (value,)

    def forget(self) -> None:
        """Drop the value. The next use makes a new value."""
        # Make a new lock too: after a fork, a thread that exists only in the parent may hold the old lock.
        self._lock = threading.Lock()
        self._made = None


_everyone: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()
in_each_child(_everyone, PerProcess.forget)
