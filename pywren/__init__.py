"""Run your Python functions over thousands of inputs, in the cloud or on this machine.

::

    pwex = pywren.default_executor()
    futures = pwex.map(foo, inputs)
    results = pywren.get_all_results(futures)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pywren.version import __version__

# ``pywren.wait`` is the function although there is a module of that name: imported later, the module
# would take the attribute over.
from pywren.wait import ALL_COMPLETED, ALWAYS, ANY_COMPLETED, get_all_results, wait

if TYPE_CHECKING:
    from pywren._pool_executor import PoolExecutor
    from pywren.executor import Executor
    from pywren.future import ResponseFuture
    from pywren.wren import (
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
    "default_executor",
    "dummy_executor",
    "get_all_results",
    "lambda_executor",
    "local_executor",
    "remote_executor",
    "standalone_executor",
    "wait",
]

SOURCE_DIR = os.path.dirname(os.path.abspath(__file__))
"""Where the package's files are."""

# Imported when first used, so that ``import pywren`` stays light and a worker loads only what it needs.
_LAZY = {
    "Executor": "executor",
    "PoolExecutor": "_pool_executor",
    "ResponseFuture": "future",
    "default_executor": "wren",
    "dummy_executor": "wren",
    "lambda_executor": "wren",
    "local_executor": "wren",
    "remote_executor": "wren",
    "standalone_executor": "wren",
}
_SUBMODULES = frozenset(
    {
        "ec2standalone",
        "exceptions",
        "executor",
        "future",
        "invokers",
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


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        value = getattr(importlib.import_module(f"pywren.{_LAZY[name]}"), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"pywren.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_SUBMODULES})


if "PYWREN_LOGLEVEL" in os.environ:
    from pywren import wrenlogging

    wrenlogging.default_config(os.environ["PYWREN_LOGLEVEL"])
