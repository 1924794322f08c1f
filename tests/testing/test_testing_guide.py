"""The programs in docs/testing.md run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "testing.md").read_text("utf-8")
BLOCKS = [part.partition("```")[0] for part in GUIDE.split("```python\n")[1:]]
MOCKED, EMULATED = BLOCKS[:4], BLOCKS[4:]
COMMAND = "python -m pywren.testing.emulator --memory 512 -- python my_job.py"
JOB = """
import faulthandler, pywren
faulthandler.dump_traceback_later(90)  # should it hang, that is how to see where
print(pywren.get_all_results(pywren.default_executor().map(lambda x: x + 1, range(3))))
"""
PIPELINE = """
import pywren

def pipeline(pwex, words):
    return dict(zip(words, pywren.get_all_results(pwex.map(lambda word: words.count(word), words))))
"""
TEST_OF_THE_OPTIONS = """
def test_the_options(pywren_aws):
    assert pywren_aws["lambda"]["timeout"] == 60
"""


@pytest.mark.moto
def test_the_context_of_the_guide_runs(tmp_path):
    """The first program runs unchanged, and shows a log."""
    assert "START RequestId" in run_program(tmp_path, MOCKED[3])


@pytest.mark.moto
def test_the_fixtures_of_the_guide_run(tmp_path):
    """The tests run, with the options in conftest.py."""
    (tmp_path / "my_package.py").write_text(PIPELINE, "utf-8")
    run_tests(tmp_path, MOCKED[1], MOCKED[0] + MOCKED[2] + TEST_OF_THE_OPTIONS)


@pytest.mark.emulator
@pytest.mark.thorough
@pytest.mark.parametrize(("number", "said"), [(0, "20 invocations"), (1, "the function has 256 MB")])
def test_the_programs_on_the_emulator_run(number, said, tmp_path):
    """They run unchanged: one shows what was used, the other the error when memory is short."""
    assert said in run_program(tmp_path, EMULATED[number])


@pytest.mark.emulator
@pytest.mark.thorough
def test_the_fixtures_on_the_emulator_run(tmp_path):
    """The tests run, with the options in conftest.py."""
    run_tests(tmp_path, EMULATED[3], EMULATED[2])


@pytest.mark.emulator
@pytest.mark.thorough
def test_a_script_runs_under_the_emulator(tmp_path):
    """The guide's command runs a script, and prints a table of its requests at the end."""
    assert f"\n{COMMAND}\n" in GUIDE
    (tmp_path / "my_job.py").write_text(JOB, "utf-8")
    done = run(tmp_path, *COMMAND.split()[1:-2], sys.executable, "my_job.py")
    assert done.stdout == "[1, 2, 3]\n"
    assert "PutObject" in done.stderr


def run_program(directory, text):
    """Run a program and return what it prints."""
    (directory / "program.py").write_text(text, "utf-8")
    return run(directory, "program.py").stdout


def run_tests(directory, conftest, tests):
    """Run tests with pytest, and check that they pass."""
    (directory / "conftest.py").write_text(conftest, "utf-8")
    (directory / "test_it.py").write_text(tests, "utf-8")
    run(directory, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(directory))


def run(directory, *arguments):
    """Run Python as a user of the package does, and check that it succeeds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=120, check=False, env=environment
        )
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"{command} hangs: it says\n{hung.stdout!r}\n{hung.stderr!r}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done
