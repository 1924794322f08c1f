"""docs/testing.md: its programs run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.moto
ROOT = Path(__file__).parents[2]
BLOCKS = [
    part.partition("```")[0] for part in (ROOT / "docs" / "testing.md").read_text("utf-8").split("```python\n")[1:]
]
PIPELINE = """
import pywren

def pipeline(pwex, words):
    return dict(zip(words, pywren.get_all_results(pwex.map(lambda word: words.count(word), words))))
"""
TEST_OF_THE_FILE = """
def test_a_file(aws_config_file):
    assert pywren.default_executor().call_async(len, "ab").result() == 2
"""


def test_the_context_of_the_guide_runs(tmp_path):
    """The first program works as it stands, and shows a log."""
    script = tmp_path / "program.py"
    script.write_text(BLOCKS[0], "utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    assert "START RequestId" in done.stdout


def test_the_fixtures_of_the_guide_run(tmp_path):
    """The recipe for conftest.py, and the test that uses it, pass."""
    (tmp_path / "conftest.py").write_text("import yaml\n" + BLOCKS[1] + BLOCKS[3], "utf-8")
    (tmp_path / "my_package.py").write_text(PIPELINE, "utf-8")
    (tmp_path / "test_pipeline.py").write_text(BLOCKS[2] + TEST_OF_THE_FILE, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False, env=_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}
