"""HTML for notebooks. Every text is escaped here, and nowhere else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

COLOURS: Mapping[str, str] = {
    "success": "#2e7d32",
    "error": "#c62828",
    "cancelled": "#8d6e63",
    "running": "#1565c0",
    "invoked": "#b0bec5",
}
"""The colours of the states of a call, the same in bars and in pictures."""

_CELL = "padding:1px 10px 1px 0;text-align:{};white-space:nowrap;border:none;background:none"


def block(*parts: str) -> str:
    """Return parts, each of which is HTML, below each other."""
    return f'<div style="font-size:13px;line-height:1.5;max-width:72em">{"".join(parts)}</div>'


def line(text: str, *, bold: bool = False, quiet: bool = False) -> str:
    """Return one paragraph of text."""
    style = "font-weight:600" if bold else "opacity:0.7" if quiet else ""
    return f'<div style="{style}">{html.escape(text)}</div>'


def code(text: str) -> str:
    """Return text as it is, with its line ends."""
    return f'<pre style="margin:2px 0;white-space:pre-wrap;background:none">{html.escape(text)}</pre>'


def bar(counts: Mapping[str, int]) -> str:
    """Return a bar with a coloured part for each state.

    Args:
        counts: how many calls are in each state of ``COLOURS``.
    """
    total = sum(counts.values())
    if not total:
        return ""
    parts = [
        f'<div title="{count:,} {html.escape(state)}" style="background:{COLOURS[state]};flex-grow:{count};'
        f'{"min-width:2px" if count else ""}"></div>'
        for state, count in counts.items()
        if count
    ]
    return f'<div style="display:flex;height:10px;max-width:36em;margin:4px 0;overflow:hidden">{"".join(parts)}</div>'


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), *, left: frozenset[int] = frozenset({0})) -> str:
    """Return a table.

    Args:
        rows: the texts of the cells.
        head: the texts of the first row.
        left: the columns that are aligned to the left.
    """
    body = [_row(row, "td", left) for row in rows]
    return f'<table style="border:none;margin:4px 0">{_row(head, "th", left) if head else ""}{"".join(body)}</table>'


def _row(cells: Sequence[str], tag: str, left: frozenset[int]) -> str:
    inner = [
        f'<{tag} style="{_CELL.format("left" if column in left else "right")}">{html.escape(text)}</{tag}>'
        for column, text in enumerate(cells)
    ]
    return f'<tr style="background:none">{"".join(inner)}</tr>'
