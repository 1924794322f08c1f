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
_STEP = 0.05  # the first increase; it doubles with every window without a refusal
_ENOUGH = 20  # refusals that decide before the window is over, if they outnumber what was accepted
_BURST = 0.1  # seconds of invocations that a thread that woke up late may catch up
_HELPED = 0.8  # a decrease that left more than this part of the refusals did not cause them to go
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
        self._opened = math.nan  # when this window began
        self._clean = 0  # windows without a refusal since the last
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
            self._opened = now
        lasted = now - self._opened
        early = self._throttled >= _ENOUGH and self._throttled > self._accepted
        if lasted < WINDOW and not (early and lasted > 0.0):
            return
        accepted, throttled = self._accepted, self._throttled
        self._opened, self._accepted, self._throttled = now, 0, 0
        share = throttled / max(1, accepted + throttled)
        if share > self._tolerated:
            self._slower(accepted, throttled, share, lasted)
        elif accepted:
            self._faster(throttled)

    def _slower(self, accepted: int, throttled: int, share: float, lasted: float) -> None:
        self._clean = 0
        # An unlimited rate is replaced by the one that was reached.
        rate = min(self.rate, (accepted + throttled) / lasted)
        before, self._before = self._before, (rate, share)
        if before and accepted + throttled >= _ENOUGH and before[1] * _HELPED < share <= _MOST_TOLERATED:
            self.rate, self._tolerated, self._before = max(rate, before[0]), share * 1.25, None
            return
        self._tolerated = 0.0
        if accepted:
            self._known = accepted / lasted
        self.rate = max(SLOWEST, min(rate, _BELOW * self._known) if accepted else _ALL_REFUSED * rate)

    def _faster(self, throttled: int) -> None:
        self._clean += 1
        if not throttled:
            self._tolerated /= 2.0
            self._before = None
        # Far below what the service has accepted before, the rate doubles, as in TCP's slow start.
        step = 1.0 if self.rate < self._known / 2.0 else min(1.0, _STEP * 2.0 ** min(self._clean - 1, 8))
        self.rate *= 1.0 + step
