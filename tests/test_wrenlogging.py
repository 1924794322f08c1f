"""Logging for programs that do not configure it themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pywren import wrenlogging
from pywren.exceptions import ConfigError


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_messages_go_to_stderr_from_the_level_on() -> None:
    """Messages of pywren below the level are not shown, and boto is quiet."""
    done = _run(
        "import logging; from pywren.wrenlogging import default_config; default_config('info');"
        "log = logging.getLogger('pywren.executor'); log.info('shown'); log.debug('hidden');"
        "logging.getLogger('botocore.hooks').warning('noise'); logging.getLogger('boto3').info('noise')"
    )
    assert "[INFO] pywren.executor: shown" in done.stderr
    assert "hidden" not in done.stderr
    assert "noise" not in done.stderr
    assert done.stdout == ""


def test_handlers_of_the_program_are_kept() -> None:
    """A program that has configured logging keeps its handlers and its level."""
    done = _run(
        "import logging, sys; from pywren.wrenlogging import default_config;"
        "logging.basicConfig(stream=sys.stdout, format='own %(message)s', level='ERROR'); default_config('DEBUG');"
        "default_config('DEBUG'); logging.getLogger('pywren').debug('once'); logging.getLogger('other').info('no')"
    )
    assert (done.stdout, done.stderr) == ("own once\n", "")


@pytest.mark.parametrize("level", ["LOUD", ""])
def test_unknown_levels(level: str) -> None:
    """The error for an unknown level lists the valid ones."""
    with pytest.raises(ConfigError, match="WARNING"):
        wrenlogging.default_config(level)
