"""Prepares a process for the calls of a ``PoolExecutor`` that has an initializer, or replaces its processes.

The client wraps each function of such a pool (``pickling.adapters.Initialized``), so that whatever process runs a call
of the pool knows what comes first. The process itself remembers which pools have prepared it. Everything here runs on
the child's main thread.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from pywren.exceptions import BrokenPoolError
from pywren.pickling.adapters import Initialized, Setup, taken_apart

_MISSING = object()


def enter(initialized: Initialized) -> bool:
    """Prepare this process for a call, unless that has been done.

    Returns:
        Whether the initializer has run, so that the present state of the process is the right one from now on.

    Raises:
        BrokenPoolError: the initializer failed, now or earlier.
    """
    setup = initialized.setup
    process = _prepared.get(setup.pool)
    is_new = process is None
    if process is None:
        process = _prepared[setup.pool] = _Process()
        process.initialize(setup)
    elif process.error is not None:
        raise BrokenPoolError(process.error, pool=setup.pool)
    process.share_variables(initialized)
    process.calls += 1
    return is_new and setup.initializer is not None


def is_last(initialized: Initialized) -> bool:
    """Tell whether the call that has entered is the last one that this process may run."""
    most = initialized.setup.most_calls
    return most is not None and _prepared[initialized.setup.pool].calls >= most


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
        function = _function_of(setup.initializer)
        self._variables = variables = None if function is None else function.__globals__
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

    def share_variables(self, initialized: Initialized) -> None:
        """Give a function that was loaded later the global variables that the initializer has set.

        Functions of a script or a notebook are sent by value, and each submission has global variables of its own. In
        a process of ``ProcessPoolExecutor`` all functions see what the initializer has set, so here they must, too.

        Args:
            initialized: the function, with the initializer as both were loaded together.
        """
        if initialized.has_variables or self._variables is None:
            return
        initialized.has_variables = True
        initializer = _function_of(initialized.setup.initializer)
        # A copy of a function has variables of its own; any other callable shares those of the initializer.
        function = _function_of(taken_apart(initialized)[1])
        for one in (initializer, function):
            is_of_program = one is not None and initializer is not None and one.__module__ == initializer.__module__
            if one is not None and is_of_program and one.__globals__ is not self._variables:
                one.__globals__.update(self._values)


# Which pools have prepared this process, by their ids.
_prepared: dict[str, _Process] = {}


def _function_of(initializer: object) -> FunctionType | None:
    while isinstance(initializer, functools.partial):
        initializer = initializer.func
    initializer = getattr(initializer, "__func__", initializer)  # of a method
    return initializer if isinstance(initializer, FunctionType) else None


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
