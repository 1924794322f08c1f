"""Modules: by their name where the reader can import them, else with all that they hold."""

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
    """The globals of a module, as the module itself holds them where the pickle is read.

    Args:
        module: the module.
    """

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[types.ModuleType]]:
        return vars, (self.module,)


def _variables() -> Any:
    yield


_FRAME_LOCALS: Any = type(_variables().gi_frame.f_locals)  # until Python 3.12 a dict, which pickles


def holder_reducer(kind: type) -> Callable[[Any], Any] | None:
    """Return what reduces that in which decorators keep what they look annotations up in; ``None`` for other kinds.

    That is a named tuple with the globals of a module (``pydantic.validate_call``), and the variables of a function
    that runs.
    """
    if kind is _FRAME_LOCALS and kind is not dict:
        return _reduce_frame_locals
    return _reduce_named_tuple if issubclass(kind, tuple) and hasattr(kind, "_fields") else None


def _reduce_frame_locals(variables: Any) -> tuple[Any, ...]:
    return dict, (dict(variables),)  # as they are now


def _reduce_named_tuple(obj: Any) -> Any:
    # with the globals all that a script has would go along, locks and open files too: those of that module there
    # stand for them
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
    """Return how a pickle finds a module by its name, or makes it anew.

    Args:
        module: the module.
        state: of the pickle; functions that are met later get the globals of the module itself.
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
    types.ModuleType.__init__(module, name)  # the class's own may take something else, or do something
    return module


def _fill(module: types.ModuleType, state: dict[str, Any]) -> None:
    vars(module).update(state)
