"""docs/notebooks.md and docs/costs.md: their programs run, one block after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_summary import call, on_lambda

from pywren.display.estimate import Estimate
from pywren.display.summary import Summary

ROOT = Path(__file__).parents[2]


def test_the_estimate_on_the_page_adds_up() -> None:
    """It is what is printed for ten calls that ran for 20 s on Lambda, and were billed a little more."""
    calls = [call(call_id=str(index), start=0.2, run=20.0, billed=20.3, memory_mb=1536.0) for index in range(10)]
    shown = str(Estimate(Summary([on_lambda(*calls)]), 5000, 1000, assumed=True))
    assert f"```\n{shown}\n```\n" in (ROOT / "docs" / "costs.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["notebooks.md", "costs.md"])
def test_the_blocks_of_a_page_run_one_after_the_other(page: str, tmp_path: Path) -> None:
    """A reader who pastes the blocks into the cells of a notebook, or into one file, gets no error."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks), encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
