"""How exceptions and their tracebacks are sent between processes: how they are reduced and rebuilt."""

from __future__ import annotations

import builtins
import copyreg
import io
import linecache
import operator
import os
import pickle
import sys
import traceback
import types
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeAlias

from pywren.pickling.format import PROTOCOL

_MAX_FRAMES = 200
_MAX_LINKS = 2_000
"""The most exceptions of one chain, including the groups in it, to send."""
_MAX_TEXT = 64 * 1024
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not built in
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # of Python 3.11 and later

# The interpreter's own descriptors: a class may define something else under these names.
_ARGS, _CAUSE, _CONTEXT, _TRACEBACK, _SUPPRESSES = (
    vars(BaseException)[name] for name in ("args", "__cause__", "__context__", "__traceback__", "__suppress_context__")
)

Link: TypeAlias = "tuple[BaseException, BaseException | None, BaseException | None, bool]"
"""An exception, its cause, its context, and whether the context is suppressed."""


class RemoteTraceback(Exception):
    """The text of a traceback whose source lines this machine lacks. It becomes the last cause."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


# -- exceptions ----------------------------------------------------------------------------------------------


class Chain:
    """Reduces the exceptions of one pickle and remembers them, so that their causes can be pickled afterwards.

    If a cause were part of the pickle of its effect, a long chain would exceed the recursion limit, and a cause that
    cannot be pickled would make its effect fail too.

    Args:
        stand_ins: the replacements of exceptions that cannot be pickled, keyed by the ``id`` of the original.
    """

    def __init__(self, stand_ins: Mapping[int, BaseException] | None = None) -> None:
        self.met: list[BaseException] = []
        self._stand_ins = stand_ins or {}

    def reduce(self, error: BaseException) -> tuple[Any, ...]:
        """Return how the pickle rebuilds an exception. Remember the exception."""
        self.met.append(error)
        return reduce_exception(self._stand_ins.get(id(error), error))

    def links(self) -> Iterator[Link]:
        """Yield what each remembered exception was raised from. Exceptions may be added during the iteration."""
        for error in self.met:  # the list grows while the links are pickled
            if len(self.met) > _MAX_LINKS:
                return
            cause, context = _CAUSE.__get__(error), _CONTEXT.__get__(error)
            if cause is not None or context is not None:
                yield error, cause, context, _SUPPRESSES.__get__(error)


def set_link(link: Link) -> None:
    """Set the cause and the context of an exception that has been rebuilt."""
    error, cause, context, suppresses = link
    _CAUSE.__set__(error, cause)
    _CONTEXT.__set__(error, context)
    _SUPPRESSES.__set__(error, suppresses)  # set this last, because setting a cause changes it


def raised_before(error: BaseException) -> list[BaseException]:
    """Return all other exceptions that an exception was raised from or contains, innermost first."""
    found: dict[int, BaseException] = {}
    waiting = [error]
    while waiting and len(found) <= _MAX_LINKS:
        current = waiting.pop()
        if id(current) in found:
            continue
        found[id(current)] = current
        held = [*_ARGS.__get__(current), *current.__dict__.values()]
        held += [item for value in held if type(value) in (list, tuple) for item in value]
        held += current.exceptions if isinstance(current, _GROUP) else ()
        related = (_CAUSE.__get__(current), _CONTEXT.__get__(current), *held)
        waiting += [other for other in related if isinstance(other, BaseException)]
    return list(found.values())[:0:-1]


def reduce_exception(error: BaseException) -> tuple[Any, ...]:
    """Return how a pickle rebuilds an exception with its traceback (see ``object.__reduce_ex__``)."""
    cls = type(error)
    context = (user_frames(_TRACEBACK.__get__(error)), error.__dict__.get("__notes__"), _SUPPRESSES.__get__(error))
    own = _own_reduction(cls)
    if own is not None:
        reduced = own(error)
        if isinstance(reduced, str):
            raise pickle.PicklingError(f"{cls.__name__}.__reduce__ returns a name, not how to rebuild the exception")
        make, args, *rest = reduced
        state, listitems, dictitems, setter = (*rest, None, None, None, None)[:4]
        return make, args, (context, state, setter), listitems, dictitems, _restore_reduced
    base = _builtin_base(cls)
    # The built-in __new__ of a group needs these two, whatever the class keeps as args.
    needed = (error.message, error.exceptions) if isinstance(error, _GROUP) else ()
    state = (context, _ARGS.__get__(error), dict(error.__dict__), _members(error))
    return _new_exception, (cls, base, needed), state, None, None, _restore_exception


def _own_reduction(cls: type[BaseException]) -> Callable[[BaseException], Any] | None:
    """Return the reduction that the author of the class wrote, or ``None``."""
    registered = copyreg.dispatch_table.get(cls)
    # tblib.pickling_support.install() registers one for every exception, but it keeps less than pywren's.
    if registered is not None and not str(registered.__module__).startswith("tblib"):
        return registered
    for name in ("__reduce_ex__", "__reduce__", "__setstate__"):
        owner = next(base for base in cls.__mro__ if name in vars(base))
        if not _is_builtin(owner):
            return operator.methodcaller("__reduce_ex__", PROTOCOL)
    return None


def _is_builtin(cls: type) -> bool:
    return cls.__module__ == "builtins" and not cls.__flags__ & _HEAP_TYPE


def _builtin_base(cls: type[BaseException]) -> type[BaseException]:
    """Return the built-in base that determines the layout of instances. Only its ``__new__`` can make instances.

    It is not always the first of several built-in bases: ``class NotThere(ValueError, FileNotFoundError)``.
    """
    base: Any = cls
    while base.__flags__ & _HEAP_TYPE:
        base = base.__base__
    found: type[BaseException] = base
    return found


def _members(error: BaseException) -> list[tuple[type, str, Any]]:
    """Return the values in the slots that the built-in bases (``errno``, ``start``) and the classes define."""
    members = []
    for owner in type(error).__mro__:
        if owner in (BaseException, object):
            continue
        for name, kind in vars(owner).items():
            if not isinstance(kind, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                continue
            if name in ("__dict__", "__weakref__") or (owner is AttributeError and name == "obj"):
                continue  # AttributeError.obj may be any object; Python's own pickle leaves it out too
            try:
                # Use the descriptor: the class or a subclass may define something else under this name.
                value = kind.__get__(error)
            except (AttributeError, TypeError):
                continue  # the slot was never set, or it belongs to a built-in base whose layout the instance lacks
            if value is not None or not _is_builtin(owner):
                members.append((owner, name, value))
    return members


def _new_exception(cls: type[BaseException], base: type[BaseException], needed: tuple[Any, ...]) -> BaseException:
    # Skip __init__: the class's own may take other arguments, and the base's would set attributes of its own.
    return base.__new__(cls, *needed)


def _restore_exception(error: BaseException, state: tuple[Any, ...]) -> None:
    context, args, attributes, members = state
    _ARGS.__set__(error, args)
    for owner, name, value in members:
        try:
            vars(owner)[name].__set__(error, value)
        except (AttributeError, TypeError, KeyError):
            pass  # it is read-only and set by __new__, or the class of this name here has no such slot
    error.__dict__.update(attributes)
    _restore_context(error, context)


def _restore_reduced(error: BaseException, state: tuple[Any, ...]) -> None:
    context, own, setter = state
    if setter is not None:
        setter(error, own)
    elif own is not None:
        error.__setstate__(own)
    _restore_context(error, context)


def _restore_context(error: Any, context: tuple[types.TracebackType | None, Any, bool]) -> None:
    if not isinstance(error, BaseException):
        return  # the class's own reduction made another object; the check that follows reports that
    trace, notes, suppresses = context
    _TRACEBACK.__set__(error, trace)
    _SUPPRESSES.__set__(error, suppresses)
    if notes is not None:
        error.__dict__["__notes__"] = notes


def is_open_elsewhere(stream: io.IOBase) -> bool:
    """Tell whether a stream is a file or connection of this process, which no other process can use."""
    everywhere = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    return not isinstance(stream, (io.BytesIO, io.StringIO)) and all(stream is not other for other in everywhere)


def closed_stream() -> io.BytesIO:
    """Return a replacement for a file or connection that an exception holds, as ``urllib.error.HTTPError`` does."""
    stream = io.BytesIO()
    stream.close()
    return stream


# -- tracebacks ----------------------------------------------------------------------------------------------

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_SENT_MODULES = os.sep + "modules-"  # workers' copies of the user's modules, which are temporary
_LINE = "__pywren_line__"  # the local variable that holds the remote source line of an unpickled frame
Frames = list[tuple[str, int, str, str]]
"""The file, line number, function and source line of each frame, outermost first."""


def user_frames(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback without pywren's own frames above the user's function."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        inner = inner.tb_next
    return inner or trace


def frames_of(trace: types.TracebackType) -> Frames:
    """Return a traceback as plain values. The middle of a very long traceback is left out."""
    # A flat list, because pickling tblib's nested form would recurse too deeply for the traceback of a RecursionError.
    frames: Frames = []
    current: types.TracebackType | None = trace
    while current is not None:
        code = current.tb_frame.f_code
        line = linecache.getline(code.co_filename, current.tb_lineno, current.tb_frame.f_globals).strip()
        line = line or current.tb_frame.f_locals.get(_LINE, "")  # for a traceback that was itself unpickled
        frames.append((code.co_filename, current.tb_lineno, code.co_name, line))
        current = current.tb_next
    if len(frames) > _MAX_FRAMES:
        return frames[: _MAX_FRAMES // 2] + frames[-_MAX_FRAMES // 2 :]
    return frames


def make_traceback(frames: Frames) -> types.TracebackType | None:
    """Make a traceback that Python prints like the original."""
    # A frame keeps its callers' frames and their variables alive. Here the callers belong to the thread that receives
    # results, and refer to its processes and sockets, which would live as long as the program keeps the exception. The
    # frame of a generator drops its caller when the generator pauses, so the chain ends there. The generator must stay
    # paused: from Python 3.11 on, a generator that is closed links its frame to the frames that it is closed under. So
    # the generator holds itself, until the garbage collector finds it together with the traceback.
    maker = _make_traceback(frames)
    next(maker)
    return maker.send(maker)


def _make_traceback(frames: Frames) -> Generator[types.TracebackType | None, Any, None]:
    _itself = yield None
    import tblib

    node: Any = None
    for filename, lineno, name, line in reversed(frames):
        code = types.SimpleNamespace(co_filename=filename, co_name=name)
        frame = types.SimpleNamespace(f_globals={"__file__": filename, "__name__": "?"}, f_code=code, f_lineno=lineno)
        frame.f_locals = {_LINE: line}
        node = types.SimpleNamespace(tb_frame=frame, tb_lineno=lineno, tb_next=node)
    made: types.TracebackType | None = tblib.Traceback(node, get_locals=lambda frame: frame.f_locals).as_traceback()
    yield made


def add_remote_text(error: BaseException, text: str) -> None:
    """Make the text of the remote traceback the last cause in the chain."""
    _CAUSE.__set__(chain_of(error)[-1], RemoteTraceback(text))


def lacks_source(error: BaseException) -> bool:
    """Tell whether printing the chain here would show fewer source lines than on the worker."""
    for link in chain_of(error):
        current = _TRACEBACK.__get__(link)
        while current is not None:
            line, filename = current.tb_frame.f_locals.get(_LINE), current.tb_frame.f_code.co_filename
            if line and (_SENT_MODULES in filename or linecache.getline(filename, current.tb_lineno).strip() != line):
                return True
            current = current.tb_next
    return False


def chain_of(error: BaseException) -> list[BaseException]:
    """Return the exceptions that Python prints for an exception. It comes first; a ``RemoteTraceback`` is left out."""
    chain: dict[int, BaseException] = {}
    current: BaseException | None = error
    while current is not None and not isinstance(current, RemoteTraceback) and id(current) not in chain:
        chain[id(current)] = current
        suppresses = _SUPPRESSES.__get__(current)
        current = _CAUSE.__get__(current) or (None if suppresses else _CONTEXT.__get__(current))
    return list(chain.values())


def format_error(error: BaseException, *, alone: bool = False) -> str:
    """Return what Python prints for an exception, shortened if it is very long. Never raises.

    Args:
        error: the exception.
        alone: leave out what it was raised from.
    """
    trace = user_frames(_TRACEBACK.__get__(error))
    try:
        return cut_text("".join(traceback.format_exception(type(error), error, trace, chain=not alone)))
    except Exception as problem:  # noqa: BLE001 - attributes of the exception may raise anything
        if isinstance(problem, RecursionError) and not alone:  # Python 3.10 recurses along the chain
            return cut_text("\n".join(format_error(link, alone=True) for link in reversed(chain_of(error))))
        return f"<the traceback cannot be formatted: {type(problem).__name__}>\n"


def text_of(error: BaseException) -> str:
    """Return ``str`` of an exception, shortened if it is very long. Never raises."""
    try:
        return cut_text(str(error))
    except BaseException as problem:  # noqa: BLE001 - the user's __str__ may raise anything, even SystemExit
        return f"<its str() raised {type(problem).__name__}>"


def cut_text(text: str, limit: int = _MAX_TEXT) -> str:
    """Return a text. If it is too long to send, return only its beginning and end."""
    if len(text) <= limit:
        return text
    head, tail = text[: limit // 4], text[-limit * 3 // 4 :]
    return f"{head}\n[... {len(text) - limit} characters left out ...]\n{tail}"
