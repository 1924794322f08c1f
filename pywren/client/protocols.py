"""What the parts of the client ask of each other: ``Invoker``, ``Origin``, ``Dispatcher`` and ``Verbs``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pywren.client.call_state import CallState
    from pywren.client.callset import Callset, Submission
    from pywren.exceptions import PywrenError
    from pywren.future import ResponseFuture
    from pywren.storage import Storage
    from pywren.worker.parent.pool import LocalPool

Recipe = tuple["Callset", "Storage", "str | None", "Mapping[str, Any]"]
"""What another process makes the origin of a pickled future from: the arguments of ``future.attach`` after the call's
id."""


class Invoker:
    """What starts calls, with the defaults for all that an invoker need not say.

    An invoker of 0.4 has ``invoke`` and ``config`` only. ``adapted`` makes it one of these.
    """

    runs_here: bool = False
    """Whether the worker has the packages of this machine."""

    @property
    def payload_limit(self) -> int | None:
        """The bytes of JSON that a payload may have; ``None`` sets no limit."""
        return None

    @property
    def queue_patience(self) -> float | None:
        """The seconds that a call may wait before it starts, after which it is lost; ``None`` for ever."""
        return None

    @property
    def function_name(self) -> str | None:
        """The Lambda function whose records tell of failed calls; ``None`` for an invoker of something else."""
        return None

    @property
    def pool(self) -> LocalPool | None:
        """The pool of this machine that runs the calls; calls may go straight there and stay in memory."""
        return None

    @property
    def environment(self) -> Mapping[str, str] | None:
        """The environment variables that calls in ``pool`` see; ``None`` for those that this process has then."""
        return None

    def invoke(self, payload: Mapping[str, Any]) -> Any:
        """Start one call and return without waiting for it.

        Args:
            payload: ``Call.encode()``.
        """
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` says of the invoker."""
        return {}

    def explain_silence(self) -> str | None:
        """Return why no results come, or ``None`` when the invoker does not know."""
        return None


def adapted(invoker: Any) -> Invoker:
    """Return an invoker that answers every question, whatever the program's own one lacks.

    Args:
        invoker: an ``Invoker``, or any object with ``invoke(payload)`` and ``config()``, as in 0.4. Other members of
            ``Invoker`` count where the object has them.
    """
    return invoker if isinstance(invoker, Invoker) else _Adapted(invoker)


class _Adapted(Invoker):
    """A program's own invoker. Every question is put to it when it arises: its answers may change."""

    def __init__(self, given: Any) -> None:
        self._given = given

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        try:
            return getattr(self._given, name)
        except AttributeError:
            return object.__getattribute__(self, name)


class Origin(Protocol):
    """Where the outcomes of a callset's futures come from: a storage, or the pool of this machine."""

    callset: Callset

    @property
    def storage_path(self) -> list[str]:
        """``[backend, bucket, prefix]`` of the storage the callset was made with."""

    def take(self, futures: Sequence[CallState]) -> None:
        """Look after futures that were made for this origin."""

    def expect(self, futures: Iterable[CallState]) -> None:
        """Note that somebody waits for these futures, and return at once."""

    def poll(self, futures: Iterable[CallState]) -> None:
        """Find out now which of these futures are done, and settle them.

        When another thread is polling, do not wait for it.

        Raises:
            StorageError: nothing could be found out for a while, and cannot now.
        """

    def trouble(self) -> PywrenError | None:
        """Return why nothing can be found out at present; ``None`` when all is well."""

    def report_silence(self) -> None:
        """Log why no results come, if that is worth logging: somebody has waited for a while."""

    def cancel(self, future: CallState) -> bool:
        """Stop the call; returns whether this is what ended it."""

    def run_status(self, future: CallState) -> dict[str, Any] | None:
        """Make the worker's status, as users see it, from the verdict of a future that is done."""

    def invoke_status(self, future: CallState) -> dict[str, Any]:
        """Make what users see of the client's part in the call."""

    def recipe(self, future: CallState) -> Recipe:
        """Return what another process makes this future from again."""


class Dispatcher(Protocol):
    """What takes callsets to where they run."""

    out_of_band: bool
    """Whether big buffers travel apart from their pickles."""

    by_reference: bool
    """Whether a future among the arguments travels as a reference to its stored outcome."""

    longest_runtime: float
    """The seconds that a call may be given at most."""

    def dispatch(self, submission: Submission) -> list[ResponseFuture]:
        """Start the calls of a callset and return their futures."""

    def close(self) -> None:
        """Release what only calls to come would need."""


class Verbs(Protocol):
    """An executor of pywren, as far as ``PoolExecutor`` uses it."""

    map_item_limit: int | None

    def map(self, func: Any, iterdata: Any) -> list[ResponseFuture]:
        """Call a function once for every item."""

    def call_async(self, func: Any, data: Any) -> ResponseFuture:
        """Call a function once."""

    def close(self) -> None:
        """Release what the executor holds."""
