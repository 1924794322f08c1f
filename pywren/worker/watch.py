"""``CallWatch``: looks after a call while a worker handles it. A call that is quick costs no request.

Threads: the call's own thread starts and ends the watch. The thread ``pywren-status-watch`` sends all requests of the
watch, one after the other, so a call never has two of them open. The two threads share ``stopped``, which the watch
sets at most once, and an event, which the call's thread sets at the end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from pywren.exceptions import PywrenError
from pywren.wire.beacon import Beacon
from pywren.worker.task import Stop

logger = logging.getLogger(__name__)

FIRST_LOOK = 2.0
"""Seconds after which the watch sends its first requests."""

LOOK_INTERVAL = 3.0
"""Seconds between two checks whether the call was ended elsewhere."""

BEACON_INTERVAL = 30.0
"""Seconds between two writes of a beacon. Clients take a worker for dead when two are missing."""


class BeaconWriter:
    """Writes the beacon of an attempt, and renews it.

    Args:
        beacon: the first beacon.
        write: stores a beacon.
        interval: seconds between two writes.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        beacon: Beacon,
        write: Callable[[Beacon], object],
        interval: float = BEACON_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._beacon = beacon
        self._write = write
        self._interval = interval
        self._clock = clock
        self._due = clock()

    def turn(self) -> None:
        """Write the beacon if it is due. If that fails, log the error; the next turn tries again."""
        now = self._clock()
        if now < self._due:
            return
        try:
            self._write(self._beacon)
        except PywrenError as error:
            # At worst the client takes this worker for dead, and a second attempt runs beside this one.
            logger.warning("cannot show that call %s still runs: %s", self._beacon.call_id, error)
            return
        # From the beginning of the write: the storage may have given it that time.
        self._due = now + self._interval
        self._beacon = replace(self._beacon, renewed=self._beacon.renewed + 1)


class CallWatch:
    """Checks regularly whether a call was ended elsewhere, and if so, stops it; and shows that it runs.

    Args:
        stands: tells whether the call already has a status.
        beacon: writes the call's beacon; ``None`` for a call that has none.
        first_look: seconds before the first requests; a faster call costs no request.
        interval: seconds between later checks.
    """

    def __init__(
        self, stands: Callable[[], bool], beacon: BeaconWriter | None, first_look: float, interval: float
    ) -> None:
        self.stopped = Stop()
        self._stands = stands
        self._beacon = beacon
        self._pauses = first_look, interval
        # Also what the thread sleeps on, so that the end of a call never waits for an interval to pass.
        self._over = threading.Event()
        # Daemon: a process that must end while a request of the watch hangs does not wait for it.
        self._thread = threading.Thread(target=self._look, name="pywren-status-watch", daemon=True)

    def __enter__(self) -> CallWatch:
        # There are too many threads, or the program is ending: Python 3.12 starts no threads then, but local calls are
        # waited for. Such a call runs, and cannot be stopped.
        with contextlib.suppress(RuntimeError):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # In this order: the thread wakes at once unless a request is on its way; then the join takes as long as that
        # request.
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()  # a check in progress may still set ``stopped``, which the caller reads after this

    def _look(self) -> None:
        pause, interval = self._pauses
        while not self._over.wait(pause):
            # ``stands`` answers False when the storage fails, so one failed look does not end the watch.
            if self._stands():
                # Before the child runs, this is kept until it does; then it kills the child's process group.
                self.stopped.set()
                return
            # After the look, and not if the call has ended meanwhile: then a beacon would only cost a request.
            if self._beacon is not None and not self._over.is_set():
                self._beacon.turn()
            pause = interval
