"""The record of a failed asynchronous event, as Lambda sends it to the on-failure destination.

Format: docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any, NamedTuple

from pywren.testing.emulator._container import Reply
from pywren.testing.emulator._functions import Function

RETRIES_EXHAUSTED = "RetriesExhausted"
EVENT_AGE_EXCEEDED = "EventAgeExceeded"
ZERO_CONCURRENCY = "ZeroReservedConcurrency"


class Loss(NamedTuple):
    """A failed event.

    Args:
        request_id: the event's id.
        condition: why the event was given up; one of the three constants above.
        payload: the event as JSON.
        attempts: how often the event ran.
        reply: the reply of the last attempt; ``None`` if the event never ran.
    """

    request_id: str
    condition: str
    payload: bytes
    attempts: int
    reply: Reply | None


def on_failure_destination(function: Function) -> str:
    """Return the ARN of the destination for a function's records; ``""`` when it has no destination."""
    destinations = function.event_invoke.get("DestinationConfig") or {}
    return str((destinations.get("OnFailure") or {}).get("Destination") or "")


def failure_record(function: Function, loss: Loss, when: datetime) -> bytes:
    """Return the record as JSON.

    Args:
        function: the event's function.
        loss: the failed event.
        when: the time of the record.
    """
    moment = when.astimezone(timezone.utc)
    record: dict[str, Any] = {
        "version": "1.0",
        "timestamp": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z",
        "requestContext": {
            "requestId": loss.request_id,
            "functionArn": f"{function.arn}:$LATEST",
            "condition": loss.condition,
            "approximateInvokeCount": loss.attempts,
        },
        "requestPayload": _parsed(loss.payload),
    }
    if loss.reply is not None:
        record["responseContext"] = {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": loss.reply.error,
        }
        record["responsePayload"] = _parsed(loss.reply.payload)
    return json.dumps(record).encode()


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(payload) if payload else {}
    except ValueError:  # a function's answer need not be JSON
        return payload.decode(errors="replace")
