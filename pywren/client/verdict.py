"""``Verdict``: how a call ended, as the future of the call will report it.

This is the last form of an outcome. The child process makes a ``RunResult``; the worker makes an ``Outcome`` inside a
signed ``Status``. This module turns a verified outcome into a value or an error in the client.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from pywren.client import call_state
from pywren.client.call_state import CallState
from pywren.exceptions import CallLostError, DecodeError, ResultSerializationError, StorageError
from pywren.pickling import packed, packed_exceptions
from pywren.pickling.packed import Packed
from pywren.pickling.remote_errors import text_of
from pywren.wire.outcome import Outcome
from pywren.wire.status import Status

if TYPE_CHECKING:
    from pywren.worker.task import RunResult


class Verdict(NamedTuple):
    """How a call ended.

    Args:
        value: what the function returned.
        error: what the function raised, or why there is no outcome; ``None`` if the function returned.
        source: what ``run_status`` is made from on request: the status of a call in a storage, or the result of a call
            on this machine; ``None`` if the worker reported nothing.
        known_at: for calls on this machine, when the result arrived, in seconds since the epoch.
    """

    value: Any = None
    error: BaseException | None = None
    source: Status | RunResult | None = None
    known_at: float = 0.0


def of_status(status: Status, outcome: bytes | None, callset_id: str) -> Verdict:
    """Turn a believed status into a verdict.

    Args:
        status: the status.
        outcome: the encoded outcome, verified; ignored when the status reports a failure.
        callset_id: the callset.
    """
    call_id = status.call_id
    if status.failure is not None:
        return Verdict(None, status.failure.error(callset_id, call_id, status.document()), status)
    try:
        # On the thread that polls, without a lock. The bytes have been verified, since loading them runs code.
        decoded = Outcome.decode(outcome or b"")
        value, error = _load(decoded.success, Packed(decoded.body), callset_id, call_id, status)
    except DecodeError as problem:
        return Verdict(None, problem, status)
    except Exception as problem:  # noqa: BLE001 -- an error in one call must not affect the outcomes of others
        return Verdict(None, unexpected(problem), status)
    return Verdict(value, error, status)


def of_result(result: RunResult, callset_id: str, call_id: str, known_at: float) -> Verdict:
    """Turn the result of a child process on this machine into a verdict.

    Args:
        result: the result.
        callset_id: the callset.
        call_id: the call.
        known_at: when the result arrived, in seconds since the epoch.
    """
    if result.failure is not None:
        return Verdict(None, result.failure.error(callset_id, call_id, None), result, known_at)
    if result.success is None or result.body is None:
        lost = CallLostError(
            "the call ended without an outcome; run the call again", call_id=call_id, callset_id=callset_id
        )
        return Verdict(None, lost, result, known_at)
    # On the pump's thread, which all executors share.
    value, error = _load(result.success, result.body, callset_id, call_id)
    return Verdict(value, error, result, known_at)


def unexpected(error: BaseException, what: str = "polling for results failed") -> StorageError:
    """Wrap an unforeseen error in a ``StorageError`` that futures can raise, so that nothing waits for ever."""
    problem = StorageError(f"{what}: {type(error).__name__}: {text_of(error)}")
    problem.__cause__ = error
    return problem


def name_attempts(error: BaseException | None, attempts: str) -> None:
    """Add words that name all attempts of a call to the program's own exception, which keeps its own message."""
    if error is not None and attempts and sys.version_info >= (3, 11):
        with contextlib.suppress(Exception):  # its class may have its own ``add_note``
            error.add_note(attempts)


def cancelled_with(one: CallState) -> str:
    """Return why a call is cancelled that has the future of a cancelled call among its arguments."""
    return f"the call was cancelled, because call {one.call_id} of callset {one.callset_id} was, whose value it needs"


def traceback_of(verdict: Verdict) -> str:
    """Return the remote traceback of a call that failed; its error in words if the worker sent none."""
    source = verdict.source
    trace = source.exception_traceback if isinstance(source, Status) else None
    if source is not None and not isinstance(source, Status) and source.exception is not None:
        trace = source.exception[2]
    error = verdict.error or Exception()
    return f"{type(error).__name__}: {text_of(error)}" if trace is None else trace


