"""The format of pywren's pickles, which writers and readers agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

PROTOCOL = 5
"""The protocol of all pickles: the first with out-of-band buffers (PEP 574), and the highest in Python 3.10."""

FUTURE = "pywren-future"
"""The first part of the persistent id of a reference to a future; the second is its index among the references."""

VALUE = FUTURE + "-value"
"""The first part of the persistent id of a future that arrives as the value of its call. It contains ``FUTURE``."""

NAMES_FOLLOW = b"pywren-names"
"""The end of a pickle's data if a second pickle follows, which contains ``Names``."""

Names = dict[tuple[str, str], Any]
"""Objects that are sent by value and must also be found by name: by module and qualified name, which is empty for a
module."""


class StandIn(Protocol):
    """An object that is sent by value in place of a future."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how a pickle rebuilds this object."""


class ValuePlace(int):
    """The index of a reference in whose place the value arrives, and not a finished future."""


PersistentId = Callable[[Any], "int | StandIn | None"]
"""Returns what to send in place of a future: the index of a reference (``ValuePlace`` if the value is to arrive), or a
finished future by value.

It returns ``None`` for every object that is not a future.
"""
