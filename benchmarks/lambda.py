"""Measure what calls on Lambda cost on the emulated AWS, compared with plain boto3 and Lithops in the same run.

Run it with ``python benchmarks/lambda.py [--quick] [--only NAME ...] [--rounds N]``; needs ``pywren[emulator]``.

Every run has its own process and its own emulator with eight containers. The libraries take turns, and medians over
the rounds are shown. ``floor`` is the lower bound: plain boto3 invokes the same events from as many
threads, and the function only puts one small object. It ends when all objects are listed.

Lithops sends its invocations to ``lambda.<region>.amazonaws.com``, whatever ``AWS_ENDPOINT_URL`` says, and builds its
layer by running pip in a function. Here its session points to the emulator, and its layer is made from what is
installed. Everything else is Lithops unchanged.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import io
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from _common import MEGABYTE, Row, Shortfall, Target, measured_in_child, median_of, stopwatch, tell

from pywren.testing.emulator import Counters, Emulator, Execution, emulate

CONTAINERS = 8
THREADS = 64
MAX_SECONDS = 600
MEMORY = 1536

Figures = dict[str, float]


def nothing(x: Any) -> None:
    return None


def varied(x: int) -> None:
    """Take 0.01 to 1 s, spread evenly over the orders of magnitude."""
    import time

    time.sleep(0.01 * 100 ** (x * 0.618034 % 1.0))


class Heavy:
    """A function whose pickle is one megabyte."""

    def __init__(self) -> None:
        self.ballast = os.urandom(MEGABYTE)

    def __call__(self, x: Any) -> int:
        return len(self.ballast)


# -- the libraries -------------------------------------------------------------------------------------------------


class Library:
    """One library, with its function deployed."""

    package = ""
    chunksize: Any = 1
    concurrency: int | None = None

    def __init__(self, emulator: Emulator) -> None:
        raise NotImplementedError

    def map(self, function: Callable[[Any], Any], count: int) -> None:
        """Run this many calls and collect their results."""
        raise NotImplementedError


class Pywren(Library):
    """PyWren's Lambda executor."""

    package = "pywren"

    def __init__(self, emulator: Emulator) -> None:
        import pywren

        config = emulator.deploy(memory=MEMORY)
        config["lambda"]["concurrency"] = self.concurrency
        self.executor = pywren.lambda_executor(config=config)

    def map(self, function: Callable[[Any], Any], count: int) -> None:
        options = {"invoke_pool_threads": THREADS, "chunksize": self.chunksize}
        for future in self.executor.map(function, range(count), **options):
            future.result()


class Single(Pywren):
    """The same with one invocation for each call."""

    @property
    def chunksize(self) -> int:
        return 1


FLOOR = """
import boto3

s3 = boto3.client("s3")

def handler(event, context):
    s3.put_object(Bucket=event["bucket"], Key=event["key"], Body=b"x" * 1000)
"""

BARE = """
import boto3

def handler(event, context):
    return None
"""


class Floor(Library):
    """Plain boto3 on both sides, without any function of the caller."""

    package = "boto3"
    handler = FLOOR

    def __init__(self, emulator: Emulator) -> None:
        import boto3
        from botocore.config import Config

        self.config = emulator.deploy(memory=MEMORY)  # to name its bucket and role
        self.bucket = self.config["s3"]["bucket"]
        self.s3 = boto3.client("s3")
        self.lambdas = boto3.client("lambda", config=Config(max_pool_connections=THREADS))
        role = self.config["account"]["aws_lambda_role"]
        self.name = f"floor-{uuid.uuid4().hex[:8]}"
        self.lambdas.create_function(
            FunctionName=self.name,
            Runtime=f"python3.{sys.version_info.minor}",
            Role=boto3.client("iam").get_role(RoleName=role)["Role"]["Arn"],
            Handler="floor.handler",
            Code={"ZipFile": zipped({"floor.py": self.handler})},
            MemorySize=MEMORY,
            Timeout=300,
        )
        self.lambdas.get_waiter("function_active_v2").wait(FunctionName=self.name, WaiterConfig={"Delay": 1})

    def map(self, function: Callable[[Any], Any], count: int) -> None:
        prefix = f"floor/{uuid.uuid4()}/"
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(self._invoke, (f"{prefix}{index:05d}" for index in range(count))))
        self._wait_for(prefix, count)

    def _invoke(self, key: str) -> None:
        event = {"bucket": self.bucket, "key": key}
        answer = self.lambdas.invoke(FunctionName=self.name, InvocationType="Event", Payload=json.dumps(event))
        answer["Payload"].read()

    def _wait_for(self, prefix: str, count: int) -> None:
        while True:
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            if sum(page.get("KeyCount", 0) for page in pages) == count:
                return
            time.sleep(0.1)


