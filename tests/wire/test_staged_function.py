"""``StagedFunction``: a pickled function and the modules that it needs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from wire_values import golden, staged_functions

from pywren.exceptions import DecodeError
from pywren.wire.function import StagedFunction


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.py", "a/../../x.py", "a//b.py", "./a.py", "", "a\\b.py", "a/", "a\0b.py"]
)
def test_a_module_path_that_leads_elsewhere_is_refused(path: str) -> None:
    """A staged function cannot make the worker write outside the directory of its modules."""
    data = StagedFunction(b"pickle", {path: b"source"}).encode()
    with pytest.raises(DecodeError, match="not a safe path"):
        StagedFunction.decode(data)


@pytest.mark.parametrize(
    "head",
    [
        {"pickle": -5, "modules": [["a.py", 5]]},
        {"pickle": 3, "modules": [["a.py", -3]]},
        {"pickle": 4, "modules": []},
        {"pickle": 10**30, "modules": []},
        {"pickle": 0, "modules": [["a.py", 10**30]]},
        {"pickle": 0, "modules": [["a.py", True]]},
        {"pickle": 0},
        {"modules": []},
    ],
)
def test_lengths_that_do_not_add_up_are_refused(head: dict[str, Any]) -> None:
    """A staged function whose parts overlap, exceed or miss bytes is a ``DecodeError``."""
    with pytest.raises(DecodeError):
        StagedFunction.decode(json.dumps(head).encode() + b"\n")


@given(function=staged_functions)
def test_a_staged_function_survives_its_encoding(function: StagedFunction) -> None:
    """Pickle and files come back byte for byte."""
    assert StagedFunction.decode(function.encode()) == function


def test_a_function_that_1_0_has_stored_stays_readable() -> None:
    """What the first release wrote decodes for ever: never regenerate the file."""
    assert StagedFunction.decode(golden("function_1.0.bin")) == StagedFunction(
        b"a pickle\n", {"mod.py": b"x = 1\n", "package/data.bin": b"\0\n"}
    )
