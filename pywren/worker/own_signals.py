"""Tells a worker process that ended itself with a signal from one that was killed from outside.

The exit code is the same. So the functions of Python that send signals are replaced in worker processes: before one
sends a deadly signal to its own worker, it makes an empty file, the *mark*, which the parent looks for after the death.
A file works from every thread, and also from a process that the call has forked. It costs nothing until such a signal
is sent. Signals that are sent in other ways, such as by the program ``kill``, look as if they came from outside.

The names of the mark are for both sides; ``watch`` and the functions after it are for the child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any

DEADLY = frozenset(
    getattr(signal, name)
    for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)  # pragma: no branch -- Windows, where no worker runs, lacks some
)
"""The signals with which people and systems end processes. All other signals come from what a process itself does."""


def _mark(directory: str, pid: int) -> str:
    return os.path.join(directory, f"signalled-{pid}")


def take_mark(directory: str, pid: int | None) -> bool:
    """Tell whether a worker process that has died had sent itself a deadly signal, and remove the mark.

    Args:
        directory: the private directory of the process, or of the fork server that forked it.
        pid: its process id; ``None`` if it is unknown.
    """
    if pid is None:
        return False
    try:
        os.unlink(_mark(directory, pid))
    except OSError:
        return False
    return True


# -- in the child ----------------------------------------------------------------------------------------------

# The user's function may replace any of these under its public name.
_kill, _getpid, _getpgrp, _getsignal = os.kill, os.getpid, os.getpgrp, signal.getsignal
_open, _close, _unlink = os.open, os.close, os.unlink

_directory = ""
_worker = _server = -1
_is_marked = False
_interrupts_itself = _was_interrupted = False


def watch(directory: str) -> None:
    """From now on, mark this process before it sends itself a deadly signal. Call this on the main thread.

    Args:
        directory: the private directory of this process, where the mark is made.
    """
    global _directory, _worker
    _directory, _worker = directory, _getpid()
    _watch_function(os, "kill", lambda pid, number: number if _hits(pid) else None)
    _watch_function(os, "killpg", lambda group, number: number if _hits(-group) else None)
    _watch_function(signal, "raise_signal", lambda number: number if _getpid() == _worker else None)
    _watch_function(signal, "pthread_kill", lambda _, number: number if _getpid() == _worker else None)
    if _getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def watch_fork() -> None:
    """In a process that the fork server has forked: this process is the worker now, and its parent is the server."""
    global _worker, _server
    # A call that kills the server ends itself too, because nothing can report how its process ends without the server.
    _worker, _server = _getpid(), os.getppid()


def is_marked() -> bool:
    """Tell whether this process has sent itself a deadly signal, which it may have blocked. It is of no more use."""
    return _is_marked


def interrupt_itself() -> None:
    """Send this process SIGINT after a ``KeyboardInterrupt``, with a mark unless the interrupt came from outside."""
    if _was_interrupted:
        _kill(_getpid(), signal.SIGINT)
    else:
        _send_marked(lambda: _kill(_getpid(), signal.SIGINT), signal.SIGINT)


def _hits(target: int) -> bool:
    """Tell whether a signal to ``target``, as kill(2) understands it, reaches the worker or its fork server."""
    # From a process that the call has forked, -1 reaches the worker too.
    return target in (_worker, -_worker, _server, -1) or (target == 0 and _getpgrp() == _worker)


def _watch_function(module: Any, name: str, aimed: Callable[..., int | None]) -> None:
    """Replace a function that sends signals. ``aimed`` returns the signal that reaches this worker, or ``None``."""
    original = getattr(module, name, None)
    if original is None:
        return

    @wraps(original)
    def watched(*arguments: Any) -> None:
        try:
            number = aimed(*arguments)
        except TypeError:
            number = None  # the original says what is wrong with the arguments
        if number is None or number not in DEADLY:
            original(*arguments)
        else:
            _send_marked(lambda: original(*arguments), number)

    # In the C module too, by whose name the function is pickled.
    for place in (module, sys.modules.get(original.__module__)):
        if getattr(place, name, None) is original:
            setattr(place, name, watched)


def _send_marked(send: Callable[[], None], number: int) -> None:
    global _is_marked, _interrupts_itself
    mark = _mark(_directory, _worker)
    # A full disk, or no free descriptor: without a mark the death looks as if it came from outside.
    with contextlib.suppress(OSError):
        _close(_open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _is_marked = True
    _interrupts_itself = number == signal.SIGINT
    try:
        send()
    except BaseException:
        _unmark(mark)
        raise
    # Still alive. With a handler the signal is not deadly. Without one it is blocked, or on its way to another thread.
    if _getpid() == _worker and _getsignal(number) != signal.SIG_DFL:
        _unmark(mark)


def _unmark(mark: str) -> None:
    global _is_marked
    with contextlib.suppress(OSError):
        _unlink(mark)
    _is_marked = False


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT as Python does, and remember whether it came from outside."""
    global _interrupts_itself, _was_interrupted
    _was_interrupted, _interrupts_itself = not _interrupts_itself, False
    signal.default_int_handler(number, frame)
