"""``Repeats``: the pickle of the last function, for programs that map the same one again and again.

A function pickled by value is the same bytes as before when nothing that goes into the pickle has changed. That
is only claimed where it can be told in microseconds: for a plain function whose variables are numbers, texts,
modules, or other such functions.
"""

from __future__ import annotations

import sys
import types
import weakref
from typing import Any, NamedTuple

from pywren.pickling.by_value._hints import names_in
from pywren.pickling.handmade import is_handmade
from pywren.pickling.mentions import Mentions
from pywren.pickling.packed import Packed

_UNCHANGEABLE = frozenset({int, float, complex, str, bytes, bool, type(None)})

_MOST_FUNCTIONS = 32
"""Functions from which on looking at all of them would take as long as pickling."""

_ABSENT = object()


class Repeats:
    """Remembers the pickle of one function, and what it mentions, and keeps none of the user's objects alive for it."""

    def __init__(self) -> None:
        self._last: tuple[State, Packed, Mentions] | None = None
        self._alive: weakref.ref[Any] | None = None

    def find(self, function: Any, mentions: Mentions) -> Packed | None:
        """Return the pickle of a function that has not changed since, noting what it mentions."""
        last = self._last  # one read: threads share this
        if last is None or not last[0].is_that_of(function):
            return None
        mentions.add(last[2])
        return last[1]

    def keep(self, function: Any, state: State | None, packed: Packed, mentions: Mentions) -> None:
        """Remember the pickle of a function that was in this state, and what was mentioned while it was made."""
        if state is not None and not packed.buffers:
            self._last = state, packed, mentions
            self._alive = weakref.ref(function, self._forget)

    def _forget(self, gone: weakref.ref[Any]) -> None:
        if self._alive is gone:
            self._last = None


class _Function(NamedTuple):
    """One function as it was; what its variables hold, with weak references in place of functions."""

    function: weakref.ref[types.FunctionType]
    code: types.CodeType
    defaults: tuple[Any, ...] | None
    annotations: dict[str, Any]
    names: tuple[str, str, str, str | None]
    space: list[tuple[str, Any]]
    cells: list[Any]

    def is_unchanged(self) -> bool:
        now = self.function()
        if now is None or now.__code__ is not self.code or now.__defaults__ is not self.defaults:
            return False
        if now.__dict__ or now.__kwdefaults__ or now.__annotations__ != self.annotations:
            return False
        if (now.__name__, now.__qualname__, now.__module__, now.__doc__) != self.names:
            return False
        space = now.__globals__
        for name, value in self.space:
            if space.get(name, _ABSENT) is not value and not _is_function(value, space.get(name)):
                return False
        if self.cells:
            for cell, value in zip(now.__closure__ or (), self.cells, strict=True):
                found = _contents(cell)
                if found is not value and not _is_function(value, found):
                    return False
        return True


class State:
    """A function, and the functions it refers to, as they were when they were pickled; made by ``of``."""

    def __init__(self) -> None:
        self._functions: list[_Function] = []
        self._modules: list[types.ModuleType] = []
        self._module_count = len(sys.modules)
        self._by_value = _registered_by_value()

    @classmethod
    def of(cls, function: Any) -> State | None:
        """Return the state of a function; ``None`` when it could change without being seen here."""
        state = cls()
        met = [function]
        for one in met:  # grows while more are met
            if len(met) > _MOST_FUNCTIONS or not state._add(one, met):
                return None
        return state

    def is_that_of(self, function: Any) -> bool:
        """Tell whether this is the same function, and nothing has changed that its pickle depends on."""
        if self._functions[0].function() is not function:
            return False
        for seen in self._functions:
            if not seen.is_unchanged():
                return False
        return not self._modules or self._modules_are_unchanged()

    def _travels_by_value(self, module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in self._by_value)

    def _modules_are_unchanged(self) -> bool:
        if _registered_by_value() != self._by_value:
            return False
        if len(sys.modules) != self._module_count:  # submodules that have been imported since go along
            return False
        return all(sys.modules.get(module.__name__) is module for module in self._modules)

    def _add(self, function: Any, met: list[Any]) -> bool:
        if type(function) is not types.FunctionType or function.__dict__ or function.__kwdefaults__:
            return False
        if function.__module__ != "__main__" and "<locals>" not in function.__qualname__:
            return False  # pickled by name, by which the worker finds what stands there then
        code, space = function.__code__, function.__globals__
        if types.CodeType in map(type, code.co_consts) or getattr(function, "__type_params__", None):
            return False  # what a function inside it uses is not looked at here
        annotations = dict(function.__annotations__)
        if not all(
            type(value) is str or any(value is kind for kind in _UNCHANGEABLE) for value in annotations.values()
        ):
            return False
        noted = names_in(annotations.values(), space) if annotations else ()
        used = dict.fromkeys([*code.co_names, *noted]) if noted else code.co_names
        names = [(name, space.get(name, _ABSENT)) for name in used]
        cells = [_contents(cell) for cell in function.__closure__ or ()]
        held = [*(function.__defaults__ or ()), *(value for _, value in names), *cells]
        if not all(self._can_hold(value, met) for value in held):
            return False
        self._functions.append(
            _Function(
                weakref.ref(function),
                code,
                function.__defaults__,
                annotations,
                (function.__name__, function.__qualname__, function.__module__, function.__doc__),
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
        elif kind is types.BuiltinFunctionType:
            return type(value.__self__) is types.ModuleType  # not a method of a list
        elif isinstance(value, types.ModuleType):
            self._modules.append(value)
            name = value.__name__
            return sys.modules.get(name) is value and not self._travels_by_value(name) and not is_handmade(name)
        elif value is not _ABSENT:
            return type(kind) is type and kind in _UNCHANGEABLE
        return True


def _registered_by_value() -> set[str]:
    """Return the modules whose contents go along, as ``cloudpickle.register_pickle_by_value`` was told."""
    if "cloudpickle" not in sys.modules:
        return set()
    import cloudpickle  # waits where another thread still imports it

    registered: set[str] = cloudpickle.list_registry_pickle_by_value()
    return registered


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return cell  # something that no function can be remembered with


def _weakly(value: Any) -> Any:
    return weakref.ref(value) if type(value) is types.FunctionType else value


def _is_function(expected: Any, found: Any) -> bool:
    return type(expected) is weakref.ref and expected() is found and found is not None
