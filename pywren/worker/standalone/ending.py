"""When a stand-alone worker ends: according to its rule, or because a service has failed for too long."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from pywren.aws.sending import compute_backoff
from pywren.exceptions import PywrenError

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0
"""The longest pause between two attempts, in seconds."""


@dataclass(frozen=True)
class EndRule:
    """When a worker ends by itself. If none of the arguments is set, the worker never ends by itself.

    Args:
        max_idle_time: seconds without a call after which the worker ends.
        granularity: the length of a billing period in seconds. An idle worker ends only near the end of such a period
            of the machine's uptime, for clouds that bill whole hours; with 0, it may end at any time.
        max_life_time: seconds after which the worker takes no more calls.
        max_calls: how many calls the worker takes at most.
    """

    max_idle_time: float | None = None
    granularity: float = 0.0
    max_life_time: float | None = None
    max_calls: int | None = None

    def is_idle_too_long(self, idle: float, uptime: float) -> bool:
        """Tell whether an idle worker should end.

        Args:
            idle: seconds without a call.
            uptime: seconds since the machine started.
        """
        if self.max_idle_time is None or idle < self.max_idle_time:
            return False
        # By the machine's uptime, because the cloud bills from its start; the worker may have started much later.
        return self.granularity <= 0 or self.granularity - uptime % self.granularity <= self._window()

    def _window(self) -> float:
        """Return how many seconds before the end of a period an idle worker may end: enough time for several checks."""
        return max(0.05 * self.granularity, 60.0)

    def is_over(self, ran: float, calls: int) -> bool:
        """Tell whether a worker should take no more calls.

        Args:
            ran: seconds since the worker started.
            calls: how many calls the worker has taken.
        """
        out_of_time = self.max_life_time is not None and ran >= self.max_life_time
        return out_of_time or (self.max_calls is not None and calls >= self.max_calls)

    def longest_wait(self, poll: int, idle: float, ran: float) -> int:
        """Return how many whole seconds a worker may wait for calls before it checks the rule again.

        Args:
            poll: the longest wait, in seconds.
            idle: seconds without a call.
            ran: seconds since the worker started.
        """
        # SQS's ReceiveMessage waits in whole seconds, 20 at most. A wait beyond a deadline would hold the machine that
        # long.
        left: list[float] = [poll]
        if self.max_life_time is not None:
            left.append(self.max_life_time - ran)
        # A worker that has been idle for too long waits for the end of the period, in polls of full length.
        if self.max_idle_time is not None and (idle < self.max_idle_time or self.granularity <= self._window()):
            left.append(self.max_idle_time - idle)
        return max(1, math.ceil(min(left)))  # a shorter wait is a short poll, which queries only some of SQS's servers


NEVER = EndRule()
"""The rule of a worker that runs until it is stopped."""


class Trouble:
    """Consecutive errors of one service. Threads may share it.

    Args:
        patience: seconds without a success after which the error is raised.
        clock: returns monotonic seconds.
        first_patience: the patience before the first success.
    """

    def __init__(self, patience: float, clock: Callable[[], float], first_patience: float | None = None) -> None:
        self._patience = patience if first_patience is None else first_patience
        self._later_patience = patience
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below, which calls write and the polling thread reads
        self._errors = 0
        self._last: PywrenError | None = None
        self._since = 0.0

    def note(self, error: PywrenError) -> None:
        """Record an error."""
        with self._lock:
            # The first of a row: a success in between starts the patience again.
            if not self._errors:
                self._since = self._clock()
            self._errors += 1
            self._last = error
        # Without the lock: a handler may write to a pipe that nobody reads.
        logger.warning("%s", error)

    def passed(self) -> None:
        """Record a success, which ends the trouble."""
        with self._lock:
            self._errors, self._last = 0, None
            # The service has answered once, so the role works: what fails now is an outage, for which the worker waits
            # longer.
            self._patience = self._later_patience

    def pause(self) -> float:
        """Return how many seconds to wait before the next request; 0 if there is no trouble.

        Raises:
            PywrenError: the last error, if the trouble has lasted too long.
        """
        with self._lock:
            if self._last is None:
                return 0.0
            if self._clock() - self._since >= self._patience:
                # Only the polling thread calls this, so exactly one thread ends the worker.
                raise self._last
            # With jitter: all workers lose SQS at the same moment, and must not come back at the same moment.
            return compute_backoff(self._errors, base=0.5, ceiling=LONGEST_PAUSE)
