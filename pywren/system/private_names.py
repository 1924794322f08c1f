"""All private names of Python and of libraries that pywren uses. No other module may use private names.

If a new release moves a name, only this module must change. ``tests/system/test_private_names.py`` tries each name
separately and shows which names a release has moved.
"""

from __future__ import annotations

import _thread
import contextlib
import linecache
import operator
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
    """The possible states of a future, which ``concurrent.futures.wait`` and ``as_completed`` compare with."""

    pending: str
    running: str
    cancelled: str
    cancelled_and_notified: str
    finished: str


FUTURE_ATTRIBUTES = ("_condition", "_state", "_result", "_exception", "_waiters", "_done_callbacks")
"""The attributes of futures that ``concurrent.futures`` and asyncio read. ``ResponseFuture`` has them too."""


def future_states() -> FutureStates:
    """Return the possible states of a future."""
    from concurrent.futures import _base  # imported here: workers load this module, but do not need it

    return FutureStates(_base.PENDING, _base.RUNNING, _base.CANCELLED, _base.CANCELLED_AND_NOTIFIED, _base.FINISHED)


def futures_logger() -> logging.Logger:
    """Return the logger with which ``concurrent.futures`` reports exceptions that callbacks raise."""
    from concurrent.futures import _base

    return _base.LOGGER


# -- threading -----------------------------------------------------------------------------------------------


class OneStepCondition(threading.Condition):
    """A condition whose ``with`` statement takes and releases the lock in one step each, as that of a lock does.

    ``threading.Condition`` does both in methods that are written in Python. If Ctrl-C comes on the main thread just as
    such a method begins, the statement ends with the lock still held.
    """

    # Python looks both up when the statement begins, before anything is taken, and gets the lock's own methods.
    __enter__ = property(operator.attrgetter("_lock.__enter__"))
    __exit__ = property(operator.attrgetter("_lock.__exit__"))


# -- joblib --------------------------------------------------------------------------------------------------


def forget_ready_batches(parallel: Any) -> None:
    """Drop the batches that a ``joblib.Parallel`` had ready when its last run failed.

    In a ``with`` block of the ``Parallel`` joblib (1.5, 1.6) keeps them, and its next run would return their results.
    """
    ready = parallel._ready_batches
    while not ready.empty():
        ready.get_nowait()


# -- moto ----------------------------------------------------------------------------------------------------


def policy_statement(statement: Any) -> dict[str, Any]:
    """Return a policy statement as the dict that its JSON contains, given moto's object for the statement."""
    json: dict[str, Any] = statement._statement
    return json


# -- Python --------------------------------------------------------------------------------------------------


def interactive_lines(code: types.CodeType) -> list[str]:
    """Return the source lines of code that was typed interactively or given with ``-c``.

    Since Python 3.13 ``linecache`` may store these lines by code object, where ``linecache.getlines`` does not look.
    """
    lines: Any = getattr(linecache, "_getlines_from_code", None)
    return list(lines(code)) if lines is not None else []


def registered_subclasses(cls: Any) -> list[type]:
    """Return the classes that are registered as subclasses of an abstract base class."""
    import abc

    dump: Any = abc._get_dump  # type: ignore[attr-defined]
    references = dump(cls)[0]
    return [subclass for subclass in (reference() for reference in references) if subclass is not None]


def make_abstract(cls: Any) -> None:
    """Make a class abstract as ``ABCMeta`` does. The class exists already: ``type`` made it."""
    import abc

    abc._abc_init(cls)  # type: ignore[attr-defined]


