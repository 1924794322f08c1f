"""``Initialized``: a function of a ``PoolExecutor`` whose worker processes have an initializer, or run only some calls.

The client wraps each function of such a pool, so that whatever process runs a call of the pool knows what comes first.
The process itself remembers which pools have prepared it. Everything here runs on the child's main thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from pywren.exceptions import BrokenPoolError

_MISSING = object()


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


class Initialized:
    """Calls a function in a process that is prepared for the function's pool.

    The initializer and the function are in one pickle, so they share the global variables of the client's program.

    Args:
        setup: how the pool prepares its processes.
        function: takes the argument of the call.
    """

    def __init__(self, setup: Setup, function: Callable[[Any], Any]) -> None:
        self.setup = setup
        self.function = function
        self._has_variables = False

    def __call__(self, argument: Any) -> Any:
        """Call the function."""
        return self.function(argument)

    def enter(self) -> bool:
        """Prepare this process, unless that has been done.

        Returns:
            Whether the initializer has run, so that the present state of the process is the right one from now on.

        Raises:
            BrokenPoolError: the initializer failed, now or earlier.
        """
        process = _prepared.get(self.setup.pool)
        is_new = process is None
        if process is None:
            process = _prepared[self.setup.pool] = _Process()
            process.initialize(self.setup)
        elif process.error is not None:
            raise BrokenPoolError(process.error, pool=self.setup.pool)
        if not self._has_variables:
            self._has_variables = True
            process.share_variables(self.setup.initializer)
        process.calls += 1
        return is_new and self.setup.initializer is not None

    def is_last(self) -> bool:
        """Tell whether the call that has entered is the last one that this process may run."""
        return self.setup.most_calls is not None and _prepared[self.setup.pool].calls >= self.setup.most_calls


class _Process:
    """What this process knows about one pool.

    Attributes:
        calls: how many calls of the pool have begun here.
        error: how the initializer failed; ``None`` if it did not.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.error: str | None = None
        self._variables: dict[str, Any] | None = None
        self._values: dict[str, Any] = {}

    def initialize(self, setup: Setup) -> None:
        """Run the initializer."""
        if setup.initializer is None:
            return
        self._variables = variables = _variables_of(setup.initializer)
        before = dict(variables or {})
        try:
            setup.initializer(*setup.initargs)
        except (Exception, SystemExit) as error:
            # Remembered, because a second try in the same process would begin with what the first one has left.
            self.error = (
                f"the initializer of the PoolExecutor raised {type(error).__name__}: {error}; mend it, and make "
                "another PoolExecutor"
            )
            raise BrokenPoolError(self.error, pool=setup.pool) from error
        if variables is not None:
            touched = set(_names(setup.initializer, variables))
            self._values = {
                name: value
                for name, value in variables.items()
                if before.get(name, _MISSING) is not value or (name in touched and not _is_code(value))
            }

    def share_variables(self, initializer: Callable[..., object] | None) -> None:
        """Give a function that was loaded later the global variables that the initializer has set.

        Functions of a script or a notebook are sent by value, and each submission has global variables of its own. In
        a process of ``ProcessPoolExecutor`` all functions see what the initializer has set, so here they must, too.

        Args:
            initializer: the initializer as it was loaded together with that function.
        """
        variables = _variables_of(initializer)
        if variables is not None and variables is not self._variables:
            variables.update(self._values)


# Which pools have prepared this process, by their ids.
_prepared: dict[str, _Process] = {}


def _function_of(initializer: object) -> FunctionType | None:
    while isinstance(initializer, functools.partial):
        initializer = initializer.func
    initializer = getattr(initializer, "__func__", initializer)  # of a method
    return initializer if isinstance(initializer, FunctionType) else None


def _variables_of(initializer: object) -> dict[str, Any] | None:
    function = _function_of(initializer)
    return None if function is None else function.__globals__


def _names(initializer: object, variables: dict[str, Any]) -> Iterator[str]:
    """Yield the global names that an initializer uses, also through other functions with the same variables.

    What it changes in place, such as a cache, keeps its identity, so a comparison of values would miss it.
    """
    function = _function_of(initializer)
    left = [] if function is None else [function.__code__]
    met: set[CodeType] = set()
    while left:
        code = left.pop()
        if code in met:
            continue
        met.add(code)
        yield from code.co_names
        left += [part for part in code.co_consts if isinstance(part, CodeType)]
        left += _codes_of(map(variables.get, code.co_names), variables)


def _codes_of(values: Iterable[object], variables: dict[str, Any]) -> list[CodeType]:
    return [one.__code__ for one in values if isinstance(one, FunctionType) and one.__globals__ is variables]


def _is_code(value: object) -> bool:
    """Tell whether a value is sent with each function anyway, and may be newer there: a function, class or module."""
    return isinstance(value, (FunctionType, type, ModuleType))
