"""Simulate large maps: the real client on a simulated AWS, in virtual time. Needs no account and no emulator.

Run it with ``python benchmarks/simulate.py reproduce | scale | state | picture``; ``docs/scale.md`` explains the
figures. With ``greenlet`` it is many times faster on a busy machine; ``picture`` needs ``pywren[plots]``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.simulated.client import Report, Scenario, run  # noqa: E402
from benchmarks.simulated.published import BOTOCORE, LEAN, RUNS, lambda_today  # noqa: E402
from benchmarks.simulated.state import state  # noqa: E402

TRANSPORTS = {"botocore": BOTOCORE, "lean": LEAN}
ITEMS = (10_000, 100_000, 1_000_000)
ASKED = ("chunksize", "transport", "concurrency", "seconds", "trouble", "fifo", "seed")
"""The options that say what is simulated."""

LIMIT = 0.2
"""By how much a simulated figure may differ from the published one."""

POINTS = 400
"""How many points of a curve are kept."""


def about(seconds: float) -> Callable[[random.Random, int], float]:
    """Return items that take from half to one and a half times so many seconds."""
    return lambda rng, index: seconds * rng.uniform(0.5, 1.5)


def with_stragglers(seconds: float) -> Callable[[random.Random, int], float]:
    """Return items of which one in a thousand takes ten times as long as the others."""
    usual = about(seconds)
    return lambda rng, index: usual(rng, index) * (10.0 if rng.random() < 0.001 else 1.0)


TROUBLE: Mapping[str, float] = {"dropped": 1e-4, "doubled": 1e-4, "killed": 1e-4, "throttled": 1e-2}
"""Assumed, as AWS publishes nothing: the shares of events that are lost or delivered twice, of workers that are taken
away, and of invocations that are refused at first."""


def scenario_of(options: argparse.Namespace, items: int) -> Scenario:
    """Return what the command line asks for."""
    duration = (with_stragglers if options.trouble else about)(options.seconds)
    changes: dict[str, Any] = {"concurrency": options.concurrency, "backs_off": not options.fifo}
    service = lambda_today(duration, **changes, **(TROUBLE if options.trouble else {}))
    requests, chunksize = TRANSPORTS[options.transport], options.chunksize
    return Scenario(items, service, requests, chunksize=chunksize, measured=True, seed=options.seed)


# -- commands ----------------------------------------------------------------------------------------------------------


def reproduce(options: argparse.Namespace) -> int:
    """Print published figures beside simulated ones. Fail if one of them differs by more than a fifth."""
    missed = 0
    print("| run | what | published | simulated | from … to | difference |\n|---|---|---:|---:|---:|---:|")
    for published in RUNS.values():
        reports = [run(replace(published.scenario, seed=seed)) for seed in range(options.seeds)]
        for check in published.checks:
            found = sorted(check.of(report) for report in reports)
            middle = statistics.median(found)
            difference = middle / check.published - 1.0
            missed += abs(difference) > LIMIT
            print(
                f"| {published.title} | {check.what} | {check.published:g} s | {middle:.2f} s | "
                f"{found[0]:.2f} … {found[-1]:.2f} s | {difference:+.0%} |",
                flush=True,
            )
    return 1 if missed else 0


HEAD = (
    "items", "chunksize", "service", "requests by", "wall", "of these invoking", "S3 requests an item", "invocations",
    "dollars", "CPU an item: own code", "CPU an item: requests",
)  # fmt: skip


def scale(options: argparse.Namespace) -> int:
    """Simulate maps of several sizes and print a row for each."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * 4}{'---:|' * (len(HEAD) - 4)}", flush=True)
    wrong = 0
    for items in options.items:
        report = run(scenario_of(options, items))
        wrong += report.right != items
        print(_row(report, options), flush=True)
        print(_remarks(report), file=sys.stderr, flush=True)
        if options.save:
            with open(options.save, "a", encoding="utf-8") as file:
                file.write(json.dumps(_kept(report, options)) + "\n")
    return 1 if wrong else 0


