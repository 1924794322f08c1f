"""``suspects``: which attempts were probably lost. A pure function of what is known of the whole callset.

A suspicion never ends a call. It only starts another attempt; the result of the suspected one would still count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pywren.client.driver.policy import Policy
from pywren.client.driver.record import AttemptRecord, CallRecord, CallsetRecord
from pywren.wire.cause import Cause

SHORTEST = 10.0
"""The least seconds after which an attempt without a sign of life is suspected."""

USUAL_WAITS = 3.0
"""How many times the usual wait an attempt may wait before it is suspected."""

BEACON_STOPPED = 75.0
"""Seconds without a beacon after which a worker counts as vanished: two beacons are missing, and some more."""


class Suspect(NamedTuple):
    """An attempt that is probably lost. ``cause`` is ``DROPPED`` or ``VANISHED``."""

    call: CallRecord
    attempt: AttemptRecord
    cause: Cause


def suspects(record: CallsetRecord, policy: Policy, now: float) -> Sequence[Suspect]:
    """Return the attempts to suspect now. The caller marks them as suspected and decides with ``retrying.after``.

    Args:
        record: the callset. Everything that a poll found must have been entered before.
        policy: what is allowed. Nothing is suspected if ``retries`` is 0; nothing is dropped by a service that does not
            lose calls.
        now: the observed time.
    """
    return [
        Suspect(c, c.current, Cause.DROPPED)
        for c in record.calls.values()
        if policy.may_lose_calls
        and policy.retries
        and c.phase == 2
        and c.current
        and c.current.in_flight
        and now - c.current.sent > 10
    ]
