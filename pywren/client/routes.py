"""``Route``: the ways from an executor to the workers. Only this module chooses between them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from pywren.client.local_calls import LocalDispatcher
from pywren.client.protocols import Dispatcher, Invoker
from pywren.client.staging import StagedDispatcher
from pywren.storage import Storage


class Route(enum.Enum):
    """A way that calls take from an executor to what runs them."""

    IN_MEMORY = "in memory"
    """Directly to the pool of this machine; nothing is stored. ``local_executor()`` without a bucket uses it."""

    STAGED_HERE = "staged here"
    """Through a storage to the pool of this machine. ``local_executor()`` with a bucket uses this route, as in 0.4.
    Threads of the invoker (``client.local_worker``) do the work that the handler does on Lambda."""

    STAGED = "staged"
    """Through a storage to whatever the invoker reaches: Lambda, stand-alone workers, or ``run_jobs``."""


def choose_route(invoker: Invoker, storage: Storage) -> Route:
    """Choose the route of an executor's calls. Calls on this machine stay in memory unless there is a bucket.

    Args:
        invoker: starts the calls.
        storage: the configured storage; a directory on this machine if no bucket is configured.
    """
    if invoker.pool is None:
        return Route.STAGED
    return Route.IN_MEMORY if storage.path[0] == "localhost" else Route.STAGED_HERE


def make_dispatcher(
    invoker: Invoker, storage: Storage, runtime: Mapping[str, Any], *, show_output: bool = False
) -> Dispatcher:
    """Make the dispatcher for the chosen route.

    Args:
        invoker: starts the calls.
        storage: the configured storage.
        runtime: the ``runtime`` section of the configuration, with the ``urls`` of the runtime's copies.
        show_output: whether the output of calls in memory is shown as it arrives.
    """
    pool = invoker.pool
    if pool is not None and choose_route(invoker, storage) is Route.IN_MEMORY:
        return LocalDispatcher(storage, invoker, pool, show_output=show_output)
    return StagedDispatcher(storage, invoker, runtime)
