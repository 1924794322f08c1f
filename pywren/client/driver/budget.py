"""``Budget``: what the calls of a map may cost, what they have cost, and how many more may be invoked. Pure decisions.

What is *spent* is what the service has accepted and what workers have measured. It is certain, apart from attempts that
have ended without figures: each of these counts as a mean attempt, or less if it was killed sooner. What is *in
flight* is estimated: what the attempts that run have cost so far, and besides, for each attempt, the cost of a mean
attempt, where

    mean = (weight × the most that one attempt may cost
            + what those that ended have cost + what those that run have so far)
           / (how many have ended + weight)

    weight = 1 / (how many have ended)², and 1 before

Before anything has ended this is the most that one attempt may cost: its memory for ``job_max_runtime``. So the first
wave cannot exceed the budget, however long its calls take. (It is one call at least, as otherwise nothing would ever be
known.) That is a guess, and usually hundreds of times too much, so its weight vanishes quickly: with a constant weight
a small budget would let calls run one at a time until hundreds had ended. Few ends say little, so it is not dropped at
the first. The time of those that still run counts, because the calls that end first are the short ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pywren.client.driver.calls import AttemptRecord, ChunkRecord
from pywren.client.driver.capacity import UNLIMITED, Room
from pywren.client.driver.service import UNSEEN
from pywren.cloud.prices import Tariff, Usage, money
from pywren.exceptions import BudgetExceededError
from pywren.wire.cause import NEVER_RAN, Cause

_FREE = NEVER_RAN | {Cause.REFUSED}
"""Causes of ends that show that the service has run nothing."""


class Budget:
    """A sum of money for the calls of one map, or of several that share it. Plain data.

    The lock of the service guards it: callsets that share a budget share a service too.

    Args:
        dollars: the sum.
        tariff: what attempts cost.

    Attributes:
        spent: what is spent, in dollars.
        mean: what one attempt is estimated to cost, apart from its invocation, in dollars.
        ended: how many attempts have ended and left figures.
    """

    def __init__(self, dollars: float, tariff: Tariff) -> None:
        self.dollars = dollars
        self.tariff = tariff
        self.spent = 0.0
        self.ended = 0
        self._most = tariff.cost_of_running(tariff.longest)
        self._invocation = tariff.cost(Usage(invocations=1))
        self._measured = self._so_far = 0.0  # what the attempts that ended have cost, and those that run, until now
        self.mean = self._most
        self._chunk = tariff.cost(Usage(invocations=1, puts=2, gets=1))  # with its plan and a page
        self._in_flight: dict[AttemptRecord, ChunkRecord | None] = {}  # with the chunks that they are in

    @property
    def is_spent(self) -> bool:
        """Whether nothing may be invoked any more, whatever becomes of the calls in flight."""
        return self.spent >= self.dollars

    @property
    def in_flight(self) -> float:
        """What the attempts in flight are estimated to cost, in dollars."""
        # Calls that have run for a while are the longer ones, and of what is still before them their past says little.
        return self._so_far + len(self._in_flight) * self.mean if self._in_flight else 0.0

    def take(self, attempt: AttemptRecord, chunk: ChunkRecord | None = None) -> None:
        """Count an attempt of a call that is being invoked, alone or in a chunk."""
        self._in_flight[attempt] = chunk

    def give_back(self, attempt: AttemptRecord) -> None:
        """Forget an attempt that the service did not accept."""
        self._in_flight.pop(attempt, None)

    def accepted(self, attempt: AttemptRecord) -> None:
        """Count an invocation. The service charges it, whatever becomes of it."""
        if attempt in self._in_flight:
            self.spent += self._invocation

    def accepted_chunk(self) -> None:
        """Count the invocation of a chunk, and what it reads and writes for all its calls together."""
        self.spent += self._chunk

    def close(self, attempt: AttemptRecord, usage: Usage | None) -> None:
        """Count what an attempt has cost that is not in flight any more.

        Args:
            attempt: the attempt.
            usage: what its worker has measured; ``None`` if nothing is known.
        """
        if attempt not in self._in_flight:
            return
        del self._in_flight[attempt]
        if usage is not None:
            cost = self.tariff.cost(usage)
            self.spent, self._measured, self.ended = self.spent + cost, self._measured + cost, self.ended + 1
            self._estimate()
        elif not math.isnan(attempt.sent) and attempt.cause not in _FREE:
            self.spent += min(self.mean, self._most_of(attempt))

    def _most_of(self, attempt: AttemptRecord) -> float:
        """Return what an attempt without figures has cost at most."""
        # One that is believed to be lost may go on. One that was killed has run since it was sent, at most. Without
        # this bound one that is killed before the first end would count as the longest call, and spend a small budget.
        if attempt.cause is not Cause.KILLED or math.isnan(attempt.ended):
            return math.inf
        return self.tariff.cost_of_running(attempt.ended - attempt.sent)

    def review(self, now: float) -> None:
        """Estimate anew, with what the attempts that run have cost so far.

        Args:
            now: the observed time.
        """
        # A chunk runs one call at a time, since the last one has ended.
        chunks = {one for one in self._in_flight.values() if one is not None}
        running = [_seconds(one, now) for one, chunk in self._in_flight.items() if chunk is None]
        running += [_seconds(one.current, now, one.news) for one in chunks if one.current is not None]
        seconds = sum(min(one, self.tariff.longest) for one in running)
        self._so_far = self.tariff.cost_of_running(seconds) if seconds else 0.0
        self._estimate()

    def _estimate(self) -> None:
        weight = 1.0 / max(1, self.ended) ** 2
        self.mean = (weight * self._most + self._measured + self._so_far) / (self.ended + weight)


def _seconds(attempt: AttemptRecord, now: float, news: float = math.nan) -> float:
    """Return how long an attempt in flight has run so far, or since it brought news, as far as that can be known."""
    if not math.isnan(news):
        return now - news
    if not math.isnan(attempt.started):
        return now - attempt.started + UNSEEN
    # It may wait, or run and not show it yet. The latter counts: among calls that begin together the short ones end
    # first, and without the others the mean would be far too small.
    return 0.0 if math.isnan(attempt.sent) else min(now - attempt.sent, UNSEEN)


def affordable(budget: Budget) -> Room:
    """Return how many more calls may be invoked: as long as what is spent and in flight is less than the budget."""
    left = budget.dollars - budget.spent - budget.in_flight
    if budget.is_spent:
        return Room(0, f"the budget of {money(budget.dollars)} is spent")
    if left <= 0.0:
        return Room(0, f"the calls in flight may need the rest of the budget of {money(budget.dollars)}")
    each = budget.mean + budget.tariff.cost(Usage(invocations=1))
    return Room(UNLIMITED if left >= each * UNLIMITED else math.ceil(left / each))


class Exceeded(NamedTuple):
    """How things stood when a budget was found to be spent: all calls that are not invoked tell the same figures.

    Args:
        budget: the sum, in dollars.
        spent: what was spent.
        in_flight: what calls in flight were estimated to cost.
        calls: how many calls of the map were not invoked.
    """

    budget: float
    spent: float
    in_flight: float
    calls: int

    def error(self, attempts: str) -> BudgetExceededError:
        """Return the error of a call.

        Args:
            attempts: words that name all its attempts; empty if it was never invoked.
        """
        flying = f", and about {money(self.in_flight)} is in flight" if self.in_flight else ""
        calls = "1 call was" if self.calls == 1 else f"{self.calls:,} calls were"
        text = (
            f"the call was not invoked{' again' if attempts else ''}, because the budget of {money(self.budget)} is "
            f"spent: about {money(self.spent)} so far{flying}. {calls} not invoked: map over the items whose futures "
            "have this error, with another budget, to run the rest"
        )
        text += f" {attempts}" if attempts else ""
        return BudgetExceededError(text, self.budget, self.spent, self.calls)
