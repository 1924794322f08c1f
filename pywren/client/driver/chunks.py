"""``chunk_size`` and ``time_limit``: how many calls the next invocation runs, and for how long. Pure functions.

They are asked before each invocation, and know what the driver knows by then. The rules, in the order of their weight:

- *Nothing is known*: as long as no call has ended, an invocation has one call. The client sends four times as many as
  the service runs at once. So the queue there keeps everybody busy until the first outcomes are noticed, and the client
  hardly ever rests. If more are seen to run than the service was thought to run, it gets more.
- *The client is the bottleneck*: it needs ``invoking`` seconds for an invocation, and the service could run the calls
  faster than that. With n calls left, of t seconds each, in chunks of s, the last chunk is invoked after
  n / s × invoking seconds, and then runs for s × t. The sum is least where both are equal: s = √(n × invoking / t).
- *The service is the bottleneck*: then fewer invocations save money and no time. Half of an equal share of what is
  left, n / (2 × slots), lets everybody work to the end, with chunks that become smaller and smaller (factoring: Hummel,
  Schonberg and Flynn, Communications of the ACM 35(8), 1992). A chunk lasts no longer than until its requests are a
  tenth of its price; beyond, there is little to save, and results would come late.

Both sizes shrink to 1 at the end of a map, so one long call is never behind others when nothing else is left. Calls of
a map that the service can run all at once are alone, unless they are shorter than an invocation.

The calls that end first are the shortest ones, so a map whose calls differ looks shorter at first than it is. So those
that have not ended count with the time that they have had. And each chunk has a time limit, after which its worker
hands back what it has not begun: a wrong estimate costs one call and a little more than the chunk was expected to take.
"""

from __future__ import annotations

import math
from typing import NamedTuple

AHEAD = 4
"""How many invocations, for each that the service runs at once, are sent before the first outcome is known."""

SHARE = 2.0
"""By how much a chunk is smaller than an equal share of the calls that are left."""

SHARE_OF_PRICE = 0.1
"""The part of the price of a chunk that its requests may be."""

USUAL_WORTH = 2.5
"""Seconds that a chunk may last where prices are not known: those of Lambda in us-east-1 with 1,536 MB (``worth``)."""

SHORTEST_LIMIT = 0.5
"""The least time limit of a chunk, in seconds. With a shorter one calls would go back whenever garbage is collected."""

INVOCATION = 0.05
"""Seconds that an invocation takes besides its calls. Longer calls get one each if the service can run all at once."""

OVER = 2.0
"""How many times as long as expected a chunk may take before its worker hands calls back."""

_LEAST = 1e-4  # seconds: no call takes less, however its clock ticks


class Situation(NamedTuple):
    """What is known before an invocation.

    Args:
        left: how many calls may be invoked now, and wait in this program.
        slots: how many invocations the service runs at once, as far as is known.
        in_flight: how many invocations it has accepted that have not ended.
        running: how many of these are seen to run.
        ended: how many calls have ended whose duration is known.
        busy: how long these calls have run together, and those in flight until now, as far as they have presumably
            started, in seconds.
        invoking: how many seconds an invocation takes the client, at the pace that the service accepts.
        worth: how many seconds a chunk may last so that longer ones save little (see ``worth``).
        most: how many calls fit into a payload; ``None`` for any number.
    """

    left: int
    slots: int
    in_flight: int
    running: int
    ended: int
    busy: float
    invoking: float
    worth: float = USUAL_WORTH
    most: int | None = None

    @property
    def duration(self) -> float:
        """How long a call is expected to run, in seconds; infinite as long as none has ended."""
        # As for any measurement that ends before all have: the time of all, by the number of those that have ended.
        return max(_LEAST, self.busy / self.ended) if self.ended else math.inf


def chunk_size(now: Situation) -> int:
    """Return how many calls the next invocation has; 0 if the next one waits for the first outcomes.

    Args:
        now: what is known.
    """
    if now.left <= 0:
        return 0
    if not now.ended:
        slots = max(now.slots, now.running)  # if more run than was thought, the service can do more
        return 1 if now.in_flight < AHEAD * max(1, slots) else 0
    if now.left + now.in_flight <= now.slots and now.duration > INVOCATION:
        return 1
    size = max(_of_least_wall(now), min(_of_equal_share(now), now.worth / now.duration))
    return fitting(int(size), now.left, now.most)


def fitting(wanted: int, left: int, most: int | None) -> int:
    """Return how many calls a chunk has that was wanted to have so many: at least 1, and no more than there are or fit.

    Args:
        wanted: the size, such as ``chunksize`` of ``map``.
        left: how many calls there are.
        most: how many calls fit into a payload; ``None`` for any number.
    """
    return max(1, min(wanted, left, left if most is None else most))


def time_limit(size: int, duration: float) -> float:
    """Return after how many seconds the worker of a chunk starts no more of its calls.

    Args:
        size: how many calls it has.
        duration: how long a call is expected to run, in seconds.
    """
    return max(SHORTEST_LIMIT, OVER * size * duration)


def worth(price_of_invocation: float, price_of_second: float) -> float:
    """Return how many seconds of work there are in a chunk whose requests are ``SHARE_OF_PRICE`` of its price.

    Args:
        price_of_invocation: dollars for one invocation with the requests that its worker and the client make for it.
        price_of_second: dollars for one second of one worker; 0 if it costs nothing.
    """
    if price_of_second <= 0.0:
        return USUAL_WORTH
    return price_of_invocation / price_of_second * (1.0 - SHARE_OF_PRICE) / SHARE_OF_PRICE


def _of_least_wall(now: Situation) -> float:
    return math.sqrt(now.left * now.invoking / now.duration)


def _of_equal_share(now: Situation) -> float:
    return now.left / (SHARE * max(1, now.slots))
