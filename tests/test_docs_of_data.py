"""The programs of docs/data.md run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("block", "printed"),
    list(zip(BLOCKS, ["[3, 5]", "10", "[12, 15, 6]"], strict=True)),
    ids=["put", "inputs", "groups"],
)
def test_a_block_can_be_pasted_into_a_file_and_run(block: str, printed: str, tmp_path: Path) -> None:
    """Each block is a whole program."""
    program = tmp_path / "pasted.py"
    program.write_text(block)
    finished = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == printed
