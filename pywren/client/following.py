"""``Following``: a call that is held until the calls whose futures are among its arguments have ended.

A thread that settles futures only counts here, because it holds the condition of their callset. When the last input
has ended, a thread ``pywren-inputs`` decides: the call is let go, or it ends like an input that failed. These threads
wait for nothing else, so no callback of the program delays the calls. ``_lock`` guards the count; it is innermost.

A call of a dummy executor is not followed by threads: ``run_jobs`` asks for its inputs (``DummyInvoker``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Protocol

from pywren.client import call_state, waiting
from pywren.client.call_state import CallState
from pywren.system.callbacks import Callbacks, restart_in_child

if TYPE_CHECKING:
    from pywren.client.callset import Callset

logger = logging.getLogger(__name__)


Ids = tuple[str, str]
"""A callset and a call of it."""

_STATUS_SECONDS = 60.0  # how long the status of a call that has run may take to be found


class Holder(Protocol):
    """The origin of a call that is held."""

    callset: Callset

    def let_go(self, call_id: str, inputs: Sequence[CallState]) -> bool:
        """Invoke a call, whose inputs have ended. Return False if the call was ended meanwhile."""

    def end_like(self, call_id: str, failed: CallState) -> None:
        """End a call with the error of one of its inputs, or as cancelled if the input was cancelled."""

    def end_with(self, call_id: str, error: Exception) -> None:
        """End a call with an error that kept it from being invoked."""


class Following:
    """One call that is held until its inputs have ended.

    Args:
        holder: the origin of the call.
        call_id: the call.
        inputs: the futures among its arguments.
        as_values: whether it needs their values. If so, it ends like the first of them that failed; otherwise the
            function gets finished futures, and finds out itself.
        path: the storage from which the worker reads outputs that only lie there; ``None`` if the outputs pass through
            this process.
    """

    def __init__(
        self,
        holder: Holder,
        call_id: str,
        inputs: Sequence[CallState],
        *,
        as_values: bool,
        path: Sequence[str] | None = None,
    ) -> None:
        self.call_id = call_id
        self.inputs = inputs
        self._holder = holder
        self._as_values = as_values
        self._path = path
        self._lock = threading.Lock()
        self._left = len(inputs)

    def start(self) -> None:
        """Decide as soon as all inputs have ended, on another thread."""
        # Threads first: at the end of the program none can be started any more.
        _threads.expect(self)
        for one in self.inputs:
            tell = call_state.tell_when_ended if _is_there(one, self._path) else call_state.tell_when_done
            tell(one, self._note_end)

    def _note_end(self, _: object) -> None:
        # On the thread that settles the input, which holds the condition of its callset; or on the thread that makes
        # the call, if the input had ended already.
        with self._lock:
            self._left -= 1
            if self._left:
                return
        _threads.run(self, self._decide_apart)

    def _decide_apart(self) -> None:
        self.decide()

    @property
    def ids(self) -> Ids:
        """The callset and the call."""
        return self._holder.callset.id, self.call_id

    def is_due(self, ran: Container[Ids]) -> bool:
        """Ask the storages of the inputs, and tell whether all inputs have ended.

        Args:
            ran: calls that have run; inputs that are among them are waited for.
        """
        waiting.await_all([one for one in self.inputs if (one.callset_id, one.call_id) in ran], _STATUS_SECONDS)
        waiting.poll([one for one in self.inputs if not call_state.has_ended(one)])
        return all(is_ready(one, self._path) for one in self.inputs)

    def decide(self) -> bool:
        """Let the call go, or end it like its first input that failed. Return whether it was let go."""
        # As if the program had waited for the inputs itself, which 0.4's map and reduce did.
        call_state.mark_collected(self.inputs)
        try:
            failed = first_failed(self.inputs) if self._as_values else None
            if failed is None:
                return self._holder.let_go(self.call_id, self.inputs)
            self._holder.end_like(self.call_id, failed)
        except Exception as error:  # an error here must end this call, or its future would stay pending
            logger.debug("call %s cannot be let go", self.call_id, exc_info=True)
            self._holder.end_with(self.call_id, error)
        return False


def first_failed(inputs: Sequence[CallState]) -> CallState | None:
    """Return the first of some ended calls that has failed; ``None`` if all have returned."""
    for one in inputs:
        verdict = call_state.verdict_of(one)
        if verdict is not None and verdict.error is not None:
            return one
    return None


def must_follow(inputs: Sequence[CallState], *, as_values: bool, path: Sequence[str] | None = None) -> bool:
    """Tell whether a call must be held because of the futures among its arguments. See ``Following``."""
    if not all(is_ready(one, path) for one in inputs):
        return True
    return as_values and first_failed(inputs) is not None


def is_ready(one: CallState, path: Sequence[str] | None) -> bool:
    """Tell whether the outcome of a call is known, here or in the storage that its worker reads."""
    return call_state.is_done(one) or (_is_there(one, path) and call_state.has_ended(one))


def _is_there(one: CallState, path: Sequence[str] | None) -> bool:
    return path is not None and one._origin is not None and list(one._origin.storage_path) == list(path)


_threads = Callbacks("pywren-inputs")
restart_in_child(_threads)
