"""Copies of a loaded function share nothing with it."""

from __future__ import annotations

import math
import textwrap
import types
from typing import Any

import pytest

from pywren.worker.child.snapshot import Snapshot


def make(source: str, **names: Any) -> Any:
    """Make a function ``f`` with only the given globals."""
    names["__builtins__"] = __builtins__
    exec(source, names)
    made = names.pop("f")
    assert isinstance(made, types.FunctionType)
    return made


def taken(function: Any) -> Snapshot:
    snapshot = Snapshot.take(function)
    assert snapshot is not None
    return snapshot


def test_a_copy_starts_from_the_variables_that_were_loaded() -> None:
    """A copy's globals and closure variables are as before any call, and are not shared with other copies."""
    counts = make("def f():\n global n\n n += 1\n return n, math.floor(2.5)", n=0, math=math)
    snapshot = taken(counts)
    assert [counts()[0], counts()[0]] == [1, 2]
    first, second = snapshot.copy(), snapshot.copy()
    assert [first(), first(), second()] == [(1, 2), (2, 2), (1, 2)]

    nests = make("def outer(n):\n def f():\n  nonlocal n\n  n += 1\n  return n\n return f\nf = outer(5)")
    del nests.__globals__["outer"]
    snapshot = taken(nests)
    assert [nests(), nests(), snapshot.copy()(), snapshot.copy()()] == [6, 7, 6, 6]


def test_a_copy_is_the_same_function_in_every_other_respect() -> None:
    """Defaults, names and documentation are those of the loaded function."""
    original = make('def f(x, y=3):\n "adds"\n return x + y')
    original.__qualname__ = "somewhere.f"
    copy = taken(original).copy()
    assert copy(1) == 4
    assert (copy.__name__, copy.__qualname__, copy.__doc__) == ("f", "somewhere.f", "adds")
    assert copy.__module__ == original.__module__
    assert copy is not original


@pytest.mark.parametrize(
    ("source", "names", "possible"),
    [
        ("def f(): return n", {"n": 1}, True),
        ("def f(): return n", {"n": [1]}, False),
        ("def f(): return n()", {"n": len}, True),
        ("def f(): return n(1)", {"n": [].append}, False),
        ("def f(x=(1, [])): return x", {}, False),
        ("def f(*, x=1): return x", {}, False),
        ("def f(x: 'list[X]') -> int: return x", {}, True),
        ("def f(x: n): return x", {"n": type("X", (), {})}, False),
        ("def f(): return n", {"n": type("X", (), {})}, False),
        ("def f(): return n", {"n": make("def f(): return 1")}, True),
        ("def f(): return n", {"n": make("def f(x=[]): return 1")}, False),
        ("def f(): return n", {"n": types.ModuleType("came_with_the_pickle")}, False),
        ("def f(): return n", {"n": textwrap.dedent}, False),  # imported, so there is only one of it
    ],
)
def test_only_functions_whose_variables_cannot_change_in_place_are_copied(
    source: str, names: dict[str, Any], possible: bool
) -> None:
    """A function with a list, a class or a mutable default is loaded again instead."""
    assert (Snapshot.take(make(source, **names)) is not None) is possible


def test_what_is_no_plain_function_is_not_copied() -> None:
    """Other callables, and functions with attributes, are loaded again."""
    has_attribute = make("def f(): return 1")
    has_attribute.calls = 0
    assert [Snapshot.take(one) for one in (has_attribute, len, str.upper, object())] == [None] * 4


def test_copies_share_among_each_other_what_the_loaded_functions_shared() -> None:
    """In each copy, functions of one module share their globals, and closures share their variables."""
    source = """
        n = 0
        def step():
            global n
            n += 1
        def outer(k):
            def bump():
                nonlocal k
                k += 1
            def f():
                step(), bump()
                return n, k
            return f
        f = outer(10)
        del outer
    """
    function = make(textwrap.dedent(source))
    snapshot = taken(function)
    assert [function(), function()] == [(1, 11), (2, 12)]
    first, second = snapshot.copy(), snapshot.copy()
    assert [first(), second(), first()] == [(1, 11), (1, 11), (2, 12)]
    assert first.__globals__["step"].__globals__ is first.__globals__


def test_a_function_that_calls_itself_is_copied() -> None:
    """A recursive copy calls itself."""
    source = "def f(n): return f(n - 1) + 1 if n else 0\ng = f"
    names: dict[str, Any] = {"__builtins__": __builtins__}
    exec(source, names)
    copy = taken(names["f"]).copy()
    assert copy(3) == 3
    assert copy.__globals__["f"] is copy
    assert copy.__globals__["g"] is copy


def test_a_variable_without_a_value_prevents_a_copy() -> None:
    """A function with a closure variable without a value is loaded again."""
    assert Snapshot.take(make("def outer():\n def f(): return later\n later = 1\n return f\nf = outer()\ndel outer"))
    assert Snapshot.take(make("def outer():\n def f(): return later\n return f\n del later\nf = outer()")) is None
