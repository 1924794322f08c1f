"""``Snapshot``: a loaded function as it was before its first call, to make copies of that share nothing.

Every map begins with a function that no earlier call has changed. Unpickling it again takes ten times as long as a
copy, which is as good when nothing that the function refers to can be changed in place.
"""

from __future__ import annotations

import types
from typing import Any, TypeGuard

_UNCHANGEABLE = frozenset({int, float, complex, str, bytes, bool, type(None), types.ModuleType})


class Snapshot:
    """What a function was made of.

    Args:
        function: one of which ``can_copy`` is true.
    """

    def __init__(self, function: types.FunctionType) -> None:
        self._function = function
        self._globals = dict(function.__globals__)
        self._cells = [cell.cell_contents for cell in function.__closure__ or ()]

    def copy(self) -> types.FunctionType:
        """Return a function like the one that was loaded, with variables of its own."""
        loaded = self._function
        cells = tuple([types.CellType(value) for value in self._cells]) if self._cells else None
        made = types.FunctionType(loaded.__code__, dict(self._globals), loaded.__name__, loaded.__defaults__, cells)
        made.__qualname__, made.__module__, made.__doc__ = loaded.__qualname__, loaded.__module__, loaded.__doc__
        return made


def can_copy(function: Any) -> TypeGuard[types.FunctionType]:
    """Tell whether copies of a function are as good as loading it again: its variables hold numbers, texts, modules."""
    if type(function) is not types.FunctionType or function.__dict__ or function.__annotations__:
        return False
    if function.__kwdefaults__ or not _all_unchangeable(function.__defaults__ or ()):
        return False
    space = function.__globals__
    try:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # an empty cell
        return False
    return _all_unchangeable(cells) and _all_unchangeable(
        [value for name, value in space.items() if name != "__builtins__"]
    )


def _all_unchangeable(values: Any) -> bool:
    return all(type(value) in _UNCHANGEABLE for value in values)
