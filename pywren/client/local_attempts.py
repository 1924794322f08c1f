"""``LocalAttempts``: the attempts of the calls of one callset that runs in the pool of this machine.

Almost all calls return at their first attempt, and cost nothing here: the driver is made when the first attempt fails,
and knows only the calls of which one has failed. With ``backup=True`` it knows all calls from the start.

The pump reports results; any thread may ask for the attempts of a call, or cancel it. ``_driver`` is set once, by the
pump, and read by others without a lock. The driver has its own lock, and calls nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pywren.client.call_state import CallState
from pywren.client.callset import Callset
from pywren.client.driver.policy import Policy
from pywren.client.verdict import Verdict, name_attempts, of_result
from pywren.exceptions import CallCancelledError
from pywren.wire.cause import Cause
from pywren.worker.task import Repeats, RunResult

if TYPE_CHECKING:
    from pywren.client.driver.driver import Attempt, Driver
    from pywren.client.driver.record import Counts

logger = logging.getLogger(__name__)


class LocalAttempts:
    """Decides about failed attempts, and knows the attempts of every call.

    Args:
        callset: the callset.
        policy: what is allowed.

    Attributes:
        repeats: which failed calls may run again.
    """

    def __init__(self, callset: Callset, policy: Policy) -> None:
        self._callset = callset
        self._policy = policy
        self._driver: Driver | None = None
        self._backups: dict[tuple[str, str], int] = {}  # numbers of attempts, by call and process
        self.repeats = Repeats.NEVER
        if policy.retries or policy.backup:
            self.repeats = Repeats.ERRORS if policy.retry_on else Repeats.FAILURES

    def failed(self, call_id: str, verdict: Verdict, result: RunResult) -> float | Verdict | None:
        """Decide about a failed attempt.

        Returns:
            In how many seconds the call runs again, or how it has ended; ``None`` while another attempt runs.
        """
        try:
            step = self._step(call_id, verdict, result)
        except Exception:
            # On the pump's thread, which serves every callset: an error must end this call, and not the pool.
            logger.exception("whether call %s runs again cannot be decided", call_id)
            return verdict
        if step is None or isinstance(step, float):
            return step
        return _named(verdict, result, step, self._callset.id, call_id)

    def _step(self, call_id: str, verdict: Verdict, result: RunResult) -> float | str | None:
        """Ask the driver, and return a delay, or words that name all attempts, or ``None``."""
        from pywren.client.driver.driver import Driver  # imported here, as most callsets need no driver
        from pywren.client.driver.retrying import Again

        driver = self._driver
        if driver is None:
            driver = self._driver = Driver((), self._policy)
        driver.look()
        number = self._number(call_id, result)
        if number is None:
            number = 1
            driver.accepted(call_id, number, "", self._callset.submitted)
        began = None if result.success is None else _began(result, verdict.known_at)
        driver.running(call_id, number, began, _where(result))
        step = driver.failed(call_id, number, _cause(result), verdict.error or Exception())
        if isinstance(step, Again):
            number = driver.take(call_id).number
            driver.accepted(call_id, number, "", time.time() + step.delay)
            return float(step.delay)
        if step is None and driver.in_flight([call_id])[call_id]:
            return None
        driver.settled(call_id, failed=True)
        return "" if step is None else step.message

    def _number(self, call_id: str, result: RunResult) -> int | None:
        """Return the number of the attempt that has brought a result, if the driver knows the call."""
        known = () if self._driver is None else self._driver.attempts(call_id)
        if self._driver is None or not known:
            return None
        in_flight = self._driver.in_flight([call_id])[call_id] or [known[-1].number]
        # Of a call that was backed up, the result tells the process. An attempt whose process died before it began is
        # with another process by now.
        number = self._backups.get((call_id, _where(result)))
        return number if number in in_flight else in_flight[0]

    def ended(self, verdicts: Sequence[tuple[CallState, Verdict]]) -> None:
        """Record the outcomes of calls."""
        for one, verdict in verdicts:
            result = verdict.source
            if not isinstance(result, RunResult):
                continue
            number = self._number(one.call_id, result)  # ``None`` for a call that has returned at its first attempt
            if number is not None and self._driver is not None:
                began = None if result.success is None else _began(result, verdict.known_at)
                self._cancel_others(one.call_id, number)
                self._driver.ended(one.call_id, number, began, _where(result), failed=not result.success)

    def cancelled(self, call_id: str) -> None:
        """Record that a call was cancelled."""
        if self._driver is not None:
            self._cancel_others(call_id)
            self._driver.settled(call_id, failed=True)

    def _cancel_others(self, call_id: str, number: int = 0) -> None:
        """Record that all attempts of a call are cancelled, except the one that has ended it, if one has."""
        from pywren.client.driver.driver import CANCELLED, OUTRUN

        if self._driver is not None:
            for other in self._driver.in_flight([call_id]).get(call_id, ()):
                if other != number:
                    text = OUTRUN if number else CANCELLED
                    self._driver.failed(call_id, other, Cause.CANCELLED, CallCancelledError(text))

    # -- backups -----------------------------------------------------------------------------------------------

    def watch(self, call_ids: Iterable[str]) -> None:
        """Have the driver know all calls, as it must to find those that take much longer than the others."""
        from pywren.client.driver.driver import Driver

        driver = Driver(call_ids, self._policy)
        for call_id in call_ids:
            number = driver.take(call_id).number
            driver.accepted(call_id, number, "", self._callset.submitted)
        self._driver = driver

    def started(self, call_id: str) -> None:
        """Record that a call has started, if the driver needs to know that."""
        if self._driver is not None and self._policy.backup and (known := self._driver.attempts(call_id)):
            self._driver.running(call_id, known[-1].number, time.time(), "")

    def start_backups(self, start: Callable[[str], int | None]) -> None:
        """Start second attempts of the calls that take much longer than the others.

        Args:
            start: starts one, and returns the id of the process that runs it; ``None`` if no process could be given it.
        """
        from pywren.client.driver.driver import Ready

        driver = self._driver
        if driver is None:
            return
        driver.look()
        driver.decide()
        while isinstance(ready := driver.next_call(), Ready):
            process = start(ready.call_id)
            if process is None:
                driver.throttled(ready.call_id, ready.number)  # it stays in the queue until a process is free
                return
            driver.accepted(ready.call_id, ready.number, "", time.time())
            self._backups[ready.call_id, _process(process)] = ready.number
            driver.running(ready.call_id, ready.number, time.time(), _process(process))

    @property
    def is_driven(self) -> bool:
        """Whether the driver knows any calls."""
        return self._driver is not None

    def counts(self) -> Counts | None:
        """Return what the driver has counted; ``None`` if there is no driver yet."""
        driver = self._driver
        return None if driver is None else driver.counts()

    def of(self, call_id: str, verdict: Verdict | None) -> tuple[Attempt, ...]:
        """Return the attempts of a call, in order.

        Args:
            call_id: the call.
            verdict: how it ended; ``None`` while it has not.
        """
        known = () if self._driver is None else self._driver.attempts(call_id)
        return known or (self._first(verdict),)

    def _first(self, verdict: Verdict | None) -> Attempt:
        """Return the only attempt of a call that the driver does not know."""
        from pywren.client.driver.driver import CANCELLED, Attempt, text_of

        submitted = self._callset.submitted
        if verdict is not None and isinstance(verdict.error, CallCancelledError):
            return Attempt(1, Cause.CANCELLED.value, CANCELLED, "", submitted, None, "", backup=False)
        if verdict is None or not isinstance(verdict.source, RunResult):
            return Attempt(1, None, "", "", submitted, None, "", backup=False)
        result = verdict.source
        cause = None if result.success else _cause(result)
        error = "" if verdict.error is None else text_of(verdict.error)
        began = _began(result, verdict.known_at) if result.success is not None else None
        return Attempt(1, cause and cause.value, error, "", submitted, began, _where(result), backup=False)

    def forget_parent_threads(self) -> None:
        """In a forked child, drop the locks that threads of the parent may have held."""
        if self._driver is not None:
            self._driver.forget_parent_threads()


def _cause(result: RunResult) -> Cause:
    return (result.failure and result.failure.cause) or Cause.EXCEPTION


def _where(result: RunResult) -> str:
    process: Any = result.info.get("process")
    return "" if process is None else _process(process)


def _process(pid: int) -> str:
    return f"process {pid}"


def _began(result: RunResult, ended: float) -> float:
    """Return when a call began, in seconds since the epoch."""
    return ended - float(result.info.get("exec_time", 0.0)) - float(result.info.get("setup_time", 0.0))


def _named(verdict: Verdict, result: RunResult, attempts: str, callset_id: str, call_id: str) -> Verdict:
    """Return the verdict of a call with an error that names all attempts, if there were several."""
    if not attempts or verdict.error is None:
        return verdict
    if result.failure is None:  # the program's own exception keeps its own message
        name_attempts(verdict.error, attempts)
        return verdict
    message = result.failure.message
    failure = result.failure._replace(message=message + ("\n" if "\n" in message else " ") + attempts)
    return of_result(result._replace(failure=failure), callset_id, call_id, verdict.known_at)
