"""Invokers: where calls go. ``LambdaInvoker``, ``DummyInvoker`` and ``LocalInvoker``.

An invoker is any object with ``invoke(payload)``, which starts one call and returns, and ``config()``, which says what
it is. It may have the other members of ``Invoker`` too (``pywren.client.protocols``), whose defaults count otherwise.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pywren.aws.per_process import PerProcess
from pywren.client.local_worker import LocalWorker, Payload, run_payloads
from pywren.client.protocols import Invoker
from pywren.exceptions import ArgumentError
from pywren.wire.call import ASYNC_PAYLOAD_LIMIT
from pywren.wire.keys import function_name

if TYPE_CHECKING:
    from pywren.aws.requests import AWS
    from pywren.worker.parent.pool import LocalPool

logger = logging.getLogger(__name__)

EVENT_AGE_LIMIT = 21_600
"""Seconds that Lambda keeps an asynchronous call at most, 6 hours (Lambda quotas, 2026)."""

# Kept for programs of 0.4, whose workers ran in this directory. Here every call has a directory of its own.
SOURCE_DIR = os.path.dirname(os.path.abspath(__file__))
LOCAL_DIR = tempfile.gettempdir()
LOCAL_RUN_DIR = os.path.join(LOCAL_DIR, "task")


class LambdaInvoker(Invoker):
    """Starts calls as asynchronous invocations of a Lambda function.

    Args:
        region_name: the function's region.
        lambda_function_name: its name or ARN.
        aws: sends the requests; one of its own when not given.
        queue_patience: seconds that Lambda keeps a call that it cannot start (``lambda: event_age``).
    """

    payload_limit: int | None = ASYNC_PAYLOAD_LIMIT
    queue_patience: float | None = EVENT_AGE_LIMIT

    def __init__(
        self,
        region_name: str,
        lambda_function_name: str,
        *,
        aws: AWS | None = None,
        queue_patience: float | None = EVENT_AGE_LIMIT,
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
        """The function's name, even when it was given as an ARN or with a qualifier."""
        return function_name(self.lambda_function_name)

    def invoke(self, payload: Payload) -> str:
        """Start one call. Wait and try again while Lambda throttles, or has errors of its own.

        Returns:
            The id of Lambda's request.

        Raises:
            ArgumentError: the payload is larger than Lambda allows.
            InvocationError: Lambda refused it.
        """
        body = encode_payload(payload, ASYNC_PAYLOAD_LIMIT, "an asynchronous call of Lambda")
        return self.aws.invoke_async(self.lambda_function_name, body)

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` says of this invoker."""
        return {"lambda_function_name": self.lambda_function_name, "region_name": self.region_name}

    def close(self) -> None:
        """Close connections."""
        self.aws.close()

    # -- names that are kept for programs of 0.4 alone -------------------------------------------------------------

    TIME_LIMIT = True
    """Whether what runs the calls stops them itself after some time."""

    @property
    def lambclient(self) -> Any:
        """boto3's client of the Lambda service."""
        return self.aws.client("lambda")


class DummyInvoker(Invoker):
    """Keeps calls until ``run_jobs`` runs them, in child processes of this machine."""

    runs_here = True

    TIME_LIMIT = False  # kept for programs of 0.4 alone

    def __init__(self) -> None:
        self.payloads: list[Payload] = []
        self.thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # the kept calls stay here

    def __repr__(self) -> str:
        return f"<DummyInvoker with {len(self.payloads)} calls>"

    def invoke(self, payload: Payload) -> None:
        """Keep one call."""
        self.payloads.append(payload)

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` says of this invoker: nothing."""
        return {}

    def explain_silence(self) -> str | None:
        """Return why no results come, if nobody has run the calls."""
        if not self.payloads:
            return None
        kept = "1 call is waiting" if len(self.payloads) == 1 else f"{len(self.payloads)} calls are waiting"
        return f"{kept} to be run: call run_jobs() of the executor's invoker"

    def run_jobs(self, MAXJOBS: int = -1, run_dir: str = LOCAL_RUN_DIR) -> None:
        """Run the kept calls one after the other.

        Args:
            MAXJOBS: how many; -1 runs all.
            run_dir: has no effect; kept for 0.4, as every call has a directory of its own.

        Raises:
            DecodeError: a payload was not valid; the others have been run.
        """
        run_payloads(self._take(MAXJOBS), context={"invoker": "DummyInvoker"})

    def run_jobs_threaded(self, MAXJOBS: int = -1, run_dir: str = LOCAL_RUN_DIR) -> None:
        """Start ``run_jobs`` in a thread, ``self.thread``, and return at once.

        The program ends only when the thread has ended. A running call may be cancelled meanwhile.

        Args:
            MAXJOBS: how many; -1 runs all.
            run_dir: has no effect; kept for 0.4, as every call has a directory of its own.
        """
        self.thread = threading.Thread(target=self.run_jobs, args=(MAXJOBS, run_dir), name="pywren-run-jobs")
        self.thread.start()

    def _take(self, most: int) -> list[Payload]:
        taken: list[Payload] = []
        with suppress(IndexError):  # one at a time: threads may take at the same time, and pop() gives each its own
            while len(taken) != most:
                taken.append(self.payloads.pop(0))
        return taken


class LocalInvoker(Invoker):
    """Runs staged calls on this machine, in the pool that all local executors share.

    Args:
        run_dir: has no effect; kept for 0.4, as every call has a directory of its own.
        pool: the pool; the shared one when not given.

    Attributes:
        environment: the environment variables that calls see: those of this process when the invoker was made.
    """

    runs_here = True
    environment: Mapping[str, str] = MappingProxyType({})

    TIME_LIMIT = False  # kept for programs of 0.4 alone

    def __init__(self, run_dir: str = LOCAL_RUN_DIR, *, pool: LocalPool | None = None) -> None:
        self.run_dir = run_dir
        self.environment = MappingProxyType(dict(os.environ))
        self._given_pool = pool
        # Of each process its own: a forked child has none of the parent's threads.
        self._worker: PerProcess[LocalWorker] = PerProcess(lambda: LocalWorker(lambda: self.pool, self.environment))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_dir,)  # where it is unpickled, it uses the pool of that process

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
        """Start one call; it waits for its turn while all children are busy."""
        self._worker.get().submit(payload)

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` says of this invoker: nothing."""
        return {}

    def close(self) -> None:
        """Forget the calls that have not started."""
        worker = self._worker.peek()
        if worker is not None:
            worker.close()


def encode_payload(payload: Payload, limit: int, what: str) -> bytes:
    """Return a payload as compact JSON.

    Args:
        payload: ``Call.encode()``.
        limit: bytes that the service allows.
        what: the service, for the error.

    Raises:
        ArgumentError: it is larger than ``limit``, or JSON cannot hold it.
    """
    try:
        body = json.dumps(payload, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"the payload cannot be encoded as JSON: {error}; check extra_meta and extra_env"
        ) from error
    if len(body) > limit:
        raise ArgumentError(
            f"the payload has {len(body):,} bytes, and {what} takes {limit:,}: "
            "move data from extra_env and extra_meta to the arguments"
        )
    return body
