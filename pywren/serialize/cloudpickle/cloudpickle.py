"""Kept for PyWren 0.4: all names of the installed cloudpickle, such as ``dumps``, ``loads`` and ``CloudPickler``."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import cloudpickle

    return getattr(cloudpickle, name)
