"""The settings of an emulator."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pywren.exceptions import ArgumentError
from pywren.testing.emulator import Limits, Settings


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(region="eu-west-1", containers=2, isolated=False, limits=Limits(concurrency=3, retry_delays=(0.5,))),
    ],
)
def test_settings_cross_as_json(settings: Settings) -> None:
    """Settings survive being encoded and sent as JSON."""
    assert Settings.decode(json.loads(json.dumps(settings.encode()))) == settings


def test_limits_may_be_given_as_they_are() -> None:
    """``emulate(limits=Limits(…))`` is accepted as well as a dict."""
    assert Settings.decode({"limits": Limits(layers=2)}) == Settings.decode({"limits": {"layers": 2}})


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"memory": 1}, "memory"),
        ({"limits": {"memroy": 1}}, "memroy"),
        ({"containers": 0}, "containers"),
        ({"containers": 1.5}, "containers"),
        ({"containers": True}, "containers"),
        ({"idle_seconds": -1}, "idle_seconds"),
        ({"role_seconds": float("nan")}, "role_seconds"),
        ({"region": ""}, "region"),
        ({"isolated": "yes"}, "isolated"),
        ({"limits": {"retry_delays": ["soon"]}}, "retry_delays"),
    ],
)
def test_a_wrong_setting_is_named(fields: dict[str, Any], text: str) -> None:
    """An unknown name or a value out of range is an ``ArgumentError`` that names it."""
    with pytest.raises(ArgumentError, match=text):
        Settings.decode(fields)
