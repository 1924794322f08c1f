"""Pickling that both sides share: plain pickle where it suffices, else cloudpickle; exceptions with their traceback.

cloudpickle and tblib are imported on first need, so that ``import pywren`` loads neither.
"""

from __future__ import annotations

import functools
import io
import pickle
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from pywren.exceptions import ResultSerializationError, SerializationError
from pywren.pickling.handmade import name_here
from pywren.pickling.remote_errors import (
    Chain,
    add_remote_text,
    closed_stream,
    cut_text,
    format_error,
    frames_of,
    is_open_elsewhere,
    lacks_source,
    make_traceback,
    raised_before,
    reduce_exception,
    set_link,
    text_of,
)

PROTOCOL = 5
OUT_OF_BAND_MIN = 64 * 1024
"""Bytes of a buffer from which on it is worth keeping out of the pickle."""

# as they were before any user's code replaced them
_plain_dumps, _plain_loads, _PlainUnpickler = pickle.dumps, pickle.loads, pickle.Unpickler
_FUTURE = "pywren-future"

NAMES_FOLLOW = b"pywren-names"
"""The end of the data of a pickle that a second one follows: names of what travels in it by value."""

Names = dict[tuple[str, str], Any]
"""What travels by value, by its module and its qualified name; a module itself has no name."""
_MAX_STAND_IN = 8 * 1024


