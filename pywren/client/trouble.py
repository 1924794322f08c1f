"""``Trouble``: why the outcomes of a callset's calls cannot be read at present, and for how long."""

from __future__ import annotations

from collections.abc import Iterable

from pywren.client.call_state import CallState
from pywren.exceptions import PywrenError

PATIENCE = 60.0
"""Seconds of continuous storage errors before waiting threads get the error; the futures keep their states."""

_LONGEST_CHAIN = 100  # how many causes of an error to follow; the chain may be circular


class Trouble:
    """The error of the last poll. It has no lock of its own: ``StagedCallset._lock`` guards it.

    Args:
        error: the error; ``None`` when all is well.
    """

    def __init__(self) -> None:
        self.error: PywrenError | None = None
        self._since = 0.0
        self._calls: frozenset[str] | None = None  # the calls that it affects; ``None`` for all
        self._log_again = float("-inf")

    def note(self, error: PywrenError | None, calls: frozenset[str] | None, now: float) -> bool:
        """Record how a poll went. Return whether that is worth a line in the log.

        Args:
            error: why it failed; ``None`` when it succeeded.
            calls: the calls that the error affects; ``None`` for all.
            now: monotonic seconds.
        """
        begins = error is not None and self.error is None
        if begins:
            self._since = now
        log = begins and now >= self._log_again
        if log:
            self._log_again = now + PATIENCE  # trouble that comes and goes is logged once a minute
        self.error, self._calls = error, calls
        _forget_frames(error)
        return log

    def lasting(self, now: float) -> PywrenError | None:
        """Return the error if polls have failed for ``PATIENCE``."""
        return self.error if now - self._since >= PATIENCE else None

    def concerned(self, futures: Iterable[CallState]) -> list[CallState]:
        """Return the futures that the trouble affects."""
        return [one for one in futures if self._calls is None or one.call_id in self._calls]


def _forget_frames(error: BaseException | None) -> None:
    """Drop what an error's tracebacks hold. They hold futures, which would otherwise never be freed."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
