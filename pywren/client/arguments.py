"""Checks the arguments of an executor's methods, such as ``map``, before anything is sent."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Literal, TypedDict

from pywren.exceptions import ArgumentError
from pywren.wire.call import CALL_FIELDS
from pywren.wrenutil import iterate

MOST_RETRIES = 100
"""The most retries that a program may ask for."""

MOST_ITEMS = 10_000_000
"""The most items that one map accepts when no limit is configured. The futures of more items would fill a machine's
memory, and an iterable that yields more items is most likely infinite."""


class CallOptions(TypedDict, total=False):
    """The optional arguments that all verbs for many items take by keyword; ``Executor.map`` explains them."""

    retries: int | None
    retry_on: type[BaseException] | Iterable[type[BaseException]] | None
    job_max_runtime: float | None
    memory: int | None
    timeout: float | None
    budget: float | None


class MapOnlyOptions(CallOptions, total=False):
    """The optional arguments that ``map``, and the verbs that pass them on to it, take by keyword alone."""

    backup: bool
    name: str | None
    progress: bool | str
    show_output: bool
    chunksize: int | Literal["auto"]


class MapOptions(MapOnlyOptions, total=False):
    """The optional arguments of ``Executor.map``, for the verbs that pass them on; ``map`` explains them."""

    extra_env: Mapping[str, str] | None
    extra_meta: Mapping[str, Any] | None
    invoke_pool_threads: int
    data_all_as_one: bool
    use_cached_runtime: bool
    overwrite_invoke_args: Mapping[str, Any] | None
    exclude_modules: Iterable[str] | None


def consume(iterdata: Iterable[Any], limit: int | None) -> list[Any]:
    """Return all items of a map as a list.

    Args:
        iterdata: the iterable that the program passed.
        limit: the most items allowed (``scheduler.map_item_limit``); ``None`` allows ``MOST_ITEMS``.

    Raises:
        ArgumentError: ``iterdata`` is not iterable, or has too many items.
    """
    iterator = iterate(iterdata, "map() takes an iterable of items", "use call_async(func, item) for a single item")
    most = MOST_ITEMS if limit is None else limit
    items = list(islice(iterator, most + 1))  # an islice gives list() no length hint, which might be wrong
    if len(items) > most:
        raise ArgumentError(_too_many(limit))
    return items


def checked_runtime(seconds: float, longest: float) -> float:
    """Check ``job_max_runtime`` and return it as an ``int`` or ``float``, even if the program passed a NumPy number.

    Args:
        seconds: the ``job_max_runtime`` that the program passed.
        longest: the longest runtime that is allowed, in seconds.

    Raises:
        ArgumentError: ``seconds`` is not a positive number, or exceeds ``longest``.
    """
    number = _number(seconds)
    if not 0 < number <= longest:
        raise ArgumentError(
            f"job_max_runtime is {seconds!r}; it must be the number of seconds after which a call is stopped, for "
            "example 300"
        )
    return seconds if isinstance(seconds, int) else number  # JSON cannot encode numpy's numbers


def checked_timeout(seconds: Any) -> float:
    """Return the ``timeout`` of a map as a ``float``.

    Raises:
        ArgumentError: it is not a positive number.
    """
    number = _number(seconds)
    if not number > 0:
        raise ArgumentError(
            f"timeout is {seconds!r}; it must be the number of seconds after which calls that have not ended are "
            "stopped, for example 600. Nothing was invoked"
        )
    return number


def checked_budget(dollars: Any) -> float:
    """Return the ``budget`` of a map as a ``float``.

    Raises:
        ArgumentError: it is not a positive, finite number.
    """
    number = _number(dollars)
    if not 0 < number < math.inf:
        raise ArgumentError(
            f"budget is {dollars!r}; it must be what the map may cost in US dollars, for example 5.00. "
            "Nothing was invoked"
        )
    return number


def checked_memory(megabytes: Any) -> int:
    """Return the ``memory`` of a map as an ``int``.

    Raises:
        ArgumentError: it is not a whole number, or is below 1.
    """
    number = _whole(megabytes)
    if number < 1:
        raise ArgumentError(
            f"memory is {megabytes!r}; it must be how many megabytes each call needs, a whole number such as 1024. "
            "Nothing was invoked"
        )
    return number


def _number(value: Any) -> float:
    """Return a number, even one of NumPy's, as a ``float``; ``nan`` for anything else."""
    if not isinstance(value, (str, bytes, bool)):
        with suppress(TypeError, ValueError, OverflowError):
            return float(value)
    return math.nan


def _whole(value: Any) -> int:
    """Return a whole number, even one of NumPy's, as an ``int``; -1 for anything else."""
    if not isinstance(value, (str, bytes, bool)):
        with suppress(TypeError, ValueError):
            return operator.index(value)
    return -1


