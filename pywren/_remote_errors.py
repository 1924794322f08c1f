"""Exceptions that cross between processes: what is kept of them and of their tracebacks, and how they are made anew."""

from __future__ import annotations

import copyreg
import linecache
import operator
import os
import pickle
import types
from collections.abc import Callable, Mapping
from typing import Any

_MAX_FRAMES = 200
_MAX_TEXT = 64 * 1024
_PROTOCOL = 5
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not built in
_set = BaseException.__setattr__  # as the interpreter sets them: a frozen dataclass refuses every other way


class RemoteTraceback(Exception):
    """The text of a traceback whose source lines this machine does not have; stands at the end of the causes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


# -- exceptions ----------------------------------------------------------------------------------------------


def reduce_exception(error: BaseException, chained: bool) -> tuple[Any, ...]:
    """Return how a pickle makes an exception anew, with its traceback (``object.__reduce_ex__``).

    Args:
        error: the exception.
        chained: whether it brings its cause and context.
    """
    cls = type(error)
    context = {
        "traceback": user_frames(error.__traceback__),
        "cause": error.__cause__ if chained else None,
        "context": error.__context__ if chained else None,
        "suppress": error.__suppress_context__,
    }
    own = _own_reduction(cls)
    if own is not None:
        reduced = own(error)
        if isinstance(reduced, str):
            raise pickle.PicklingError(f"{cls.__name__}.__reduce__ gives a name, not how to make the exception")
        make, args, *rest = reduced
        state, listitems, dictitems, setter = (*rest, None, None, None, None)[:4]
        return make, args, (context, state, setter), listitems, dictitems, _restore_reduced
    base = _builtin_base(cls)
    state = (context, dict(error.__dict__), _members(error))
    return _new_exception, (cls, base, error.args), state, None, None, _restore_exception


def _own_reduction(cls: type[BaseException]) -> Callable[[BaseException], Any] | None:
    """Return the reduction that the class's author wrote, if there is one."""
    registered = copyreg.dispatch_table.get(cls)
    # tblib.pickling_support.install() registers one for every exception, which knows less than ours
    if registered is not None and not str(registered.__module__).startswith("tblib"):
        return registered
    for name in ("__reduce_ex__", "__reduce__", "__setstate__"):
        owner = next(base for base in cls.__mro__ if name in vars(base))
        if owner.__flags__ & _HEAP_TYPE:
            return operator.methodcaller("__reduce_ex__", _PROTOCOL)
    return None


def _builtin_base(cls: type[BaseException]) -> type[BaseException]:
    return next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE and issubclass(base, BaseException))


