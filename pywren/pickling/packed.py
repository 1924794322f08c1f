"""``Packed``: one pickled object. Uses plain pickle if that suffices, and pywren's own picklers otherwise.

cloudpickle and tblib are imported on first use, so that ``import pywren`` loads neither.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, NoReturn, overload

from pywren.exceptions import ResultSerializationError, SerializationError
from pywren.pickling import large_pickles
from pywren.pickling.format import NAMES_FOLLOW, PROTOCOL, PersistentId
from pywren.pickling.mentions import Mentions
from pywren.pickling.plain_values import ATOMS, is_plain, largest_scalar, scalar_template
from pywren.pickling.remote_errors import text_of

OUT_OF_BAND_MIN = 64 * 1024
"""The smallest buffer, in bytes, to keep out of the pickle. Smaller ones cost less to copy than to send separately."""

_LARGEST_SCALAR = 4096  # bytes of memory; bigger items are few, and pickling them twice would take long

# Saved before any of the user's code can replace them.
_plain_dumps, _plain_loads = pickle.dumps, pickle.loads


class Packed(NamedTuple):
    """One pickled object; a tuple for speed, because a map makes tens of thousands of them.

    Args:
        data: the pickle; if there are ``buffers``, it can be read only together with them (PEP 574).
        buffers: the out-of-band buffers in order, which are views of the memory of the objects that were pickled.
    """

    data: bytes
    buffers: tuple[pickle.PickleBuffer, ...] = ()

    @property
    def size(self) -> int:
        """The size of the pickle and its buffers together, in bytes."""
        size = len(self.data)
        return size + sum(buffer.raw().nbytes for buffer in self.buffers) if self.buffers else size


class Scalars(Sequence[Packed]):
    """Numbers and strings, each of which is pickled when it is taken.

    Long maps have items of these types. Code that needs no pickles takes the ``values`` instead.

    Args:
        values: the numbers and strings. The list must not change.
        largest: how many bytes of memory the largest of them has.
    """

    def __init__(self, values: list[Any], largest: int) -> None:
        self.values = values
        self.largest = largest

    @classmethod
    def of(cls, items: list[Any]) -> Scalars | None:
        """Return the items as scalars, or ``None`` if some of them are of another type or big."""
        largest = largest_scalar(items)
        return None if largest is None or largest > _LARGEST_SCALAR else cls(items, largest)

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Packed: ...

    @overload
    def __getitem__(self, index: slice) -> Scalars: ...

    def __getitem__(self, index: int | slice) -> Packed | Scalars:
        if isinstance(index, slice):
            return Scalars(self.values[index], self.largest)
        return Packed(_plain_dumps(self.values[index], PROTOCOL))


def size_of(packed: Sequence[Packed]) -> int:
    """Return the size of pickled objects together, in bytes; of scalars, the size of one pickle of them all."""
    if not isinstance(packed, Scalars):
        return sum([one.size for one in packed])
    counter = _Counter()
    pickler = pickle.Pickler(counter, PROTOCOL)
    pickler.fast = True  # an item that is there twice counts twice
    pickler.dump(packed.values)
    return counter.size


class _Counter:
    """A file that counts what is written to it. The pickler writes pieces, so the pickle is never all in memory."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        return len(data)


# -- writing -------------------------------------------------------------------------------------------------


def dump(
    obj: Any,
    *,
    out_of_band: bool = False,
    persistent_id: PersistentId | None = None,
    references: bool = True,
    mentions: Mentions | None = None,
    returned: bool = False,
) -> Packed:
    """Pickle an object. Exceptions propagate unchanged; ``dumps`` explains them.

    Args:
        obj: the object.
        out_of_band: keep big buffers out of the pickle, as views of the object's own memory.
        persistent_id: returns what to send in place of a future.
        references: whether futures may become references. If not, only finished futures are sent, by value. Such a
            pickle is faster to write, and ``loads`` can read it.
        mentions: receives what the pickle mentions.
        returned: whether the reader is the client that made the call. If so, unpickling does not change the reader's
            classes.
    """
    kind: Any = type(obj)  # Any, because mypy does not treat type as hashable
    if type(kind) is type and kind in ATOMS:
        return Packed(_plain_dumps(obj, PROTOCOL))
    if kind.__module__ == "numpy":
        if mentions is not None:
            mentions.modules.add("numpy")
        template = scalar_template(kind)
        if template is not None:
            return Packed(template[0] + obj.tobytes() + template[1])
    buffers: list[pickle.PickleBuffer] = []
    callback = _collector(buffers) if out_of_band else None
    if is_plain(obj):
        return Packed(_plain_dumps(obj, PROTOCOL, buffer_callback=callback), tuple(buffers))
    with io.BytesIO() as file:
        ours = picklers()
        pickler = (ours.FuturesPickler if persistent_id and references else ours.UserPickler)(file, callback)
        pickler.future_id = persistent_id
        pickler.mentions = mentions
        pickler.state.returned = returned
        pickler.dump(obj)
        if mentions is not None:
            names = pickler.state.names
            if names:
                pickler.dump(ours.outermost(names))  # a second pickle; it shares the first one's memo, so it is small
                file.write(NAMES_FOLLOW)
            mentions.hinted |= pickler.state.hinted
        return Packed(file.getvalue(), tuple(buffers))


