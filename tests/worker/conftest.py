"""Fixtures that run calls for the tests of workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import cloudpickle
import pytest

from pywren.worker.parent.fork_server import ForkServer
from pywren.worker.parent.pool import LocalPool
from pywren.worker.task import Runner


@pytest.fixture(scope="module")
def by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pickle the test module's functions like a script's, because the children cannot import it."""
    module = sys.modules[request.module.__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(scope="module", params=["pool", "fork"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Run the calls of each function in one process, as long as the process is in good condition."""
    made: Runner = LocalPool(1) if request.param == "pool" else ForkServer(lambda name, text: None)
    yield made
    made.close()
