"""What is believed of what was read of some calls: decisions, which ask nobody and change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pywren.client.callset import Callset
from pywren.client.failure_records import FailureRecords
from pywren.exceptions import CallError, DecodeError, IntegrityError, PywrenError
from pywren.wire.status import Status

_FIRST_ATTEMPT = 1  # calls are not invoked again yet


class Death(NamedTuple):
    """That Lambda says of a call that it has ended.

    Args:
        error: why.
        over_what_stands: whether what stands at its status key, or comes to stand there, is not to be believed.
    """

    error: CallError
    over_what_stands: bool


class Findings(NamedTuple):
    """What one look has found out about some calls, and is to be done about it. A call stands in one place at most.

    Args:
        believed: statuses that are signed by a key that nobody else had.
        failed: the error that an unsigned status stands for; those can be no value.
        unbelieved: why what stands there is nobody's status.
        dead: calls that Lambda says have ended.
        missing: calls without a status.
        client_gone: whether the process that ran them had ended before all this was read.
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
    """Decide what is believed. Asks nobody and changes nothing.

    Args:
        callset: the callset.
        read: what was read at the status key of each call, ``None`` when nothing stood there.
        records: Lambda's records, listed after that; ``None`` when there are none.
        client_gone: see ``Findings``.
    """
    found = Findings({}, {}, {}, {}, [], client_gone)
    for call_id, data in read.items():
        status = data if data is None or isinstance(data, IntegrityError) else _decoded(data, callset, call_id)
        dead = None if records is None else _death(callset, call_id, status, records)
        if dead is not None:
            found.dead[call_id] = dead
        elif status is None:
            found.missing.append(call_id)
        elif isinstance(status, IntegrityError):
            found.unbelieved[call_id] = status
        elif status.signed:
            found.believed[call_id] = status
        elif status.failure is not None:
            found.failed[call_id] = status.failure.error(callset.id, call_id, status.document())
        else:
            found.unbelieved[call_id] = IntegrityError(
                f"the status of {_named(callset, call_id)} is not signed with this callset's key: something else than "
                "its worker wrote it, or PYWREN_HOME is not the one the call was made with; nothing was unpickled"
            )
    return found


def _death(
    callset: Callset, call_id: str, status: Status | IntegrityError | None, records: FailureRecords
) -> Death | None:
    signed = isinstance(status, Status) and status.signed
    attempt = status.attempt if isinstance(status, Status) and signed else _FIRST_ATTEMPT
    shown = records.of_key(callset.attempt_key(call_id, attempt))
    if shown is not None:
        return Death(shown, over_what_stands=True)
    # a record that names the call without its key has not made a signature worthless
    told = None if signed else records.of_call(call_id)
    return None if told is None else Death(told, over_what_stands=status is not None)


def _decoded(data: bytes, callset: Callset, call_id: str) -> Status | IntegrityError:
    try:
        return Status.verify(data, callset.known_secret(), callset.id, call_id)
    except DecodeError as error:
        return IntegrityError(f"the status of {_named(callset, call_id)} is none: {error}; something else wrote there")


def _named(callset: Callset, call_id: str) -> str:
    return f"call {call_id} of callset {callset.id}"
