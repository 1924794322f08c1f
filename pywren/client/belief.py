"""``weigh``: decides which statuses to believe. This module sends no requests and changes nothing.

Anyone with write access to the bucket can write anything under a status key. A status is believed if it is signed with
the key of its attempt and no record from Lambda shows that key (``client.failure_records`` explains why). The same
holds for the report of a failed attempt, which a worker signs in the same way and writes under the attempt's own key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from pywren.client.callset import Callset
from pywren.client.failure_records import Death, FailureRecords
from pywren.exceptions import DecodeError, IntegrityError, PywrenError
from pywren.wire.status import Status

Read = bytes | IntegrityError | None
"""The bytes of an object, or why it was not read; ``None`` if there is none."""


class Sign(NamedTuple):
    """A worker has shown that it runs a call.

    Args:
        call_id: the call; or the chunk, by its name.
        number: the attempt; 0 for a chunk.
        started_at: when it began, in seconds since the epoch; ``None`` if the worker did not say.
        where: the worker.
        running: the call of the chunk that the worker runs; ``None`` if that is not known.
    """

    call_id: str
    number: int
    started_at: float | None
    where: str
    running: str | None = None


class Findings(NamedTuple):
    """What one poll found out about some calls. Each call is in at most one of the first five fields.

    Args:
        believed: the statuses that are signed with a key that only the worker and the client had.
        failed: the errors that unsigned statuses report. An unsigned status cannot report a value.
        unbelieved: for each call whose status was not written by its worker, an error that says how this is known.
        exposed: the calls with a status whose key a record shows: nobody can tell who wrote the status.
        missing: the calls without a status.
        deaths: for each call, why attempts ended according to Lambda's records, by their numbers.
        reports: what workers say about attempts that failed and may be repeated, by call and number.
        client_gone: whether the process that ran the calls had ended before the statuses were read.
        signs: which workers have shown that they run a call.
        chunk_deaths: how chunks of this process have died, according to Lambda's records.
    """

    believed: dict[str, Status]
    failed: dict[str, PywrenError]
    unbelieved: dict[str, IntegrityError]
    exposed: set[str]
    missing: set[str]
    deaths: dict[str, dict[int, Death]]
    reports: dict[tuple[str, int], Status]
    client_gone: bool = False
    signs: Sequence[Sign] = ()
    chunk_deaths: Mapping[str, Death] = MappingProxyType({})


def weigh(
    callset: Callset,
    unknown: Sequence[str],
    read: Mapping[str, Read],
    records: FailureRecords | None,
    client_gone: bool = False,
    *,
    reports: Mapping[tuple[str, int], Read] | None = None,
    attempts: Mapping[str, Sequence[int]] | None = None,
) -> Findings:
    """Decide which statuses to believe.

    Args:
        callset: the callset.
        unknown: the calls.
        read: what was read from the status keys of those of them that may have a status.
        records: Lambda's records, listed after the statuses were read; ``None`` if Lambda writes no records.
        client_gone: see ``Findings``.
        reports: what was read from the keys of failed attempts.
        attempts: for each call that this process drives, the attempts that may be in flight; ``None`` if another
            process drives the calls. A record ends an attempt of a driven call only if it shows the attempt's key:
            anybody who can write to the bucket can write a record that merely names a call.
    """
    missing = set(unknown)
    missing.difference_update(call_id for call_id, data in read.items() if data is not None)
    found = Findings({}, {}, {}, set(), missing, {}, {}, client_gone)
    # Of a call without a status only a record can tell something. Most callsets have none, and 100,000 calls without a
    # status.
    for call_id in read if records is None else unknown:
        data = read.get(call_id)
        status = data if data is None or isinstance(data, IntegrityError) else _decoded(data, callset, call_id)
        # First: once a record shows the key, a valid signature proves nothing any more, so it must not be looked at
        # before.
        numbers = None if attempts is None else attempts.get(call_id, ())
        deaths = {} if records is None else _deaths(callset, call_id, status, records, numbers)
        # Failures before the job was resumed do not count, but a key that they have shown proves nothing any more.
        current = {number: death for number, death in deaths.items() if number >= callset.first_attempt}
        if current:
            found.deaths[call_id] = current
        if status is None:
            continue
        if isinstance(status, Status) and status.signed:
            if status.attempt in deaths and records is not None and _is_shown(callset, status, records):
                found.exposed.add(call_id)
            else:
                found.believed[call_id] = status
        elif deaths:
            found.exposed.add(call_id)
        elif isinstance(status, IntegrityError):
            found.unbelieved[call_id] = status
        # An unsigned failure is believed: whoever forges one can only make the call fail, which anyone with write
        # access to the prefix can do anyway. An unsigned value would be unpickled, which runs code.
        elif status.failure is not None:
            found.failed[call_id] = status.failure.error(callset.id, call_id, status.document())
        else:
            found.unbelieved[call_id] = IntegrityError(
                f"the status of {_named(callset, call_id)} is not signed with this callset's key: something other than "
                "the call's worker wrote the status, or PYWREN_HOME is not the same as when the call was made. Nothing "
                "was unpickled"
            )
    found.reports.update(_believed_reports(callset, reports or {}, records))
    return found


def _believed_reports(
    callset: Callset, reports: Mapping[tuple[str, int], Read], records: FailureRecords | None
) -> dict[tuple[str, int], Status]:
    found: dict[tuple[str, int], Status] = {}
    for (call_id, number), data in reports.items():
        report = _decoded(data, callset, call_id) if isinstance(data, bytes) else None
        # Nothing unsigned here: a forged report could have calls repeated. The records are asked as for a status.
        if not isinstance(report, Status) or not report.signed or report.attempt != number:
            continue
        if records is None or not _is_shown(callset, report, records):
            found[call_id, number] = report
    return found


def _deaths(
    callset: Callset,
    call_id: str,
    status: Status | IntegrityError | None,
    records: FailureRecords,
    attempts: Sequence[int] | None,
) -> dict[int, Death]:
    """Return which attempts of a call have ended according to the records."""
    # A record that names the call but does not show the key has not revealed the key: a signature is still proof. It
    # still tells that the attempt is over, which is of no interest if the attempt has left a status.
    deaths = dict(records.of_call(call_id)) if attempts is None else {}
    numbers = {1} if attempts is None else set(attempts)
    if isinstance(status, Status) and status.signed:
        numbers.add(status.attempt)
    for number in numbers - deaths.keys():
        # A record of an earlier attempt reveals only that attempt's key.
        shown = records.shown(callset.attempt_key(call_id, number))
        if shown is not None:
            deaths[number] = shown
    return deaths


def _is_shown(callset: Callset, status: Status, records: FailureRecords) -> bool:
    return records.shown(callset.attempt_key(status.call_id, status.attempt)) is not None


def _decoded(data: bytes, callset: Callset, call_id: str) -> Status | IntegrityError:
    try:
        return Status.verify(data, callset.known_secret(), callset.id, call_id)
    except DecodeError as error:
        return IntegrityError(
            f"the status of {_named(callset, call_id)} is not a valid status: {error}. Something other than the call's "
            "worker wrote the status"
        )


def _named(callset: Callset, call_id: str) -> str:
    return f"call {call_id} of callset {callset.id}"
