"""``InterruptibleRunner``: it kills calls when their worker must end, and tells their own crashes apart."""

import signal
import threading

import pytest

from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker.standalone import interruptible
from pywren.worker.standalone.interruptible import InterruptibleRunner
from pywren.worker.task import RunResult, Stop, crash_failure


class FakeRunner:
    """A runner that returns one result, or raises one error."""

    def __init__(self, result):
        self._result = result

    def run(self, task, *, stopped=None):
        """Run a task."""
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def crash(returncode):
    """Return the result of a task whose process died."""
    return RunResult(None, None, failure=crash_failure(returncode), returncode=returncode)


@pytest.mark.parametrize("result", [crash(-signal.SIGTERM), crash(-signal.SIGKILL), crash(None), OSError("no server")])
def test_a_signal_that_came_to_the_call_first_is_not_its_failure(result):
    """Row 179: a signal that reaches the call's process just before the worker's is not a crash of the call."""
    runner, stopped = InterruptibleRunner(FakeRunner(result)), Stop()
    threading.Timer(0.05, runner.interrupt).start()
    runner.run(None, stopped=stopped)
    assert stopped.is_set()


@pytest.mark.parametrize("result", [crash(3), crash(-signal.SIGTERM), RunResult(True, None, returncode=0)])
def test_what_calls_do_themselves_stays_theirs(monkeypatch, result):
    """A crash, a value, and a signal that a call sends itself are reported unchanged."""
    monkeypatch.setattr(interruptible, "SIGNAL_GRACE", 0.01)
    stopped = Stop()
    assert InterruptibleRunner(FakeRunner(result)).run(None, stopped=stopped) is result
    assert not stopped.is_set()


def test_an_interrupted_runner_begins_nothing():
    """A call that arrives while the worker stops is returned without running."""
    runner, stopped = InterruptibleRunner(FakeRunner(AssertionError("it ran"))), Stop()
    runner.interrupt()
    failure = runner.run(None, stopped=stopped).failure
    assert failure == Failure("CallCancelledError", "the call was cancelled", cause=Cause.CANCELLED)
    assert stopped.is_set()
