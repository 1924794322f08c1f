"""Locks that are attributes of a class. Each process has its own lock, as it would after importing the class."""

from __future__ import annotations

import _thread
import threading
from typing import Any

from pywren.pickling.by_value._pickle_state import PickleState
from pywren.system import private_names


class _Fresh:
    """An object that is pickled as a call; unpickling makes the call, which returns a new object.

    Args:
        make: the callable.
        arguments: its arguments.
    """

    def __init__(self, make: Any, *arguments: Any) -> None:
        self._made = make, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made


_RLOCK = type(threading.RLock())
_SIMPLE = (threading.Condition, threading.Event, threading.local)
_SEMAPHORES = (threading.Semaphore, threading.BoundedSemaphore)
_KINDS = (_thread.LockType, _RLOCK, *_SIMPLE, *_SEMAPHORES, threading.Barrier)


def fresh_if_lock(value: Any, state: PickleState) -> Any:
    """Return what to send for an attribute of a class: the attribute, or if it is a lock, a recipe for a new lock.

    Args:
        value: the attribute.
        state: the state of the pickle; in it, the same lock always has the same recipe.
    """
    if not any(type(value) is kind for kind in _KINDS):
        return value
    if id(value) not in state.replaced:
        state.replaced[id(value)] = value, _recipe(value)
    return state.replaced[id(value)][1]


def _recipe(value: Any) -> _Fresh:
    kind: Any = type(value)
    if kind is _thread.LockType:
        return _Fresh(threading.Lock)
    if kind is _RLOCK:
        return _Fresh(threading.RLock)
    if kind in _SIMPLE:
        return _Fresh(kind)
    return _Fresh(kind, value.parties if kind is threading.Barrier else private_names.semaphore_value(value))
