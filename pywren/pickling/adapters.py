"""Wraps functions in callables that take one argument. Workers import this module, so it imports almost nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pywren.system.coroutines import finished


@dataclass(frozen=True)
class Reduction:
    """Calls a function with a list of the results of finished futures."""

    function: Callable[[list[Any]], Any]

    def __call__(self, futures: Sequence[Any]) -> Any:
        """Call the function with the results; raise the exception of the first future that failed, if any did."""
        return self.function([future.result() for future in futures])


@dataclass(frozen=True)
class Application:
    """Calls a function with positional and keyword arguments that are sent together."""

    function: Callable[..., Any]

    def __call__(self, arguments: tuple[Sequence[Any], Mapping[str, Any]]) -> Any:
        """Call the function."""
        positional, keywords = arguments
        return self.function(*positional, **keywords)


@dataclass(frozen=True)
class Spread:
    """Calls a function with the elements of its argument as positional arguments."""

    function: Callable[..., Any]

    def __call__(self, arguments: Sequence[Any]) -> Any:
        """Call the function."""
        return self.function(*arguments)


@dataclass(frozen=True)
class Chunk:
    """Calls a function once for each of several tuples of positional arguments."""

    function: Callable[..., Any]

    def __call__(self, chunk: Sequence[Sequence[Any]]) -> list[Any]:
        """Call the function with each tuple of arguments, and return the results in order."""
        return [finished(self.function(*arguments)) for arguments in chunk]


def taken_apart(function: Any) -> tuple[Callable[[Any], Any] | None, Any]:
    """Return the class of an adapter and the function that it calls; for any other function, ``None`` and itself.

    An adapter adds nothing that could change. Whoever knows a function knows it in every adapter.
    """
    kind = type(function)
    return (kind, function.function) if kind in (Application, Chunk, Reduction, Spread) else (None, function)
