"""What a program that forks must not share with its children: locks and threads (``in_each_child``), and a name."""

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


def own_name() -> str:
    """Return a random name of this process. A forked child has a name of its own."""
    return _name


_name = ""


def _take_name() -> None:
    global _name
    _name = os.urandom(16).hex()


_take_name()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_take_name)
