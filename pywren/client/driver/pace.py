"""``Pace``: how fast to invoke. Additive increase, multiplicative decrease (RFC 5681 uses the same rule for TCP).

TCP increases by a constant. Services allow from one to thousands of invocations per second, so here the increase is
relative to the rate, and it accelerates for as long as nothing is refused.
"""

from __future__ import annotations

import math

SLOWEST = 1.0
"""The lowest rate, in invocations per second: progress never stops while the service accepts anything."""

WINDOW = 1.0
"""Seconds over which answers are counted before the rate changes."""

_BELOW = 0.9  # after a refusal: this part of the rate that the service has accepted
_ALL_REFUSED = 0.25  # after a window in which nothing was accepted: this part of the rate
_STEP = 0.05  # the increase near what the service is known to accept
_BEYOND = 1.25  # how many times that the rate exceeds it where the increase doubles with every window
_FEW = 10  # answers that a window needs, unless the rate allows fewer
_ENOUGH = 20  # answers that decide on a decrease, or refusals before the window is over that outnumber the rest
_BURST = 0.1  # seconds of invocations that a thread that woke up late may catch up
_SAME = (0.7, 1.5)  # a decrease between whose refusals before and after is such a ratio did not help
_MOST_TOLERATED = 0.4  # the greatest share of refusals that is taken for independent of the rate


class Pace:
    """The rate of invocations of one service. It is unlimited until the service throttles for the first time.

    A service may refuse a share of all invocations, however few they are. Going slower does not help then, so a
    decrease that did not lower the share is taken back, and that share is tolerated.

    Callsets may share a pace, each under its own lock. Their threads may race for its counts; a count that is lost
    changes the rate by next to nothing.
    """

    def __init__(self) -> None:
        self.rate = math.inf
        self._next = -math.inf  # when the next invocation may be made
        self._accepted = self._throttled = 0  # in this window
        self._opened = self._last_answer = math.nan  # when this window began, and when the service last answered
        self._busy = 0.0  # seconds of this window in which the program invoked
        self._clean = 0  # windows beyond what was known, since the last decrease
        self._known = math.inf  # what the service accepted when it last refused
        self._tolerated = 0.0  # the share of refusals that the rate does not influence
        self._before: tuple[float, float] | None = None  # the rate and the share before the last decrease

    def wait(self, now: float) -> float:
        """Return how many seconds to wait before the next invocation; 0.0 reserves an invocation now."""
        if self._next > now:
            return self._next - now
        self._next = max(self._next, now - _BURST) + 1.0 / self.rate
        return 0.0

    def accepted(self, now: float) -> None:
        """Record that the service has accepted an invocation."""
        self._turn(now)
        self._accepted += 1

    def throttled(self, now: float) -> None:
        """Record that the service was too busy for an invocation."""
        self._turn(now)
        self._throttled += 1

    def _turn(self, now: float) -> None:
        """Change the rate if the window is over, and open the next one."""
        if math.isnan(self._opened):
            self._opened = self._last_answer = now
        # Without the time in which the program had nothing to invoke: that says nothing about the service.
        self._busy += min(now - self._last_answer, max(2.0 / self.rate, _BURST))
        self._last_answer = now
        lasted, busy, answers = now - self._opened, self._busy, self._accepted + self._throttled
        early = self._throttled >= _ENOUGH and self._throttled > self._accepted and lasted > 0.0
        # A program that invokes little has to wait longer for as many answers.
        if not early and (lasted < WINDOW or answers < min(_FEW, self.rate * WINDOW / 2.0)):
            return
        accepted, throttled = self._accepted, self._throttled
        expected = self._tolerated * answers
        is_worse = throttled > expected + 2.0 * math.sqrt(expected * (1.0 - self._tolerated))  # standard deviations
        if is_worse and accepted and answers < _ENOUGH:
            return  # a few refusals among a few answers may be chance: count on
        self._opened, self._busy, self._accepted, self._throttled = now, 0.0, 0, 0
        if is_worse:
            self._slower(accepted, throttled, lasted, max(busy, 1e-3))
        elif accepted:
            self._faster(throttled)

    def _slower(self, accepted: int, throttled: int, lasted: float, busy: float) -> None:
        self._clean = 0
        answers = accepted + throttled
        share = throttled / answers
        # An unlimited rate is replaced by the one that was reached.
        rate = self.rate if math.isfinite(self.rate) else max(answers / busy, _FEW)
        before, self._before = self._before, (rate, share)
        if before and answers >= _ENOUGH and share <= _MOST_TOLERATED and _SAME[0] < share / before[1] < _SAME[1]:
            self.rate, self._tolerated, self._before = max(rate, before[0]), share * 1.25, None
            return
        self._tolerated = 0.0
        if not accepted:
            rate *= _ALL_REFUSED
        elif math.isfinite(self.rate) and answers / lasted < rate / 2.0:
            rate *= 1.0 - share / 2.0  # the program did not use the rate, so what was accepted shows no limit
        else:
            self._known = accepted / busy
            rate = min(rate, _BELOW * self._known)
        self.rate = max(SLOWEST, rate)

    def _faster(self, throttled: int) -> None:
        if not throttled:
            self._tolerated /= 2.0
            self._before = None
        # Far below what the service has accepted before, the rate doubles, as in TCP's slow start; near that, it grows
        # slowly; beyond, faster and faster, because the limit has been raised.
        step = _STEP
        if self.rate < self._known / 2.0:
            step = 1.0
        elif self.rate > self._known * _BEYOND:
            self._clean += 1
            step = min(1.0, _STEP * 2.0 ** min(self._clean, 8))
        self.rate *= 1.0 + step
