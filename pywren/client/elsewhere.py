"""Origins of futures that no executor here made: ``origin_for`` for unpickled and ``origin_at`` for hand-made futures.

Any thread may unpickle futures, even while it is unpickling others. ``_attaching`` guards the tables of the objects
that such origins share. ``_attaching`` is an ``RLock``: while a thread holds it, the garbage collector may run a
``__del__`` method that unpickles futures too. Never make a ``Storage`` while holding ``_attaching``, because making one
reads and writes files.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pywren.client.callset import Callset
from pywren.client.failure_records import Noted
from pywren.client.monitor import Monitor
from pywren.client.staged_calls import StagedCallset
from pywren.storage import Storage
from pywren.storage.localhost_backend import is_locked
from pywren.wire.keys import MOST_COPIES, function_name

_CLOCKS_WRONG = 86_400.0  # seconds by which a client's clock may be wrong

_attaching = threading.RLock()
# All unpickled futures of a callset share one origin, which is kept as long as one of these futures lives.
_attached: weakref.WeakValueDictionary[tuple[Any, ...], StagedCallset] = weakref.WeakValueDictionary()
# All callsets in one storage share one Storage object: thousands of futures may come from thousands of callsets.
_storages: weakref.WeakValueDictionary[tuple[Any, ...], Storage] = weakref.WeakValueDictionary()
_monitors: weakref.WeakValueDictionary[tuple[Any, ...], Monitor] = weakref.WeakValueDictionary()
_noted: weakref.WeakValueDictionary[tuple[Any, ...], Noted] = weakref.WeakValueDictionary()


def origin_for(
    callset: Callset, storage: Storage, client: str | None = None, alive: Callable[[], bool] | None = None
) -> StagedCallset:
    """Return the origin that all unpickled and attached futures of a callset share in this process.

    Args:
        callset: the callset.
        storage: where its objects are.
        client: for calls in the pool of another process, the file that the other process keeps locked while it lives.
        alive: without such a file, tells whether the process that runs the calls is alive.
    """
    alive = alive if client is None else functools.partial(is_locked, client)
    key = (os.getpid(), *storage.path, callset.id)  # includes the process: a forked child has its own monitor
    with _attaching:
        # Test and make under one lock: with two origins for a callset, each would poll, and each pay for the requests.
        origin = _attached.get(key)
        if origin is None:
            # It starts no thread and sends nothing, so it is quick enough to be done under the lock.
            origin = _attached[key] = _new_origin(callset, storage, alive)
    return origin


def origin_at(storage_path: Sequence[str], callset_id: str, facts: dict[str, Any]) -> StagedCallset:
    """Return the origin of a future that a program made by hand.

    Args:
        storage_path: ``[backend, bucket, prefix]``.
        callset_id: the callset.
        facts: the dict that ``invoke_status`` returns. It gives the region, the function and the time of the call.
    """
    backend, place, prefix = storage_path
    settings = {"root": place} if backend == "localhost" else {"bucket": place, "region": facts.get("region")}
    config = {"storage_backend": backend, "storage_prefix": prefix, "backend_config": settings}
    function, submitted = facts.get("lambda_function_name"), facts.get("host_submit_time")
    callset = Callset(
        prefix,
        callset_id,
        # The time is by the clock of the client that submitted the call. If there is no time, all records are read.
        submitted=submitted - _CLOCKS_WRONG if isinstance(submitted, int | float) else 0.0,
        function=function_name(function) if isinstance(function, str) else None,
        copies=copies_in(facts),
        facts=facts,
    )
    key = (os.getpid(), *storage_path, settings.get("region"))
    storage = _storages.get(key) or Storage(config)  # not under the lock: a local storage deletes old files first
    with _attaching:
        # Two threads may both have made one. The first stays, and the other is dropped before it has opened a
        # connection.
        storage = _storages.setdefault(key, storage)
        return _new_origin(callset, storage)


def copies_in(facts: Mapping[str, Any]) -> int:
    """Return how many copies of the function may have got calls, from what their invoker has said about itself."""
    copies = facts.get("lambda_copies")
    return copies if type(copies) is int and 1 <= copies <= MOST_COPIES else 1


_Kept = TypeVar("_Kept")


def _kept(
    table: weakref.WeakValueDictionary[tuple[Any, ...], _Kept], key: tuple[Any, ...], make: Callable[[], _Kept]
) -> _Kept:
    # The caller holds ``_attaching``. The local name keeps the value alive: the table holds it weakly.
    found = table.get(key)
    if found is None:
        found = table[key] = make()
    return found


def _new_origin(callset: Callset, storage: Storage, alive: Callable[[], bool] | None = None) -> StagedCallset:
    # With the process in the key, an entry that a forked child has inherited is never found there: its monitor's thread
    # exists only in the parent.
    place = (os.getpid(), *storage.path)
    monitor, noted = _kept(_monitors, place, Monitor), _kept(_noted, (*place, callset.function), Noted)
    return StagedCallset(callset, storage, monitor, client_alive=alive, noted=noted)


def _after_fork() -> None:
    global _attaching
    _attaching = threading.RLock()  # a thread of the parent process may have held the old lock


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