class Packed(NamedTuple):
    """One pickled object; a tuple, because maps make tens of thousands of them.

    Args:
        data: the pickle. With ``buffers`` it can be read only together with them (PEP 574).
        buffers: the out-of-band buffers, in order; still views of the owner's memory.
    """

    data: bytes
    buffers: tuple[pickle.PickleBuffer, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the pickle and of the buffers together."""
        size = len(self.data)
        return size + sum(buffer.raw().nbytes for buffer in self.buffers) if self.buffers else size


class Mentions:
    """What pickles mention and the reader must be able to import.

    Args:
        modules: names of modules that something is looked up in by reference.
        code: code of the functions pickled by value, with the package their relative imports start from.

    ``hinted`` has the names of modules that string annotations name: the reader can do without them.
    """

    def __init__(self, modules: Iterable[str] = (), code: Mapping[types.CodeType, str] | None = None) -> None:
        self.modules: set[str] = set(modules)
        self.hinted: set[str] = set()
        self.code: dict[types.CodeType, str] = dict(code or {})

    def add(self, others: Mentions) -> None:
        """Take what other pickles mention."""
        self.modules |= others.modules
        self.hinted |= others.hinted
        self.code.update(others.code)


# -- writing -------------------------------------------------------------------------------------------------

PersistentId = Callable[[Any], "int | FinishedFuture | None"]
"""Says what travels in place of a future: the index of a reference, a finished future by value, or ``None``
for everything that is no future."""

_ATOMS: frozenset[type] = frozenset({int, float, str, bytes, bool, type(None), complex, bytearray, type(...)})
_CONTAINERS: frozenset[type] = frozenset({list, tuple, set, frozenset})
_CONTAINER_DEPTH = 3
_PARTS_OF_FUNCTIONS: frozenset[Any] = frozenset(
    {types.FunctionType, types.CodeType, types.CellType, types.BuiltinFunctionType, types.ModuleType, type}
)
# fmt: off
_NUMPY_SCALARS = frozenset({
    "bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "intc", "uintc",
    "longlong", "ulonglong", "float16", "float32", "float64", "longdouble", "complex64", "complex128", "clongdouble",
    "str_", "bytes_", "datetime64", "timedelta64",
})
# fmt: on
_FIXED_SCALARS = frozenset({"int32", "int64", "uint32", "uint64", "float32", "float64", "complex64", "complex128"})


def _is_plain(obj: Any, depth: int = 0) -> bool:
    # plain pickle also "succeeds" for what the reader cannot import: only what is known not to refer to
    # anything of the user's may take this way
    kind = type(obj)
    if type(kind) is not type:
        return False  # its metaclass may compare and hash as it likes
    if kind in _ATOMS:
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
    try:
        others = set(map(type, items)) - _ATOMS
    except TypeError:  # from a metaclass whose classes have no hash
        return False
    if not others:
        return True
    if depth >= _CONTAINER_DEPTH or not all(kind in _CONTAINERS or kind is dict for kind in others):
        return False
    return all(_is_plain(item, depth + 1) for item in items if type(item) not in _ATOMS)


def dump(
    obj: Any,
    *,
    out_of_band: bool = False,
    persistent_id: PersistentId | None = None,
    references: bool = True,
    mentions: Mentions | None = None,
    returned: bool = False,
) -> Packed:
    """Pickle an object, letting whatever goes wrong through as it is: ``dumps`` explains it.

    Args:
        obj: the object.
        out_of_band: keep big buffers out of the pickle, as views of the object's own memory.
        persistent_id: says which objects are futures and what they stand for.
        references: whether futures may become references; without, only finished ones by value, which is quicker
            to find out and needs no ``load_argument``.
        mentions: takes what the pickle mentions.
        returned: whether the reader is the client that the call came from, whose own classes stay as they are.
    """
    kind: Any = type(obj)  # Any, because mypy does not take type for hashable
    if type(kind) is type and kind in _ATOMS:
        return Packed(_plain_dumps(obj, PROTOCOL))
    if kind.__module__ == "numpy":
        if mentions is not None:
            mentions.modules.add("numpy")
        template = _scalar_template(kind)
        if template is not None:
            return Packed(template[0] + obj.tobytes() + template[1])
    buffers: list[pickle.PickleBuffer] = []
    callback = _collector(buffers) if out_of_band else None
    if _is_plain(obj):
        return Packed(_plain_dumps(obj, PROTOCOL, buffer_callback=callback), tuple(buffers))
    with io.BytesIO() as file:
        pickler_class, futures_pickler_class = _pickler_classes()
        pickler = (futures_pickler_class if persistent_id and references else pickler_class)(file, callback)
        pickler.future_id = persistent_id
        pickler.mentions = mentions
        pickler.state.returned = returned
        pickler.dump(obj)
        if mentions is not None:
            names = pickler.state.names
            if names:
                pickler.dump(_outermost(names))  # a second pickle, with the first one's memo: it holds but names
                file.write(NAMES_FOLLOW)
            mentions.hinted |= pickler.state.hinted
        return Packed(file.getvalue(), tuple(buffers))


@functools.cache
def _scalar_template(kind: type) -> tuple[bytes, bytes] | None:
    """Return what stands before and after the value in the pickle of a numpy scalar of this type.

    numpy takes 4 µs to pickle a scalar, of which only the value differs; maps over ``linspace`` have many.
    """
    if kind.__name__ not in _FIXED_SCALARS:
        return None
    import numpy as np

    value = bytes(range(101, 101 + np.dtype(kind).itemsize))
    before, found, after = pickle.dumps(np.frombuffer(value, dtype=kind)[0], PROTOCOL).partition(value)
    return (before, after) if found and value not in after else None


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
        path: what the object is, for the error: ``argument 3``.
        persistent_id: says which objects are futures and what they stand for.
        references: whether futures may become references; without, only finished ones by value.
        mentions: takes what the pickle mentions.

    Raises:
        SerializationError: something in it cannot be pickled; names it and says where it sits.
    """
    try:
        return dump(obj, out_of_band=out_of_band, persistent_id=persistent_id, references=references, mentions=mentions)
    except Exception as error:  # noqa: BLE001 - __reduce__ of the user's classes may raise anything
        raise_unpicklable(obj, error, path, persistent_id=persistent_id)


def raise_unpicklable(obj: Any, error: Exception, path: str, *, persistent_id: PersistentId | None = None) -> NoReturn:
    """Raise the ``SerializationError`` that explains why an object did not pickle.

    Args:
        obj: the object.
        error: what pickling it raised; becomes the cause.
        path: what the object is: ``argument 3``.
        persistent_id: says which objects are futures, as it did when pickling failed.
    """
    from pywren.pickling.explain import explain

    where, why = explain(
        obj, error, path or f"the {type(obj).__name__}", functools.partial(dump, persistent_id=persistent_id)
    )
    raise SerializationError(f"{where}: {why}", path=where) from error


def dump_result(value: Any, *, out_of_band: bool = False) -> Packed:
    """Pickle what the user's function returned.

    Raises:
        ResultSerializationError: something in it cannot be pickled; names its type and where it sits.
    """
    try:
        return dump(value, out_of_band=out_of_band, returned=True)
    except Exception as error:  # noqa: BLE001 - __reduce__ of the user's classes may raise anything
        _raise_unreturnable(value, error)


def _raise_unreturnable(value: Any, cause: Exception) -> NoReturn:
    from pywren.pickling.explain import explain

    where, why = explain(value, cause, "result", functools.partial(dump, returned=True), returned=True)
    raise ResultSerializationError(f"the result of the function cannot be brought back: {where}: {why}") from cause


def _collector(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    def collect(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < OUT_OF_BAND_MIN:
            return True  # pickle it in band
        buffers.append(buffer)
        return False

    return collect


@functools.cache
def _pickler_classes() -> tuple[Any, Any]:
    import cloudpickle

    from pywren.pickling.by_value import reducers

    class UserPickler(cloudpickle.Pickler):  # type: ignore[misc]
        """cloudpickle that makes functions and classes anew in our way, and knows exceptions and futures.

        It notes what the reader must be able to import.
        """

        mentions: Mentions | None = None
        future_id: PersistentId | None = None
        chain: Chain | None = None  # in it, exceptions bring what they were raised from

        def __init__(self, file: io.BytesIO, buffer_callback: Any = None) -> None:
            super().__init__(file, protocol=PROTOCOL, buffer_callback=buffer_callback)
            self.state = reducers.PickleState()
            self.usual: set[int] = set()  # types whose instances are left to pickle, by identity

        def reducer_override(self, obj: Any) -> Any:
            kind: Any = type(obj)
            if id(kind) in self.usual:
                return NotImplemented
            if kind is types.FunctionType and reducers.is_own(obj):
                return NotImplemented  # by reference: most of the objects in a pickled function are these
            is_part = type(kind) is type and kind in _PARTS_OF_FUNCTIONS
            reduced = NotImplemented if is_part else self.reduce_special(obj)
            if reduced is not NotImplemented:
                return reduced
            reduced = reducers.reduce(obj, self.state)
            if reduced is NotImplemented and kind is not types.FunctionType:
                reduced = super().reducer_override(obj)
            if self.mentions is not None and kind is not types.CodeType and kind is not types.CellType:
                self.note(self.mentions, obj, by_reference=reducers.is_by_name(reduced))
            if reduced is NotImplemented and reducers.is_usual(kind, self.state):  # and it is no future either
                self.usual.add(id(kind))
            return reduced

        def note(self, mentions: Mentions, obj: Any, *, by_reference: bool) -> None:
            """Note what the reader must import for an object, or by which name it is to find it."""
            _note(mentions, obj, by_reference=by_reference)
            name = None if by_reference else name_here(obj)
            if name is not None:
                self.state.names[name] = obj

        def reduce_special(self, obj: Any) -> Any:
            """Reduce futures, exceptions and tracebacks."""
            place = None if self.future_id is None else self.future_id(obj)
            if isinstance(place, FinishedFuture):
                return place.__reduce__()
            if isinstance(obj, BaseException):
                return reduce_exception(obj) if self.chain is None else self.chain.reduce(obj)
            if isinstance(obj, types.TracebackType):
                return make_traceback, (frames_of(obj),)
            if isinstance(obj, reducers.STREAM):
                if self.chain is not None and is_open_elsewhere(obj):
                    return closed_stream, ()
                if isinstance(obj, io.TextIOWrapper):
                    _refuse_file(obj)  # cloudpickle would send a copy of its contents
            return NotImplemented

    class FuturesPickler(UserPickler):
        """The same, where futures may become references."""

        def persistent_id(self, obj: Any) -> Any:
            place = None if self.future_id is None else self.future_id(obj)
            if not isinstance(place, int):
                return None
            return _FUTURE, place, getattr(obj, "callset_id", None), getattr(obj, "call_id", None)

    return UserPickler, FuturesPickler


def _refuse_file(file: io.TextIOWrapper) -> None:
    if is_open_elsewhere(file):
        raise pickle.PicklingError("cannot pickle an open file: send its path, or what it holds")


def _outermost(names: Names) -> Names:
    """Leave out what is found in something else that is there: the methods of a class."""
    return {
        (module, name): value
        for (module, name), value in names.items()
        if "." not in name or (module, name.partition(".")[0]) not in names
    }


def _note(mentions: Mentions, obj: Any, *, by_reference: bool) -> None:
    if isinstance(obj, types.FunctionType) and not by_reference:
        mentions.code[obj.__code__] = _package_of(obj.__globals__)
        return
    if not by_reference:
        return
    if isinstance(obj, types.ModuleType):
        module: Any = obj.__name__
    else:
        named = isinstance(obj, (type, types.FunctionType, types.BuiltinFunctionType))
        # an instance may reduce to a bare name, which is looked up in its class's module
        module = (obj if named else type(obj)).__module__
    if isinstance(module, str) and module != "builtins":
        mentions.modules.add(module)


def _package_of(namespace: Mapping[str, Any]) -> str:
    package = namespace.get("__package__")
    if package is None:
        name = str(namespace.get("__name__") or "")
        package = name if "__path__" in namespace else name.rpartition(".")[0]
    return str(package)


# -- reading -------------------------------------------------------------------------------------------------


def loads(packed: Packed) -> Any:
    """Unpickle an object; what its own code raises comes through."""
    return _plain_loads(packed.data, buffers=packed.buffers)


def load_argument(packed: Packed, references: Sequence[bytes] = ()) -> Any:
    """Unpickle the argument of a call, on the worker.

    Args:
        packed: the argument.
        references: encoded outcomes of earlier calls; a future among the argument is one of them.
    """
    return _ArgumentUnpickler(packed, references).load()


def load_with_names(packed: Packed, references: Sequence[bytes] = ()) -> tuple[Any, Names]:
    """Unpickle a function or an argument, on the worker, and what is to be found by name there.

    Args:
        packed: the function or argument; names follow when its data ends with ``NAMES_FOLLOW``.
        references: encoded outcomes of earlier calls.
    """
    if not packed.data.endswith(NAMES_FOLLOW):
        return load_argument(packed, references) if references else loads(packed), {}
    unpickler = _ArgumentUnpickler(packed, references)
    obj = unpickler.load()
    from pywren.pickling.by_value._hints import (
        known_hints,  # here, because most workers load it only when functions need it
    )

    names: Names = unpickler.load()
    return obj, known_hints(names)


class _ArgumentUnpickler(pickle.Unpickler):
    def __init__(self, packed: Packed, references: Sequence[bytes]) -> None:
        super().__init__(io.BytesIO(packed.data), buffers=packed.buffers)
        self._references = references
        self._futures: dict[int, FinishedFuture] = {}

    def persistent_load(self, pid: Any) -> Any:
        mark, place, callset_id, call_id = pid
        if mark != _FUTURE:
            raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")
        if place not in self._futures:
            self._futures[place] = FinishedFuture(self._references[place], callset_id=callset_id, call_id=call_id)
        return self._futures[place]


def load_result(
    packed: Packed,
    *,
    call_id: str | None = None,
    callset_id: str | None = None,
    status: Mapping[str, Any] | None = None,
) -> Any:
    """Unpickle a result, in the client.

    Args:
        packed: the result, verified.
        call_id: the call, for the error.
        callset_id: its callset.
        status: its status.

    Raises:
        ResultSerializationError: unpickling raised, exited or recursed without end.
    """
    try:
        return loads(packed)
    except KeyboardInterrupt:
        raise  # the user's own Ctrl-C
    except BaseException as error:  # a SystemExit of the result's code must not end the client
        raise ResultSerializationError(
            f"the result of call {call_id} cannot be unpickled here: {type(error).__name__}: {text_of(error)}",
            call_id=call_id,
            callset_id=callset_id,
            status=status,
        ) from error


class FinishedFuture:
    """A future that has finished before the call that it is an argument of began.

    Its methods are those of ``ResponseFuture``; the outcome is unpickled when somebody asks.

    Args:
        outcome: the encoded outcome.
        callset_id: the callset of the call that it stands for.
        call_id: that call.
    """

    run_status: Mapping[str, Any] | None = None
    invoke_status: Mapping[str, Any] | None = None
    storage_path: Sequence[str] | None = None
    status_query_count = 0

    def __init__(self, outcome: bytes, *, callset_id: str | None = None, call_id: str | None = None) -> None:
        self.callset_id = callset_id
        self.call_id = call_id
        self._outcome: bytes | None = outcome
        self._loaded = False
        self._value: Any = None
        self._error: BaseException | None = None

    @classmethod
    def of_value(cls, value: Any, *, callset_id: str | None = None, call_id: str | None = None) -> FinishedFuture:
        """Make one that travels by value, from what a call returned."""
        future = cls(b"", callset_id=callset_id, call_id=call_id)
        future._settle(value, None)
        return future

    @classmethod
    def of_exception(
        cls, error: BaseException, *, callset_id: str | None = None, call_id: str | None = None
    ) -> FinishedFuture:
        """Make one that travels by value, from what a call raised."""
        future = cls(b"", callset_id=callset_id, call_id=call_id)
        future._settle(None, error)
        return future

    def __reduce__(self) -> tuple[Any, ...]:
        if self._outcome is not None:
            outcome = self._outcome
        elif self._error is None:
            return _finished_with_value, (self._value, self.callset_id, self.call_id)
        else:
            packed = dump_exception(self._error)
            body = packed.required_body().data
            from pywren.wire.outcome import Outcome  # not above: a child that is given no futures does without

            outcome = Outcome(False, body, packed.type_name, packed.text, packed.traceback).encode()
        return _finished_with_outcome, (outcome, self.callset_id, self.call_id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of call {self.call_id} of callset {self.callset_id}>"

    def _settle(self, value: Any, error: BaseException | None) -> None:
        self._value, self._error, self._loaded, self._outcome = value, error, True, None

    def _load(self) -> None:
        if self._loaded or self._outcome is None:
            return
        from pywren.wire.outcome import Outcome

        outcome = Outcome.decode(self._outcome)
        encoded, packed = self._outcome, Packed(outcome.body)
        if outcome.success:
            value = load_result(packed, call_id=self.call_id, callset_id=self.callset_id)
            self._settle(value, None)
        else:
            self._settle(None, load_exception(packed, call_id=self.call_id, callset_id=self.callset_id))
        self._outcome = encoded  # pickled again it travels as it came

    def result(
        self,
        timeout: float | None = None,
        check_only: bool = False,
        throw_except: bool = True,
        storage_handler: Any = None,
    ) -> Any:
        """Return what the call returned, or raise what it raised; the arguments are 0.4's.

        Args:
            timeout: not needed: the call has finished.
            check_only: return only that it has finished.
            throw_except: raise what the call raised; otherwise return None for it.
            storage_handler: not needed: the outcome has come along.
        """
        if check_only:
            return True
        self._load()
        if self._error is None:
            return self._value
        if not throw_except:
            return None
        try:
            raise self._error
        finally:
            self = None  # type: ignore[assignment]  # breaks the cycle between error, traceback and frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None."""
        self._load()
        return self._error

    def done(self) -> bool:
        """Tell that the call has finished."""
        return True

    def running(self) -> bool:
        """Tell that the call is not running."""
        return False

    def cancelled(self) -> bool:
        """Tell that the call was not cancelled."""
        return False

    def cancel(self, storage_handler: Any = None) -> bool:
        """Tell that a finished call cannot be cancelled."""
        return False

    def succeeded(self) -> bool:
        """Tell whether the call returned."""
        return not self.errored()

    def errored(self) -> bool:
        """Tell whether the call raised."""
        if self._outcome is not None:
            from pywren.wire.outcome import Outcome

            return not Outcome.decode(self._outcome).success
        return self._error is not None

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call a function with this future, now."""
        fn(self)


def _finished_with_value(value: Any, callset_id: str | None, call_id: str | None) -> FinishedFuture:
    return FinishedFuture.of_value(value, callset_id=callset_id, call_id=call_id)


def _finished_with_outcome(outcome: bytes, callset_id: str | None, call_id: str | None) -> FinishedFuture:
    return FinishedFuture(outcome, callset_id=callset_id, call_id=call_id)


# -- exceptions ----------------------------------------------------------------------------------------------


class PackedException(NamedTuple):
    """A pickled exception, and its description in text.

    Args:
        body: the exception; ``None`` when it cannot be brought back, then ``error`` says why.
        type_name: the name of its type.
        text: ``str`` of it.
        traceback: its formatted traceback, with what it was raised from.
        error: what the caller gets in its place, when there is no ``body``.
    """

    body: Packed | None
    type_name: str
    text: str
    traceback: str
    error: ResultSerializationError | None = None

    def required_body(self) -> Packed:
        """Return the body.

        Raises:
            ResultSerializationError: there is none.
        """
        if self.body is None:
            raise self.error or ResultSerializationError("an exception without its pickle")
        return self.body


def dump_exception(error: BaseException) -> PackedException:
    """Pickle an exception with its traceback, causes and notes, and check that it really loads again.

    Frames of pywren itself above the user's function are left out. A cause that cannot travel, or a member of a
    group, is stood in for by a ``ResultSerializationError`` that describes it. Never raises for what the exception
    does.
    """
    described = PackedException(None, type(error).__name__, text_of(error), format_error(error))
    try:
        return described._replace(body=Packed(_dump_chain(error, described.traceback)))
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # noqa: BLE001 - the exception's own code may raise anything, SystemExit too
        return described._replace(error=_unreturnable(described, problem))


def _unreturnable(described: PackedException, problem: BaseException) -> ResultSerializationError:
    return ResultSerializationError(
        f"the function raised {described.type_name}: {described.text}\n"
        f"and that exception cannot be brought back ({type(problem).__name__}: {text_of(problem)}).\n"
        f"The remote traceback:\n{described.traceback}"
    )


def _dump_chain(error: BaseException, text: str) -> bytes:
    try:
        return _dump_checked(error, text, Chain())
    except KeyboardInterrupt:
        raise
    except BaseException:
        others = raised_before(error)
        if not others:
            raise
    return _dump_checked(error, text, Chain(_stand_ins(others)))


def _stand_ins(errors: Iterable[BaseException]) -> dict[int, BaseException]:
    """Return what travels in place of those exceptions that cannot."""
    found: dict[int, BaseException] = {}
    for error in errors:
        try:
            _dump_checked(error, "", Chain(found), alone=True)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # noqa: BLE001 - as above
            found[id(error)] = ResultSerializationError(
                cut_text(
                    f"{type(error).__name__}: {text_of(error)}\n"
                    f"This exception cannot be brought back ({type(problem).__name__}: {text_of(problem)}).\n"
                    f"The remote traceback:\n{format_error(error, alone=True)}",
                    _MAX_STAND_IN,
                )
            )
    return found


def _dump_checked(error: BaseException, text: str, chain: Chain, *, alone: bool = False) -> bytes:
    with io.BytesIO() as file:
        pickler = _pickler_classes()[0](file)
        pickler.chain = chain
        pickler.state.returned = True
        pickler.dump((error, text))
        if not alone:
            for link in chain.links():
                pickler.dump(link)  # one pickle after the other, with one memory for all: none is deeper than its link
        data: bytes = file.getvalue()
    back, _ = _load_chain(data)
    if not isinstance(back, (Exception, type(error))):  # its own reduction may choose another type: a base, mostly
        raise pickle.UnpicklingError(f"it is a {type(back).__name__} after unpickling")
    return data


def _load_chain(data: bytes, lost: list[BaseException] | None = None) -> tuple[BaseException, str]:
    """Read what ``_dump_checked`` wrote.

    Args:
        data: the pickles.
        lost: takes what a link raised when it was unpickled; without, it is raised. The links after it are lost too.
    """
    file = io.BytesIO(data)
    unpickler = _PlainUnpickler(file)
    error, text = unpickler.load()
    if not isinstance(error, BaseException):
        raise pickle.UnpicklingError(f"it is a {type(error).__name__} after unpickling")
    try:
        while file.tell() < len(data):
            set_link(unpickler.load())
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        if lost is None:
            raise
        lost.append(problem)
    return error, text


def load_exception(
    packed: Packed,
    *,
    call_id: str | None = None,
    callset_id: str | None = None,
    status: Mapping[str, Any] | None = None,
) -> BaseException:
    """Unpickle an exception, in the client, so that printing it shows the remote lines.

    Where this machine lacks the source of a remote frame, or the class of a cause, the text of the remote traceback
    is put at the end of the chain of causes; the user's own causes stay.

    Args:
        packed: the exception, verified.
        call_id: the call, for the error.
        callset_id: its callset.
        status: its status.

    Returns:
        The exception, or the ``ResultSerializationError`` that says why it cannot be unpickled.
    """
    lost: list[BaseException] = []
    try:
        error, text = _load_chain(packed.data, lost)
    except KeyboardInterrupt:
        raise  # the user's own Ctrl-C
    except BaseException as problem:  # noqa: BLE001 - a SystemExit of its code must not end the client
        failure = ResultSerializationError(
            f"the exception that call {call_id} raised cannot be unpickled here: "
            f"{type(problem).__name__}: {text_of(problem)}",
            call_id=call_id,
            callset_id=callset_id,
            status=status,
        )
        failure.__cause__ = problem
        return failure
    if lost or lacks_source(error):
        add_remote_text(error, text)
    return error
