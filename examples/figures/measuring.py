"""What the three figures share: the same calls made with PyWren and in bare processes, their rates, and the tables.

A timed function takes one item, and returns when it began, when it ended (both in seconds since the epoch), and how
much it did in between. Bare processes are the limit of this machine. They are started, and have imported everything,
before their clock starts. PyWren's clock starts when the program calls ``map``. Both stop with the last result.
"""

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pywren

PUBLISHED = {
    "flops": [
        ("PyWren 2017, 2,800 workers", "40 TFLOPS peak, 16.7 TFLOPS effective"),
        ("Lithops 2022, 1,000 workers", "19.5 TFLOPS peak, 16.5 TFLOPS effective"),
    ],
    "s3": [
        ("PyWren 2017, 2,800 workers", "80 GB/s read, 60 GB/s written"),
        ("Lithops 2022, 1,000 workers", "99 GB/s read, 91 GB/s written"),
    ],
    "redis": [("PyWren 2017", "1,000,000 transactions/s")],
}
"""What others have published, on AWS Lambda. Sources: docs/figures.md."""


class Run(NamedTuple):
    """One run of a timed function over all items."""

    started: float
    ended: float
    calls: list

    @property
    def effective(self):
        """What was done in a second, from the start to the last result."""
        return sum(amount for _, _, amount in self.calls) / (self.ended - self.started)

    @property
    def peak(self):
        """The highest rate of the calls that ran at the same time."""
        return max(rate for _, rate in self.rates())

    def rates(self):
        """Return the rate of all running calls at each moment at which it changes, in seconds since the start."""
        changes = [(began, amount / (ended - began)) for began, ended, amount in self.calls]
        changes += [(ended, -amount / (ended - began)) for began, ended, amount in self.calls]
        moments, steps = zip(*sorted(changes), strict=True)
        return [(at - self.started, rate) for at, rate in zip(moments, accumulate(steps), strict=True)]


class Compared(NamedTuple):
    """A run with PyWren, and one in bare processes right after it (``None``: it was not asked for)."""

    pywren: Run
    bare: Run | None

    @property
    def efficiency(self):
        return self.pywren.effective / self.bare.effective if self.bare else None


def with_pywren(executor, function, items):
    started = time.time()
    calls = pywren.get_all_results(executor.map(function, items))
    return Run(started, time.time(), calls)


def in_bare_processes(function, items):
    """Run each item in a process of its own, all at once. The function must be one that a child can import."""
    context = multiprocessing.get_context("spawn")  # as PyWren's workers: a new interpreter, not a copy of this one
    pipes, processes = [], []
    try:
        for item in items:
            here, there = context.Pipe()
            process = context.Process(target=_in_child, args=(there, function, item), daemon=True)
            process.start()
            there.close()  # so that a child that dies ends our reading
            pipes.append(here)
            processes.append(process)
        for pipe in pipes:
            pipe.recv()  # the child has imported the function and all that its module needs
        started = time.time()
        for pipe in pipes:
            pipe.send("go")
        calls = [pipe.recv() for pipe in pipes]
        return Run(started, time.time(), calls)
    except EOFError:
        sys.exit("a bare process has failed; its own message is above")
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _in_child(pipe, function, item):
    pipe.send("ready")
    pipe.recv()
    pipe.send(function(item))


def compared(executor, function, items, options):
    """Run with PyWren and in bare processes by turns; return the pair whose efficiency is the median.

    By turns, because a machine's speed changes while one measures. A pair of neighbours has met the same machine.
    """
    pairs = [
        Compared(
            with_pywren(executor, function, items),
            in_bare_processes(function, items) if options.bare else None,
        )
        for _ in range(options.repeats)
    ]
    pairs.sort(key=lambda pair: pair.efficiency or pair.pywren.effective)
    return pairs[(len(pairs) - 1) // 2]


# -- the command line and the results --------------------------------------------------------------------------------


def positive(text):
    """Return a whole number of at least 1: a type for ``argparse``."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parser(description, picture):
    """Return a parser with the options that all figures have."""
    made = argparse.ArgumentParser(
        description=description.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--workers", type=positive, nargs="+", default=[1, 2], help="numbers of calls at once")
    made.add_argument("--repeats", type=positive, default=3, help="how often each is measured; the median counts")
    made.add_argument("--picture", type=Path, default=Path(picture), help="where to write the picture")
    made.add_argument(
        "--no-bare",
        dest="bare",
        action="store_false",
        default=True,
        help="do not measure bare processes on this machine, for calls that run elsewhere",
    )
    return made


def executor_for(workers):
    """Return the default executor; on this machine it has a process for each of these calls, as many as there are."""
    os.environ.setdefault("PYWREN_LOCAL_PROCESSES", str(max(workers)))
    return pywren.default_executor()


def check_matplotlib():
    """End the program, before it measures anything, if it could not draw its picture."""
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("the picture needs matplotlib: pip install 'pywren[plots]'")


def pyplot():
    """Return matplotlib's ``pyplot``, for files only."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def axes_over_workers(figure, workers):
    """Return the axes of a figure, with a mark on the x-axis for each number of workers, if there are not too many."""
    axes = figure.subplots()
    axes.set_xlabel("workers")
    if len(workers) <= 10:
        axes.set_xticks(list(workers))
    return axes


def leave_room(axes, share):
    """Let the y-axis begin at 0, and leave a share of the height above the lines, for a legend or an inset."""
    axes.set_ylim(0, axes.dataLim.ymax / (1 - share))


def percent(efficiency):
    return "–" if efficiency is None else f"{efficiency:.3f}"


def print_table(heads, rows):
    widths = [max(len(str(row[at])) for row in [heads, *rows]) for at in range(len(heads))]
    for row in [heads, *rows]:
        print("  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)))


def print_published(figure):
    print("\npublished, on AWS Lambda:")
    for who, what in PUBLISHED[figure]:
        print(f"  {who}: {what}")


def median_seconds(run):
    return statistics.median(ended - began for began, ended, _ in run.calls)
