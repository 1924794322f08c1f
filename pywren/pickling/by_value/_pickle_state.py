"""``PickleState``: what the reducers of one pickle remember. ``is_importable``: whether the reader finds an object."""

from __future__ import annotations

import sys
from typing import Any

from pywren.pickling.handmade import is_handmade

MAX_SOURCE = 1024 * 1024
"""The most characters of source code in one pickle."""

_MISSING = object()
_SCRIPTS = ("__main__", "__mp_main__")  # the second is for processes that multiprocessing has started


class PickleState:
    """What the reducers of one pickle remember.

    ``returned`` means that the reader is the client that made the call. The client keeps the classes that it already
    has, whereas a worker resets them to the state that arrives.
    """

    def __init__(self) -> None:
        self.returned = False
        self.source_left = MAX_SOURCE
        # Keyed by id; the value keeps the object alive, so that no other object gets its id.
        self.spaces: dict[int, tuple[dict[str, Any], Any]] = {}
        self.replaced: dict[int, tuple[Any, Any]] = {}
        self.reducers: dict[int, Any] = {}  # of the types seen so far
        self.hinted: set[str] = set()  # modules that only annotations mention
        self.names: dict[tuple[str, str], Any] = {}  # objects that the reader must find by module and qualified name


def find(module: Any, qualname: str) -> Any:
    """Return the object with a dotted name in a module, or a sentinel if there is no such object."""
    found = module
    for part in qualname.split("."):
        found = getattr(found, part, _MISSING)
        if found is _MISSING:
            break
    return found


def is_importable(obj: Any, name: str | None = None) -> bool:
    """Tell whether the reader can find an object by its module and name.

    Args:
        obj: the object.
        name: its name, if it has no ``__qualname__``.
    """
    module_name = getattr(obj, "__module__", None)
    name = name or getattr(obj, "__qualname__", None)
    if not isinstance(module_name, str) or not isinstance(name, str) or module_name in _SCRIPTS:
        return False
    module = sys.modules.get(module_name)
    if module is None or find(module, name) is not obj:
        return False
    return not is_sent_whole(module_name) and not is_handmade(module_name)


def is_sent_whole(module_name: str) -> bool:
    """Tell whether the user has registered a module, or a package that contains it, to be pickled by value."""
    cloudpickle = sys.modules.get("cloudpickle")
    names = cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else ()
    return any(module_name == name or module_name.startswith(f"{name}.") for name in names)


def is_of_stdlib(module_name: object) -> bool:
    """Tell whether a module belongs to the standard library."""
    return isinstance(module_name, str) and module_name.partition(".")[0] in sys.stdlib_module_names
