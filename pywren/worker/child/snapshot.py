"""``Snapshot``: a loaded function as it was before its first call, from which fresh copies are made.

Every map begins with a function that no earlier call has changed. Unpickling the function again takes ten times as long
as copying it. A copy is just as good if the function refers only to constants and other plain functions
(``pickling.plain_functions``).
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from pywren.pickling.format import Names
from pywren.pickling.plain_functions import MOST_FUNCTIONS, Parts, contents_of, is_constant, is_plain


class _Variables(NamedTuple):
    """The variables of a function: constants by name with their values, and functions by name with their places."""

    values: dict[Any, Any]
    functions: list[tuple[Any, int]]


class Snapshot:
    """The present state of a function and of the functions that it refers to. Created by ``take``.

    Functions that were pickled together share their globals, and closures may share a variable. So do the copies.
    """

    def __init__(self, graph: _Graph, names: Names) -> None:
        self._names = graph.variables(names)
        self._functions = [(Parts.of(function), *graph.places(function)) for function in graph.functions]
        self._spaces = [graph.variables(space) for space in graph.spaces]
        self._cells = [graph.variables({"": cell.cell_contents}) for cell in graph.cells]

    @classmethod
    def take(cls, function: Any, names: Names | None = None) -> Snapshot | None:
        """Return a snapshot of a loaded function, or ``None`` if a copy would not be as good as loading it again.

        Args:
            function: the loaded function.
            names: objects that were loaded with the function and can be found by name.
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
        """Return a copy of the function, which has its own variables."""
        return self._copies()[0]

    def copy_with_names(self) -> tuple[types.FunctionType, Names]:
        """Return a copy of the function, and copies of the objects that can be found by name."""
        functions = self._copies()
        values, holders = self._names
        names = values.copy()
        for name, place in holders:
            names[name] = functions[place]
        return functions[0], names

    def _copies(self) -> list[types.FunctionType]:
        """Return copies of all functions, in order. The copies refer to each other as the originals do."""
        spaces = [values.copy() for values, _ in self._spaces]
        cells = [types.CellType(values[""]) for values, _ in self._cells]
        functions = [
            parts.assemble(spaces[space], tuple([cells[place] for place in held]) if held else None)
            for parts, space, held in self._functions
        ]
        for place, (_, holders) in enumerate(self._spaces):
            for name, function in holders:
                spaces[place][name] = functions[function]
        for place, (_, holders) in enumerate(self._cells):
            for _, function in holders:
                cells[place].cell_contents = functions[function]
        return functions


class _CannotCopyError(Exception):
    """The function refers to something that could be changed in place."""


class _Graph:
    """A function and everything that it refers to, directly or not, each once and in the order of discovery.

    The place of a function, of globals or of a cell is its index in the list of its kind.
    """

    def __init__(self) -> None:
        self.functions: list[types.FunctionType] = []
        self.spaces: list[dict[str, Any]] = []
        self.cells: list[types.CellType] = []
        self._places: dict[int, int] = {}

    def meet(self, value: Any) -> None:
        """Add a value and everything that it refers to.

        Raises:
            _CannotCopyError: the value, or something that it refers to, cannot be copied.
        """
        if is_constant(value) or id(value) in self._places:
            return
        if not _can_be_copied(value) or len(self.functions) == MOST_FUNCTIONS:
            raise _CannotCopyError
        self._place(value, self.functions)
        for cell in value.__closure__ or ():
            if id(cell) not in self._places:
                self._place(cell, self.cells)
                self.meet(contents_of(cell))
        if id(value.__globals__) not in self._places:
            self._place(value.__globals__, self.spaces)
            for name, held in value.__globals__.items():
                if name != "__builtins__":
                    self.meet(held)

    def _place(self, thing: Any, among: list[Any]) -> None:
        self._places[id(thing)] = len(among)
        among.append(thing)

    def places(self, function: types.FunctionType) -> tuple[int, tuple[int, ...]]:
        """Return the places of a function's globals and cells."""
        cells = tuple([self._places[id(cell)] for cell in function.__closure__ or ()])
        return self._places[id(function.__globals__)], cells

    def variables(self, values: Mapping[Any, Any]) -> _Variables:
        """Return variables in which functions are replaced by their places."""
        functions = [(name, value) for name, value in values.items() if type(value) is types.FunctionType]
        return _Variables(
            values={**values, **{name: None for name, _ in functions}},
            functions=[(name, self._places[id(function)]) for name, function in functions],
        )


def _can_be_copied(value: Any) -> bool:
    """Tell whether a value is a plain function that was part of the pickle. Its variables are not checked here."""
    if not is_plain(value) or not all(map(is_constant, value.__defaults__ or ())):
        return False
    module = sys.modules.get(value.__module__)
    return module is None or module.__dict__ is not value.__globals__  # otherwise it was imported, and must stay unique
