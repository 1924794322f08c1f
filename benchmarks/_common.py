"""What the benchmarks share: measuring in a fresh process, medians, targets, and printing the table."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

OWN = "pywren"
MEGABYTE = 1_000_000
_MARK = "measured: "


class Shortfall(Exception):
    """A library did not do what was to be measured; the text says what it did instead."""


class Target(NamedTuple):
    """A bound on pywren's figure: a factor times another library's figure plus an allowance, or an absolute value."""

    factor: float
    of: str = ""
    plus: float = 0.0


@dataclass(frozen=True)
class Row:
    """One row of the table: its name, and the targets for pywren."""

    name: str
    unit: str
    targets: tuple[Target, ...] = ()
    higher_is_better: bool = False

    def lines(self, figures: Mapping[str, float | str]) -> list[str]:
        """Return the lines of the table: the figures, and a verdict for each target."""
        cells = [f"{library} {shown(value)}" for library, value in figures.items()]
        head = f"{self.name:<10} {self.unit:<8} " + ", ".join(cells)
        return [head, *(" " * 20 + self._verdict(target, figures) for target in self.targets)]

    def _verdict(self, target: Target, figures: Mapping[str, float | str]) -> str:
        """Return whether pywren reaches a target, and what it reached, as text."""
        own, other = figures.get(OWN), figures.get(target.of) if target.of else 1.0
        bound = f"{target.factor:g} x {target.of}" if target.of else f"{target.factor:g} {self.unit}"
        bound += f" + {target.plus:g} {self.unit}" if target.plus else ""
        wanted = f"{'at least' if self.higher_is_better else 'at most'} {bound}"
        if not isinstance(other, float):
            return f"-  {wanted}: {target.of} gave no figure"
        if not isinstance(own, float):
            return f"✗  {wanted}: {OWN} gave no figure"
        limit = target.factor * other + target.plus
        mark = "✓" if (own >= limit if self.higher_is_better else own <= limit) else "✗"
        reached = f"{own - target.factor * other:+.3g} {self.unit}" if target.plus else f"{own / other:.3g}"
        return f"{mark}  {wanted}: {reached}" + (" x" if target.of and not target.plus else "")


def shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def median_of(values: Sequence[float | str]) -> float | str:
    """Return the median of the figures, or the reason why there is none."""
    reasons = [value for value in values if isinstance(value, str)]
    return reasons[0] if reasons else statistics.median([float(value) for value in values])


@contextlib.contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    started = time.perf_counter()
    yield lambda: time.perf_counter() - started


def measured_in_child(
    script: str, arguments: Sequence[str], max_seconds: float, variables: Mapping[str, str] | None = None
) -> Any:
    """Run a script that calls ``tell`` in a fresh process; return what it measured, or why it failed as a text.

    Args:
        script: the path of the script.
        arguments: its arguments.
        max_seconds: the most seconds that it may take.
        variables: environment variables that it gets in addition to those of this process.
    """
    # files, not pipes: workers that outlive the process would keep a pipe open
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as complaints:
        child = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdout=output,
            stderr=complaints,
            start_new_session=True,
            env={**os.environ, **(variables or {})},
        )
        try:
            child.wait(timeout=max_seconds)
        except subprocess.TimeoutExpired:
            return f"over {max_seconds:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # end whatever it has left running
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        output.seek(0)
        complaints.seek(0)
        printed, complaint = output.read(), complaints.read()
    for line in reversed(printed.splitlines()):
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    return (complaint.strip().splitlines() or [f"exit code {child.returncode}"])[-1][:60]


def tell(measure: Callable[[], Any]) -> None:
    """Make a measurement and print what ``measured_in_child`` returns."""
    try:
        value = measure()
    except Shortfall as shortfall:
        value = str(shortfall)
    print(f"\n{_MARK}{json.dumps(value)}", flush=True)
