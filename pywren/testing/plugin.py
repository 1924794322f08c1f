"""The pytest plugin: an AWS for tests, mocked or emulated, as fixtures.

pytest imports this module at each start, wherever pywren is installed. So the module imports only pytest, and each
fixture imports what it needs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from pywren.testing.emulator import Emulator

_MOCKED = ("pywren_aws", "pywren_aws_session")


@pytest.fixture(scope="session")
def pywren_aws_options() -> Mapping[str, Any]:
    """Return the arguments of ``mock_aws`` for the fixtures below. Define this fixture again to change them."""
    return {}


@pytest.fixture
def pywren_aws(pywren_aws_options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the test a mocked AWS of its own, and return the configuration, which ``default_executor()`` uses too."""
    with _mocked("pywren_aws", pywren_aws_options) as config:
        yield config


@pytest.fixture(scope="session")
def pywren_aws_session(pywren_aws_options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Mock AWS from here to the end of the session, and return the configuration that all tests share."""
    with _mocked("pywren_aws_session", pywren_aws_options) as config:
        yield config


@pytest.fixture(scope="session")
def pywren_emulator_options() -> Mapping[str, Any]:
    """Return the arguments of ``emulate`` for ``pywren_emulator``. Define this fixture again to change them."""
    return {}


@pytest.fixture
def pywren_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Let the test use an emulated AWS, on which it deploys its own function.

    All tests of the session share the emulator, which starts with the first of them. The faults that a test sets end
    with the test.
    """
    used = [name for name in _MOCKED if name in request.fixturenames]
    if used:
        pytest.fail(f"a test can use either pywren_emulator or {used[0]}: both stand in for AWS", pytrace=False)
    emulator: Emulator = request.getfixturevalue("_pywren_running_emulator")
    from pywren.testing.emulator import Faults
    from pywren.testing.emulator._emulator import in_reach

    with in_reach(emulator), pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYWREN_EXECUTOR", raising=False)
        yield emulator
    emulator.set_faults(Faults())


@pytest.fixture(scope="session")
def _pywren_running_emulator(pywren_emulator_options: Mapping[str, Any]) -> Iterator[Emulator]:
    from pywren.testing.emulator import Settings
    from pywren.testing.emulator._emulator import start

    settings = Settings.decode(pywren_emulator_options)
    try:
        emulator = start(settings)
    except ImportError as error:
        _fail("pywren_emulator", error)
    with closing(emulator):
        yield emulator


@contextmanager
def _mocked(fixture: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Mock AWS, and make the configuration the one that ``default_executor()`` finds."""
    import yaml

    from pywren.testing import mock_aws

    with ExitStack() as stack:
        try:
            config = stack.enter_context(mock_aws(**options))
        except ImportError as error:
            _fail(fixture, error)
        # not in tmp_path, which belongs to the test and is empty
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pywren-"))) / "pywren_config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PYWREN_CONFIG_FILE", str(path))
        patch.delenv("PYWREN_EXECUTOR", raising=False)
        yield config


def _fail(fixture: str, error: ImportError) -> NoReturn:
    # The message of the error says what to install; a traceback through pywren would hide it.
    raise pytest.fail.Exception(f"the fixture {fixture} cannot be used: {error}", pytrace=False) from None
