"""Values that plain pickle can write: they refer to none of the user's classes or functions."""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pywren.pickling.format import PROTOCOL

ATOMS: frozenset[type] = frozenset({int, float, str, bytes, bool, type(None), complex, bytearray, type(...)})
"""Built-in types whose instances contain no other objects."""

_SCALARS = frozenset(map(id, (int, float, str, bool)))
"""The types of which the items of most long maps are, by ``id``: a metaclass may define hashing and comparing in any
way. Instances of these types never change, so they need no snapshot."""

_CONTAINERS: frozenset[type] = frozenset({list, tuple, set, frozenset})
_CONTAINER_DEPTH = 3  # deeper containers are rare, and checking them would take longer than cloudpickle
# fmt: off
_NUMPY_SCALARS = frozenset({
    "bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "intc", "uintc",
    "longlong", "ulonglong", "float16", "float32", "float64", "longdouble", "complex64", "complex128", "clongdouble",
    "str_", "bytes_", "datetime64", "timedelta64",
})
# fmt: on
_FIXED_SCALARS = frozenset({"int32", "int64", "uint32", "uint64", "float32", "float64", "complex64", "complex128"})


def largest_scalar(items: Sequence[Any]) -> int | None:
    """Return how many bytes of memory the largest item has; ``None`` if there are none, or not all are scalars."""
    # At the speed of C, and only as far as the first item of another type.
    if not items or not _SCALARS.issuperset(map(id, map(type, items))):
        return None
    return max(map(sys.getsizeof, items))


def is_plain(obj: Any, depth: int = 0) -> bool:
    """Tell whether plain pickle writes an object correctly. It is ten times as fast as pywren's own picklers.

    Plain pickle also "succeeds" for objects that the reader cannot import. So an object qualifies only if it is known
    to refer to none of the user's classes or functions.
    """
    kind = type(obj)
    if type(kind) is not type:
        return False  # its metaclass may define comparing and hashing in any way
    if kind in ATOMS:
        return True
    if kind in _CONTAINERS:
        return _holds_plain(obj, depth)
    if kind is dict:
        return _holds_plain(obj, depth) and _holds_plain(obj.values(), depth)
    if kind.__module__ != "numpy" or depth:
        return False
    if kind.__name__ == "ndarray":
        return not obj.dtype.hasobject and obj.dtype.metadata is None
    return kind.__name__ in _NUMPY_SCALARS


def _holds_plain(items: Iterable[Any], depth: int) -> bool:
    """Tell whether all items of a container are plain. If all are numbers or strings, only their types are checked."""
    try:
        others = set(map(type, items)) - ATOMS
    except TypeError:  # a metaclass whose classes have no hash
        return False
    if not others:
        return True
    if depth >= _CONTAINER_DEPTH or not all(kind in _CONTAINERS or kind is dict for kind in others):
        return False
    return all(is_plain(item, depth + 1) for item in items if type(item) not in ATOMS)


@functools.cache
def scalar_template(kind: type) -> tuple[bytes, bytes] | None:
    """Return the bytes before and after the value in the pickle of a numpy scalar; ``None`` for other types.

    numpy takes 13 µs to pickle a scalar; joining these parts takes 2 µs (``benchmarks/local.py --only scalars``). Maps
    over ``numpy.linspace`` have thousands of scalars.
    """
    if kind.__name__ not in _FIXED_SCALARS:
        return None
    import numpy as np

    value = bytes(range(101, 101 + np.dtype(kind).itemsize))
    before, found, after = pickle.dumps(np.frombuffer(value, dtype=kind)[0], PROTOCOL).partition(value)
    return (before, after) if found and value not in after else None
