"""``InterruptibleRunner``: a runner whose calls can all be killed together, when their worker must end.

Each call's thread is inside ``run``; another thread calls ``interrupt``. The lock guards the set of running calls, and
no thread holds it while its call runs.
"""

from __future__ import annotations

import signal
import threading

from pywren.exceptions import WorkerCrashedError
from pywren.worker.task import Runner, RunResult, Stop, Task, cancelled_failure

SIGNAL_GRACE = 1.0
"""Seconds to wait for this process's own signal. systemd signals all processes of a control group together, but the
signals may arrive in any order."""


class InterruptibleRunner:
    """Runs tasks until it is interrupted. Then it kills the running tasks and starts no more.

    Args:
        runner: runs the tasks; it is closed together with this object.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self._running: set[Stop] = set()
        self._interrupted = threading.Event()

    def run(self, task: Task, *, stopped: Stop | None = None) -> RunResult:
        """Run one task to its end, or until ``interrupt`` kills it by setting ``stopped``."""
        stopped = stopped or Stop()
        with self._lock:
            self._running.add(stopped)
        try:
            # Check this after adding the call to the set: either ``interrupt`` finds the call there, or it is noticed
            # here.
            if self._interrupted.is_set():
                stopped.set()
                return _cancelled(running=False)
            return self._run(task, stopped)
        finally:
            with self._lock:
                self._running.discard(stopped)

    def _run(self, task: Task, stopped: Stop) -> RunResult:
        try:
            # Blocks this call's thread until the child has ended. Without the lock, so that interrupt() can take it.
            result = self._runner.run(task, stopped=stopped)
        # No child could be started. The signal may have ended the fork server a moment before this process got its own.
        except OSError:
            if not self._interrupted.wait(SIGNAL_GRACE):
                raise
            result = _cancelled(running=True)
        # The signal that ends this worker may have reached the call's process a moment earlier. Then the call did not
        # crash, and another worker must run it.
        # wait() returns at once if interrupt() has been called. A call that was killed for another reason, such as the
        # OOM killer's, reports its crash one second later.
        if _was_killed(result) and self._interrupted.wait(SIGNAL_GRACE):
            stopped.set()
        return result

    def interrupt(self) -> None:
        """Kill the running tasks and start no more."""
        # In this order: a call that joins the set after the copy below finds the event set and stops itself.
        self._interrupted.set()
        with self._lock:
            # A copy: set() runs the runner's listener, which must not happen under this lock, as the call's thread
            # takes it to leave the set.
            running = list(self._running)
        for stopped in running:
            stopped.set()

    def end_waiting(self) -> None:
        """End the processes that only wait for another call."""
        self._runner.end_waiting()

    def close(self) -> None:
        """End every child process."""
        self._runner.close()


def _cancelled(*, running: bool) -> RunResult:
    return RunResult(None, None, failure=cancelled_failure(running=running), returncode=None)


def _was_killed(result: RunResult) -> bool:
    """Tell whether a signal from outside, not the call's own code, may have ended the call."""
    crashed = result.failure is not None and result.failure.kind == WorkerCrashedError.__name__
    # systemd sends SIGTERM to the whole control group, a terminal sends SIGINT to the foreground process group, and
    # SIGKILL follows when TimeoutStopSec has passed.
    return crashed and result.returncode in (None, -signal.SIGTERM, -signal.SIGINT, -getattr(signal, "SIGKILL", 9))
