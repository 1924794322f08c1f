"""Objects that answer for names that they do not have: pickle asks a new, empty one for ``__setstate__``.

A ``__getattr__`` that looks the name up in an attribute, which the empty object lacks, calls itself without end.
"""

from __future__ import annotations

import copyreg
import types
from typing import Any

_PROTOCOL = 5


def reduce_evasive(obj: Any) -> tuple[Any, ...] | None:
    """Return how to make such an object anew without asking it (``object.__reduce_ex__``); ``None`` for others."""
    cls: Any = type(obj)
    if not hasattr(cls, "__getattr__") or hasattr(cls, "__setstate__") or cls in copyreg.dispatch_table:
        return None
    if cls.__reduce__ is not object.__reduce__ or cls.__reduce_ex__ is not object.__reduce_ex__:
        return None
    if isinstance(obj, (type, types.ModuleType)):
        return None  # of a kind of its own
    return (*object.__reduce_ex__(obj, _PROTOCOL), _set_state)


def _set_state(obj: Any, state: Any) -> None:
    """Do what unpickling does where there is no ``__setstate__``."""
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    if state:
        object.__getattribute__(obj, "__dict__").update(state)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)
