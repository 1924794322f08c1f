"""``Estimate``: what a map would take and cost, extrapolated from a sample of its calls that ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pywren.display import html
from pywren.display.costs import Costs
from pywren.display.summary import Summary
from pywren.display.words import duration, number
from pywren.exceptions import ArgumentError

_Item = TypeVar("_Item")


class Estimate:
    """What a map would take and cost. It prints, and notebooks show it.

    Args:
        sample: what became of the calls that ran.
        total: how many calls the map would have.
        at_once: how many calls run at once; ``None`` if that is unknown.
        assumed: whether ``at_once`` is only what AWS usually allows.

    Attributes:
        sample: the ``Summary`` of the calls that ran.
        total: how many calls the map would have.
        run_seconds: how long the workers would be busy altogether; ``None`` if no call of the sample has run.
        seconds: how long the map would take with ``at_once`` calls at once; ``None`` if that is unknown.
        costs: what the map would cost; ``None`` on this machine.
    """

    def __init__(self, sample: Summary, total: int, at_once: int | None, *, assumed: bool = False) -> None:
        self.sample = sample
        self.total = total
        self.at_once = at_once
        self._assumed = assumed
        steps = [found for found in (sample.times["start"], sample.times["run"]) if found is not None]
        run = sample.times["run"]
        self.run_seconds = None
        self.seconds = None
        if run is not None:
            each = sum(step.total / step.calls for step in steps)
            self.run_seconds = total * each
            if at_once is not None:
                # Not less than the longest call of the sample: no number of workers makes that one shorter.
                self.seconds = max(self.run_seconds / at_once, run.max)
        self.costs: Costs | None = sample.costs_for(total)

    @property
    def dollars(self) -> float | None:
        """What the map would cost in US dollars; ``None`` if that is not known or the calls run here."""
        return None if self.costs is None else self.costs.dollars

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as a dict that JSON can encode."""
        return {
            "total": self.total,
            "run_seconds": self.run_seconds,
            "seconds": self.seconds,
            "at_once": self.at_once,
            "costs": None if self.costs is None else self.costs.to_dict(),
            "sample": self.sample.to_dict(),
        }

    def __repr__(self) -> str:
        return "\n  ".join(self._lines())

    def _repr_html_(self) -> str:
        title, *lines = self._lines()
        return html.block(html.line(title, bold=True), *map(html.line, lines), self.sample._repr_html_())

    def _lines(self) -> list[str]:
        ran = self.sample.total
        of_them = "all of them" if ran >= self.total else f"{ran:,} of them"
        lines = [f"{number(self.total, 'call')}, estimated from {of_them}, which ran and may have cost money"]
        failed = self.sample.counts["error"]
        if failed:
            first = self.sample.errors[0]
            lines.append(f"{failed:,} of the sample failed, the first in call {first.call_id}: {first.error}")
        lines.append(self._time())
        if self.costs is not None:
            lines.append(f"costs: {self.costs.spoken('about ')}")
            lines.append(f"not in it: {'; '.join(self.costs.missing)}")
        return lines

    def _time(self) -> str:
        if self.run_seconds is None:
            return "no call of the sample has run, so nothing can be said about the time"
        busy = f"{duration(self.run_seconds)} of work"
        if self.seconds is None or self.at_once is None:
            return f"{busy}; how many calls run at once is unknown"
        usual = ", as AWS usually allows" if self._assumed else ""
        return f"{busy}, about {duration(self.seconds)} with {number(self.at_once, 'call')} at once{usual}"


def choose(items: Sequence[_Item], sample: object) -> list[_Item]:
    """Return a sample of the items, spread evenly over them.

    Args:
        items: the items of the map.
        sample: how many to take.

    Raises:
        ArgumentError: there are no items, or ``sample`` is not a positive whole number.
    """
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
        raise ArgumentError(f"sample is {sample!r}; it must be a whole number of at least 1: how many calls to run")
    if not items:
        raise ArgumentError("estimate() has no items: it runs some of the calls, so it needs at least one")
    count = min(sample, len(items))
    return [items[index * len(items) // count] for index in range(count)]
