"""``Mentions``: the modules that pickles need on the reader's side."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any


class Mentions:
    """The modules and the code that pickles mention, which tell what the reader must import.

    Args:
        modules: names of the modules in which the reader looks something up.
        code: the code of functions pickled by value, with the package from which their relative imports start.

    ``hinted`` contains modules that only string annotations mention: the reader can do without them.
    """

    def __init__(self, modules: Iterable[str] = (), code: Mapping[types.CodeType, str] | None = None) -> None:
        self.modules: set[str] = set(modules)
        self.hinted: set[str] = set()
        self.code: dict[types.CodeType, str] = dict(code or {})

    def add(self, others: Mentions) -> None:
        """Add what other pickles mention."""
        self.modules |= others.modules
        self.hinted |= others.hinted
        self.code.update(others.code)

    def note(self, obj: Any, *, by_reference: bool) -> None:
        """Add what the reader must import for an object.

        Args:
            obj: an object in the pickle.
            by_reference: whether the pickle contains only its name.
        """
        if isinstance(obj, types.FunctionType) and not by_reference:
            self.code[obj.__code__] = _package_of(obj.__globals__)
            return
        if not by_reference:
            return
        if isinstance(obj, types.ModuleType):
            module: Any = obj.__name__
        else:
            named = isinstance(obj, (type, types.FunctionType, types.BuiltinFunctionType))
            # An instance may reduce to a bare name, which is looked up in the module of its class.
            module = (obj if named else type(obj)).__module__
        if isinstance(module, str) and module != "builtins":
            self.modules.add(module)


def _package_of(namespace: Mapping[str, Any]) -> str:
    """Return the package of the module whose globals these are, as the import system derives it (PEP 366)."""
    package = namespace.get("__package__")
    if package is None:
        name = str(namespace.get("__name__") or "")
        package = name if "__path__" in namespace else name.rpartition(".")[0]
    return str(package)