def outcomes_of(ended: Iterable[CallState], known: dict[CallState, bytes] | None = None) -> list[bytes]:
    """Encode the outcomes of calls that have ended, in order.

    Args:
        ended: the futures of the calls.
        known: outcomes that are encoded already. New ones are added, so that many calls share one object.
    """
    known = {} if known is None else known
    return [
        known[one] if one in known else known.setdefault(one, encoded(call_state.verdict_of(one) or Verdict()))
        for one in ended
    ]


def encoded(verdict: Verdict) -> bytes:
    """Encode how a call ended as the bytes of an ``Outcome``, to be stored or sent."""
    source = verdict.source
    if verdict.error is None and source is not None and not isinstance(source, Status) and source.body is not None:
        return Outcome(True, packed.in_band(source.body)).encode()
    if verdict.error is None:
        # Pickled again rather than kept: most outcomes are never passed on, and keeping the bytes would double their
        # memory.
        return Outcome(True, packed.dumps(verdict.value).data).encode()
    return packed_exceptions.dump_exception(verdict.error).encoded_outcome()


def _load(
    success: bool, body: Packed, callset_id: str, call_id: str, status: Status | None = None
) -> tuple[Any, BaseException | None]:
    """Unpickle what the function returned or raised.

    Args:
        success: whether the function returned.
        body: the pickled value or exception, verified.
        callset_id: the callset.
        call_id: the call.
        status: the worker's status; it is attached to the error if unpickling fails.
    """
    try:
        if success:
            return packed.load_result(body, call_id=call_id, callset_id=callset_id), None
        document = None if status is None else status.document()
        error = packed_exceptions.load_exception(body, call_id=call_id, callset_id=callset_id, status=document)
    except ResultSerializationError as problem:
        problem.status = None if status is None else status.document()  # not before: most results can be unpickled
        return None, problem
    except KeyboardInterrupt as interrupt:
        if threading.current_thread() is threading.main_thread():
            # A real Ctrl-C, or one that the pickle raised: in the main thread the two look the same, and Ctrl-C must
            # stay prompt.
            raise
        # Ctrl-C reaches only the main thread, so this KeyboardInterrupt came out of the pickle.
        return None, ResultSerializationError(
            "unpickling the result raised KeyboardInterrupt: " + repr(interrupt),
            call_id=call_id,
            callset_id=callset_id,
            status=None if status is None else status.document(),
        )
    if isinstance(error, FileNotFoundError):
        with contextlib.suppress(Exception):  # the error's class is the user's: adding a hint must not fail
            _hint_at_missing_file(error)
    return None, error


def _hint_at_missing_file(error: FileNotFoundError) -> None:
    """Add a hint when the missing file exists in the client but not on workers."""
    hint = _why_missing(os.fsdecode(error.filename))
    told = [str(error.strerror), *getattr(error, "__notes__", ())]  # an error from an input may have the hint already
    if hint is None or any(hint in text for text in told):
        return
    if sys.version_info >= (3, 11):
        error.add_note(hint)
    else:
        error.strerror = f"{error.strerror} ({hint})"


def _why_missing(path: str) -> str | None:
    if not os.path.isabs(path):
        place = "exists in the client's directory, but" if os.path.exists(path) else "is a relative path, but"
        return (
            f"{path!r} {place} calls run in an empty directory of their own, as on Lambda: read files before map() and "
            "pass their contents, or put them where workers can fetch them"
        )
    sent = re.search(r"/modules-[^/]+/(.+)", path)
    if sent and any(os.path.exists(os.path.join(entry, sent[1])) for entry in sys.path):
        return _why_not_sent(sent[1])
    return None


def _why_not_sent(path: str) -> str:
    from pywren.serialize._held_back import why_path_held_back  # imported here, as few programs ever need it

    if reason := why_path_held_back(path):
        return (
            f"{path!r} exists on the client but was not sent, because {reason}: read it before map() and pass its "
            "contents (docs/modules.md says what is sent along)"
        )
    return (
        f"{path!r} exists on the client but was not sent: only packages (directories with an __init__.py) "
        "bring their data files. Make its directory a package, or read the file before map() and pass its contents"
    )
