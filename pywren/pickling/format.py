"""The format of our pickles: what the side that writes them and the side that reads them agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

PROTOCOL = 5
"""The protocol of all pickles: the first with out-of-band buffers (PEP 574), and the highest of Python 3.10."""

FUTURE = "pywren-future"
"""The first part of the persistent id of a future that is a reference; its place among the references follows."""

NAMES_FOLLOW = b"pywren-names"
"""The end of the data of a pickle that is followed by a second one, which holds ``Names``."""

Names = dict[tuple[str, str], Any]
"""What travels by value and must also be found by name, by its module and its qualified name; a module has no name."""


class StandIn(Protocol):
    """What travels by value in place of a future."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how a pickle rebuilds it."""


PersistentId = Callable[[Any], "int | StandIn | None"]
"""Returns what travels in place of a future: the index of a reference, or a finished future by value.

It returns ``None`` for every object that is not a future.
"""
