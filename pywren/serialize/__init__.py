"""From functions, arguments and the user's modules to bytes."""

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
