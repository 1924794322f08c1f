"""What futures and executors say about themselves: in a line of text, and in notebooks. It sends no request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pywren.client.call_state import DONE, CallState
from pywren.client.driver.record import Counts
from pywren.client.protocols import Origin
from pywren.display import html
from pywren.display.words import number

_MOST_MAPS = 10  # how many maps a notebook shows of an executor: the latest
_MOST_ERRORS = 5  # how many of their errors
_MOST_LINES = 40  # how many lines of a traceback: the last
_WORDS = {"success": "succeeded", "error": "failed", "running": "running", "invoked": "waiting"}


class MapState(NamedTuple):
    """How far one map is, as its executor shows it.

    Args:
        name: the job or the callset, in words.
        counts: how many calls are in each state, by the states of ``html.COLOURS``.
        errors: for some calls that have failed, the call's id and the error in words.
    """

    name: str
    counts: Mapping[str, int]
    errors: Sequence[tuple[str, str]]


def states_of(origins: Iterable[Origin]) -> list[MapState]:
    """Return how far the maps are whose futures a program still has, in the order of the maps."""
    found = ((one, one.counts()) for one in origins)
    return [_state_of(one, counts) for one, counts in found if counts is not None]


def _state_of(origin: Origin, counts: Counts) -> MapState:
    callset = origin.callset
    waiting = counts.held + counts.sending + counts.sent
    name = f"callset {callset.id[:8]}" if callset.name is None else f"job {callset.name}"
    errors = [(call_id, words) for call_id, words in list(callset.failures.items()) if words]
    states = {"success": counts.done, "error": counts.failed, "running": counts.running, "invoked": waiting}
    return MapState(name, states, errors)


def executor_text(name: str, place: str, maps: Sequence[MapState]) -> str:
    """Return the ``repr`` of an executor.

    Args:
        name: the name of its class.
        place: where its calls run, in words.
        maps: how far its maps are.
    """
    counts = _together(maps)
    told = ", ".join(f"{count:,} {_WORDS[state]}" for state, count in counts.items() if count)
    calls = f": {number(sum(counts.values()), 'call')} of {number(len(maps), 'map')}: {told}" if told else ""
    return f"<{name} {place}{calls}>"


def executor_html(name: str, place: str, maps: Sequence[MapState]) -> str:
    """Return what notebooks show of an executor. The arguments are those of ``executor_text``."""
    head = ["", "calls", *_WORDS.values()]
    rows = [
        [one.name, f"{sum(one.counts.values()):,}", *(f"{one.counts[state]:,}" for state in _WORDS)]
        for one in maps[-_MOST_MAPS:]
    ]
    more = len(maps) - len(rows)
    errors = [f"{one.name}, call {call_id}: {words}" for one in maps for call_id, words in one.errors]
    return html.block(
        html.line(executor_text(name, place, maps).strip("<>"), bold=True),
        html.bar(_together(maps)),
        html.line(f"{number(more, 'earlier map')} not shown", quiet=True) if more else "",
        html.table(rows, head) if rows else "",
        *map(html.code, errors[:_MOST_ERRORS]),
    )


def _together(maps: Iterable[MapState]) -> dict[str, int]:
    counts = dict.fromkeys(_WORDS, 0)
    for one in maps:
        for state, count in one.counts.items():
            counts[state] += count
    return counts


def future_html(future: CallState, text: str, state: str) -> str:
    """Return what notebooks show of a future: its state, its attempts, its error. The value itself is not shown.

    Args:
        future: the future.
        text: its ``repr``.
        state: its state, one of those of ``html.COLOURS``.
    """
    origin = future._origin
    lines = [html.line(text.strip("<>"), bold=True), html.bar({state: 1})]
    if origin is None:
        return html.block(*lines)
    attempts = origin.attempts(future)
    lines.append(html.line(f"{number(len(attempts), 'attempt')} {origin.place}" if attempts else origin.place))
    lines += [
        html.line(f"attempt {one.number}: {one.cause}{f', {one.error}' if one.error else ''}", quiet=True)
        for one in attempts
        if one.cause is not None and len(attempts) > 1
    ]
    if future._state in DONE and future._exception is not None:
        status = origin.run_status(future) or {}
        trace = str(status.get("exception_traceback") or "").strip().splitlines()
        told = trace[-_MOST_LINES:] or [f"{type(future._exception).__name__}: {future._exception}"]
        lines.append(html.code("\n".join(["…", *told] if len(trace) > _MOST_LINES else told)))
    return html.block(*lines)
