"""The small version of ``python -m tests.chaos``. ``PYWREN_CHAOS=full`` runs the whole of it here, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .scenarios import EVERYTHING, IN_CHUNKS, MANY, Scenario, on_lambda

emulator_module = pytest.importorskip("pywren.testing.emulator")

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("PYWREN_CHAOS") == "full"
KINDS = ("kill_container", "drop_event", "repeat_event", "throttle_invoke")
PATIENCE = 60.0
"""Seconds until a map counts as hanging: a dropped call takes 10 s and more, a killed one 5 s and more."""
LONG_PATIENCE = 180.0
"""The same for a map of so many calls that one of them may well be dropped or killed three or four times in a row."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "calls", "patience"),
    [(EVERYTHING, 100, PATIENCE), (IN_CHUNKS, 100, PATIENCE), (MANY, 500, LONG_PATIENCE)],
    ids=["alone", "in chunks", "many"],
)
def test_everything_at_once(
    emulator: emulator_module.Emulator, scenario: Scenario, calls: int, patience: float
) -> None:
    """Calls return their values while containers die, events vanish and repeat, and S3 fails."""
    outcome = on_lambda(emulator, scenario._replace(containers=4), calls=calls, seed=1, patience=patience)
    assert outcome.troubles() == ""
    assert outcome.right == calls
    # There are fewer invocations of chunks, and so fewer faults.
    struck = set(KINDS) if scenario.chunksize == 1 else {"kill_container"}
    assert struck <= outcome.faults.keys()


@pytest.mark.skipif(not FULL, reason="takes half an hour: set PYWREN_CHAOS=full")
@pytest.mark.timeout(4 * 3600)
def test_the_whole() -> None:
    """A thousand calls with five seeds, every kind of fault, and this machine."""
    environment = {name: value for name, value in os.environ.items() if name != "PYWREN_CHAOS"}
    done = subprocess.run([sys.executable, "-m", "tests.chaos"], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0
