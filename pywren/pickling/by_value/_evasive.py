"""Objects whose ``__getattr__`` fails when pickle asks a new, still empty object for ``__setstate__``.

Such a ``__getattr__`` uses another attribute, which the empty object lacks. So ``__getattr__`` calls itself endlessly.
"""

from __future__ import annotations

import copyreg
import types
from collections.abc import Callable
from typing import Any

from pywren.pickling.format import PROTOCOL


def evasive_reducer(cls: Any) -> Callable[[Any], Any] | None:
    """Return a reducer for a class with such a ``__getattr__``, which it never calls; ``None`` for other classes."""
    if not hasattr(cls, "__getattr__") or hasattr(cls, "__setstate__") or cls in copyreg.dispatch_table:
        return None
    if cls.__reduce__ is not object.__reduce__ or cls.__reduce_ex__ is not object.__reduce_ex__:
        return None
    return _reduce_by_state if hasattr(cls, "__getstate__") else _reduce_by_attributes


def _reduce_by_state(obj: Any) -> tuple[Any, ...]:
    return (*object.__reduce_ex__(obj, PROTOCOL), _set_state)


def _reduce_by_attributes(obj: Any) -> tuple[Any, ...]:
    cls: Any = type(obj)
    args = cls.__getnewargs__(obj) if hasattr(cls, "__getnewargs__") else ()
    items = iter(obj) if isinstance(obj, list) else None
    pairs = iter(obj.items()) if isinstance(obj, dict) else None
    return copyreg.__newobj__, (cls, *args), _state_of(obj), items, pairs, _set_state  # type: ignore[attr-defined]


def _state_of(obj: Any) -> Any:
    """Return an object's state, as ``object.__getstate__`` does in Python 3.11 and later."""
    has_attributes = type(obj).__dictoffset__ != 0
    state: Any = object.__getattribute__(obj, "__dict__") if has_attributes else None
    slots = {}
    for name, slot in [item for base in type(obj).__mro__ for item in vars(base).items()]:
        if isinstance(slot, types.MemberDescriptorType):
            try:
                slots[name] = slot.__get__(obj)
            except AttributeError:
                pass  # the slot was never set
    return (state, slots) if slots else state


def _set_state(obj: Any, state: Any) -> None:
    """Set an object's state, as ``pickle`` does for an object without ``__setstate__``."""
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    if state:
        object.__getattribute__(obj, "__dict__").update(state)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)
