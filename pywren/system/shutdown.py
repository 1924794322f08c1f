"""The end of the program: new calls are refused from then on, as in ``concurrent.futures``.

Python waits for non-daemon threads, and those may still make calls. ``atexit`` functions and daemon threads may not,
because nothing would wait for their calls. The end of the program waits for calls that were made earlier.

``_has_begun`` needs no lock: only the main thread sets it, once. A forked child starts with False.
"""

from __future__ import annotations

import atexit
import os

from pywren.exceptions import ShutdownError
from pywren.system import private_names

_has_begun = False


def begin() -> None:
    """Refuse calls from now on."""
    global _has_begun
    _has_begun = True


def require_running() -> None:
    """Refuse a call if the program is ending.

    Raises:
        ShutdownError: the interpreter is shutting down.
    """
    if _has_begun:
        raise ShutdownError(
            "cannot schedule new futures after interpreter shutdown: the program is ending. Make calls in the main "
            "thread, or in threads that are not daemons"
        )


def _begin_first() -> None:
    atexit.register(begin)  # atexit functions run in reverse order of registration


def _forget() -> None:
    global _has_begun
    _has_begun = False


atexit.register(begin)
private_names.at_end_of_threads(_begin_first)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
