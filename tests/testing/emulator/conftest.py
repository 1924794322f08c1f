"""Marks every test here as emulated and thorough, and provides a moto server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m chooses among them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory. The rest of the suite uses the emulator all the time; these test it itself."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("emulator")
            item.add_marker("thorough")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Return the URL of a moto server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
