"""Locks of files that end with the process that holds them, with flock(2). Windows has no such locks.

These are not the locks of fcntl(2), which belong to a process and vanish when it closes any descriptor of the file.
"""

from __future__ import annotations

import errno
import sys
from typing import IO, Any


def lock(file: IO[Any], *, shared: bool = False) -> None:
    """Lock an open file, without waiting, until it is closed.

    Args:
        file: the file.
        shared: several processes may hold a shared lock together.

    Raises:
        BlockingIOError: another process holds a lock that excludes this one.
        OSError: the file system, or Windows, has no such locks.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "Windows cannot lock files in this way")
    import fcntl  # here: Windows lacks it

    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
