"""Every example runs as its reader would run it, on this machine and without an account."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

NOTEBOOK = """
import sys
import nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=120).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text", ""), end="")
"""


def run(*command: str, cwd: Path) -> str:
    """Run an example program and return what it prints."""
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_random_matrices(tmp_path: Path) -> None:
    """The README's first program runs, with a smaller count."""
    assert "40 vectors of 1024 numbers" in run(str(EXAMPLES / "random_matrices.py"), "40", cwd=tmp_path)


def test_word_count(tmp_path: Path) -> None:
    """Map and reduce count the words of a known text correctly."""
    text = tmp_path / "text"
    text.write_text("the sea, the sky\n" * 250 + "the end\n")
    printed = run(str(EXAMPLES / "word_count.py"), str(text), cwd=tmp_path)
    assert printed.splitlines()[0] == "1002 words in 3 parts of 1 files"
    assert printed.split("\n")[1].split() == ["501", "the"]


def test_word_count_of_the_projects_own_documents(tmp_path: Path) -> None:
    """Without arguments the example counts the words of real text."""
    assert " words in " in run(str(EXAMPLES / "word_count.py"), cwd=tmp_path)


def test_exceptions_and_retries(tmp_path: Path) -> None:
    """Calls with a temporary failure succeed in the end; a call that can never succeed is reported once."""
    printed = run(str(EXAMPLES / "exceptions_and_retries.py"), cwd=tmp_path).splitlines()
    assert [line for line in printed if line.startswith("job")] == [
        "job 0: 0",
        "job 1: 1",
        "job 2: 4",
        "job 3: 9",
        "job 4: ValueError: job 4 will never work",
        "job 5: 25",
    ]
    attempts = [line.partition(": ") for line in printed if not line.startswith("job")]
    assert {cause for _, _, cause in attempts} <= {"exception", "ended itself"}


def test_collect_elsewhere(tmp_path: Path) -> None:
    """Another process collects every result."""
    printed = run(str(EXAMPLES / "collect_elsewhere.py"), cwd=tmp_path)
    assert "[0, 1, 4, 9, 16, 25, 36, 49], still open: 0" in printed


@pytest.mark.slow
def test_notebook(tmp_path: Path) -> None:
    """The notebook runs from top to bottom without a browser."""
    printed = run("-c", NOTEBOOK, str(EXAMPLES / "notebook.ipynb"), cwd=tmp_path)
    assert "pi is about 3.1" in printed
    assert "-7 working on 7" in printed
    assert "ZeroDivisionError: division by zero" in printed


def test_every_example_is_run_here() -> None:
    """Every example has a test here."""
    text = Path(__file__).read_text(encoding="utf-8")
    shown = [path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".ipynb"}]
    assert shown
    assert not [name for name in shown if f'"{name}"' not in text]


def test_the_notebook_is_kept_without_outputs() -> None:
    """The notebook is stored without outputs."""
    text = (EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8")
    assert '"outputs": []' in text
    assert '"output_type"' not in text
