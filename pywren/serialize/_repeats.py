"""``Repeats``: the pickle of the last function, for programs that map the same one again and again.

A function pickled by value is the same bytes as before when nothing that goes into the pickle has changed. That
is only claimed where it can be told in microseconds: for a plain function whose variables are numbers, texts or
modules.
"""

from __future__ import annotations

import sys
import types
import weakref
from typing import Any

from pywren._pickling import Mentions, Packed

_EXACT = frozenset({int, str, bytes, bool, type(None)})
_FLOATING = frozenset({float, complex})

Fingerprint = tuple[Any, ...]


class Repeats:
    """Remembers the pickle of one function, and what it mentions, for as long as the function lives."""

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[Any], Fingerprint, Packed, Mentions] | None = None

    def find(self, function: Any, fingerprint: Fingerprint | None, mentions: Mentions) -> Packed | None:
        """Return the pickle of a function that has not changed since, noting what it mentions."""
        last = self._last  # one read: threads share this
        if fingerprint is None or last is None or last[0]() is not function or last[1] != fingerprint:
            return None
        mentions.add(last[3])
        return last[2]

    def keep(self, function: Any, fingerprint: Fingerprint | None, packed: Packed, mentions: Mentions) -> None:
        """Remember a pickle, and what was mentioned while it was made."""
        if fingerprint is not None and not packed.buffers:
            self._last = weakref.ref(function), fingerprint, packed, mentions


def fingerprint(function: Any) -> Fingerprint | None:
    """Return what the pickle of a function depends on; ``None`` when that cannot be told quickly."""
    if type(function) is not types.FunctionType or function.__dict__ or function.__annotations__:
        return None
    code = function.__code__
    if function.__module__ != "__main__" and "<locals>" not in function.__qualname__:
        return None  # pickled by name, by which the worker finds what stands there then
    if types.CodeType in map(type, code.co_consts):
        return None  # what a function inside it uses is not looked at here
    space = function.__globals__
    values = [(name, space[name]) for name in code.co_names if name in space]
    if function.__closure__:
        try:
            values += [("cell", cell.cell_contents) for cell in function.__closure__]
        except ValueError:  # an empty cell: the variable has no value yet
            return None
    if function.__defaults__:
        values += [("default", value) for value in function.__defaults__]
    if function.__kwdefaults__:
        values += function.__kwdefaults__.items()
    parts: list[Any] = [code, function.__name__, function.__qualname__, function.__module__, function.__doc__]
    for name, value in values:
        kind = type(value)
        if kind in _EXACT:
            parts.append((name, kind, value))  # 1 and True are equal, but not the same
        elif kind in _FLOATING:
            parts.append((name, kind, repr(value)))  # so are 0.0 and -0.0
        elif isinstance(value, types.ModuleType) and sys.modules.get(value.__name__) is value:
            parts.append((name, value.__name__, len(sys.modules)))  # submodules that were imported go along
        else:
            return None
    return tuple(parts)
