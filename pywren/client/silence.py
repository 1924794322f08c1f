"""``Silence``: says once why no results arrive, when none has arrived for a while.

The thread that polls uses it, and ``StagedCallset.watch`` before the first poll. It has no lock: its fields are single
references, and a lost update costs a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pywren.client import waiting
from pywren.client.callset import Callset

logger = logging.getLogger(__name__)


class Silence:
    """How long no call of a callset has ended.

    Args:
        callset: the callset.
        explain: returns why no results arrive, or ``None`` if the reason is unknown; may itself be ``None``.
        timer: returns monotonic seconds.
    """

    def __init__(self, callset: Callset, explain: Callable[[], str | None] | None, timer: Callable[[], float]) -> None:
        self._callset = callset
        self._explain = explain
        self._timer = timer
        self._broken = timer()
        self._next_question = waiting.SILENCE
        self._is_told = False

    def end(self) -> None:
        """Record that a call has ended, or that all calls were invoked just now."""
        self._broken = self._timer()

    def seconds(self) -> float:
        """Return for how many seconds no call has ended."""
        return self._timer() - self._broken

    def report(self, missing: int) -> None:
        """If no results arrive, log once how many are missing, and log the reason as soon as the invoker knows it."""
        silent = self.seconds()
        if silent < self._next_question:
            return
        # Ask at doubling distances: explaining sends requests, and a call that takes hours is no reason to ask every
        # minute.
        self._next_question *= 2
        # The invoker may send requests, and its code may be the program's: no lock may be held here.
        explanation = None if self._explain is None else _explanation(self._explain)
        if explanation is not None:
            logger.warning("%s", explanation)
            self._explain = None
        elif not self._is_told:
            logger.warning("%s", self._what_is_known(silent, missing))
        self._is_told = True

    def _what_is_known(self, silent: float, missing: int) -> str:
        function = self._callset.function
        calls, they = ("1 call", "The call") if missing == 1 else (f"{missing} calls", "The calls")
        whose = f"{calls} of callset {self._callset.id}"
        known = f"neither a result nor a failure has arrived for {silent:.0f} s from {whose}"
        if function is None:
            return f"{known}. {they} may still be running or waiting: check the workers and their logs"
        return (
            f"{known}. {they} may still be running in the function {function}, or waiting to start: read what the "
            "function printed with `pywren logs`, check the set-up with `pywren test_config`, and check whether other "
            "calls use up the function's concurrency"
        )


def _explanation(explain: Callable[[], str | None]) -> str | None:
    try:
        return explain()
    except Exception as error:  # noqa: BLE001 -- errors of a program's own invoker do not concern the storage
        logger.debug("cannot find out why no results arrive: %s", error)
        return None
