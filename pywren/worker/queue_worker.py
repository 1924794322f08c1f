"""``QueueWorker``: takes calls from an SQS queue and runs them on this machine, several at once.

::

    receive ─▶ threads: Container.handle ─▶ status stands ─▶ delete the message
       │              ▲ one heartbeat keeps all messages under work hidden from other workers
       └ idle rule    └ stop(): children killed, messages given back

A message is deleted when a status of its call stands, and no earlier: whatever happens to a worker, the message
comes back, and another worker takes the call.
"""

from __future__ import annotations

import enum
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pywren.aws.requests import is_missing_queue
from pywren.aws.sending import compute_backoff
from pywren.exceptions import CallLostError, DecodeError, PywrenError, StorageError, WorkerCrashedError
from pywren.worker.task import RunResult, Stop, cancelled_failure

if TYPE_CHECKING:
    from pywren.aws.requests import AWS, Message
    from pywren.worker.handler import Container
    from pywren.worker.task import Runner, Task

logger = logging.getLogger(__name__)

VISIBILITY = 60
"""Seconds for which a message that is being worked on stays hidden, again and again."""

HEARTBEAT = 20.0
"""Seconds between one extension and the next."""

MOST_DELIVERIES = 5
"""How often a call is given to a worker. Each that dies of it may take a machine along; but workers that are taken
away, and calls that die because of another on their machine, count too."""

MOST_MESSAGES = 10
"""Messages that one ReceiveMessage brings at most (the limit of SQS)."""

PATIENCE = 3600.0
"""Seconds of trouble without a break after which a worker ends."""

FIRST_PATIENCE = 60.0
"""The same for SQS before it has ever answered: a role that was made a moment ago is not known everywhere yet."""

LONGEST_PAUSE = 30.0
"""Seconds between two tries at most."""

LONG_POLL = 20
"""Seconds that one ReceiveMessage waits at most (the limit of SQS)."""

SIGNAL_GRACE = 1.0
"""Seconds between the signals that processes of one control group are sent at once, and which arrive in any order."""


# -- when a worker ends ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EndRule:
    """When a worker ends by itself; without any of these, never.

    Args:
        max_idle_time: seconds without a call after which it ends.
        granularity: an idle worker ends only near the end of a period of so many seconds of the machine's uptime
            (clouds that bill whole hours); 0 ends it at any time.
        max_life_time: seconds after which it takes no more calls.
        max_calls: the number of calls after which it takes no more.
    """

    max_idle_time: float | None = None
    granularity: float = 0.0
    max_life_time: float | None = None
    max_calls: int | None = None

    def is_idle_too_long(self, idle: float, uptime: float) -> bool:
        """Tell whether an idle worker is to end.

        Args:
            idle: seconds without a call.
            uptime: seconds since the machine was started.
        """
        if self.max_idle_time is None or idle < self.max_idle_time:
            return False
        return self.granularity <= 0 or self.granularity - uptime % self.granularity <= self._window()

    def _window(self) -> float:
        """Return how near the end of a period is near enough: several looks must fall into it."""
        return max(0.05 * self.granularity, 60.0)

    def is_over(self, ran: float, calls: int) -> bool:
        """Tell whether a worker is to take no more calls.

        Args:
            ran: seconds since it was started.
            calls: the calls that it has taken.
        """
        out_of_time = self.max_life_time is not None and ran >= self.max_life_time
        return out_of_time or (self.max_calls is not None and calls >= self.max_calls)

    def longest_wait(self, poll: int, idle: float, ran: float) -> int:
        """Return for how many whole seconds to wait for calls before the rule is looked at again.

        Args:
            poll: the longest wait.
            idle: seconds without a call.
            ran: seconds since the worker was started.
        """
        left: list[float] = [poll]
        if self.max_life_time is not None:
            left.append(self.max_life_time - ran)
        # when that is over already, it is the end of the period that is waited for
        if self.max_idle_time is not None and (idle < self.max_idle_time or self.granularity <= self._window()):
            left.append(self.max_idle_time - idle)
        return max(1, math.ceil(min(left)))  # below a second SQS asks some of its servers only


# -- the worker ------------------------------------------------------------------------------------------------


