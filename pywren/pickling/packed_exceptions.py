"""``PackedException``: one pickled exception with its causes, and its description in text.

The first pickle contains the exception and its formatted traceback. It is followed by one pickle for each exception in
the chain, which says what that exception was raised from (``remote_errors.Chain``).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pywren.exceptions import ResultSerializationError
from pywren.pickling.packed import Packed, not_loaded, picklers
from pywren.pickling.remote_errors import (
    Chain,
    add_remote_text,
    cut_text,
    format_error,
    lacks_source,
    raised_before,
    set_link,
    text_of,
)

_MAX_STAND_IN = 8 * 1024  # characters of the description that replaces an exception
_Unpickler = pickle.Unpickler  # saved before any of the user's code can replace it


class PackedException(NamedTuple):
    """A pickled exception and its description in text.

    Args:
        body: the exception; ``None`` if it cannot be sent back.
        type_name: the name of the exception's type.
        text: the ``str`` of the exception.
        traceback: the formatted traceback of the exception and its causes.
        error: the error that the caller gets instead, if there is no ``body``.
    """

    body: Packed | None
    type_name: str
    text: str
    traceback: str
    error: ResultSerializationError | None = None

    def required_body(self) -> Packed:
        """Return the body.

        Raises:
            ResultSerializationError: the exception cannot be sent back.
        """
        if self.body is None:
            raise self.error or ResultSerializationError("an exception without its pickle")
        return self.body

    def encoded_outcome(self) -> bytes:
        """Return the encoded outcome of a call that raised this exception.

        Raises:
            ResultSerializationError: the exception cannot be sent back.
        """
        from pywren.wire.outcome import Outcome  # here: a child that receives no futures never needs it

        body = self.required_body().data
        return Outcome(False, body, self.type_name, self.text, self.traceback).encode()


def dump_exception(error: BaseException) -> PackedException:
    """Pickle an exception with its traceback, causes and notes, and check that it can be unpickled.

    Pywren's own frames above the user's function are removed. Any cause or group member that cannot be pickled is
    replaced by a ``ResultSerializationError`` that describes it. Nothing that the exception's own code raises
    propagates, except ``KeyboardInterrupt``.
    """
    described = PackedException(None, type(error).__name__, text_of(error), format_error(error))
    try:
        return described._replace(body=Packed(_dump_chain(error, described.traceback)))
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # noqa: BLE001 - the exception's own code may raise anything, even SystemExit
        return described._replace(error=_unreturnable(described, problem))


def _unreturnable(described: PackedException, problem: BaseException) -> ResultSerializationError:
    return ResultSerializationError(
        f"the function raised {described.type_name}: {described.text}\n"
        f"and that exception cannot be sent back ({type(problem).__name__}: {text_of(problem)}).\n"
        f"The remote traceback:\n{described.traceback}"
    )


def _dump_chain(error: BaseException, text: str) -> bytes:
    """Pickle an exception and its causes. Only if that fails, find out which causes must be replaced."""
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
    """Return replacements for the exceptions that cannot be pickled, keyed by the ``id`` of the original."""
    found: dict[int, BaseException] = {}
    for error in errors:
        try:
            _dump_checked(error, "", Chain(found), alone=True)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # noqa: BLE001 - its own code may raise anything
            found[id(error)] = ResultSerializationError(
                cut_text(
                    f"{type(error).__name__}: {text_of(error)}\n"
                    f"This exception cannot be sent back ({type(problem).__name__}: {text_of(problem)}).\n"
                    f"The remote traceback:\n{format_error(error, alone=True)}",
                    _MAX_STAND_IN,
                )
            )
    return found


def _dump_checked(error: BaseException, text: str, chain: Chain, *, alone: bool = False) -> bytes:
    """Pickle an exception, then each link to what it was raised from. Unpickle everything as a check.

    Args:
        error: the exception.
        text: its formatted traceback.
        chain: remembers the exceptions that it sees, and contains the replacements.
        alone: leave out what the exception was raised from.

    Raises:
        BaseException: anything that the exception's own code raises, in either direction.
    """
    with io.BytesIO() as file:
        pickler = picklers().UserPickler(file)
        pickler.chain = chain
        pickler.state.returned = True
        pickler.dump((error, text))
        if not alone:
            for link in chain.links():
                pickler.dump(link)  # successive pickles share one memo, so a long chain does not recurse deeply
        data: bytes = file.getvalue()
    back, _ = _load_chain(data)
    if not isinstance(back, (Exception, type(error))):  # its reduction may choose another type, usually a base class
        raise pickle.UnpicklingError(f"unpickling it returns a {type(back).__name__}")
    return data


def _load_chain(data: bytes, lost: list[BaseException] | None = None) -> tuple[BaseException, str]:
    """Read what ``_dump_checked`` wrote.

    Args:
        data: the pickles.
        lost: receives what unpickling a link raises; the links after it are lost too. If ``None``, the error is raised.
    """
    file = io.BytesIO(data)
    unpickler = _Unpickler(file)
    try:
        error, text = unpickler.load()
        if not isinstance(error, BaseException):
            raise pickle.UnpicklingError(f"unpickling it returns a {type(error).__name__}")
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
    finally:
        # Before Python 3.11 the garbage collector does not look into the memo. The exception's traceback leads to this
        # frame, whose memo holds the exception: without this, it would never be freed.
        unpickler.memo = {}


def load_exception(
    packed: Packed,
    *,
    call_id: str | None = None,
    callset_id: str | None = None,
    status: Mapping[str, Any] | None = None,
) -> BaseException:
    """Unpickle an exception in the client. Printing it then shows the remote source lines.

    If this machine lacks the source of a remote frame, or the class of a cause, the text of the remote traceback
    becomes the last cause. The user's own causes stay.

    Args:
        packed: the exception; it must have been verified.
        call_id: the call, for the error message.
        callset_id: the callset of the call.
        status: the status of the call.

    Returns:
        The exception, or a ``ResultSerializationError`` that explains why it cannot be unpickled.
    """
    lost: list[BaseException] = []
    try:
        error, text = _load_chain(packed.data, lost)
    except KeyboardInterrupt:
        raise  # the user's own Ctrl-C
    except BaseException as problem:  # noqa: BLE001 - a SystemExit in its code must not end the client
        call = {"call_id": call_id, "callset_id": callset_id, "status": status}
        failure = not_loaded(f"the exception that call {call_id} raised", problem, **call)
        failure.__cause__ = problem
        return failure
    if lost or lacks_source(error):
        add_remote_text(error, text)
    return error
