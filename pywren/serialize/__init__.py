"""Turns functions, arguments and the user's modules into bytes."""

from __future__ import annotations

import importlib
from typing import Any

from pywren.serialize.module_dependency import THIS_INTERPRETER, ModuleDependencyAnalyzer
from pywren.serialize.serialize import PackedCalls, SerializeIndependent, Serializer, create_mod_data

__all__ = [
    "THIS_INTERPRETER",
    "ModuleDependencyAnalyzer",
    "PackedCalls",
    "SerializeIndependent",
    "Serializer",
    "create_mod_data",
]


def __getattr__(name: str) -> Any:
    if name in ("cloudpickle", "default_preinstalls", "util"):  # in 0.4, importing the package loaded these
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
