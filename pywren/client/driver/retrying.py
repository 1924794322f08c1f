"""``after``: what to do when an attempt has ended without a value. A pure function."""

from __future__ import annotations

from typing import NamedTuple

from pywren.client.driver.calls import AttemptRecord, CallRecord, Phase
from pywren.client.driver.policy import MOST_KILLS, Policy
from pywren.wire.cause import NEVER_RAN, TAKEN_AWAY, Cause

SHORTEST_DELAY = 0.5
"""Seconds before the first repeat of an attempt that failed, before jitter. It doubles with every attempt."""

LONGEST_DELAY = 30.0
"""The most seconds before a repeat."""

MOST_HANDED_BACK = 10
"""How many times chunks may hand a call back before it has an invocation of its own. To hand calls back costs them no
attempt. A worker that only said so, and ran them, could otherwise have them invoked, and paid for, without end; of a
call that is alone nobody believes it."""

_NEVER_AGAIN = frozenset({Cause.CANCELLED, Cause.REFUSED})
_FAILED = frozenset(Cause) - NEVER_RAN - TAKEN_AWAY
_NAMED = 3  # how many of the first and of the last attempts the message names
_LONGEST_ERROR = 200  # characters of the error of one attempt in the message


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
        ``None`` if nothing needs to be done: another attempt of the call is in flight, or is in the queue already.
    """
    if any(one is not attempt and one.in_flight for one in call.attempts):
        return None
    if not _may_repeat(call, attempt, wanted, policy):
        return Over(described(call, attempt))
    return None if call.phase is Phase.HELD else Again(_delay(call, attempt, policy, jitter))


def was_handed_back(call: CallRecord) -> bool:
    """Tell whether a chunk has handed a call back."""
    return call.count((Cause.HANDED_BACK,)) > 0


def was_handed_back_too_often(call: CallRecord) -> bool:
    """Tell whether a call is to be invoked alone, because chunks have handed it back again and again."""
    return call.count((Cause.HANDED_BACK,)) >= MOST_HANDED_BACK


def described(call: CallRecord, final: AttemptRecord | None) -> str:
    """Return words that name all attempts of a call, in parentheses; an empty text if ``final`` is the only one.

    Of more than six attempts, the first three and the last three are named. Equal errors are not repeated.

    Args:
        call: the call.
        final: the attempt with whose error the call ends. The words follow that error, so they do not contain it.
            ``None`` if the call ends with the error of no attempt.
    """
    if len(call.attempts) < (1 if final is None else 2):
        return ""
    named, told, previous = [], "" if final is None else _conclusion(final), ""
    for one in call.attempts:
        error = _conclusion(one)
        named.append(_described(one, "" if error == told else "as before" if error and error == previous else error))
        previous = error
    if len(named) > 2 * _NAMED:
        named[_NAMED:-_NAMED] = [f"{len(named) - 2 * _NAMED} more"]
    return "(" + "; ".join(named) + ")"


def _may_repeat(call: CallRecord, attempt: AttemptRecord, wanted: bool, policy: Policy) -> bool:
    cause = attempt.cause
    if cause in (Cause.TOO_OLD, Cause.HANDED_BACK):
        return True  # the service itself, or the worker, says that it never started the attempt
    if policy.retries == 0 or cause in _NEVER_AGAIN:
        return False
    if cause in NEVER_RAN:
        return True
    if cause in TAKEN_AWAY:
        return call.count(TAKEN_AWAY) <= MOST_KILLS
    return call.count(_FAILED) <= policy.retries and (wanted or cause is Cause.WORKER_FAILED)


def _delay(call: CallRecord, attempt: AttemptRecord, policy: Policy, jitter: float) -> float:
    if attempt.cause is Cause.HANDED_BACK:
        return 0.0  # nothing was wrong
    failures = sum(one.cause is not None for one in call.attempts)
    # A call that was dropped has waited for long enough. On this machine, and where a queue keeps every call, one dead
    # worker says nothing about the next. On Lambda many may die at once, with what they depend on.
    if failures == 1 and (attempt.cause in NEVER_RAN or (attempt.cause in TAKEN_AWAY and not policy.may_lose_calls)):
        return 0.0
    # The exponent is bounded: a float cannot hold 2.0 ** 1024.
    longest = min(LONGEST_DELAY, SHORTEST_DELAY * 2.0 ** min(failures - 1, 16))
    return longest * (1.0 + jitter) / 2.0


def _described(attempt: AttemptRecord, error: str) -> str:
    cause = "no outcome yet" if attempt.cause is None else attempt.cause.value
    words = f"attempt {attempt.number}: {cause}"
    if attempt.where:
        words += f" in {attempt.where[:_LONGEST_ERROR]}"
    return f"{words}, {error}" if error else words


def _conclusion(attempt: AttemptRecord) -> str:
    lines = attempt.error.strip().splitlines()
    if not lines:
        return ""
    # An exception of the function begins with its class. Other errors may hold a traceback, which ends with its cause.
    line = lines[0 if attempt.cause is Cause.EXCEPTION else -1]
    if len(line) <= _LONGEST_ERROR:
        return line
    beginning, space, _ = line[:_LONGEST_ERROR].rpartition(" ")
    return f"{beginning} …" if space else f"{line[:_LONGEST_ERROR]}…"
