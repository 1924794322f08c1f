"""Macro-reduce: map on Lambda, and reduce on one big stand-alone worker, which has the memory for all the data at once.

On AWS, launch the worker and run it: ``pywren standalone launch_instances 1 --instance_type r7i.4xlarge`` and
``python examples/macro_reduce.py``. On an emulated AWS, with a worker on this machine:
``python -m pywren.testing.emulator -- python examples/macro_reduce.py --worker-here``.

Exact quantiles need all values in one place, which may be more than a Lambda function's 10 GB. The sorted parts go
from Lambda to the worker through S3, and never through this program. The worker ends when it has been idle for a while.
"""

import array
import contextlib
import heapq
import random
import subprocess
import sys

import pywren

PARTS, VALUES = 8, 20_000
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


def measure(seed):
    """Return the sorted values of one part: on Lambda, many at once."""
    generator = random.Random(seed)
    return array.array("d", sorted(generator.gauss(100, 15) for _ in range(VALUES)))


def quantiles(parts):
    """Merge all sorted parts, and return exact quantiles: on one big worker."""
    merged = array.array("d", heapq.merge(*parts))
    return {share: merged[int(share * len(merged))] for share in QUANTILES}


@contextlib.contextmanager
def worker_here(config):
    """Run a stand-alone worker on this machine while the context lasts."""
    queue, region = config["standalone"]["sqs_queue_name"], config["account"]["aws_region"]
    options = ["--aws_region", region, "--sqs_queue_name", queue, "--queue_receive_message_timeout", "1"]
    worker = subprocess.Popen([sys.executable, "-m", "pywren.worker.standalone", *options])
    try:
        yield
    finally:
        worker.terminate()  # gently: it ends when its request for more calls returns
        worker.wait()


many = pywren.default_executor()
if "standalone" not in many.config:
    sys.exit("this needs a queue for stand-alone workers: run it on AWS or an emulated AWS")
big = pywren.standalone_executor()
with worker_here(many.config) if "--worker-here" in sys.argv else contextlib.nullcontext():
    parts = many.map(measure, range(PARTS))
    found = big.reduce(quantiles, parts).result()

print(f"quantiles of {PARTS * VALUES} values:", ", ".join(f"{share:.0%} {value:.1f}" for share, value in found.items()))
