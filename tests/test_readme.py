"""The README and the docs: programs run when pasted, and links are valid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(path for part in (".", "docs", "benchmarks", "examples") for path in (ROOT / part).glob("*.md"))

PAGES = ("futures.md", "verbs.md", "tutorial.md")
"""The pages of ``docs/`` whose blocks of Python are whole programs, too, and run with the tests of the README."""

TESTED_ELSEWHERE = {
    "costs.md": "tests/display/test_display_pages.py",
    "data.md": "tests/test_docs_of_data.py",
    "integrations.md": "tests/test_integrations.py",
    "notebooks.md": "tests/display/test_display_pages.py",
    "testing.md": "tests/testing/test_testing_guide.py",
}
"""The pages whose blocks of Python have tests of their own."""

PYTHON = re.compile(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
"""A program, and what it prints: the block of text that follows, if one does."""

ELSEWHERE = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A program for another library, which is shown beside the same program for pywren."""


def programs(document: Path) -> list[tuple[str, str]]:
    """Return the programs of a page, with what they print, if the page says so."""
    return PYTHON.findall(document.read_text(encoding="utf-8"))


BLOCKS = [block for block, _ in programs(ROOT / "README.md")]
COMMANDS = re.findall(r"^```sh\n(.*?)\n```", README, re.MULTILINE | re.DOTALL)
OTHER_PAGES = [
    page for page in DOCUMENTS if page.parent.name == "docs" and page.name not in (*PAGES, *TESTED_ELSEWHERE)
]
PROGRAMS = [
    pytest.param(block, printed, id=f"{document.name}-{number}", marks=marks)
    for documents, marks in (
        ([ROOT / "README.md", *(ROOT / "docs" / name for name in PAGES)], [pytest.mark.slow]),
        (OTHER_PAGES, [pytest.mark.thorough]),
    )
    for document in documents
    for number, (block, printed) in enumerate(programs(document), 1)
    if document.name == "README.md" or block != BLOCKS[0]
]


@pytest.mark.parametrize(("block", "printed"), PROGRAMS)
def test_a_python_block_can_be_pasted_into_a_file_and_run(block: str, printed: str, tmp_path: Path) -> None:
    """Each block is a whole program, and prints what the page says; blocks with tests are run by pytest."""
    program = tmp_path / "test_pasted.py"
    # A hundredth of the first program's work is enough to show that it runs.
    program.write_text(block.replace("100, 1000)", "100, 10)"))
    pytest_options = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if "def test_" in block else []
    finished = subprocess.run(
        [sys.executable, *pytest_options, program.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert not printed or finished.stdout == printed


@pytest.mark.parametrize("page", sorted(TESTED_ELSEWHERE))
def test_pages_that_are_tested_elsewhere_are(page: str) -> None:
    """The test that is to run the programs of a page names that page."""
    assert page in (ROOT / TESTED_ELSEWHERE[page]).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_programs_for_other_libraries_are_python(document: Path) -> None:
    """A program that is shown for comparison compiles; the library that it is for is not installed."""
    for block in ELSEWHERE.findall(document.read_text(encoding="utf-8")):
        compile(block, document.name, "exec")


def test_there_are_two_commands_and_ci_runs_them() -> None:
    """The set-up is two commands, and continuous integration runs the same ones."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        assert f"bash -c '{command}'" in script


def test_the_first_program_is_the_example() -> None:
    """The program at the top is the example that the first command runs."""
    example = (ROOT / "examples" / "random_matrices.py").read_text(encoding="utf-8")
    for line in BLOCKS[0].splitlines():
        wanted = line.replace("1000))", "count))")
        assert wanted in example.splitlines(), line


def test_the_front_page_of_the_site_begins_like_the_readme() -> None:
    """Both say in the same words what pywren is, with the same program."""
    front = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    beginning, _, _ = README.partition("\n\nThis is the PyWren of 2017")
    assert front.startswith(f"{beginning}\n")


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes for a document's headings."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link in a document leads to an existing file and heading."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    """Every repository path that a document mentions as code exists."""
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"`((?:pywren|tests|docs|examples|benchmarks|\.ci)/[\w/.-]*)`", text)
    assert not [path for path in named if not (ROOT / path).exists()]


def test_prose_is_wrapped() -> None:
    """Prose is wrapped at 120 columns; tables and code need not be."""
    long = []
    for document in DOCUMENTS:
        text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
        lines = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
        long += [f"{document.name}: {line[:60]}…" for line in lines]
    assert not long
