"""Replaces the copy of cloudpickle that PyWren 0.4 contained with the installed one."""

from __future__ import annotations

from typing import Any

from pywren.serialize.cloudpickle import cloudpickle

__all__ = ["cloudpickle"]


def __getattr__(name: str) -> Any:
    if name == "CloudPickler":
        return cloudpickle.CloudPickler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
