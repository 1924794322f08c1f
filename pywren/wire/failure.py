"""``Failure``: why a call ended without an outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pywren.exceptions import WORKER_ERRORS, CallError, PywrenError, rebuild
from pywren.wire.cause import Cause

_CODES = {
    "CallTimeoutError": "OUTATIME",
    "WorkerCrashedError": "RETCODE",
    "CallCancelledError": "CANCELLED",
    "VersionMismatchError": "WRONGVERSION",
}
"""0.4's codes, keyed by the class of today's error. 0.4's workers put them first in ``exception_args``."""

_CAUSES = {
    "CallError": Cause.WORKER_FAILED,
    "RuntimeSetupError": Cause.WORKER_FAILED,
    "StorageError": Cause.WORKER_FAILED,
    "CallTimeoutError": Cause.TIMED_OUT,
    "CallCancelledError": Cause.CANCELLED,
    "BudgetExceededError": Cause.CANCELLED,
    "CallLostError": Cause.VANISHED,
    "ResultSerializationError": Cause.EXCEPTION,
    "VersionMismatchError": Cause.REFUSED,
    "ConfigError": Cause.REFUSED,
    "DecodeError": Cause.REFUSED,
    "IntegrityError": Cause.REFUSED,
    # S3 is strongly consistent, so what is missing was deleted, and does not come back.
    "StorageNoSuchKeyError": Cause.REFUSED,
    "StorageOutputNotFoundError": Cause.REFUSED,
}
"""What the class of an error tells about the cause, unless a worker knows more."""

_SIGKILL = 9  # signal.SIGKILL does not exist on Windows, where a client may read what a worker on Linux reports


def cause_of(kind: str, details: Sequence[Any]) -> Cause | None:
    """Return what the class of an error tells about the cause; ``None`` if that is nothing.

    Args:
        kind: the name of the class.
        details: the ``args`` of the error after the message.
    """
    detail = details[0] if details else None
    if kind == "WorkerCrashedError":
        # Nobody tells who sent SIGKILL; what is not known is taken for a kill from outside.
        return Cause.KILLED if detail in (None, -_SIGKILL) else Cause.ENDED_ITSELF
    return Cause.REFUSED if detail == "RUNTIME_TOO_BIG" else _CAUSES.get(kind)


class Failure(NamedTuple):
    """Why a call ended without an outcome: one of ``exceptions.WORKER_ERRORS``.

    Args:
        kind: the name of the error's class.
        message: what happened and what to do.
        details: the remaining ``args`` of the error.
        cause: why the attempt ended; ``None`` if nothing is known, as in the statuses of older workers.
    """

    kind: str
    message: str
    details: tuple[Any, ...] = ()
    cause: Cause | None = None

    @classmethod
    def of(cls, error: PywrenError, cause: Cause | None = None) -> Failure:
        """Make the failure that represents an error.

        Args:
            error: the error.
            cause: why the attempt ended, if more is known than the class of the error tells.
        """
        kind, message, details = type(error).__name__, str(error.args[0]) if error.args else "", tuple(error.args[1:])
        return cls(kind, message, details, cause or cause_of(kind, details))

    def args_of_0_4(self) -> tuple[Any, ...] | None:
        """Return PyWren 0.4's ``exception_args``, which begin with 0.4's code for this error if there was one.

        Return ``None`` for an outcome that could not be pickled: 0.4 blamed the function for that, not the worker.
        """
        if self.kind == "ResultSerializationError":
            return None
        if self.kind == "RuntimeSetupError":
            return (*self.details, self.message)
        code = _CODES.get(self.kind)
        return (self.message, *self.details) if code is None else (code, self.message, *self.details)

    def error(self, callset_id: str, call_id: str, status: Mapping[str, Any] | None = None) -> PywrenError:
        """Make the error that this failure represents, and set ``callset_id``, ``call_id`` and ``status`` on it."""
        return rebuild(
            WORKER_ERRORS.get(self.kind, CallError),
            (self.message, *self.details),
            {"callset_id": callset_id, "call_id": call_id, "status": status},
        )
