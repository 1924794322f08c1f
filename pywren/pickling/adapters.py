"""Wraps functions in callables that take one argument. Workers import this module, so it imports almost nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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
class Chunk(Adapter):
    """Calls a function once for each of several tuples of positional arguments."""

    def __call__(self, chunk: Sequence[Sequence[Any]]) -> list[Any]:
        """Call the function with each tuple of arguments, and return the results in order."""
        return [self.function(*arguments) for arguments in chunk]
