"""Which class here is which class there: the names under which classes, and type variables, cross."""

from __future__ import annotations

import threading
import uuid
import weakref
from collections.abc import Callable
from typing import Any

_lock = threading.Lock()  # guards what is below; nobody's code but ours runs under it
_by_id: dict[str, Callable[[], Any]] = {}
_ids: dict[int, str] = {}  # by identity: a metaclass may compare and hash its classes as it likes
_watched: dict[int, Any] = {}
_notes: dict[int, Any] = {}


def id_of(obj: Any) -> str:
    """Return the name under which an object crosses: the one it came with, or a new one."""
    with _lock:
        known = _ids.get(id(obj))
        if known is None:
            known = uuid.uuid4().hex
            _track(known, obj)
        return known


def known_as(name: str) -> Any:
    """Return the object that crosses under a name; ``None`` when it is not here."""
    reference = _by_id.get(name)
    return None if reference is None else reference()


def track(name: str, obj: Any) -> Any:
    """Note that an object has come under a name; returns the one that another thread was quicker to note."""
    with _lock:
        known = known_as(name)
        if known is not None:
            return known
        _track(name, obj)
        return obj


def _track(name: str, obj: Any) -> None:
    key = id(obj)

    def forget(_: Any = None, by_id: Any = _by_id, others: Any = (_ids, _watched, _notes)) -> None:
        # Runs in a garbage collection, which may have begun under the lock: single operations, atomic each. At the
        # interpreter's end too, when the module's own names are gone.
        if by_id.get(name) is reference:
            del by_id[name]
            for other in others:
                other.pop(key, None)

    reference: Callable[[], Any]
    try:
        reference = weakref.ref(obj, forget)
    except TypeError:  # type aliases take no weak references: programs have few

        def reference() -> Any:
            return obj

    _by_id[name], _ids[key], _watched[key] = reference, name, reference


def note(obj: Any, value: Any) -> None:
    """Remember something about an object that is tracked, for as long as it lives."""
    _notes[id(obj)] = value


def noted(obj: Any) -> Any:
    """Return what was remembered about an object that is tracked; ``None`` when there is nothing."""
    return _notes.get(id(obj))
