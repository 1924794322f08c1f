"""What a verified status, or what a child answered, means for a future: a value, or an error."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any

from pywren.exceptions import ResultSerializationError
from pywren.pickling import packed, packed_exceptions
from pywren.pickling.packed import Packed
from pywren.serialize._held_back import why_path_held_back
from pywren.wire.failure import Failure
from pywren.wire.outcome import Outcome

Verdict = tuple[Any, "BaseException | None"]
"""The function's value, or the error."""


def of_outcome(
    success: bool, body: Packed, callset_id: str, call_id: str, status: Mapping[str, Any] | None = None
) -> Verdict:
    """Load what the function returned or raised.

    Args:
        success: whether it returned.
        body: the pickled value or exception, verified.
        callset_id: the callset.
        call_id: the call.
        status: the worker's status, for the error that loading may end in.
    """
    try:
        if success:
            return packed.load_result(body, call_id=call_id, callset_id=callset_id, status=status), None
        error = packed_exceptions.load_exception(body, call_id=call_id, callset_id=callset_id, status=status)
    except ResultSerializationError as problem:
        return None, problem
    except KeyboardInterrupt as interrupt:
        if threading.current_thread() is threading.main_thread():
            raise
        # Ctrl-C reaches the main thread only: this one came out of the pickle
        return None, ResultSerializationError(
            "the result raised KeyboardInterrupt while it was unpickled here: " + repr(interrupt),
            call_id=call_id,
            callset_id=callset_id,
            status=status,
        )
    if isinstance(error, FileNotFoundError):
        with contextlib.suppress(Exception):  # its class is the user's: the hint is not worth an error of its own
            _hint_at_missing_file(error)
    return None, error


def of_encoded(data: bytes, callset_id: str, call_id: str, status: Mapping[str, Any] | None) -> Verdict:
    """Load an encoded outcome, which was verified.

    Raises:
        DecodeError: it is none.
    """
    outcome = Outcome.decode(data)
    return of_outcome(outcome.success, Packed(outcome.body), callset_id, call_id, status)


def of_failure(failure: Failure, callset_id: str, call_id: str, status: Mapping[str, Any] | None) -> Verdict:
    """Make the error of a call that ended without an outcome."""
    return None, failure.error(callset_id, call_id, status)


def _hint_at_missing_file(error: FileNotFoundError) -> None:
    """Say so when the file that the worker did not find is one that workers do not have."""
    hint = _why_missing(os.fsdecode(error.filename))
    told = [str(error.strerror), *getattr(error, "__notes__", ())]  # an input's error was here before
    if hint is None or any(hint in text for text in told):
        return
    if sys.version_info >= (3, 11):
        error.add_note(hint)
    else:
        error.strerror = f"{error.strerror} ({hint})"


def _why_missing(path: str) -> str | None:
    if not os.path.isabs(path):
        place = "exists in the client's directory, but" if os.path.exists(path) else "is a relative path, and"
        return (
            f"{path!r} {place} calls run in an empty directory of their own, as on Lambda: read files before map() and "
            "pass their contents, or put them where workers can fetch them"
        )
    sent = re.search(r"/modules-[^/]+/(.+)", path)
    if sent and any(os.path.exists(os.path.join(entry, sent[1])) for entry in sys.path):
        if reason := why_path_held_back(sent[1]):
            return (
                f"{sent[1]!r} exists in the client, but stays there, because {reason}: read it before map() and pass "
                "its contents (docs/modules.md says what is sent along)"
            )
        return (
            f"{sent[1]!r} exists in the client, but was not sent along: only packages, directories with an "
            "__init__.py, bring their data files; make it one, or read files before map() and pass their contents"
        )
    return None
