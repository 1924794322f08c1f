"""Kept for PyWren 0.4, which contained a copy of cloudpickle. This package gives the installed cloudpickle instead."""

from __future__ import annotations

from typing import Any

from pywren.serialize.cloudpickle import cloudpickle

__all__ = ["cloudpickle"]


def __getattr__(name: str) -> Any:
    if name == "CloudPickler":
        return cloudpickle.CloudPickler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
