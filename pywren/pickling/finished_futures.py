"""``FinishedFuture``: what a worker receives for a future among the arguments of a call."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pywren.pickling.packed import Packed, load_result
from pywren.pickling.packed_exceptions import dump_exception, load_exception
from pywren.pickling.remote_errors import text_of


class FinishedFuture:
    """A future among the arguments of a call. It finished before that call began.

    It has the methods of ``ResponseFuture``. The outcome is unpickled when it is first used.

    Args:
        outcome: the encoded outcome.
        callset_id: the callset of the call that the future belongs to.
        call_id: the call that the future belongs to.
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
        """Make a finished future from a value that a call returned. The future is sent by value."""
        future = cls(b"", callset_id=callset_id, call_id=call_id)
        future._settle(value, None)
        return future

    @classmethod
    def of_exception(
        cls, error: BaseException, *, callset_id: str | None = None, call_id: str | None = None
    ) -> FinishedFuture:
        """Make a finished future from an exception that a call raised. The future is sent by value."""
        future = cls(b"", callset_id=callset_id, call_id=call_id)
        future._settle(None, error)
        return future

    def __reduce__(self) -> tuple[Any, ...]:
        if self._outcome is not None:
            outcome = self._outcome
        elif self._error is None:
            return _finished_with_value, (self._value, self.callset_id, self.call_id)
        else:
            outcome = dump_exception(self._error).encoded_outcome()
        return _finished_with_outcome, (outcome, self.callset_id, self.call_id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of call {self.call_id} of callset {self.callset_id}>"

    def _settle(self, value: Any, error: BaseException | None) -> None:
        self._value, self._error, self._loaded, self._outcome = value, error, True, None

    def _load(self) -> None:
        """Unpickle the outcome, unless it has been unpickled already."""
        if self._loaded or self._outcome is None:
            return
        from pywren.wire.outcome import Outcome  # here: a child that receives no futures never needs it

        outcome = Outcome.decode(self._outcome)
        encoded, packed = self._outcome, Packed(outcome.body)
        if outcome.success:
            value = load_result(packed, call_id=self.call_id, callset_id=self.callset_id)
            self._settle(value, None)
        else:
            self._settle(None, load_exception(packed, call_id=self.call_id, callset_id=self.callset_id))
        self._outcome = encoded  # if this future is pickled again, the outcome is sent as it arrived

    def result(
        self,
        timeout: float | None = None,
        check_only: bool = False,
        throw_except: bool = True,
        storage_handler: Any = None,
    ) -> Any:
        """Return what the call returned, or raise what it raised. The parameters are the same as in PyWren 0.4.

        Args:
            timeout: ignored, because the call has finished.
            check_only: just return True, because the call has finished.
            throw_except: whether to raise what the call raised; if false, return ``None`` instead.
            storage_handler: ignored, because the future contains its outcome.
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
        """Return what the call raised, or ``None`` if it returned."""
        self._load()
        return self._error

    def done(self) -> bool:
        """Return True: the call has finished."""
        return True

    def running(self) -> bool:
        """Return False: the call has finished."""
        return False

    def cancelled(self) -> bool:
        """Return False: the call was not cancelled."""
        return False

    def cancel(self, storage_handler: Any = None) -> bool:
        """Return False: a finished call cannot be cancelled."""
        return False

    def succeeded(self) -> bool:
        """Tell whether the call returned."""
        return not self.errored()

    def errored(self) -> bool:
        """Tell whether the call raised."""
        if self._outcome is not None:
            from pywren.wire.outcome import Outcome  # deferred as in _load

            return not Outcome.decode(self._outcome).success
        return self._error is not None

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call a function with this future immediately."""
        fn(self)


_HINT = (
    "this function got a finished future, not its value: call its result(), or pass the future to submit(), starmap() "
    "or zip_map(), whose functions get the value"
)


def add_hint(error: BaseException) -> None:
    """Add a note to an error that a call raised because it took a finished future for its value. Never raises.

    The program may never have seen the name of this class, which is all that the error's own message says. Before
    Python 3.11 exceptions have no notes.

    Args:
        error: what a call raised that has futures among its arguments.
    """
    if sys.version_info >= (3, 11) and isinstance(error, (TypeError, AttributeError)):
        if FinishedFuture.__name__ not in text_of(error):
            return
        with contextlib.suppress(Exception):  # the error may keep something of its own in ``__notes__``
            if _HINT not in getattr(error, "__notes__", ()):  # an error from an input may have the hint already
                BaseException.add_note(error, _HINT)


def _finished_with_value(value: Any, callset_id: str | None, call_id: str | None) -> FinishedFuture:
    return FinishedFuture.of_value(value, callset_id=callset_id, call_id=call_id)


def _finished_with_outcome(outcome: bytes, callset_id: str | None, call_id: str | None) -> FinishedFuture:
    return FinishedFuture(outcome, callset_id=callset_id, call_id=call_id)
