"""Functions, their code and their variables."""

from __future__ import annotations
import __future__

import builtins
import opcode
import sys
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from pywren.pickling.by_value._hints import hints_of, known_hints, note_hints
from pywren.pickling.by_value._pickle_state import PickleState, is_of_stdlib
from pywren.pickling.by_value._source import remember_source, source_of

_OPS = frozenset(
    opcode.opmap[name]
    for name in ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in opcode.opmap
)
_LOAD_GLOBAL = opcode.opmap["LOAD_GLOBAL"]
_SHIFT = 1 if sys.version_info >= (3, 11) else 0  # since Python 3.11 the lowest bit means something else
_EXTENDED_ARG = opcode.opmap["EXTENDED_ARG"]

# In the order of the parameters of types.CodeType.
_CODE_ATTRIBUTES = tuple(
    f"co_{name}"
    for name in (
        *("argcount", "posonlyargcount", "kwonlyargcount", "nlocals", "stacksize", "flags", "code", "consts", "names"),
        *("varnames", "filename", "name", "qualname", "firstlineno", "linetable", "exceptiontable"),
        *("freevars", "cellvars"),
    )
    if hasattr(compile("", "", "exec"), f"co_{name}")
)
_SPACE_NAMES = ("__name__", "__package__", "__path__", "__file__")
_FUTURE_ANNOTATIONS = __future__.annotations.compiler_flag
_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex})
_HAS_ANNOTATE = sys.version_info >= (3, 14)


# -- writing -------------------------------------------------------------------------------------------------


def reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a code object, including the name of its file."""
    return types.CodeType, tuple([getattr(code, name) for name in _CODE_ATTRIBUTES])


def reduce_cell(cell: types.CellType) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a closure variable. Functions that share a variable also share the rebuilt one."""
    try:
        value = cell.cell_contents
    except ValueError:
        return types.CellType, ()  # it has no value yet
    kind: Any = type(value)
    if type(kind) is type and kind in _ATOMS:
        return types.CellType, (value,)
    # Pickle the value after the cell: it may be the function that the cell belongs to.
    return types.CellType, (), (value,), None, None, fill_cell


