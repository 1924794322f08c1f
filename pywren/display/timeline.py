"""``timeline``: the picture of PyWren's papers: when each call was invoked, started, ran, and was here again.

The times of workers are by their own clocks. Times are shown in seconds since the first map.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pywren.display import html
from pywren.display.facts import CallFacts, MapFacts, facts_of
from pywren.display.words import duration, number
from pywren.exceptions import ArgumentError
from pywren.future import ResponseFuture
from pywren.wait import list_of

STEPS: Mapping[str, tuple[str, str, str]] = {
    "invoking": ("submitted", "invoked", "#cfd8dc"),
    "waiting": ("invoked", "began", "#ffe0b2"),
    "starting": ("began", "started", "#90caf9"),
    "running": ("started", "returned", "#2e7d32"),
    "fetching": ("returned", "known", "#b39ddb"),
}
"""The steps of a call in order: the times at which each begins and ends, and its colour."""

_FAILED = "#c62828"  # the colour of a run that failed
_SIZE = (10.0, 6.0)  # inches of a picture
_DOTS_PER_INCH = 110
_WORST_LINE = 0.6  # points: calls of a big map are drawn at least this thick, so that they are seen


class Span(NamedTuple):
    """One step of one call, in seconds since the beginning of the timeline."""

    step: str
    begin: float
    end: float


class Timeline:
    """When each call was where. Notebooks show the picture, if matplotlib is installed, and otherwise a table.

    Args:
        maps: what is known about the calls, by callset.

    Attributes:
        began: when the first map was called, in seconds since the epoch; ``None`` if there are no calls.
        seconds: from then until the last outcome was known.
    """

    def __init__(self, maps: Sequence[MapFacts]) -> None:
        self._maps = maps
        self._calls = [call for one in maps for call in one.calls]
        times = [one for call in self._calls for one in _times(call)]
        self.began = min(times, default=None)
        self.seconds = max(times) - min(times) if times else 0.0

    def spans(self, call: CallFacts) -> Iterator[Span]:
        """Return the steps of a call of which both times are known."""
        for step, (begin, end, _) in STEPS.items():
            first, last = getattr(call, begin), getattr(call, end)
            # A worker's clock may be a little slow, or fast.
            if first is not None and last is not None and last > first and self.began is not None:
                yield Span(step, first - self.began, last - self.began)

    # -- a trace -------------------------------------------------------------------------------------------------

    def to_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write a file that ``chrome://tracing`` and https://ui.perfetto.dev show. It needs no library.

        Args:
            path: the file, usually with the ending ``.json``; an existing file is overwritten.

        Raises:
            OSError: the file cannot be written.
        """
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"traceEvents": list(self._events()), "displayTimeUnit": "ms"}, file)

    def _events(self) -> Iterator[dict[str, Any]]:
        for process, one in enumerate(self._maps, 1):
            name = f"callset {one.callset_id[:8]} {one.place}"
            yield {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}}
            for thread, call in enumerate(one.calls, 1):
                shared = {"pid": process, "tid": thread}
                yield {"ph": "M", "name": "thread_name", **shared, "args": {"name": f"call {call.call_id}"}}
                arguments = {"where": call.where, "attempts": call.attempts, "state": call.state, "error": call.error}
                for span in self.spans(call):
                    # The format has microseconds.
                    times = {"ts": span.begin * 1e6, "dur": (span.end - span.begin) * 1e6}
                    yield {"ph": "X", "name": span.step, "cat": call.state, **times, **shared, "args": arguments}

    # -- a picture -----------------------------------------------------------------------------------------------

    def figure(self) -> Any:
        """Return the picture as a ``matplotlib.figure.Figure``: one line for each call, and how many run at a time.

        It changes nothing of what the program draws with ``pyplot``.

        Raises:
            ArgumentError: matplotlib is not installed.
        """
        return _draw(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to a file; its ending says in which format.

        Args:
            path: the file, such as ``timeline.png`` or ``timeline.svg``.

        Raises:
            ArgumentError: matplotlib is not installed.
            OSError: the file cannot be written.
        """
        self.figure().savefig(path, dpi=_DOTS_PER_INCH)

    def _repr_png_(self) -> bytes | None:
        import io

        if not _has_matplotlib():
            return None
        file = io.BytesIO()
        self.figure().savefig(file, format="png", dpi=_DOTS_PER_INCH)
        return file.getvalue()

    def _repr_html_(self) -> str | None:
        # A notebook prefers HTML to a picture.
        if _has_matplotlib():
            return None
        hint = "For the picture, install pywren[plots]; to_chrome_trace(path) needs nothing."
        return html.block(html.line(self._title(), bold=True), html.line(hint, quiet=True))

    def __repr__(self) -> str:
        return f"<Timeline of {self._title()}>"

    def _title(self) -> str:
        return f"{number(len(self._calls), 'call')} in {duration(self.seconds)}"

    def rows(self) -> list[tuple[int, CallFacts]]:
        """Return the calls in the order of the picture, from below: those of a map by the time when they began."""
        ordered: list[CallFacts] = []
        for one in self._maps:
            ordered += sorted(one.calls, key=lambda call: (call.began is None, call.began or 0.0, call.call_id))
        return list(enumerate(ordered))

    def running(self) -> tuple[list[float], list[int]]:
        """Return times, and how many functions ran from each of them on, for the lower part of the picture."""
        changes = sorted(
            change
            for call in self._calls
            for span in self.spans(call)
            if span.step == "running"
            for change in ((span.begin, 1), (span.end, -1))
        )
        times, counts, count = [0.0], [0], 0
        for when, change in changes:
            count += change
            times.append(when)
            counts.append(count)
        return times, counts


def timeline(futures: Iterable[ResponseFuture]) -> Timeline:
    """Tell when each call was invoked, started, ran, and was here again. It sends no request and does not wait.

    Args:
        futures: the futures; they may come from different maps, executors and storages.

    Returns:
        An object that notebooks show as a picture, with ``save(path)``, ``figure()`` and ``to_chrome_trace(path)``.
        Pictures need matplotlib (``pip install "pywren[plots]"``).

    Raises:
        ArgumentError: an item is not a future of an invoked call.
    """
    return Timeline(facts_of(list_of(futures, "timeline()")))


def _times(call: CallFacts) -> Iterator[float]:
    for begin, end, _ in STEPS.values():
        yield from (one for one in (getattr(call, begin), getattr(call, end)) if one is not None)


def _has_matplotlib() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _draw(timeline: Timeline) -> Any:
    try:
        from matplotlib.figure import Figure  # not pyplot, which has a state, a window system and the program's figures
    except ImportError as error:
        raise ArgumentError(
            'the picture of a timeline needs matplotlib: `pip install "pywren[plots]"`, or use to_chrome_trace(path)'
        ) from error
    figure = Figure(figsize=_SIZE, layout="constrained")
    calls, load = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    _draw_calls(timeline, calls)
    times, counts = timeline.running()
    load.fill_between(times, counts, step="post", color=STEPS["running"][2], alpha=0.6, linewidth=0)
    load.set(xlabel="seconds since map()", ylabel="running", ylim=(0, None), xlim=(0, max(timeline.seconds, 1e-3)))
    calls.set_title(timeline._title())
    return figure


def _draw_calls(timeline: Timeline, axes: Any) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Patch

    rows = timeline.rows()
    # One collection for each colour: 10,000 calls are five objects for matplotlib, not 50,000.
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    for row, call in rows:
        for span in timeline.spans(call):
            failed = span.step == "running" and call.state == "error"
            step = "failed" if failed else span.step
            lines.setdefault(step, []).append([(span.begin, row), (span.end, row)])
    height = _SIZE[1] * 72 * 0.7 / max(1, len(rows))  # points for each call
    colours = {**{step: colour for step, (_, _, colour) in STEPS.items()}, "failed": _FAILED}
    for step, colour in colours.items():
        if step in lines:
            width = max(_WORST_LINE, min(6.0, 0.8 * height))
            axes.add_collection(LineCollection(lines[step], colors=colour, linewidths=width, capstyle="butt"))
    legend = [Patch(color=colour, label=step) for step, colour in colours.items() if step in lines]
    if legend:
        axes.legend(handles=legend, loc="lower right", fontsize="small")
    axes.set(ylabel="calls", ylim=(-1, max(1, len(rows))))
