"""The three routes of calls: which one is chosen, and which dispatcher serves it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import pywren
from pywren.client.local_calls import LocalDispatcher
from pywren.client.protocols import adapted
from pywren.client.routes import Route, choose_route, make_dispatcher
from pywren.client.staging import StagedDispatcher
from pywren.invokers import DummyInvoker, LocalInvoker
from pywren.storage import Storage


def somewhere(backend: str) -> Any:
    return SimpleNamespace(path=[backend, "place", "prefix"])


@pytest.mark.parametrize(
    ("invoker", "backend", "route"),
    [
        (LocalInvoker(), "localhost", Route.IN_MEMORY),
        (LocalInvoker(), "s3", Route.STAGED_HERE),
        (DummyInvoker(), "localhost", Route.STAGED),
        (DummyInvoker(), "s3", Route.STAGED),
        (object(), "s3", Route.STAGED),
        (SimpleNamespace(pool=object()), "localhost", Route.IN_MEMORY),
    ],
)
def test_the_route(invoker: Any, backend: str, route: Route) -> None:
    """Calls on this machine stay in memory unless there is a bucket; all others are staged."""
    assert choose_route(adapted(invoker), somewhere(backend)) is route


def test_the_dispatcher_of_a_route() -> None:
    """Calls in memory have their own dispatcher; staged calls share one, wherever they run."""
    storage = Storage(pywren.wrenconfig.extract_storage_config(pywren.wrenconfig.default()))
    for invoker, kind in ((LocalInvoker(), LocalDispatcher), (DummyInvoker(), StagedDispatcher)):
        dispatcher = make_dispatcher(invoker, storage, {})
        assert type(dispatcher) is kind
        dispatcher.close()
