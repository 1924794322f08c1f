"""A door of PyWren 0.4: functions that run calls on this machine, over ``pywren.client.local_worker``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pywren.client.local_worker import run_payloads


def local_handler(job: Mapping[str, Any], run_dir: str, extra_context: Mapping[str, Any] | None = None) -> None:
    """Run one call, in a child process, and return when that has ended.

    Args:
        job: its payload.
        run_dir: has no effect; kept for 0.4, as every call has a directory of its own.
        extra_context: texts that become members of the status.

    Raises:
        DecodeError: the payload is not valid.
    """
    run_generic_handler(job, str(os.getpid()), os.getcwd(), run_dir, extra_context)


def dummy_handler(
    jobs: Sequence[Mapping[str, Any]], run_dir: str, extra_context: Mapping[str, Any] | None = None
) -> None:
    """Run calls one after the other, in child processes, and return when these have ended.

    Args:
        jobs: their payloads.
        run_dir: has no effect; kept for 0.4, as every call has a directory of its own.
        extra_context: texts that become members of the statuses.

    Raises:
        DecodeError: a payload was not valid; the others have been run.
    """
    run_payloads(jobs, context=extra_context)


def run_generic_handler(
    job: Mapping[str, Any],
    job_id: str,
    original_dir: str,
    run_dir: str,
    extra_context: Mapping[str, Any] | None,
) -> None:
    """Run one call under a name for this run, which the status has as ``jobnum``.

    Args:
        job: its payload.
        job_id: the name.
        original_dir: has no effect; kept for 0.4, as nothing changes the directory here.
        run_dir: has no effect; kept for 0.4, as every call has a directory of its own.
        extra_context: texts that become members of the status.

    Raises:
        DecodeError: the payload is not valid.
    """
    run_payloads([job], context={"jobnum": job_id, **(extra_context or {})})
