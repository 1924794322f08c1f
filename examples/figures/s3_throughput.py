"""How many gigabytes a second do many workers together write to S3, and read from it?

Run it with ``python examples/figures/s3_throughput.py --workers 1 2 --mb 100``. With a configuration for AWS, the
objects are in its bucket, or in that of ``--bucket``; without one, an emulated S3 is started on this machine. The
numbers of the paper, on AWS Lambda: ``--workers 1000 2800 --mb 1000 --no-bare``. All objects are removed at the end.

Each worker writes one object, and then, in a second map, reads one. It prints a table and draws the rate of all
workers over time. The limit is boto3's transfer manager in bare processes on this machine, with the same S3, and the
efficiency is PyWren's rate, from ``map`` to the last result, ÷ theirs. Needs ``pip install 'pywren[emulator,plots]'``.
"""

import contextlib
import os
import time
import uuid

import boto3
import measuring

MEGABYTE = 1_000_000


class Source:
    """A file of random bytes, of which only one block is ever in memory."""

    def __init__(self, size):
        self.left = size
        self.block = os.urandom(MEGABYTE)

    def read(self, size=-1):
        wanted = self.left if size < 0 else min(size, self.left)
        self.left -= wanted
        return (self.block * (wanted // MEGABYTE + 1))[:wanted]


class Sink:
    """A file that counts what is written to it."""

    size = 0

    def write(self, data):
        self.size += len(data)
        return len(data)


def write(item):
    """Write an object; return when that began and ended, and the number of bytes."""
    bucket, key, size = item
    client = boto3.client("s3")
    began = time.time()
    client.upload_fileobj(Source(size), bucket, key)
    return began, time.time(), size


def read(item):
    """Read an object; return when that began and ended, and the number of bytes."""
    bucket, key, size = item
    client = boto3.client("s3")
    sink = Sink()
    began = time.time()
    client.download_fileobj(bucket, key, sink)
    if sink.size != size:
        raise OSError(f"{key} has {sink.size} bytes instead of {size}")
    return began, time.time(), size


@contextlib.contextmanager
def emulated_bucket():
    """Give a bucket in an emulated S3, which lasts as long as the context."""
    from pywren.testing.emulator import emulate  # says what to install, if something is missing

    with emulate() as aws:  # sets the environment, which workers and bare processes inherit
        bucket = f"figure-{uuid.uuid4().hex[:12]}"
        boto3.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": aws.region})
        yield bucket


@contextlib.contextmanager
def objects(bucket, workers, size):
    """Give a (bucket, key, size) for each worker, and remove the objects in the end."""
    items = [(bucket, f"figures/{uuid.uuid4().hex}", size) for _ in range(workers)]
    try:
        yield items
    finally:
        client = boto3.client("s3")
        for at in range(0, workers, 1000):  # S3 deletes up to 1,000 objects in one request
            keys = [{"Key": key} for _, key, _ in items[at : at + 1000]]
            client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})


def measure(executor, bucket, options):
    """Return what was compared, by number of workers and function."""
    results = {}
    for workers in sorted(options.workers):
        with objects(bucket, workers, options.mb * MEGABYTE) as items:
            for function in (write, read):
                results[workers, function.__name__] = measuring.compared(executor, function, items, options)
    return results


def draw(pyplot, results, path):
    """Draw the rates of the largest runs over time."""
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    most = max(workers for workers, _ in results)
    for colour, what in zip(("C0", "C1"), ("write", "read"), strict=True):
        for line, run in zip(("-", ":"), results[most, what], strict=True):
            if run:
                times, rates = zip(*run.rates(), strict=True)
                label = f"{what}, {'PyWren' if line == '-' else 'bare processes'}"
                heights = [rate / 1e9 for rate in rates]
                axes.step([0, *times], [0, *heights], colour + line, where="post", label=label)
    axes.set(xlabel="seconds since the start", ylabel=f"GB/s, workers: {most}")
    measuring.leave_room(axes, 0.2)
    axes.legend(loc="upper left", ncols=2)
    figure.savefig(path, dpi=110)


def main():
    parser = measuring.parser(__doc__, "s3_throughput.png")
    parser.add_argument("--mb", type=measuring.positive, default=100, help="megabytes that each worker transfers")
    parser.add_argument("--bucket", help="where the objects are, instead of the configuration's bucket")
    options = parser.parse_args()
    measuring.check_matplotlib()
    bucket = options.bucket or measuring.executor_for(options.workers).config.get("s3", {}).get("bucket")
    with contextlib.nullcontext(bucket) if bucket else emulated_bucket() as bucket:
        # made again, because calls get the environment that the program has when it makes their executor
        executor = measuring.executor_for(options.workers)
        results = measure(executor, bucket, options)
    measuring.print_table(
        ["workers", "", "peak GB/s", "effective", "bare processes", "efficiency"],
        [
            [
                workers,
                what,
                f"{pair.pywren.peak / 1e9:.3f}",
                f"{pair.pywren.effective / 1e9:.3f}",
                f"{pair.bare.effective / 1e9:.3f}" if pair.bare else "–",
                measuring.percent(pair.efficiency),
            ]
            for (workers, what), pair in results.items()
        ],
    )
    measuring.print_published("s3")
    draw(measuring.pyplot(), results, options.picture)
    print(f"\nthe picture is {options.picture}")


if __name__ == "__main__":
    main()