def checked_retries(retries: Any) -> int:
    """Return ``retries`` as an ``int``.

    Raises:
        ArgumentError: it is not a whole number, or is below 0 or above 100.
    """
    number = _whole(retries)
    if not 0 <= number <= MOST_RETRIES:
        raise ArgumentError(f"retries is {retries!r}; it must be a whole number from 0 to {MOST_RETRIES}")
    return number


def checked_window(window: Any) -> int:
    """Return ``window`` as an ``int``.

    Raises:
        ArgumentError: it is not a whole number, or is below 1.
    """
    number = _whole(window)
    if number < 1:
        raise ArgumentError(f"window is {window!r}; it must be a whole number above 0: how many calls to make ahead")
    return number


def checked_chunksize(chunksize: Any, **others: Any) -> int | None:
    """Return the ``chunksize`` of a map as an ``int``; ``None`` for ``"auto"``.

    Args:
        chunksize: what the program passed.
        others: what each call needs an invocation of its own for, by the name of the argument; nothing if it is false.

    Raises:
        ArgumentError: it is neither ``"auto"`` nor a whole number, or is below 1; or it is above 1, and each call needs
            an invocation.
    """
    if isinstance(chunksize, str) and chunksize == "auto":
        return None
    number = _whole(chunksize)
    if number < 1:
        raise ArgumentError(
            f"chunksize is {chunksize!r}; it must be 'auto', or a whole number above 0: how many calls share an "
            "invocation. Nothing was invoked"
        )
    alone = [name for name, value in others.items() if value]
    if number > 1 and alone:
        raise ArgumentError(
            f"chunksize is {number}, but with {alone[0]}= each call needs an invocation of its own: leave out one of "
            "the two. Nothing was invoked"
        )
    return number


def checked_errors(retry_on: Any) -> tuple[type[BaseException], ...]:
    """Return ``retry_on`` as a tuple of classes.

    Raises:
        ArgumentError: it is neither a class of exceptions nor an iterable of them.
    """
    if retry_on is None:
        return ()
    # A text is iterable, and a message about its first letter helps nobody.
    single = isinstance(retry_on, (type, str, bytes, BaseException))
    classes = (retry_on,) if single else tuple(iterate(retry_on, "retry_on takes exceptions"))
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise ArgumentError(f"retry_on takes classes of exceptions such as ConnectionError, not {one!r}")
    return classes


def check_callable(func: object) -> None:
    """Raise ``ArgumentError`` unless an object is callable."""
    if not callable(func):
        raise ArgumentError(f"the function to call is a {type(func).__name__}, which cannot be called")


def check_meta(extra_meta: Mapping[str, Any] | None) -> None:
    """Raise ``ArgumentError`` unless ``extra_meta`` can be added to the payload."""
    if extra_meta is None:
        return
    if not isinstance(extra_meta, Mapping):
        raise ArgumentError(f"extra_meta is a {type(extra_meta).__name__}, not a dict. Nothing was invoked")
    clash = sorted(CALL_FIELDS.intersection(extra_meta))
    if clash:
        raise ArgumentError(
            f"extra_meta has {', '.join(map(repr, clash))}, which pywren reserves in the payload: choose another name. "
            "Nothing was invoked"
        )
    try:
        json.dumps(dict(extra_meta), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(
            f"extra_meta cannot be encoded as JSON: {error}. Use only strings, finite numbers, and lists and dicts of "
            "them; pass everything else as arguments. Nothing was invoked"
        ) from error


def checked_excludes(exclude_modules: Iterable[str] | None) -> Sequence[str]:
    """Return ``exclude_modules`` as a sequence.

    Raises:
        ArgumentError: ``exclude_modules`` is a single string.
    """
    if isinstance(exclude_modules, str):  # otherwise each letter would be taken for a string to exclude
        raise ArgumentError(f"exclude_modules is the string {exclude_modules!r}; pass a list: [{exclude_modules!r}]")
    return tuple(exclude_modules or ())


def _too_many(limit: int | None) -> str:
    if limit is None:
        return (
            f"the iterable has more than {MOST_ITEMS:,} items, or has no end, and map() makes a future for each item "
            "before it returns. Use imap(), which makes more calls as results are taken. Nothing was invoked"
        )
    return (
        f"exceeding map item limit: more than {limit:,} items in one map. Raise `scheduler: map_item_limit` in the "
        "configuration, or map over the items in pieces. Nothing was invoked"
    )


def checked_env(extra_env: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return ``extra_env`` unchanged if it is valid.

    Raises:
        ArgumentError: ``extra_env`` contains something that the environment of a process cannot contain.
    """
    if extra_env is not None and not isinstance(extra_env, Mapping):
        raise ArgumentError(
            f"extra_env is a {type(extra_env).__name__}, not a dict. The function gets one item as its only "
            "argument: to pass several arguments, map over tuples (zip), or use pywren.PoolExecutor"
        )
    for name, value in (extra_env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ArgumentError(f"extra_env: {name!r} and its value {value!r} must both be strings")
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise ArgumentError(f"extra_env: {name!r} cannot be set to {value!r} in an environment")
    return extra_env