def _row(report: Report, options: argparse.Namespace) -> str:
    service = f"{options.concurrency:,} at once{', trouble' if options.trouble else ''}"
    cells = (
        f"{report.items:,}", str(options.chunksize), service, options.transport,
        f"{report.wall:,.0f} s", f"{report.spread:,.0f} s",
        f"{(report.usage.puts + report.usage.gets) / report.items:.2f}", f"{report.usage.invocations:,}",
        f"${report.dollars:,.2f}", f"{1e3 * report.computed / report.items:.2f} ms",
        f"{1e3 * report.spent / report.items:.2f} ms",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _remarks(report: Report) -> str:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"  {report.right:,} of {report.items:,} right, {report.repeats} repeats, {report.most_busy:,} at once, "
        f"client's requests {dict(report.sent)}, {report.seconds:.0f} s here, {peak:,.0f} MB at most with the services"
    )


def _kept(report: Report, options: argparse.Namespace) -> dict[str, Any]:
    curves = {name: _thinned(times) for name, times in report.curves.items()}
    rest = {name: value for name, value in report._asdict().items() if name not in ("curves", "usage", "seconds")}
    asked = {name: getattr(options, name) for name in ASKED}
    return {**asked, **rest, "took": report.seconds, "usage": report.usage._asdict(), "curves": curves}


def _thinned(times: Sequence[float]) -> list[tuple[float, int]]:
    """Return some points of a curve: a time, and how many there were until then."""
    step = max(1, math.ceil(len(times) / POINTS))
    kept = [(round(times[index], 2), index + 1) for index in range(0, len(times), step)]
    return [*kept, (round(times[-1], 2), len(times))] if times else []


def show_state(options: argparse.Namespace) -> int:
    """Print how many bytes the client needs for an item."""
    found = state(scenario_of(options, 1))
    print(f"outstanding: {found.besides:.0f} bytes an item, and its future {found.future:.0f}")
    print(f"ended: {found.ended:.0f} bytes an item")
    return 0


def picture(options: argparse.Namespace) -> int:
    """Draw the curves of saved rows."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is missing: pip install 'pywren[plots]'", file=sys.stderr)
        return 1
    matplotlib.use("Agg")
    # The same rows give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "pywren", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    rows = [json.loads(line) for line in Path(options.save).read_text(encoding="utf-8").splitlines()]
    figure, panels = pyplot.subplots(1, len(rows), figsize=(3.6 * len(rows), 3.0), squeeze=False)
    for panel, row in zip(panels[0], rows, strict=True):
        for name, style in (("invoked", ":"), ("began", "--"), ("ended", "-")):
            points = row["curves"][name]
            panel.plot([at for at, _ in points], [count for _, count in points], style, label=name, linewidth=1.3)
        panel.set_title(f"{row['items']:,} items of {row['seconds']:g} s, chunksize {row['chunksize']}", fontsize=9)
        panel.set_xlabel("seconds (simulated)")
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("items")
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(options.to, metadata={"Date": None} if options.to.endswith(".svg") else None)
    return 0


# -- the command line --------------------------------------------------------------------------------------------------


def _positive(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _size(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (reproduce, scale, show_state, picture):
        name = command.__name__.removeprefix("show_")
        added = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
        added.set_defaults(run=command)
        if command is reproduce:
            added.add_argument("--seeds", type=_positive, default=5, help="how many runs; the median counts (5)")
        if command in (scale, show_state):
            added.add_argument("--items", type=_positive, nargs="+", default=ITEMS)
            added.add_argument(
                "--chunksize", type=_size, default=1, help="how many items an invocation has, or auto (1)"
            )
            added.add_argument("--seconds", type=float, default=1.0, help="how long an item takes (1)")
            added.add_argument("--concurrency", type=_positive, default=1_000, help="of the account (1,000)")
            added.add_argument("--transport", choices=TRANSPORTS, default="lean", help="what sends requests (lean)")
            added.add_argument("--trouble", action="store_true", help="lost events, kills, throttles, stragglers")
            added.add_argument("--fifo", action="store_true", help="Lambda's queue keeps its order, without back-off")
            added.add_argument("--seed", type=int, default=0)
        if command in (scale, picture):
            added.add_argument("--save", required=command is picture, help="a file with one JSON object a row")
        if command is picture:
            added.add_argument("--to", default="docs/pictures/scale.svg", help="docs/pictures/scale.svg")
    return parser.parse_args(arguments)


def main() -> int:
    os.environ.setdefault("PYWREN_PROGRESS", "0")
    options = parse()
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
