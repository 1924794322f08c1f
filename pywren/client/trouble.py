"""``Trouble``: why nothing can be found out about the calls of a callset at present, and for how long."""

from __future__ import annotations

from collections.abc import Iterable

from pywren.client.call_state import CallState
from pywren.exceptions import PywrenError

PATIENCE = 60.0
"""Seconds of unbroken storage errors after which those who wait are told; the futures stay as they are."""

_LONGEST_CHAIN = 100  # causes of an error that are followed; a chain may be a circle


class Trouble:
    """What the last poll failed with. It has no lock of its own: ``StagedCallset._lock`` guards it.

    Args:
        error: the error; ``None`` when all is well.
    """

    def __init__(self) -> None:
        self.error: PywrenError | None = None
        self._since = 0.0
        self._calls: frozenset[str] | None = None  # the calls that it is about; ``None`` for all
        self._log_again = float("-inf")

    def note(self, error: PywrenError | None, calls: frozenset[str] | None, now: float) -> bool:
        """Note how a poll went; returns whether that is worth a line in the log.

        Args:
            error: why it failed; ``None`` when it did not.
            calls: the calls that the error is about; ``None`` for all.
            now: monotonic seconds.
        """
        begins = error is not None and self.error is None
        if begins:
            self._since = now
        log = begins and now >= self._log_again
        if log:
            self._log_again = now + PATIENCE  # trouble that comes and goes is worth a line a minute
        self.error, self._calls = error, calls
        _forget_frames(error)
        return log

    def lasting(self, now: float) -> PywrenError | None:
        """Return the error when polls have failed for ``PATIENCE``."""
        return self.error if now - self._since >= PATIENCE else None

    def concerned(self, futures: Iterable[CallState]) -> list[CallState]:
        """Return those futures that the trouble is about."""
        return [one for one in futures if self._calls is None or one.call_id in self._calls]


def _forget_frames(error: BaseException | None) -> None:
    """Drop what an error that is kept holds by its tracebacks: the futures, which would never be forgotten."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
