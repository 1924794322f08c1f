"""Tests of remembering a function's pickle: it is used again only when nothing that goes into it has changed."""

from __future__ import annotations

import gc
import json
import threading
from typing import Any

import pytest

from pywren._pickling import loads
from pywren.serialize import Serializer
from pywren.serialize._repeats import fingerprint

limit: Any = 1


def make(value: Any) -> Any:
    def function(x: int) -> Any:
        return x, value, limit

    function.__annotations__ = {}
    return function


def packed(serializer: Serializer, function: Any) -> Any:
    return serializer.pack_call(function, [0]).func


def test_an_unchanged_function_is_pickled_once() -> None:
    """Mapping the same function again takes the pickle that was made before."""
    serializer, function = Serializer(), make(2)
    assert packed(serializer, function) is packed(serializer, function)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, True), (1, 1.0), (0.0, -0.0), ("a", b"a"), (None, 0)])
def test_a_changed_variable_is_sent(before: object, after: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the closure, or a global, that has another value or type reaches the worker."""
    serializer, function = Serializer(), make(before)
    packed(serializer, function)
    function.__closure__[0].cell_contents = after
    monkeypatch.setitem(globals(), "limit", after)
    _, value, seen = loads(packed(serializer, function))(0)
    assert (repr(value), repr(seen)) == (repr(after), repr(after))


@pytest.mark.parametrize("value", [[1], {}, make, threading.Lock, object()])
def test_what_may_change_unseen_is_never_remembered(value: object) -> None:
    """A function that holds something mutable has no fingerprint."""
    assert fingerprint(make(value)) is None


def test_functions_of_other_kinds_have_no_fingerprint() -> None:
    """Neither have functions that are found by name, that hold others, or that carry attributes."""

    def with_inner() -> Any:
        return lambda: limit

    with_attribute = make(1)
    with_attribute.note = 1
    for function in (json.dumps, with_inner, with_attribute, len, make):
        assert fingerprint(function) is None


def test_modules_are_shipped_every_time() -> None:
    """What the remembered pickle mentions is looked at again: a module may have been edited."""

    def function(x: object) -> str:
        return json.dumps(x)

    function.__annotations__ = {}
    serializer = Serializer(preinstalls=frozenset())
    serializer.pack_call(function, [0])  # imports what pickling needs
    first, second = (serializer.pack_call(function, [0]) for _ in range(2))
    assert second.func is first.func
    assert second.modules == first.modules


def test_a_function_that_is_gone_is_forgotten() -> None:
    """Remembering keeps nothing alive, and another function is not taken for it."""
    serializer = Serializer()
    for value in range(50):
        assert loads(packed(serializer, make(value)))(0)[1] == value
        gc.collect(0)
