"""What has a counterpart in every process: it travels as the way to it there, not as a copy of what it is here.

The functions of ``random`` and ``numpy.random`` are methods of one hidden generator each. A pickle of such a method
holds the generator's state, so that every call would draw the same numbers; what is meant is the worker's own.
"""

from __future__ import annotations

import sys
from typing import Any

_SHARED_GENERATORS = (("random", "_inst"), ("numpy.random.mtrand", "_rand"))
"""Module and name of the generators whose methods are the functions of ``random`` and ``numpy.random``."""


def reduce_counterpart(obj: Any) -> tuple[Any, ...] | None:
    """Return how to get at an object's counterpart (``object.__reduce_ex__``); ``None`` when it has none."""
    module = type(obj).__module__
    for owner, name in _SHARED_GENERATORS:
        if module == owner and vars(sys.modules[owner]).get(name) is obj:
            return getattr, (sys.modules[owner], name)
    random = sys.modules.get("random")
    if random is not None and isinstance(obj, random.SystemRandom):
        return type(obj), ()  # draws from the operating system: it has no state, and ``secrets`` has one
    return None
