"""Locks that are attributes of a class: each process has its own, as it would after importing the class."""

from __future__ import annotations

import _thread
import threading
from typing import Any

from pywren import _private_names
from pywren.by_value._pickle_state import PickleState


class _Fresh:
    """Pickles as a call that makes a new object.

    Args:
        make: what is called.
        arguments: with what.
    """

    def __init__(self, make: Any, *arguments: Any) -> None:
        self._made = make, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made


def fresh_if_lock(value: Any, state: PickleState) -> Any:
    """Return what travels for an attribute of a class: the attribute, or the recipe for a new lock of its kind.

    Args:
        value: the attribute.
        state: of the pickle, in which the same lock has the same recipe.
    """
    if not type(value).__module__.startswith(("_thread", "threading")):
        return value
    if id(value) not in state.replaced:
        state.replaced[id(value)] = value, _recipe(value)
    return state.replaced[id(value)][1]


def _recipe(value: Any) -> Any:
    kind: Any = type(value)
    if kind in (_thread.LockType, type(threading.RLock())):
        return _Fresh(threading.RLock if kind is not _thread.LockType else threading.Lock)
    if kind in (threading.Condition, threading.Event, threading.local):
        return _Fresh(kind)
    if kind in (threading.Semaphore, threading.BoundedSemaphore):
        return _Fresh(kind, _private_names.semaphore_value(value))
    if kind is threading.Barrier:
        return _Fresh(kind, value.parties)
    return value
