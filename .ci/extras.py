#!/usr/bin/env python
"""Print the table of docs/extras.md: what each extra adds to PyWren, as it is installed in this environment.

Run it where all extras are installed: ``python -m pip install -e ".[test]" && python .ci/extras.py``.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OF_DEVELOPERS = {"test", "docs", "release", "benchmarks"}  # not installed by users


def closure(name: str, extras: frozenset[str] = frozenset(), found: dict[str, set[str]] | None = None) -> set[str]:
    """Return the names of a distribution and of all that it requires with these extras."""
    found = {} if found is None else found
    name = canonicalize_name(name)
    done = found.setdefault(name, set())
    todo = ({""} | extras) - done
    done |= todo
    for text in importlib.metadata.requires(name) or () if todo else ():
        required = Requirement(text)
        if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in todo):
            closure(required.name, frozenset(required.extras), found)
    return set(found)


def megabytes(names: set[str]) -> float:
    """Return the size of all files of these distributions, without compiled modules."""
    files = {path for name in names for path in importlib.metadata.files(name) or () if path.suffix != ".pyc"}
    return sum(Path(path.locate()).stat().st_size for path in files if Path(path.locate()).is_file()) / 1e6


def main() -> None:
    """Print a row for PyWren itself, and one for each extra."""
    plain = closure("pywren")
    rows = [("(none)", plain)]
    for extra in importlib.metadata.metadata("pywren").get_all("Provides-Extra", []):
        if extra not in OF_DEVELOPERS:
            rows.append((extra, closure("pywren", frozenset({extra})) - plain))
    for extra, names in rows:
        print(f"| `{extra}` | {len(names)} | {megabytes(names):.0f} MB |")


if __name__ == "__main__":
    main()
