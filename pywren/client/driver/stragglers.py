"""``stragglers``: which calls take much longer than the others. A pure function."""

from __future__ import annotations

from collections.abc import Sequence

from pywren.client.driver.calls import CallRecord, Phase
from pywren.client.driver.record import CallsetRecord
from pywren.client.driver.service import UNSEEN

TIMES_MEDIAN = 3.0
"""How many times the median duration a call may run before it gets a second attempt."""


def stragglers(record: CallsetRecord, now: float) -> Sequence[CallRecord]:
    """Return the calls that should get a second attempt now: half are done, and these take over 3 × the median.

    A call gets at most one backup at a time, and none while it is held.
    """
    done = record.in_phase[Phase.ENDED] - record.failed
    if not record.durations.count or done * 2 < len(record.calls):
        return []
    # All times are longer by UNSEEN than what was observed, those of calls that have ended too.
    latest = now + UNSEEN - TIMES_MEDIAN * record.durations.quantile(0.5)
    return [
        call
        for attempt, call in record.running.items()
        if attempt.started < latest and call.phase is Phase.RUNNING and sum(one.in_flight for one in call.attempts) == 1
    ]
