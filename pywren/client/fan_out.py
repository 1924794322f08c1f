"""``FanOut``: whether invocations of one function go through relays at present.

A relay pays off where the program itself would take long to invoke all calls. It is passed over for a while after a
relay was too busy, and for good if the function may not invoke itself.

Threads that invoke and those that poll share one object without a lock: each attribute is written as a whole, and a
decision that comes a moment too late costs one more relay.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from pywren.wire.failure import Failure
from pywren.wire.relay import BUSY, DENIED

logger = logging.getLogger(__name__)

LEAST = 3000
"""More invocations than this go through relays. One client makes some hundred in a second from afar, and
over a thousand in the same region."""

SLOW = 10.0
"""On a slow line fewer do: as many as would take more than so many seconds."""

REST = 60.0
"""Seconds without relays after one was too busy, or was refused."""


class FanOut:
    """Decides for one invoker.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rests_until = -math.inf

    def is_usable(self) -> bool:
        """Tell whether relays may be used now."""
        return self._clock() >= self._rests_until

    def is_worth(self, waiting: int, rate: float | None = None) -> bool:
        """Tell whether relays are to be used for what waits to be invoked.

        Args:
            waiting: how many invocations wait.
            rate: how many invocations in a second the program makes without relays, if it has made some.
        """
        return self.is_usable() and (waiting > LEAST or (rate is not None and waiting > SLOW * rate))

    def refused(self, error: BaseException) -> None:
        """Record that the service has refused a relay."""
        self._rests_until = max(self._rests_until, self._clock() + REST)
        logger.info("calls are invoked without relays for %.0f s: %s", REST, error)

    def handed_back(self, failure: Failure) -> bool:
        """Record what a worker has reported, and tell whether it is that a relay has handed a call back."""
        code = failure.details[0] if failure.details else None
        if code == DENIED:
            if self._rests_until != math.inf:
                self._rests_until = math.inf
                logger.warning(
                    "calls are invoked without fan-out from now on, because the function may not invoke itself: run "
                    "'pywren deploy_lambda', or 'pywren iam --print execution' to see what its role lacks, or remove "
                    "`lambda: fan_out` from the configuration (%s)",
                    failure.message,
                )
        elif code == BUSY:
            self._rests_until = max(self._rests_until, self._clock() + REST)
        return code in (BUSY, DENIED)
