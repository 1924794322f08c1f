"""Wraps functions in callables that take one argument. Workers import this module, so it imports almost nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pywren.system.coroutines import finished


@dataclass(frozen=True)
class Adapter:
    """Calls a function with what one argument contains.

    Futures among the arguments of an adapter arrive as the values of their calls, and the adapter is not called at all
    if one of these calls has failed. Functions that a program maps itself get finished futures, as in PyWren 0.4.

    Args:
        function: the function.
    """

    function: Callable[..., Any]


@dataclass(frozen=True)
class Reduction(Adapter):
    """Calls a function with a list of results."""

    def __call__(self, results: list[Any]) -> Any:
        """Call the function."""
        return self.function(results)


@dataclass(frozen=True)
class Application(Adapter):
    """Calls a function with positional and keyword arguments that are sent together."""

    def __call__(self, arguments: tuple[Sequence[Any], Mapping[str, Any]]) -> Any:
        """Call the function."""
        positional, keywords = arguments
        return self.function(*positional, **keywords)


@dataclass(frozen=True)
class Spread(Adapter):
    """Calls a function with the elements of its argument as positional arguments."""

    def __call__(self, arguments: Sequence[Any]) -> Any:
        """Call the function."""
        return self.function(*arguments)


@dataclass(frozen=True)
class Chunk(Adapter):
    """Calls a function once for each of several tuples of positional arguments."""

    def __call__(self, chunk: Sequence[Sequence[Any]]) -> list[Any]:
        """Call the function with each tuple of arguments, and return the results in order."""
        return [finished(self.function(*arguments)) for arguments in chunk]


class Setup(NamedTuple):
    """How the worker processes of one ``PoolExecutor`` are prepared, and when they are replaced.

    Args:
        pool: identifies the ``PoolExecutor``.
        initializer: called once in each process, before the first call; ``None`` if there is none.
        initargs: the arguments of ``initializer``.
        most_calls: how many calls a process runs before another one replaces it; ``None`` for no limit.
    """

    pool: str
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    most_calls: int | None = None


@dataclass(eq=False)
class Initialized:
    """Calls a function in a process that is prepared for the function's pool (``worker.initialized``).

    The initializer and the function are in one pickle, so they share the global variables of the client's program.
    """

    setup: Setup
    function: Callable[[Any], Any]
    has_variables: bool = field(default=False, init=False)  # whether it has what the initializer has set

    def __call__(self, argument: Any) -> Any:
        """Call the function."""
        return self.function(argument)


_ADAPTERS = (Application, Spread, Chunk, Reduction, Initialized)


def is_adapter(function: object) -> bool:
    """Tell whether a function is one of these, around which pywren has put it; see ``Adapter``."""
    return type(function) in _ADAPTERS


def taken_apart(function: Any) -> tuple[tuple[object, ...], Any]:
    """Return what tells the adapters around a function from others, and the function itself.

    An adapter adds nothing that could change. Whoever knows a function knows it in every adapter.
    """
    adapters: tuple[object, ...] = ()
    while type(function) in _ADAPTERS:
        adapters += (type(function), function.setup.pool if type(function) is Initialized else None)
        function = function.function
    return adapters, function


def put_around(adapted: Any, function: Any) -> Any:
    """Return a function in adapters like those of another one."""
    if type(adapted) not in _ADAPTERS:
        return function
    return replace(adapted, function=put_around(adapted.function, function))