def dumps(
    obj: Any,
    *,
    out_of_band: bool = False,
    path: str = "",
    persistent_id: PersistentId | None = None,
    references: bool = True,
    mentions: Mentions | None = None,
) -> Packed:
    """Pickle an object.

    Args:
        obj: the object.
        out_of_band: keep big buffers out of the pickle, as views of the object's own memory.
        path: what the object is, for the error message, such as ``argument 3``.
        persistent_id: returns what to send in place of a future.
        references: whether futures may become references; if not, only finished futures are sent, by value.
        mentions: receives what the pickle mentions.

    Raises:
        SerializationError: part of it cannot be pickled; the message names that part and where it is.
    """
    try:
        return dump(obj, out_of_band=out_of_band, persistent_id=persistent_id, references=references, mentions=mentions)
    except Exception as error:  # noqa: BLE001 - __reduce__ of the user's classes may raise anything
        raise_unpicklable(obj, error, path, persistent_id=persistent_id)


def raise_unpicklable(obj: Any, error: Exception, path: str, *, persistent_id: PersistentId | None = None) -> NoReturn:
    """Raise the ``SerializationError`` that explains why an object could not be pickled.

    Args:
        obj: the object.
        error: what pickling it raised; becomes the cause.
        path: what the object is, such as ``argument 3``.
        persistent_id: the function that was in use when pickling failed.
    """
    from pywren.pickling.explain import explain

    where, why = explain(
        obj, error, path or f"the {type(obj).__name__}", functools.partial(dump, persistent_id=persistent_id)
    )
    raise SerializationError(f"{where}: {why}", path=where) from error


def dump_result(value: Any, *, out_of_band: bool = False) -> Packed:
    """Pickle what the user's function returned.

    Raises:
        ResultSerializationError: part of it cannot be pickled; the message names its type and where it is.
    """
    try:
        return dump(value, out_of_band=out_of_band, returned=True)
    except Exception as error:  # noqa: BLE001 - __reduce__ of the user's classes may raise anything
        _raise_unreturnable(value, error)


def _raise_unreturnable(value: Any, cause: Exception) -> NoReturn:
    from pywren.pickling.explain import explain

    where, why = explain(value, cause, "result", functools.partial(dump, returned=True), returned=True)
    raise ResultSerializationError(f"the result of the function cannot be sent back: {where}: {why}") from cause


def _collector(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    """Return a ``buffer_callback`` for pickle that keeps big buffers out of the pickle."""

    def collect(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < OUT_OF_BAND_MIN:
            return True  # pickle this buffer in band
        buffers.append(buffer)
        return False

    return collect


@functools.cache
def picklers() -> ModuleType:
    """Return ``pywren.pickling.pickler``, which loads cloudpickle on first use."""
    from pywren.pickling import pickler

    return pickler


def in_band(packed: Packed) -> bytes:
    """Return a pickled object and its out-of-band buffers as one pickle, without unpickling them."""
    return _plain_dumps(_Joined(packed), PROTOCOL) if packed.buffers else packed.data


class _Joined:
    """An object that is pickled as a call of ``pickle.loads(data, buffers=…)``, which can be read without pywren."""

    def __init__(self, packed: Packed) -> None:
        self._packed = packed

    def __reduce__(self) -> tuple[Any, ...]:
        buffers = []
        for buffer in self._packed.buffers:
            with buffer.raw() as view:
                buffers.append(bytes(view) if view.readonly else bytearray(view))
        return functools.partial(pickle.loads, buffers=buffers), (self._packed.data,)


# -- reading -------------------------------------------------------------------------------------------------


def loads(packed: Packed) -> Any:
    """Unpickle an object. Exceptions that the object's own code raises propagate."""
    if len(packed.data) >= large_pickles.LEAST:
        return large_pickles.loads(packed.data, packed.buffers)
    return _plain_loads(packed.data, buffers=packed.buffers)


def load_result(
    packed: Packed,
    *,
    call_id: str | None = None,
    callset_id: str | None = None,
) -> Any:
    """Unpickle a result in the client.

    Args:
        packed: the result; it must have been verified.
        call_id: the call, for the error message.
        callset_id: the callset of the call.

    Raises:
        ResultSerializationError: unpickling raised an exception, exited or recursed too deeply.
    """
    try:
        return loads(packed)
    except KeyboardInterrupt:
        raise  # the user's own Ctrl-C
    except BaseException as error:  # a SystemExit that the result's own code raises must not end the client
        raise not_loaded(f"the result of call {call_id}", error, call_id=call_id, callset_id=callset_id) from error


def not_loaded(what: str, problem: BaseException, **call: Any) -> ResultSerializationError:
    """Return the error for a result or an exception that the client cannot unpickle.

    Args:
        what: the result or exception, as the subject of the message.
        problem: what unpickling raised; the caller makes it the cause of the error.
        **call: ``call_id``, ``callset_id`` and ``status``.
    """
    said = f"{what} cannot be unpickled here: {type(problem).__name__}: {text_of(problem)}"
    return ResultSerializationError(said, **call)
