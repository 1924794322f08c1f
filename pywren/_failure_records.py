"""``FailureRecords``: what Lambda wrote of calls that ended without their worker's doing.

A worker that is killed, runs out of time or memory as a whole, or never starts leaves no status. But the function
has the calls' bucket for its on-failure destination, and Lambda puts a record of such a call there
(docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from pywren._threads import for_each
from pywren._wire import failure_prefix
from pywren.exceptions import (
    CallError,
    CallLostError,
    CallTimeoutError,
    StorageError,
    StorageNoSuchKeyError,
    WorkerCrashedError,
)
from pywren.storage import Storage

logger = logging.getLogger(__name__)

FIRST_LOOK = 5.0
"""Seconds from submission to the first look: few calls need one, and each look is a LIST request."""

_CLOCKS_APART = 60.0
_THREADS = 32
_SHOWN = 1000  # characters of what Lambda says


class FailureRecords:
    """The records of one function, looked through for the calls of one callset.

    Args:
        storage: the storage whose bucket the records are in.
        function: the function's name.
        callset_id: the callset.
        since: when it was submitted, in seconds since the epoch; earlier records are not looked at.
    """

    def __init__(self, storage: Storage, function: str, callset_id: str, since: float) -> None:
        self._storage = storage
        self._prefix = failure_prefix(function)
        self._callset_id = callset_id
        self._after = _key_of_time(self._prefix, since - _CLOCKS_APART)
        self._seen: set[str] = set()
        self._due = since + FIRST_LOOK
        self._since = since
        self._refused = False

    def look(self, outstanding: Collection[str], now: float) -> dict[str, CallError]:
        """Return why calls ended that a new record tells of; nothing when the last look was a moment ago.

        Args:
            outstanding: the calls that have no status.
            now: seconds since the epoch.
        """
        if self._refused or now < self._due:
            return {}
        self._due = now + max(FIRST_LOOK, 0.1 * (now - self._since))
        try:
            keys = [key for key in self._storage.backend.list(f"{self._prefix}/", self._after) if key not in self._seen]
            return self._read(keys, outstanding)
        except StorageError as error:
            self._refused = True
            logger.warning(
                "cannot see Lambda's records of failed calls: a call whose worker vanishes is only noticed when it is "
                "overdue. 'pywren iam --print user' shows what is to be permitted: %s",
                error,
            )
            return {}

    def _read(self, keys: Collection[str], outstanding: Collection[str]) -> dict[str, CallError]:
        found: dict[str, CallError] = {}

        def read(key: str) -> None:
            try:
                record = _decoded(self._storage.get(key))
            except StorageNoSuchKeyError:  # it has expired since
                return
            request = record.get("requestPayload")
            if isinstance(request, Mapping) and request.get("callset_id") == self._callset_id:
                call_id = request.get("call_id")
                if call_id in outstanding:
                    found[str(call_id)] = error_of(record)
            self._seen.add(key)

        for_each(read, keys, _THREADS)
        return found


def error_of(record: Mapping[str, Any]) -> CallError:
    """Return what a record says of its call: an error that names the cause and the remedy."""
    condition = _member(record, "requestContext", "condition")
    kind = _member(record, "responsePayload", "errorType")
    said = (_member(record, "responsePayload", "errorMessage") or kind or condition)[:_SHOWN]
    if condition == "EventAgeExceeded":
        return CallLostError(
            "the call waited in Lambda's queue until it was too old, and never ran. Map over less at once, raise the "
            "function's concurrency, or lambda: event_age in the configuration and run 'pywren deploy_lambda'"
        )
    if condition == "ZeroReservedConcurrency":
        return CallLostError("the call never ran: the function's reserved concurrency is 0, which stops all calls")
    if kind == "Sandbox.Timedout" or "Task timed out" in said:
        return CallTimeoutError(
            f"the call ran out of time: Lambda stopped its worker ({said}). Raise lambda: timeout in the configuration "
            "and run 'pywren deploy_lambda', or let each call do less"
        )
    if kind == "Runtime.OutOfMemory" or "signal: killed" in said:
        return WorkerCrashedError(
            f"the worker of the call was killed ({said}). Running out of memory may be the cause: raise lambda: memory "
            "in the configuration and run 'pywren deploy_lambda', or let each call do less",
            None,
        )
    if kind.startswith("Runtime.") and kind != "Runtime.ExitError":
        return CallLostError(f"the worker could not start: {said}. Deploy it again with 'pywren deploy_lambda'")
    return WorkerCrashedError(f"the worker of the call failed: {said}. The function's log may say more", None)


def _member(record: Mapping[str, Any], *path: str) -> str:
    value: Any = record
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def _decoded(data: bytes) -> Mapping[str, Any]:
    """Read a record; whoever may write to the bucket may put anything there."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, Mapping) else {}


def _key_of_time(prefix: str, seconds: float) -> str:
    """Return what stands before the keys of all records from a time on."""
    return f"{prefix}/{time.strftime('%Y/%m/%d/%Y-%m-%dT%H.%M.%S', time.gmtime(seconds))}"