def annotations_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a class in Python 3.14, which evaluates annotations lazily.

    If any annotation cannot be evaluated yet, all annotations are returned as strings.
    """
    import annotationlib  # type: ignore[import-not-found,unused-ignore]

    formats: Any = annotationlib.Format
    try:
        found: dict[str, Any] = annotationlib.get_annotations(cls)
    except NameError:
        found = annotationlib.get_annotations(cls, format=formats.STRING)
    return found


def semaphore_value(semaphore: Any) -> int:
    """Return the initial value of a semaphore, or the current value if the initial value is not recorded."""
    value: int = getattr(semaphore, "_initial_value", semaphore._value)
    return value


def forget_spent_event_loop() -> None:
    """Let asyncio make a new event loop for this thread if the thread's event loop is closed or was removed.

    The public functions can only remove an event loop. After that, Python does not make a new loop automatically.
    """
    import asyncio

    local: Any = getattr(asyncio.events._event_loop_policy, "_local", None)  # type: ignore[attr-defined]
    loop = getattr(local, "_loop", None)
    if local is not None and (loop is None or loop.is_closed()):
        local._loop, local._set_called = None, False


def environment_data() -> dict[Any, Any]:
    """Return the dict inside ``os.environ``. It can be compared and copied ten times as fast as ``os.environ``."""
    data: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
    return data


count_threads = _thread._count
"""Returns how many threads run besides the main thread, including threads that ``threading`` does not know."""


def at_end_of_threads(function: Callable[[], object]) -> None:
    """Call a function at the end of the program, before Python waits for threads and runs ``atexit`` functions.

    This does nothing if this version of Python has no such hook, or if the end of the program has begun.
    """
    with contextlib.suppress(AttributeError, RuntimeError):
        threading._register_atexit(function)  # type: ignore[attr-defined]


def end_as_interrupted() -> None:
    """Have Python end this process by SIGINT once everything else is done, as it does after an uncaught Ctrl-C.

    ``atexit`` functions cannot choose the exit status. Sending SIGINT from one would skip the functions that come after
    it, and whatever Python does last. But CPython has a flag that its ``Py_RunMain`` reads as the very last thing
    (bpo-1054041): each run of source text by ``exec`` sets it, to true if the text raised ``KeyboardInterrupt``.
    After ``sys.exit`` nothing reads the flag, and the program keeps the status that it chose.
    """
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt", {})


def base_executable() -> str:
    """Return the path of the interpreter that created this virtual environment.

    Before Python 3.11 the path may be that of a link to the interpreter.
    """
    return getattr(sys, "_base_executable", None) or sys.executable


# -- botocore ------------------------------------------------------------------------------------------------


def event_handlers(client: Any, event: str) -> list[Any]:
    """Return the functions that a botocore client calls at an event, such as ``before-send.s3.GetObject``."""
    return list(client.meta.events._emitter._handlers.prefix_search(event))


def event_registrations(client: Any) -> object:
    """Return an object that is another one whenever a handler of a botocore client was registered or unregistered."""
    return client.meta.events._emitter._lookup_cache


def steps_of_requests(client: Any) -> list[Any]:
    """Return functions through which the requests of a botocore client go; tests and tracing libraries replace them."""
    endpoint = client._endpoint
    pools = endpoint.http_session._manager.pool_classes_by_scheme.values()
    steps = [type(client)._make_api_call, type(endpoint).make_request, type(endpoint.http_session).send]
    return steps + [step for pool in pools for step in (pool.urlopen, pool.ConnectionCls.request)]


def connection_pool(client: Any, url: str) -> Any | None:
    """Return urllib3's pool of a botocore client's connections to a URL.

    Returns:
        The pool; ``None`` if a proxy is between the client and the URL, or if these versions of botocore and urllib3
        have other names.
    """
    try:
        session = client._endpoint.http_session
        direct = session._proxy_config.proxy_url_for(url) is None
        pool = session._manager.connection_from_url(url) if direct else None
    except AttributeError:
        return None
    return pool if hasattr(pool, "_get_conn") and hasattr(pool, "_put_conn") else None


def take_connection(pool: Any) -> Any:
    """Take a connection from urllib3's pool; one whose ``sock`` is ``None`` is not open.

    Raises:
        urllib3.exceptions.ClosedPoolError: the pool was closed.
    """
    return pool._get_conn()


def give_connection_back(pool: Any, connection: Any) -> None:
    """Put a connection into urllib3's pool, which closes it if the pool is full or was closed."""
    pool._put_conn(connection)
