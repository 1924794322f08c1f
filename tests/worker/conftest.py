"""What runs the calls of the tests of workers."""

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
    """Pickle the test module's functions as a script's: the children cannot import it."""
    module = sys.modules[request.module.__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(scope="module", params=["pool", "fork"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Run calls in one process for each function, for as long as nothing is wrong with the process."""
    made: Runner = LocalPool(1) if request.param == "pool" else ForkServer(lambda name, text: None)
    yield made
    made.close()
