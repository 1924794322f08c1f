"""Finds what a call has left running: threads in its process, and child processes.

Threads that a library keeps for itself may stay: a progress bar's monitor, the idle workers of a pool. They serve the
next call as they served this one. A thread counts as the call's own if the user's code started the thread or is on its
stack, or if the thread is busy. Such threads end with the process.

The checks run on the main thread while the other threads continue: a thread may end or start between two lines. So each
answer is true only for a moment, and in case of doubt a thread counts as the call's own.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from types import FrameType
from typing import Any

from pywren.system import private_names

MOST_THREADS = 32
"""How many library threads may stay. More would mean that every call leaves some."""

_SAMPLE_SECONDS = 0.002  # seconds between two samples of a thread's state
_BUSY_TICKS = 2  # clock ticks (10 ms) of CPU time that an idle worker does not use up on its way back to its queue
_DOUBT_SECONDS = 0.5  # after this long a thread counts as busy: on a crowded machine it may not have got a processor

# ``threading`` has its own reference to the second, so only code that starts threads without ``threading`` is recorded
# there.
_start, _start_bare = threading.Thread.start, _thread.start_new_thread
_bare: list[bool] = []


def _note_who_starts(thread: threading.Thread) -> None:
    if not _is_library(sys._getframe(1)):
        # Set before the start: the new thread may end, or be examined, before the next line runs.
        thread._pywren_own = True  # type: ignore[attr-defined]
    _start(thread)


def _note_bare(*arguments: Any, **keywords: Any) -> int:
    # CPython counts a thread when it has begun, but does not report this: record the thread now.
    _bare.append(True)
    return _start_bare(*arguments, **keywords)


def watch_threads(directory: str) -> None:
    """From now on, record for each new thread whether the user's code or a library started it.

    Args:
        directory: the directory of the users' modules, which do not count as libraries.
    """
    global _users
    _users = directory + os.sep
    _thread.start_new_thread = _thread.start_new = _note_bare
    threading.Thread.start = _note_who_starts  # type: ignore[method-assign,assignment]


_users = os.sep


def keep_threads() -> None:
    """Let the threads that run now stay: an initializer has started them for the calls that follow."""
    _bare.clear()
    for thread in threading.enumerate():
        thread._pywren_own = False  # type: ignore[attr-defined]


def leftovers() -> str:
    """Describe the threads and child processes that a call left and that must end; return "" if there are none."""
    # A count, because listing the threads takes a lock and more time, and most calls start none.
    threads = private_names.count_threads()
    if threads or _bare:
        threads = _own_threads(threads)
    children = _has_children()
    if not threads and not children:
        return ""
    parts = ([f"{threads} thread(s)"] if threads else []) + (["child processes"] if children else [])
    return " and ".join(parts)


def _own_threads(count: int) -> int:
    """Return how many of this process's threads must end."""
    known = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if _bare or count > len(known) or count > MOST_THREADS:
        # A bare thread that has ended counts too: nothing tells which of them are gone, and replacing the process is
        # safe.
        return max(count, 1)  # some were started without ``threading``, or there are too many to examine
    return len([thread for thread in known if _must_end(thread)])


def _must_end(thread: threading.Thread) -> bool:
    own: bool | None = getattr(thread, "_pywren_own", None)
    if own is not None:  # False for the threads of an initializer
        return own
    # A snapshot of where each thread was. The frames run on while this reads them, so a caller that has returned since
    # may be missed. ``_pywren_own`` does not depend on that.
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if not _is_library(frame):
            return True
        frame = frame.f_back
    return _is_busy(thread)


def _is_busy(thread: threading.Thread) -> bool:
    """Tell whether a thread keeps using a processor (Linux). This takes several samples of the thread's state.

    A thread that sleeps in any sample is idle. Being runnable proves nothing on a crowded machine, where a thread that
    has only a few steps to go waits for a processor; so a busy thread must have used some of one.
    """
    began, least = time.monotonic(), None
    while time.monotonic() - began < _DOUBT_SECONDS:
        try:
            with open(f"/proc/self/task/{thread.native_id}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return False  # the thread has just ended, or this is not Linux
        if fields[0] != b"R":
            return False
        used = int(fields[11]) + int(fields[12])  # utime and stime, proc(5)
        least = used if least is None else least
        if used - least >= _BUSY_TICKS:
            return True
        # This lets go of the GIL, so a busy Python thread can run. While this thread holds it, that one would only wait
        # (S).
        time.sleep(_SAMPLE_SECONDS)
    return True


def _is_library(frame: FrameType) -> bool:
    """Tell whether a frame's function belongs to a module that is installed here and was not sent with a call."""
    variables = frame.f_globals
    name = variables.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or module.__dict__ is not variables or name == "__main__":
        return False
    return not str(getattr(module, "__file__", None) or "").startswith(_users)


def _has_children() -> bool:
    """Reap the child processes that have ended, and tell whether others are still running."""
    while True:
        try:
            # As this process is a subreaper, daemons of the call are its children too. Reaping takes their exit codes
            # away from the call's ``Popen`` objects, which nobody asks any more.
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
