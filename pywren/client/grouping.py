"""``members_by_group``: which items of a ``map_reduce`` are reduced together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from pywren.exceptions import ArgumentError
from pywren.wrenutil import iterate

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def members_by_group(items: Sequence[Any], groups: Callable[..., Any] | Iterable[Any] | None) -> list[list[int]]:
    """Return the indices of the items of each group, in the order in which the groups first appear.

    Args:
        items: the items.
        groups: the argument of ``Executor.map_reduce``.

    Raises:
        ArgumentError: there is not exactly one hashable key for each item.
    """
    if groups is None:
        return [list(range(len(items)))]
    found: dict[Any, list[int]] = {}
    for index, key in enumerate(_keys(items, groups)):
        try:
            found.setdefault(key, []).append(index)
        except TypeError as error:
            raise ArgumentError(
                f"groups: the key of item {index} is a {type(key).__name__}, which cannot be hashed. Nothing was "
                "invoked"
            ) from error
    return list(found.values())


def _keys(items: Sequence[Any], groups: Callable[..., Any] | Iterable[Any]) -> list[Any]:
    if callable(groups):
        if _takes_index(groups):
            return [groups(item, index) for index, item in enumerate(items)]
        return [groups(item) for item in items]
    # One more than there should be, because an iterable such as itertools.cycle() has no end.
    keys = list(islice(iterate(groups, "groups takes a function of an item, or a key for each item"), len(items) + 1))
    if len(keys) != len(items):
        count = f"more than {len(items)}" if len(keys) > len(items) else str(len(keys))
        raise ArgumentError(f"groups has {count} keys, but there are {len(items)} items. Nothing was invoked")
    return keys


def _takes_index(function: Callable[..., Any]) -> bool:
    """Tell whether a function needs two positional arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # many built-in functions have no signature
        return False
    return sum(one.kind in _POSITIONAL and one.default is one.empty for one in parameters) == 2
