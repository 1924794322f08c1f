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
    raise NotImplementedError


def described(call: CallRecord) -> str:
    """Return words that name all attempts of a call; an empty text if there was only one."""
    raise NotImplementedError