class Bare(Floor):
    """A handler that only imports boto3."""

    handler = BARE

    def _wait_for(self, prefix: str, count: int) -> None:
        pass  # it stores nothing


def zipped(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16  # otherwise only root may read it
            archive.writestr(entry, text)
    return buffer.getvalue()


class Lithops(Library):
    """Lithops' aws_lambda backend, with its storage in S3."""

    package = "lithops"
    layer = (
        "numpy", "requests", "redis", "pika", "cloudpickle", "ps-mem", "tblib", "urllib3", "psutil"
    )  # fmt: skip

    def __init__(self, emulator: Emulator) -> None:
        os.environ["HOME"] = tempfile.mkdtemp()  # where Lithops remembers what it has deployed
        import boto3
        import lithops

        config = emulator.deploy(memory=MEMORY, packages=self.layer)  # to name its bucket, role and layer
        role = boto3.client("iam").get_role(RoleName=config["account"]["aws_lambda_role"])["Role"]["Arn"]
        self._publish_layer(emulator, config)
        aws = {"region": emulator.region}
        settings = {
            "lithops": {
                "backend": "aws_lambda", "storage": "aws_s3", "telemetry": False, "data_limit": False
            },
            "aws": aws,
            "aws_lambda": {"execution_role": role, "runtime_memory": MEMORY, "invoke_pool_threads": THREADS, **aws},
            "aws_s3": {"storage_bucket": config["s3"]["bucket"], **aws},
        }  # fmt: skip
        self.executor = lithops.FunctionExecutor(config=settings, log_level="ERROR")
        self._point_to(emulator.endpoint)

    def _publish_layer(self, emulator: Emulator, config: Mapping[str, Any]) -> None:
        """Publish the layer under the name that Lithops looks for before it builds one."""
        import boto3
        from lithops.version import __version__

        from pywren.testing.emulator._packages import layer_of

        user = boto3.client("sts").get_caller_identity()["UserId"].split(":")[0][-4:].lower()
        version, python = __version__.replace(".", ""), f"{sys.version_info.major}{sys.version_info.minor}"
        bucket, key = config["s3"]["bucket"], "layer.zip"
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=layer_of(self.layer).archive)
        boto3.client("lambda").publish_layer_version(
            LayerName=f"lithops_v{version}_{user}_default-runtime-v{python}_layer",
            Content={"S3Bucket": bucket, "S3Key": key},
            CompatibleRuntimes=[f"python{sys.version_info.major}.{sys.version_info.minor}"],
        )

    def _point_to(self, endpoint: str) -> None:
        backend = self.executor.compute_handler.backend
        send, address = backend.session.send, urlsplit(endpoint)

        def send_there(request: Any) -> Any:
            request.url = urlsplit(request.url)._replace(scheme=address.scheme, netloc=address.netloc).geturl()
            return send(request)

        backend.session.send = send_there

    def map(self, function: Callable[[Any], Any], count: int) -> None:
        self.executor.get_result(self.executor.map(function, [(x,) for x in range(count)]))


