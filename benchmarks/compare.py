"""Compare two trees of pywren, such as before and after a change: ``python benchmarks/compare.py OLD NEW``.

The same benchmarks, those of this directory, run with the package of each tree. Every measurement has its own process,
and the trees take turns, so that what else the machine does affects both. The table shows medians over the rounds and
the ratio of the two. For Lambda it also compares with ``floor``: plain boto3 in the same rounds. Each tree brings its
own emulator.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import local
from _common import OWN, measured_in_child, median_of, shown

HERE = Path(__file__).parent
MAX_SECONDS = 600
LOCAL = ["warm", "many", "closure", "memory", "start", "import"]
LAMBDA = ["maps", "alone"]
FLOOR = "floor"

Found = dict[str, list[Any]]


def measured(tree: Path, script: str, name: str, library: str, quick: bool) -> Any:
    """Make one measurement with the package of a tree."""
    arguments = ["--measure", name, library, *(["--quick"] if quick else [])]
    return measured_in_child(str(HERE / script), arguments, MAX_SECONDS, {"PYTHONPATH": str(tree)})


def in_turns(trees: Sequence[Path], script: str, name: str, rounds: int, quick: bool, *, floor: bool) -> Found:
    """Measure with each tree in each round; every second round has the reverse order."""
    found: Found = {str(tree): [] for tree in trees}
    for number in range(rounds):
        for tree in trees if number % 2 == 0 else reversed(trees):
            found[str(tree)].append(measured(tree, script, name, OWN, quick))
        if floor:
            found.setdefault(FLOOR, []).append(measured(trees[-1], script, name, FLOOR, quick))
    return found


def line(name: str, unit: str, old: float | str, new: float | str) -> str:
    """Return a line of the table."""
    ratio = f"{new / old:.2f}" if isinstance(old, float) and isinstance(new, float) and old else "-"
    return f"{name:<14} {unit:<9} {shown(old):>12} {shown(new):>12} {ratio:>8}"


def compare_here(trees: Sequence[Path], names: Sequence[str], rounds: int, quick: bool) -> None:
    """Compare what calls on this machine cost."""
    for name in names:
        found = in_turns(trees, "local.py", name, rounds, quick, floor=False)
        old, new = (median_of(found[str(tree)]) for tree in trees)
        print(line(name, local.MEASUREMENTS[name].unit, old, new), flush=True)


def compare_on_lambda(trees: Sequence[Path], names: Sequence[str], rounds: int, quick: bool) -> None:
    """Compare what calls on the emulated Lambda cost."""
    runs: Mapping[str, Any] = importlib.import_module("lambda").RUNS
    for name in names:
        found = in_turns(trees, "lambda.py", name, rounds, quick, floor=True)
        for row in runs[name].rows:
            old, new, floor = (figure(found[key], row.name) for key in (*map(str, trees), FLOOR))
            print(line(row.name, row.unit, old, new), flush=True)
            if row.unit in ("s", "ms") and isinstance(floor, float):
                print(line("  over floor", row.unit, over(old, floor), over(new, floor)))
                print(line("  x floor", "", times(old, floor), times(new, floor)), flush=True)


def figure(values: Sequence[Any], row: str) -> float | str:
    """Return the median of one row of several runs."""
    return median_of([value if isinstance(value, str) else value[row] for value in values])


def over(value: float | str, floor: float) -> float | str:
    """Return by how much a figure is above the floor."""
    return value if isinstance(value, str) else value - floor


def times(value: float | str, floor: float) -> float | str:
    """Return a figure as a multiple of the floor."""
    return value if isinstance(value, str) else value / floor


def arguments_of(command_line: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition(":")[0])
    parser.add_argument("old", type=Path, metavar="OLD", help="the directory that contains the older package")
    parser.add_argument("new", type=Path, metavar="NEW", help="the directory that contains the newer package")
    parser.add_argument("--quick", action="store_true", help="one round of smaller measurements, for a first look")
    parser.add_argument("--only", nargs="+", choices=[*LOCAL, *LAMBDA], default=[*LOCAL, *LAMBDA])
    parser.add_argument("--rounds", type=int, help="how often each is measured (5, or 1 with --quick)")
    options = parser.parse_args(command_line)
    for tree in (options.old, options.new):
        if not (tree / "pywren" / "__init__.py").is_file():
            parser.error(f"{tree} contains no package pywren")
    return options


def main() -> None:
    """Make all measurements, and print the table."""
    options = arguments_of(sys.argv[1:])
    trees = [options.old.resolve(), options.new.resolve()]
    rounds = options.rounds or (1 if options.quick else 5)
    local.use_two_cores()
    print(f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors, {rounds} rounds")
    print(f"{'':<14} {'unit':<9} {'old':>12} {'new':>12} {'new/old':>8}")
    compare_here(trees, [name for name in LOCAL if name in options.only], rounds, options.quick)
    compare_on_lambda(trees, [name for name in LAMBDA if name in options.only], rounds, options.quick)


if __name__ == "__main__":
    main()
