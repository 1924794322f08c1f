"""``PerProcess``: a value that is made on first use, once in each process, by whichever thread comes first."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class PerProcess(Generic[Value]):
    """Holds a client with open connections, which must be shared by threads but never across ``os.fork``.

    Args:
        make: makes the value; what it raises reaches the caller, and the next use tries again.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[Value] | None = None
        _everyone.add(self)

    def get(self) -> Value:
        """Return the value, making it if there is none yet."""
        made = self._made
        if made is None:
            with self._lock:
                made = self._made
                if made is None:
                    made = self._made = (self._make(),)
        return made[0]

    def peek(self) -> Value | None:
        """Return the value if it has been made."""
        return None if self._made is None else self._made[0]

    def put(self, value: Value) -> None:
        """Take another value from now on; whoever has the earlier one may go on using it."""
        self._made = (value,)

    def forget(self) -> None:
        """Start anew: the next use makes another value."""
        # a new lock too: after a fork the old one may be held by a thread that the child does not have
        self._lock = threading.Lock()
        self._made = None


_everyone: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()


def _forget_all() -> None:
    for holder in list(_everyone):
        holder.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
