"""What a call left in CloudWatch's logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pywren.cloud.aws import AWS
from pywren.exceptions import ArgumentError

_CLOCKS_APART_MS = 60_000


def call_logs(aws: AWS, run_status: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the log of one call, from Lambda's START line to its REPORT line.

    CloudWatch shows lines some seconds after they were written: a call that has just ended may lack its end.

    Args:
        aws: the account and region of the function.
        run_status: the worker's status of the call.

    Returns:
        ``(timestamp in milliseconds, message)``, in order.

    Raises:
        ArgumentError: the call did not run on Lambda.
        DeploymentError: the logs may not be read.
    """
    request_id = run_status.get("aws_request_id")
    group, stream = run_status.get("log_group_name"), run_status.get("log_stream_name")
    if not (request_id and group and stream):
        raise ArgumentError("the call has no log in CloudWatch: it did not run on Lambda, or never began there")
    start, end = run_status.get("start_time"), run_status.get("end_time")
    events = aws.log_events(
        group,
        streams=[stream],
        # START is written before the worker looks at its clock, REPORT after
        start_ms=None if start is None else int(start * 1000) - _CLOCKS_APART_MS,
        end_ms=None if end is None else int(end * 1000) + _CLOCKS_APART_MS,
    )
    found: list[tuple[int, str]] = []
    for timestamp, message in events:
        if found or message.startswith(f"START RequestId: {request_id}"):
            found.append((timestamp, message))
        if message.startswith(f"REPORT RequestId: {request_id}"):
            break
    return found
