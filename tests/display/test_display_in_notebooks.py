"""A real notebook shows bars, executors, futures, summaries, estimates and timelines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

CELLS = [
    """
import time
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


# In a process of its own, because a client of a kernel leaves threads and sockets behind. The kernel gets sockets in
# the current directory: ports are chosen before the kernel binds them, and another program may be faster.
EXECUTE = """
import json, sys
import nbclient, nbformat, traitlets.config
cells = [nbformat.v4.new_code_cell(text) for text in json.loads(sys.argv[1])]
book = nbformat.v4.new_notebook(cells=cells)
config = traitlets.config.Config({"KernelManager": {"transport": "ipc"}})
nbclient.NotebookClient(book, config=config, timeout=200).execute()
print(json.dumps([cell.outputs for cell in book.cells]))
"""


@pytest.mark.thorough
def test_a_notebook_shows_everything(tmp_path: Path) -> None:
    """The bar appears by itself, objects are shown as HTML with escaped texts, and the timeline as a picture."""
    pytest.importorskip("nbclient")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    finished = subprocess.run(
        [sys.executable, "-c", EXECUTE, json.dumps(CELLS)],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT), "PYWREN_LOCAL_PROCESSES": "2"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    waited, executor, future, summary, estimate, timeline = json.loads(finished.stdout.splitlines()[-1])[1:]
    assert _is_bar(waited)
    for outputs, told in ((executor, "8 calls of 1 map"), (future, "raised ValueError"), (summary, "7 succeeded")):
        shown = outputs[-1]["data"]["text/html"]
        assert told in shown
        assert "&lt;b&gt;three" in shown
    assert "100 calls, estimated from 2 of them" in estimate[-1]["data"]["text/html"]
    assert set(timeline[-1]["data"]) & {"image/png", "text/html"}


def _is_bar(outputs: list[Any]) -> bool:
    """Tell whether a cell has a widget, or, in a kernel without ipywidgets, the text of a bar."""
    texts = "".join(one.get("text", "") for one in outputs)
    return "8/8 calls" in texts or any("widget-view" in kind for one in outputs for kind in one.get("data", {}))
