"""Built-in objects that ``pickle`` refuses, or looks up by a name that exists only in the client's script."""

from __future__ import annotations

import functools
import gc
import sys
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from pywren.pickling.by_value._pickle_state import is_importable

CachedFunction: Any = type(functools.lru_cache(lambda: None))


# -- functools.lru_cache -------------------------------------------------------------------------------------


def reduce_cached(cached: Any) -> Any:
    """Return how a pickle rebuilds a cached function. The new cache has the same maximum size, and is empty."""
    if is_importable(cached):
        return NotImplemented
    state = cached.__wrapped__, dict(vars(cached))
    return make_cached, tuple(cached.cache_parameters().values()), state, None, None, fill_cached


def make_cached(maxsize: int | None, typed: bool) -> Any:
    """Make a cached function. Its inner function is set later, because it may refer to the cached function."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return cached.__wrapped__(*args, **kwargs)

    cached = functools.lru_cache(maxsize=maxsize, typed=typed)(call)
    return cached


def fill_cached(cached: Any, state: tuple[Any, dict[str, Any]]) -> None:
    """Give a cached function its inner function and attributes."""
    function, attributes = state
    functools.update_wrapper(cached, function)
    vars(cached).update(attributes)


# -- descriptors of classes ----------------------------------------------------------------------------------


def reduce_property(prop: property) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a property, or an object of a user's subclass of ``property``."""
    state = (prop.fget, prop.fset, prop.fdel, prop.__doc__), _own_attributes(prop)
    return new_by, (property, type(prop)), state, None, None, fill_property


def reduce_method(method: Any) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a class method, a static method, or an object of a user's subclass of these."""
    native = classmethod if isinstance(method, classmethod) else staticmethod
    return new_by, (native, type(method)), (native, method.__func__, _own_attributes(method)), None, None, fill_method


def _own_attributes(descriptor: Any) -> dict[str, Any] | None:
    # Attributes that the function also has were copied from the function.
    own = dict(getattr(descriptor, "__dict__", {}))
    function = getattr(descriptor, "__func__", None)
    for name in (*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", "__annotate__", "__annotations__"):
        if function is not None:
            own.pop(name, None)
    return own or None


def new_by(native: Any, kind: Any) -> Any:
    """Make an empty object of a class with the constructor of the built-in type that the class extends."""
    return native.__new__(kind)


def fill_property(prop: Any, state: tuple[Any, ...]) -> None:
    """Give a property its functions and attributes."""
    functions, attributes = state
    property.__init__(prop, *functions)
    if attributes:
        vars(prop).update(attributes)


def fill_method(method: Any, state: tuple[Any, ...]) -> None:
    """Give a class method or static method its function and attributes."""
    native, function, attributes = state
    native.__init__(method, function)
    if attributes:
        vars(method).update(attributes)


def reduce_cached_property(prop: Any) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a cached property. Before Python 3.12, it contains a lock that cannot be pickled."""
    kind = type(prop)
    attributes = {name: value for name, value in vars(prop).items() if name not in ("lock", "func")}
    return make_cached_property, (kind,), (prop.func, attributes), None, None, fill_cached_property


def make_cached_property(kind: Any) -> Any:
    """Make a cached property whose function is set later."""
    return kind(make_cached_property)


def fill_cached_property(prop: Any, state: tuple[Any, dict[str, Any]]) -> None:
    """Give a cached property its function and attributes."""
    prop.func, attributes = state
    vars(prop).update(attributes)


# -- weak references -----------------------------------------------------------------------------------------


def reduce_weak_dictionary(weak: Any) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a dictionary with weak keys or values."""
    return type(weak), (), _attributes(weak), None, iter(list(weak.items()))


def _attributes(weak: Any) -> dict[str, Any] | None:
    own = {"data", "_remove", "_pending_removals", "_iterating", "_dirty_len"}
    return {name: value for name, value in vars(weak).items() if name not in own} or None


def reduce_reference(reference: Any) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a weak reference. The new reference is dead unless the reader keeps the object."""
    target = reference()
    return (make_dead_reference, ()) if target is None else (type(reference), (target,))


def make_dead_reference() -> weakref.ref[Any]:
    """Return a weak reference to an object that no longer exists."""
    return weakref.ref(set())


def reduce_weak_method(reference: weakref.WeakMethod[Any]) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a weak reference to a method."""
    target = reference()
    return (make_dead_reference, ()) if target is None else (weakref.WeakMethod, (target,))


def reduce_proxy(proxy: Any) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a weak proxy."""
    return weakref.proxy, (proxy.__repr__.__self__,)


# -- other objects -------------------------------------------------------------------------------------------


def reduce_mapping_proxy(proxy: types.MappingProxyType[Any, Any]) -> tuple[Any, ...]:
    """Return how a pickle rebuilds a read-only view. If its dictionary is sent too, the view shows that dictionary."""
    seen = [held for held in gc.get_referents(proxy) if isinstance(held, Mapping)]
    return types.MappingProxyType, (seen[0] if seen else dict(proxy),)


@functools.cache
def _dataclass_marks() -> dict[int, str]:
    """Return the names of the markers that ``dataclasses`` compares by identity, keyed by the ``id`` of the marker."""
    import dataclasses

    return {
        id(value): name for name, value in vars(dataclasses).items() if type(value).__module__ == dataclasses.__name__
    }


def reduce_dataclass_mark(obj: Any) -> Any:
    """Return the name by which pickle finds a marker of ``dataclasses``, such as ``MISSING``."""
    name = _dataclass_marks().get(id(obj)) if "dataclasses" in sys.modules else None
    return NotImplemented if name is None else name


_REDUCERS: Mapping[Any, Callable[[Any], Any]] = {
    CachedFunction: reduce_cached,
    functools.cached_property: reduce_cached_property,
    property: reduce_property,
    classmethod: reduce_method,
    staticmethod: reduce_method,
    weakref.WeakKeyDictionary: reduce_weak_dictionary,
    weakref.WeakValueDictionary: reduce_weak_dictionary,
    weakref.ReferenceType: reduce_reference,
    weakref.WeakMethod: reduce_weak_method,
    weakref.ProxyType: reduce_proxy,
    weakref.CallableProxyType: reduce_proxy,
    types.MappingProxyType: reduce_mapping_proxy,
}
_BY_IDENTITY = {id(kind): reducer for kind, reducer in _REDUCERS.items()}  # by id: metaclasses may redefine equality
_EXACT = frozenset({id(weakref.ReferenceType), id(types.MappingProxyType)})
_REDUCTIONS = ("__reduce__", "__reduce_ex__", "__getstate__")


def reducer_of(kind: type) -> Callable[[Any], Any] | None:
    """Return the reducer for objects of a class or one of its bases; ``None`` if this module has none."""
    for base in kind.__mro__:
        reducer = _BY_IDENTITY.get(id(base))
        if reducer is not None:
            return reducer if base is kind or id(base) not in _EXACT else None
        if base is not object and any(name in vars(base) for name in _REDUCTIONS):
            return None  # the class defines how to pickle it
    return None
