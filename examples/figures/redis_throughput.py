"""How many reads and writes a second does one Redis server take from many workers?

Run it with ``python examples/figures/redis_throughput.py --workers 1 2 4``, which starts a ``redis-server`` on this
machine (Debian and Ubuntu: ``apt-get install redis-server``; macOS: ``brew install redis``). For workers elsewhere,
name a server that they can reach: ``--url redis://HOST:6379``. If it has a password, put the URL into the variable
``REDIS_URL`` instead, because other users of a machine can read the arguments of its programs.

Each worker writes values of 128 bytes, one after the other, and then, in a second map, reads them. It prints a table
and draws transactions/s against workers. The limit is the same client in bare processes on this machine, and the
efficiency is PyWren's rate, from ``map`` to the last result, ÷ theirs. ``redis-benchmark``, a client in C, is shown
beside, except for a ``REDIS_URL`` with a password. Needs ``pip install 'pywren[plots]' redis``.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import measuring

try:
    import redis
except ImportError:
    sys.exit("this needs Redis's client for Python: pip install redis")

KEYS = 1000
"""How many keys each worker uses, one after the other."""


def write(item):
    """Write values; return when that began and ended, and how many they were."""
    url, name, count, size = item
    value = b"x" * size
    with redis.Redis.from_url(url) as client:
        client.ping()
        began = time.time()
        for index in range(count):
            client.set(f"{name}:{index % KEYS}", value)
        return began, time.time(), count


def read(item):
    """Read values; return when that began and ended, and how many they were."""
    url, name, count, _ = item
    with redis.Redis.from_url(url) as client:
        client.ping()
        began = time.time()
        for index in range(count):
            client.get(f"{name}:{index % KEYS}")
        return began, time.time(), count


class Server(NamedTuple):
    """A Redis server: its URL, and the URL for ``redis-benchmark``, which anyone on this machine may read."""

    url: str
    shown: str | None


def given_server(url):
    """Return a server that somebody else runs. Its URL may be shown if it holds no password.

    ``redis-benchmark`` takes a password from its arguments only; it does not read ``REDISCLI_AUTH``.
    """
    parts = urlsplit(url)
    return Server(url, url if parts.scheme == "redis" and "@" not in parts.netloc and not parts.query else None)


@contextlib.contextmanager
def redis_server():
    """Run a Redis server on this machine, which keeps nothing on disk, and give it."""
    program = shutil.which("redis-server")
    if not program:
        sys.exit("redis-server is not installed: run `apt-get install redis-server`, or name a server with --url")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Other users of this machine can reach the port, too. What redis-benchmark shows opens only its own keys.
    password, shown = secrets.token_urlsafe(), secrets.token_urlsafe()
    server = subprocess.Popen([program, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with server.stdin as settings:  # not arguments, which other users can read
            settings.write(f'bind 127.0.0.1\nport {port}\nsave ""\nrequirepass {password}\n')
            settings.write(f"user benchmark on >{shown} ~key:* +set +get\n")
        said = []
        for line in server.stdout:
            said.append(line)
            if "Ready to accept connections" in line:
                break
        else:
            sys.exit("redis-server has ended:\n" + "".join(said))
        here = f"127.0.0.1:{port}"
        yield Server(f"redis://default:{password}@{here}", f"redis://benchmark:{shown}@{here}")
    finally:
        server.terminate()
        server.stdout.close()
        server.wait()


def redis_benchmark(server, workers, options):
    """Return what Redis's own benchmark reaches, as (writes/s, reads/s), or ``None`` if it cannot be run."""
    program = shutil.which("redis-benchmark")
    if not program or not server.shown:
        return None
    numbers = ["-c", str(workers), "-n", str(workers * options.transactions), "-d", str(options.size)]
    command = [program, "-u", server.shown, *numbers, "-t", "set,get", "--csv"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rates = dict(line.replace('"', "").split(",")[:2] for line in printed.splitlines())
    return float(rates["SET"]), float(rates["GET"])


@contextlib.contextmanager
def keys(url, workers, options):
    """Give an item for each worker, and remove their keys in the end, and the one of ``redis-benchmark``."""
    run = secrets.token_hex(4)
    items = [(url, f"figure:{run}:{index}", options.transactions, options.size) for index in range(workers)]
    try:
        yield items
    finally:
        with redis.Redis.from_url(url) as client:
            client.delete("key:__rand_int__")
            for _, name, count, _ in items:
                client.delete(*(f"{name}:{index}" for index in range(min(count, KEYS))))


def measure(executor, server, options):
    """Return what was compared, and what Redis's own benchmark reached, by number of workers and function."""
    results, others = {}, {}
    for workers in sorted(options.workers):
        with keys(server.url, workers, options) as items:
            for function in (write, read):
                results[workers, function.__name__] = measuring.compared(executor, function, items, options)
            others[workers] = redis_benchmark(server, workers, options)
    return results, others


def draw(pyplot, results, path):
    """Draw transactions/s against workers."""
    figure = pyplot.figure(figsize=(8, 5), layout="constrained")
    axes = measuring.axes_over_workers(figure, sorted({workers for workers, _ in results}))
    for colour, what in zip(("C0", "C1"), ("write", "read"), strict=True):
        pairs = {workers: pair for (workers, each), pair in results.items() if each == what}
        axes.plot(
            list(pairs), [pair.pywren.effective for pair in pairs.values()], colour + "o-", label=f"{what}, PyWren"
        )
        if all(pair.bare for pair in pairs.values()):
            heights = [pair.bare.effective for pair in pairs.values()]
            axes.plot(list(pairs), heights, colour + ":", label=f"{what}, bare processes")
    axes.set_ylabel("transactions/s")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    measuring.leave_room(axes, 0.2)
    axes.legend(loc="upper left", ncols=2)
    figure.savefig(path, dpi=110)


def main():
    parser = measuring.parser(__doc__, "redis_throughput.png")
    parser.add_argument("--transactions", type=measuring.positive, default=20_000, help="by each worker")
    parser.add_argument("--size", type=measuring.positive, default=128, help="bytes of each value")
    parser.add_argument("--url", help="a server to use, instead of one that is started here")
    options = parser.parse_args()
    measuring.check_matplotlib()
    executor = measuring.executor_for(options.workers)
    url = options.url or os.environ.get("REDIS_URL")
    with contextlib.nullcontext(given_server(url)) if url else redis_server() as server:
        results, others = measure(executor, server, options)
    measuring.print_table(
        ["workers", "", "per second", "bare processes", "efficiency", "redis-benchmark"],
        [
            [
                workers,
                what,
                f"{pair.pywren.effective:,.0f}",
                f"{pair.bare.effective:,.0f}" if pair.bare else "–",
                measuring.percent(pair.efficiency),
                f"{others[workers][what == 'read']:,.0f}" if others[workers] else "–",
            ]
            for (workers, what), pair in results.items()
        ],
    )
    measuring.print_published("redis")
    draw(measuring.pyplot(), results, options.picture)
    print(f"\nthe picture is {options.picture}")


if __name__ == "__main__":
    main()
