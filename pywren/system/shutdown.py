"""Whether the program is at its end: no new calls are taken then, as in ``concurrent.futures``.

Threads that are no daemons are waited for by Python and may go on to make calls; ``atexit`` functions and daemon
threads, which nothing ends, may not. Calls that were made before are waited for.
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
    """Refuse a call at the end of the program.

    Raises:
        ShutdownError: the interpreter shuts down.
    """
    if _has_begun:
        raise ShutdownError(
            "cannot schedule new futures after interpreter shutdown: the program is at its end. Make calls in the "
            "main thread, or in threads that are no daemons"
        )


def _begin_first() -> None:
    atexit.register(begin)  # the last that is registered is the first that runs


def _forget() -> None:
    global _has_begun
    _has_begun = False


atexit.register(begin)
private_names.at_end_of_threads(_begin_first)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
