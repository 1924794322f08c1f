"""Measure how fast calls on this machine are, compared with other libraries in the same run, on two workers.

Run it with ``python benchmarks/local.py [--quick] [--slow] [--only NAME ...] [--rounds N]``.

Every measurement has its own process. The libraries take turns, and medians over the rounds are shown.
A library that is not installed is skipped; ``pip install "pywren[benchmarks]"`` installs all of them.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _common import MEGABYTE, Row, Shortfall, Target, measured_in_child, median_of, stopwatch, tell

if TYPE_CHECKING:
    import concurrent.futures

WORKERS = 2
MAX_SECONDS = 120


# -- the functions that are called -------------------------------------------------------------------------------


def add_one(x: int) -> int:
    return x + 1


def nothing(x: Any) -> None:
    return None


def size(array: Any) -> int:
    return int(array.nbytes)


def make_array(index: int) -> Any:
    import numpy as np

    return np.full(MEGABYTE, index, dtype=np.float64)  # 8 MB


def item_of(array: Any, index: int) -> float:
    return float(array[index])


def crash_at_seven(x: int) -> int:
    if x == 7:
        os._exit(1)
    return x


def sleep_long(x: int) -> None:
    time.sleep(600)


def closure_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it cannot be pickled by its name."""
    return lambda *arguments: function(*arguments)


# -- the libraries -------------------------------------------------------------------------------------------------


