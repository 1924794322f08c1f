"""The interfaces between the parts of the client: ``Invoker``, ``Origin``, ``Dispatcher`` and ``Verbs``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pywren.client.call_state import CallState
    from pywren.client.callset import Callset, Submission
    from pywren.client.driver.driver import Attempt
    from pywren.client.driver.policy import Policy
    from pywren.client.driver.record import Counts
    from pywren.client.fan_out import FanOut
    from pywren.client.following import Following
    from pywren.exceptions import PywrenError
    from pywren.future import ResponseFuture
    from pywren.pickling.packed import Packed
    from pywren.storage import Storage
    from pywren.worker.parent.pool import LocalPool

Recipe = tuple["Callset", "Storage", "str | None", "Mapping[str, Any]"]
"""What another process needs to recreate the origin of a pickled future: the arguments of ``future.attach`` after the
call's id."""


class Invoker:
    """Starts calls. This base class has defaults for everything that an invoker may leave out.

    An invoker written for PyWren 0.4 has only ``invoke`` and ``config``; ``adapted`` turns it into an ``Invoker``.
    """

    starts_calls: bool = True
    """Whether calls start by themselves. False if the program itself runs them, as with ``run_jobs``."""

    runs_here: bool = False
    """Whether the calls run with the Python packages that are installed on this machine."""

    takes_chunks: bool = False
    """Whether a payload may be that of a chunk: several calls that one invocation runs (docs/chunks.md). False for a
    subclass that invokes in its own way, and so may read payloads, unless it says otherwise."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "invoke" in vars(cls) and "takes_chunks" not in vars(cls):
            cls.takes_chunks = False

    fan_out: FanOut | None = None
    """Whether, and when, invocations go through relays; ``None`` if ``relay`` must not be called."""

    longest_run: float | None = None
    """Seconds that an invocation may run, whatever it does; ``None`` for no limit."""

    @property
    def payload_limit(self) -> int | None:
        """The largest payload that the invoker accepts, in bytes of JSON; ``None`` sets no limit."""
        return None

    @property
    def queue_patience(self) -> float | None:
        """Seconds that a call may wait before it starts. After that it counts as lost. ``None`` sets no limit."""
        return None

    @property
    def may_lose_calls(self) -> bool:
        """Whether an accepted call may vanish without a trace, as an event may in Lambda's queue."""
        return False

    @property
    def may_repeat(self) -> bool:
        """Whether pywren may invoke a call again if an attempt failed. If not, each call is invoked once, as in 0.4."""
        return True

    @property
    def function_name(self) -> str | None:
        """The Lambda function whose records report failed calls; ``None`` when calls run elsewhere."""
        return None

    @property
    def function_copies(self) -> int:
        """How many copies of the function there are, the function itself included (``wire.keys.copies_of``)."""
        return 1

    def used_copies(self) -> int:
        """Return how many copies of the function, the first so many, may have got calls."""
        return self.function_copies

    def deployed_memory(self) -> int | None:
        """Return how many megabytes of memory each call has; ``None`` if that is not known. It may send a request."""
        return None

    @property
    def pool(self) -> LocalPool | None:
        """The pool of this machine that runs the calls, if any. Calls may go directly to it, without a storage."""
        return None

    @property
    def environment(self) -> Mapping[str, str] | None:
        """The environment variables of calls in ``pool``; ``None`` means those of this process when a call is made."""
        return None

    def invoke(self, payload: Mapping[str, Any]) -> Any:
        """Start one call and return without waiting for it.

        Args:
            payload: ``Call.encode()``.

        Returns:
            The service's id of the invocation, if it is a string.

        Raises:
            InvocationThrottledError: the service is too busy now. The driver offers the call again.
            InvocationError: the service refuses the call for good.
        """
        raise NotImplementedError

    def relay(self, first: Mapping[str, Any], bodies: Sequence[bytes]) -> str:
        """Start several calls by one invocation, whose worker hands them on, and return the id of that invocation.

        Args:
            first: the payload of the first call.
            bodies: the payloads of all as JSON: at most ``MOST_RELAYED``, and ``RELAY_ROOM`` bytes.

        Raises:
            InvocationError: none of them was started.
        """
        raise NotImplementedError

    def follow(self, following: Following) -> None:
        """Have a call that is held let go as soon as the calls that it follows have ended, and return immediately.

        Args:
            following: the call that is held.
        """
        following.start()

    def withdraw(self, callset_id: str) -> list[str]:
        """Take back the calls of a callset that wait on this machine, and return their ids. They will not run.

        Args:
            callset_id: the callset.
        """
        return []

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` reports about the invoker."""
        return {}

    def explain_silence(self) -> str | None:
        """Return why no results arrive, or ``None`` when the invoker does not know."""
        return None


def adapted(invoker: Any) -> Invoker:
    """Return a complete ``Invoker``, with defaults for what the program's own invoker lacks.

    Args:
        invoker: an ``Invoker``, or any object with ``invoke(payload)`` and ``config()``, as in 0.4. Any other members
            of ``Invoker`` that the object has are used too.
    """
    return invoker if isinstance(invoker, Invoker) else _Adapted(invoker)


class _Adapted(Invoker):
    """Wraps a program's own invoker. Each member is looked up when it is needed, because its value may change."""

    may_repeat = False

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
        """``[backend, bucket, prefix]`` of the storage with which the callset was made."""

    def take(self, futures: Sequence[CallState]) -> None:
        """Become responsible for futures that were made for this origin."""

    def expect(self, futures: Iterable[CallState]) -> None:
        """Record that something waits for these futures, and return immediately."""

    def poll(self, futures: Iterable[CallState]) -> None:
        """Find out now which of these futures are done, and settle them.

        If another thread is polling already, return without waiting for that thread.

        Raises:
            StorageError: the storage has not been readable for a while, and still is not.
        """

    def trouble(self) -> PywrenError | None:
        """Return why the origin cannot learn the outcomes at present; ``None`` when it can."""

    def report_silence(self) -> None:
        """Log why no results arrive, if that is worth logging. A thread that has waited for a while calls this."""

    def cancel(self, future: CallState) -> bool:
        """Stop the call. Return whether the call ended because it was cancelled."""

    @property
    def place(self) -> str:
        """Where the calls run, in words that follow "running": "on this machine"."""

    @property
    def is_run_by_program(self) -> bool:
        """Whether the calls run only when the program runs them: those of a dummy executor."""

    def outstanding(self) -> list[CallState]:
        """Return one future for every call of the callset that is not known to have ended, as far as futures live."""

    def withdraw(self, *, record: bool = False) -> int:
        """Cancel the calls of the callset that have not left this machine and not begun here. Return how many.

        Args:
            record: return only when other processes can know of it. After Ctrl-C, which must be quick, it is False.

        Raises:
            StorageError: other processes cannot know of it, because the storage cannot be written.
        """

    def run_status(self, future: CallState) -> dict[str, Any] | None:
        """Return the worker's status as a dict for users, made from the verdict of a finished future."""

    def invoke_status(self, future: CallState) -> dict[str, Any]:
        """Return a dict for users about what the client did for the call."""

    def attempts(self, future: CallState) -> tuple[Attempt, ...]:
        """Return the attempts of a call, as far as this process knows them."""

    def counts(self) -> Counts | None:
        """Return what the driver has counted; ``None`` if this process drives none of the calls."""

    def recipe(self, future: CallState) -> Recipe:
        """Return what another process needs to recreate this future."""


class Dispatcher(Protocol):
    """Starts callsets: either in the pool of this machine or through a storage."""

    out_of_band: bool
    """Whether big buffers in arguments are sent separately from the pickles."""

    shows_output: bool
    """Whether it shows what calls print itself, while they run, if the options of a submission ask for that."""

    longest_runtime: float
    """The longest runtime, in seconds, that a call may be given."""

    def dispatch(self, submission: Submission) -> list[ResponseFuture]:
        """Start the calls of a callset and return their futures."""

    def join(self, function: Packed, argument: Packed, policy: Policy, max_runtime: float) -> ResponseFuture | None:
        """Add a call to a callset of the same function that was dispatched just now, and return its future.

        Return ``None`` if there is no such callset; nothing has happened then.
        """

    def put(self, callset: Callset, packed: Packed) -> ResponseFuture:
        """Keep an object where calls find it, as the outcome of the only call of a callset. Return its future."""

    def close(self) -> None:
        """Release what only new calls would need; futures that exist remain usable."""


class Verbs(Protocol):
    """The methods of a pywren executor that ``PoolExecutor`` uses."""

    map_item_limit: int | None

    def map(self, func: Any, iterdata: Any) -> list[ResponseFuture]:
        """Call a function once for every item."""

    def call_async(self, func: Any, data: Any) -> ResponseFuture:
        """Call a function once."""

    def close(self) -> None:
        """Release what the executor holds."""
