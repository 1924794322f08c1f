"""Closes what a call opened in its process (a nested local pool) when the call has ended.

The module that opens such a resource registers a function that closes it. The child's program calls these functions
after each call. So neither of the two needs to import the other. In the client nothing ever calls ``close_all``.
"""

from __future__ import annotations

from collections.abc import Callable

# No lock: modules register on import, and only the child's main thread calls ``close_all``, after the user's function.
_closers: list[Callable[[], None]] = []


def close_after_call(close: Callable[[], None]) -> None:
    """Register a function that is called after every call in this process. It must do nothing if nothing is open."""
    _closers.append(close)


def close_all() -> None:
    """Call all registered functions, which close what the last call opened."""
    # The list stays: the modules are imported once, and each later call may open something again.
    for close in _closers:
        close()
