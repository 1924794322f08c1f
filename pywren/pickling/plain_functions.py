"""Plain functions: functions whose parts can be compared, and copied, in microseconds.

A plain function refers only to constants and other plain functions, so nothing in it can change in place. Both sides
use that on the warm path, where each saves about 0.1 ms of a call that takes 0.3 ms (``benchmarks/local.py --only
warm``). The client recognizes a function that it has pickled before (``serialize._repeats``), and a worker copies a
function instead of unpickling it again (``worker.child.snapshot``).
"""

from __future__ import annotations

import builtins
import operator
import sys
import types
from typing import Any, NamedTuple

from pywren.pickling.by_value._pickle_state import is_sent_whole
from pywren.pickling.handmade import is_handmade

MOST_FUNCTIONS = 32
"""The most functions of one pickle to examine; examining more would take as long as pickling or unpickling."""

_CONSTANTS = frozenset({int, float, complex, str, bytes, bool, type(None)})
_EMPTY = object()


class Parts(NamedTuple):
    """What a plain function consists of, apart from its globals and its closure.

    Args:
        code: its code.
        names: ``__name__``, ``__qualname__``, ``__module__`` and ``__doc__``.
        defaults: ``__defaults__``.
        annotations: a copy of ``__annotations__``.
    """

    code: types.CodeType
    names: tuple[str, str, str, str | None]
    defaults: tuple[Any, ...] | None
    annotations: dict[str, Any]

    @classmethod
    def of(cls, function: types.FunctionType) -> Parts:
        """Return the parts of a plain function."""
        return cls(
            function.__code__,
            (function.__name__, function.__qualname__, function.__module__, function.__doc__),
            function.__defaults__,
            dict(function.__annotations__),
        )

    def are_still_of(self, function: types.FunctionType) -> bool:
        """Tell whether a function still has exactly these parts."""
        code, names, defaults, before = self
        if function.__code__ is not code or function.__defaults__ is not defaults:
            return False
        if function.__dict__ or function.__kwdefaults__:
            return False
        if (function.__name__, function.__qualname__, function.__module__, function.__doc__) != names:
            return False
        now = function.__annotations__
        if not now and not before:
            return True
        # Compare by identity: the user's values may define equality in any way.
        return now.keys() == before.keys() and all(map(operator.is_, now.values(), before.values()))

    def assemble(self, space: dict[str, Any], closure: tuple[types.CellType, ...] | None) -> types.FunctionType:
        """Return a new function with these parts and the given globals and closure."""
        code, names, defaults, annotations = self
        made = types.FunctionType(code, space, names[0], defaults, closure)
        _, made.__qualname__, made.__module__, made.__doc__ = names
        if annotations:
            made.__annotations__ = annotations.copy()
        return made


def is_plain(function: Any) -> bool:
    """Tell whether ``Parts`` can describe an object fully. The function's variables must be checked separately."""
    if type(function) is not types.FunctionType or function.__dict__ or function.__kwdefaults__:
        return False
    if getattr(function, "__type_params__", None):  # Python 3.12
        return False
    annotations = function.__annotations__
    return not annotations or all(map(_is_plain_annotation, annotations.values()))


def _is_plain_annotation(annotation: Any) -> bool:
    """Tell whether an annotation is a string or made of built-in types: ``int | None``, ``dict[str, list[int]]``."""
    kind = type(annotation)
    if kind is types.GenericAlias:
        return _is_plain_annotation(annotation.__origin__) and all(map(_is_plain_annotation, annotation.__args__))
    if kind is types.UnionType:
        return all(map(_is_plain_annotation, annotation.__args__))
    if kind is type:
        return annotation is types.NoneType or vars(builtins).get(annotation.__name__) is annotation
    return kind is str or annotation is None or annotation is ...


def is_constant(value: Any) -> bool:
    """Tell whether a value cannot change in place and is the same in every process: a number, string, module, …"""
    kind = type(value)
    if kind is types.BuiltinFunctionType:
        return type(value.__self__) is types.ModuleType  # not, for example, a method of a list
    if kind is types.ModuleType:
        name = value.__name__
        return sys.modules.get(name) is value and not is_sent_whole(name) and not is_handmade(name)
    return type(kind) is type and kind in _CONSTANTS


def contents_of(cell: types.CellType) -> Any:
    """Return the value of a closure variable. If it has none, return something that is not a constant."""
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY
