"""Copies of a loaded function that share nothing with it."""

from __future__ import annotations

import math
import types
from typing import Any

import pytest

from pywren.worker._snapshot import Snapshot, can_copy


def make(source: str, **names: Any) -> Any:
    """Make a function ``f`` whose globals are only what is given."""
    names["__builtins__"] = __builtins__
    exec(source, names)
    made = names.pop("f")
    assert isinstance(made, types.FunctionType)
    return made


def test_a_copy_starts_from_the_variables_that_were_loaded() -> None:
    """Globals and closure variables that a call has changed are as before in a copy, and apart from each other."""
    counts = make("def f():\n global n\n n += 1\n return n, math.floor(2.5)", n=0, math=math)
    snapshot = Snapshot(counts)
    assert [counts()[0], counts()[0]] == [1, 2]
    first, second = snapshot.copy(), snapshot.copy()
    assert [first(), first(), second()] == [(1, 2), (2, 2), (1, 2)]

    nests = make("def outer(n):\n def f():\n  nonlocal n\n  n += 1\n  return n\n return f\nf = outer(5)")
    del nests.__globals__["outer"]
    snapshot = Snapshot(nests)
    assert [nests(), nests(), snapshot.copy()(), snapshot.copy()()] == [6, 7, 6, 6]


def test_a_copy_is_the_same_function_in_every_other_respect() -> None:
    """Defaults, names and documentation are those of the loaded function."""
    original = make('def f(x, y=3):\n "adds"\n return x + y')
    original.__qualname__ = "somewhere.f"
    copy = Snapshot(original).copy()
    assert copy(1) == 4
    assert (copy.__name__, copy.__qualname__, copy.__doc__) == ("f", "somewhere.f", "adds")
    assert copy.__module__ == original.__module__
    assert copy is not original


@pytest.mark.parametrize(
    ("source", "names", "possible"),
    [
        ("def f(): return n", {"n": 1}, True),
        ("def f(): return n", {"n": [1]}, False),
        ("def f(): return n()", {"n": len}, False),
        ("def f(x=(1, [])): return x", {}, False),
        ("def f(*, x=1): return x", {}, False),
        ("def f(x: int): return x", {}, False),
        ("def f(): return f", {}, True),  # make() has taken its name away
    ],
)
def test_only_functions_whose_variables_cannot_change_in_place_are_copied(
    source: str, names: dict[str, Any], possible: bool
) -> None:
    """A list, a function or a default that could be changed in place has the function loaded again instead."""
    assert can_copy(make(source, **names)) is possible


def test_what_is_no_plain_function_is_not_copied() -> None:
    """Callables of other kinds, and functions with attributes of their own, are loaded again."""
    has_attribute = make("def f(): return 1")
    has_attribute.calls = 0
    assert not any(map(can_copy, (has_attribute, len, str.upper, object())))
