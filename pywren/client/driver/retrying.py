"""``after``: what to do when an attempt has ended without a value. A pure function."""

from __future__ import annotations

from typing import NamedTuple

from pywren.client.driver.policy import Policy
from pywren.client.driver.record import AttemptRecord, CallRecord


class Again(NamedTuple):
    """Invoke the call again. ``delay`` is the number of seconds to wait before, 0 or more."""

    delay: float


class Over(NamedTuple):
    """The call ends with the error of this attempt. ``message`` names all attempts; empty if there was only one."""

    message: str = ""


def after(call: CallRecord, attempt: AttemptRecord, wanted: bool, policy: Policy, jitter: float) -> Again | Over | None:
    """Decide what follows an attempt that has ended without a value.

    Args:
        call: the call, with ``attempt`` among its attempts.
        attempt: the attempt; its ``cause`` is set.
        wanted: whether its error is one of those after which the program wants another attempt (``retry_on``).
        policy: what is allowed.
        jitter: a random number in [0, 1).

    Returns:
        ``None`` if another attempt of the call is in flight: nothing needs to be done.
    """
    from pywren.wire.cause import NEVER_RAN, TAKEN_AWAY, Cause

    if any(one.in_flight for one in call.attempts):
        return None
    c = attempt.cause
    ended = [o for o in call.attempts]
    ok = False
    if c in NEVER_RAN:
        ok = True
    elif not policy.retries or c in (Cause.CANCELLED, Cause.REFUSED):
        ok = False
    elif c in TAKEN_AWAY:
        ok = call.count(TAKEN_AWAY) <= 6
    elif c is Cause.WORKER_FAILED or wanted:
        ok = call.count(set(Cause) - NEVER_RAN - TAKEN_AWAY) <= policy.retries
    return Again(0.2 * (1 + jitter)) if ok else Over(described(call))


def described(call: CallRecord) -> str:
    """Return words that name all attempts of a call; an empty text if there was only one."""
    if len(call.attempts) < 2:
        return ""
    return "(" + "; ".join(f"attempt {o.number}: {o.cause and o.cause.value}, {o.error[:200]}" for o in call.attempts) + ")"
