"""Published figures: what they say of AWS, and runs that the simulation is checked against.

Each parameter is *taken* from its source, *fitted* to a run that is named, or *assumed*.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.simulated.client import Report, Scenario
from benchmarks.simulated.functions import Seconds, Service
from benchmarks.simulated.storage import Requests


def lognormal(median: float, sigma: float) -> Callable[[random.Random], float]:
    """Return what draws from a lognormal distribution. One in a hundred is over median × exp(2.33 × sigma)."""
    mu = math.log(median)
    return lambda rng: math.exp(rng.gauss(mu, sigma))


# -- requests ----------------------------------------------------------------------------------------------------------

S3_READ, S3_WRITE = lognormal(0.0121, 0.5), lognormal(0.0258, 0.5)
"""Taken: 12.1 and 25.8 ms for 1 kB inside a region (Klimovic, Wang, Kozyrakis, Stuedi, Pfefferle and Trivedi,
Understanding Ephemeral Storage for Serverless Analytics, USENIX ATC 2018, table 1). Assumed: the spread, with which one
request in a hundred takes three times as long as the median."""

S3_LIST = lognormal(0.060, 0.5)
"""Assumed: a page of 1,000 keys is written and sent in five times the time of a small object."""

INVOKE = lognormal(0.030, 0.5)
"""Assumed: an asynchronous invocation is put into a queue as fast as an object into S3."""


def requests_of(get: float, put: float, page: float, invoke: float) -> Requests:
    """Return requests to AWS today, from a machine in the same region.

    Args:
        get: for how many milliseconds of CPU time the client computes for a GET.
        put: the same for a PUT.
        page: the same for a page of 1,000 keys.
        invoke: the same for an Invoke.
    """
    return Requests(get / 1e3, put / 1e3, page / 1e3, invoke / 1e3, S3_READ, S3_WRITE, S3_LIST, INVOKE)


BOTOCORE = requests_of(1.0, 1.2, 67.0, 0.97)
"""Taken: CPU time of boto3's clients, measured on loopback with plain HTTP and 1 kB (``docs/scale.md``)."""

LEAN = requests_of(0.24, 0.32, 0.57, 0.25)
"""Taken: the same with urllib3 and requests that are signed by hand, and a listing that is only searched for keys."""


# -- Lambda ------------------------------------------------------------------------------------------------------------

COLD = lognormal(0.45, 0.58)
"""Taken: the median of cold starts on AWS, 448 ms (Ustiugov, Amariucai and Grot, Analyzing Tail Latency in Serverless
Clouds with STeLLAR, IEEE IISWC 2021). Fitted: the spread, to the last start in Lithops' run."""


def lambda_today(duration: Callable[[random.Random, int], float], **changes: object) -> Service:
    """Return Lambda as its documentation describes it: 1,000 environments more in 10 s, a queue with back-off."""
    return Service(duration=duration, cold=COLD, storing=S3_WRITE, **changes)  # type: ignore[arg-type]


# -- runs to reproduce -------------------------------------------------------------------------------------------------


class Check(NamedTuple):
    """A published figure.

    Args:
        what: what it says.
        published: the figure, in seconds.
        of: finds the same figure in a report.
    """

    what: str
    published: float
    of: Callable[[Report], float]


class Published(NamedTuple):
    """A published run.

    Args:
        title: whose run it was.
        source: where it was published.
        scenario: the same run for the simulation.
        checks: what was published of it.
    """

    title: str
    source: str
    scenario: Scenario
    checks: tuple[Check, ...]


def matmul_2017(rng: random.Random, index: int) -> float:
    """Return how long ten products of 4,096 × 4,096 matrices took: 10 × 2 × 4096³ operations.

    Taken: 40 TFLOPS of 2,800 workers (the front page of PyWren, 2017) are 14.3 GFLOPS for each. Assumed: the spread,
    with which one worker in a hundred has less than 10 GFLOPS, where the notebook's histogram begins.
    """
    return 10 * 2 * 4096**3 / (14.3e9 * math.exp(rng.gauss(0.0, 0.154)))


PYWREN_STARTS: Seconds = lognormal(23.4, 0.1)
"""From a cold start until the function begins: 27.7 s for a map of 10 in the same notebook, less 2.8 s for invoking and
1.5 s for computing. Workers of 2017 fetched and unpacked a runtime of hundreds of megabytes."""

PYWREN_INVOKE = (29.30 - 5.19) / (2_800 - 10)
"""Seconds of CPU time for an invocation with the client of 2017 and 2018: what 2,800 calls took more than 10 in the
*later* run of the same notebook. The run below is not used for it."""

PYWREN = Published(
    "PyWren, 2,800 workers, February 2017",
    "https://github.com/pywren/examples, benchmark_flops/flops_benchmark.ipynb at 59045b3",
    Scenario(
        2_800,
        Service(concurrency=3_000, scaling=3_000, cold=PYWREN_STARTS, duration=matmul_2017),
        Requests(0.002, 0.002, 0.130, PYWREN_INVOKE, S3_READ, S3_WRITE, S3_LIST, INVOKE),
        before=2.78 - 10 * PYWREN_INVOKE,
    ),
    (
        Check("map has invoked all", 27.32, lambda report: report.invoked),
        Check("all results are here", 230.58, lambda report: report.wall),
    ),
)

MAP_WITH_BOTOCORE = 1.15
"""Taken: milliseconds of CPU time of the whole ``map`` for each call, with botocore (``docs/scale.md``). Runs that are
not measured count no other computing of the client. Lithops' client is not ours, but sends the same request."""

LITHOPS = Published(
    "Lithops, 1,000 workers, June 2022",
    "https://github.com/lithops-cloud/applications, benchmarks/flops/aws_lambda, run of 11 June 2022 in eu-west-1",
    Scenario(
        1_000,
        Service(concurrency=1_000, scaling=3_000, cold=COLD, duration=lambda rng, index: 60.0),
        requests_of(1.0, 1.2, 67.0, MAP_WITH_BOTOCORE),
        memory=1_024,
    ),
    (
        Check("submissions are spread over", 1.23, lambda report: report.spread),
        Check("all workers have started by", 3.7, lambda report: report.started),
    ),
)

RUNS = {"pywren": PYWREN, "lithops": LITHOPS}
