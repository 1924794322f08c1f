"""Rebuilds classes as they are, without repeating what ran when they were defined.

``__init_subclass__``, ``__set_name__`` and the metaclass left their results in the class when its ``class`` statement
ran, perhaps with keywords that were not kept. They do not run again: the innermost built-in type that the metaclass
extends makes an empty class, whose attributes are then set as they are. There is one exception: an
``__init_subclass__`` that the reader imports and that needs no keyword is called, because it may register subclasses in
the module that defines it.

Each class is sent under one unique name (``_tracker``). The client never changes a class that it already has. If a
class arrives again, a worker resets it to the state in which it arrives, even if a call on that worker defined and
returned the class.
"""

from __future__ import annotations

import abc
import contextlib
import enum
import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pywren.pickling.by_value import _tracker
from pywren.pickling.by_value._enums import (
    EnumRecipe,
    enum_recipe,
    make_members,
    member_states,
    restore_members,
)
from pywren.pickling.by_value._hints import hints_of, known_hints, note_hints
from pywren.pickling.by_value._locks import fresh_if_lock
from pywren.pickling.by_value._pickle_state import PickleState, is_importable, is_of_stdlib
from pywren.pickling.handmade import is_of_program
from pywren.system import private_names

_SLOT_KINDS = (types.MemberDescriptorType, types.GetSetDescriptorType)  # the second: __dict__ and __weakref__
_MADE_ANEW = frozenset({"__dict__", "__weakref__", "_abc_impl", "__module__", "__slots__", "__slotnames__"})
_IDENTITY = ("__name__", "__qualname__", "__bases__")
_LAZY_ANNOTATIONS = frozenset({"__annotate__", "__annotate_func__", "__annotations_cache__"})  # Python 3.14


class ClassRecipe(NamedTuple):
    """What the reader makes an empty class from.

    Args:
        name: the unique name under which the class is sent.
        metaclass: the type of the class.
        class_name: ``__name__``.
        bases: ``__bases__``.
        namespace: the attributes that the class must have from the beginning.
        members: the members, if the class is an enumeration.
    """

    name: str
    metaclass: type
    class_name: str
    bases: tuple[type, ...]
    namespace: dict[str, Any]
    members: EnumRecipe | None


# -- writing -------------------------------------------------------------------------------------------------


def reduce_class(cls: type, state: PickleState) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a class.

    Args:
        cls: the class.
        state: the state of the pickle.
    """
    members = enum_recipe(cls) if isinstance(cls, enum.EnumMeta) else None
    recipe = ClassRecipe(_tracker.id_of(cls), type(cls), cls.__name__, cls.__bases__, _namespace(cls), members)
    registered = private_names.registered_subclasses(cls) if isinstance(cls, abc.ABCMeta) else []
    states = member_states(cls) if members else ()
    identity = cls.__name__, cls.__qualname__, cls.__bases__
    parts = (_attributes(cls, state), registered, states, _hints(cls, state), identity)
    if state.returned and _tracker.noted(cls) is None:
        _tracker.note(cls, frozenset(vars(cls)))  # a call has defined this class; from now on it belongs to the client
    return make_class, tuple(recipe), parts, None, None, fill_returned_class if state.returned else fill_class


def _namespace(cls: type) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    own = vars(cls)
    if "__slots__" in own:
        # Use the descriptors: __slots__ itself contains private names unmangled, and may have been replaced.
        kinds = [kind for kind in own.values() if isinstance(kind, _SLOT_KINDS) and kind.__objclass__ is cls]
        namespace["__slots__"] = tuple(sorted({kind.__name__ for kind in kinds}))
    if "__dict__" in own and not isinstance(own["__dict__"], types.GetSetDescriptorType):
        namespace["__dict__"] = own["__dict__"]  # a property that the user defined
    return namespace


def _attributes(cls: type, state: PickleState) -> dict[str, Any]:
    attributes = {}
    for name, value in list(vars(cls).items()):
        if name in _MADE_ANEW or name in _LAZY_ANNOTATIONS:
            continue
        if isinstance(value, _SLOT_KINDS) and value.__objclass__ is cls and value.__name__ == name:
            continue
        attributes[name] = fresh_if_lock(value, state)
    slots = vars(cls).get("__slots__")
    if isinstance(slots, (str, tuple, list, dict, set, frozenset)):  # anything else is an exhausted iterator
        attributes["__slots__"] = slots
    if isinstance(cls, enum.EnumMeta):
        attributes.pop("_member_map_", None)  # make_members() makes this one
    if any(name in vars(cls) for name in _LAZY_ANNOTATIONS):
        attributes["__annotations__"] = private_names.annotations_of(cls)
    return attributes


def _hints(cls: type, state: PickleState) -> dict[str, Any] | None:
    module = sys.modules.get(cls.__module__)
    annotations = vars(cls).get("__annotations__")
    if module is None or state.returned or not isinstance(annotations, dict) or not is_of_program(cls.__module__):
        return None
    hints = hints_of(annotations.values(), vars(module), state)
    note_hints(hints, cls.__module__, state)
    return hints


# -- reading -------------------------------------------------------------------------------------------------

_unfilled: dict[int, type] = {}  # classes that were made but have no attributes yet


def make_class(*recipe: Any) -> type:
    """Return the class that was sent under a name, or make an empty one. The arguments are the fields of the recipe."""
    plan = ClassRecipe(*recipe)
    known = _tracker.known_as(plan.name)
    if known is None:
        made = _make_empty(plan)
        _unfilled[id(made)] = made
        known = _tracker.track(plan.name, made)
        if known is made:
            _tracker.note(made, frozenset(vars(made)))
        else:
            del _unfilled[id(made)]  # another thread has made the class first
    cls: type = known
    return cls


def _make_empty(plan: ClassRecipe) -> type:
    native = _native_metaclass(plan.metaclass)
    namespace = dict(plan.namespace)
    with _without_hooks(plan.bases):
        made: type = native.__new__(plan.metaclass, plan.class_name, plan.bases, namespace)
        native.__init__(made, plan.class_name, plan.bases, namespace)
    if isinstance(made, abc.ABCMeta):
        private_names.make_abstract(made)
        type.__setattr__(made, "__abstractmethods__", frozenset())  # it depends on the methods, which are set later
    if plan.members is not None:
        make_members(made, plan.members)
    return made


def _native_metaclass(metaclass: type) -> Any:
    """Return the innermost built-in type that a metaclass extends. Making a class with it runs no Python code.

    ``abc.ABCMeta`` does not qualify, because it calls the next metaclass.
    """
    for base in metaclass.__mro__:
        own = vars(base)
        if isinstance(own.get("__new__"), types.BuiltinFunctionType):
            return base
        if isinstance(own.get("__init__"), types.WrapperDescriptorType):
            return base
    return type


class _Quiet:
    """Replaces ``__init_subclass__`` while a class is made. In the thread that makes the class, a call does nothing."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self._thread = threading.get_ident()

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if threading.get_ident() == self._thread:
            return lambda *args, **kwargs: None
        return self._original.__get__(instance, owner)


