"""``ServiceClock``: tells the time by a service's clock, using the dates in the service's answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timezone
from typing import Any

RENEWAL = 60.0
"""Seconds for which the date of one answer is used. Clocks drift, but parsing every date would take time."""

DRIFT = 2.0
"""Seconds by which this machine's two clocks may diverge before a new date is used. Dates have only whole seconds."""


class ServiceClock:
    """Returns the time of a service, even when this machine's clock is wrong.

    Between answers this class uses the monotonic clock, which is never set. The monotonic clock may stop while the
    machine sleeps. Then this machine's two clocks diverge, and the date of the next answer is used. Threads share the
    object without a lock, because its state is one tuple that is replaced as a whole.

    Args:
        monotonic: returns the seconds of a clock that is never set.
        own: returns this machine's time in seconds since the epoch, which is used until the first answer.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, own: Callable[[], float] | None = None) -> None:
        self._monotonic = monotonic
        self._own = own
        self._noted: tuple[float, float, float] | None = None  # the service's time, and both local clocks at that time

    def now(self) -> float:
        """Return the service's time in seconds since the epoch, accurate to a second or two."""
        noted = self._noted
        return self._own_time() if noted is None else noted[0] + self._monotonic() - noted[1]

    def note(self, date: str | None) -> None:
        """Set the time from the ``Date`` header of an answer that has just arrived."""
        moment, own = self._monotonic(), self._own_time()
        if date is None or (self._noted is not None and _is_fresh(*self._noted[1:], moment, own)):
            return
        from email.utils import parsedate_to_datetime  # imported here: every worker loads this module, and few need it

        try:
            told = parsedate_to_datetime(date)
            seconds = (told if told.tzinfo is not None else told.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, TypeError, OverflowError):  # Python 3.10 raises TypeError for an invalid date
            return
        self._noted = seconds, moment, own

    def _own_time(self) -> float:
        return time.time() if self._own is None else self._own()

    def note_answer(self, parsed: Mapping[str, Any] | None = None, **_: object) -> None:
        """Set the time from an answer. This is a handler for botocore's ``after-call`` event."""
        headers = ((parsed or {}).get("ResponseMetadata") or {}).get("HTTPHeaders") or {}
        self.note(headers.get("date"))


def _is_fresh(noted: float, own_noted: float, moment: float, own: float) -> bool:
    """Tell whether the noted time is still usable: it is recent, and the machine has not slept since then."""
    passed = moment - noted
    return passed < RENEWAL and abs(own - own_noted - passed) < DRIFT
