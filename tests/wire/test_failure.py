"""``Failure``: why a call ended without an outcome."""

from __future__ import annotations

from wire_values import CALLSET

from pywren.exceptions import CallError, RuntimeSetupError, WorkerCrashedError
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