_hooks_lock = threading.RLock()
# Held while the __init_subclass__ of a base is replaced, so that two threads never restore each other's replacement.
# Only code of ``type`` itself can run while the lock is held.


@contextlib.contextmanager
def _without_hooks(bases: Sequence[type]) -> Iterator[None]:
    definers = {id(definer): definer for definer in map(_hook_definer, bases) if definer is not object}
    with _hooks_lock:
        replaced = []
        try:
            for definer in definers.values():
                hook = vars(definer)["__init_subclass__"]
                try:
                    type.__setattr__(definer, "__init_subclass__", _Quiet(hook))
                except TypeError:
                    continue  # a built-in type
                replaced.append((definer, hook))
            yield
        finally:
            for definer, hook in replaced:
                type.__setattr__(definer, "__init_subclass__", hook)


def _hook_definer(base: type) -> type:
    return next(cls for cls in base.__mro__ if "__init_subclass__" in vars(cls))


def fill_class(cls: type, parts: tuple[Any, ...]) -> None:
    """Set the attributes of a class that arrived on a worker. A class that the worker already has is reset to them."""
    if id(cls) in _unfilled:
        _fill(cls, parts)
    elif _tracker.noted(cls) is not None:
        _put_back(cls, parts)


def fill_returned_class(cls: type, parts: tuple[Any, ...]) -> None:
    """Set the attributes of a class that a call returned, unless the client already has the class."""
    if id(cls) in _unfilled:
        _fill(cls, parts)


def _fill(cls: type, parts: tuple[Any, ...]) -> None:
    _restore(cls, parts)
    if _has_open_hook(cls):
        tell_base: Any = super(cls, cls)
        tell_base.__init_subclass__()
        _restore(cls, parts)
    _unfilled.pop(id(cls), None)


def _put_back(cls: type, parts: tuple[Any, ...]) -> None:
    made_with: frozenset[str] = _tracker.noted(cls)
    delete = _native_metaclass(type(cls)).__delattr__
    for name in set(vars(cls)) - set(parts[0]) - made_with:
        if not name.startswith("__"):  # an earlier call has added this attribute
            delete(cls, name)
    for name, value in zip(_IDENTITY, parts[-1], strict=True):
        if type.__getattribute__(cls, name) != value:  # Python may refuse to set the bases even if they are equal
            type.__setattr__(cls, name, value)
    _restore(cls, parts)


def _restore(cls: type, parts: tuple[Any, ...]) -> None:
    attributes, registered, states, hints, _ = parts
    assign = _native_metaclass(type(cls)).__setattr__
    for name, value in attributes.items():
        assign(cls, name, value)
    restore_members(states)
    for subclass in registered:
        abc.ABCMeta.register(cls, subclass)  # type: ignore[arg-type]
    module = sys.modules.get(cls.__module__)
    if hints and module is not None:  # do this before a hook of a base class needs the hints
        vars(module).update(known_hints(hints))


def _has_open_hook(cls: type) -> bool:
    """Tell whether an importable base class has an ``__init_subclass__`` that must be called and needs no keywords."""
    definer = next(base for base in cls.__mro__[1:] if "__init_subclass__" in vars(base))
    hook = vars(definer)["__init_subclass__"]
    function = getattr(hook, "__func__", None)
    if not isinstance(function, types.FunctionType) or is_of_stdlib(definer.__module__) or not is_importable(definer):
        return False
    code = function.__code__
    return code.co_argcount - len(function.__defaults__ or ()) <= 1 and _has_all(function.__kwdefaults__, code)


def _has_all(defaults: Mapping[str, Any] | None, code: types.CodeType) -> bool:
    return len(defaults or ()) == code.co_kwonlyargcount