def reduce_function(function: types.FunctionType, state: PickleState) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a function.

    Args:
        function: the function.
        state: the state of the pickle; functions of one module share their globals.
    """
    code, space = function.__code__, function.__globals__
    if id(space) not in state.spaces:
        state.spaces[id(space)] = space, {name: space[name] for name in _SPACE_NAMES if name in space}
    annotations = {} if _HAS_ANNOTATE and _annotate(function) else function.__annotations__
    variables = {name: space[name] for name in global_names(code) if name in space}
    more: dict[str, Any] = {"__module__": function.__module__, "__qualname__": function.__qualname__}
    for name in ("__doc__", "__defaults__", "__kwdefaults__"):
        if getattr(function, name) is not None:
            more[name] = getattr(function, name)
    if annotations:
        more["__annotations__"] = annotations
    type_params: Any = getattr(function, "__type_params__", None)  # Python 3.12
    if type_params:
        more["__type_params__"] = type_params
    if _HAS_ANNOTATE and _annotate(function):
        more["__annotate__"] = _annotate(function)
    hints = hints_of([*annotations.values(), *_inner_annotations(code)], space, state)
    note_hints(hints, function.__module__, state)
    parts = (variables, more, function.__dict__ or None, _submodules(function, variables), hints)
    made = code, state.spaces[id(space)][1], function.__name__, function.__closure__, _source(function, state)
    return (make_returned_function if state.returned else make_function), made, parts, None, None, fill_function


def _inner_annotations(code: types.CodeType) -> list[str]:
    """Return the string annotations of classes and functions that a function defines, and some other strings."""
    found: list[str] = []
    for constant in code.co_consts:
        if type(constant) is tuple and code.co_flags & _FUTURE_ANNOTATIONS:
            found += [text for text in constant if type(text) is str]  # it contains names and annotations in turn
        elif type(constant) is types.CodeType:
            found += _inner_annotations(constant)
            if "__annotations__" in constant.co_names:  # the body of a class
                found += [text for text in constant.co_consts[1:] if type(text) is str]
    return found


def _annotate(function: Any) -> Any:
    return getattr(function, "__annotate__", None)


def _source(function: types.FunctionType, state: PickleState) -> str | None:
    if is_of_stdlib(function.__globals__.get("__name__")):
        return None  # a decorator made this function, so its lines tell the user nothing
    source = source_of(function.__code__, function.__globals__)
    if not source or len(source) > state.source_left:
        return None
    state.source_left -= len(source)
    return source


_names_of_code: weakref.WeakKeyDictionary[types.CodeType, dict[str, None]] = weakref.WeakKeyDictionary()


def global_names(code: types.CodeType) -> Mapping[str, None]:
    """Return the names of the global variables that code uses, including those that functions and classes in it use."""
    names = _names_of_code.get(code)
    if names is None:
        names = dict.fromkeys(_walk(code))
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                names.update(global_names(inner))
        _names_of_code[code] = names
    return names


def _walk(code: types.CodeType) -> Iterator[str]:
    ops, args = code.co_code[::2], code.co_code[1::2]
    for place, op in enumerate(ops):
        if op not in _OPS:
            continue
        index, before, shift = args[place], place - 1, 8
        while before >= 0 and ops[before] == _EXTENDED_ARG:
            index |= args[before] << shift
            before, shift = before - 1, shift + 8
        yield code.co_names[index >> _SHIFT if op == _LOAD_GLOBAL else index]


def _submodules(function: types.FunctionType, variables: Mapping[str, Any]) -> tuple[types.ModuleType, ...]:
    """Return the modules that a function reaches as attributes of a package, such as ``concurrent.futures``."""
    held = [*variables.values(), *map(_contents, function.__closure__ or ())]
    packages = [value for value in held if isinstance(value, types.ModuleType) and hasattr(value, "__path__")]
    if not packages:
        return ()
    used = _attribute_names(function.__code__)
    found = {}
    for package in packages:
        prefix = package.__name__ + "."
        for name, module in sys.modules.copy().items():  # a copy, because other threads, and destructors, may import
            is_used = name.startswith(prefix) and used.issuperset(name[len(prefix) :].split("."))
            if is_used and isinstance(module, types.ModuleType):
                found[name] = module
    return tuple(found.values())


def _attribute_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names |= _attribute_names(inner)
    return names


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


# -- reading -------------------------------------------------------------------------------------------------


def make_function(*parts: Any) -> types.FunctionType:
    """Make a function on a worker from its code, globals, name, closure and source. ``fill_function`` does the rest."""
    return _make_function(*parts, replace=True)


def make_returned_function(*parts: Any) -> types.FunctionType:
    """Make a function that a call returned. If the client has the source file, the source that was sent is ignored."""
    return _make_function(*parts, replace=False)


def _make_function(
    code: types.CodeType,
    space: dict[str, Any],
    name: str,
    closure: tuple[types.CellType, ...] | None,
    source: str | None,
    *,
    replace: bool,
) -> types.FunctionType:
    if source:
        remember_source(code, source, replace=replace)
    space.setdefault("__builtins__", builtins.__dict__)
    return types.FunctionType(code, space, name, None, closure)


def fill_function(function: types.FunctionType, parts: tuple[Any, ...]) -> None:
    """Set the globals and attributes that were sent with a function."""
    variables, more, attributes, _, hints = parts
    if hints:
        variables = {**known_hints(hints), **variables}
    function.__globals__.update(variables)
    for name, value in more.items():
        setattr(function, name, value)
    if attributes:
        function.__dict__.update(attributes)


def fill_cell(cell: types.CellType, state: tuple[Any]) -> None:
    """Set the value of a closure variable."""
    cell.cell_contents = state[0]
