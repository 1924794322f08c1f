"""PyWren 0.4's functions that run calls on this machine, on top of ``pywren.client.local_worker``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pywren.client.local_worker import run_payloads


def local_handler(job: Mapping[str, Any], run_dir: str, extra_context: Mapping[str, Any] | None = None) -> None:
    """Run one call in a child process, and return when the process has ended.

    Args:
        job: the payload of the call.
        run_dir: has no effect; kept for 0.4, as every call has its own directory.
        extra_context: strings to add to the status.

    Raises:
        DecodeError: the payload is not valid.
    """
    run_generic_handler(job, str(os.getpid()), os.getcwd(), run_dir, extra_context)


def dummy_handler(
    jobs: Sequence[Mapping[str, Any]], run_dir: str, extra_context: Mapping[str, Any] | None = None
) -> None:
    """Run calls one after the other in child processes, and return when all have ended.

    Args:
        jobs: the payloads of the calls.
        run_dir: has no effect; kept for 0.4, as every call has its own directory.
        extra_context: strings to add to the statuses.

    Raises:
        DecodeError: a payload was not valid; the other calls have run.
    """
    run_payloads(jobs, context=extra_context)


def run_generic_handler(
    job: Mapping[str, Any],
    job_id: str,
    original_dir: str,
    run_dir: str,
    extra_context: Mapping[str, Any] | None,
) -> None:
    """Run one call in a child process. Its status contains the job id as ``jobnum``.

    Args:
        job: the payload of the call.
        job_id: the job id.
        original_dir: has no effect; kept for 0.4, as nothing changes the working directory.
        run_dir: has no effect; kept for 0.4, as every call has its own directory.
        extra_context: strings to add to the status.

    Raises:
        DecodeError: the payload is not valid.
    """
    run_payloads([job], context={"jobnum": job_id, **(extra_context or {})})
