"""``Snapshot``: a loaded function as it was before its first call, to make copies of that share nothing.

Every map begins with a function that no earlier call has changed. Unpickling it again takes ten times as long as a
copy, which is as good when all it refers to are values that cannot be changed in place, and other such functions.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from pywren.pickling.format import Names
from pywren.pickling.handmade import is_importable

_UNCHANGEABLE = frozenset({int, float, complex, str, bytes, bool, type(None)})

_MOST_FUNCTIONS = 32
"""Functions from which on unpickling is quick enough beside looking at all of them."""


class _Parts(NamedTuple):
    """What one function was made of; its globals and cells by their place in the snapshot."""

    code: types.CodeType
    name: str
    qualname: str
    module: str
    doc: str | None
    defaults: tuple[Any, ...] | None
    annotations: dict[str, Any]
    space: int
    cells: tuple[int, ...]


class _Variables(NamedTuple):
    """Variables by name: what they hold, and which of them hold a function, by its place."""

    values: dict[Any, Any]
    functions: list[tuple[Any, int]]


class Snapshot:
    """A function, and the functions it refers to, as they are now; made by ``take``.

    Functions that were pickled together share their globals, and closures may share a variable: so do the copies.
    """

    def __init__(self, graph: _Graph, names: Names) -> None:
        self._names = graph.variables(names)
        self._functions = [graph.parts(function) for function in graph.functions]
        self._spaces = [graph.variables(space) for space in graph.spaces]
        self._cells = [graph.variables({"": cell.cell_contents}) for cell in graph.cells]

    @classmethod
    def take(cls, function: Any, names: Names | None = None) -> Snapshot | None:
        """Return the snapshot of what was loaded; ``None`` where a copy would not be as good as loading it again.

        Args:
            function: what was loaded.
            names: what came with it, and is found by name.
        """
        if type(function) is not types.FunctionType:
            return None
        graph = _Graph()
        try:
            graph.meet(function)
            for value in (names or {}).values():
                graph.meet(value)
            return cls(graph, names or {})
        except _CannotCopyError:
            return None

    def copy(self) -> types.FunctionType:
        """Return a function like the one that was loaded, with variables of its own."""
        return self._copies()[0]

    def copy_with_names(self) -> tuple[types.FunctionType, Names]:
        """Return such a function, and what of its copies is found by name."""
        functions = self._copies()
        values, holders = self._names
        names = values.copy()
        for name, place in holders:
            names[name] = functions[place]
        return functions[0], names

    def _copies(self) -> list[types.FunctionType]:
        spaces = [values.copy() for values, _ in self._spaces]
        cells = [types.CellType(values[""]) for values, _ in self._cells]
        functions = []
        for code, name, qualname, module, doc, defaults, notes, space, held in self._functions:
            closure = tuple([cells[place] for place in held]) if held else None
            made = types.FunctionType(code, spaces[space], name, defaults, closure)
            made.__qualname__, made.__module__, made.__doc__ = qualname, module, doc
            if notes:
                made.__annotations__ = notes.copy()
            functions.append(made)
        for place, (_, holders) in enumerate(self._spaces):
            for name, function in holders:
                spaces[place][name] = functions[function]
        for place, (_, holders) in enumerate(self._cells):
            for _, function in holders:
                cells[place].cell_contents = functions[function]
        return functions


class _CannotCopyError(Exception):
    """Something was met that could be changed in place."""


class _Graph:
    """A function and all that it reaches, each once, in the order in which it is met."""

    def __init__(self) -> None:
        self.functions: list[types.FunctionType] = []
        self.spaces: list[dict[str, Any]] = []
        self.cells: list[types.CellType] = []
        self._places: dict[int, int] = {}

    def meet(self, value: Any) -> None:
        if _is_unchangeable(value) or id(value) in self._places:
            return
        if type(value) is not types.FunctionType or not _is_plain(value) or len(self.functions) == _MOST_FUNCTIONS:
            raise _CannotCopyError
        self._place(value, self.functions)
        for cell in value.__closure__ or ():
            if id(cell) not in self._places:
                self._place(cell, self.cells)
                self.meet(_contents(cell))
        if id(value.__globals__) not in self._places:
            self._place(value.__globals__, self.spaces)
            for name, held in value.__globals__.items():
                if name != "__builtins__":
                    self.meet(held)

    def _place(self, thing: Any, among: list[Any]) -> None:
        self._places[id(thing)] = len(among)
        among.append(thing)

    def parts(self, function: types.FunctionType) -> _Parts:
        return _Parts(
            code=function.__code__,
            name=function.__name__,
            qualname=function.__qualname__,
            module=function.__module__,
            doc=function.__doc__,
            defaults=function.__defaults__,
            annotations=dict(function.__annotations__),
            space=self._places[id(function.__globals__)],
            cells=tuple([self._places[id(cell)] for cell in function.__closure__ or ()]),
        )

    def variables(self, values: Mapping[Any, Any]) -> _Variables:
        functions = [(name, value) for name, value in values.items() if type(value) is types.FunctionType]
        return _Variables(
            values={**values, **{name: None for name, _ in functions}},
            functions=[(name, self._places[id(function)]) for name, function in functions],
        )


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty one: the variable has no value yet
        raise _CannotCopyError from None


def _is_plain(function: types.FunctionType) -> bool:
    """Tell whether nothing but its variables can tell one copy of a function from another."""
    module = sys.modules.get(function.__module__)
    if module is not None and module.__dict__ is function.__globals__:
        return False  # it was imported: there is one of it
    if function.__dict__ or function.__kwdefaults__ or getattr(function, "__type_params__", None):
        return False
    return all(map(_is_unchangeable, function.__defaults__ or ())) and all(
        isinstance(annotation, str | None) or getattr(annotation, "__module__", "") == "builtins"
        for annotation in function.__annotations__.values()
    )


def _is_unchangeable(value: Any) -> bool:
    kind = type(value)
    if kind is types.BuiltinFunctionType:
        return type(value.__self__) is types.ModuleType  # not a method of a list
    if kind is types.ModuleType:
        return is_importable(value)  # not one that came with the pickle
    return type(kind) is type and kind in _UNCHANGEABLE
