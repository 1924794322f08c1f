"""How ``aws.requests`` and ``storage.s3_backend`` send requests: client options, patience and back-off."""

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
    # As many as for_each() has threads: urllib3 drops connections beyond its pool, and each request would pay for a new
    # TLS handshake.
    "max_pool_connections": MOST_AT_ONCE,
    # SO_KEEPALIVE: the kernel notices a peer that has vanished. When it probes is up to tcp(7) tcp_keepalive_time,
    # which is 2 hours on Linux unless it was changed.
    "tcp_keepalive": True,
    "connect_timeout": 10,
    # Longer than SQS's longest poll of 20 s, during which the service sends nothing.
    "read_timeout": 60,
    # The mode is set because the default differs between versions. All threads of a client share its retry quota,
    # which a burst of refusals uses up ("Retries", boto3 guide). So `Retry` retries too.
    "retries": {"mode": "standard", "total_max_attempts": 3},
    # Validation takes a third of the CPU time of a small request; pywren's arguments are typed and tested.
    "parameter_validation": False,
    # Some S3-compatible servers refuse botocore's own checksums. Payloads and statuses have the digests pywren needs.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    # Composing botocore's own user agent would take a tenth of the CPU time of a small request.
    "user_agent": f"pywren/{__version__}",
}
"""The arguments for ``botocore.config.Config``, which all clients share."""

THROTTLING_PATIENCE = 120.0
"""Seconds for which to retry a service that is overloaded or failing."""

NETWORK_PATIENCE = 5.0
"""Seconds for which to retry an endpoint that cannot be reached."""


def compute_backoff(
    attempt: int, *, base: float = 0.1, ceiling: float = 10.0, jitter: Callable[[], float] = random.random
) -> float:
    """Return how many seconds to wait before the next try: between half of the longest wait and the longest wait.

    The random part prevents clients that were refused at the same time from trying again at the same time
    ("Exponential Backoff and Jitter", AWS Architecture Blog, "equal jitter").

    Args:
        attempt: the number of the wait, from 0.
        base: the longest wait for attempt 0, in seconds; it doubles with every attempt.
        ceiling: the longest wait for any attempt, in seconds.
        jitter: returns a number in [0, 1).
    """
    # The exponent is bounded: 2.0 ** 1024 raises OverflowError, which a long row of failures could reach.
    longest = min(ceiling, base * 2.0 ** min(attempt, 32))
    return longest / 2 + jitter() * longest / 2


def patience(error: BaseException) -> float:
    """Return for how many seconds to retry a request that failed with this error; 0 if the service refused it."""
    if is_throttling(error):
        return THROTTLING_PATIENCE
    return NETWORK_PATIENCE if is_network_error(error) else 0.0


@dataclass(frozen=True)
class Retry:
    """Repeats requests that can safely be repeated.

    Args:
        patience: returns for how many seconds to retry after an error.
        sleep: waits a number of seconds.
        clock: returns monotonic seconds.
        jitter: returns a number in [0, 1).
    """

    patience: Callable[[BaseException], float] = patience
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def run(self, request: Callable[[], Answer]) -> Answer:
        """Send a request until it succeeds, or raise the first error that is not worth retrying."""
        began = self.clock()
        for attempt in itertools.count():
            delay = compute_backoff(attempt, jitter=self.jitter)
            try:
                # On the caller's thread, and without any lock: other threads send meanwhile.
                return request()
            except Exception as error:
                # The patience of the latest error counts: throttling may turn into a broken network, and the other way
                # round. Include the wait, so that no thread sleeps only to give up.
                if self.clock() - began + delay > self.patience(error):
                    raise
            self.sleep(delay)
        raise AssertionError("unreachable")