class QueueWorker:
    """Takes calls from a queue and runs them, several at once, until a rule or ``stop`` ends it.

    Args:
        aws: what sends the requests.
        queue_name: the queue.
        container: what handles the calls; one of its own, whose calls ``stop`` can end, when not given.
        parallelism: how many calls to run at once.
        rule: when to end.
        max_run_time: seconds after which a call is stopped, if its own ``job_max_runtime`` is longer.
        poll: seconds that one request waits for calls, 1 to 20.
        patience: seconds of trouble, with SQS or the storage, that are waited out.
        heartbeat: seconds between the requests that keep a message hidden.
        clock: seconds since the machine was started.
    """

    def __init__(
        self,
        aws: AWS,
        queue_name: str,
        container: Container | None = None,
        *,
        parallelism: int = 1,
        rule: EndRule = EndRule(),
        max_run_time: float | None = None,
        poll: int = LONG_POLL,
        patience: float = PATIENCE,
        heartbeat: float = HEARTBEAT,
        clock: Callable[[], float] = time.monotonic,  # on Linux and macOS it counts from the machine's start
    ) -> None:
        self.queue_name = queue_name
        self.parallelism = parallelism
        self.rule = rule
        self.max_run_time = max_run_time
        self.taken = 0
        self._aws = aws
        self._poll = poll
        self._clock = clock
        self._started = clock()
        self._over = threading.Event()
        self._queue_trouble = _Trouble(patience, clock, min(patience, FIRST_PATIENCE))
        self._storage_trouble = _Trouble(patience, clock)
        self._under_work = _UnderWork(self._hide, heartbeat, clock)
        self._url = ""
        self._asks_until = -math.inf
        self._in_vain = False  # whether the last look into the queue found nothing
        self._runner: InterruptibleRunner | None = None
        self._container = container or self._make_container()

    def __enter__(self) -> QueueWorker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes, unless the container was given."""
        if self._runner is not None:
            self._container.close()
            self._runner.close()

    def _make_container(self) -> Container:
        from pywren.worker.handler import Container
        from pywren.worker.parent.fork_server import ForkServer

        self._runner = InterruptibleRunner(ForkServer())
        return Container(self._runner, environment=_threads_of_libraries(self.parallelism))

    def run(self) -> int:
        """Take calls until the worker is to end, and return how many it took; those under way are finished.

        Raises:
            InvocationError: there is no such queue.
            PywrenError: SQS or the storage has been in trouble for too long.
        """
        with self._under_work, ThreadPoolExecutor(self.parallelism, "pywren-queue-call") as threads:
            try:
                while self._goes_on():
                    self._take(threads)
            except KeyboardInterrupt:
                self.stop()  # or it would be noticed only when the calls have ended
                raise
        for trouble in (self._queue_trouble, self._storage_trouble):
            trouble.pause()
        return self.taken

    def stop(self) -> None:
        """Take no more calls; those that run are killed and given back to the queue, for another worker."""
        logger.info("told to end, in %d s at most; calls that are given back: %d", self._poll, len(self._under_work))
        self._over.set()
        if self._runner is not None:
            self._runner.interrupt()
        self._under_work.wake()

    # -- taking calls ------------------------------------------------------------------------------------------

    def _goes_on(self) -> bool:
        """Wait until there is room for a call; tell whether to take one."""
        self._under_work.wait_for_room(self.parallelism, self._over)
        now = self._clock()
        if self._over.is_set() or self.rule.is_over(now - self._started, self.taken):
            return False
        idle = self._under_work.idle if self._in_vain else None
        if idle is None or not self.rule.is_idle_too_long(idle, now):
            return True
        logger.info("no call for %.0f s", idle)
        return False

    def _take(self, threads: ThreadPoolExecutor) -> None:
        received = self._receive()
        for message in received:
            self._under_work.add(message)
            threads.submit(self._work, message)
        self.taken += len(received)
        self._in_vain = not received

    def _receive(self) -> list[Message]:
        """Return the next messages; none when there are none, or SQS or the storage are in trouble."""
        pause = max(self._queue_trouble.pause(), self._storage_trouble.pause())
        if self._over.wait(pause):
            return []
        try:
            self._url = self._url or self._aws.queue_url(self.queue_name)
            seconds = self._wait_seconds()
            self._asks_until = self._clock() + seconds
            received = self._aws.receive(self._url, wait_seconds=seconds, most=self._most(), visibility=VISIBILITY)
        except PywrenError as error:
            if is_missing_queue(error):
                raise
            self._queue_trouble.note(error)
            return []
        finally:
            self._asks_until = -math.inf
        self._queue_trouble.passed()
        return received

    def _wait_seconds(self) -> int:
        return self.rule.longest_wait(self._poll, self._under_work.idle or 0.0, self._clock() - self._started)

    def _most(self) -> int:
        room = min(self.parallelism - len(self._under_work), MOST_MESSAGES)
        return room if self.rule.max_calls is None else min(room, self.rule.max_calls - self.taken)

    # -- one call ----------------------------------------------------------------------------------------------

    def _work(self, message: Message) -> None:
        """Handle one call, and do with its message what follows from how it ended."""
        fate = _Fate.COMES_BACK
        try:
            fate = self._handle(message)
            if fate is _Fate.DONE:  # as long as it is kept hidden
                self._let_go(self._aws.delete_message, self._url, message)
        except StorageError as error:
            self._storage_trouble.note(error)
        except Exception:  # whatever it is, the message comes back and other calls go on
            logger.exception("a call was not handled")
        finally:
            self._under_work.remove(message)
        if fate is _Fate.GIVEN_BACK:
            self._let_go(self._hide, message, self._rest_of_request())

    def _let_go(self, request: Callable[..., None], *arguments: Any) -> None:
        try:
            request(*arguments)
        except PywrenError as error:
            logger.warning("a message comes back: %s", error)  # a call whose status stands is not run again

    def _handle(self, message: Message) -> _Fate:
        if self._over.is_set():
            return _Fate.GIVEN_BACK
        try:
            payload = _decode(message.body)
            if message.deliveries > MOST_DELIVERIES:
                self._container.refuse(payload, CallLostError(_NEVER_FINISHED))
                status = None
            else:
                status = self._container.handle(payload, self._context())
        except DecodeError as error:
            # it would come back for ever; a client that can be told, was told
            logger.warning("a message that is no call was dropped: %s", error)
            return _Fate.DONE
        self._storage_trouble.passed()
        interrupted = status is None and self._over.is_set()
        return _Fate.GIVEN_BACK if interrupted else _Fate.DONE

    def _context(self) -> Mapping[str, Any]:
        """Say what Lambda would say: how much time there is, and to report in."""
        from pywren.worker.handler import PLATFORM_MARGIN

        return {} if self.max_run_time is None else {"remaining_seconds": self.max_run_time + PLATFORM_MARGIN}

    def _rest_of_request(self) -> int:
        """Return for how many seconds this worker itself would take a message that is given back, which counts."""
        return math.ceil(max(0.0, self._asks_until - self._clock()))

    def _hide(self, message: Message, seconds: int = VISIBILITY) -> None:
        self._aws.extend_message(self._url, message, seconds)


class _Fate(enum.Enum):
    """What becomes of a message."""

    DONE = "its call has a status: it is deleted"
    GIVEN_BACK = "another worker takes it, at once or when this one no longer asks for calls"
    COMES_BACK = "another worker takes it when it is no longer hidden"


_NEVER_FINISHED = (
    f"the call is lost: {MOST_DELIVERIES} workers took it from the queue, and none finished it. It may bring them "
    "down, by using more memory than the instance has: give it less to do, or the workers a larger --instance_type or "
    "a smaller --parallelism. If instances were taken away while it ran, run it again"
)


def _decode(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the message is no JSON: {error}") from error


def _threads_of_libraries(parallelism: int) -> Mapping[str, str]:
    """Share the processors among the calls that run at once."""
    share = str(max(1, (os.cpu_count() or 1) // parallelism))
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), share)


# -- its parts -------------------------------------------------------------------------------------------------


class _UnderWork:
    """The messages that are worked on, and the thread that keeps them hidden from other workers.

    Args:
        hide: hides a message for some more time.
        interval: seconds between its calls.
        clock: monotonic seconds.
    """

    def __init__(self, hide: Callable[[Message], None], interval: float, clock: Callable[[], float]) -> None:
        self._hide = hide
        self._interval = interval
        self._clock = clock
        self._messages: dict[str, Message] = {}
        self._not_kept: set[str] = set()
        self._changed = threading.Condition()
        self._idle_since = clock()
        # held while a message is hidden anew: never after it was removed, when it may have been given back
        self._hiding = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pywren-queue-heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def idle(self) -> float | None:
        """Seconds since the last one, ``None`` while there is one."""
        with self._changed:
            return None if self._messages else self._clock() - self._idle_since

    def add(self, message: Message) -> None:
        """Keep a message hidden from now on."""
        with self._changed:
            self._messages[message.receipt] = message

    def remove(self, message: Message) -> None:
        """Leave a message alone from now on."""
        with self._hiding, self._changed:
            del self._messages[message.receipt]
            self._not_kept.discard(message.receipt)
            self._idle_since = self._clock()
            self._changed.notify_all()

    def wait_for_room(self, limit: int, over: threading.Event) -> None:
        """Wait until there are fewer messages than the limit, or it is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._messages) < limit or over.is_set())

    def wake(self) -> None:
        """Have the one who waits for room look again."""
        with self._changed:
            self._changed.notify_all()

    def _beat(self) -> None:
        while not self._over.wait(self._interval):
            for receipt in list(self._messages):
                with self._hiding:
                    message = self._messages.get(receipt)
                    if message is not None:
                        self._keep(message)

    def _keep(self, message: Message) -> None:
        try:
            self._hide(message)
        except PywrenError as error:
            # at worst the call is run twice; the first status stands
            if message.receipt not in self._not_kept:
                logger.warning("a message could not be kept: %s", error)
            self._not_kept.add(message.receipt)
        except Exception:  # whatever it is, the other messages are still to be kept
            logger.exception("a message could not be kept")


