"""A function's pickle is remembered and used again only if everything that it depends on is unchanged."""

from __future__ import annotations

import functools
import gc
import json
import subprocess
import sys
import threading
import types
import weakref
from typing import Any

import cloudpickle
import pytest

from pywren.pickling.adapters import Application, Chunk, Initialized, Setup
from pywren.pickling.packed import loads
from pywren.serialize import Serializer
from pywren.serialize._repeats import State

limit: Any = 1


def make(value: Any) -> Any:
    def function(x: int) -> Any:
        return x, value, limit

    function.__annotations__ = {}
    return function


_make = make


def packed(serializer: Serializer, function: Any) -> Any:
    return serializer.pack_call(function, [0]).func


def test_an_unchanged_function_is_pickled_once() -> None:
    """Mapping the same function again uses the same pickle."""
    serializer, function = Serializer(), make(2)
    assert packed(serializer, function) is packed(serializer, function)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, True), (1, 1.0), (0.0, -0.0), ("a", b"a"), (None, 0)])
def test_a_changed_variable_is_sent(before: object, after: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new value or type of a closure variable or global reaches the worker."""
    serializer, function = Serializer(), make(before)
    packed(serializer, function)
    function.__closure__[0].cell_contents = after
    monkeypatch.setitem(globals(), "limit", after)
    _, value, seen = loads(packed(serializer, function))(0)
    assert (repr(value), repr(seen)) == (repr(after), repr(after))


@pytest.mark.parametrize("value", [[1], {}, json.dumps, [].append, threading.Event, object()])
def test_what_may_change_unseen_is_never_remembered(value: object) -> None:
    """A function that holds mutable objects or functions found by name is pickled every time."""
    assert State.of(make(value)) is None


def test_functions_of_other_kinds_are_never_remembered() -> None:
    """Functions that define others or have attributes, and other callables, are pickled every time."""

    def with_inner() -> Any:
        return lambda: limit

    with_attribute = make(1)
    with_attribute.note = 1
    for function in (with_inner, with_attribute, int, "".join, functools.partial(make)):
        assert State.of(function) is None


@pytest.mark.parametrize("function", [json.dumps, len, make])
def test_a_function_with_a_name_is_remembered(function: Any) -> None:
    """A function that the worker finds by its name is pickled once."""
    serializer = Serializer()
    assert packed(serializer, function) is packed(serializer, function)


def test_a_name_that_means_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its name means another function, a function is pickled again, now by value."""
    serializer = Serializer()
    packed(serializer, make)
    monkeypatch.setitem(globals(), "make", len)
    assert loads(packed(serializer, _make))(5)(0) == (0, 5, 1)


@pytest.mark.parametrize("adapter", [Application, Chunk])
def test_in_an_adapter(adapter: Any) -> None:
    """Whatever calls a function for the client is remembered as the function is, but not as another adapter."""
    serializer, function = Serializer(), make(2)
    first = packed(serializer, adapter(function))
    assert packed(serializer, adapter(function)) is first
    assert packed(serializer, function) != first
    function.__closure__[0].cell_contents = 3
    assert packed(serializer, adapter(function)) != first


def test_in_a_pool_with_an_initializer() -> None:
    """The function of a pool is remembered for that pool."""
    serializer, function = Serializer(), make(2)
    setup, other = Setup("a", make, ([1],)), Setup("b", make, ([1],))
    first = packed(serializer, Initialized(setup, Application(function)))
    assert packed(serializer, Initialized(setup, Application(function))) is first
    assert packed(serializer, Initialized(other, Application(function))) != first


def test_a_function_that_sets_variables_has_an_equal_pickle_each_time() -> None:
    """By the identity of the pickle, a dispatcher knows that calls cannot change the function."""

    def make_counter() -> Any:
        count = 0

        def counter(_: int) -> int:
            nonlocal count
            count += 1
            return count

        return counter

    serializer, function = Serializer(), make_counter()
    first, second, third = (packed(serializer, function) for _ in range(3))
    assert first == second == third
    assert second is not third


def closure_of(inner: Any) -> Any:
    return lambda x: inner(x)


def test_functions_that_a_function_holds_are_looked_at_too() -> None:
    """A closure over another function is pickled again when that function's variables, code or defaults change."""
    serializer, inner = Serializer(), make(1)
    outer = closure_of(inner)
    first = packed(serializer, outer)
    assert packed(serializer, outer) is first
    inner.__closure__[0].cell_contents = 2
    assert loads(packed(serializer, outer))(0) == (0, 2, 1)
    inner.__code__ = inner.__code__.replace(co_consts=(*inner.__code__.co_consts, "more"))
    assert "more" in loads(packed(serializer, outer)).__closure__[0].cell_contents.__code__.co_consts
    inner.__defaults__ = (7,)
    assert loads(packed(serializer, outer)).__closure__[0].cell_contents() == (7, 2, 1)


def test_another_function_in_its_place_is_sent() -> None:
    """A closure is pickled again if its variable holds another function, or no value."""
    serializer, outer = Serializer(), closure_of(make(1))
    packed(serializer, outer)
    outer.__closure__[0].cell_contents = make(2)
    gc.collect()
    assert loads(packed(serializer, outer))(0)[1] == 2
    del outer.__closure__[0].cell_contents
    with pytest.raises(NameError):
        loads(packed(serializer, outer))(0)


def test_a_function_that_calls_itself_is_remembered_and_forgotten() -> None:
    """A recursive function is remembered, and this does not keep it alive."""

    def make_countdown() -> Any:
        def countdown(n: int) -> int:
            return countdown(n - 1) if n else 0

        return countdown

    serializer, function = Serializer(), make_countdown()
    assert packed(serializer, function) is packed(serializer, function)
    gone = weakref.ref(function)
    del function
    gc.collect()
    assert gone() is None


def test_annotations_of_any_kind_are_no_obstacle() -> None:
    """Functions with annotations that cannot be compared quickly are pickled every time, and work."""
    serializer, function = Serializer(), make(1)
    for annotation in ([int], {"a": 1}, type("C", (), {})):
        function.__annotations__ = {"x": annotation}
        assert State.of(function) is None
        assert loads(packed(serializer, function))(0) == (0, 1, 1)
    function.__annotations__ = {"x": int, "y": "list[int]"}
    assert packed(serializer, function) is packed(serializer, function)


def test_modules_that_travel_by_value_are_sent_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes in a module that was registered with cloudpickle always reach the worker."""
    parameters = types.ModuleType("parameters_of_a_test")
    parameters.limit = 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "parameters_of_a_test", parameters)
    serializer = Serializer()
    function = eval("lambda x: parameters.limit", {"parameters": parameters, "__name__": "__main__"})
    packed(serializer, function)
    cloudpickle.register_pickle_by_value(parameters)
    try:
        for limit in (2, 3):
            parameters.limit = limit  # type: ignore[attr-defined]
            assert loads(packed(serializer, function))(0) == limit
    finally:
        cloudpickle.unregister_pickle_by_value(parameters)


def test_modules_are_shipped_every_time() -> None:
    """The modules that a remembered pickle needs are read again, since one may have been edited."""

    def function(x: object) -> str:
        return json.dumps(x)

    function.__annotations__ = {}
    serializer = Serializer(preinstalls=frozenset())
    serializer.pack_call(function, [0])  # imports what pickling needs
    first, second = (serializer.pack_call(function, [0]) for _ in range(2))
    assert second.func is first.func
    assert second.modules == first.modules


def test_a_function_that_is_gone_is_forgotten() -> None:
    """A new function is never mistaken for one that has been freed."""
    serializer = Serializer()
    for value in range(50):
        assert loads(packed(serializer, make(value)))(0)[1] == value
        gc.collect(0)


FIRST_CALLS_AT_ONCE = """
import sys, threading, traceback
from pywren.serialize import Serializer

class SlowDisk:
    def find_spec(self, name, path=None, target=None):
        if name == "cloudpickle.cloudpickle":  # the package is in sys.modules, but has nothing in it yet
            importing.set()
            failed.wait(0.3)

def first_call(begin=None):
    try:
        begin and begin.wait()
        Serializer().pack_call(lambda x: x, [0])
    except Exception:
        failed.set()
        traceback.print_exc()

sys.meta_path.insert(0, SlowDisk())
importing, failed = threading.Event(), threading.Event()
threads = [threading.Thread(target=first_call, args=[begin]) for begin in (None, importing, importing)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(not importing.is_set() or failed.is_set())
"""


def test_the_first_functions_of_several_threads() -> None:
    """Several threads may make the first calls of a program at the same time."""
    done = subprocess.run([sys.executable, "-c", FIRST_CALLS_AT_ONCE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
