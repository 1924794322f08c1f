"""Plain functions, which can be compared and copied in microseconds: the rules for them."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from pywren.pickling.plain_functions import Parts, contents_of, is_constant, is_plain


def make(**annotations: Any) -> Any:
    """Make a function with a default and these annotations."""

    def function(x: object = 1) -> object:
        """Return the argument."""
        return x

    function.__annotations__ = annotations
    return function


@pytest.mark.parametrize("value", [1, 1.5, 1j, "text", b"bytes", True, None, len, json])
def test_what_cannot_change_in_place_is_a_constant(value: object) -> None:
    """Numbers, texts, functions of C modules and importable modules are constants."""
    assert is_constant(value)


class Unhashable(type):
    """A metaclass whose classes have no hash."""

    __hash__ = None  # type: ignore[assignment]


odd = Unhashable("Odd", (), {})()


@pytest.mark.parametrize(
    "value",
    [[], (1,), {}, [].append, json.dumps, type("Number", (int,), {})(), types.ModuleType("made_here"), odd],
)  # fmt: skip
def test_what_may_change_in_place_is_not_a_constant(value: object) -> None:
    """Containers, bound methods, instances and modules that cannot be imported are not constants."""
    assert not is_constant(value)


def test_a_module_that_travels_by_value_is_not_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that the user registered with cloudpickle is sent by value, and its contents may change."""
    module = types.ModuleType("registered_by_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    cloudpickle.register_pickle_by_value(module)
    try:
        assert not is_constant(module)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.parametrize(
    "annotation", [int, None, "Any", list, list[int], dict[str, list[int]], tuple[int, ...], int | None, list["Mine"]]
)
def test_annotations_of_built_in_types_are_plain(annotation: object) -> None:
    """Strings, built-in types and types made from them are the same or equal objects in every process."""
    assert is_plain(make(x=annotation))


class Mine:
    """A class of the user's that claims to be built in."""


Mine.__module__ = "builtins"


@pytest.mark.parametrize("annotation", [Mine, [int], {"a": 1}, type("int", (), {}), list[Mine], Mine | None])
def test_annotations_of_other_types_are_not_plain(annotation: object) -> None:
    """A user's class under any name is not plain, and neither is an object that can change."""
    assert not is_plain(make(x=annotation))


def test_other_callables_are_not_plain() -> None:
    """Built-in functions, classes, and functions with attributes or keyword defaults are not plain."""
    with_attribute = make()
    with_attribute.note = 1

    def with_keyword(*, x: int = 1) -> int:
        return x

    with_keyword.__annotations__ = {}
    assert is_plain(make())
    assert not any(map(is_plain, [len, Mine, with_attribute, with_keyword, make().__get__(1)]))


CHANGES: dict[str, Callable[[Any], None]] = {
    "code": lambda f: setattr(f, "__code__", f.__code__.replace(co_name="another")),
    "defaults": lambda f: setattr(f, "__defaults__", (2,)),
    "keyword defaults": lambda f: setattr(f, "__kwdefaults__", {"y": 1}),
    "attribute": lambda f: setattr(f, "note", 1),
    "name": lambda f: setattr(f, "__name__", "another"),
    "qualified name": lambda f: setattr(f, "__qualname__", "another"),
    "module": lambda f: setattr(f, "__module__", "another"),
    "documentation": lambda f: setattr(f, "__doc__", None),
    "another annotation": lambda f: f.__annotations__.update(x=float),
    "one annotation more": lambda f: f.__annotations__.update(y=int),
    "one annotation fewer": lambda f: f.__annotations__.clear(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_of_a_function_is_seen(change: Callable[[Any], None]) -> None:
    """When one part of a function is replaced, the recorded parts no longer match it."""
    function = make(x=int)
    parts = Parts.of(function)
    assert parts.are_still_of(function)
    change(function)
    assert not parts.are_still_of(function)


def test_annotations_are_never_asked_whether_they_are_equal() -> None:
    """An annotation whose comparison has no truth value, such as an array, counts as a change and raises no error."""

    class Array:
        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value of an array is ambiguous")

        __hash__ = object.__hash__

    function = make(x=int)
    parts = Parts.of(function)
    function.__annotations__["x"] = Array()
    assert not parts.are_still_of(function)


def test_an_assembled_function_has_the_same_parts() -> None:
    """Everything except the globals and the closure is the original's; annotations are a copy."""
    original = make(x=int)
    made = Parts.of(original).assemble({"__builtins__": {}}, None)
    assert Parts.of(original).are_still_of(made)
    assert made(5) == 5
    made.__annotations__["y"] = int
    assert "y" not in original.__annotations__


def test_an_empty_variable_of_a_closure_holds_no_constant() -> None:
    """A variable without a value is not a constant, because it can still get any value."""
    assert not is_constant(contents_of(types.CellType()))
    assert contents_of(types.CellType(3)) == 3
