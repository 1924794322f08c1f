"""``FailureRecords``: the records that Lambda writes about calls whose worker left no status.

A worker leaves no status if it is killed, if the whole worker exceeds its time or memory, or if it never starts. But
the bucket is the on-failure destination of the Lambda function, and Lambda writes a record of such a call into it
(docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html).

A record contains the payload of the call, and so the key that signs the status of that attempt. Once the record exists,
anyone who can read it can sign a status, so a status signed with that key is no longer believed. S3 is consistent: if a
status was forged with a key from a record, that record is visible before the forged status is. So a status is believed
if a listing made *after* the status was read shows no record with its key.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

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
from pywren.wire.cause import Cause
from pywren.wire.keys import copies_of, failure_prefix

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

LISTING_INTERVAL = 5.0
"""Seconds from submission to the first listing of records, and from one to the next if nothing new was found meanwhile.
Few maps need a listing. One LIST request every five seconds costs 0.36 cents an hour (S3 prices, 2026)."""

ASK_AGAIN = 60.0
"""Seconds after which a denied request is sent again, because permissions may have changed."""

RECORD_LIMIT = 16 * 1024 * 1024
"""The most bytes of a record to read. The payload of an invocation has up to 1 MB and its answer up to 6 MB (Lambda
quotas, 2026)."""

CLOCKS_APART = 300.0
"""Seconds by which the clocks of two AWS services may differ."""

_THREADS = 32
_SHOWN = 1000  # characters of Lambda's own text
_NOTHING: Mapping[int, Death] = MappingProxyType({})
_KEY = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])")  # an attempt's key, as the payload spells it


class Death(NamedTuple):
    """Why an attempt ended, according to a record.

    Args:
        cause: why, in the words of the driver.
        error: the error that names the cause and the remedy.
    """

    cause: Cause
    error: CallError


class Noted:
    """What is known from the records of one function and its copies. Callsets share it: each record is read once.

    Threads share it without a lock. A record counts as read only when all its facts have been noted here. So threads
    that refresh at the same time may both read the same record; they then note the same facts.
    """

    def __init__(self) -> None:
        # Grows with the failed calls of the function for as long as the executor lives: some hundred bytes for each.
        self.read: set[str] = set()  # the keys of the records that were read
        # Why attempts ended, by callset id and call id, and then by the number of the attempt.
        self.by_call: dict[tuple[str, str], dict[int, Death]] = {}
        self.by_key: dict[str, Death] = {}  # why attempts ended, by any hexadecimal key or digest in a record
        self.denied: dict[str, float] = {}  # for each denied listing or read, when to try it again
        self.denial: StorageError | None = None
        self.warned = False
        # One tuple, replaced as a whole: a thread that reads it while another replaces it sees what belongs together.
        self._listing = "", float("-inf"), 0

    def note_listing(self, after: str, now: float, copies: int = 1) -> None:
        """Note that the records after a key were listed, unless a recent listing covers more of them.

        Args:
            after: the key, below the prefix of each copy of the function.
            now: when.
            copies: of how many copies of the function: of the first so many.
        """
        begin, _, known = self._listing
        # A race here loses one note of a listing. The cost is another LIST request.
        if (after <= begin and copies >= known) or not self.is_listed(begin, now, known):
            self._listing = after, now, copies

    def is_listed(self, after: str, now: float, copies: int = 1) -> bool:
        """Tell whether all records after a key were listed a moment ago, those of so many copies of the function."""
        begin, when, known = self._listing
        return begin <= after and copies <= known and 0.0 <= now - when < LISTING_INTERVAL


class FailureRecords:
    """The records of one function and its copies, searched for the calls of one callset.

    Args:
        storage: the storage whose bucket the records are in.
        function: the function's name.
        callset_id: the callset.
        since: when the callset was submitted, by the storage's clock in seconds since the epoch; earlier records are
            skipped.
        noted: what is known from records that were read before; all callsets of this function and storage share it.
        copies: returns how many copies of the function, the first so many, may have got the calls.
    """

    def __init__(
        self,
        storage: Storage,
        function: str,
        callset_id: str,
        since: float,
        noted: Noted | None = None,
        copies: Callable[[], int] = lambda: 1,
    ) -> None:
        self._storage = storage
        self._function = function
        self._copies = copies
        self._callset_id = callset_id
        # Lambda stamps the keys of records with its own clock, and ``since`` comes from S3's.
        self._after = _key_of_time(max(0.0, since - CLOCKS_APART))
        self._noted = Noted() if noted is None else noted
        self._due = since + LISTING_INTERVAL

    @property
    def is_empty(self) -> bool:
        """Whether no record that was read says anything about any call."""
        return not self._noted.by_key and not self._noted.by_call

    def is_due(self, now: float) -> bool:
        """Tell whether to list the records now: a listing is due, and no other callset has just made one."""
        return now >= self._due and not self._noted.is_listed(self._after, now, self._copies())

    def refresh(self, now: float) -> None:
        """List the records, and read those that were not read before.

        Args:
            now: the time by the storage's clock, in seconds since the epoch.

        Raises:
            StorageError: the records cannot be listed or read at present, so no status may be believed. If only a
                permission is missing, nothing is raised: one warning says what pywren believes without the records.
        """
        # Before the requests: if they fail, the next try waits as long, instead of hammering a service in trouble.
        self._due = now + LISTING_INTERVAL
        # The number counts from now on: a copy that gets its first call later has not seen the key of a status that
        # was read before.
        copies = self._copies()
        listed: list[str] = []
        for_each(lambda one: listed.extend(self._list(one, now)), copies_of(self._function, copies), _THREADS)
        new = [key for key in listed if key not in self._noted.read]
        # All of them before any status is weighed: a record that is listed but unread might show the key of a forged
        # status.
        for_each(lambda key: self._read(key, now), new, _THREADS)
        # Only now: other callsets then skip their own listing, and rely on all records up to this one being read.
        self._noted.note_listing(self._after, now, copies)
        if self._noted.denial is not None and not self._noted.warned:
            # Two threads may both get here and warn twice, which is harmless.
            self._noted.warned = True
            logger.warning(
                "these credentials cannot read all of Lambda's records of failed calls. Without the records, pywren "
                "notices a vanished worker only when its call is overdue, and cannot detect a result forged by "
                "someone who can read the records and write to the prefix. Run 'pywren iam --print user' to see which "
                "permissions to add: %s",
                self._noted.denial,
            )

    def of_key(self, key: bytes) -> CallError | None:
        """Return with which error an attempt ended if a record shows its key; see ``shown``."""
        death = self.shown(key)
        return None if death is None else death.error

    def shown(self, key: bytes) -> Death | None:
        """Return why an attempt ended if a record shows its key: a status signed with that key is no longer believed.

        Args:
            key: the attempt's key. It may be anywhere in any record, even in a record that names another call.
        """
        # Most callsets have no records: skip converting a key for each of their calls.
        return self._noted.by_key.get(key.hex()) if self._noted.by_key else None

    def of_call(self, call_id: str) -> Mapping[int, Death]:
        """Return why attempts of a call ended, by their numbers, if records name the call, even without its keys."""
        return self._noted.by_call.get((self._callset_id, call_id), _NOTHING)

    def _list(self, function: str, now: float) -> Sequence[str]:
        prefix = f"{failure_prefix(function)}/"
        # Always list from the time of submission: a record may become visible later than the time in its key.
        return list(self._ask(prefix, now, lambda: self._storage.backend.list(prefix, prefix + self._after)) or ())

    def _ask(self, what: str, now: float, request: Callable[[], _Answer]) -> _Answer | None:
        """Send a request and return its answer; ``None`` if the request is denied, or was denied a moment ago."""
        # Do not repeat a denied request with every poll: it succeeds only after somebody has changed the permissions.
        if now < self._noted.denied.get(what, now):
            return None
        try:
            # S3 answers AccessDenied for a missing key too if the credentials may not list the bucket, so denial covers
            # both.
            return request()
        except StorageError as error:
            if not was_denied(error):
                raise
            self._noted.denied[what], self._noted.denial = now + ASK_AGAIN, error
            return None

    def _read(self, key: str, now: float) -> None:
        try:
            data = self._ask(key, now, lambda: self._beginning(key))
        except StorageNoSuchKeyError:  # the record has expired since the listing
            return
        if data is None:  # this record may not be read or has expired; other records may still help
            return
        # In this order: a thread that finds the key in ``read`` may rely on everything that the record says.
        self._note(data)
        self._noted.read.add(key)

    def _beginning(self, key: str) -> bytes:
        try:
            return self._storage.get(key, limit=RECORD_LIMIT)
        except IntegrityError:  # longer than any record that Lambda writes, but its beginning may still show a key
            # Anyone who can write to the prefix can put a huge object there: never read it whole.
            return self._storage.get(key, (0, RECORD_LIMIT - 1))

    def _note(self, data: bytes) -> None:
        record = _decoded(data)
        death = death_of(record)
        for value in _all_values(record.get("requestPayload")):
            if isinstance(value, Mapping):
                call = value.get("callset_id"), value.get("call_id")
                if isinstance(call[0], str) and isinstance(call[1], str):
                    # Other threads read the inner dict without a lock; setdefault() of one key is atomic.
                    attempts = self._noted.by_call.setdefault((call[0], call[1]), {})
                    attempts.setdefault(_attempt_in(value), death)
        for value in _all_values(record or data.decode("latin-1")):
            for name in _KEY.findall(value) if isinstance(value, str) else ():
                # Any 64 hexadecimal digits count, wherever they are: an attacker who could hide a key from this search
                # could forge a status. A digest that matches by accident matches no attempt's key.
                self._noted.by_key.setdefault(name.lower(), death)


def _all_values(value: Any) -> Iterator[Any]:
    """Yield every value inside a decoded JSON value, at any depth, because an event may contain several payloads."""
    # A loop instead of recursion: a forged record may be nested more deeply than Python's stack allows.
    rest = [value]
    while rest:
        value = rest.pop()
        yield value
        if isinstance(value, Mapping):
            rest.extend(value)
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)


def death_of(record: Mapping[str, Any]) -> Death:
    """Return why a record's attempt ended. The error names the cause and the remedy."""
    condition = _member(record, "requestContext", "condition")
    kind = _member(record, "responsePayload", "errorType")
    said = _member(record, "responsePayload", "errorMessage") or kind or condition or "Lambda's record does not say why"
    said = said[:_SHOWN]
    if condition == "EventAgeExceeded":
        text = (
            "the call waited in Lambda's queue until it was too old, and never ran. Map over fewer items at once, "
            "raise the function's concurrency, or raise `lambda: event_age` in the configuration and run "
            "'pywren deploy_lambda'"
        )
        return Death(Cause.TOO_OLD, CallLostError(text))
    if condition == "ZeroReservedConcurrency":
        text = "the call never ran: the function's reserved concurrency is 0, which stops all calls"
        return Death(Cause.REFUSED, CallLostError(text))
    if kind == "Sandbox.Timedout" or "Task timed out" in said:
        text = (
            f"the call ran out of time: Lambda stopped its worker ({said}). Raise `lambda: timeout` in the "
            "configuration and run 'pywren deploy_lambda', or let each call do less"
        )
        return Death(Cause.TIMED_OUT, CallTimeoutError(text))
    if kind == "Runtime.OutOfMemory" or "signal: killed" in said:
        text = (
            f"the worker of the call was killed ({said}). Running out of memory may be the cause: raise `lambda: "
            "memory` in the configuration and run 'pywren deploy_lambda', or let each call do less"
        )
        # Lambda says OutOfMemory only when it knows. A worker that was merely killed may do better next time.
        known = kind == "Runtime.OutOfMemory"
        return Death(Cause.OUT_OF_MEMORY if known else Cause.KILLED, WorkerCrashedError(text, None))
    if kind.startswith("Runtime.") and kind != "Runtime.ExitError":
        text = f"the worker could not start: {said}. Deploy the function again with 'pywren deploy_lambda'"
        return Death(Cause.WORKER_FAILED, CallLostError(text))
    text = f"the worker of the call failed: {said}. The function's log may say more"
    # An error of Python's that left the handler; anything else means that the worker itself went away.
    raised = kind and not kind.startswith(("Runtime.", "Sandbox."))
    return Death(Cause.WORKER_FAILED if raised else Cause.KILLED, WorkerCrashedError(text, None))


def _attempt_in(payload: Mapping[Any, Any]) -> int:
    number = payload.get("attempt")
    return number if type(number) is int else 1


def _member(record: Mapping[str, Any], *path: str) -> str:
    value: Any = record
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def _decoded(data: bytes) -> Mapping[str, Any]:
    """Decode a record. Its bytes may be anything, because other users can write to the bucket."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, Mapping) else {}


def _key_of_time(seconds: float) -> str:
    """Return what sorts, below the prefix of a function, before the keys of all records written from a time on."""
    return time.strftime("%Y/%m/%d/%Y-%m-%dT%H.%M.%S", time.gmtime(seconds))
