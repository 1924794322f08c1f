"""``weigh``: decides which statuses to believe. This module sends no requests and changes nothing.

Anyone with write access to the bucket can write anything under a status key. A status is believed if it is signed with
the key of its attempt and no record from Lambda shows that key (``client.failure_records`` explains why).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pywren.client.callset import Callset
from pywren.client.failure_records import FailureRecords
from pywren.exceptions import CallError, DecodeError, IntegrityError, PywrenError
from pywren.wire.status import Status

_FIRST_ATTEMPT = 1  # pywren does not retry calls yet


class Death(NamedTuple):
    """Why a call ended, according to a record from Lambda.

    Args:
        error: why the call ended.
        over_what_stands: whether to overwrite the call's present status, because that status is not believed.
    """

    error: CallError
    over_what_stands: bool


class Findings(NamedTuple):
    """What one poll found out about some calls. Each call is in at most one of the first five fields.

    Args:
        believed: the statuses that are signed with a key that only the worker and the client had.
        failed: the errors that unsigned statuses report. An unsigned status cannot report a value.
        unbelieved: for each call whose status was not written by its worker, an error that says how this is known.
        dead: the calls that have ended according to Lambda's records.
        missing: the calls without a status.
        client_gone: whether the process that ran the calls had ended before the statuses were read.
    """

    believed: dict[str, Status]
    failed: dict[str, PywrenError]
    unbelieved: dict[str, IntegrityError]
    dead: dict[str, Death]
    missing: list[str]
    client_gone: bool = False


def weigh(
    callset: Callset,
    read: Mapping[str, bytes | IntegrityError | None],
    records: FailureRecords | None,
    client_gone: bool = False,
) -> Findings:
    """Decide which statuses to believe.

    Args:
        callset: the callset.
        read: the bytes read from the status key of each call; ``None`` if there was no object.
        records: Lambda's records, listed after the statuses were read; ``None`` if Lambda writes no records.
        client_gone: see ``Findings``.
    """
    found = Findings({}, {}, {}, {}, [], client_gone)
    for call_id, data in read.items():
        status = data if data is None or isinstance(data, IntegrityError) else _decoded(data, callset, call_id)
        # First: once a record shows the key, a valid signature proves nothing any more, so it must not be looked at
        # before.
        dead = None if records is None else _death(callset, call_id, status, records)
        if dead is not None:
            found.dead[call_id] = dead
        elif status is None:
            found.missing.append(call_id)
        elif isinstance(status, IntegrityError):
            found.unbelieved[call_id] = status
        elif status.signed:
            found.believed[call_id] = status
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
    return found


def _death(
    callset: Callset, call_id: str, status: Status | IntegrityError | None, records: FailureRecords
) -> Death | None:
    signed = isinstance(status, Status) and status.signed
    attempt = status.attempt if isinstance(status, Status) and signed else _FIRST_ATTEMPT
    # The key of the attempt that signed: a record of an earlier attempt reveals only that attempt's key.
    shown = records.of_key(callset.attempt_key(call_id, attempt))
    if shown is not None:
        return Death(shown, over_what_stands=True)
    # A record that names the call but does not show the key has not revealed the key: a signature is still proof.
    told = None if signed else records.of_call(call_id)
    return None if told is None else Death(told, over_what_stands=status is not None)


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
