"""A library whose versions differ here and on the worker causes one warning, which names both."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import pywren
from pywren import executor as executor_module
from pywren.pickling.mentions import Mentions
from pywren.serialize import _skew


@pytest.fixture(autouse=True)
def forget() -> None:
    """Clear the record of earlier warnings."""
    _skew._warn.cache_clear()


def warnings_of(caplog: pytest.LogCaptureFixture, mentions: Mentions, versions: list[list[str]] | None) -> list[str]:
    """Return what is logged for a runtime with these versions."""
    with caplog.at_level(logging.WARNING):
        _skew.warn_of_skew(mentions, {} if versions is None else {"pkg_ver_list": versions})
    return caplog.messages


def test_another_version_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names both versions, and the next map does not repeat it."""
    for _ in range(2):
        found = warnings_of(caplog, Mentions(["cloudpickle.cloudpickle"]), [["cloudpickle", "0.1"]])
    assert len(found) == 1
    assert f"cloudpickle is {_skew._version('cloudpickle')} here, but 0.1 in the runtime" in found[0]


def test_imports_of_a_function_count(caplog: pytest.LogCaptureFixture) -> None:
    """Imports that a function makes when it runs count too."""

    def function() -> Any:
        import yaml

        return yaml

    found = warnings_of(caplog, Mentions((), {function.__code__: ""}), [["pyyaml", "1.0"]])
    assert len(found) == 1
    assert "1.0 in the runtime" in found[0]


@pytest.mark.parametrize("versions", [None, [], [["cloudpickle", _skew._version("cloudpickle")]], [["other", "1"]]])
def test_no_skew(caplog: pytest.LogCaptureFixture, versions: Any) -> None:
    """Equal versions, a library that the runtime lacks, or no runtime cause no warning."""
    assert warnings_of(caplog, Mentions(["cloudpickle", "json", "no_such_module"]), versions) == []


@pytest.mark.parametrize(("make", "warned"), [(pywren.dummy_executor, 1), (pywren.local_executor, 0)])
def test_executors_look_before_they_invoke(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, make: Any, warned: int
) -> None:
    """Executors with a runtime check it before they invoke; calls in memory use the libraries installed here."""
    info = executor_module.get_runtime_info({})
    monkeypatch.setattr(executor_module, "get_runtime_info", lambda _: {**info, "pkg_ver_list": [["pyyaml", "0.1"]]})
    import yaml

    with caplog.at_level(logging.WARNING), make(config=pywren.wrenconfig.embedded()) as executor:
        for _ in range(2):
            executor.map(yaml.safe_load, ["1"])
    assert len([text for text in caplog.messages if "PyYAML is" in text and "0.1" in text]) == warned
