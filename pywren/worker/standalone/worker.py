"""``QueueWorker``: takes calls from an SQS queue and runs them on this machine, several in parallel.

::

    receive ─▶ threads: Container.handle ─▶ status stands ─▶ delete the message
       │              ▲ one heartbeat keeps all messages under work hidden from other workers
       └ end rule     └ stop(): children killed, messages given back

A worker deletes a message only after its call has a status. Whatever happens to the worker before that, SQS shows the
message again and another worker takes the call.

Threads: ``run`` polls the queue in its caller's thread, each call runs in a thread ``pywren-queue-call``, and
``MessagesUnderWork`` has the heartbeat's thread. ``stop`` may be called from any thread, but not from a signal handler,
because it takes locks that the interrupted thread may hold. Only the polling thread writes ``_url``, ``_asks_until``,
``_in_vain`` and ``taken``; call threads read the first two.
"""

from __future__ import annotations

import enum
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pywren.aws.requests import is_missing_queue
from pywren.exceptions import CallLostError, DecodeError, PywrenError, StorageError
from pywren.worker.standalone.ending import NEVER, EndRule, Trouble
from pywren.worker.standalone.interruptible import InterruptibleRunner
from pywren.worker.standalone.messages import MessagesUnderWork

if TYPE_CHECKING:
    from pywren.aws.requests import AWS, Message
    from pywren.worker.handler import Container

logger = logging.getLogger(__name__)

VISIBILITY = 60
"""Seconds for which each heartbeat hides the messages of running calls."""

HEARTBEAT = 20.0
"""Seconds between two heartbeats. Two may fail before a message becomes visible again."""

MOST_DELIVERIES = 5
"""How many workers may take a call. A call that kills its worker may take down the machine too, so this must be small.
But a worker that is taken away, or killed by another of its calls, counts too."""

MOST_MESSAGES = 10
"""The most messages that one ReceiveMessage returns (Amazon SQS API reference)."""

PATIENCE = 3600.0
"""Seconds of continuous trouble after which a worker ends."""

FIRST_PATIENCE = 60.0
"""The same before SQS has ever answered. IAM is eventually consistent: a new role takes some seconds to work."""

LONG_POLL = 20
"""The longest time in seconds that one ReceiveMessage waits (Amazon SQS API reference)."""


