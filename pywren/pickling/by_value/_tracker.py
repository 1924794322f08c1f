"""Unique names under which classes and type variables are sent, so that each process recognizes the other's classes."""

from __future__ import annotations

import threading
import uuid
import weakref
from collections.abc import Callable
from typing import Any

_lock = threading.Lock()  # guards the tables below; only code of this module runs while the lock is held
_by_id: dict[str, Callable[[], Any]] = {}
_ids: dict[int, str] = {}  # keyed by id, because a metaclass may compare and hash its classes in any way
_watched: dict[int, Any] = {}
_notes: dict[int, Any] = {}


def id_of(obj: Any) -> str:
    """Return the unique name of an object: the one under which it arrived, or a new one."""
    with _lock:
        known = _ids.get(id(obj))
        if known is None:
            known = uuid.uuid4().hex
            _track(known, obj)
        return known


def known_as(name: str) -> Any:
    """Return the object with a unique name, or ``None`` if this process does not have it."""
    reference = _by_id.get(name)
    return None if reference is None else reference()


def track(name: str, obj: Any) -> Any:
    """Record the unique name of an object that arrived. Return it, or the object that another thread recorded first."""
    with _lock:
        known = known_as(name)
        if known is not None:
            return known
        _track(name, obj)
        return obj


def _track(name: str, obj: Any) -> None:
    key = id(obj)

    def forget(_: Any = None, by_id: Any = _by_id, others: Any = (_ids, _watched, _notes)) -> None:
        # The garbage collector calls this, perhaps in a thread that holds the lock, so use only single, atomic
        # operations. It also runs at interpreter exit, when the module's own names are gone.
        if by_id.get(name) is reference:
            del by_id[name]
            for other in others:
                other.pop(key, None)

    reference: Callable[[], Any]
    try:
        reference = weakref.ref(obj, forget)
    except TypeError:  # type aliases do not support weak references; programs have few of them

        def reference() -> Any:
            return obj

    _by_id[name], _ids[key], _watched[key] = reference, name, reference


def note(obj: Any, value: Any) -> None:
    """Remember a value that belongs to a tracked object, for as long as the object exists."""
    _notes[id(obj)] = value


def noted(obj: Any) -> Any:
    """Return the value that ``note`` remembered for a tracked object, or ``None`` if there is none."""
    return _notes.get(id(obj))
