"""``Trouble``: why the outcomes of a callset's calls cannot be read at present, and for how long."""

from __future__ import annotations

from collections.abc import Iterable

from pywren.client.call_state import CallState
from pywren.exceptions import PywrenError

PATIENCE = 60.0
"""Seconds of continuous storage errors after which threads that wait get the error. The futures keep their states."""

_LONGEST_CHAIN = 100  # how many causes of an error to follow; the chain may be circular


class Trouble:
    """The error with which the last poll failed. ``StagedCallset._lock`` guards this object.

    Args:
        error: the error; ``None`` if the last poll succeeded.
    """

    def __init__(self) -> None:
        self.error: PywrenError | None = None
        self._since = 0.0
        self._calls: frozenset[str] | None = None  # the calls that the error affects; ``None`` for all
        self._log_again = float("-inf")

    def note(self, error: PywrenError | None, calls: frozenset[str] | None, now: float) -> bool:
        """Record whether a poll failed. Return whether that is worth a line in the log.

        Args:
            error: why the poll failed; ``None`` if it succeeded.
            calls: the calls that the error affects; ``None`` for all.
            now: monotonic seconds.
        """
        # A single success ends the trouble: patience counts uninterrupted failure, so a flaky storage never uses it up.
        begins = error is not None and self.error is None
        if begins:
            self._since = now
        log = begins and now >= self._log_again
        if log:
            self._log_again = now + PATIENCE  # errors that come and go are logged once a minute
        # On the polling thread. ``StagedCallset.trouble()`` reads ``error`` without the lock, which is safe as it is
        # one reference.
        self.error, self._calls = error, calls
        _forget_frames(error)
        return log

    def lasting(self, now: float) -> PywrenError | None:
        """Return the error if polls have failed for ``PATIENCE`` seconds; otherwise return ``None``."""
        return self.error if now - self._since >= PATIENCE else None

    def concerned(self, futures: Iterable[CallState]) -> list[CallState]:
        """Return those of the futures that the error affects."""
        return [one for one in futures if self._calls is None or one.call_id in self._calls]


def _forget_frames(error: BaseException | None) -> None:
    """Remove the tracebacks of an error and its causes. They hold futures, which would otherwise never be freed."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
