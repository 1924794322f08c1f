"""One emulated AWS for all tests that ask for it, in each process of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from pywren.testing import _set_up
from pywren.testing.emulator import Emulator, Faults, Limits, Settings
from pywren.testing.emulator._emulator import start


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the shared emulator."""
    for item in items:
        if "emulator" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.emulator)


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """An emulated AWS that all tests of this process share: deploy a function of your own.

    Events are retried soon, and at most four containers run at once.
    """
    settings = Settings(containers=4, limits=Limits(retry_delays=(0.1, 0.2)))
    with closing(start(settings)) as running:
        yield running


@pytest.fixture(autouse=True)
def _in_the_emulated_world(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the environment of a test that uses the emulator point there, and leave no faults behind."""
    if "emulator" not in request.fixturenames:
        yield
        return
    shared: Emulator = request.getfixturevalue("emulator")
    with _set_up.environment(shared.environment):
        yield
    shared.set_faults(Faults())
