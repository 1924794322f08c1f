"""Objects with a ``__getattr__`` arrive, whatever it does with unknown names."""

from __future__ import annotations

import dataclasses
import threading

import pytest

import pywren
from pywren.pickling.packed import dumps, loads

WAIT = 60.0


class Delegates:
    """An object whose ``__getattr__`` calls itself endlessly as long as it has no target."""

    def __init__(self, target):
        self.target = target

    def __getattr__(self, name):
        return getattr(self.target, name)


class Keyed(Delegates):
    """An object whose ``__getattr__`` raises the wrong exception type."""

    def __getattr__(self, name):
        return self.target[name]


class Answers(Delegates):
    """An object that has every attribute."""

    def __getattr__(self, name):
        return lambda *arguments: name


class WithSlots:
    __slots__ = ("target",)

    def __init__(self, target):
        self.target = target

    def __getattr__(self, name):
        return self.target[name]


class Both(WithSlots):
    """An object with both slots and a ``__dict__``."""

    def __init__(self, target):
        super().__init__(target)
        self.more = 1


class Listed(list):
    def __init__(self, target):
        super().__init__([target])
        self.target = target

    def __getattr__(self, name):
        return self.target[name]


@dataclasses.dataclass(frozen=True)
class Frozen:
    target: object

    def __getattr__(self, name):
        return getattr(self.target, name)


class Ready(Delegates):
    """An object that defines how it is pickled."""

    def __getstate__(self):
        return {"target": self.target, "restored": False}

    def __setstate__(self, state):
        self.__dict__.update(state, restored=True)


KINDS = [Delegates, Keyed, Answers, WithSlots, Both, Listed, Frozen, Ready]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_they_come_back(kind):
    """Attributes, slots and items arrive as they were sent, and the object's own ``__setstate__`` is called."""
    made = kind({"x": 1})
    back = loads(dumps(made))
    assert type(back) is kind
    assert back.target == {"x": 1}
    if kind is not WithSlots:
        assert {**vars(made), "restored": True} == {**vars(back), "restored": True}
    assert kind is not Ready or back.restored
    assert kind is not Listed or list(back) == [{"x": 1}]


def test_they_arrive_on_a_worker():
    """They arrive as an argument, in a closure, and as a result."""
    held = Delegates([3, 1])
    with pywren.local_executor() as executor:
        assert executor.call_async(lambda other: held.count(3) + other.count(1), Delegates([1, 1])).result(WAIT) == 3
        assert executor.call_async(Keyed, {"x": 5}).result(WAIT).x == 5


def _double(x: int):
    return 2 * x


LOCK = threading.Lock()
"""A member that a module may have and that cannot be pickled."""


def test_a_function_of_pydantic():
    """A function of the script that pydantic's ``validate_call`` has wrapped contains such objects."""
    pydantic = pytest.importorskip("pydantic")
    checked = pydantic.validate_call(_double)
    with pywren.local_executor() as executor:
        assert executor.call_async(checked, "3").result(WAIT) == 6
        assert isinstance(executor.call_async(checked, "no number").exception(WAIT), pydantic.ValidationError)
