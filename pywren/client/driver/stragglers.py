"""``stragglers``: which calls take much longer than the others. A pure function."""

from __future__ import annotations

from collections.abc import Sequence

from pywren.client.driver.record import CallRecord, CallsetRecord

TIMES_MEDIAN = 3.0
"""How many times the median duration a call may run before it gets a second attempt."""


def stragglers(record: CallsetRecord, now: float) -> Sequence[CallRecord]:
    """Return the calls that should get a second attempt now: half are done, and these take over 3 × the median.

    A call gets at most one backup at a time, and none while it is held.
    """
    return []
