"""``ServiceClock``: the time of a service's clock, taken from the dates of its answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timezone
from typing import Any

RENEWAL = 60.0
"""Seconds for which one answer's date is used: clocks drift, but parsing a date takes time."""

DRIFT = 2.0
"""Seconds by which this machine's two clocks may diverge in that time; dates have whole seconds only."""


class ServiceClock:
    """Returns the time of a service, even when this machine's clock is wrong.

    Between answers it counts with the monotonic clock, which nobody sets. The monotonic clock may stop while the
    machine sleeps. Then this machine's two clocks diverge, and the date of the next answer is used. Threads share the
    object without a lock, because its state is one tuple that is replaced as a whole.

    Args:
        monotonic: returns seconds of a clock that is never set.
        own: returns seconds since the epoch by this machine's clock, used until the first answer.
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
        """Set the time from an answer. This handles botocore's ``after-call`` event."""
        headers = ((parsed or {}).get("ResponseMetadata") or {}).get("HTTPHeaders") or {}
        self.note(headers.get("date"))


def _is_fresh(noted: float, own_noted: float, moment: float, own: float) -> bool:
    """Tell whether a recorded time is still usable: it is recent, and the machine has not slept since."""
    passed = moment - noted
    return passed < RENEWAL and abs(own - own_noted - passed) < DRIFT
