"""``suspects``: which attempts were probably lost. A pure function of what is known of the callset and its service.

A suspicion never ends a call. It only starts another attempt; the result of the suspected one would still count.

An attempt that waits may have been dropped, or it may wait its turn. What tells them apart:

- *Overtaken*: most of the attempts that were accepted between it and the newest one that has started have started or
  ended too. It was dropped, unless the service takes calls in another order than that of their acceptance. Then the
  waits of those that do start are long as well, and so is the usual wait. Those that were on their way together have no
  order: where others wait behind, they have not overtaken each other.
- *Passed over*: the same in a queue that has kept its order so far. There it shows long before the wait is unusual.
- *Alone*: nothing that was accepted later has started, or only little of it. It is repeated unless it may be in a
  queue: the service is full, or starts are still being seen. Few such repeats are made; the first of them that starts
  makes all that were dropped before it overtaken.

The usual wait is what calls had to wait in a queue. It says nothing once the queue is over, which shows when nothing
starts any more: for longer than a pause between two starts, and than the disorder of the queue, could explain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pywren.client.driver.calls import AttemptRecord, CallRecord
from pywren.client.driver.policy import Policy
from pywren.client.driver.record import CallsetRecord
from pywren.client.driver.service import USUAL, Service
from pywren.wire.cause import Cause

SHORTEST = 10.0
"""The least seconds after which an attempt without a sign of life is suspected."""

USUAL_WAITS = 3.0
"""How many times the usual wait an attempt may wait before it is suspected."""

DISORDER = 0.35
"""The share of the usual wait for which attempts may be overtaken in a queue that still counts as keeping its order."""

USUAL_GAPS = 2.0
USUAL_DELAYS = 1.5
"""How many times the longest pause between two starts, and how many times the longest time for which an attempt was
overtaken before it started, nothing may have started before the queue counts as over."""

GROWTH = 3.0
GROWTH_OF_LOSSES = 1.5
GROWTH_AT_REST = 1.25
"""How many times as long the next attempt of a call may wait after each suspicion: in general; while it is proven that
the service loses calls; and if besides it has nothing else to do."""

ENOUGH = 30
"""Attempts that have waited in a queue, and none of them passed over for long, that show that it keeps its order."""

BEACON_STOPPED = 75.0
"""Seconds without a beacon after which a worker counts as vanished: two beacons are missing, and some more."""

MOST_REPEATED = 10
SHARE_REPEATED = 0.1
"""How many calls that were suspected may be without a sign of life: this many, or this share of the outstanding calls,
of all callsets of the service.
If that many repeats do not start either, the service is slow, and more repeats would only make it slower."""

LONGEST_REQUEUE = 300.0
"""The most seconds until Lambda tries again to start a call that it could not start because the account was full. The
time doubles from 1 s on (AWS Lambda Developer Guide, Asynchronous invocation, 2026)."""


class Suspect(NamedTuple):
    """An attempt that is probably lost. ``cause`` is ``DROPPED`` or ``VANISHED``."""

    call: CallRecord
    attempt: AttemptRecord
    cause: Cause


def suspects(record: CallsetRecord, policy: Policy, now: float) -> Sequence[Suspect]:
    """Return the attempts to suspect now. The caller marks them as suspected and decides with ``retrying.after``.

    The record remembers them; each is returned once, and again only after its worker has shown itself.

    Args:
        record: the callset. Everything that a poll found must have been entered before.
        policy: what is allowed. Nothing is suspected if ``retries`` is 0; nothing is dropped by a service that does not
            lose calls.
        now: the observed time.
    """
    record.service.note_look(record, now)
    if policy.retries == 0:
        return []
    found = _vanished(record, now)
    if policy.may_lose_calls:
        found += _dropped(record, now)
    for call, attempt, cause in found:
        record.note_suspected(call, attempt, cause)
    return found


def _vanished(record: CallsetRecord, now: float) -> list[Suspect]:
    last = now - BEACON_STOPPED
    return [Suspect(call, one, Cause.VANISHED) for one, call in record.running.items() if one.shown < last]


class _Patience(NamedTuple):
    """How many seconds attempts may wait before they are suspected.

    Args:
        first: for a call that was not suspected before.
        again: for a call that was; it grows with every suspicion of the call, ``growth`` times.
        growth: see ``again``.
        since: until when the service has started calls, or may have.
        quiet: whether the service seems to do nothing.
        few: whether besides only few calls are left.
    """

    first: float
    again: float
    growth: float
    since: float
    quiet: bool = False
    few: bool = False

    def of(self, call: CallRecord) -> float:
        """Return how many seconds the present attempt of a call may wait."""
        suspicions = min(call.count((Cause.DROPPED,)), 16) if len(call.attempts) > 1 else 0
        return self.again * self.growth**suspicions if suspicions else self.first


def _patience(service: Service, oldest: AttemptRecord, now: float) -> _Patience:
    # If most repeats start before the attempts that they repeat, the service loses calls and is not slow. Then it
    # counts how long those repeats have waited.
    losing = service.proven > 2 * len(service.repeated)
    if _is_quiet(service, now):
        few = service.outstanding() <= MOST_REPEATED
        since = max(oldest.sent, service.last_start)
        return _Patience(SHORTEST, SHORTEST, GROWTH_AT_REST if losing or few else GROWTH, since, True, few)
    usual = max(SHORTEST, USUAL_WAITS * service.usual_wait())
    if not losing:
        return _Patience(usual, usual, GROWTH, oldest.sent)
    again = max(SHORTEST, USUAL_WAITS * service.repeat_waits.quantile(USUAL))
    first = min(usual, again) if service.proven >= MOST_REPEATED else usual
    return _Patience(first, again, GROWTH_OF_LOSSES, oldest.sent)


def _dropped(record: CallsetRecord, now: float) -> list[Suspect]:
    # The waiting attempts are in the order of their acceptance.
    first = next(iter(record.waiting), None)
    if first is None or now - first.sent < SHORTEST:
        return []
    service = record.service
    patience = _patience(service, next(iter(service.waiting)), now)
    most = max(MOST_REPEATED, int(SHARE_REPEATED * service.outstanding()))
    if patience.quiet:
        most = min(most, MOST_REPEATED + service.proven)
    alone = _Alone(service, now, patience)
    if service.queued >= ENOUGH and _keeps_order(service) and not alone.full:
        found = _dropped_in_order(record, now, alone, most)
        if found:
            return found
    found = _dropped_again(record, now, patience, alone)
    if len(service.repeated) < most and now - first.sent >= patience.first:
        found += _dropped_first(record, now, patience, alone, most)
    return found


def _keeps_order(service: Service) -> bool:
    """Tell whether the queue has kept its order so far, apart from what is little compared with how long calls wait."""
    return service.longest_delay < max(SHORTEST, DISORDER * service.usual_wait())


def _is_quiet(service: Service, now: float) -> bool:
    """Tell whether nothing runs, and nothing has started for longer than a queue could explain.

    Then it does not matter how long calls had to wait before. Repeats do not count as starts: they go on when all else
    is over.
    """
    busy = [one for one in (service.last_start, service.last_full) if not math.isnan(one)]
    if service.running or not busy:
        return False
    # A late attempt of a call that has ended may have run meanwhile, which nobody looks for.
    longest = LONGEST_REQUEUE + max(0.0, service.durations.quantile(USUAL))
    usual = max(USUAL_GAPS * service.longest_gap, USUAL_DELAYS * service.longest_delay)
    return now - max(busy) >= SHORTEST + min(longest, usual)


def _dropped_in_order(record: CallsetRecord, now: float, alone: _Alone, most: int) -> list[Suspect]:
    """Return attempts that a queue which keeps its order has passed over, long before their waits are unusual."""
    service = record.service
    bound = SHORTEST + USUAL_WAITS * service.longest_delay
    newest, last = service.last_seen_to_start()
    found: list[Suspect] = []
    repeated = len(service.repeated)
    for attempt in list(record.waiting):
        call, passed = record.waiting[attempt], service.overtaken_at(attempt)
        if now - attempt.sent < bound or repeated >= most or (now - passed < bound and math.isfinite(passed)):
            break
        if math.isinf(passed):
            if now - last < bound or repeated >= alone.most:
                break
        elif not _is_overtaken(service, attempt, newest, now):
            break  # it is a wave of starts after a pause, and no queue in order
        found.append(Suspect(call, attempt, Cause.DROPPED))
        repeated += call not in record.repeated
    return found


def _dropped_again(record: CallsetRecord, now: float, patience: _Patience, alone: _Alone) -> list[Suspect]:
    """Return attempts of calls that were suspected before, and gave no sign of life since."""
    service = record.service
    newest = max(service.newest_started, service.newest_repeat)
    first = next(iter(service.repeated), None)
    found = []
    for call in record.repeated:
        attempt = call.current
        if attempt is None or attempt not in record.waiting or now - attempt.sent < patience.of(call):
            continue
        # If nothing starts, one call that is invoked again and again shows as well as ten when that changes.
        if attempt.order < newest or (alone.most and (call is first or patience.few)):
            found.append(Suspect(call, attempt, Cause.DROPPED))
    return found


def _dropped_first(record: CallsetRecord, now: float, patience: _Patience, alone: _Alone, most: int) -> list[Suspect]:
    service = record.service
    found: list[Suspect] = []
    repeated = len(service.repeated)
    for attempt in list(record.waiting):
        if now - attempt.sent < patience.first or repeated >= most:
            break
        call = record.waiting[attempt]
        if call in record.repeated or now - attempt.sent < patience.of(call):
            continue
        overtaken = _is_overtaken(service, attempt, service.newest_started, now)
        if overtaken or alone.allows(attempt, repeated):
            found.append(Suspect(call, attempt, Cause.DROPPED))
            repeated += 1
        elif attempt.order > max(service.newest_started, service.newest_repeat) and repeated >= alone.most:
            break  # what follows is newer still
    return found


def _is_overtaken(service: Service, attempt: AttemptRecord, newest: int, now: float) -> bool:
    """Tell whether most of the attempts between one and the newest that has started do not wait any more."""
    between = newest - attempt.order
    more = between - service.waiting_between(attempt.order, newest, now) * 2 if between > 0 else 0
    if not 0 < more <= attempt.beside:
        return more > 0
    # Those that were on their way at the same time may have arrived before it, although they were accepted later. If
    # more than that wait behind, the service had no room for these, and so perhaps for this one.
    return service.waiting_between(newest, service.accepted + 1, now) <= attempt.beside


class _Alone:
    """Whether, and how many, attempts are repeated that were not overtaken by most of the others.

    ``most`` is how many such calls may be without a sign of life; 0 if those that wait may be in a queue.
    """

    def __init__(self, service: Service, now: float, patience: _Patience) -> None:
        self._service, self._now = service, now
        starting = now - service.last_start < SHORTEST
        self.full = now - service.last_full < SHORTEST
        # One; two when even they have waited for twice the bound; and so on.
        most = 1 << max(0, int((now - patience.since) / patience.first).bit_length() - 1)
        if service.peak:
            most = max(1, min(most, service.peak - len(service.running)))
        self.most = 0 if starting or self.full else most

    def allows(self, attempt: AttemptRecord, repeated: int) -> bool:
        service = self._service
        # Repeats have overtaken their first attempts, and this attempt too.
        behind = attempt.order < service.newest_repeat and repeated < 2 * service.proven
        if repeated >= self.most and not behind:
            return False
        # Lambda puts a call that it cannot start aside, for about as long as the call has waited so far. One call is
        # tried all the same: the account may never have been full.
        full = service.last_full
        return (
            math.isnan(full)
            or repeated + service.proven == 0
            or self._now >= full + min(LONGEST_REQUEUE, max(0.0, full - attempt.sent)) + SHORTEST
        )
