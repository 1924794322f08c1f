"""``Pace``: how fast to invoke. Additive increase, multiplicative decrease (RFC 5681 uses the same rule for TCP)."""

from __future__ import annotations

SLOWEST = 1.0
"""The lowest rate, in invocations per second: progress never stops while the service accepts anything."""


class Pace:
    """The rate of invocations of one service. It is unlimited until the service throttles for the first time."""

    def __init__(self) -> None:
        self.rate = float("inf")

    def wait(self, now: float) -> float:
        """Return how many seconds to wait before the next invocation; 0.0 reserves an invocation now."""
        return 0.0

    def accepted(self, now: float) -> None:
        """Record that the service has accepted an invocation."""
        pass

    def throttled(self, now: float) -> None:
        """Record that the service was too busy for an invocation."""
        pass