LIBRARIES: dict[str, type[Library]] = {
    "pywren": Pywren,
    "single": Single,
    "floor": Floor,
    "bare": Bare,
    "lithops": Lithops,
}


# -- the runs ------------------------------------------------------------------------------------------------------


class Mapped(NamedTuple):
    """The figures of one map.

    Args:
        seconds: time until all results had arrived.
        cpu: seconds of processor time of this process until then.
        requests: requests to the emulator until it was idle.
        executions: the executions of the map's calls.
    """

    seconds: float
    cpu: float
    requests: Counters
    executions: list[Execution]

    def busy_ms(self) -> float:
        """Return the median duration of the executions in warm containers."""
        return statistics.median(one.duration_ms for one in self.executions if not one.cold)


def mapped(emulator: Emulator, library: Library, function: Callable[[Any], Any], count: int) -> Mapped:
    before, earlier = emulator.counters(), len(emulator.executions())
    with stopwatch() as seconds:
        began = time.process_time()
        library.map(function, count)
        taken, cpu = seconds(), time.process_time() - began
    emulator.wait_idle()
    return Mapped(taken, cpu, emulator.counters() - before, emulator.executions()[earlier:])


def run_maps(emulator: Emulator, library: Library, quick: bool) -> Figures:
    """Run two maps of trivial calls: the first starts the containers, and the second finds them warm."""
    count = 200 if quick else 1000
    first = mapped(emulator, library, nothing, count)
    second = mapped(emulator, library, nothing, count)
    containers = len({one.container for one in second.executions})  # each container reads the function of a map once
    return {
        "requests": first.requests.count(service="s3").requests / count,
        "worker": (second.requests.count(service="s3", caller="function").requests - containers) / count,
        "first": first.seconds,
        "wall": second.seconds,
        "busy": second.busy_ms(),
    }


def run_alone(emulator: Emulator, library: Library, quick: bool) -> Figures:
    """Run calls one after the other in one container: the cost of a call without concurrency."""
    library.map(nothing, 2)
    return {"alone": mapped(emulator, library, nothing, 50 if quick else 200).busy_ms()}


def run_heavy(emulator: Emulator, library: Library, quick: bool) -> Figures:
    """Run a map whose function is one megabyte."""
    count = 200 if quick else 1000
    did = mapped(emulator, library, Heavy(), count)
    read = did.requests.count(service="s3", caller="function", operation="GetObject").bytes_out
    return {"read": read / 1000 / count, "copies": read / MEGABYTE / sum(one.cold for one in did.executions)}


def run_cold(emulator: Emulator, library: Library, quick: bool) -> Figures:
    """Start containers one after the other: each call needs a new one, because the previous one has ended by then."""
    times = []
    for _ in range(3 if quick else 10):
        cold = [one for one in mapped(emulator, library, nothing, 1).executions if one.cold]
        times += [one.init_ms for one in cold if one.init_ms is not None]
        time.sleep(3 * IDLE_SECONDS)
    if not times:
        raise Shortfall("no cold starts")
    return {"cold": statistics.median(times)}


def run_many(emulator: Emulator, library: Library, quick: bool) -> Figures:
    """Run a map of very many trivial calls in warm containers."""
    count = 1_000 if quick else 10_000
    library.map(nothing, 4 * CONTAINERS)
    did = mapped(emulator, library, nothing, count)
    return {
        "requests": did.requests.count(service="s3").requests / count,
        "invoked": did.requests.count(service="lambda").requests / count,
        "cpu": did.cpu * 1000 / count,
        "wall": did.seconds,
    }


def run_varied(emulator: Emulator, library: Library, quick: bool) -> Figures:
    """Run a map of calls that differ a hundredfold in warm containers."""
    library.map(nothing, 4 * CONTAINERS)
    did = mapped(emulator, library, varied, 200 if quick else 1_000)
    return {"wall": did.seconds, "invoked": float(did.requests.count(service="lambda").requests)}


IDLE_SECONDS = 0.2


