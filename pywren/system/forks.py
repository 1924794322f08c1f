"""``in_each_child``: lets objects replace the parent's locks and threads when the program forks a child process."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TypeVar

_Item = TypeVar("_Item")


def in_each_child(objects: weakref.WeakSet[_Item], restart: Callable[[_Item], object]) -> None:
    """Have every forked child process call a function with each object in a set.

    The other threads of the parent do not exist in the child, and locks that these threads held remain locked there.

    Args:
        objects: the set; the function is called with the objects that are still in it when the program forks.
        restart: called in the child with each object.
    """

    # fork(2) copies one thread and all memory: a lock that another thread held stays locked for ever in the child, so
    # ``restart`` must replace locks and never take one. CPython runs these hooks before os.fork() returns in the child.
    def restart_all() -> None:
        for item in list(objects):  # a copy, because an object may be destroyed meanwhile
            restart(item)

    if hasattr(os, "register_at_fork"):
        # Hooks cannot be unregistered. So there is one for each kind of object, and a weak set rather than one for each
        # object.
        os.register_at_fork(after_in_child=restart_all)
