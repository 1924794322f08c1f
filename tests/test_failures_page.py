"""docs/failures.md matches the suite: every row links to its tests, and every test's row is on the page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)
TABLE_TESTS = {"test_table": "Row", "test_refused_at_map": "Refusal"}
"""The tests in tests/test_failures.py that run many rows, and the class of their rows."""


def every_test() -> Iterator[tuple[str, str, str]]:
    """Yield the file, the name and the docstring of every test function and test class of the suite."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name.lower().startswith("test"):
                yield path.relative_to(ROOT).as_posix(), node.name, ast.get_docstring(node) or ""


TESTS = list(every_test())


def rows_of(docstring: str) -> set[str]:
    """Return the rows that a test names at the beginning of its docstring: ``Row 7: …``, ``Rows 7 to 9: …``."""
    named = re.match(r"Rows? (\d[\d, andto]*)", docstring)
    ranges = re.findall(r"(\d+)(?: to (\d+))?", named[1] if named else "")
    return {str(row) for first, last in ranges for row in range(int(first), int(last or first) + 1)}


def test_every_number_is_given_once() -> None:
    """A row's number identifies it: tests and commits refer to it."""
    numbers = [number for number, _ in ROWS]
    assert len(numbers) > 250
    assert len(numbers) == len(set(numbers))


def test_every_row_links_to_its_tests() -> None:
    """The last column names at least one test, and every test that it names exists in the linked file."""
    known = {(file, name) for file, name, _ in TESTS}
    wrong = {}
    for number, cells in ROWS:
        links = re.findall(r"\[(\w+)\]\(\.\./([\w/.]+)\)", cells.rpartition(" | ")[2])
        lost = [f"{file}::{name}" for name, file in links if (file, name) not in known]
        if lost or not links:
            own = [f"{file}::{name}" for file, name, text in TESTS if number in rows_of(text)]
            wrong[number] = f"does not exist: {lost}; tests that name this row: {own}"
    assert not wrong


def test_rows_of_a_table_are_in_it() -> None:
    """A row that links to a table in tests/test_failures.py is in that table, and vice versa."""
    text = (ROOT / "tests" / "test_failures.py").read_text(encoding="utf-8")
    for test, kind in TABLE_TESTS.items():
        linked = {number for number, cells in ROWS if f"[{test}](" in cells}
        assert linked == set(re.findall(rf"\b{kind}\((\d+),", text))


def test_every_test_names_rows_of_the_page() -> None:
    """Every row that a test names is on the page."""
    page = {number for number, _ in ROWS}
    unknown = {f"{file}::{name}": rows_of(text) - page for file, name, text in TESTS if rows_of(text) - page}
    assert not unknown
