"""Runs staged calls on this machine: ``LocalWorker`` for ``LocalInvoker``, and ``run_payloads`` for programs.

The route is ``Route.STAGED_HERE``: functions, arguments and statuses are in a storage, and a ``Container`` runs the
worker's handler for each payload, as on Lambda.

Any thread of the program may submit payloads. ``LocalWorker`` has at most one thread per processor; the threads take
payloads from ``_waiting``. ``_lock`` guards that queue and the number of threads. A thread that finds the queue empty
ends, and decrements the number under the same lock, so no payload is ever left without a thread.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pywren.exceptions import DecodeError
from pywren.system import shutdown
from pywren.wire.chunk import calls_of

if TYPE_CHECKING:
    from pywren.worker.handler import Container
    from pywren.worker.parent.pool import LocalPool
    from pywren.worker.task import RunResult, Stop, Task

logger = logging.getLogger(__name__)

Payload = Mapping[str, Any]


class LocalWorker:
    """Runs payloads in a container, on threads that live only while there are payloads.

    If no thread can be started, the thread that submits runs them.

    The threads are daemon threads, but the program waits for them at its end, as for all calls of this machine
    (``system.shutdown``).

    Args:
        pool: returns the pool that runs the calls. This function is called for each call, because the shared pool may
            end and be replaced.
        environment: the environment variables that calls see.
        most: the most threads; ``None`` for one for each processor.
    """

    def __init__(self, pool: Callable[[], LocalPool], environment: Mapping[str, str], most: int | None = None) -> None:
        from pywren.worker.handler import Container  # imported here, as calls in memory never need it

        self._context = {"invoker": "LocalInvoker", "jobnum": str(os.getpid())}
        self._container = Container(_PoolRunner(pool, environment), context=self._context)
        # The shared pool has at most this many processes: further threads would only wait for one, each holding a
        # fetched argument.
        self._limit = most or os.cpu_count() or 1
        self._waiting: deque[Payload] = deque()
        # Threads, not calls. Incremented by the submitting thread, decremented by the thread that ends, both under
        # ``_lock``.
        self._running = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # told when a thread has nothing to do any more

    def submit(self, payload: Payload) -> None:
        """Run one call as soon as a thread is free."""
        with self._lock:
            self._waiting.append(payload)
            shutdown.wait_for(self)  # in memory only
            # Every thread checks the queue under this lock before it ends, so one of the running ones takes the
            # payload.
            if self._running >= self._limit:
                return
            try:
                threading.Thread(target=self._work, name="pywren-local-call", daemon=True).start()
            except RuntimeError:
                # There are too many threads, or the program is ending: Python 3.12 starts no threads then.
                if self._running:
                    return  # one of the running threads takes the payload
                here = True
            else:
                here = False
            # After start(). The new thread cannot decrement first, because it needs the lock that this thread holds.
            self._running += 1
        if here:
            self._work()

    def withdraw(self, callset_id: str) -> list[str]:
        """Take back the calls of a callset that no thread has taken, and return their ids."""
        with self._lock:
            taken = [payload for payload in self._waiting if payload.get("callset_id") == callset_id]
            self._waiting = deque(payload for payload in self._waiting if payload.get("callset_id") != callset_id)
        return [call_id for payload in taken for call_id in calls_of(payload)]

    def held_back(self) -> str | None:
        """Return how many calls have not ended, for the line that the end of the program logs; ``None`` if all have."""
        with self._lock:
            count = len(self._waiting) + self._running
        calls = "1 call" if count == 1 else f"{count} calls"
        return f"{calls} on this machine have not ended" if count else None

    def wait_until_invoked(self, timeout: float | None) -> bool:
        """Wait until no call waits or runs. Return False if ``timeout``, in seconds, runs out first."""
        with self._lock:
            return self._changed.wait_for(lambda: not self._waiting and not self._running, timeout)

    def close(self) -> None:
        """Cancel the calls that have not started. Running calls go on to their end."""
        with self._lock:
            # From here on no other thread finds these payloads.
            waiting, self._waiting = self._waiting, deque()
        if waiting:
            # On a thread of its own: writing thousands of statuses takes seconds, and may block.
            threading.Thread(target=self._cancel, args=(waiting,), name="pywren-local-cancel", daemon=True).start()
        # Not under the lock: it closes connections. A thread that is still inside handle() opens new ones when it
        # stores its outcome.
        self._container.close()

    def _cancel(self, payloads: Iterable[Payload]) -> None:
        """Write the statuses of calls that were cancelled before they started."""
        from pywren.worker.handler import Container

        with Container(_Canceller(), context=self._context) as container:
            for payload in payloads:
                _handle(container, payload)

    def _work(self) -> None:
        with shutdown.accepted_work():
            try:
                self._work_on()
            except BaseException:  # Ctrl-C, if this is the thread that submits
                self._end_thread()
                raise

    def _end_thread(self) -> None:
        with self._lock:
            self._running -= 1
            self._changed.notify_all()

    def _work_on(self) -> None:
        while True:
            with self._lock:
                # Test and decrement in one step under the lock. With a gap between them, submit() could count on a
                # thread that has already decided to end.
                if not self._waiting:
                    self._running -= 1
                    self._changed.notify_all()
                    return
                payload = self._waiting.popleft()
            # This blocks the thread for the whole call: fetching, running in a child, and storing the outcome.
            _handle(self._container, payload)


def _handle(container: Container, payload: Payload) -> None:
    try:
        container.handle(payload)
    except Exception as error:  # noqa: BLE001 -- an ended thread would still be counted, and calls would wait
        # As on Lambda: the call's status already contains everything that the client can be told.
        logger.warning("a local call ended without a status: %s", error)


class _PoolRunner:
    """A ``Runner`` that uses a shared pool."""

    def __init__(self, pool: Callable[[], LocalPool], environment: Mapping[str, str]) -> None:
        self._pool = pool
        self._environment = environment

    def run(self, task: Task, *, stopped: Stop | None = None) -> RunResult:
        # Ask for the pool at each call: the shared pool ends when idle or after an error, and another one replaces it.
        return self._pool().run(task, stopped=stopped, environment=self._environment)

    def end_waiting(self) -> None:
        pass  # the shared pool reserves no process for a particular call

    def close(self) -> None:
        pass  # others also use the shared pool


class _Canceller:
    """A ``Runner`` that runs nothing: every call ends as cancelled."""

    def run(self, task: Task, *, stopped: Stop | None = None) -> RunResult:
        from pywren.worker.task import RunResult, cancelled_failure

        return RunResult(None, None, failure=cancelled_failure(running=False), returncode=None)

    def end_waiting(self) -> None:
        pass  # there are no processes

    def close(self) -> None:
        pass


def run_payloads(
    payloads: Sequence[Payload],
    *,
    context: Mapping[str, Any] | None = None,
    more: Callable[[Sequence[Payload]], Sequence[Payload]] = lambda _: (),
) -> None:
    """Run calls one after the other in child processes of this machine, and return when all have ended.

    Args:
        payloads: the calls.
        context: data about these invocations; the strings in it become members of the statuses.
        more: gets the calls that have just run, and returns those to run next.

    Raises:
        DecodeError: a payload was not valid; the other calls have run.
    """
    from pywren.worker.handler import Container

    if not payloads:
        return
    first_error: DecodeError | None = None
    with Container() as container:
        number = itertools.count()
        while payloads:
            for payload in payloads:
                try:
                    container.handle(payload, {"jobnum": str(next(number)), **(context or {})})
                except DecodeError as error:
                    first_error = first_error or error
            payloads = more(payloads)
    if first_error is not None:
        raise first_error