class Run(NamedTuple):
    """A run, which gives some rows of the table."""

    make: Callable[[Emulator, Library, bool], Figures]
    libraries: str
    rows: tuple[Row, ...]
    settings: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}


RUNS: dict[str, Run] = {
    "maps": Run(
        run_maps,
        "pywren floor lithops",
        (
            Row("requests", "S3/call", (Target(2.3),)),
            Row("worker", "S3/call", (Target(1.02),)),  # a call that starts 5 s late may check if it has ended
            Row("first", "s", (Target(3, "floor"),)),
            Row("wall", "s", (Target(3, "floor"),)),
            Row("busy", "ms", (Target(1, "floor", plus=15),)),
        ),
    ),
    "alone": Run(
        run_alone,
        "pywren floor lithops",
        (Row("alone", "ms", (Target(1, "floor", plus=15),)),),
        {"containers": 1},
    ),
    "heavy": Run(run_heavy, "pywren lithops", (Row("read", "kB/call"), Row("copies", "/worker", (Target(1.1),)))),
    "cold": Run(
        run_cold,
        "pywren bare lithops",
        (Row("cold", "ms", (Target(1.5, "bare"),)),),
        {"containers": 1, "idle_seconds": IDLE_SECONDS},
    ),
    "many": Run(
        run_many,
        "pywren single floor lithops",
        (
            Row("requests", "S3/call", (Target(0.25),)),
            Row("invoked", "/call", (Target(0.1),)),
            Row("cpu", "ms/call", (Target(0.3),)),
            Row("wall", "s", (Target(1, "floor"),)),
        ),
        options={"chunksize": "auto"},
    ),
    "varied": Run(
        run_varied,
        "pywren single",
        (Row("wall", "s", (Target(1, "single"),)), Row("invoked", "calls", (Target(1, "single"),))),
        options={"chunksize": "auto", "concurrency": CONTAINERS},
    ),
}


# -- running them ------------------------------------------------------------------------------------------------------


def installed(library: str) -> bool:
    return importlib.util.find_spec(LIBRARIES[library].package) is not None


def run_here(name: str, library: str, quick: bool) -> Figures:
    """Run one measurement in this fresh process."""
    logging.disable()
    run = RUNS[name]
    for option, value in run.options.items():
        setattr(Pywren, option, value)
    with emulate(**{"containers": CONTAINERS, **run.settings}) as emulator:
        return run.make(emulator, LIBRARIES[library](emulator), quick)


def measure(name: str, rounds: int, quick: bool) -> None:
    """Make one run as often as requested, with the libraries taking turns, and print its rows."""
    found: dict[str, list[Any]] = {library: [] for library in RUNS[name].libraries.split() if installed(library)}
    for _ in range(rounds):
        for library, values in found.items():
            arguments = ["--measure", name, library, *(["--quick"] if quick else [])]
            values.append(measured_in_child(__file__, arguments, MAX_SECONDS))
    for row in RUNS[name].rows:
        print("\n".join(row.lines({library: figure_of(row, values) for library, values in found.items()})), flush=True)


def figure_of(row: Row, values: Sequence[Figures | str]) -> float | str:
    return median_of([value if isinstance(value, str) else value[row.name] for value in values])


def arguments_of(command_line: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of smaller measurements, for a first look")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--rounds", type=int, help="how often each is measured (3, or 1 with --quick)")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "LIBRARY"), help=argparse.SUPPRESS)
    return parser.parse_args(command_line)


def main() -> None:
    """Make all measurements, and print the table."""
    options = arguments_of(sys.argv[1:])
    if options.measure:
        tell(functools.partial(run_here, *options.measure, options.quick))
        os._exit(0)  # Lithops leaves threads behind
    cpus = os.cpu_count()
    print(f"Python {platform.python_version()} on {platform.platform()}, {cpus} processors, {CONTAINERS} containers\n")
    for name in options.only:
        measure(name, options.rounds or (1 if options.quick else 3), options.quick)


if __name__ == "__main__":
    main()
