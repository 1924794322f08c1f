"""The small version of ``python -m tests.chaos.soak``."""

from __future__ import annotations

import dataclasses

import pytest

from pywren.testing.emulator import Fault

from .soak import FAULTS, grown, soak, windows

pytestmark = [pytest.mark.slow, pytest.mark.emulator, pytest.mark.thorough]


def test_a_process_does_not_grow() -> None:
    """After twenty maps, half of them with faults, there are no more threads, descriptors and processes than before."""
    # without dropped events and killed containers: these calls take seconds, which here are too long
    faults = dataclasses.replace(FAULTS, drop_event=Fault(0.0), kill_container=Fault(0.0))
    maps = soak(20, faults=faults)
    assert len(windows(maps)) == 4
    assert grown(maps) == []
    assert not any(one.outcome.pending or one.outcome.wrong or one.outcome.miscounted for one in maps)
