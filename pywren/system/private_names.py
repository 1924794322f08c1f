"""Every private name of a library, or of Python, that the package leans on: no other module may use one.

A name that a new release has moved is mended here. ``tests/system/test_private_names.py`` tries each by itself and says
which release of what has moved it.
"""

from __future__ import annotations

import _thread
import contextlib
import linecache
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import logging

# -- concurrent.futures --------------------------------------------------------------------------------------


class FutureStates(NamedTuple):
    """The states by which ``concurrent.futures.wait`` and ``as_completed`` tell how far a future is."""

    pending: str
    running: str
    cancelled: str
    cancelled_and_notified: str
    finished: str


FUTURE_ATTRIBUTES = ("_condition", "_state", "_result", "_exception", "_waiters", "_done_callbacks")
"""What those functions, and asyncio's, look at in a future: ``ResponseFuture`` has them under the same names."""


def future_states() -> FutureStates:
    """Return the states of a future."""
    from concurrent.futures import _base  # workers load this module, and do without

    return FutureStates(_base.PENDING, _base.RUNNING, _base.CANCELLED, _base.CANCELLED_AND_NOTIFIED, _base.FINISHED)


def futures_logger() -> logging.Logger:
    """Return the logger by which futures tell that a callback has raised."""
    from concurrent.futures import _base

    return _base.LOGGER


# -- moto ----------------------------------------------------------------------------------------------------


def policy_statement(statement: Any) -> dict[str, Any]:
    """Return the JSON of a statement of a policy, from moto's object for it."""
    json: dict[str, Any] = statement._statement
    return json


# -- Python --------------------------------------------------------------------------------------------------


def interactive_lines(code: types.CodeType) -> list[str]:
    """Return the source lines of code that was typed in, or given with ``-c``.

    From Python 3.13 on these may be kept by the code instead of by a file name, where ``linecache.getlines`` does
    not look.
    """
    lines: Any = getattr(linecache, "_getlines_from_code", None)
    return list(lines(code)) if lines is not None else []


def registered_subclasses(cls: Any) -> list[type]:
    """Return the classes that have been registered as subclasses of an abstract base class."""
    import abc

    dump: Any = abc._get_dump  # type: ignore[attr-defined]
    references = dump(cls)[0]
    return [subclass for subclass in (reference() for reference in references) if subclass is not None]


def make_abstract(cls: Any) -> None:
    """Do for a new class what ``ABCMeta`` does beside having ``type`` make it, which calls no other metaclass."""
    import abc

    abc._abc_init(cls)  # type: ignore[attr-defined]


def annotations_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a class on Python 3.14, where they are evaluated when somebody asks.

    What cannot be evaluated yet is the text of all of them.
    """
    import annotationlib  # type: ignore[import-not-found,unused-ignore]

    formats: Any = annotationlib.Format
    try:
        found: dict[str, Any] = annotationlib.get_annotations(cls)
    except NameError:
        found = annotationlib.get_annotations(cls, format=formats.STRING)
    return found


def semaphore_value(semaphore: Any) -> int:
    """Return how many may hold a semaphore that nobody holds; of an unbounded one, how many may now."""
    value: int = getattr(semaphore, "_initial_value", semaphore._value)
    return value


def forget_spent_event_loop() -> None:
    """Let asyncio make a new event loop for this thread when the one it had is closed, or has been taken away.

    The public functions can only take a loop away, after which Python makes none by itself.
    """
    import asyncio

    local: Any = getattr(asyncio.events._event_loop_policy, "_local", None)  # type: ignore[attr-defined]
    loop = getattr(local, "_loop", None)
    if local is not None and (loop is None or loop.is_closed()):
        local._loop, local._set_called = None, False


def environment_data() -> dict[Any, Any]:
    """Return the dictionary under ``os.environ``, which compares and copies in a tenth of the time."""
    data: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
    return data


count_threads = _thread._count
"""Returns how many threads run beside the main one, those that ``threading`` does not know too."""


def at_end_of_threads(function: Callable[[], object]) -> None:
    """Have a function called at the end of the program, before Python waits for threads and runs ``atexit`` functions.

    Does nothing on a Python that has no such list, or when the end has begun.
    """
    with contextlib.suppress(AttributeError, RuntimeError):
        threading._register_atexit(function)  # type: ignore[attr-defined]


def base_executable() -> str:
    """Return the interpreter that a virtual environment was made with, or before Python 3.11 a link to it."""
    return getattr(sys, "_base_executable", None) or sys.executable
