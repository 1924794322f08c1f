"""``reduce``: how pickles rebuild functions, classes and other objects that the reader cannot import."""

from __future__ import annotations

import enum
import io
import types
from collections.abc import Callable
from typing import Any

from pywren.pickling.by_value import _builtins, _classes, _counterparts, _enums, _evasive, _functions, _modules, _typing
from pywren.pickling.by_value._pickle_state import PickleState, is_importable
from pywren.pickling.format import PROTOCOL

__all__ = ["STREAM", "PickleState", "is_by_name", "is_own", "is_usual", "reduce"]

STREAM: Any = io.BytesIO.__mro__[-2]
"""The base of all streams. Testing ``isinstance`` with ``io.IOBase`` would hash classes that may not be hashable."""
_IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not a built-in type
_OWN = frozenset(
    value
    for module in (_builtins, _classes, _enums, _evasive, _functions, _modules, _typing)
    for value in vars(module).values()
    if type(value) is types.FunctionType
)


def is_own(function: types.FunctionType) -> bool:
    """Tell whether a function is pywren's own and rebuilds objects, like most functions in a pickle."""
    return function in _OWN


def reduce(obj: Any, state: PickleState) -> Any:
    """Return how a pickle rebuilds an object, or ``NotImplemented`` to leave the object to other reducers.

    Args:
        obj: the object.
        state: the state of the pickle.
    """
    kind: Any = type(obj)
    if kind is types.FunctionType:
        return NotImplemented if is_importable(obj) else _functions.reduce_function(obj, state)
    if kind is types.CodeType:
        return _functions.reduce_code(obj)
    if kind is types.CellType:
        return _functions.reduce_cell(obj)
    if kind is type or issubclass(kind, type):  # isinstance() takes list[int] for a class in Python 3.10
        is_users = obj.__flags__ & (_HEAP_TYPE | _IMMUTABLE_TYPE) == _HEAP_TYPE and not is_importable(obj)
        return _classes.reduce_class(obj, state) if is_users else NotImplemented
    if issubclass(kind, types.ModuleType):
        return _modules.reduce_module(obj, state)
    reducer = state.reducers.get(id(kind), _UNSEEN)
    if reducer is _UNSEEN:
        reducer = state.reducers[id(kind)] = _reducer_of(kind)
    return NotImplemented if reducer is None else reducer(obj)


def is_by_name(reduced: Any) -> bool:
    """Tell from an object's reduction whether the reader imports the object by name."""
    return reduced is NotImplemented or reduced[0] is _modules.import_named


def is_usual(kind: type, state: PickleState) -> bool:
    """Tell whether a class is written in Python and all its instances are left to ``pickle``, as one of them was.

    Args:
        kind: the class of an instance that is left to ``pickle``.
        state: the state of the pickle.
    """
    is_python = kind.__flags__ & (_HEAP_TYPE | _IMMUTABLE_TYPE) == _HEAP_TYPE
    return is_python and state.reducers.get(id(kind), _UNSEEN) is None and not issubclass(kind, _EACH_ITS_OWN)


def _reducer_of(kind: Any) -> Callable[[Any], Any] | None:
    if issubclass(kind, enum.Enum):
        return _enums.reduce_member
    if type(kind).__hash__ is None:
        return _reduce_unhashable
    return next(filter(None, (find(kind) for find in _FINDERS)), None)


def _reducer_by_module(kind: Any) -> Callable[[Any], Any] | None:
    module = kind.__module__
    return _REDUCERS_OF_MODULES.get(module) if isinstance(module, str) else None


def _reduce_unhashable(obj: Any) -> Any:
    return obj.__reduce_ex__(PROTOCOL)  # pickle itself looks types up in its dispatch table


_UNSEEN = object()
_EACH_ITS_OWN = (type, BaseException, STREAM)
_REDUCERS_OF_MODULES = {
    "typing": _typing.reduce_typing,
    "typing_extensions": _typing.reduce_typing,
    "dataclasses": _builtins.reduce_dataclass_mark,
}
_FINDERS: tuple[Callable[[Any], Callable[[Any], Any] | None], ...] = (
    _builtins.reducer_of,
    _reducer_by_module,
    _counterparts.counterpart_reducer,
    _evasive.evasive_reducer,
    _modules.holder_reducer,
)
"""Each returns the reducer for a class, or ``None``; the first reducer that is returned is used."""
