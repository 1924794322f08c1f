"""How many floating-point operations a second do many workers reach together, each multiplying matrices?

Run it with ``python examples/figures/flops.py --workers 1 2``, where calls run on this machine, or with the numbers of
the paper on AWS Lambda: ``--workers 1 30 100 300 600 1000 1500 2000 2800 --matn 4096 --loops 12 --no-bare``.

It prints a table and draws a picture. *Effective* counts everything from ``map`` to the last result; *peak* is the sum
of the calls that ran at the same time. The limit is the same multiplication in bare processes on this machine, and the
efficiency is effective ÷ bare. Needs ``pip install 'pywren[examples,plots]'``; on Lambda, numpy in the runtime.
"""

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for each worker, as on Lambda; numpy reads it at its import

import measuring
import numpy as np


def multiply(item):
    """Multiply two matrices again and again; return when it began and ended, and the number of operations."""
    size, loops = item
    left = np.arange(size**2, dtype=np.float64).reshape(size, size)
    right = left.T.copy()
    began = time.time()
    for _ in range(loops):
        np.dot(left, right)
    return began, time.time(), 2 * size**3 * loops


def draw(pyplot, results, path):
    """Draw effective and peak FLOPS against workers, with the job times of the largest run."""
    workers = list(results)
    figure = pyplot.figure(figsize=(8, 5), layout="constrained")
    axes = measuring.axes_over_workers(figure, workers)
    axes.plot(workers, [pair.pywren.peak / 1e9 for pair in results.values()], "o--", label="PyWren, peak")
    axes.plot(workers, [pair.pywren.effective / 1e9 for pair in results.values()], "o-", label="PyWren, effective")
    if all(pair.bare for pair in results.values()):
        axes.plot(workers, [pair.bare.effective / 1e9 for pair in results.values()], "k:", label="bare processes")
    axes.set_ylabel("GFLOPS")
    measuring.leave_room(axes, 0.35)
    axes.legend(loc="upper left")
    inset = axes.inset_axes((0.62, 0.74, 0.36, 0.18))
    inset.hist([ended - began for began, ended, _ in results[max(workers)].pywren.calls], bins=20)
    inset.set_title(f"seconds that calls take, {max(workers)} workers", fontsize=8)
    inset.yaxis.get_major_locator().set_params(integer=True)
    inset.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)


def main():
    parser = measuring.parser(__doc__, "flops.png")
    parser.add_argument("--matn", type=measuring.positive, default=2048, help="rows and columns of each matrix")
    parser.add_argument("--loops", type=measuring.positive, default=10, help="multiplications in each call")
    options = parser.parse_args()
    measuring.check_matplotlib()
    executor = measuring.executor_for(options.workers)
    results = {
        workers: measuring.compared(executor, multiply, [(options.matn, options.loops)] * workers, options)
        for workers in sorted(options.workers)
    }
    measuring.print_table(
        ["workers", "job (s)", "peak GFLOPS", "effective", "bare processes", "efficiency"],
        [
            [
                workers,
                f"{measuring.median_seconds(pair.pywren):.2f}",
                f"{pair.pywren.peak / 1e9:.1f}",
                f"{pair.pywren.effective / 1e9:.1f}",
                f"{pair.bare.effective / 1e9:.1f}" if pair.bare else "–",
                measuring.percent(pair.efficiency),
            ]
            for workers, pair in results.items()
        ],
    )
    measuring.print_published("flops")
    draw(measuring.pyplot(), results, options.picture)
    print(f"\nthe picture is {options.picture}")


if __name__ == "__main__":
    main()
