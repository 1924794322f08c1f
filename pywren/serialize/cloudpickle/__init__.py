"""A door of PyWren 0.4, which brought a cloudpickle of its own: to the one that is installed."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "CloudPickler":  # not any other: the module of the same name is to be found
        from cloudpickle import CloudPickler

        return CloudPickler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