class _Trouble:
    """Errors of one service, with no success in between.

    Args:
        patience: seconds after which there has been enough of them.
        clock: monotonic seconds.
        first_patience: the same, before the first success.
    """

    def __init__(self, patience: float, clock: Callable[[], float], first_patience: float | None = None) -> None:
        self._patience = patience if first_patience is None else first_patience
        self._later_patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        self._errors = 0
        self._last: PywrenError | None = None
        self._since = 0.0

    def note(self, error: PywrenError) -> None:
        """Take note of an error."""
        with self._lock:
            if not self._errors:
                self._since = self._clock()
            self._errors += 1
            self._last = error
        logger.warning("%s", error)

    def passed(self) -> None:
        """Take note of a success."""
        with self._lock:
            self._errors, self._last = 0, None
            self._patience = self._later_patience

    def pause(self) -> float:
        """Return the seconds to wait before the service is asked again, 0 when all is well.

        Raises:
            PywrenError: the last error, when this has gone on for too long.
        """
        with self._lock:
            if self._last is None:
                return 0.0
            if self._clock() - self._since >= self._patience:
                raise self._last
            return compute_backoff(self._errors, base=0.5, ceiling=LONGEST_PAUSE)


class InterruptibleRunner:
    """Runs tasks until it is interrupted: then those that run are killed, and no more are begun.

    Args:
        runner: what runs them; closed with this.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self._running: set[Stop] = set()
        self._interrupted = threading.Event()

    def run(self, task: Task, *, stopped: Stop | None = None) -> RunResult:
        """Run one task to its end, or until it is interrupted: ``stopped`` is then set."""
        stopped = stopped or Stop()
        with self._lock:
            self._running.add(stopped)
        try:
            if self._interrupted.is_set():
                stopped.set()
                return _cancelled(running=False)
            return self._run(task, stopped)
        finally:
            with self._lock:
                self._running.discard(stopped)

    def _run(self, task: Task, stopped: Stop) -> RunResult:
        try:
            result = self._runner.run(task, stopped=stopped)
        except OSError:
            if not self._interrupted.wait(SIGNAL_GRACE):
                raise
            result = _cancelled(running=True)
        # who ends this process may have ended the call's a moment before, as systemd does: not the call's doing
        if _was_killed(result) and self._interrupted.wait(SIGNAL_GRACE):
            stopped.set()
        return result

    def interrupt(self) -> None:
        """Kill what runs, and begin no more."""
        self._interrupted.set()
        with self._lock:
            running = list(self._running)
        for stopped in running:
            stopped.set()

    def end_waiting(self) -> None:
        """End processes that only wait for another call."""
        self._runner.end_waiting()

    def close(self) -> None:
        """End every child process."""
        self._runner.close()


def _cancelled(*, running: bool) -> RunResult:
    return RunResult(None, None, failure=cancelled_failure(running=running), returncode=None)


def _was_killed(result: RunResult) -> bool:
    """Tell whether a signal from outside may have ended a call, not the call itself."""
    crashed = result.failure is not None and result.failure.kind == WorkerCrashedError.__name__
    return crashed and result.returncode in (None, -signal.SIGTERM, -signal.SIGINT, -getattr(signal, "SIGKILL", 9))
