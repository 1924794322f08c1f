"""A real notebook shows bars, executors, futures, summaries, estimates and timelines."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CELLS = [
    """
import sys, time
sys.path.insert(0, {root!r})
import pywren
pwex = pywren.local_executor()

def work(x):
    time.sleep(0.4)
    if x == 3:
        raise ValueError("<b>three</b>")
    return x
""",
    "futures = pwex.map(work, range(8)); done, _ = pywren.wait(futures)",
    "pwex",
    "futures[3]",
    "pywren.summary(futures)",
    "pwex.estimate(work, range(100), sample=2)",
    "pywren.timeline(futures)",
]


@pytest.mark.slow
def test_a_notebook_shows_everything(monkeypatch, tmp_path):
    """The bar appears by itself, objects are shown as HTML with escaped texts, and the timeline as a picture."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PYWREN_LOCAL_PROCESSES", "2")
    cells = [nbformat.v4.new_code_cell(text.replace("{root!r}", repr(str(ROOT)))) for text in CELLS]
    book = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        book, timeout=200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    waited, executor, future, summary, estimate, timeline = (cell.outputs for cell in book.cells[1:])
    assert _is_bar(waited)
    for outputs, told in ((executor, "8 calls of 1 map"), (future, "raised ValueError"), (summary, "7 succeeded")):
        shown = outputs[-1].data["text/html"]
        assert told in shown
        assert "&lt;b&gt;three" in shown
    assert "100 calls, estimated from 2 of them" in estimate[-1].data["text/html"]
    assert set(timeline[-1].data) & {"image/png", "text/html"}


def _is_bar(outputs) -> bool:
    """Tell whether a cell has a widget, or, in a kernel without ipywidgets, the text of a bar."""
    texts = "".join(one.get("text", "") for one in outputs)
    return "8/8 calls" in texts or any("widget-view" in kind for one in outputs for kind in one.get("data", {}))
