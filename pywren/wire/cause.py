"""``Cause``: why an attempt of a call ended without a result, and which causes another attempt may cure."""

from __future__ import annotations

import enum


class Cause(str, enum.Enum):
    """Why an attempt of a call ended without the value that its function would have returned.

    The value of a member is its name in statuses, and how people read it in error messages.
    """

    DROPPED = "dropped"
    """The service accepted the call but never started it. Only the client can conclude this."""

    TOO_OLD = "too old"
    """The call waited in the service's queue for longer than the service keeps it, and never started."""

    HANDED_BACK = "handed back"
    """The call was in a chunk whose worker has ended without beginning it. Only the client can conclude this."""

    KILLED = "killed"
    """The worker, or the process that ran the call, was killed from outside, or by somebody unknown."""

    VANISHED = "vanished"
    """The worker stopped showing that it runs the call. Only the client can conclude this."""

    WORKER_FAILED = "worker failed"
    """The worker failed outside the function: it could not start, or could not read or write the storage."""

    EXCEPTION = "exception"
    """The function raised an exception."""

    ENDED_ITSELF = "ended itself"
    """The function ended its process: it exited, crashed, or sent itself a signal."""

    TIMED_OUT = "timed out"
    """The call ran for longer than it may."""

    OUT_OF_MEMORY = "out of memory"
    """The call used more memory than its worker has, as far as is known for certain."""

    CANCELLED = "cancelled"
    """The call was cancelled."""

    REFUSED = "refused"
    """No worker of this kind will ever run the call: another version, a payload that is not valid, no permission."""


NEVER_RAN = frozenset({Cause.DROPPED, Cause.TOO_OLD, Cause.HANDED_BACK})
"""The function did not run. Such attempts are repeated for as long as the time bound of the call allows."""

TAKEN_AWAY = frozenset({Cause.KILLED, Cause.VANISHED})
"""Something outside the call ended the attempt. Such attempts are repeated ``MOST_KILLS`` times."""

CURABLE = NEVER_RAN | TAKEN_AWAY | {Cause.WORKER_FAILED}
"""What another attempt may cure whatever the function does. A worker reports these under the attempt's own key."""
