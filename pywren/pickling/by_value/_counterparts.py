"""Objects that exist in every process: the pickle says where to find them instead of containing a copy.

Each of the modules ``random`` and ``numpy.random`` has one hidden generator, whose methods are the module's functions.
A plain pickle of such a method contains the generator's state, so every call would draw the same numbers. Users mean
the worker's generator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

_SHARED_GENERATORS = (("random", "_inst"), ("numpy.random.mtrand", "_rand"))
"""Module and name of each generator whose methods are the functions of ``random`` or ``numpy.random``."""


def counterpart_reducer(kind: type) -> Callable[[Any], Any] | None:
    """Return the reducer for random generators of a class, or ``None`` for other classes."""
    random = sys.modules.get("random")
    if random is not None and issubclass(kind, random.SystemRandom):
        return _reduce_stateless  # it gets its numbers from the operating system; ``secrets`` contains such a generator
    return _reduce_generator if any(kind.__module__ == owner for owner, _ in _SHARED_GENERATORS) else None


def _reduce_stateless(obj: Any) -> tuple[Any, ...]:
    return type(obj), ()


def _reduce_generator(obj: Any) -> Any:
    for owner, name in _SHARED_GENERATORS:
        if owner in sys.modules and vars(sys.modules[owner]).get(name) is obj:
            return getattr, (sys.modules[owner], name)
    return NotImplemented  # a generator that the user made
