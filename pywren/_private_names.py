"""Every private name of a library, or of Python, that the package leans on: nothing else may be private elsewhere.

A name that a new release has moved is mended here; ``tests/test_private_names.py`` says which release moved what.
"""

from __future__ import annotations

import linecache
import types
from typing import Any


def interactive_lines(code: types.CodeType) -> list[str]:
    """Return the source lines of code that was typed in, or given with ``-c``.

    From Python 3.13 on these may be kept by the code instead of by a file name, where ``linecache.getlines`` does
    not look.
    """
    lines: Any = getattr(linecache, "_getlines_from_code", None)
    return list(lines(code)) if lines is not None else []


def registered_subclasses(cls: Any) -> list[type]:
    """Return the classes that have been registered as subclasses of an abstract base class."""
    import abc

    dump: Any = abc._get_dump  # type: ignore[attr-defined]
    references = dump(cls)[0]
    return [subclass for subclass in (reference() for reference in references) if subclass is not None]


def annotations_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a class on Python 3.14, where they are evaluated when somebody asks.

    What cannot be evaluated yet is the text of all of them.
    """
    import annotationlib  # type: ignore[import-not-found,unused-ignore]

    formats: Any = annotationlib.Format
    try:
        found: dict[str, Any] = annotationlib.get_annotations(cls)
    except NameError:
        found = annotationlib.get_annotations(cls, format=formats.STRING)
    return found
