"""``python -m tests.chaos.soak``: run many maps in one process, half of them with faults; the process must not grow."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import pywren
from pywren.executor import Executor
from pywren.testing.emulator import Emulator, Fault, Faults

from .remains import Remains, Size, own_directories
from .scenarios import KILL_EVERY, Scenario, emulated, kill_children
from .trial import Outcome, run, square_after

if TYPE_CHECKING:
    from pywren.worker.parent.pool import LocalPool

CALLS = 8
CALL_SECONDS = 0.05

FAULTS = Faults(
    kill_container=Fault(0.1),
    drop_event=Fault(0.02),
    repeat_event=Fault(0.1),
    throttle_invoke=Fault(0.2),
    slow_down_s3=Fault(0.02),
)

ALLOWED = Size(threads=1, descriptors=3, children=1, megabytes=4.0)
"""By how much the last quarter of the maps may be above the second. Garbage and buffers come and go."""

_IDLE_SECONDS = 60.0


class Map(NamedTuple):
    """One map of a soak, and how big the process was afterwards."""

    number: int
    size: Size
    outcome: Outcome


def soak(maps: int, *, faults: Faults = FAULTS, patience: float = 60.0) -> list[Map]:
    """Run maps by turns on this machine and on the emulated AWS. Two of four maps have faults.

    Args:
        maps: how many maps to run.
        faults: the faults of those on the emulated AWS.
        patience: seconds after which a map counts as hanging.
    """
    from pywren.invokers import LocalInvoker
    from pywren.worker.parent.pool import LocalPool

    found = []
    with emulated(Scenario("soak", faults, containers=2)) as emulator:
        config, spared = emulator.deploy(), Remains.now().processes
        # One executor on Lambda, as programs have one: a new one makes botocore's clients anew, and garbage of theirs
        # would hide what a map leaves. The executor beside it keeps the processes of the pool between the maps.
        with (
            pywren.lambda_executor(config=config) as there,
            closing(LocalPool(2)) as pool,
            pywren.local_executor(LocalInvoker(pool=pool)),
        ):
            for number in range(maps):
                faulty = number % 4 >= 2
                if number % 2:
                    outcome = _one_here(pool, spared, number, KILL_EVERY if faulty else None, patience)
                else:
                    outcome = _one_on_lambda(emulator, there, faults if faulty else Faults(), number, patience)
                found.append(Map(number, Size.now(), outcome))
            there.invoker.close()
            there.storage.close()
    return found


def _one_here(pool: LocalPool, spared: frozenset[int], number: int, every: float | None, patience: float) -> Outcome:
    from pywren.invokers import LocalInvoker

    with pywren.local_executor(LocalInvoker(pool=pool)) as executor, kill_children(spared, number, every):
        return run(lambda: executor.map(square_after(CALL_SECONDS), range(CALLS)), patience=patience)


def _one_on_lambda(emulator: Emulator, executor: Executor, faults: Faults, number: int, patience: float) -> Outcome:
    emulator.set_faults(dataclasses.replace(faults, seed=number))
    try:
        return run(
            lambda: executor.map(square_after(CALL_SECONDS), range(CALLS)),
            patience=patience,
            idle=lambda: emulator.wait_idle(_IDLE_SECONDS),
        )
    finally:
        emulator.set_faults(Faults())


def grown(maps: Sequence[Map]) -> list[str]:
    """Return in words what has grown: the last quarter of the maps is compared with the second quarter."""
    quarters = windows(maps)
    first, last = quarters[1], quarters[-1]
    return [
        f"{name}: {before:g} before, {after:g} after"
        for name, before, after, allowed in zip(Size._fields, first, last, ALLOWED, strict=True)
        if after - before > allowed
    ]


def windows(maps: Sequence[Map]) -> list[Size]:
    """Return the median size in each quarter of the maps. What happens once, such as imports, is in the first."""
    length = len(maps) // 4
    quarters = [maps[start : start + length] for start in range(0, 4 * length, length)]
    return [
        Size(*(statistics.median(sizes) for sizes in zip(*(one.size for one in part), strict=True)))
        for part in quarters
    ]


def arguments_of(command_line: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=str(__doc__).partition(": ")[2])
    parser.add_argument("--maps", type=int, default=200, help="how many maps to run (200)")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds until a map counts as hanging (120)")
    return parser.parse_args(command_line)


def main() -> None:
    """Run the soak, print a table, and exit with 1 if the process has grown or a call was lost."""
    options = arguments_of(sys.argv[1:])
    began = time.monotonic()
    with own_directories():
        maps = soak(options.maps, patience=options.patience)
    print(f"{'maps':<10} {'threads':>8} {'descriptors':>12} {'children':>9} {'megabytes':>10}")
    length = len(maps) // 4
    for index, size in enumerate(windows(maps)):
        span = f"{index * length + 1}-{(index + 1) * length}"
        print(f"{span:<10} {size.threads:>8g} {size.descriptors:>12g} {size.children:>9g} {size.megabytes:>10.1f}")
    troubles = [f"map {one.number + 1}: {one.outcome.troubles()}" for one in maps if not one.outcome.is_perfect]
    grew = grown(maps)
    print("\n".join(["", *(f"grown: {one}" for one in grew), *troubles]))
    right, calls = sum(one.outcome.right for one in maps), sum(one.outcome.calls for one in maps)
    print(f"{right:,} of {calls:,} calls right; {time.monotonic() - began:.0f} s in all")
    sys.exit(bool(grew or troubles))


if __name__ == "__main__":
    main()
