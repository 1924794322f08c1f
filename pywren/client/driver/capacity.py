"""``room``: how many more calls may be in flight. A pure function."""

from __future__ import annotations

import math
from typing import NamedTuple

from pywren.client.driver.calls import Phase
from pywren.client.driver.policy import Policy
from pywren.client.driver.service import Service

USUAL_CONCURRENCY = 1000
"""The concurrency of an account unless it was changed (AWS Lambda quotas, 2026)."""

SETTLING = 10.0
"""Seconds without a rise of the concurrency after which it counts as all that the service gives. Lambda adds up to
1,000 environments of a function every 10 s (AWS Lambda Developer Guide, Scaling behavior, 2026)."""

UNLIMITED = 1 << 30
"""How many calls may be invoked where nothing limits that."""


class Room(NamedTuple):
    """How many calls may be invoked now, and why not more.

    Args:
        calls: how many, 0 or more; a large number if there is no limit.
        reason: in words, for the log line about calls that are held back; empty if there is no limit.
    """

    calls: int
    reason: str = ""


def room(service: Service, policy: Policy, now: float) -> Room:
    """Return how many calls may be invoked now.

    All callsets of the service share the room. ``policy.max_concurrency`` caps what is in flight. If the service
    forgets calls that wait too long (``policy.event_age``), no more calls are queued there than will have started when
    half of that time is over, at the concurrency and the durations seen so far; before any are seen, at
    ``policy.concurrency``, or at 1,000 if that is unknown (the concurrency of an account unless it was changed; AWS
    Lambda quotas, 2026), and ``policy.job_max_runtime``.
    """
    queued = service.in_phase[Phase.SENDING] + service.in_phase[Phase.SENT]
    least = Room(UNLIMITED)
    if policy.max_concurrency is not None:
        # Attempts, not calls: a backup runs beside another attempt. The local pool does not report what starts.
        running = max(len(service.running), service.in_phase[Phase.RUNNING])
        calls = max(0, policy.max_concurrency - queued - running)
        least = Room(calls, f"scheduler.max_concurrency is {policy.max_concurrency}")
    if policy.event_age is not None:
        rate = _starts_per_second(service, policy, now)
        # One call may always wait there: otherwise nothing would ever show that the service has become faster.
        calls = max(0, max(1, int(min(rate * policy.event_age / 2.0, UNLIMITED))) - queued)
        if calls < least.calls:
            least = Room(calls, _too_slow(rate, policy.event_age) if calls == 0 else "")
    return least


def _starts_per_second(service: Service, policy: Policy, now: float) -> float:
    """Return how fast the service starts calls that wait there."""
    ended = service.durations.count
    longest = max(policy.job_max_runtime, 1.0)
    duration = max(service.durations.sum / ended, 1e-3) if ended else longest
    # A service where nothing waits has not shown yet how much it can do, however little it has been asked to.
    known = (service.first_accepted, service.peak_rose, service.kept_up)
    risen = max((one for one in known if not math.isnan(one)), default=now)
    if ended + service.peak == 0 or now - risen < SETTLING:
        return max(service.peak, policy.concurrency or USUAL_CONCURRENCY) / duration
    # Short calls are not seen while they run. How many of them end in a second is seen.
    return max(service.peak / duration, ended / max(1.0, now - service.first_accepted))


def _too_slow(rate: float, event_age: float) -> str:
    return (
        f"the service starts about {rate * 3600.0:,.0f} calls an hour, and forgets calls that have waited for "
        f"{event_age / 3600.0:g} hours"
    )
