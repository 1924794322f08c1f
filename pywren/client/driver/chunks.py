"""``chunk_size`` and ``time_limit``: how many calls the next invocation runs, and for how long. Pure decisions.

They are made before each invocation, from what the driver knows by then. The rules, in the order of their weight:

- *Nothing is known*: as long as no call has ended, an invocation has one call. Calls that the service can run all at
  once are all invoked at once, as they would be without chunks. Of more calls, a first wave is invoked
  (``first_wave``), and the others wait until it shows how long calls take. It is small, because each of its calls costs
  what a chunk of hundreds does. If it shows nothing for a while, it becomes as large as what the service runs at once,
  so that long calls lose little. So it is from the beginning if the client invokes all calls within a second.
- *The client is the bottleneck*: it needs ``invoking`` seconds for an invocation, and the service could run the calls
  faster than that. Then all chunks should end together: one that is invoked later is shorter, by the calls that a
  worker runs while the client invokes. With n calls left, of t seconds each, the next one has
  s = √(2 × n × invoking / t) calls, and all end s × t seconds from now. If all had as many calls, that would take
  longer by a factor of √2.
- *The service is the bottleneck*: then fewer invocations save money and no time. Half of an equal share of what is
  left, n / (2 × slots), lets everybody work to the end, with chunks that become smaller and smaller (factoring: Hummel,
  Schonberg and Flynn, Communications of the ACM 35(8), 1992). A chunk lasts no longer than until its requests are a
  tenth of its price; beyond, there is little to save, and results would come late.

Both sizes shrink at the end of a map, so that nobody waits for one worker. But a chunk has work for a quarter second
(``LEAST_WORK``): with less it would save no time that anybody notices, and its requests would cost many times its work.
Calls that the service can run all at once are alone, unless they are shorter than an invocation; and so they are if
chunks have handed them back.

The calls that end first are the shortest ones, so a map whose calls differ looks shorter at first than it is. So those
that run count with the time that they had had when the client last began to look: those that are seen to run, and
those that were invoked before others that have started, and for longer than it takes to start nearly all calls. Calls
may become longer, so what ended lately counts most. And each chunk has a time limit, when its worker hands back what it
has not begun: a wrong estimate costs no more than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

FEWEST_CALLS = 100
"""A map of fewer calls has no chunks: all its calls are in flight before anything is known of them. The first wave of a
larger one has as many."""

SHARE = 2.0
"""By how much a chunk is smaller than an equal share of the calls that are left."""

WORTH = 4.0
"""Seconds that a chunk lasts at most where the service is the bottleneck. Its invocation, two PUTs and a GET cost 10.6
micro-dollars, and a second of 1,536 MB 25 (Lambda and S3 prices in us-east-1, 2026): then requests are a tenth."""

SHORTEST_LIMIT = 0.5
"""The least time limit of a chunk, in seconds. With a shorter one calls would go back whenever garbage is collected."""

INVOCATION = 0.05
"""Seconds that an invocation takes besides its calls. Longer calls get one each if the service can run all at once."""

OVER = 2.0
"""How many times as long as expected a chunk may take before its worker hands calls back."""

HANDLING = 0.002
"""Seconds of a worker for each call, besides the function: no call takes less."""

WINDOW = 200
"""How many of the latest outcomes the mean of the durations is about."""

LEAST_WORK = 0.25
"""Seconds of work that a chunk has at least, if there are enough calls. A map may take longer by that, which is less
than the starts of two workers differ by. The requests of such a chunk cost more than its work does (``WORTH``). A map
of few calls (``STAKE``) has shorter ones."""

LEARNING = 0.75
"""Seconds for which calls wait behind the first wave, at most, since its first invocation. A cold start without a
runtime takes half a second (``docs/scale.md``), and the quickest of a hundred are over after a quarter."""

LONG_LEARNING = 1.5
"""Seconds for which those calls wait that the service has no room for. Most cold starts are over after that, and longer
calls gain little from chunks."""

ENOUGH = 20
"""After so many calls have ended the others wait no longer. The very first ones may not be like most."""

STAKE = 1.0
"""Seconds that the client has to need for invoking all calls of a map alone. With less, chunks cannot save more time
than waiting for the first calls, or a wrong estimate, costs."""

SHARE_WAITED = 0.25
"""The part of these seconds after which calls wait no longer if none has ended that is short."""

SHORTEST_WAIT = 0.45
"""Seconds for which calls wait in any case: the client sees few ends sooner of calls that have started cold."""

_LONGEST_GAP = 0.1  # seconds between two answers of the service; in a longer gap the client had nothing to invoke
_WEIGHT = 1.0 / 16.0  # of the latest gap in the mean
_LEAST_SPREAD = 0.5  # of the mean latency: those that are seen first were the quickest, and differ little
_SPREADS = 4.0  # beyond the mean latency, until which a call may not have started: as for TCP's timer (RFC 6298)


class Times:
    """How long the calls of a callset take, and the client for an invocation, as far as is known. Plain data.

    Attributes:
        ended: how many attempts have ended whose duration is known. The older they are, the less they count.
        busy: how long these have run together, in seconds.
        unfinished: how long those have run so far that run now, in seconds, since something last came from them.
        doubtful: how much longer that is if calls that may not have begun yet have begun as soon as others did.
        latency: how many seconds pass, besides those of the call, from an invocation until the look that finds its end.
        spread: by how many seconds this differs from that mean, in the mean.
        began: when the service accepted the first attempt; ``nan`` before.
        invoking: how many seconds an invocation takes the client, whatever number of threads it has; 0.0 at first.
    """

    def __init__(self) -> None:
        self.ended = self.busy = self.unfinished = self.doubtful = 0.0
        self.latency = self.spread = self.invoking = 0.0
        self.began = math.nan
        self._alone = 0  # how many of the ends the latency is the mean of
        self._latest = math.nan  # when the service last accepted an attempt
        self._is_idle = False

    def add(self, seconds: float, whole: float = math.nan) -> None:
        """Count an attempt that has ended.

        Args:
            seconds: how long its worker had it.
            whole: how many seconds after its invocation the look began that found this; ``nan`` if it was not alone.
        """
        self.ended += 1.0 - self.ended / WINDOW
        self.busy += max(HANDLING, seconds) - self.busy / WINDOW
        if whole >= seconds:
            # What one look finds comes in the order of its invocation: the last few would be no fair sample.
            self._alone = min(self._alone + 1, WINDOW)
            difference = whole - seconds - self.latency
            self.latency += difference / self._alone
            deviation = abs(difference) if self._alone > 1 else difference / 2.0
            self.spread += (deviation - self.spread) / self._alone

    def so_far(self, now: float, sent: float, news: float) -> tuple[float, float]:
        """Return how long the call has run that an invocation runs: for sure, and if it began as soon as others did.

        Args:
            now: the time.
            sent: when it was invoked.
            news: when something last came from it; ``nan`` if nothing did.
        """
        if not math.isnan(news):
            return max(0.0, now - news), max(0.0, now - news)
        # Cold starts differ much, and those that are seen first were the quickest ones. If all others counted as calls
        # that run since then, a map of short calls would look like one of long calls.
        waited, spread = now - sent - self.latency, max(self.spread, _LEAST_SPREAD * self.latency)
        return max(0.0, waited - _SPREADS * spread), max(0.0, waited)

    def review(self, so_far: Iterable[tuple[float, float]]) -> None:
        """Add up how long calls have run that run now, as ``so_far`` says."""
        self.unfinished = self.doubtful = 0.0
        for sure, likely in so_far:
            self.unfinished += sure
            self.doubtful += likely - sure

    def idle(self, is_idle: bool) -> None:
        """Note whether the client has nothing to invoke. Then gaps between answers say nothing of an invocation."""
        self._is_idle = is_idle
        self._latest = math.nan if is_idle else self._latest

    def accepted(self, now: float) -> None:
        """Note that the service has accepted an attempt."""
        if math.isnan(self.began):
            self.began = now
        gap = now - self._latest
        if not self._is_idle and 0.0 <= gap <= _LONGEST_GAP:
            self.invoking += (gap - self.invoking) * (_WEIGHT if self.invoking else 1.0)
        self._latest = math.nan if self._is_idle else now


class Situation(NamedTuple):
    """What is known before an invocation.

    Args:
        left: how many calls may be invoked now, and wait in this program.
        slots: how many invocations the service runs at once, as far as is known.
        in_flight: how many invocations it has accepted that have not ended.
        ended: how many calls have ended whose duration is known (``Times``).
        busy: how long these calls have run together, and those that run until now, in seconds.
        invoking: how many seconds an invocation takes the client, at the pace that the service accepts.
        doubtful: how many seconds more the calls may have run together, which is not sure (``Times``).
        calls: how many calls the map has.
        again: whether a chunk has handed the next one back.
    """

    left: int
    slots: int
    in_flight: int
    ended: float
    busy: float
    invoking: float
    doubtful: float = 0.0
    calls: int = 0
    again: bool = False

    @property
    def at_stake(self) -> float:
        """How many seconds the client needs to invoke all calls of the map alone, which chunks may save."""
        return self.calls * self.invoking

    @property
    def duration(self) -> float:
        """How long a call is expected to run, in seconds; infinite as long as none has ended."""
        # As for any measurement that ends before all have: the time of all, by the number of those that have ended.
        return max(HANDLING, self.busy / self.ended) if self.ended else math.inf

    @property
    def longest(self) -> float:
        """How long a call is expected to run if all that is in doubt runs."""
        return max(HANDLING, (self.busy + self.doubtful) / self.ended) if self.ended else math.inf


class Wave(NamedTuple):
    """How many calls may have been invoked, each alone, as long as it is not known how long they take.

    Args:
        calls: how many.
        until: until when that holds, in seconds since the first invocation.
    """

    calls: int
    until: float


def first_wave(
    calls: int, in_flight: int, slots: int, waited: float = 0.0, invoking: float = 0.0, *, short: bool = False
) -> Wave:
    """Return how many calls of a map are invoked, each alone, before anything is known of them.

    While the others wait, the service could run more. If calls turn out to be long, that was for nothing: the map takes
    longer by three quarters of a second at most (``LEARNING``), and by half of what the client needs to invoke its
    calls (``STAKE``).

    Args:
        calls: how many calls the map has.
        in_flight: how many invocations of other maps the service had when this one began.
        slots: how many invocations it runs at once, as far as is known.
        waited: how many seconds ago the first call was invoked.
        invoking: how many seconds an invocation takes the client; 0.0 if that is not known yet.
        short: whether some calls have ended, and were so short that chunks would have more than one.
    """
    if calls + in_flight <= slots:
        return Wave(calls, math.inf)
    at_stake = calls * invoking if invoking else math.inf
    longest = math.inf if short else max(SHORTEST_WAIT, SHARE_WAITED * at_stake)
    if at_stake >= STAKE and waited < min(longest, LEARNING):
        return Wave(min(calls, FEWEST_CALLS), min(longest, LEARNING))
    if waited < min(longest, LONG_LEARNING):
        return Wave(min(calls, max(FEWEST_CALLS, slots)), min(longest, LONG_LEARNING))
    return Wave(calls, math.inf)


def chunk_size(now: Situation) -> int:
    """Return how many calls the next invocation has, if they fit.

    Args:
        now: what is known.
    """
    if not now.ended:
        return 1
    if now.left + now.in_flight <= now.slots and _are_long(now):
        return 1
    size = max(_of_least_wall(now), min(_of_equal_share(now), WORTH / now.duration), _of_least_work(now))
    return max(1, min(now.left, int(size)))


def _are_long(now: Situation) -> bool:
    """Tell whether each call is worth an invocation that costs no time, as the service has room for all."""
    if now.again:
        return True  # calls are longer than expected
    # In doubt, whatever costs less if it is wrong: to invoke all calls alone, or a chunk that hands calls back.
    return (now.longest if now.at_stake < STAKE else now.duration) > INVOCATION


def time_limit(size: int, duration: float) -> float:
    """Return after how many seconds the worker of a chunk hands back the calls that it has not begun.

    Args:
        size: how many calls it has.
        duration: how long a call is expected to run, in seconds.
    """
    return max(SHORTEST_LIMIT, OVER * size * duration)


def _of_least_wall(now: Situation) -> float:
    if now.slots * now.invoking <= now.duration:
        return 0.0  # the client keeps everybody busy with one call each
    return math.sqrt(2.0 * now.left * now.invoking / now.duration)


def _of_least_work(now: Situation) -> float:
    return LEAST_WORK / now.duration if now.at_stake >= STAKE else 0.0


def _of_equal_share(now: Situation) -> float:
    return now.left / (SHARE * max(1, now.slots))
