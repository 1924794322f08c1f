"""``Failure``: why a call ended without an outcome."""

from __future__ import annotations

import pytest
from wire_values import CALLSET

from pywren.exceptions import (
    WORKER_ERRORS,
    ArgumentError,
    CallCancelledError,
    CallError,
    CallLostError,
    CallTimeoutError,
    DecodeError,
    IntegrityError,
    PywrenError,
    ResultSerializationError,
    RuntimeSetupError,
    StorageError,
    StorageNoSuchKeyError,
    VersionMismatchError,
    WorkerCrashedError,
    rebuild,
)
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure


def test_an_unknown_kind_of_failure_is_a_call_error() -> None:
    """A status of a newer worker, or a forged one, cannot name a class outside the tree of errors."""
    error = Failure("SystemExit", "bye").error(CALLSET, "00001")
    assert type(error) is CallError


def test_a_crash_reported_with_nonsense_still_has_properties() -> None:
    """An unsigned status may contain any return code, and reading it is safe."""
    error = Failure("WorkerCrashedError", "x", ("abc",)).error("c", "00000")
    assert isinstance(error, WorkerCrashedError)
    assert error.returncode is None
    assert error.signal is None


def test_a_runtime_error_keeps_its_second_argument() -> None:
    """Programs of 0.4 read ``args[1]`` of a runtime error."""
    error = Failure("RuntimeSetupError", "too big", ("RUNTIME_TOO_BIG",)).error("c", "00000")
    assert isinstance(error, RuntimeSetupError)
    assert error.args[1] == "RUNTIME_TOO_BIG"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (CallError("the worker itself failed"), Cause.WORKER_FAILED),
        (StorageError("503"), Cause.WORKER_FAILED),
        (RuntimeSetupError("no connection", "RUNTIME_READ_ERROR"), Cause.WORKER_FAILED),
        (RuntimeSetupError("too big", "RUNTIME_TOO_BIG"), Cause.REFUSED),
        (WorkerCrashedError("gone", None), Cause.KILLED),
        (WorkerCrashedError("killed", -9), Cause.KILLED),
        (WorkerCrashedError("segmentation fault", -11), Cause.ENDED_ITSELF),
        (WorkerCrashedError("sys.exit", 0), Cause.ENDED_ITSELF),
        (CallTimeoutError("too long"), Cause.TIMED_OUT),
        (CallCancelledError("cancelled"), Cause.CANCELLED),
        (CallLostError("lost"), Cause.VANISHED),
        (ResultSerializationError("a lock"), Cause.EXCEPTION),
        (VersionMismatchError("old"), Cause.REFUSED),
        (IntegrityError("overwritten"), Cause.REFUSED),
        (DecodeError("not a function"), Cause.REFUSED),
        (StorageNoSuchKeyError("func.pickle"), Cause.REFUSED),
        (ArgumentError("not a worker's error"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_the_class_of_an_error_tells_the_cause(error: PywrenError, cause: Cause | None) -> None:
    """What another attempt may cure is known from the error, unless the worker knows better."""
    assert Failure.of(error).cause is cause
    assert Failure.of(error, Cause.OUT_OF_MEMORY).cause is Cause.OUT_OF_MEMORY


def test_every_error_of_a_worker_has_a_cause() -> None:
    """No error that a worker may report is left without a decision."""
    errors = [rebuild(cls, ("x",), {}) for cls in WORKER_ERRORS.values()]
    assert all(Failure.of(error).cause is not None for error in errors)
