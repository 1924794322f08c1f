"""``ServiceClock``: what time it is by the clock of a service, as its answers tell it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timezone
from typing import Any

RENEWAL = 60.0
"""Seconds after which the next answer's time is taken again: clocks drift, and reading a date takes a while."""

DRIFT = 2.0
"""Seconds by which the two clocks of a machine may differ after less than that: dates are of whole seconds."""


class ServiceClock:
    """Tells the time of a service, whatever this machine's clock says.

    Between answers it goes on with the monotonic clock, which nobody sets. But that one stands still while the machine
    sleeps; that the two clocks of the machine have not gone on alike tells so, and the next answer's time is taken.
    Threads share it without a lock: what is known is replaced as a whole.

    Args:
        monotonic: seconds of a clock that is never set.
        own: seconds since the epoch by this machine's clock, which serves until the first answer.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, own: Callable[[], float] | None = None) -> None:
        self._monotonic = monotonic
        self._own = own
        self._noted: tuple[float, float, float] | None = None  # the time, and what the two clocks here said

    def now(self) -> float:
        """Return the service's time in seconds since the epoch, to a second or two."""
        noted = self._noted
        return self._own_time() if noted is None else noted[0] + self._monotonic() - noted[1]

    def note(self, date: str | None) -> None:
        """Take the time from the ``Date`` header of an answer that has just come."""
        moment, own = self._monotonic(), self._own_time()
        if date is None or (self._noted is not None and _is_fresh(*self._noted[1:], moment, own)):
            return
        from email.utils import parsedate_to_datetime  # here: workers load this module, and few need it

        try:
            told = parsedate_to_datetime(date)
            seconds = (told if told.tzinfo is not None else told.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, TypeError, OverflowError):  # Python 3.10 raises a TypeError for what is no date
            return
        self._noted = seconds, moment, own

    def _own_time(self) -> float:
        return time.time() if self._own is None else self._own()

    def note_answer(self, parsed: Mapping[str, Any] | None = None, **_: object) -> None:
        """Take the time from an answer as botocore hands it to a handler of its ``after-call`` event."""
        headers = ((parsed or {}).get("ResponseMetadata") or {}).get("HTTPHeaders") or {}
        self.note(headers.get("date"))


def _is_fresh(noted: float, own_noted: float, moment: float, own: float) -> bool:
    """Tell whether a time that was noted is still good: not long ago, and neither has the machine slept since."""
    passed = moment - noted
    return passed < RENEWAL and abs(own - own_noted - passed) < DRIFT
