"""Enumerations: the built-in type that an enumeration extends makes the members, whose attributes are set afterwards.

Calling the enumeration or its ``__new__`` with the values would fail for members that are made from more than their
value, and for aliases and flags.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable
from typing import Any, NamedTuple


class MemberRecipe(NamedTuple):
    """What one member of an enumeration is made from.

    Args:
        places: the indexes of the member's name and aliases in the list of all names; empty for a combination of flags.
        value: the value of a combination of flags.
        arguments: the arguments for the built-in type, such as the number of a member of an ``IntEnum``.
    """

    places: tuple[int, ...]
    value: Any
    arguments: tuple[Any, ...]


EnumRecipe = tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]
"""The names of all members in the order of their definition, and a recipe for each member."""

MemberState = tuple[Any, Any, dict[str, Any], dict[str, Any]]
"""A member, its contents if it is a list or another container, its attributes, and its slots."""


# -- writing -------------------------------------------------------------------------------------------------


def reduce_member(member: enum.Enum) -> tuple[Any, ...]:
    """Return how a pickle finds a member in its class: by its name, or as a combination of flags."""
    cls = type(member)
    name = member._name_ if cls._member_map_.get(member._name_) is member else None
    return find_member, (cls, name, None if name else member._value_)


def enum_recipe(cls: Any) -> EnumRecipe:
    """Return the recipes of an enumeration's members."""
    native = _native_type(cls)
    places: dict[int, list[int]] = {}
    for place, member in enumerate(cls._member_map_.values()):
        places.setdefault(id(member), []).append(place)
    recipes = [
        MemberRecipe(
            tuple(places.get(id(member), ())),
            None if id(member) in places else member._value_,
            _native_arguments(native, member),
        )
        for member in _members(cls)
    ]
    return tuple(cls._member_map_), tuple(map(tuple, recipes))


def member_states(cls: Any) -> tuple[MemberState, ...]:
    """Return the contents, attributes and slots of an enumeration's members, for ``restore_members``."""
    native = _native_type(cls)
    copy = {list: list, dict: dict, set: set, bytearray: bytes}.get(native, _nothing)
    return tuple((member, copy(member), dict(vars(member)), _slots(member)) for member in _members(cls))


def _nothing(_: Any) -> None:
    return None


def _members(cls: Any) -> list[Any]:
    found = {id(member): member for member in cls._member_map_.values()}
    for member in cls._value2member_map_.values():  # the combinations of flags that were used so far
        found.setdefault(id(member), member)
    return list(found.values())


def _native_type(cls: type) -> Any:
    return next(base for base in cls.__mro__ if isinstance(vars(base).get("__new__"), types.BuiltinFunctionType))


def _native_arguments(native: Any, member: Any) -> tuple[Any, ...]:
    if native in (object, list, dict, set, bytearray):
        return ()  # its contents are restored later
    if hasattr(native, "__getnewargs__"):
        arguments: tuple[Any, ...] = native.__getnewargs__(member)
    else:
        arguments = native.__reduce__(member)[1]  # members that are dates, for example
    return arguments


def _slots(member: Any) -> dict[str, Any]:
    found = {}
    for owner in type(member).__mro__:
        for name, kind in vars(owner).items():
            if isinstance(kind, types.MemberDescriptorType) and "__slots__" in vars(owner):
                try:
                    found[name] = kind.__get__(member)
                except AttributeError:
                    pass  # the slot was never set
    return found


# -- reading -------------------------------------------------------------------------------------------------


def find_member(cls: Any, name: str | None, value: Any) -> Any:
    """Return the member with the given name; if the name is ``None``, the combination of flags with the given value."""
    if name is not None:
        return cls._member_map_[name]
    known = cls._value2member_map_.get(value)
    return cls(value) if known is None else known


def make_members(cls: Any, recipe: EnumRecipe) -> None:
    """Make the members of an enumeration, without their attributes."""
    names, recipes = recipe
    by_name: dict[str, Any] = dict.fromkeys(names)
    by_value = {}
    native = _native_type(cls)
    for places, value, arguments in recipes:
        member = native.__new__(cls, *arguments)
        by_name.update({names[place]: member for place in places})
        if not places:
            by_value[value] = member
    type.__setattr__(cls, "_member_map_", by_name)
    type.__setattr__(cls, "_value2member_map_", by_value)


def restore_members(states: Iterable[MemberState]) -> None:
    """Restore the contents, attributes and slots of members."""
    for member, contents, attributes, slots in states:
        if contents is not None:
            native = _native_type(type(member))
            if native is dict:
                member.clear()
            native.__init__(member, contents)
        own: Any = vars(member)
        own.clear()
        own.update(attributes)
        for name, value in slots.items():
            object.__setattr__(member, name, value)
