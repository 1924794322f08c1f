"""Invokers: where calls go. ``LambdaInvoker``, ``DummyInvoker`` and ``LocalInvoker``.

An invoker is any object with ``invoke(payload)``, which starts one call and returns, and ``config()``, which says
what it is. It may also say ``payload_limit`` (bytes of JSON it takes), ``queue_patience`` (seconds that a call may
wait before it starts), ``function_name`` (the Lambda function whose records tell of calls that failed),
``explain_silence()`` (why no results come, if it knows), ``runs_here`` (the worker has this machine's packages) and
``pool`` (calls may go straight there and stay in memory; calls that ``LocalInvoker`` itself is given are staged like
all others).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pywren.aws.per_process import PerProcess
from pywren.exceptions import ArgumentError, DecodeError
from pywren.wire.call import ASYNC_PAYLOAD_LIMIT
from pywren.wire.keys import function_name

if TYPE_CHECKING:
    from pywren.aws.requests import AWS
    from pywren.worker.handler import Container
    from pywren.worker.parent.pool import LocalPool
    from pywren.worker.task import RunResult, Stop, Task

logger = logging.getLogger(__name__)

EVENT_AGE_LIMIT = 21_600
"""Seconds that Lambda keeps an asynchronous call at most."""

Payload = Mapping[str, Any]

# Names of 0.4, whose workers ran in this directory; here every call has one of its own.
SOURCE_DIR = os.path.dirname(os.path.abspath(__file__))
LOCAL_DIR = tempfile.gettempdir()
LOCAL_RUN_DIR = os.path.join(LOCAL_DIR, "task")


class LambdaInvoker:
    """Starts calls as asynchronous invocations of a Lambda function.

    Args:
        region_name: the function's region.
        lambda_function_name: its name or ARN.
        aws: what sends the requests; one of its own when not given.
        queue_patience: seconds that Lambda keeps a call it cannot start (``lambda: event_age``).
    """

    TIME_LIMIT = True
    """Whether what runs the calls ends them itself after some time."""

    payload_limit = ASYNC_PAYLOAD_LIMIT

    def __init__(
        self,
        region_name: str,
        lambda_function_name: str,
        *,
        aws: AWS | None = None,
        queue_patience: float = EVENT_AGE_LIMIT,
    ) -> None:
        from pywren.aws.requests import AWS

        self.queue_patience = queue_patience

        self.region_name = region_name
        self.lambda_function_name = lambda_function_name
        self.aws = AWS(region_name) if aws is None else aws

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(type(self), queue_patience=self.queue_patience)
        return make, (self.region_name, self.lambda_function_name)

    def __repr__(self) -> str:
        return f"LambdaInvoker({self.region_name!r}, {self.lambda_function_name!r})"

    @property
    def function_name(self) -> str:
        """The function's name, also when it was given as an ARN or with a qualifier."""
        return function_name(self.lambda_function_name)

    @property
    def lambclient(self) -> Any:
        """The client of the Lambda service."""
        return self.aws.client("lambda")

    def invoke(self, payload: Payload) -> str:
        """Start one call; throttling and errors inside the service are waited out.

        Returns:
            The id of Lambda's request.

        Raises:
            ArgumentError: the payload is larger than Lambda takes.
            InvocationError: Lambda refused it.
        """
        body = encode_payload(payload, ASYNC_PAYLOAD_LIMIT, "an asynchronous call of Lambda")
        return self.aws.invoke_async(self.lambda_function_name, body)

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` says of this invoker."""
        return {"lambda_function_name": self.lambda_function_name, "region_name": self.region_name}

    def close(self) -> None:
        """Give up connections."""
        self.aws.close()


class DummyInvoker:
    """Keeps calls until ``run_jobs`` runs them, in child processes of this machine."""

    TIME_LIMIT = False
    runs_here = True

    def __init__(self) -> None:
        self.payloads: list[Payload] = []
        self.thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # the calls that it keeps stay here

    def __repr__(self) -> str:
        return f"<DummyInvoker with {len(self.payloads)} calls>"

    def invoke(self, payload: Payload) -> None:
        """Keep one call."""
        self.payloads.append(payload)

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` says of this invoker: nothing."""
        return {}

    def explain_silence(self) -> str | None:
        """Return why no results come, when nobody has run the calls."""
        if not self.payloads:
            return None
        kept = "1 call waits" if len(self.payloads) == 1 else f"{len(self.payloads)} calls wait"
        return f"{kept} to be run: call run_jobs() of the executor's invoker"

    def run_jobs(self, MAXJOBS: int = -1, run_dir: str = LOCAL_RUN_DIR) -> None:
        """Run the kept calls one after the other.

        Args:
            MAXJOBS: how many; -1 runs all.
            run_dir: for 0.4's callers; every call has a directory of its own anyway.

        Raises:
            DecodeError: a payload was not one; the others have been run.
        """
        run_payloads(self._take(MAXJOBS), context={"invoker": "DummyInvoker"})

    def run_jobs_threaded(self, MAXJOBS: int = -1, run_dir: str = LOCAL_RUN_DIR) -> None:
        """Have ``run_jobs`` run in a thread, ``thread``; returns at once.

        The program ends when the thread has ended. A call that runs may be cancelled meanwhile.

        Args:
            MAXJOBS: how many; -1 runs all.
            run_dir: for 0.4's callers; every call has a directory of its own anyway.
        """
        self.thread = threading.Thread(target=self.run_jobs, args=(MAXJOBS, run_dir), name="pywren-run-jobs")
        self.thread.start()

    def _take(self, most: int) -> list[Payload]:
        taken: list[Payload] = []
        with suppress(IndexError):  # one by one, because threads may take at the same time, and each its own
            while len(taken) != most:
                taken.append(self.payloads.pop(0))
        return taken


class LocalInvoker:
    """Runs staged calls on this machine, in the pool that all local executors share.

    Args:
        run_dir: for 0.4's callers; every call has a directory of its own anyway.
        pool: the pool; the shared one when not given.

    Attributes:
        environment: the environment variables that calls see: those of this process when the invoker was made.
    """

    TIME_LIMIT = False
    runs_here = True

    def __init__(self, run_dir: str = LOCAL_RUN_DIR, *, pool: LocalPool | None = None) -> None:
        self.run_dir = run_dir
        self.environment: Mapping[str, str] = MappingProxyType(dict(os.environ))
        self._given_pool = pool
        self._threads: PerProcess[_WorkThreads] = PerProcess(self._make_threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_dir,)  # with the pool of the process that it is in

    def __repr__(self) -> str:
        return "LocalInvoker()"

    @property
    def pool(self) -> LocalPool:
        """The pool whose children run the calls."""
        if self._given_pool is not None:
            return self._given_pool
        from pywren.worker.parent.pool import LocalPool

        return LocalPool.shared()

    def invoke(self, payload: Payload) -> None:
        """Start one call; it waits its turn when all children are busy."""
        self._threads.get().submit(payload)

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` says of this invoker: nothing."""
        return {}

    def close(self) -> None:
        """Forget the calls that have not started."""
        threads = self._threads.peek()
        if threads is not None:
            threads.close()

    def _make_threads(self) -> _WorkThreads:
        from pywren.worker.handler import Container

        container = Container(_PoolOf(self), context={"invoker": "LocalInvoker", "jobnum": str(os.getpid())})
        return _WorkThreads(container, os.cpu_count() or 1)


