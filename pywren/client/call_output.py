"""Shows what calls have printed, each line with the id of its call."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping
from typing import Any

from pywren.future import ResponseFuture
from pywren.worker.parent import output
from pywren.worker.parent.output import write_through


def show_output(future: concurrent.futures.Future[Any]) -> None:
    """Print the output of a call that has ended, as far as its status has it, to the streams of this process.

    Args:
        future: its ``ResponseFuture``. What this future tells the program does not change.
    """
    if not isinstance(future, ResponseFuture) or future._origin is None:
        return
    # On a thread for callbacks, so a terminal that blocks delays no outcome. Not future.run_status: that is what the
    # program has received, and it has not asked yet.
    status = future._origin.run_status(future)
    for stream in ("stdout", "stderr"):
        if text := labelled(future, status or {}, stream):
            write_through(stream, text)  # in one piece, so that lines of other calls do not come in between


def labelled(future: ResponseFuture, status: Mapping[str, Any], stream: str) -> str:
    """Return what a call wrote to a stream, each line after the ids of callset and call.

    Args:
        future: its future.
        status: its status.
        stream: ``stdout`` or ``stderr``.
    """
    return output.labelled(label_of(future.callset_id, future.call_id), str(status.get(stream) or ""))


def label_of(callset_id: str, call_id: str) -> str:
    """Return the ids of a callset and a call as they stand before each line."""
    return f"[{callset_id[:8]}/{call_id}]"
