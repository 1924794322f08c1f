"""Run your Python functions over thousands of inputs, in the cloud or on this machine.

::

    pwex = pywren.default_executor()
    futures = pwex.map(foo, inputs)
    results = pywren.get_all_results(futures)
"""

from __future__ import annotations

import os
import sys
import types
from typing import TYPE_CHECKING, Any

from pywren.version import __version__

if TYPE_CHECKING:
    # For type checkers the submodules are attributes too, as in PyWren 0.4; ``as`` marks them as public.
    from pywren import ec2standalone as ec2standalone
    from pywren import exceptions as exceptions
    from pywren import executor as executor
    from pywren import future as future
    from pywren import invokers as invokers
    from pywren import jobs as jobs
    from pywren import local as local
    from pywren import queues as queues
    from pywren import runtime as runtime
    from pywren import serialize as serialize
    from pywren import storage as storage
    from pywren import testing as testing
    from pywren import version as version
    from pywren import wren as wren
    from pywren import wrenconfig as wrenconfig
    from pywren import wrenhandler as wrenhandler
    from pywren import wrenlogging as wrenlogging
    from pywren import wrenutil as wrenutil
    from pywren.display.summary import summary
    from pywren.display.timeline import timeline
    from pywren.executor import Executor
    from pywren.future import ResponseFuture
    from pywren.jobs import attach, resume
    from pywren.wait import ALL_COMPLETED, ALWAYS, ANY_COMPLETED, as_completed, get_all_results, wait
    from pywren.wren import (
        PoolExecutor,
        default_executor,
        dummy_executor,
        lambda_executor,
        local_executor,
        remote_executor,
        standalone_executor,
    )

__all__ = [
    "ALL_COMPLETED",
    "ALWAYS",
    "ANY_COMPLETED",
    "SOURCE_DIR",
    "Executor",
    "PoolExecutor",
    "ResponseFuture",
    "__version__",
    "as_completed",
    "attach",
    "default_executor",
    "dummy_executor",
    "get_all_results",
    "lambda_executor",
    "local_executor",
    "remote_executor",
    "resume",
    "standalone_executor",
    "summary",
    "timeline",
    "wait",
]

SOURCE_DIR = os.path.dirname(os.path.abspath(__file__))
"""The directory that holds the package's files."""

# These names are imported on first use, so that ``import pywren`` is fast and a worker loads only what it needs.
_LAZY = {
    "ALL_COMPLETED": "wait",
    "ALWAYS": "wait",
    "ANY_COMPLETED": "wait",
    "Executor": "executor",
    "PoolExecutor": "wren",
    "ResponseFuture": "future",
    "as_completed": "wait",
    "attach": "jobs",
    "default_executor": "wren",
    "dummy_executor": "wren",
    "get_all_results": "wait",
    "lambda_executor": "wren",
    "local_executor": "wren",
    "remote_executor": "wren",
    "resume": "jobs",
    "standalone_executor": "wren",
    "summary": "display.summary",
    "timeline": "display.timeline",
}
_SUBMODULES = frozenset(
    {
        "ec2standalone",
        "exceptions",
        "executor",
        "future",
        "invokers",
        "jobs",
        "local",
        "queues",
        "runtime",
        "serialize",
        "storage",
        "testing",
        "version",
        "wren",
        "wrenconfig",
        "wrenhandler",
        "wrenlogging",
        "wrenutil",
    }
)


class _Package(types.ModuleType):
    """The type of the package ``pywren``. Its attribute ``wait`` is the function, not the module of the same name."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the package by its name. Functions that refer to the global variable ``pywren`` need this."""
        import importlib

        return importlib.import_module, (self.__name__,)

    @property
    def wait(self) -> Any:
        """The function ``pywren.wait.wait``."""
        from pywren.wait import wait

        return wait

    @wait.setter
    def wait(self, module: object) -> None:
        """Ignore the assignment that the import system makes when it imports the submodule ``pywren.wait``."""


if not TYPE_CHECKING:  # otherwise a type checker would accept every misspelt name

    def __getattr__(name: str) -> Any:
        import importlib

        if name in _LAZY:
            value = getattr(importlib.import_module(f"pywren.{_LAZY[name]}"), name)
        elif name in _SUBMODULES:
            value = _submodule(f"pywren.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def _submodule(name: str) -> types.ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name != name:
            raise
        # Workers have no pywren.testing. ``hasattr`` and ``inspect.getmembers`` then expect an AttributeError.
        raise AttributeError(str(error), name=name.rpartition(".")[2]) from error


def __dir__() -> list[str]:
    # What completion shows: the public names, and the two modules whose names programs write. The other submodules, and
    # what this module itself imports, can be reached too.
    return sorted({*__all__, "exceptions", "testing", *(name for name in globals() if name.startswith("__"))})


sys.modules[__name__].__class__ = _Package

if "PYWREN_LOGLEVEL" in os.environ:
    from pywren import wrenlogging

    wrenlogging.default_config(os.environ["PYWREN_LOGLEVEL"])
