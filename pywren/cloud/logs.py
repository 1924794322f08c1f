"""The logs that calls wrote to CloudWatch."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pywren.aws.requests import AWS
from pywren.cloud.names import Names
from pywren.exceptions import ArgumentError

_CLOCKS_APART_MS = 60_000
"""How far the clocks of a worker and of CloudWatch may differ."""

_LATE_MS = 120_000
"""How late a line may arrive: Lambda sends each container's lines at its own pace, so they arrive out of order."""

FOLLOW_SECONDS = 2.0
"""Seconds between two requests while following a log; CloudWatch allows only a few FilterLogEvents a second."""


def call_logs(aws: AWS, run_status: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the log of one call, from Lambda's START line to its REPORT line.

    CloudWatch returns lines with a delay of some seconds, so the log of a call that has just finished may lack its last
    lines.

    Args:
        aws: the account and region of the function.
        run_status: the call's status.

    Returns:
        The lines in order, each as ``(timestamp in milliseconds, message)``.

    Raises:
        ArgumentError: the call did not run on Lambda.
        DeploymentError: these credentials may not read the log.
    """
    request_id = run_status.get("aws_request_id")
    group, stream = run_status.get("log_group_name"), run_status.get("log_stream_name")
    if not (request_id and group and stream):
        raise ArgumentError("the call has no log in CloudWatch: it did not run on Lambda, or did not start there")
    start, end = run_status.get("start_time"), run_status.get("end_time")
    events = aws.log_events(
        group,
        streams=[stream],
        # Lambda writes START before the worker reads its clock, and REPORT afterwards
        start_ms=None if start is None else int(start * 1000) - _CLOCKS_APART_MS,
        end_ms=None if end is None else int(end * 1000) + _CLOCKS_APART_MS,
    )
    found: list[tuple[int, str]] = []
    for timestamp, message in _lines(events):
        if found or message.startswith(f"START RequestId: {request_id}"):
            found.append((timestamp, message))
        if message.startswith(f"REPORT RequestId: {request_id}"):
            break
    return found


def latest_log(aws: AWS, names: Names) -> Iterator[tuple[int, str]]:
    """Yield the lines of the container that wrote last, each as ``(timestamp in milliseconds, message)``."""
    found = [(stream, one.log_group) for one in names.each_copy() if (stream := aws.latest_log_stream(one.log_group))]
    if found:
        latest, group = max(found, key=lambda one: one[0].written_ms)
        yield from _lines(aws.log_events(group, streams=[latest.name]))


def recent_log(aws: AWS, names: Names, *, start_ms: int) -> Iterator[tuple[int, str]]:
    """Yield the lines of all containers since a time, each as ``(timestamp in milliseconds, message)``.

    Args:
        aws: the account and region.
        names: the names of all resources.
        start_ms: the time, in milliseconds since the epoch.
    """
    each = [_lines(aws.log_events(one.log_group, start_ms=start_ms)) for one in names.each_copy()]
    return heapq.merge(*each, key=lambda line: line[0])


def follow_log(
    aws: AWS, names: Names, *, start_ms: int, sleep: Callable[[float], None] = time.sleep
) -> Iterator[tuple[int, str]]:
    """Yield the lines of all containers as they arrive, forever.

    Args:
        aws: the account and region.
        names: the names of all resources.
        start_ms: the time of the first line, in milliseconds since the epoch.
        sleep: waits a number of seconds.
    """
    seen: dict[str, int] = {}
    while True:
        for one in names.each_copy():
            for event in aws.log_events(one.log_group, start_ms=start_ms):
                if event["eventId"] not in seen:
                    yield event["timestamp"], event["message"]
                seen[event["eventId"]] = event["timestamp"]
        start_ms = max(start_ms, max(seen.values(), default=0) - _LATE_MS)
        seen = {identity: moment for identity, moment in seen.items() if moment >= start_ms}
        sleep(FOLLOW_SECONDS)


def _lines(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    for event in events:
        yield event["timestamp"], event["message"]


def log_url(names: Names) -> str:
    """Return the address of the function's log in the AWS console."""
    domains = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}
    domain = domains.get(names.partition, f"{names.region}.console.aws.amazon.com")
    group = names.log_group.replace("/", "$252F")  # the console expects the name URL-encoded twice, with $ instead of %
    return f"https://{domain}/cloudwatch/home?region={names.region}#logsV2:log-groups/log-group/{group}"
