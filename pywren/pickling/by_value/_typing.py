"""Named objects of ``typing``: type variables, new types, and aliases that the ``type`` statement makes.

Plain ``pickle`` writes only their names, and a worker cannot find the objects of a script by name.
"""

from __future__ import annotations

from typing import Any

from pywren.pickling.by_value import _tracker
from pywren.pickling.by_value._pickle_state import is_importable

_MODULES = ("typing", "typing_extensions")
_VARIABLES = frozenset({"TypeVar", "ParamSpec", "TypeVarTuple"})
_FLAGS = ("covariant", "contravariant", "infer_variance")


# -- writing -------------------------------------------------------------------------------------------------


def reduce_typing(obj: Any) -> Any:
    """Return how a pickle rebuilds a named object of ``typing``; ``NotImplemented`` for anything else."""
    kind = type(obj)
    if kind.__module__ not in _MODULES:
        return NotImplemented
    if kind.__name__ in ("ParamSpecArgs", "ParamSpecKwargs"):
        return getattr, (obj.__origin__, kind.__name__.removeprefix("ParamSpec").lower())
    if kind.__name__ not in _VARIABLES and kind.__name__ not in ("NewType", "TypeAliasType"):
        return NotImplemented
    if is_importable(obj, getattr(obj, "__qualname__", obj.__name__)):
        return NotImplemented
    name = _tracker.id_of(obj)
    if kind.__name__ in _VARIABLES:
        return make_variable, (name, kind, obj.__name__, obj.__module__, *_options(obj))
    if kind.__name__ == "NewType":
        return make_new_type, (name, kind, obj.__name__, obj.__supertype__), dict(vars(obj)), None, None, fill_new_type
    parameters = tuple([_parameter(variable) for variable in obj.__type_params__])
    contents = [obj.__value__, *(_options(variable) for variable in obj.__type_params__)]
    return make_alias, (name, obj.__name__, obj.__module__, parameters), contents, None, None, fill_alias


def _options(variable: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the constraints and the keyword arguments with which a type variable is made."""
    options: dict[str, Any] = {flag: True for flag in _FLAGS if getattr(variable, f"__{flag}__", False)}
    for option in ("bound", "default"):
        value = _evaluated(variable, f"__{option}__")
        if value is not None and type(value).__name__ != "NoDefaultType":
            options[option] = value
    return tuple(_evaluated(variable, "__constraints__") or ()), options


def _evaluated(variable: Any, name: str) -> Any:
    try:
        return getattr(variable, name, None)
    except Exception:  # noqa: BLE001 - first evaluated here: it may use names that do not exist yet
        return None


def _parameter(variable: Any) -> tuple[str, str, int]:
    """Return a type parameter of an alias: its unique name, its declaration, and its number of constraints."""
    stars = {"TypeVarTuple": "*", "ParamSpec": "**"}.get(type(variable).__name__, "")
    return _tracker.id_of(variable), stars + variable.__name__, len(_options(variable)[0])


# -- reading -------------------------------------------------------------------------------------------------


def make_variable(
    name: str, kind: Any, variable_name: str, module: str, constraints: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """Return the type variable with a unique name; make it if this process does not have it yet."""
    known = _tracker.known_as(name)
    if known is not None:
        return known
    try:
        made = kind(variable_name, *constraints, **options)
    except TypeError:  # typing_extensions added a default, which this version of Python does not support
        default = options.pop("default")
        made = kind(variable_name, *constraints, **options)
        made.__default__ = default
    made.__module__ = module
    return _tracker.track(name, made)


def make_new_type(name: str, kind: Any, type_name: str, supertype: Any) -> Any:
    """Return the ``NewType`` with a unique name; make it if this process does not have it yet."""
    known = _tracker.known_as(name)
    return _tracker.track(name, kind(type_name, supertype)) if known is None else known


def fill_new_type(new_type: Any, attributes: dict[str, Any]) -> None:
    """Set the module and the names of a ``NewType``."""
    for attribute, value in attributes.items():
        setattr(new_type, attribute, value)


def make_alias(name: str, alias_name: str, module: str, parameters: tuple[tuple[str, str, int], ...]) -> Any:
    """Return the type alias with a unique name; make it if this process does not have it yet.

    The value of the alias is set later, because the value may refer to the alias. That is why a ``type`` statement
    makes the alias: the statement evaluates the value only on first use.
    """
    known = _tracker.known_as(name)
    if known is not None:
        return known
    contents: list[Any] = []
    declared = ", ".join(_declaration(place, *parameter) for place, parameter in enumerate(parameters, 1))
    space = {"__name__": module, "contents": contents}
    exec(f"type {alias_name}{f'[{declared}]' if declared else ''} = contents[0]", space)
    made: Any = space[alias_name]
    for (crossing, *_), variable in zip(parameters, made.__type_params__, strict=True):
        _tracker.track(crossing, variable)
    _tracker.note(made, contents)
    return _tracker.track(name, made)


def _declaration(place: int, _crossing: str, text: str, constraints: int) -> str:
    if constraints:
        return f"{text}: ({', '.join(f'contents[{place}][0][{index}]' for index in range(constraints))},)"
    return text if text.startswith("*") else f"{text}: contents[{place}][1].get('bound')"


def fill_alias(alias: Any, contents: list[Any]) -> None:
    """Set the value of a type alias that ``make_alias`` made."""
    held = _tracker.noted(alias)
    if held is not None:
        held[:] = contents
