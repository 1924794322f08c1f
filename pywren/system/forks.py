"""What happens first in a child that a program forks: its objects let go of threads and locks of the parent."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TypeVar

_Item = TypeVar("_Item")


def in_each_child(objects: weakref.WeakSet[_Item], restart: Callable[[_Item], object]) -> None:
    """Have every forked child call a function with each object of a set, in the thread that forked.

    Other threads of the parent do not exist there, and the locks that they held stay locked.

    Args:
        objects: the objects; those that still live at the fork count.
        restart: called with each.
    """

    def restart_all() -> None:
        for item in list(objects):  # a copy: an object may go meanwhile
            restart(item)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=restart_all)
