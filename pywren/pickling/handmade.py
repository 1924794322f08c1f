"""Handmade modules: other processes cannot import them by name, so they and their contents are sent by value.

Programs make such modules with ``types.ModuleType``, with their own loaders (notebooks as modules), under impossible
names (``runpy`` uses ``<run_path>``), or from files that are gone or are not in the directory of their package. A
module that was loaded from a path under a name that the program chose does not count: its file is sent under that name.
"""

from __future__ import annotations

import os
import sys
import types
from importlib.machinery import ModuleSpec, SourceFileLoader, SourcelessFileLoader, all_suffixes
from typing import Any

_NAMED = (types.FunctionType, type, types.ModuleType)
_NAMED_BY_MODULE = ("functools", "typing", "typing_extensions")
_OWN = frozenset({"__main__", "__mp_main__", "pywren", "cloudpickle", "tblib", "numpy"})


def is_handmade(name: object) -> bool:
    """Tell whether a name belongs to a loaded module that other processes cannot import.

    Args:
        name: the ``__module__`` of an object, which may be anything.
    """
    if not isinstance(name, str):
        return False
    top = name.partition(".")[0]
    if top in _OWN or top in sys.stdlib_module_names:
        return False
    module = sys.modules.get(name)
    if module is None:
        return False  # its contents are sent by value anyway, because no module of this name is found here
    if "<" in name or os.sep in name:
        return True  # importing "<run_path>" would run the script
    spec = getattr(module, "__spec__", None)
    spec = spec if isinstance(spec, ModuleSpec) else None
    if spec is not None and os.path.isfile(getattr(spec.loader, "archive", None) or ""):
        return False  # it comes from a zip file
    file = spec.origin if spec is not None and spec.has_location else getattr(module, "__file__", None)
    if not isinstance(file, str):
        return not getattr(module, "__path__", None) and not _has_maker(name, spec)
    if spec is not None and spec.name != name:
        return False  # a second name for another module
    return not _is_loadable(file, spec) or not _is_where_its_name_says(name, file)


def _has_maker(name: str, spec: ModuleSpec | None) -> bool:
    """Tell whether importing a module that has no file works, because the interpreter or its package creates it."""
    if spec is not None and spec.origin in ("built-in", "frozen"):
        return True
    package = name.rpartition(".")[0]
    return package in sys.modules and not is_handmade(package)  # for example six.moves


def _is_loadable(file: str, spec: ModuleSpec | None) -> bool:
    loader = getattr(spec, "loader", None)
    known = isinstance(loader, (SourceFileLoader, SourcelessFileLoader)) or file.endswith(tuple(all_suffixes()))
    return known and os.path.isfile(file)


def _is_where_its_name_says(name: str, file: str) -> bool:
    """Tell whether the file of a package's module is in the package's directory, which is sent as a whole."""
    parent = name.rpartition(".")[0]
    if not parent:
        return True
    package = sys.modules.get(parent)
    if package is None or is_handmade(parent):
        return False  # importing a module imports its package first
    if not isinstance(getattr(package, "__file__", None), str):
        return True  # a namespace package, whose modules are sent one by one
    folder = os.path.dirname(os.path.abspath(file))
    if os.path.splitext(os.path.basename(file))[0] == "__init__":
        folder = os.path.dirname(folder)
    return any(_is_same(folder, str(place)) for place in getattr(package, "__path__", ()))


def _is_same(folder: str, place: str) -> bool:
    if folder == place:
        return True
    try:
        return os.path.samefile(folder, place)
    except OSError:
        return False


def is_importable(module: types.ModuleType) -> bool:
    """Tell whether other processes can import this module by its name."""
    name = module.__name__
    found = sys.modules.get(name)
    if found is None or is_handmade(name):
        return False
    # A module may replace itself in sys.modules; importing it elsewhere does the same.
    return found is module or getattr(found, "__file__", None) == getattr(module, "__file__", "none")


def is_of_program(module: str) -> bool:
    """Tell whether a module is part of the program itself. Workers have only those objects of the module that are sent.

    Args:
        module: the name of the module.
    """
    return module == "__main__" or is_handmade(module)


def name_here(obj: Any) -> tuple[str, str] | None:
    """Return the module and qualified name of an object that is sent by value, if these names lead to it here.

    On the worker, pickles and the processes of ``multiprocessing`` look the object up by these names. If the object is
    a module, the qualified name is empty.
    """
    kind: Any = type(obj)
    if not issubclass(kind, _NAMED) and kind.__module__ not in _NAMED_BY_MODULE:
        return None  # instances may return something for any attribute
    if issubclass(kind, types.ModuleType):
        own: str = obj.__name__
        return (own, "") if sys.modules.get(own) is obj else None
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", getattr(obj, "__name__", None))
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name or not is_of_program(module):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is obj else None
