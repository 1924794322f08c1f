"""What a call may open in its process, so that the process closes it when the call has ended: a nested local pool.

The module that opens such a resource registers a function that closes it. The child's program calls these functions
after each call. So neither needs to import the other. In the client nothing ever calls ``close_all``.
"""

from __future__ import annotations

from collections.abc import Callable

_closers: list[Callable[[], None]] = []


def close_after_call(close: Callable[[], None]) -> None:
    """Register a function to be called after every call of this process. If nothing is open, it must do nothing."""
    _closers.append(close)


def close_all() -> None:
    """Close everything that the last call opened."""
    for close in _closers:
        close()
