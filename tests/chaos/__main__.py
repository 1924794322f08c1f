"""``python -m tests.chaos``: run maps while things go wrong, and print what has become of their calls."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence

from .remains import own_directories
from .scenarios import EVERYTHING, IN_CHUNKS, MANY, SINGLE, WITHOUT, Scenario, emulated, on_lambda, on_this_machine
from .trial import Outcome

FACTOR, ALLOWANCE = 3.0, 60.0
"""The promise: at most so many times the time without faults, and so many seconds."""

_HEAD = f"{'scenario':<36} {'seed':>4} {'right':>11} {'seconds':>8} {'bound':>6}  attempts, faults; troubles"


class Table:
    """Prints a line for each trial, and remembers what was not as promised."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        print(_HEAD)

    def add(self, name: str, seed: int, outcome: Outcome, bound: float | None = None) -> None:
        """Print the line of a trial.

        Args:
            name: the scenario.
            seed: the seed of the faults.
            outcome: what has become of the calls.
            bound: the seconds that were promised; ``None`` if nothing was.
        """
        late = bound is not None and outcome.seconds > bound
        right = f"{outcome.right:,}/{outcome.calls:,}"
        shown = "" if bound is None else f"{bound:.0f}"
        notes = [] if outcome.attempts is None else [f"{outcome.attempts} attempts"]
        notes += [f"{count} {kind}" for kind, count in sorted(outcome.faults.items())]
        mark = "✓" if outcome.is_perfect and not late else "✗"
        print(
            f"{name:<36} {seed:>4} {right:>11} {outcome.seconds:>8.1f} {shown:>6} {mark} {', '.join(notes)}"
            + (f"; {outcome.troubles()}" if not outcome.is_perfect else ""),
            flush=True,
        )
        if mark == "✗":
            self.broken.append(f"{name}, seed {seed}")


def run_on_lambda(table: Table, scenarios: Sequence[Scenario], calls: int, seeds: Sequence[int], wait: float) -> None:
    """Run scenarios on the emulated AWS. Those that need the same emulator share it."""

    def needs(scenario: Scenario) -> tuple[int, float]:
        return scenario.containers, scenario.event_age_scale

    for _, group in itertools.groupby(scenarios, key=needs):
        alike = list(group)
        with emulated(alike[0]) as emulator:
            first = alike[0]
            plain = WITHOUT._replace(containers=first.containers, chunksize=first.chunksize, seconds=first.seconds)
            without = None
            if alike[0].event_age_scale == 1.0:
                without = on_lambda(emulator, plain, calls=calls, seed=0, patience=wait)
                table.add(f"{plain.name}, {plain.containers} containers", 0, without)
            for scenario, seed in itertools.product(alike, seeds):
                outcome = on_lambda(emulator, scenario, calls=calls, seed=seed, patience=wait)
                table.add(scenario.name, seed, outcome, _bound(without))


def run_here(table: Table, calls: int, seeds: Sequence[int], wait: float) -> None:
    """Run the scenario of this machine."""
    without = on_this_machine(calls=calls, seed=0, patience=wait, killed=False)
    table.add("this machine, no faults", 0, without)
    for seed in seeds:
        outcome = on_this_machine(calls=calls, seed=seed, patience=wait)
        table.add("this machine, killed every 0.15 s", seed, outcome, _bound(without))


def _bound(without: Outcome | None) -> float | None:
    return None if without is None else FACTOR * without.seconds + ALLOWANCE


PARTS: dict[str, Callable[[Table, argparse.Namespace], None]] = {
    "all": lambda table, options: run_on_lambda(table, [EVERYTHING], options.calls, options.seeds, options.patience),
    "chunks": lambda table, options: run_on_lambda(table, [IN_CHUNKS], options.calls, options.seeds, options.patience),
    "many": lambda table, options: run_on_lambda(table, [MANY], 10 * options.calls, options.seeds, options.patience),
    "each": lambda table, options: run_on_lambda(table, SINGLE, 100, options.seeds[:1], options.patience),
    "here": lambda table, options: run_here(table, 500, options.seeds, options.patience),
}
"""Everything at once; the same in chunks; ten times as many short calls; each kind of fault on its own, 100 calls each;
this machine."""


def arguments_of(command_line: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=str(__doc__).partition(": ")[2])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="which parts to run")
    parser.add_argument("--calls", type=int, default=1000, help="the calls of a map with everything at once (1000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="the seeds (1 2 3 4 5)")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds until a map counts as hanging (600)")
    return parser.parse_args(command_line)


def main() -> None:
    """Run the parts that were asked for; exit with 1 if anything was not as promised."""
    options = arguments_of(sys.argv[1:])
    began = time.monotonic()
    table = Table()
    with own_directories():
        for name in options.only:
            PARTS[name](table, options)
    print(f"\n{len(table.broken)} trials were not as promised; {time.monotonic() - began:.0f} s in all")
    sys.exit(bool(table.broken))


if __name__ == "__main__":
    main()
