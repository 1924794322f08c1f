"""``Failure``: why a call ended without an outcome of its function, as it travels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pywren.exceptions import WORKER_ERRORS, CallError, PywrenError, rebuild


class Failure(NamedTuple):
    """Why a call ended without an outcome: one of ``exceptions.WORKER_ERRORS``.

    Args:
        kind: the name of the error's class.
        message: what happened and what to do.
        details: the further ``args`` of the error.
    """

    kind: str
    message: str
    details: tuple[Any, ...] = ()

    @classmethod
    def of(cls, error: PywrenError) -> Failure:
        """Turn an error into what travels."""
        message = str(error.args[0]) if error.args else ""
        return cls(type(error).__name__, message, tuple(error.args[1:]))

    def error(self, callset_id: str, call_id: str, status: Mapping[str, Any] | None = None) -> PywrenError:
        """Make the error that this stands for, with ``callset_id``, ``call_id`` and ``status`` set on it."""
        return rebuild(
            WORKER_ERRORS.get(self.kind, CallError),
            (self.message, *self.details),
            {"callset_id": callset_id, "call_id": call_id, "status": status},
        )
