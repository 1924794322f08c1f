"""``FailureRecords``: what Lambda writes about calls that end without their worker saying so.

A worker that is killed, runs out of time or memory as a whole, or never starts leaves no status. But the calls' bucket
is the function's on-failure destination, and Lambda puts a record of such a call there
(docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html).

A record holds the payload, and with it the key that signs the status of that attempt. Whoever may read records can
sign from then on, so a status signed with that key is no longer believed. S3 is consistent: nobody sees a status that
was forged after a record was written before the record itself. Hence a status is believed when a listing made *after*
the status was read shows no record with its key.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pywren.aws.errors import was_denied
from pywren.exceptions import (
    CallError,
    CallLostError,
    CallTimeoutError,
    IntegrityError,
    StorageError,
    StorageNoSuchKeyError,
    WorkerCrashedError,
)
from pywren.storage import Storage
from pywren.system.threads import for_each
from pywren.wire.keys import failure_prefix

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

FIRST_LISTING = 5.0
"""Seconds from submission to the first listing for calls without a status: few need one, and it is a LIST request."""

SLOWEST_LISTING = 60.0
"""Seconds between such listings at most: a LIST request a minute costs 0.03 cents an hour (S3 prices, 2026)."""

ASK_AGAIN = 60.0
"""Seconds after which a request that was denied is sent again: permissions come and go."""

RECORD_LIMIT = 16 * 1024 * 1024
"""Bytes of a record that are read: an invocation has up to 1 MB of payload and 6 MB of answer (Lambda quotas, 2026)."""

CLOCKS_APART = 300.0
"""Seconds by which the clocks of two services of AWS may differ."""

_THREADS = 32
_SHOWN = 1000  # characters of what Lambda says
_KEY = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])")  # an attempt's key, as the payload spells it


class Noted:
    """What is known from the records of one function. Callsets share it, so that each record is read once.

    Threads share it without a lock. A record counts as read only when everything in it is noted. Threads that refresh
    at the same time may therefore read a record twice, and then note the same.
    """

    def __init__(self) -> None:
        self.read: set[str] = set()  # keys of records
        self.by_call: dict[tuple[str, str], CallError] = {}  # by callset and call
        self.by_key: dict[str, CallError] = {}  # attempts' keys, and other digests of payloads, in hexadecimal
        self.denied: dict[str, float] = {}  # what may not be listed or read, and when to try again
        self.denial: StorageError | None = None
        self.warned = False
        self._listing = "", float("-inf")

    def note_listing(self, after: str, now: float) -> None:
        """Note that records were listed from a key on. A recent listing that began at an earlier key still counts."""
        if after <= self._listing[0] or not self.is_listed(self._listing[0], now):
            self._listing = after, now

    def is_listed(self, after: str, now: float) -> bool:
        """Tell whether records were listed a moment ago, from this key or an earlier one on."""
        begin, when = self._listing
        return begin <= after and 0.0 <= now - when < FIRST_LISTING


class FailureRecords:
    """The records of one function, searched for the calls of one callset.

    Args:
        storage: the storage whose bucket the records are in.
        function: the function's name.
        callset_id: the callset.
        since: when it was submitted by the storage's clock, in seconds since the epoch; earlier records are skipped.
        noted: what callsets of this function and this storage share.
    """

    def __init__(
        self, storage: Storage, function: str, callset_id: str, since: float, noted: Noted | None = None
    ) -> None:
        self._storage = storage
        self._prefix = failure_prefix(function)
        self._callset_id = callset_id
        self._after = _key_of_time(self._prefix, max(0.0, since - CLOCKS_APART))
        self._noted = Noted() if noted is None else noted
        self._since = since
        self._due = since + FIRST_LISTING

    @property
    def is_empty(self) -> bool:
        """Whether no record says anything about a call."""
        return not self._noted.by_key and not self._noted.by_call

    def is_due(self, now: float) -> bool:
        """Tell whether to list the records for calls without a status: it is time, and no other callset just did."""
        return now >= self._due and not self._noted.is_listed(self._after, now)

    def refresh(self, now: float) -> None:
        """List the records, and read those that are new.

        Args:
            now: the time by the storage's clock, in seconds since the epoch.

        Raises:
            StorageError: they could not be listed or read just now, so no status may be believed. When permission is
                missing, one warning says what is believed instead.
        """
        self._due = now + min(SLOWEST_LISTING, max(FIRST_LISTING, 0.1 * (now - self._since)))
        prefix = f"{self._prefix}/"
        # From the submission on each time: a record may arrive later than the time in its key.
        listed = self._ask(prefix, now, lambda: self._storage.backend.list(prefix, self._after)) or []
        new = [key for key in listed if key not in self._noted.read]
        for_each(lambda key: self._read(key, now), new, _THREADS)
        self._noted.note_listing(self._after, now)
        if self._noted.denial is not None and not self._noted.warned:
            self._noted.warned = True
            logger.warning(
                "these credentials cannot read all of Lambda's records of failed calls. Without them, pywren notices a "
                "vanished worker only when its call is overdue, and cannot detect a result forged by someone who can "
                "read the records and write to the prefix. Run 'pywren iam --print user' to see which permissions to "
                "add: %s",
                self._noted.denial,
            )

    def of_key(self, key: bytes) -> CallError | None:
        """Return why an attempt ended if a record shows its key: then no status signed with that key is believed.

        Args:
            key: the attempt's key. It counts anywhere in a record, whichever call the record names.
        """
        return self._noted.by_key.get(key.hex()) if self._noted.by_key else None

    def of_call(self, call_id: str) -> CallError | None:
        """Return why a call ended if a record names it, with or without its key."""
        return self._noted.by_call.get((self._callset_id, call_id))

    def _ask(self, what: str, now: float, request: Callable[[], _Answer]) -> _Answer | None:
        """Send a request; returns ``None`` when it is denied, or was denied a moment ago."""
        if now < self._noted.denied.get(what, now):
            return None
        try:
            return request()
        except StorageError as error:
            if not was_denied(error):
                raise
            self._noted.denied[what], self._noted.denial = now + ASK_AGAIN, error
            return None

    def _read(self, key: str, now: float) -> None:
        try:
            data = self._ask(key, now, lambda: self._beginning(key))
        except StorageNoSuchKeyError:  # it has expired since
            return
        if data is None:  # a record that may not be read hides no other
            return
        self._note(data)
        self._noted.read.add(key)

    def _beginning(self, key: str) -> bytes:
        try:
            return self._storage.get(key, limit=RECORD_LIMIT)
        except IntegrityError:  # longer than any record of Lambda's, but its beginning may show a key all the same
            return self._storage.get(key, (0, RECORD_LIMIT - 1))

    def _note(self, data: bytes) -> None:
        record, error = _decoded(data), None
        for value in _all_values(record.get("requestPayload")):
            if isinstance(value, Mapping):
                call = value.get("callset_id"), value.get("call_id")
                if isinstance(call[0], str) and isinstance(call[1], str):
                    error = error or error_of(record)
                    self._noted.by_call.setdefault((call[0], call[1]), error)
        for value in _all_values(record or data.decode("latin-1")):
            for name in _KEY.findall(value) if isinstance(value, str) else ():
                error = error or error_of(record)
                self._noted.by_key.setdefault(name.lower(), error)


def _all_values(value: Any) -> Iterator[Any]:
    """Yield everything in a decoded JSON value, however deep: an event may hold several payloads."""
    rest = [value]
    while rest:
        value = rest.pop()
        yield value
        if isinstance(value, Mapping):
            rest.extend(value)
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)


def error_of(record: Mapping[str, Any]) -> CallError:
    """Turn a record into the error of its call, which names the cause and the remedy."""
    condition = _member(record, "requestContext", "condition")
    kind = _member(record, "responsePayload", "errorType")
    said = _member(record, "responsePayload", "errorMessage") or kind or condition or "Lambda's record does not say why"
    said = said[:_SHOWN]
    if condition == "EventAgeExceeded":
        return CallLostError(
            "the call waited in Lambda's queue until it was too old, and never ran. Map over fewer items at once, "
            "raise the function's concurrency, or raise lambda: event_age in the configuration and run "
            "'pywren deploy_lambda'"
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
    """Read a record. It may be anything: others can write to the bucket."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, Mapping) else {}


def _key_of_time(prefix: str, seconds: float) -> str:
    """Return a key that sorts before the keys of all records written from a time on."""
    return f"{prefix}/{time.strftime('%Y/%m/%d/%Y-%m-%dT%H.%M.%S', time.gmtime(seconds))}"