class Library:
    """One library with its workers started; its methods are what all libraries can do."""

    package = ""
    start_program = ""
    closures = True

    def __init__(self) -> None:
        self.call(add_one, 1)

    def call(self, function: Callable[[Any], Any], x: Any) -> Any:
        """Run one call and wait for its result."""
        return self.map(function, [x])[0]

    def map(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        """Run many calls and wait for all results."""
        return [future.result() for future in self.submit(function, xs)]

    def submit(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        """Start many calls and return a handle for each."""
        raise NotImplementedError

    def executor_of_standard_library(self) -> concurrent.futures.Executor:
        """Return the library's executor with the interface of ``concurrent.futures``."""
        raise NotImplementedError

    def outcomes(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        """Run many calls and return each one's result or exception."""
        return [outcome_of(future.result) for future in self.submit(function, xs)]


def outcome_of(get: Callable[[], Any]) -> Any:
    """Return what a function returns or raises."""
    try:
        return get()
    except Exception as error:  # noqa: BLE001 -- each library raises its own
        return error


class Pywren(Library):
    """PyWren's local executor."""

    package = "pywren"
    start_program = """
import pywren
pwex = pywren.local_executor()
print(pwex.call_async(lambda x: x + 1, 1).result())
"""

    def __init__(self) -> None:
        import pywren
        from pywren.invokers import LocalInvoker
        from pywren.worker.parent.pool import LocalPool

        self.executor = pywren.local_executor(LocalInvoker(pool=LocalPool(WORKERS)))
        super().__init__()

    def submit(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        return self.executor.map(function, xs)

    def executor_of_standard_library(self) -> concurrent.futures.Executor:
        import pywren

        return pywren.PoolExecutor(executor=self.executor)


class Ppe(Library):
    """``concurrent.futures.ProcessPoolExecutor``, with one task per submission."""

    package = "concurrent.futures"
    start_program = """
from concurrent.futures import ProcessPoolExecutor
def f(x): return x + 1
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(pool.submit(f, 1).result())
"""
    closures = False

    def __init__(self) -> None:
        self._start()
        super().__init__()

    def _start(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self.pool = ProcessPoolExecutor(WORKERS)

    def executor_of_standard_library(self) -> concurrent.futures.Executor:
        return self.pool

    def submit(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        from concurrent.futures import BrokenExecutor

        try:
            return [self.pool.submit(function, x) for x in xs]
        except BrokenExecutor:  # as its users must do
            self._start()
            return [self.pool.submit(function, x) for x in xs]


class Joblib(Library):
    """joblib with its default backend, loky."""

    package = "joblib"
    start_program = """
from joblib import Parallel, delayed
print(Parallel(n_jobs=2)(delayed(lambda x: x + 1)(x) for x in [1]))
"""

    def map(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        from joblib import Parallel, delayed

        return list(Parallel(n_jobs=WORKERS)(delayed(function)(x) for x in xs))

    def outcomes(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        return outcome_of(lambda: self.map(function, xs)) if len(xs) == 1 else self._all_or_none(function, xs)

    def _all_or_none(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        outcome = outcome_of(lambda: self.map(function, xs))
        return [outcome] * len(xs) if isinstance(outcome, Exception) else outcome


class Ray(Library):
    """ray on this machine."""

    package = "ray"
    start_program = """
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(ray.get(ray.remote(lambda x: x + 1).remote(1)))
ray.shutdown()
"""

    def __init__(self) -> None:
        import ray

        self.ray = ray
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        super().__init__()

    def submit(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        remote = self.ray.remote(max_retries=0)(function)
        return [remote.remote(x) for x in xs]

    def map(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        return list(self.ray.get(self.submit(function, xs)))

    def outcomes(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        references = self.submit(function, xs)
        return [outcome_of(functools.partial(self.ray.get, reference)) for reference in references]


LITHOPS_CONFIG = {
    "lithops": {"backend": "localhost", "storage": "localhost", "telemetry": False, "data_limit": False},
    "localhost": {"worker_processes": WORKERS, "runtime": sys.executable},
}


class Lithops(Library):
    """Lithops' localhost executor."""

    package = "lithops"
    start_program = f"""
import lithops
with lithops.LocalhostExecutor(config={LITHOPS_CONFIG!r}, log_level="ERROR") as executor:
    print(executor.call_async(lambda x: x + 1, 1).result())
"""

    def __init__(self) -> None:
        import lithops

        self.executor = lithops.LocalhostExecutor(config=LITHOPS_CONFIG, log_level="ERROR")
        super().__init__()

    def submit(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        # Lithops passes an argument by the parameter's name, and unpacks arrays
        return list(self.executor.map(function, [(x,) for x in xs]))

    def map(self, function: Callable[[Any], Any], xs: Sequence[Any]) -> list[Any]:
        return list(self.executor.get_result(self.submit(function, xs)))


LIBRARIES: dict[str, type[Library]] = {
    "pywren": Pywren,
    "ppe": Ppe,
    "joblib": Joblib,
    "ray": Ray,
    "lithops": Lithops,
}


# -- the measurements ------------------------------------------------------------------------------------------------


def measure_start(library: str, quick: bool) -> float:
    """Return the seconds from the start of a process to its end, with one result in between."""
    with stopwatch() as seconds:
        subprocess.run([sys.executable, "-c", LIBRARIES[library].start_program], check=True, stdout=subprocess.DEVNULL)
        return seconds()


def measure_import(library: str, quick: bool) -> float:
    """Return the milliseconds that the import takes in a fresh interpreter."""
    baseline = "concurrent.futures, json, hmac, uuid, typing, dataclasses"
    program = (
        f"from time import perf_counter as now; t = now(); import {'pywren' if library == 'pywren' else baseline}\n"
        "print(now() - t)"
    )
    printed = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    return 1000 * float(printed)


def measure_warm(library: str, quick: bool) -> float:
    """Return the milliseconds of a warm call: of a closure, or of a module-level function if closures do not work."""
    workers = LIBRARIES[library]()
    function = closure_of(add_one) if workers.closures else add_one
    times = []
    for index in range(20 if library == "lithops" else 100 if quick else 1000):
        with stopwatch() as seconds:
            workers.call(function, index)
            times.append(seconds())
    return 1000 * statistics.median(times[len(times) // 10 :])


def measure_submit(library: str, quick: bool) -> float:
    """Return the milliseconds of 2,000 trivial calls that ``submit`` makes one by one, with all results collected."""
    executor = LIBRARIES[library]().executor_of_standard_library()
    times = []
    for count in (200, *[2_000] * (2 if quick else 7)):
        with stopwatch() as seconds:
            futures = [executor.submit(add_one, n) for n in range(count)]
            [future.result() for future in futures]
            times.append(seconds())
    return 1000 * statistics.median(times[1:])


def measure_many(library: str, quick: bool) -> float:
    """Return how many trivial calls run per second, with a future for each and all results collected."""
    workers = LIBRARIES[library]()
    count = 1_000 if quick else 10_000
    with stopwatch() as seconds:
        workers.map(nothing, range(count))
        return count / seconds()


def measure_scalars(library: str, quick: bool) -> float:
    """Return how many trivial calls run per second over ``numpy.linspace``, whose items are numpy scalars."""
    import numpy as np

    workers = LIBRARIES[library]()
    xs = np.linspace(0.1, 100, 1_000 if quick else 10_000)
    with stopwatch() as seconds:
        workers.map(nothing, xs)
        return len(xs) / seconds()


def measure_arguments(library: str, quick: bool) -> float:
    """Return the throughput of 8 MB arguments, in megabytes per second."""
    workers = LIBRARIES[library]()
    arrays = [make_array(index) for index in range(16 if quick else 64)]
    with stopwatch() as seconds:
        total = sum(workers.map(size, arrays))
        return total / MEGABYTE / seconds()


def measure_results(library: str, quick: bool) -> float:
    """Return the throughput of 8 MB results, in megabytes per second."""
    workers = LIBRARIES[library]()
    with stopwatch() as seconds:
        arrays = workers.map(make_array, range(16 if quick else 64))
        total = sum(array.nbytes for array in arrays)
        return total / MEGABYTE / seconds()


def measure_closure(library: str, quick: bool) -> float:
    """Return the seconds of a map over a function that holds an array of 50 MB."""
    import numpy as np

    workers = LIBRARIES[library]()
    array = np.arange(6_250_000, dtype=np.float64)
    function = closure_of(functools.partial(item_of, array)) if workers.closures else functools.partial(item_of, array)
    with stopwatch() as seconds:
        workers.map(function, range(100 if quick else 1_000))
        return seconds()


def measure_crash(library: str, quick: bool) -> float:
    """Return the seconds until a map of 20 calls, one of which crashes, and one more call have ended."""
    workers = LIBRARIES[library]()
    with stopwatch() as seconds:
        outcomes = workers.outcomes(crash_at_seven, range(20))
        again = outcome_of(lambda: workers.call(add_one, 1))
        taken = seconds()
    arrived = sum(not isinstance(outcome, Exception) for outcome in outcomes)
    if arrived != 19 or again != 2:
        raise Shortfall(f"{arrived} of 19 in {taken:.2g} s" + ("" if again == 2 else ", then unusable"))
    return taken


def measure_memory(library: str, quick: bool) -> float:
    """Return the megabytes by which the client grows while 10,000 calls are outstanding."""
    workers = LIBRARIES[library]()
    gc.collect()
    before = peak_megabytes()
    futures = workers.submit(sleep_long, range(1_000 if quick else 10_000))
    grown = peak_megabytes() - before
    if not futures:
        raise Shortfall("no futures")
    return grown


def peak_megabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE


@dataclass(frozen=True)
class Measurement:
    """What is measured, for which libraries, and pywren's targets."""

    run: Callable[[str, bool], float]
    unit: str
    libraries: str
    targets: tuple[Target, ...]
    higher_is_better: bool = False
    slow: str = ""


EVERYONE = "pywren ppe joblib ray lithops"
MEASUREMENTS: dict[str, Measurement] = {
    "start": Measurement(measure_start, "s", EVERYONE, (Target(0.25, "lithops"), Target(2.5, "ppe"))),
    "import": Measurement(measure_import, "ms", "pywren stdlib", (Target(1.5, "stdlib"),)),
    "warm": Measurement(measure_warm, "ms", EVERYONE, (Target(1, "ppe"),)),
    "submit": Measurement(measure_submit, "ms", "pywren ppe", (Target(1, "ppe"),)),
    "many": Measurement(measure_many, "calls/s", EVERYONE, (Target(5, "ppe"),), True, slow="lithops"),
    "scalars": Measurement(measure_scalars, "calls/s", EVERYONE, (Target(2, "ppe"),), True, slow="lithops"),
    "arguments": Measurement(measure_arguments, "MB/s", EVERYONE, (Target(2, "ppe"),), True),
    "results": Measurement(measure_results, "MB/s", EVERYONE, (Target(2, "ppe"),), True),
    "closure": Measurement(measure_closure, "s", EVERYONE, (Target(1),), slow="ppe lithops"),
    "crash": Measurement(measure_crash, "s", EVERYONE, (Target(1),)),
    "memory": Measurement(measure_memory, "MB", "pywren ppe ray", (Target(60),)),
}


# -- running them ------------------------------------------------------------------------------------------------------


def installed(library: str) -> bool:
    return library == "stdlib" or importlib.util.find_spec(LIBRARIES[library].package) is not None


def measure_in_child(name: str, library: str, quick: bool) -> float | str:
    """Make one measurement in a fresh process; return a figure, or a text that says why there is none."""
    arguments = ["--measure", name, library, *(["--quick"] if quick else [])]
    value: float | str = measured_in_child(__file__, arguments, MAX_SECONDS)
    return value


def measure_here(name: str, library: str, quick: bool) -> None:
    """Make one measurement in this fresh process."""
    tell(lambda: MEASUREMENTS[name].run(library, quick))
    os._exit(0)  # calls may still be outstanding, and some libraries would wait for them


def measure_all(names: Sequence[str], rounds: int, quick: bool, slow: bool) -> dict[str, dict[str, float | str]]:
    """Make every measurement, with the libraries taking turns."""
    figures = {}
    for name in names:
        measurement = MEASUREMENTS[name]
        libraries = [item for item in measurement.libraries.split() if installed(item)]
        if not slow:
            libraries = [item for item in libraries if item not in measurement.slow.split()]
        found: dict[str, list[float | str]] = {library: [] for library in libraries}
        for _ in range(rounds):
            for library, values in found.items():
                values.append(measure_in_child(name, library, quick))
        figures[name] = {library: median_of(values) for library, values in found.items()}
        row = Row(name, measurement.unit, measurement.targets, measurement.higher_is_better)
        print("\n".join(row.lines(figures[name])), flush=True)
    return figures


def arguments_of(command_line: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of smaller measurements, for a first look")
    parser.add_argument("--slow", action="store_true", help="also those that take some libraries over a minute")
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), default=list(MEASUREMENTS))
    parser.add_argument("--rounds", type=int, help="how often each is measured (3, or 1 with --quick)")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "LIBRARY"), help=argparse.SUPPRESS)
    return parser.parse_args(command_line)


def use_two_cores() -> None:
    """Restrict all libraries to the same two cores, if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:WORKERS])


def main() -> None:
    """Make all measurements, and print the table."""
    options = arguments_of(sys.argv[1:])
    if options.measure:
        measure_here(*options.measure, options.quick)
    use_two_cores()
    print(f"Python {platform.python_version()} on {platform.platform()}, {WORKERS} workers; medians\n")
    measure_all(options.only, options.rounds or (1 if options.quick else 3), options.quick, options.slow)


if __name__ == "__main__":
    main()