class QueueWorker:
    """Takes calls from a queue and runs them, several in parallel, until a rule or ``stop`` ends it.

    Args:
        aws: sends the requests.
        queue_name: the queue.
        container: handles the calls. By default the worker creates a container whose calls ``stop`` can kill.
        parallelism: how many calls to run in parallel.
        rule: when the worker ends by itself.
        max_run_time: seconds after which a call is stopped, even if its own ``job_max_runtime`` is longer.
        poll: seconds that one request waits for calls, 1 to 20.
        patience: seconds of trouble with SQS or the storage after which the worker ends.
        heartbeat: seconds between the requests that keep a message hidden.
        clock: returns the seconds since the machine started.
    """

    def __init__(
        self,
        aws: AWS,
        queue_name: str,
        container: Container | None = None,
        *,
        parallelism: int = 1,
        rule: EndRule = NEVER,
        max_run_time: float | None = None,
        poll: int = LONG_POLL,
        patience: float = PATIENCE,
        heartbeat: float = HEARTBEAT,
        clock: Callable[[], float] = time.monotonic,  # on Linux and macOS this counts from the start of the machine
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
        # Never cleared. Both the polling thread and stop() use it: it is checked before each request and slept on in
        # between.
        self._over = threading.Event()
        self._queue_trouble = Trouble(patience, clock, min(patience, FIRST_PATIENCE))
        self._storage_trouble = Trouble(patience, clock)
        self._under_work = MessagesUnderWork(self._hide, heartbeat, clock)
        self._url = ""
        self._asks_until = -math.inf  # the time when the current request for messages ends
        self._in_vain = False  # whether the last request found no messages
        self._runner: InterruptibleRunner | None = None
        self._container = container or self._make_container()

    def __enter__(self) -> QueueWorker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the child processes, unless the caller provided the container."""
        if self._runner is not None:
            # The container first: it was given the runner, so it closes only its own storages and runtimes.
            self._container.close()
            self._runner.close()

    def _make_container(self) -> Container:
        from pywren.worker.handler import Container
        from pywren.worker.parent.fork_server import ForkServer

        # One fork server for all threads. It forks from a process without threads, which is safe whatever locks threads
        # of this one hold.
        self._runner = InterruptibleRunner(ForkServer())
        return Container(self._runner, environment=_threads_of_libraries(self.parallelism))

    def run(self) -> int:
        """Take calls until the worker must end, wait for the running calls, and return how many calls it took.

        Raises:
            InvocationError: the queue does not exist.
            PywrenError: SQS or the storage has failed for too long.
        """
        # Leaving the block ends the call threads first and then the heartbeat: messages stay hidden until the last call
        # is done.
        with self._under_work, ThreadPoolExecutor(self.parallelism, "pywren-queue-call") as threads:
            try:
                while self._goes_on():
                    self._take(threads)
            except KeyboardInterrupt:
                self.stop()  # otherwise leaving this block would wait for the running calls, however long they take
                raise
        # The last calls may have had errors after the loop's last check. Raise if the trouble has lasted too long.
        for trouble in (self._queue_trouble, self._storage_trouble):
            trouble.pause()
        return self.taken

    def stop(self) -> None:
        """Take no more calls. Kill the running calls, and give their messages back to the queue for another worker."""
        logger.info("stopping within %d s; calls given back to the queue: %d", self._poll, len(self._under_work))
        # Set ``_over`` first: a call that ends because of the interrupt must find it set, so that its message is given
        # back.
        self._over.set()
        if self._runner is not None:
            # Kills the process groups of the calls; their threads then return from handle() and give the messages back.
            self._runner.interrupt()
        # The polling thread may be waiting for room. If it is inside a long poll instead, it ends after that
        # (LONG_POLL).
        self._under_work.wake()

    # -- taking calls ------------------------------------------------------------------------------------------

    def _goes_on(self) -> bool:
        """Wait until there is room for a call. Return whether the worker should take another call."""
        # Ask for no more messages than can run now: one that waits here would be hidden from an idle worker.
        self._under_work.wait_for_room(self.parallelism, self._over)
        now = self._clock()
        if self._over.is_set() or self.rule.is_over(now - self._started, self.taken):
            return False
        # Calls may have arrived while others ran. Only a request that finds nothing shows that the worker is idle.
        idle = self._under_work.idle if self._in_vain else None
        if idle is None or not self.rule.is_idle_too_long(idle, now):
            return True
        logger.info("no call for %.0f s", idle)
        return False

    def _take(self, threads: ThreadPoolExecutor) -> None:
        received = self._receive()
        for message in received:
            self._under_work.add(message)  # before the call's thread starts, because that thread removes the message
            # Starts at once: there was room. If _over was set during the request, _handle() gives the message back.
            threads.submit(self._work, message)
        self.taken += len(received)
        self._in_vain = not received

    def _receive(self) -> list[Message]:
        """Return the next messages. The list is empty if none arrived, or if SQS or the storage is in trouble."""
        pause = max(self._queue_trouble.pause(), self._storage_trouble.pause())
        # Sleeps through the back-off and wakes at once for stop().
        if self._over.wait(pause):
            return []
        try:
            self._url = self._url or self._aws.queue_url(self.queue_name)
            seconds = self._wait_seconds()
            # Before the request: a call thread that gives a message back meanwhile must know how long this request is
            # open.
            self._asks_until = self._clock() + seconds
            received = self._aws.receive(self._url, wait_seconds=seconds, most=self._most(), visibility=VISIBILITY)
        except PywrenError as error:
            if is_missing_queue(error):
                raise  # the queue was deleted, and waiting does not help
            self._queue_trouble.note(error)
            return []
        finally:
            self._asks_until = -math.inf
        self._queue_trouble.passed()
        return received

    def _wait_seconds(self) -> int:
        return self.rule.longest_wait(self._poll, self._under_work.idle or 0.0, self._clock() - self._started)

    def _most(self) -> int:
        # At least 1: only this thread adds messages, and wait_for_room() has just returned.
        room = min(self.parallelism - len(self._under_work), MOST_MESSAGES)
        return room if self.rule.max_calls is None else min(room, self.rule.max_calls - self.taken)

    # -- one call ----------------------------------------------------------------------------------------------

    def _work(self, message: Message) -> None:
        """Handle one call. Then delete its message, give it back, or leave it hidden until SQS shows it again."""
        fate = _Fate.COMES_BACK
        try:
            # On a call thread, while the call runs. After DONE the call has a status, or the message is no call.
            fate = self._handle(message)
            if fate is _Fate.DONE:  # delete the message while it is still hidden, so that no other worker gets it
                self._let_go(self._aws.delete_message, self._url, message)
        except StorageError as error:
            # The status could not be written: without it the message must come back. The polling thread then takes no
            # calls for a while.
            self._storage_trouble.note(error)
        except Exception:  # whatever the error is, SQS shows the message again and other calls continue
            logger.exception("could not handle a call")
        finally:
            # In a finally: a message that stayed here would be hidden, and counted as running, until the worker ends.
            self._under_work.remove(message)
        if fate is _Fate.GIVEN_BACK:
            # After remove(): an extension by the heartbeat that came later would hide the message again.
            self._let_go(self._hide, message, self._rest_of_request())

    def _let_go(self, request: Callable[..., None], *arguments: Any) -> None:
        try:
            request(*arguments)
        except PywrenError as error:
            # SQS will deliver the message again; a call that has a status is not run twice.
            logger.warning("a message will be delivered again: %s", error)

    def _handle(self, message: Message) -> _Fate:
        if self._over.is_set():
            return _Fate.GIVEN_BACK
        try:
            payload = _decode(message.body)
            # SQS counts approximately (ApproximateReceiveCount), so this may be one too early or too late. A redrive
            # policy would lose the call silently; this tells the client.
            if message.deliveries > MOST_DELIVERIES:
                self._container.refuse(payload, CallLostError(_NEVER_FINISHED))
                status = None
            else:
                status = self._container.handle(payload, self._context())
        except DecodeError as error:
            # SQS would deliver this message for ever. The client has been told, if that was possible.
            logger.warning("dropped a message that is not a call: %s", error)
            return _Fate.DONE
        self._storage_trouble.passed()
        # If there is no status, the call was ended elsewhere or was killed by ``stop``; after ``stop`` it may be
        # either. Giving the message back is safe in both cases: the first status wins.
        interrupted = status is None and self._over.is_set()
        return _Fate.GIVEN_BACK if interrupted else _Fate.DONE

    def _context(self) -> Mapping[str, Any]:
        """Return the remaining time, as Lambda's context does, plus the margin that the handler subtracts."""
        from pywren.worker.handler import PLATFORM_MARGIN

        return {} if self.max_run_time is None else {"remaining_seconds": self.max_run_time + PLATFORM_MARGIN}

    def _rest_of_request(self) -> int:
        """Return for how many more seconds this worker's own request could receive a message that is given back.

        The worker would no longer run the message's call, and each delivery counts towards ``MOST_DELIVERIES``.
        """
        return math.ceil(max(0.0, self._asks_until - self._clock()))

    def _hide(self, message: Message, seconds: int = VISIBILITY) -> None:
        self._aws.extend_message(self._url, message, seconds)


class _Fate(enum.Enum):
    """What happens to a message when its call has been handled."""

    DONE = "deleted: its call has a status"
    GIVEN_BACK = "another worker takes it, immediately or when this worker no longer polls"
    COMES_BACK = "another worker takes it when it is no longer hidden"


_NEVER_FINISHED = (
    f"the call is lost: {MOST_DELIVERIES} workers took it from the queue, and none finished it. The call may use more "
    "memory than the instance has, and crash its worker: give the call less to do, choose a larger --instance_type, or "
    "lower --parallelism. If instances were taken away while the call ran, run it again"
)


def _decode(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the message is not JSON: {error}") from error


def _threads_of_libraries(parallelism: int) -> Mapping[str, str]:
    """Return environment variables that divide the processors among the calls that run in parallel."""
    # Without this, each call starts a BLAS thread for every processor, and parallel calls slow each other down.
    share = str(max(1, (os.cpu_count() or 1) // parallelism))
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), share)
