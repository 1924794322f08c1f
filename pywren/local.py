"""A door of PyWren 0.4: running calls on this machine, over ``pywren.invokers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pywren.invokers import run_payloads


def local_handler(
    jobs: Sequence[Mapping[str, Any]], run_dir: str | None = None, extra_context: Mapping[str, Any] | None = None
) -> None:
    """Run calls one after the other, in child processes that end before this returns.

    Args:
        jobs: their payloads.
        run_dir: for 0.4's callers; every call has a directory of its own anyway.
        extra_context: texts that go into the statuses.

    Raises:
        DecodeError: a payload was not one; the others have been run.
    """
    run_payloads(jobs, context=extra_context)
