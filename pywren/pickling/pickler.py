"""``UserPickler`` and ``FuturesPickler``: cloudpickle as pywren uses it.

No module imports this one at load time, because cloudpickle is slow to import. ``packed.picklers`` imports it for the
first object that plain pickle cannot write.
"""

from __future__ import annotations

import io
import pickle
import types
from typing import Any

import cloudpickle

from pywren.pickling.by_value import reducers
from pywren.pickling.format import FUTURE, PROTOCOL, VALUE, Names, PersistentId, ValuePlace
from pywren.pickling.handmade import name_here
from pywren.pickling.mentions import Mentions
from pywren.pickling.remote_errors import (
    Chain,
    closed_stream,
    frames_of,
    is_open_elsewhere,
    make_traceback,
    reduce_exception,
)

_FUNCTION_PARTS: frozenset[Any] = frozenset(
    {types.FunctionType, types.CodeType, types.CellType, types.BuiltinFunctionType, types.ModuleType, type}
)
"""Exact types that need no special handling. Most objects in a pickled function have one of them."""


class UserPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle with pywren's own reductions of functions, classes, exceptions and futures.

    One pickler may write several pickles, which share its memo. Only one thread may use it.

    Args:
        file: receives the pickle.
        buffer_callback: receives out-of-band buffers (PEP 574).
    """

    mentions: Mentions | None = None  # collects what the reader must import
    future_id: PersistentId | None = None
    chain: Chain | None = None  # for exceptions: remembers them, so that their causes are pickled afterwards

    def __init__(self, file: io.BytesIO, buffer_callback: Any = None) -> None:
        super().__init__(file, protocol=PROTOCOL, buffer_callback=buffer_callback)
        self.state = reducers.PickleState()
        self.usual: set[int] = set()  # ids of types whose instances pickle reduces without pywren

    def reducer_override(self, obj: Any) -> Any:
        """Return an object's reduction, or ``NotImplemented`` to leave it to pickle. Called for every object."""
        kind: Any = type(obj)
        if id(kind) in self.usual:
            return NotImplemented
        if kind is types.FunctionType and reducers.is_own(obj):
            return NotImplemented  # pickled by reference, like most objects in a pickled function
        is_part = type(kind) is type and kind in _FUNCTION_PARTS
        reduced = NotImplemented if is_part else self.reduce_special(obj)
        if reduced is not NotImplemented:
            return reduced
        reduced = reducers.reduce(obj, self.state)
        if reduced is NotImplemented and kind is not types.FunctionType:
            reduced = super().reducer_override(obj)
        if self.mentions is not None and kind is not types.CodeType and kind is not types.CellType:
            self.note(self.mentions, obj, by_reference=reducers.is_by_name(reduced))
        if reduced is NotImplemented and reducers.is_usual(kind, self.state):  # so the object is not a future either
            self.usual.add(id(kind))
        return reduced

    def note(self, mentions: Mentions, obj: Any, *, by_reference: bool) -> None:
        """Record what the reader must import for an object, or the name under which it must find the object."""
        mentions.note(obj, by_reference=by_reference)
        name = None if by_reference else name_here(obj)
        if name is not None:
            self.state.names[name] = obj

    def reduce_special(self, obj: Any) -> Any:
        """Reduce futures, exceptions, tracebacks and streams."""
        place = None if self.future_id is None else self.future_id(obj)
        if place is not None and not isinstance(place, int):
            return place.__reduce__()
        if isinstance(obj, BaseException):
            return reduce_exception(obj) if self.chain is None else self.chain.reduce(obj)
        if isinstance(obj, types.TracebackType):
            return make_traceback, (frames_of(obj),)
        if isinstance(obj, reducers.STREAM):
            if self.chain is not None and is_open_elsewhere(obj):
                return closed_stream, ()
            if isinstance(obj, io.TextIOWrapper):
                _refuse_file(obj)  # cloudpickle would send a copy of the contents
        return NotImplemented


class FuturesPickler(UserPickler):
    """A ``UserPickler`` for pickles in which futures may be references.

    It is a separate class because pickle calls ``persistent_id`` for every object.
    """

    def persistent_id(self, obj: Any) -> Any:
        """Return the persistent id of a future that becomes a reference; ``None`` for any other object."""
        place = None if self.future_id is None else self.future_id(obj)
        if not isinstance(place, int):
            return None
        # A plain int, because the reader's pickle module would look up any other class by its name.
        mark = VALUE if isinstance(place, ValuePlace) else FUTURE
        return mark, int(place), getattr(obj, "callset_id", None), getattr(obj, "call_id", None)


def _refuse_file(file: io.TextIOWrapper) -> None:
    """Refuse an open file. The standard streams are allowed, because every process has them."""
    if is_open_elsewhere(file):
        raise pickle.PicklingError("cannot pickle an open file: send its path or its contents")


def outermost(names: Names) -> Names:
    """Leave out objects that are found inside others, such as the methods of a class that is sent too."""
    return {
        (module, name): value
        for (module, name), value in names.items()
        if "." not in name or (module, name.partition(".")[0]) not in names
    }
