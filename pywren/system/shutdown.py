"""Refuses new calls once the program is ending, as ``concurrent.futures`` does.

At its end, a program waits for non-daemon threads, and these threads may still make calls. After that calls are
refused: ``atexit`` functions and daemon threads may not make calls, because nothing would wait for them. The program
still waits for the calls that were made earlier.

``_has_begun`` needs no lock: only the main thread sets it, once. A forked child starts with False.
"""

from __future__ import annotations

import atexit
import os

from pywren.exceptions import ShutdownError
from pywren.system import private_names

_has_begun = False


def begin() -> None:
    """Refuse new calls from now on."""
    global _has_begun
    _has_begun = True


def require_running() -> None:
    """Raise an error if the program is ending, so that no new call is made.

    Raises:
        ShutdownError: the interpreter is shutting down.
    """
    if _has_begun:
        raise ShutdownError(
            "cannot schedule new futures after interpreter shutdown: the program is ending. Make calls in the main "
            "thread, or in threads that are not daemons"
        )


# Python ends a program in this order: threading's own hooks, a join of all non-daemon threads, atexit functions in
# reverse order of registration, daemon threads frozen. ``begin`` must run after the join and before all other atexit
# functions.
def _begin_first() -> None:
    # This runs before the join. Registering here puts ``begin`` after whatever the program has registered, so it runs
    # before all of that, and non-daemon threads may make calls until then.
    atexit.register(begin)  # atexit functions run in reverse order of registration


def _forget() -> None:
    global _has_begun
    _has_begun = False


# The fallback for a Python without that hook. It is registered early, so it runs late: other atexit functions could
# then still make calls. Setting the flag a second time does no harm.
atexit.register(begin)
private_names.at_end_of_threads(_begin_first)
if hasattr(os, "register_at_fork"):
    # A child that is forked while the parent is ending (before Python 3.12, atexit functions may fork) has only begun.
    os.register_at_fork(after_in_child=_forget)
