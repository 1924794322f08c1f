"""Explains why an object cannot be pickled: finds the part that fails, where it is, and the reason."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pywren.exceptions import PywrenError
from pywren.pickling.by_value._functions import global_names
from pywren.pickling.format import PROTOCOL

_MAX_TRIES = 5_000
"""The most parts that the search pickles; after that, the smallest culprit found so far is blamed."""

_SDKS = frozenset({"boto3", "botocore", "aioboto3", "aiobotocore", "s3transfer"})

_TOO_DEEP = (
    "the object is nested too deeply to be pickled; make it flatter (a list in place of linked objects), "
    "or raise the limit with sys.setrecursionlimit before the call"
)

Part = tuple[str, Any]
"""A step of the path, and the part that it leads to."""


def explain(
    obj: Any, error: Exception, path: str, dump: Callable[[Any], object], *, returned: bool = False
) -> tuple[str, str]:
    """Find the part that made pickling fail.

    Args:
        obj: the object that did not pickle.
        error: what pickling it raised.
        path: what the object is, such as ``argument 3``.
        dump: pickles a part, or raises.
        returned: whether the object is a result; this decides the remedy.

    Returns:
        The path of the culprit (``argument 3.model.lock``), and why it cannot be pickled.
    """
    if _is_too_deep(error):
        return path, _TOO_DEEP
    seen = {id(obj)}
    kept = [obj]  # parts that are created during the search must live as long as their ids are used
    tries = 0
    while True:
        for name, part in () if _is_client(obj) else _parts(obj):
            if id(part) in seen or tries >= _MAX_TRIES:
                continue
            seen.add(id(part))
            kept.append(part)
            tries += 1
            problem = _problem(part, dump)
            if problem is not None and _tells_more(problem, error):
                obj, error, path = part, problem, path + name
                break
        else:
            return path, _reason(obj, error, returned)


def _is_client(obj: Any) -> bool:
    """Tell whether an object belongs to an SDK. Such objects have many parts, none of which tells the user anything."""
    return str(type(obj).__module__).partition(".")[0] in _SDKS


def _tells_more(problem: Exception, error: Exception) -> bool:
    """Tell whether the problem of a part is of more use than that of the whole.

    When a future refuses to be pickled, it says why. Its parts are pywren's own, and do not pickle either.
    """
    return isinstance(problem, PywrenError) or not isinstance(error, PywrenError)


def _problem(part: Any, dump: Callable[[Any], object]) -> Exception | None:
    try:
        dump(part)
    except Exception as error:  # noqa: BLE001 - __reduce__ of the user's classes may raise anything
        return error
    return None


def _is_too_deep(error: BaseException) -> bool:
    return isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError)


# For arguments, and for results; keyed by type, with "" for all others.
_REMEDIES: tuple[dict[str, str], dict[str, str]] = (
    {"": "make it inside the function, on the worker"},
    {
        "": "return what you made with it instead",
        "generator": "return a list of its items, list(...)",
        "async_generator": "return a list of its items, [item async for item in ...]",
        "coroutine": "only the coroutine that the function itself returns is awaited: await this one in the function",
    },
)


def _reason(obj: Any, error: Exception, returned: bool) -> str:
    if _is_too_deep(error):
        return _TOO_DEEP
    text = str(error)
    refused = re.match(r"cannot pickle '?([\w.]+)'? object", text)
    if refused and not _is_client(obj):
        article = "an" if refused[1][0] in "aeiou" else "a"
        remedies = _REMEDIES[returned]
        return f"{article} {refused[1]} cannot be pickled; {remedies.get(refused[1], remedies[''])}"
    kind = type(obj)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    remedy = f"; {_REMEDIES[returned]['']}" if _is_client(obj) else ""
    return f"a {name} cannot be pickled ({type(error).__name__}: {text}){remedy}"


# -- the parts of an object ----------------------------------------------------------------------------------


def _parts(obj: Any) -> Iterator[Part]:
    """Yield the parts that an object's pickle would contain, with the path as the user would write it."""
    if isinstance(obj, dict):
        yield from _items(obj)
    elif isinstance(obj, (list, tuple)):
        fields = getattr(obj, "_fields", None)
        for index, item in enumerate(obj):
            yield f".{fields[index]}" if fields else f"[{index}]", item
    elif isinstance(obj, (set, frozenset)):
        yield from ((f" (element {item!r:.80})", item) for item in obj)
    elif isinstance(obj, types.FunctionType):
        yield from _function_parts(obj)
    elif isinstance(obj, (types.MethodType, types.BuiltinMethodType, types.MethodWrapperType)):
        yield f" (the object of its method {obj.__name__!r})", obj.__self__
        yield ".__func__", getattr(obj, "__func__", None)
    elif isinstance(obj, functools.partial):
        yield " (the function of the partial)", obj.func
        yield from ((f" (argument {index} of the partial)", arg) for index, arg in enumerate(obj.args))
        yield from ((f" (argument {name!r} of the partial)", arg) for name, arg in obj.keywords.items())
    elif isinstance(obj, type):
        yield from _class_parts(obj)
    elif isinstance(obj, types.ModuleType):
        yield from ((f".{name}", value) for name, value in vars(obj).items() if not name.startswith("__"))
    if not isinstance(obj, (type, types.FunctionType, types.ModuleType)):
        yield from _attributes(obj)


def _items(obj: dict[Any, Any]) -> Iterator[Part]:
    for key, value in obj.items():
        yield f"[{key!r:.80}]", value
        yield f" (key {key!r:.80})", key


def _function_parts(function: types.FunctionType) -> Iterator[Part]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f" (closure variable {name!r})", cell.cell_contents
        except ValueError:
            pass  # an empty cell
    for name in sorted(global_names(function.__code__)):
        if name in function.__globals__:
            yield f" (global variable {name!r})", function.__globals__[name]
    for index, default in enumerate(function.__defaults__ or ()):
        yield f" (default value {index})", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f" (default value of {name!r})", default
    yield from ((f".{name}", value) for name, value in vars(function).items())


def _class_parts(cls: type) -> Iterator[Part]:
    for name, value in vars(cls).items():
        if name not in ("__dict__", "__weakref__", "__doc__", "__module__"):
            yield f".{name}", value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    yield from ((f" (base class {base.__name__!r})", base) for base in cls.__bases__)


def _attributes(obj: Any) -> Iterator[Part]:
    named: dict[str, Any] = {}
    for name in _slots(type(obj)):
        value = inspect.getattr_static(obj, name, None)
        if isinstance(value, types.MemberDescriptorType):
            try:
                named[name] = value.__get__(obj)
            except AttributeError:
                pass  # the slot was never set
    try:
        named.update(object.__getattribute__(obj, "__dict__"))
        reduced = obj.__reduce_ex__(PROTOCOL)
    except Exception:  # noqa: BLE001 - its reduction raises, so the culprit is this object itself
        reduced = ""
    if isinstance(reduced, tuple):
        state = reduced[2] if len(reduced) > 2 else None
        if isinstance(state, tuple) and len(state) == 2 and all(isinstance(half, (dict, type(None))) for half in state):
            named |= {**(state[0] or {}), **(state[1] or {})}
        elif isinstance(state, dict):
            named |= state
        elif state is not None:
            yield " (its state)", state
    yield from ((f".{name}", value) for name, value in named.items())
    if isinstance(reduced, tuple) and isinstance(reduced[1], tuple):
        for index, part in enumerate(reduced[1]):
            yield f" (its class {part.__name__!r})" if part is type(obj) else f" (constructor argument {index})", part


def _slots(cls: type) -> Iterable[str]:
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots
