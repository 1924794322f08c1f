"""Invokers start calls: ``LambdaInvoker``, ``DummyInvoker`` and ``LocalInvoker``.

An invoker is any object that has ``invoke(payload)``, which starts one call and returns, and ``config()``, which
describes the invoker. An invoker may also define the other members of ``Invoker`` (``pywren.client.protocols``); if it
does not, it gets the defaults of that class.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from pywren.aws.per_process import PerProcess
from pywren.client.copies import Copies
from pywren.client.fan_out import FanOut
from pywren.client.local_worker import LocalWorker, Payload, run_payloads
from pywren.client.payloads import encode_payload
from pywren.client.protocols import Invoker
from pywren.exceptions import PywrenError
from pywren.wire.call import ASYNC_PAYLOAD_LIMIT
from pywren.wire.keys import copies_of, function_name
from pywren.wire.relay import relay_payload

if TYPE_CHECKING:
    from pywren.aws.requests import AWS
    from pywren.client.following import Following, Ids
    from pywren.worker.parent.pool import LocalPool

logger = logging.getLogger(__name__)

EVENT_AGE_LIMIT = 21_600
"""The longest time in seconds that Lambda keeps an asynchronous call: 6 hours (Lambda quotas, 2026)."""

LONGEST_RUN = 900.0
"""The longest time in seconds that an invocation of Lambda may run: 15 minutes (Lambda quotas, 2026)."""

# Kept for programs written for 0.4, whose calls ran in this directory. Now every call has its own directory.
SOURCE_DIR = os.path.dirname(os.path.abspath(__file__))
LOCAL_DIR = tempfile.gettempdir()
LOCAL_RUN_DIR = os.path.join(LOCAL_DIR, "task")


_ARRIVAL = 10.0  # seconds for which run_jobs() waits for the payloads of calls that it has let go


def _call_of(payload: Payload) -> Ids:
    return str(payload.get("callset_id")), str(payload.get("call_id"))


class LambdaInvoker(Invoker):
    """Starts calls as asynchronous invocations of a Lambda function.

    Args:
        region_name: the function's region.
        lambda_function_name: the function's name or ARN.
        aws: sends the requests; by default the invoker creates its own.
        queue_patience: how many seconds Lambda keeps a call that it cannot start (``lambda: event_age``).
        copies: how many copies of the function there are (``lambda: copies``), the function itself included.
        fan_out: whether the function may invoke itself (``lambda: fan_out``), so that it can hand payloads on.
    """

    payload_limit: int | None = ASYNC_PAYLOAD_LIMIT
    may_lose_calls = True
    takes_chunks = True
    longest_run: float | None = LONGEST_RUN
    queue_patience: float | None = EVENT_AGE_LIMIT

    def __init__(
        self,
        region_name: str,
        lambda_function_name: str,
        *,
        aws: AWS | None = None,
        queue_patience: float | None = EVENT_AGE_LIMIT,
        copies: int = 1,
        fan_out: bool = False,
    ) -> None:
        from pywren.aws.requests import AWS

        self.queue_patience = queue_patience
        self.fan_out = FanOut() if fan_out else None
        self._copies = Copies(copies_of(lambda_function_name, copies))
        self.region_name = region_name
        self.lambda_function_name = lambda_function_name
        self.aws = AWS(region_name) if aws is None else aws

    def __reduce__(self) -> tuple[Any, ...]:
        copies, fan_out = self.function_copies, self.fan_out is not None
        make = partial(type(self), queue_patience=self.queue_patience, copies=copies, fan_out=fan_out)
        # Without ``aws``: botocore's clients hold locks and sockets and cannot be pickled, and credentials must not be.
        # The copy reads those of its own machine.
        return make, (self.region_name, self.lambda_function_name)

    def __repr__(self) -> str:
        return f"LambdaInvoker({self.region_name!r}, {self.lambda_function_name!r})"

    @property
    def function_name(self) -> str:
        """The function's name, even if it was given as an ARN or with a qualifier."""
        return function_name(self.lambda_function_name)

    @property
    def function_copies(self) -> int:
        """How many copies of the function there are, the function itself included."""
        return len(self._copies.names)

    def used_copies(self) -> int:
        """Return how many copies of the function, the first so many, may have got calls."""
        return self._copies.used

    def deployed_memory(self) -> int | None:
        """Ask Lambda how many megabytes the function has; ``None`` if it has no answer, or may not be asked."""
        try:
            found = self.aws.function_config(self.lambda_function_name)
        except PywrenError as error:
            logger.debug("the memory of the function %s is not known: %s", self.lambda_function_name, error)
            return None
        size = (found or {}).get("MemorySize")
        return size if isinstance(size, int) else None

    def invoke(self, payload: Payload) -> str:
        """Start one call.

        Returns:
            Lambda's request id.

        Raises:
            ArgumentError: the payload is larger than Lambda allows.
            InvocationThrottledError: Lambda throttles requests or fails internally; the driver offers the call again.
            InvocationError: Lambda refused the call, at every copy of the function.
        """
        # for_each() of the dispatcher calls this on up to 256 threads. The check here spares a request that Lambda
        # would refuse (RequestTooLargeException), and names the remedy.
        body = encode_payload(payload, ASYNC_PAYLOAD_LIMIT, "an asynchronous invocation of Lambda")
        # Lambda answers 202 once the event is in its queue, and delivers it at least once: the same call may run twice,
        # and the first status that is written wins.
        return self._copies.invoke(lambda name: self.aws.invoke_async(name, body))

    def relay(self, first: Payload, bodies: Sequence[bytes]) -> str:
        """Start many calls by one invocation, whose worker hands them on. See ``Invoker.relay``."""
        body = relay_payload(first, bodies)
        return self._copies.invoke(lambda name: self.aws.invoke_async(name, body), 1 + len(bodies))

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` reports about this invoker."""
        known = {"lambda_function_name": self.lambda_function_name, "region_name": self.region_name}
        return known if self.function_copies == 1 else {**known, "lambda_copies": self.function_copies}

    def close(self) -> None:
        """Close the connections."""
        self.aws.close()

    # -- names kept only for programs written for 0.4 --------------------------------------------------------------

    TIME_LIMIT = True
    """Whether the service that runs the calls itself stops a call after some time."""

    @property
    def lambclient(self) -> Any:
        """boto3's client of the Lambda service."""
        return self.aws.client("lambda")


class DummyInvoker(Invoker):
    """Keeps calls until ``run_jobs`` runs them in child processes on this machine."""

    runs_here = True
    starts_calls = False
    may_repeat = False  # a program calls run_jobs() once, and then expects all outcomes

    TIME_LIMIT = False  # kept only for programs written for 0.4

    # The calls that this process has run. A poll that ran a moment before does not find a status that was just written.
    # Shared by all, because a call may follow those of another dummy executor.
    _ran: ClassVar[set[Ids]] = set()

    def __init__(self) -> None:
        self.payloads: list[Payload] = []
        self.thread: threading.Thread | None = None
        self._following: list[Following] = []
        # Wakes a thread in run_jobs() when a payload is kept. It guards the calls that were let go, whose payloads are
        # still to come: threads of the callset invoke, and may have to store outcomes first.
        self._kept = threading.Condition()
        self._on_their_way: set[Ids] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # the unpickled copy has no calls

    def __repr__(self) -> str:
        return f"<DummyInvoker with {len(self.payloads)} calls>"

    def invoke(self, payload: Payload) -> None:
        """Keep one call until ``run_jobs`` runs it."""
        # list.append and list.pop are atomic, so threads that invoke and threads that run jobs need no lock for it.
        self.payloads.append(payload)
        with self._kept:
            self._on_their_way.discard(_call_of(payload))
            self._kept.notify_all()

    def follow(self, following: Following) -> None:
        """Keep a call until ``run_jobs`` has run the calls that it follows, or finds that others have."""
        # Not start(): run_jobs() runs the call too, so no other thread may let it go a moment later.
        if following.is_due(frozenset()):
            self._decides(following)
        else:
            self._following.append(following)

    def config(self) -> dict[str, Any]:
        """Return an empty dict: ``invoke_status`` reports nothing about this invoker."""
        return {}

    def explain_silence(self) -> str | None:
        """Return a text saying that ``run_jobs`` must run the calls, or ``None`` if no call is kept."""
        # On the thread that polls. An empty list also means that the jobs are running, so nothing needs to be explained
        # then.
        if not self.payloads:
            return None
        kept = "1 call is waiting" if len(self.payloads) == 1 else f"{len(self.payloads)} calls are waiting"
        return f"{kept} to be run: call executor.invoker.run_jobs()"

    def run_jobs(self, MAXJOBS: int = -1, run_dir: str = LOCAL_RUN_DIR) -> None:
        """Run the kept calls one after the other, and then those that have only waited for these.

        Args:
            MAXJOBS: how many calls to run; -1 runs all.
            run_dir: has no effect; kept for 0.4, as every call has its own directory.

        Raises:
            DecodeError: a payload was not valid; the other calls have run.
        """
        # Take them all first: a payload that another thread adds while these run stays for the next run_jobs().
        self._let_go()
        first = self._take(MAXJOBS)
        left = MAXJOBS - len(first)

        def followers(ran: Sequence[Payload]) -> list[Payload]:
            nonlocal left
            self._ran.update(map(_call_of, ran))
            taken = self._take(left if MAXJOBS >= 0 else -1, self._let_go())
            left -= len(taken)
            return taken

        run_payloads(first, context={"invoker": "DummyInvoker"}, more=followers)

    def run_jobs_threaded(self, MAXJOBS: int = -1, run_dir: str = LOCAL_RUN_DIR) -> None:
        """Start ``run_jobs`` in a thread, ``self.thread``, and return immediately.

        The program ends only after the thread has ended. Calls can be cancelled while the thread runs them.

        Args:
            MAXJOBS: how many calls to run; -1 runs all.
            run_dir: has no effect; kept for 0.4, as every call has its own directory.
        """
        # Not a daemon: a program that ends right after this expects its calls to finish. Programs join ``thread``, so
        # it is kept. A second call replaces it, and the earlier thread still runs.
        self.thread = threading.Thread(target=self.run_jobs, args=(MAXJOBS, run_dir), name="pywren-run-jobs")
        self.thread.start()

    def _take(self, most: int, calls: frozenset[Ids] | None = None) -> list[Payload]:
        taken: list[Payload] = []
        for payload in list(self.payloads):
            if len(taken) != most and (calls is None or _call_of(payload) in calls):
                with suppress(ValueError):  # remove() gives each call to only one of several threads
                    self.payloads.remove(payload)
                    taken.append(payload)
        return taken

    def _let_go(self) -> frozenset[Ids]:
        """Let the calls go whose inputs have ended, and return them when all that were let go are kept here."""
        gone: set[Ids] = set()
        for one in list(self._following):
            if one.is_due(self._ran):
                with suppress(ValueError):  # of two threads, the one that removes it decides
                    self._following.remove(one)
                    if self._decides(one):
                        gone.add(one.ids)
        with self._kept:
            self._kept.wait_for(lambda: not self._on_their_way, _ARRIVAL)
            self._on_their_way.clear()  # a call that cannot be invoked ends with an error, and never arrives
        return frozenset(gone)

    def _decides(self, one: Following) -> bool:
        """Decide about a call, and return whether it was let go."""
        with self._kept:
            self._on_their_way.add(one.ids)  # before it is let go: its payload may come at once
        is_let_go = False
        try:
            is_let_go = one.decide()
        except BaseException:  # after Ctrl-C, the next run_jobs() decides again
            self._following.append(one)
            raise
        finally:
            if not is_let_go:
                with self._kept:
                    self._on_their_way.discard(one.ids)
        return is_let_go


class LocalInvoker(Invoker):
    """Runs staged calls on this machine, in the pool that all local executors share.

    Args:
        run_dir: has no effect; kept for 0.4, as every call has its own directory.
        pool: the pool; by default the shared pool.

    Attributes:
        environment: the environment variables of calls: those that this process had when the invoker was made.
    """

    runs_here = True
    takes_chunks = True
    environment: Mapping[str, str] = MappingProxyType({})

    TIME_LIMIT = False  # kept only for programs written for 0.4

    def __init__(self, run_dir: str = LOCAL_RUN_DIR, *, pool: LocalPool | None = None) -> None:
        self.run_dir = run_dir
        # A copy: calls must not depend on when the pool's processes were started, nor see what the program sets later.
        self.environment = MappingProxyType(dict(os.environ))
        # None stands for the shared pool. It is looked up at each use, because it may have ended and been replaced.
        self._given_pool = pool
        # Each process has its own LocalWorker, because the parent's threads do not exist in a forked child.
        most = None if pool is None else pool.size
        self._worker: PerProcess[LocalWorker] = PerProcess(
            lambda: LocalWorker(lambda: self.pool, self.environment, most)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # The environment is not sent either: it may contain secrets.
        return type(self), (self.run_dir,)  # the copy uses the pool of the process that unpickles it

    def __repr__(self) -> str:
        return "LocalInvoker()"

    @property
    def pool(self) -> LocalPool:
        """The pool whose child processes run the calls."""
        if self._given_pool is not None:
            return self._given_pool
        from pywren.worker.parent.pool import LocalPool

        return LocalPool.shared()

    def invoke(self, payload: Payload) -> None:
        """Start one call and return. The call waits while all child processes are busy."""
        # submit() never waits for a call. for_each() calls this on several threads, and PerProcess lets one make the
        # worker.
        self._worker.get().submit(payload)

    def withdraw(self, callset_id: str) -> list[str]:
        """Take back the calls of a callset that no child process has begun, and return their ids."""
        worker = self._worker.peek()
        return [] if worker is None else worker.withdraw(callset_id)

    def config(self) -> dict[str, Any]:
        """Return an empty dict: ``invoke_status`` reports nothing about this invoker."""
        return {}

    def close(self) -> None:
        """Discard the calls that have not started."""
        # peek() rather than get(): closing an unused invoker must not make the worker.
        worker = self._worker.peek()
        if worker is not None:
            worker.close()
