"""The names in annotations that are strings: what ``typing.get_type_hints`` looks up when it is asked.

The code of a function does not mention them. They travel with it, or with the class whose annotations they are, but
no call needs them: what the reader cannot import is left out.
"""

from __future__ import annotations

import importlib
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pywren.pickling.by_value._pickle_state import PickleState, find, is_importable, is_sent_whole
from pywren.pickling.handmade import is_of_program

_Key = TypeVar("_Key")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")


class _Absent:
    """Says that the reader does not have what a hint names."""


class _Hint:
    """Something that the reader may do without.

    Args:
        module: the module it is in, or which it is.
        name: its name in that module; empty for the module itself.
    """

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def __reduce__(self) -> tuple[Any, ...]:
        return import_hint, self._place


def hints_of(annotations: Iterable[Any], space: Mapping[str, Any], state: PickleState) -> dict[str, Any] | None:
    """Return what the names in annotations stand for.

    Args:
        annotations: the annotations; only strings, also those inside others, are looked at.
        space: the globals in which they are looked up.
        state: of the pickle; takes the modules that are worth sending along.
    """
    names = names_in(annotations, space)
    return {name: _hint(space[name], state) for name in names if _is_for_annotations(space.get(name))} or None


def note_hints(hints: Mapping[str, Any] | None, module: str, state: PickleState) -> None:
    """Have hints found in a module of the script's as well, where those of the classes that a call defines are sought.

    Args:
        hints: what the names in annotations stand for.
        module: the name of the module.
        state: of the pickle.
    """
    if hints and not state.returned and is_of_program(module):
        for name, value in hints.items():
            state.names.setdefault((module, name), value)


def names_in(annotations: Iterable[Any], space: Mapping[str, Any]) -> dict[str, None]:
    """Return all names in annotations that are strings, and in those that these name.

    Args:
        annotations: the annotations.
        space: the globals in which they are looked up.
    """
    names: dict[str, None] = {}
    texts = [text for annotation in annotations for text in _texts(annotation)]
    for text in texts:  # grows
        for name in _IDENTIFIER.findall(text):
            if name not in names:
                names[name] = None
                texts += _texts(space.get(name))
    return names


def _texts(annotation: Any) -> list[str]:
    if type(annotation) is str:
        return [annotation]
    text = getattr(annotation, "__forward_arg__", None)
    if type(text) is str:
        return [text]
    arguments = getattr(annotation, "__args__", None) if not isinstance(annotation, type) else None
    if isinstance(annotation, types.GenericAlias) or type(arguments) is tuple:
        return [text for argument in arguments or () for text in _texts(argument)]
    return []


def _is_for_annotations(value: Any) -> bool:
    if isinstance(value, (type, types.ModuleType, str, types.GenericAlias, types.UnionType)):
        return True
    return type(value).__module__ in ("typing", "typing_extensions", "annotationlib")


def _hint(value: Any, state: PickleState) -> Any:
    if isinstance(value, types.ModuleType):
        if is_sent_whole(value.__name__):
            return value
        state.hinted.add(value.__name__)
        return _Hint(value.__name__, "")
    if isinstance(value, type) and is_importable(value):
        state.hinted.add(value.__module__)
        return _Hint(value.__module__, value.__qualname__)
    return value


def import_hint(module: str, name: str) -> Any:
    """Return what a hint names, or ``_Absent`` where it cannot be imported."""
    try:
        found = importlib.import_module(module)
    except Exception:  # noqa: BLE001 - a module's own code may raise anything, and no call needs it
        return _Absent
    found = find(found, name) if name else found
    return found if not name or isinstance(found, type) else _Absent


def known_hints(hints: Mapping[_Key, Any]) -> dict[_Key, Any]:
    """Return those hints that the reader has."""
    return {name: value for name, value in hints.items() if value is not _Absent}
