"""``run``: a program that maps, on the real client, on a simulated AWS, in virtual time.

Real are ``Executor``, serializer, staging, invoking, driver, monitor, looking, belief, verdicts, futures and ``wait``,
with all their threads, and every byte of payloads, statuses, pages, signatures and listings that they read and write.
Real too are the handlers of workers that run chunks, with their threads (``benchmarks.simulated.workers``). Simulated
are the two services, functions of users, and the workers of single calls as far as anybody sees them: when they begin
and end, and what they write. Not run is what sends requests: signing, HTTP and TLS. What that computes is a parameter
(``Requests``).
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pywren
from benchmarks.simulated.functions import BEACON_EVERY, BEACON_FIRST, Event, Functions, Service, drawn
from benchmarks.simulated.storage import Objects, Requests
from benchmarks.simulated.threads import EPOCH, VirtualTime
from benchmarks.simulated.workers import Workers
from pywren.cloud.prices import REGION, Billing, Prices, Usage, dollars_of, total
from pywren.exceptions import InvocationThrottledError
from pywren.executor import Executor
from pywren.invokers import LambdaInvoker
from pywren.wire.beacon import Beacon
from pywren.wire.cause import Cause
from pywren.wire.chunk import CHUNK_FORMAT
from pywren.wire.keys import failure_prefix
from pywren.wire.outcome import Outcome
from pywren.wire.reading import dump, to_base64
from pywren.wire.signed import sign
from pywren.wire.status import Status
from pywren.worker.run_status import first_info

FUNCTION = "simulated"
_OWN = ("callset_id", "call_id", "attempt", "func_key", "data_key", "status_key", "output_key", "host_submit_time")
"""The members of a status that come from the payload."""
WATCHING = 3.0
"""Every so many seconds a worker looks whether its call was ended elsewhere (``docs/design.md``, The wire)."""

LATE = 5.0
"""A worker that begins so many seconds after the submission looks before it starts the call (``docs/design.md``)."""


@dataclass
class Scenario:
    """A program and the world that it runs in. Times are in seconds.

    Args:
        items: how many items the program maps over.
        service: what Lambda does.
        requests: what requests of the client take.
        memory: the function's memory in MB.
        threads: ``invoke_pool_threads``.
        before: what happens before the map begins: the start of the program.
        chunksize: how many calls share an invocation.
        options: further arguments of ``map``.
        measured: whether what the client computes takes time in the simulation.
        seed: where chance begins.
    """

    items: int
    service: Service
    requests: Requests
    memory: int = 1536
    threads: int = 64
    before: float = 0.0
    chunksize: int | str = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    measured: bool = False
    seed: int = 0


class Report(NamedTuple):
    """What came out. Times are in seconds since the program began.

    Args:
        items: how many items there were.
        right: how many of them have brought their own value.
        invoked: when ``map`` returned: every call was accepted, or held back on purpose.
        spread: from the first to the last first invocation.
        started: when the last call began.
        wall: when the program had everything.
        sent: how many requests the client has sent, by kind; those of workers are only in ``usage``.
        usage: what AWS charges for.
        dollars: the price of that in us-east-1.
        computed: for how many seconds the client has computed, as measured here, without requests.
        spent: for how many seconds it has computed for requests, by the parameters.
        repeats: how many attempts of calls were made beside the first ones.
        most_busy: the most calls that ran at the same time.
        runs: how often calls were started, by how many calls.
        curves: when calls were invoked, began, and were known to have ended, each in order.
        seconds: how long the simulation took here.
    """

    items: int
    right: int
    invoked: float
    spread: float
    started: float
    wall: float
    sent: Mapping[str, int]
    usage: Usage
    dollars: float
    computed: float
    spent: float
    repeats: int
    most_busy: int
    runs: Mapping[int, int]
    curves: Mapping[str, list[float]]
    seconds: float


def same(x: Any) -> Any:
    """The function of the program; the simulated workers know what it returns."""
    return x


def run(scenario: Scenario) -> Report:
    """Run a program in a simulated world."""
    return World(scenario).run()


class World:
    """The services, and the client of one program."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.rng = scenario, random.Random(scenario.seed)
        self.world = VirtualTime(measured=scenario.measured)
        self.objects = Objects(self.world, scenario.requests, self.rng)
        context = {
            "aws_request_id": "7b2f1c1e-0000-4000-8000-000000000000",
            "log_group_name": f"/aws/lambda/{FUNCTION}",
            "log_stream_name": "2026/11/30/[$LATEST]00112233445566778899aabbccddeeff",
            "memory_limit_in_mb": str(scenario.memory),
        }
        self.workers = Workers(self.world, self.objects, context)
        self.functions = Functions(
            self.world, scenario.service, self.rng,
            finished=self._finish, shown=self._show, failed=self._record, works=self._work,
        )  # fmt: skip
        self.accepted = 0
        self._info = first_info(
            func_key="", data_key="", status_key="", host_submit_time=0.0, start_time=0.0, runtime_cached=True,
            context=context,
        )  # fmt: skip
        # Of each member the last one counts.
        self._unchanging = Status("", "", info=self._info).encode(None)

    def run(self) -> Report:
        with self.installed():
            return self._program(time.perf_counter())

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Have the client live in this world."""
        state = random.getstate()
        random.seed(self.scenario.seed)  # the client draws from it too
        try:
            with self.world.installed():
                yield
        finally:
            random.setstate(state)

    def executor(self) -> Executor:
        """Make an executor of the real client whose requests go to the simulated services."""
        invoker = LambdaInvoker(REGION, FUNCTION, aws=_Lambda(self))  # type: ignore[arg-type]
        config = {
            "account": {"aws_region": REGION},
            "s3": {"bucket": "simulated-bucket", "pywren_prefix": "pywren.jobs"},
            "lambda": {"concurrency": self.scenario.service.concurrency, "memory": self.scenario.memory},
        }
        executor = Executor(invoker, config, 900.0)
        executor.storage.backend = self.objects  # type: ignore[assignment]
        return executor

    def map(self, executor: Executor) -> list[Any]:
        scenario = self.scenario
        options = {"progress": False, "invoke_pool_threads": scenario.threads, "chunksize": scenario.chunksize}
        options.update(scenario.options)
        return executor.map(same, range(self.scenario.items), **options)

    def _program(self, began: float) -> Report:
        scenario, world = self.scenario, self.world
        executor = self.executor()
        world.sleep(scenario.before)
        submitted = world.now
        futures = self.map(executor)
        invoked = world.now
        pywren.wait(futures)
        right = sum(future.exception() is None and future.result() == index for index, future in enumerate(futures))
        wall = world.now
        world.end()
        records = [future.invoke_status for future in futures]
        times = [one["lambda_invoke_timestamp"] - EPOCH for one in records if "lambda_invoke_timestamp" in one]
        curves = {
            "invoked": sorted(times),
            "began": self.functions.began,
            "ended": sorted(one["status_done_timestamp"] - EPOCH for one in records),
        }
        usage = self._usage()
        return Report(
            items=scenario.items,
            right=right,
            invoked=invoked,
            spread=max(times, default=submitted) - submitted,
            started=max(self.functions.began, default=0.0),
            wall=wall,
            sent=dict(self.objects.sent),
            usage=usage,
            dollars=total(dollars_of(usage, _prices(), 512)) or 0.0,
            computed=world.computed,
            spent=world.spent,
            repeats=sum(len(future.attempts) - 1 for future in futures),
            most_busy=self.functions.most_busy,
            runs=Counter(self.functions.runs.values()),
            curves=curves,
            seconds=time.perf_counter() - began,
        )

    def _usage(self) -> Usage:
        sent, theirs, functions = self.objects.sent, self.objects.sent_by_workers, self.functions
        # Lambda bills the start of an environment, too, since August 2025.
        seconds = functions.worked + functions.cold
        return Usage(
            seconds,
            seconds * self.scenario.memory / 1024,
            self.accepted,
            sent["put"] + sent["list"] + theirs["put"],
            sent["get"] + theirs["get"],
        )

    def accept(self, body: bytes) -> None:
        """Take an invocation that has arrived at Lambda."""
        payload = json.loads(body)
        is_chunk = payload["format"] == CHUNK_FORMAT
        self.functions.accept(Event(payload["call_id"], payload["attempt"], self.world.now, body, is_chunk))

    # -- what workers do ---------------------------------------------------------------------------------------------

    def _work(self, event: Event, environment: int) -> None:
        self.workers.handle(event, environment, self.functions)

    def _finish(self, event: Event, started: float, ended: float) -> None:
        payload = json.loads(event.body)
        theirs = self.objects.sent_by_workers
        theirs["put"] += 1
        seconds = self.world.now - started
        if seconds > BEACON_FIRST:
            theirs["get"] += 1 + int((seconds - BEACON_FIRST) / WATCHING)
        if started - event.sent > LATE:
            theirs["get"] += 1
        key = payload["status_key"]
        # Not the payload, which is five times as large as its JSON.
        self.objects.write(key, lambda: self._status(event.body, started, ended), if_absent=True)

    def _status(self, body: bytes, started: float, ended: float) -> bytes:
        payload = json.loads(body)
        times = {"start_time": EPOCH + started, "end_time": EPOCH + ended, "exec_time": ended - started}
        own = {name: payload[name] for name in _OWN}
        outcome = Outcome(True, base64.b64decode(payload["data_inline"])).encode()
        # As ``Status.encode`` writes it. To encode all of it takes five times as long.
        changing = dump({**own, **times, "outcome": to_base64(outcome)})
        return sign(self._unchanging[:-1] + b"," + changing[1:], bytes.fromhex(payload["attempt_key"]))

    def _show(self, event: Event, started: float) -> None:
        payload = json.loads(event.body)
        self.objects.sent_by_workers["put"] += 1
        renewed = int((self.world.now - started) / BEACON_EVERY)
        ids = payload["callset_id"], payload["call_id"], payload["attempt"]
        beacon = Beacon(*ids, EPOCH + started, renewed, log_stream=self._info["log_stream_name"])
        key = payload["status_key"].rpartition("/")[0] + f"/attempts/{payload['attempt']}.beacon"
        self.objects.write(key, beacon.encode(bytes.fromhex(payload["attempt_key"])))

    def _record(self, event: Event, cause: Cause) -> None:
        """Write the record that Lambda makes of a failed event."""
        condition = "EventAgeExceeded" if cause is Cause.TOO_OLD else "RetriesExhausted"
        record = {
            "requestContext": {"condition": condition},
            "requestPayload": json.loads(event.body),
            "responsePayload": {"errorType": "Runtime.ExitError", "errorMessage": "the environment was taken away"},
        }
        stamp = time.strftime("%Y/%m/%d/%Y-%m-%dT%H.%M.%S", time.gmtime(self.world.time()))
        key = f"{failure_prefix(FUNCTION)}/{stamp}-{event.call_id}-{event.number}"
        self.objects.write(key, json.dumps(record).encode())


class _Lambda:
    """What ``LambdaInvoker`` uses of ``AWS``."""

    def __init__(self, world: World) -> None:
        self._world = world

    def invoke_async(self, name: str, body: bytes) -> str:
        world = self._world
        requests = world.scenario.requests
        latency = drawn(world.rng, requests.invoke)
        world.objects.sent["invoke"] += 1
        if world.functions.refuses():
            world.world.request(requests.invoke_cpu, latency)
            raise InvocationThrottledError("Lambda is too busy: TooManyRequestsException")
        world.accepted += 1
        number = world.accepted
        world.world.request(requests.invoke_cpu, latency, lambda: world.accept(body))
        return f"{number:032x}"

    def close(self) -> None:
        pass


def _prices() -> Prices:
    return Billing(REGION, 512, Prices()).prices("x86_64")