class _PoolOf:
    """Runs tasks in whatever pool is the invoker's at the time: the shared one may end and come again."""

    def __init__(self, invoker: LocalInvoker) -> None:
        self._invoker = invoker

    def run(self, task: Task, *, stopped: Stop | None = None) -> RunResult:
        return self._invoker.pool.run(task, stopped=stopped, environment=self._invoker.environment)

    def end_waiting(self) -> None:
        pass  # none does

    def close(self) -> None:
        pass  # it is others' too


class _WorkThreads:
    """Threads that take payloads through a container, alive only while there are any.

    They are daemons: the program may end while calls run, and a thread that ends when it finds nothing to do
    leaves nothing behind.
    """

    def __init__(self, container: Container, limit: int) -> None:
        self._container = container
        self._limit = limit
        self._waiting: deque[Payload] = deque()
        self._running = 0
        self._lock = threading.Lock()

    def submit(self, payload: Payload) -> None:
        with self._lock:
            self._waiting.append(payload)
            if self._running >= self._limit:
                return
            threading.Thread(target=self._work, name="pywren-local-call", daemon=True).start()
            self._running += 1

    def close(self) -> None:
        with self._lock:
            self._waiting.clear()
        self._container.close()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                payload = self._waiting.popleft()
            try:
                self._container.handle(payload)
            except Exception as error:  # noqa: BLE001 -- a thread that ends uncounted would be missing for the calls that wait
                # as on Lambda: what could be told to the client was written to the call's status
                logger.warning("a local call ended without a status: %s", error)


def run_payloads(payloads: Sequence[Payload], *, context: Mapping[str, Any] | None = None) -> None:
    """Run calls one after the other, in child processes of this machine, which end before this returns.

    Args:
        payloads: the calls.
        context: what is known about these invocations; its texts go into the statuses.

    Raises:
        DecodeError: a payload was not one; the others have been run.
    """
    from pywren.worker.handler import Container

    if not payloads:
        return
    first_error: DecodeError | None = None
    with Container() as container:
        for number, payload in enumerate(payloads):
            try:
                container.handle(payload, {"jobnum": str(number), **(context or {})})
            except DecodeError as error:
                first_error = first_error or error
    if first_error is not None:
        raise first_error


def encode_payload(payload: Payload, limit: int, what: str) -> bytes:
    """Return a payload as compact JSON.

    Args:
        payload: ``Call.encode()``.
        limit: bytes that the service takes.
        what: the service, for the error.

    Raises:
        ArgumentError: it is larger than that, or JSON cannot hold it.
    """
    try:
        body = json.dumps(payload, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"the payload does not fit JSON: {error}; look at extra_meta and extra_env") from error
    if len(body) > limit:
        raise ArgumentError(
            f"the payload has {len(body):,} bytes, and {what} takes {limit:,}: "
            "move data out of extra_env and extra_meta into the arguments"
        )
    return body
