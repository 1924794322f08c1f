"""What a call may open in its process, and its process closes when the call has ended: a nested local pool.

The module that opens such a thing registers how to close it; the child's program closes all of it after each call.
Neither needs to import the other. In the client nothing ever calls ``close_all``.
"""

from __future__ import annotations

from collections.abc import Callable

_closers: list[Callable[[], None]] = []


def close_after_call(close: Callable[[], None]) -> None:
    """Have a function called after every call of this process; it does nothing when there is nothing to close."""
    _closers.append(close)


def close_all() -> None:
    """Close whatever the last call opened."""
    for close in _closers:
        close()
