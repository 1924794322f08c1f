"""The names in string annotations, which ``typing.get_type_hints`` looks up.

The code of a function does not mention these names. Their objects are sent with the annotated function or class, but no
call needs them: the reader leaves out what it cannot import.
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
    """Marks a hint whose object the reader does not have."""


class _Hint:
    """An object that an annotation refers to, and that the reader can do without.

    Args:
        module: the module that contains the object, or the object itself if it is a module.
        name: the object's name in that module; empty if the object is the module itself.
    """

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def __reduce__(self) -> tuple[Any, ...]:
        return import_hint, self._place


def hints_of(annotations: Iterable[Any], space: Mapping[str, Any], state: PickleState) -> dict[str, Any] | None:
    """Return the objects that the names in annotations refer to.

    Args:
        annotations: the annotations; only strings count, including strings inside other annotations.
        space: the globals in which they are looked up.
        state: the state of the pickle; modules that are worth sending are added to it.
    """
    names = names_in(annotations, space)
    return {name: _hint(space[name], state) for name in names if _is_for_annotations(space.get(name))} or None


def note_hints(hints: Mapping[str, Any] | None, module: str, state: PickleState) -> None:
    """Also make hints available in their module, where Python looks up the hints of classes that a call defines.

    Args:
        hints: the objects that the names in annotations refer to.
        module: the name of the module.
        state: the state of the pickle.
    """
    if hints and not state.returned and is_of_program(module):
        for name, value in hints.items():
            state.names.setdefault((module, name), value)


def names_in(annotations: Iterable[Any], space: Mapping[str, Any]) -> dict[str, None]:
    """Return all names in string annotations, and in further string annotations that these names refer to.

    Args:
        annotations: the annotations.
        space: the globals in which they are looked up.
    """
    names: dict[str, None] = {}
    texts = [text for annotation in annotations for text in _texts(annotation)]
    for text in texts:  # the list grows during the loop
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
    # By its type: isinstance() takes list["Name"] for a class in Python 3.10.
    arguments = None if issubclass(type(annotation), type) else getattr(annotation, "__args__", None)
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
    """Return the object of a hint, or ``_Absent`` if it cannot be imported."""
    try:
        found = importlib.import_module(module)
    except Exception:  # noqa: BLE001 - a module's own code may raise anything, and no call needs it
        return _Absent
    found = find(found, name) if name else found
    return found if not name or isinstance(found, type) else _Absent


def known_hints(hints: Mapping[_Key, Any]) -> dict[_Key, Any]:
    """Return the hints whose objects the reader has."""
    return {name: value for name, value in hints.items() if value is not _Absent}
