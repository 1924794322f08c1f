"""``Repeats``: keeps the pickle of the last function, for programs that map the same function again and again.

A function gives the same bytes again if nothing that goes into the pickle has changed. This module checks this only if
the check takes microseconds: for functions that are pickled by name, and for plain functions whose variables are
constants or other plain functions (``pickling.plain_functions``). Adapters around such a function make no difference.
"""

from __future__ import annotations

import opcode
import sys
import types
import weakref
from typing import Any

from pywren.pickling.adapters import taken_apart
from pywren.pickling.by_value._hints import names_in
from pywren.pickling.by_value._pickle_state import is_importable
from pywren.pickling.mentions import Mentions
from pywren.pickling.packed import Packed
from pywren.pickling.plain_functions import MOST_FUNCTIONS, Parts, contents_of, is_constant, is_plain

_SETTING = frozenset(
    number
    for name, number in opcode.opmap.items()
    if name in ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF")
)
_NAMED = (types.FunctionType, types.BuiltinFunctionType)
_ABSENT = object()  # the value of a global variable that does not exist

_Seen = tuple["weakref.ref[types.FunctionType]", Parts, list[tuple[str, Any]], list[Any]]
"""A function's recorded state: its parts, and the values of its globals and closure (functions as weak references)."""


class Repeats:
    """Remembers the pickle of one function and what the pickle mentions, without keeping the user's objects alive.

    Threads share this object without a lock: ``_last`` is one reference, which is read once and replaced as a whole.
    """

    def __init__(self) -> None:
        self._last: tuple[State, Packed, Mentions] | None = None
        self._alive: weakref.ref[Any] | None = None

    def find(self, function: Any, mentions: Mentions) -> Packed | None:
        """Return the remembered pickle of a function that has not changed, and add what the pickle mentions.

        It is the same object each time if calls of the function cannot change the function, and otherwise an equal one.
        """
        last = self._last
        if last is None or not last[0].is_that_of(function):
            return None
        mentions.add(last[2])
        return Packed._make(last[1]) if last[0].may_change_itself else last[1]

    def keep(self, function: Any, state: State | None, packed: Packed, mentions: Mentions) -> None:
        """Remember the pickle of a function.

        Args:
            function: the function.
            state: the function's state before it was pickled; ``None`` if changes to the function cannot be detected.
            packed: the pickle. It is not remembered if it has buffers, because buffers are views of the user's memory.
            mentions: what the pickle mentions.
        """
        if state is not None and not packed.buffers:
            self._last = state, packed, mentions
            self._alive = weakref.ref(taken_apart(function)[1], self._forget)

    def _forget(self, gone: weakref.ref[Any]) -> None:
        """Drop the pickle of a function that no longer exists, unless another function's pickle has replaced it."""
        if self._alive is gone:
            self._last = None


class State:
    """The state of a function and of all functions that it refers to, recorded before these functions are pickled.

    Attributes:
        may_change_itself: whether one of them sets variables that outlive a call.
    """

    def __init__(self, adapters: tuple[object, ...]) -> None:
        self._adapters = adapters
        self._by_name: weakref.ref[Any] | None = None
        self.may_change_itself = False
        self._functions: list[_Seen] = []
        self._modules: list[types.ModuleType] = []
        self._module_count = len(sys.modules)
        self._by_value = _registered_by_value()

    @classmethod
    def of(cls, function: Any) -> State | None:
        """Return the state of a function, or ``None`` if the function could change in ways that cannot be detected."""
        adapters, function = taken_apart(function)
        state = cls(adapters)
        if type(function) in _NAMED and is_importable(function):
            state._by_name = weakref.ref(function)
            return state
        met = [function]
        for one in met:  # the list grows during the loop
            if len(met) > MOST_FUNCTIONS or not state._add(one, met):
                return None
        return state

    def is_that_of(self, function: Any) -> bool:
        """Tell whether this is the state of ``function``, and nothing that its pickle depends on has changed."""
        adapters, function = taken_apart(function)
        if adapters != self._adapters:
            return False
        if self._by_name is not None:
            return self._by_name() is function and is_importable(function)
        if self._functions[0][0]() is not function:
            return False
        for seen in self._functions:
            if not _is_unchanged(*seen):
                return False
        return not self._modules or self._modules_are_unchanged()

    def _modules_are_unchanged(self) -> bool:
        if _registered_by_value() != self._by_value:
            return False
        if len(sys.modules) != self._module_count:  # submodules imported since then are sent too
            return False
        return all(sys.modules.get(module.__name__) is module for module in self._modules)

    def _add(self, function: Any, met: list[Any]) -> bool:
        """Add a function, and append the functions it uses to ``met``. Return False if it could change undetected."""
        if not is_plain(function):
            return False
        if function.__module__ != "__main__" and "<locals>" not in function.__qualname__:
            return False  # it is pickled by name: the worker uses what has this name there
        code, space = function.__code__, function.__globals__
        if types.CodeType in map(type, code.co_consts):
            return False  # only the names that this code itself uses are checked
        # Without inner functions, each variable of a closure that it sets is one of its own closure.
        if not _SETTING.isdisjoint(code.co_code[::2]):
            self.may_change_itself = True
        parts = Parts.of(function)
        hinted = names_in(parts.annotations.values(), space) if parts.annotations else ()
        used = dict.fromkeys([*code.co_names, *hinted]) if hinted else code.co_names
        names = [(name, space.get(name, _ABSENT)) for name in used]
        cells = [contents_of(cell) for cell in function.__closure__ or ()]
        held = [*(parts.defaults or ()), *(value for _, value in names), *cells]
        if not all(self._can_hold(value, met) for value in held):
            return False
        self._functions.append(
            (
                weakref.ref(function),
                parts,
                [(name, _weakly(value)) for name, value in names],
                [_weakly(value) for value in cells],
            )
        )
        return True

    def _can_hold(self, value: Any, met: list[Any]) -> bool:
        kind = type(value)
        if kind is types.FunctionType:
            if value not in met:
                met.append(value)
            return True
        if kind is types.ModuleType:
            self._modules.append(value)
        return value is _ABSENT or is_constant(value)


def _is_unchanged(
    reference: weakref.ref[types.FunctionType], parts: Parts, names: list[tuple[str, Any]], cells: list[Any]
) -> bool:
    function = reference()
    if function is None or not parts.are_still_of(function):
        return False
    space = function.__globals__
    for name, value in names:
        if space.get(name, _ABSENT) is not value and not _is_function(value, space.get(name)):
            return False
    if cells:
        for cell, value in zip(function.__closure__ or (), cells, strict=True):
            found = contents_of(cell)
            if found is not value and not _is_function(value, found):
                return False
    return True


def _registered_by_value() -> set[str]:
    """Return the names of the modules that the user registered with ``cloudpickle.register_pickle_by_value``."""
    if "cloudpickle" not in sys.modules:
        return set()
    import cloudpickle  # this waits if another thread is still importing it

    registered: set[str] = cloudpickle.list_registry_pickle_by_value()
    return registered


def _weakly(value: Any) -> Any:
    return weakref.ref(value) if type(value) is types.FunctionType else value


def _is_function(expected: Any, found: Any) -> bool:
    """Tell whether the remembered value is a weak reference to the function that the variable has now."""
    return type(expected) is weakref.ref and expected() is found and found is not None
