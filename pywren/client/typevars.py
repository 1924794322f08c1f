"""The type variables and protocols in the signatures that programs see: what a function takes, and what it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    # With a default, ``ResponseFuture`` without brackets means ``ResponseFuture[Any]``, also for strict type checkers.
    # The standard library's TypeVar has defaults from Python 3.13 on.
    from typing_extensions import TypeVar as TypeVarWithDefault

    R = TypeVarWithDefault("R", default=Any)
else:
    R = TypeVar("R")

A = TypeVar("A")
"""An item: the argument of a function that takes one, or the first argument of a function that takes several."""

B = TypeVar("B")
"""The second argument of a function, or what its first step returns."""

C = TypeVar("C")
"""The third argument of a function."""

T = TypeVar("T")
"""What the function returns, or the coroutine of an ``async def`` function."""

P = ParamSpec("P")
"""All parameters of a function."""

T_co = TypeVar("T_co", covariant=True)


class HasOutcome(Protocol[T_co]):
    """A pywren future, for functions that only read results: a list may then mix futures of several types."""

    callset_id: str

    def result(self, timeout: float | None = None) -> T_co:
        """Return what the function returned."""
