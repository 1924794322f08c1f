"""``summary``: what became of some calls, how long everything took, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pywren.display import html
from pywren.display.costs import Costs, costs_of
from pywren.display.facts import CallFacts, MapFacts, facts_of
from pywren.display.words import duration, number, size
from pywren.future import ResponseFuture
from pywren.wait import list_of

STEPS: Mapping[str, str] = {
    "wait": "from the invocation until a worker took the call",
    "start": "the worker fetched the function and made a process ready",
    "run": "the function ran",
    "transfer": "from the function's return until its outcome was here",
}
"""The steps of a call, in order, and what happens in each."""

_STATES = ("success", "error", "cancelled", "running", "invoked")
_SPOKEN = {"success": "succeeded", "error": "failed", "invoked": "waiting to run"}
_MOST_ERRORS = 5  # how many kinds of errors are shown


class Percentiles(NamedTuple):
    """How a number of durations is distributed; all but ``calls`` in seconds.

    Args:
        calls: how many durations are known.
        p50: half of them are not longer.
        p90: nine tenths of them are not longer.
        p99: 99 of 100 are not longer.
        max: the longest.
        total: their sum.
    """

    calls: int
    p50: float
    p90: float
    p99: float
    max: float
    total: float

    @classmethod
    def of(cls, durations: Iterable[float | None]) -> Percentiles | None:
        """Return the percentiles of those durations that are known; ``None`` if none is known."""
        known = sorted(one for one in durations if one is not None)
        if not known:
            return None
        # The nearest rank: each percentile is the duration of some call, also of few calls.
        p50, p90, p99 = (known[-(-len(known) * share // 100) - 1] for share in (50, 90, 99))
        return cls(len(known), p50, p90, p99, known[-1], sum(known))


class Failure(NamedTuple):
    """The errors of one class.

    Args:
        error: the name of the class.
        calls: how many calls ended with it.
        call_id: the first of these calls.
        callset_id: the callset of that call.
        message: the message of that call's error.
    """

    error: str
    calls: int
    call_id: str
    callset_id: str
    message: str


class Summary:
    """What became of some calls. It prints, it is shown as a table in notebooks, and it does not change any more.

    Args:
        maps: what is known about the calls, by callset.

    Attributes:
        counts: how many calls are in each state: ``success``, ``error``, ``cancelled``, ``running`` and ``invoked``.
        attempts: how many attempts were made; ``backups`` of them beside another.
        times: the ``Percentiles`` of each step: ``wait``, ``start``, ``run`` and ``transfer``.
        seconds: from the first map until the last outcome was here; ``None`` if no call has ended.
        function_bytes: the size of the functions with their modules.
        argument_bytes: the size of all arguments of the maps, also of calls that are not looked at.
        result_bytes: the size of the results.
        costs: what the calls have cost; ``None`` if all ran on this machine.
        errors: the errors by class, the most frequent first.
    """

    def __init__(self, maps: Sequence[MapFacts]) -> None:
        self._maps = maps
        calls = self._calls = [call for one in maps for call in one.calls]
        states = Counter(call.state for call in calls)
        self.counts: dict[str, int] = {state: states[state] for state in _STATES}
        self.attempts = sum(call.attempts for call in calls)
        self.backups = sum(call.backups for call in calls)
        self.times: dict[str, Percentiles | None] = {
            step: Percentiles.of(getattr(call, step) for call in calls) for step in STEPS
        }
        began = [one.submitted for one in maps if one.submitted is not None]
        ended = [call.known for call in calls if call.known is not None]
        self.seconds = max(ended) - min(began) if began and ended else None
        self.function_bytes = sum(one.function_bytes or 0 for one in maps)
        self.argument_bytes = sum(one.argument_bytes or 0 for one in maps)
        self.result_bytes = sum(call.result_bytes or 0 for call in calls)
        self.costs: Costs | None = costs_of(maps)
        self.errors = _errors_of(calls)

    @property
    def total(self) -> int:
        """How many calls there are."""
        return len(self._calls)

    @property
    def dollars(self) -> float | None:
        """What the calls have cost at least, in US dollars; ``None`` if that is not known or they ran here."""
        return None if self.costs is None else self.costs.dollars

    @property
    def gb_seconds(self) -> float | None:
        """The memory of the workers times the seconds that they measured; ``None`` if the calls ran here."""
        return None if self.costs is None else self.costs.gb_seconds

    def costs_for(self, total: int) -> Costs | None:
        """Return what so many calls like these would cost; ``None`` if they would run on this machine."""
        return costs_of(self._maps, total / max(1, self.total))

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict for each call, for ``pandas.DataFrame(summary.rows())``. Times are in seconds."""
        return [call._asdict() for call in self._calls]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole summary as a dict that JSON can encode."""
        return {
            "total": self.total,
            "counts": dict(self.counts),
            "attempts": self.attempts,
            "backups": self.backups,
            "seconds": self.seconds,
            "times": {step: None if found is None else found._asdict() for step, found in self.times.items()},
            "function_bytes": self.function_bytes,
            "argument_bytes": self.argument_bytes,
            "result_bytes": self.result_bytes,
            "costs": None if self.costs is None else self.costs.to_dict(),
            "errors": [one._asdict() for one in self.errors],
        }

    def __repr__(self) -> str:
        lines = [self._title(), f"  {self._outcomes()}"]
        rows = [[step, *cells, what] for step, cells, what in self._steps()]
        if rows:
            lines += ["", f"  {'':<8} {'50 %':>11} {'90 %':>11} {'99 %':>11} {'max':>11}"]
            lines += [f"  {row[0]:<8} {row[1]:>11} {row[2]:>11} {row[3]:>11} {row[4]:>11}   {row[5]}" for row in rows]
            lines.append("")
        lines += [f"  {text}" for text in self._notes()]
        lines += [f"  {one.calls:,} × {text}" for one, text in self._told_errors()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = ["", "50 %", "90 %", "99 %", "max", ""]
        steps = [[step, *cells, what] for step, cells, what in self._steps()]
        return html.block(
            html.line(self._title(), bold=True),
            html.bar(self.counts),
            html.line(self._outcomes()),
            html.table(steps, head, left=frozenset({0, 5})) if steps else "",
            *(html.line(text, quiet=True) for text in self._notes()),
            *(html.code(f"{one.calls:,} × {text}") for one, text in self._told_errors()),
        )

    # -- words ---------------------------------------------------------------------------------------------------

    def _title(self) -> str:
        if not self._maps:
            return "no calls"
        places = sorted({one.place for one in self._maps})
        names = [one.callset_id[:8] for one in self._maps]
        which = f"callset {names[0]}" if len(names) == 1 else f"{len(names)} callsets"
        return f"{number(self.total, 'call')} of {which} {' and '.join(places)}"

    def _outcomes(self) -> str:
        counts = [f"{count:,} {_SPOKEN.get(state, state)}" for state, count in self.counts.items() if count]
        parts = [", ".join(counts) or "nothing to tell"]
        if self.attempts != self.total:
            extra = f", {self.backups:,} of them as backups" if self.backups else ""
            parts.append(f"{number(self.attempts, 'attempt')}{extra}")
        if self.seconds is not None:
            parts.append(f"{duration(self.seconds)} from map to the last outcome")
        return "; ".join(parts)

    def _steps(self) -> Iterable[tuple[str, list[str], str]]:
        for step, what in STEPS.items():
            found = self.times[step]
            if found is not None:
                yield step, [duration(one) for one in (found.p50, found.p90, found.p99, found.max)], what

    def _notes(self) -> Iterable[str]:
        if self._maps:
            sizes = {"functions": self.function_bytes, "arguments": self.argument_bytes, "results": self.result_bytes}
            yield "bytes: " + ", ".join(f"{what} {size(count)}" for what, count in sizes.items())
        if self.costs is not None:
            requests = self.costs.invocations, self.costs.puts, self.costs.gets
            yield "requests: {:,} invocations; to S3 at least {:,} PUT and {:,} GET".format(*requests)
            yield f"costs: {self.costs.spoken()}"
            yield f"not in it: {'; '.join(self.costs.missing)}"

    def _told_errors(self) -> Iterable[tuple[Failure, str]]:
        for one in self.errors[:_MOST_ERRORS]:
            message = one.message.strip().partition("\n")[0]
            said = f": {message[:200]}{'…' if len(message) > 200 else ''}" if message else ""
            yield one, f"{one.error}{said} (first in call {one.callset_id[:8]}/{one.call_id})"


def summary(futures: Iterable[ResponseFuture]) -> Summary:
    """Tell what became of calls, how long each step took, and what they cost. It sends no request and does not wait.

    Args:
        futures: the futures; they may come from different maps, executors and storages.

    Returns:
        An object that prints, that notebooks show as a table, and that has ``to_dict()`` and ``rows()`` for pandas.

    Raises:
        ArgumentError: an item is not a future of an invoked call.
    """
    return Summary(facts_of(list_of(futures, "summary()")))


def _errors_of(calls: Iterable[CallFacts]) -> list[Failure]:
    first: dict[str, CallFacts] = {}
    counts: Counter[str] = Counter()
    for call in calls:
        if call.error is not None:
            first.setdefault(call.error, call)
            counts[call.error] += 1
    return [
        Failure(error, count, first[error].call_id, first[error].callset_id, first[error].message)
        for error, count in counts.most_common()
    ]
