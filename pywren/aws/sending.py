"""How requests to AWS are sent, for the two modules that send any: client options, patience and back-off."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pywren.aws.errors import is_network_error, is_throttling
from pywren.system.threads import MOST_AT_ONCE
from pywren.version import __version__

Answer = TypeVar("Answer")

CLIENT_OPTIONS: Mapping[str, Any] = {
    "max_pool_connections": MOST_AT_ONCE,
    "tcp_keepalive": True,
    "connect_timeout": 10,
    "read_timeout": 60,
    # Pinned: the default mode differs between versions. Its quota of retries is shared by all threads of
    # a client, and a burst of refusals uses it up: hence `Retry` around it.
    "retries": {"mode": "standard", "total_max_attempts": 3},
    # Third of the CPU time of a small request; what we send is typed and tested.
    "parameter_validation": False,
    # Some S3-compatible servers refuse botocore's own checksums. Digests of all that matters travel in
    # the payload and the status.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    # botocore composes its own anew for every request, which is a tenth of the CPU time of a small one
    "user_agent": f"pywren/{__version__}",
}
"""Arguments of ``botocore.config.Config``."""

THROTTLING_PATIENCE = 120.0
"""Seconds for which a service that says "slow down", or fails inside, is asked again."""

NETWORK_PATIENCE = 5.0
"""Seconds for which an endpoint that cannot be reached is tried again."""


def compute_backoff(
    attempt: int, *, base: float = 0.1, ceiling: float = 10.0, jitter: Callable[[], float] = random.random
) -> float:
    """Return the seconds to wait before trying again.

    Args:
        attempt: how many tries have failed before this one, from 0.
        base: seconds of the longest first wait; it doubles with every attempt.
        ceiling: seconds that no wait exceeds.
        jitter: gives a number in [0, 1): where in the upper half of the wait to land.

    The lower half is kept, or many clients that were refused at once would come back at once.
    """
    longest = min(ceiling, base * 2.0 ** min(attempt, 32))
    return longest / 2 + jitter() * longest / 2


def patience(error: BaseException) -> float:
    """Return the seconds for which a request that failed like this is worth repeating: 0 for a refusal."""
    if is_throttling(error):
        return THROTTLING_PATIENCE
    return NETWORK_PATIENCE if is_network_error(error) else 0.0


@dataclass(frozen=True)
class Retry:
    """Repeats requests that are safe to repeat.

    Args:
        patience: tells from an error for how many seconds to go on.
        sleep: waits some seconds.
        clock: monotonic seconds.
        jitter: a number in [0, 1).
    """

    patience: Callable[[BaseException], float] = patience
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def run(self, request: Callable[[], Answer]) -> Answer:
        """Send a request until it is answered, or what it raises is not worth another try."""
        began = self.clock()
        for attempt in itertools.count():
            delay = compute_backoff(attempt, jitter=self.jitter)
            try:
                return request()
            except Exception as error:
                if self.clock() - began + delay > self.patience(error):
                    raise
            self.sleep(delay)
        raise AssertionError("unreachable")