def _members(error: BaseException) -> dict[str, Any]:
    """Return what is kept in slots: those of the built-in base (``errno``, ``start``), and the class's own."""
    members = {}
    for owner in type(error).__mro__:
        if owner in (BaseException, object):
            continue
        for name, kind in vars(owner).items():
            if not isinstance(kind, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                continue
            if name in ("__dict__", "__weakref__") or (owner is AttributeError and name == "obj"):
                continue  # AttributeError.obj may be anything; Python's own pickle leaves it out too
            value = getattr(error, name, None)
            if value is not None:
                members[name] = value
    return members


def _new_exception(cls: type[BaseException], base: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    # the class's own __init__ may take something else than ``args``: it ran when the exception was raised
    error = base.__new__(cls, *args)
    try:
        base.__init__(error, *args)
    except (TypeError, ValueError):
        pass  # it was never called with them either: the members follow
    _set(error, "args", args)
    return error


def _restore_exception(error: BaseException, state: tuple[Any, ...]) -> None:
    context, attributes, members = state
    for name, value in members.items():
        try:
            _set(error, name, value)
        except (AttributeError, TypeError):
            pass  # read-only: set by __new__
    error.__dict__.update(attributes)
    _restore_context(error, context)


def _restore_reduced(error: BaseException, state: tuple[Any, ...]) -> None:
    context, own, setter = state
    if setter is not None:
        setter(error, own)
    elif own is not None:
        error.__setstate__(own)
    _restore_context(error, context)


def _restore_context(error: Any, context: Mapping[str, Any]) -> None:
    if not isinstance(error, BaseException):
        return  # its own reduction made something else of it; the check that follows says so
    _set(error, "__traceback__", context["traceback"])
    _set(error, "__cause__", context["cause"])
    _set(error, "__context__", context["context"])
    _set(error, "__suppress_context__", context["suppress"])


# -- tracebacks ----------------------------------------------------------------------------------------------

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_SENT_MODULES = os.sep + "modules-"  # the workers' copies of the user's modules: gone sooner or later, also from here
_LINE = "__pywren_line__"  # the local variable by which an unpickled frame keeps the remote source line
Frames = list[tuple[str, int, str, str]]
"""File, line number, function and source line of each frame, outermost first."""


def user_frames(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Leave out pywren's own frames above the user's function."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        inner = inner.tb_next
    return inner or trace


def frames_of(trace: types.TracebackType) -> Frames:
    """Return a traceback as plain values, the middle of a very long one left out."""
    # flat, because tblib's own nested form recurses in pickle for the traceback of a RecursionError
    frames: Frames = []
    current: types.TracebackType | None = trace
    while current is not None:
        code = current.tb_frame.f_code
        line = linecache.getline(code.co_filename, current.tb_lineno, current.tb_frame.f_globals).strip()
        line = line or current.tb_frame.f_locals.get(_LINE, "")  # a traceback that was itself unpickled
        frames.append((code.co_filename, current.tb_lineno, code.co_name, line))
        current = current.tb_next
    if len(frames) > _MAX_FRAMES:
        return frames[: _MAX_FRAMES // 2] + frames[-_MAX_FRAMES // 2 :]
    return frames


def make_traceback(frames: Frames) -> types.TracebackType | None:
    """Make a traceback that Python prints like the one that the frames were taken from."""
    import tblib

    node: Any = None
    for filename, lineno, name, line in reversed(frames):
        code = types.SimpleNamespace(co_filename=filename, co_name=name)
        frame = types.SimpleNamespace(f_globals={"__file__": filename, "__name__": "?"}, f_code=code, f_lineno=lineno)
        frame.f_locals = {_LINE: line}
        node = types.SimpleNamespace(tb_frame=frame, tb_lineno=lineno, tb_next=node)
    made: types.TracebackType | None = tblib.Traceback(node, get_locals=lambda frame: frame.f_locals).as_traceback()
    return made


def add_remote_text(error: BaseException, text: str) -> None:
    """Put the text of the remote traceback at the end of the chain of causes."""
    _set(chain_of(error)[-1], "__cause__", RemoteTraceback(text))


def lacks_source(error: BaseException) -> bool:
    """Tell whether printing the chain here would leave out source lines that the worker had."""
    for link in chain_of(error):
        current = link.__traceback__
        while current is not None:
            line, filename = current.tb_frame.f_locals.get(_LINE), current.tb_frame.f_code.co_filename
            if line and (_SENT_MODULES in filename or linecache.getline(filename, current.tb_lineno).strip() != line):
                return True
            current = current.tb_next
    return False


def chain_of(error: BaseException) -> list[BaseException]:
    """Return the exceptions that are printed for one, itself first, up to the text of a remote traceback."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and not isinstance(current, RemoteTraceback) and all(current is not e for e in chain):
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def text_of(error: BaseException) -> str:
    """Return ``str`` of an exception, cut to a bearable length; never raises."""
    try:
        return cut_text(str(error))
    except BaseException as problem:  # noqa: BLE001 - the user's __str__ may raise anything, SystemExit too
        return f"<str() of it raised {type(problem).__name__}>"


def cut_text(text: str) -> str:
    """Return the head and the tail of a text that is too long to travel."""
    if len(text) <= _MAX_TEXT:
        return text
    head, tail = text[: _MAX_TEXT // 4], text[-_MAX_TEXT * 3 // 4 :]
    return f"{head}\n[... {len(text) - _MAX_TEXT} characters left out ...]\n{tail}"
