"""Modules: found by name if the reader can import them, otherwise sent with all their contents."""

from __future__ import annotations

import copyreg
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

from pywren.pickling import handmade
from pywren.pickling.by_value._pickle_state import PickleState, is_sent_whole

_NOT_SENT = frozenset({"__builtins__", "__cached__", "__loader__", "__spec__"})


class Namespace:
    """Stands for the globals of a module. The reader replaces it with the globals of that module in its own process.

    Args:
        module: the module.
    """

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[types.ModuleType]]:
        return vars, (self.module,)


def _variables() -> Any:
    yield


_FRAME_LOCALS: Any = type(_variables().gi_frame.f_locals)  # until Python 3.12 this is dict, which can be pickled


def holder_reducer(kind: type) -> Callable[[Any], Any] | None:
    """Return the reducer for objects in which decorators keep the namespaces of annotations; ``None`` for others.

    Such an object is a named tuple with the globals of a module (``pydantic.validate_call``), or the local variables of
    a running function.
    """
    if kind is _FRAME_LOCALS and kind is not dict:
        return _reduce_frame_locals
    return _reduce_named_tuple if issubclass(kind, tuple) and hasattr(kind, "_fields") else None


def _reduce_frame_locals(variables: Any) -> tuple[Any, ...]:
    return dict, (dict(variables),)  # a copy of the variables' present values


def _reduce_named_tuple(obj: Any) -> Any:
    # Sending the globals would send everything in a script, including locks and open files. The globals of the
    # reader's module replace them.
    items = [_namespace_of(item) or item for item in obj]
    if all(item is other for item, other in zip(obj, items, strict=True)):
        return NotImplemented
    return copyreg.__newobj__, (type(obj), *items)  # type: ignore[attr-defined]


def _namespace_of(space: Any) -> Namespace | None:
    if type(space) is not dict or "__builtins__" not in space:
        return None
    module = sys.modules.get(space.get("__name__", ""))
    return Namespace(module) if module is not None and vars(module) is space else None


def reduce_module(module: types.ModuleType, state: PickleState) -> tuple[Any, ...]:
    """Return what pickle needs to reduce a module: to its name, or to all that it holds.

    Args:
        module: the module.
        state: the state of the pickle. It records a module that is rebuilt, so that functions pickled later share the
            rebuilt module's globals.
    """
    if handmade.is_importable(module) and not is_sent_whole(module.__name__):
        return import_named, (module.__name__,)
    state.spaces.setdefault(id(vars(module)), (vars(module), Namespace(module)))
    held = {name: value for name, value in vars(module).items() if name not in _NOT_SENT}
    return _new_module, (type(module), module.__name__), held, None, None, _fill


def import_named(name: str) -> types.ModuleType:
    """Import a module by its name."""
    return importlib.import_module(name)


def _new_module(cls: type[types.ModuleType], name: str) -> types.ModuleType:
    module = types.ModuleType.__new__(cls)
    types.ModuleType.__init__(module, name)  # the class's own __init__ may take other arguments, or have side effects
    return module


def _fill(module: types.ModuleType, state: dict[str, Any]) -> None:
    vars(module).update(state)
