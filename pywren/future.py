"""``ResponseFuture``: the outcome of one call, which may not have arrived yet.

``client.call_state`` contains the state machine, and explains which thread changes a state under which lock;
``client.waiting`` defines how a thread waits. This module contains the methods that programs call, and defines how a
future is sent to another process.
"""

from __future__ import annotations

import enum
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from pywren.client import waiting
from pywren.client.call_state import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    DONE,
    FINISHED,
    RUNNING,
    CallState,
    call_back,
    mark_running,
    settle,
    tell_when_done,
    verdict_of,
)
from pywren.client.typevars import R
from pywren.exceptions import (
    ArgumentError,
    CallError,
    PywrenError,
    ResultSerializationError,
    StorageConfigMismatchError,
)
from pywren.system.callbacks import callbacks
from pywren.system.private_names import OneStepCondition

if TYPE_CHECKING:
    from types import TracebackType

    from pywren.client.callset import Callset
    from pywren.client.driver.driver import Attempt
    from pywren.client.protocols import Origin
    from pywren.storage import Storage

__all__ = ["JobState", "ResponseFuture"]


class JobState(enum.Enum):
    """The state of a call, as PyWren 0.4 names it."""

    new = 1
    invoked = 2
    running = 3
    success = 4
    error = 5


class ResponseFuture(CallState[R]):
    """The outcome of one call. ``ResponseFuture[T]`` is the future of a call whose function returns a ``T``.

    ``Executor.map`` and ``call_async`` create futures. A future can be pickled. If it is unpickled in another process,
    it waits for the same call there. On another machine this works if that machine can reach the storage.

    Args:
        call_id: the call within its callset.
        callset_id: the callset, one for each map.
        invoke_metadata: the dict that ``invoke_status`` returns; ``None`` for a future whose call was never invoked.
        storage_path: ``[backend, bucket, prefix]`` of the storage that holds the outcome.
    """

    _metadata: dict[str, Any] | None = None  # 0.4's ``invoke_metadata`` of a new future
    _view: dict[str, Any] | None = None  # ``run_status``, once a program has asked for it

    def __init__(
        self,
        call_id: str,
        callset_id: str,
        invoke_metadata: dict[str, Any] | None = None,
        storage_path: Sequence[str] | None = None,
    ) -> None:
        # A future without a callset: 0.4's state *new*. Its own condition, since no other future shares its life.
        self._begin(call_id, callset_id, OneStepCondition(), None)
        if invoke_metadata is not None and storage_path is not None:
            self._join(storage_path, invoke_metadata)
        else:
            self._metadata = invoke_metadata

    def _join(self, storage_path: Sequence[str], facts: dict[str, Any]) -> None:
        """Attach this future, which a program written for 0.4 made by hand, to the call in the storage."""
        from pywren.client.elsewhere import origin_at  # here: workers unpickle futures but do not need it

        origin = origin_at(storage_path, self.callset_id, facts)
        self._origin, self._shared = origin, origin.callset.condition
        # Last: from here on a poll on the monitor's thread may settle this future, so its fields must be complete.
        origin.take([self])

    # -- asking ------------------------------------------------------------------------------------------------

    @overload
    def result(
        self,
        timeout: float | None = None,
        check_only: Literal[False] = False,
        throw_except: Literal[True] = True,
        storage_handler: Storage | None = None,
    ) -> R: ...

    @overload
    def result(
        self,
        timeout: float | None = None,
        check_only: Literal[False] = False,
        *,
        throw_except: bool,
        storage_handler: Storage | None = None,
    ) -> R | None: ...

    @overload
    def result(
        self,
        timeout: float | None = None,
        *,
        check_only: Literal[True],
        throw_except: bool = True,
        storage_handler: Storage | None = None,
    ) -> bool: ...

    def result(
        self,
        timeout: float | None = None,
        check_only: bool = False,
        throw_except: bool = True,
        storage_handler: Storage | None = None,
    ) -> Any:
        """Wait for the call and return what the function returned.

        Args:
            timeout: the longest time to wait, in seconds; ``None`` waits until the call has ended.
            check_only: do not wait, but return whether the call has ended.
            throw_except: with False, return ``None`` for a call that failed instead of raising.
            storage_handler: kept for 0.4; it must be the storage that the future was made with.

        Returns:
            The value that the function returned; with ``check_only`` a bool.

        Raises:
            WaitTimeoutError: the call had not ended after ``timeout`` seconds. This error is a ``TimeoutError``. If the
                storage cannot be reached at that time, it is a ``StorageTimeoutError``, which says why.
            StorageError: the storage could not be reached for a minute. The call continues; ``result`` may be called
                again.
            CallCancelledError: the call was cancelled.
            CallError: the call failed outside the function. The subclass shows how it failed.
            ArgumentError: the call was never invoked.
            BaseException: the function's own exception, with its own type and the remote traceback.
        """
        origin = self._invoked()
        if storage_handler is not None and list(storage_handler.path) != list(origin.storage_path):
            raise StorageConfigMismatchError(list(storage_handler.path), list(origin.storage_path))
        # A program may do this in a loop: done() lets the polls that it causes take at most a tenth of the time.
        if check_only:
            return self.done()
        # No lock is held while this thread sleeps, and none is needed afterwards: a final state never changes.
        self._await_outcome(timeout)
        if self._exception is None:
            return self._result
        if not throw_except:
            return None
        try:
            raise self._exception
        finally:
            # The traceback holds this frame, and the frame would hold the future. Break this reference cycle.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call and return the exception with which it ended, or ``None`` if the function returned.

        Args:
            timeout: the longest time to wait, in seconds; ``None`` waits until the call has ended.

        Raises:
            WaitTimeoutError: the call had not ended after ``timeout`` seconds.
            StorageError: the storage could not be reached for a minute. The call continues; ``exception`` may be called
                again.
            CallCancelledError: the call was cancelled.
            ArgumentError: the call was never invoked.
        """
        self._invoked()
        self._await_outcome(timeout)
        # As in ``concurrent.futures``: exception() raises the cancellation instead of returning it.
        if self._state == CANCELLED_AND_NOTIFIED and self._exception is not None:
            raise self._exception
        return self._exception

    def done(self) -> bool:
        """Check now, and return whether the call has ended: with a value, with an error or by being cancelled.

        Raises:
            StorageError: the storage could not be reached for a minute.
        """
        if self._state not in DONE:
            if self._origin is None:
                return False
            # Before the poll: it then fetches a big output too, which it leaves in the storage as long as nothing has
            # asked.
            self._awaited = True
            # It may send requests on this thread, or settle other futures of the callset as well. It never waits for
            # another thread's poll.
            self._origin.poll((self,))
        if self._state not in DONE:
            return False
        self._collected = True
        return True

    def running(self) -> bool:
        """Tell whether the call is known to be running. On Lambda and in a queue this is seen 2 s after the start."""
        return bool(self._state == RUNNING)

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def succeeded(self) -> bool:
        """Tell whether the program has received the outcome of the call, and it is a value. This sends no request.

        For an input of ``reduce``, it waits for the outcome: in 0.4, ``reduce`` itself waited.
        """
        return self._is_told() and self._state == FINISHED and self._exception is None

    def errored(self) -> bool:
        """Tell whether the program has received the outcome of the call, and it is an error. This sends no request.

        For an input of ``reduce``, it waits for the outcome: in 0.4, ``reduce`` itself waited.
        """
        return self._is_told() and self._state in DONE and self._exception is not None

    def cancel(self, storage_handler: Storage | None = None) -> bool:
        """Stop the call, even when it is already running.

        Args:
            storage_handler: kept for 0.4; it must be the storage that the future was made with.

        Returns:
            Whether the call was ended by this or an earlier cancellation; False if it had ended by itself.

        Raises:
            ArgumentError: the call was never invoked.
        """
        origin = self._invoked()
        # No lock here: the origin decides the race with the result. The answer of cancelled() then covers both a
        # cancellation by another thread and a call that had ended by itself.
        if self._state not in DONE and origin.cancel(self):
            return True
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[ResponseFuture[R]], object]) -> None:
        """Call a function with this future once it is done, or immediately if it is done already.

        Args:
            fn: takes this future. It runs in a thread that is reserved for such functions and runs them one after the
                other. Exceptions that ``fn`` raises are logged. It may run long, wait for other futures and make calls:
                outcomes still arrive meanwhile.
        """
        with self._shared:
            # Decide under the condition: settle() takes the list under it, so a function is either in that list or
            # called below.
            is_first, is_done = self._callbacks is None, self._state in DONE
            if not is_done:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(fn)
                # After the append: a staged origin holds its futures weakly, and keeps this one alive only if it has a
                # callback by now.
                self._expect()
        # On the caller's thread, as in ``concurrent.futures``.
        if is_done:
            call_back(self, (fn,))
        elif is_first:
            # Without the condition, because this may start threads. Once per future is enough: all its functions run in
            # one go.
            callbacks.expect(self)

    def __await__(self) -> Generator[Any, None, R]:
        """Wait for the call in a coroutine: ``value = await future``.

        Cancelling the task that waits also cancels the call, and the event loop is not blocked meanwhile.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake(_: object) -> None:
            try:
                # Runs on the thread that settles, under the callset's condition. call_soon_threadsafe() only appends to
                # a queue and writes one byte to a non-blocking socket, so it cannot wait. asyncio.Event itself is not
                # thread-safe.
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:
                pass  # the event loop was closed meanwhile, so nothing waits any more

        # The waiter stays installed if the task is cancelled: it then sets an event that nothing waits for.
        tell_when_done(self, wake)
        try:
            yield from woken.wait().__await__()
        except asyncio.CancelledError:
            # cancel() may send requests, which would block the event loop on this thread.
            # Daemon: a program that ends right away does not wait for the request, and the call may then run to its
            # end.
            threading.Thread(target=self.cancel, name="pywren-cancel", daemon=True).start()
            raise
        # The event is set only after the state is final, so this returns at once.
        return self.result()

    # -- information about the call ------------------------------------------------------------------------------

    @property
    def run_status(self) -> dict[str, Any] | None:
        """The worker's report on the call (times in seconds); ``None`` until the program has received the outcome."""
        if not self._is_told() or self._origin is None:
            return None
        # No lock: threads that race here make equal dicts from the same verdict, and the last assignment stays.
        if self._view is None:
            self._view = self._origin.run_status(self)
        return self._view

    @property
    def invoke_status(self) -> dict[str, Any] | None:
        """What the client did for the call (times in seconds); ``None`` until the program has received the outcome."""
        return None if not self._is_told() or self._origin is None else self._origin.invoke_status(self)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts of the call, as far as this process knows them; each is a named tuple. This sends no request.

        The tuple is empty for a future whose call was never invoked, or whose call another process drives.
        """
        return () if self._origin is None else self._origin.attempts(self)

    @property
    def storage_path(self) -> list[str] | None:
        """``[backend, bucket, prefix]`` of the storage that the future was made with."""
        return None if self._origin is None else self._origin.storage_path

    @property
    def job_state(self) -> JobState:
        """The state of the call, as far as this process knows it. Reading the state sends no request."""
        if self._origin is None:
            return JobState.new
        if self._state in DONE:
            return JobState.success if self._exception is None else JobState.error
        return JobState.running if self._state == RUNNING else JobState.invoked

    def __repr__(self) -> str:
        # Debuggers and loggers call this on any thread, perhaps under the condition: read the fields, and never ask the
        # origin.
        outcome = ""
        if self._state in DONE:
            told = self._result if self._exception is None else self._exception
            outcome = f" {'returned' if self._exception is None else 'raised'} {type(told).__name__}"
        return f"<ResponseFuture {self.callset_id[:8]}/{self.call_id} {self.job_state.name}{outcome}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the state, the attempts and the error. This sends no request."""
        from pywren.display.objects import future_html  # imported here, as only notebooks need it

        state = "invoked" if self.job_state is JobState.new else self.job_state.name
        return future_html(self, repr(self), "cancelled" if self.cancelled() else state)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None:
            return ResponseFuture, (self.call_id, self.callset_id)
        # recipe() may write the outcome to the storage, on the thread that pickles. No lock of pywren may be held then.
        return attach, (self.call_id, *self._origin.recipe(self))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _invoked(self) -> Origin:
        if self._origin is None:
            raise ArgumentError("job not yet invoked: make futures with an executor's map or call_async")
        return self._origin

    def _is_told(self) -> bool:
        if self._promised and not self._collected:
            self._await_outcome(None)
        return self._collected

    def _await_outcome(self, timeout: float | None) -> None:
        # Read the state without the condition first: result() of a finished future is called ten thousand times after a
        # map.
        if self._state not in DONE and not waiting.await_all([self], timeout):
            what = f"call {self.call_id} of callset {self.callset_id} has not ended after {timeout} s"
            raise waiting.time_out(what, [self], "it is still running")
        self._collected = True

    # -- names kept only for programs written for 0.4 --------------------------------------------------------------

    GET_RESULT_SLEEP_SECS = 4
    """Kept only for programs that read it; it has no effect."""

    @property
    def _error(self) -> BaseException | None:
        return self._exception if self._collected and self._state in DONE else None

    @property
    def _traceback(self) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
        """The type, value and traceback of the call's exception; ``None`` until the program has received it."""
        error = self._error
        return None if error is None else (type(error), error, error.__traceback__)

    @property
    def _return_val(self) -> Any:
        """The value that the function returned; ``None`` until the program has received it."""
        return self._result if self._collected and self._state == FINISHED else None

    @property
    def _call_invoker_result(self) -> dict[str, Any] | None:
        """The output as PyWren 0.4's worker stored it; ``None`` until the program has received the outcome."""
        from pywren.storage.storage import output_of_0_4

        error = self._error
        if not self._collected or self._state not in DONE or self._is_workers(error):
            return None
        output = output_of_0_4(error is None, self._result if error is None else error)
        if isinstance(error, ResultSerializationError):
            output.update(pickle_fail=True, pickle_exception=error)
        return output

    def _is_workers(self, error: BaseException | None) -> bool:
        """Tell whether the worker and not the function raised an error. For such errors 0.4 stored no output."""
        if not isinstance(error, PywrenError) or isinstance(error, ResultSerializationError):
            return False
        ids = getattr(error, "callset_id", None), getattr(error, "call_id", None)
        verdict = verdict_of(self)
        return ids == (self.callset_id, self.call_id) or verdict is None or verdict.source is None

    @property
    def _invoke_metadata(self) -> dict[str, Any]:
        """The dict that ``invoke_status`` will return, as far as it is known now."""
        return dict(self._metadata or {}) if self._origin is None else self._origin.invoke_status(self)

    def _set_state(self, new_state: JobState) -> None:
        """Mark the call as running or ended. A call that has ended keeps its state."""
        from pywren.client.verdict import Verdict  # imported here, as it loads the picklers

        if new_state is JobState.running:
            mark_running(self)
        elif new_state in (JobState.success, JobState.error):
            text = "the program set the call's state to error"
            failed = new_state is JobState.error
            error = CallError(text, call_id=self.call_id, callset_id=self.callset_id) if failed else None
            self._collected = True
            # Through settle(), so that it races fairly with the real outcome: whichever comes first stays.
            settle([(self, Verdict(None, error))])


def futures_of(origin: Origin, call_ids: Iterable[str]) -> list[ResponseFuture]:
    """Make the futures of some calls of one callset, and make the origin responsible for them."""
    # Before the calls are invoked, so that cancel_all() on another thread finds them.
    origin.callset.origin = weakref.ref(origin)
    futures = new_futures(origin, call_ids)
    origin.take(futures)
    return futures


def new_futures(origin: Origin, call_ids: Iterable[str]) -> list[ResponseFuture]:
    """Make the futures of some calls of one callset, of which the origin does not know yet."""
    callset_id, condition, new = origin.callset.id, origin.callset.condition, ResponseFuture.__new__
    futures: list[ResponseFuture] = []
    for call_id in call_ids:
        one = new(ResponseFuture)
        one._begin(call_id, callset_id, condition, origin)
        futures.append(one)
    return futures


def attach(
    call_id: str,
    callset: Callset,
    storage: Storage,
    client: str | None = None,
    record: Mapping[str, Any] | None = None,
) -> ResponseFuture:
    """Make a future of a call that exists already. Unpickling a future from this or another process calls this.

    Args:
        call_id: the call.
        callset: its callset.
        storage: where its objects are.
        client: for calls in the pool of another process, the file that the other process keeps locked while it lives.
        record: the members of ``invoke_status`` that only this call has.
    """
    from pywren.client.elsewhere import origin_for  # here: workers unpickle futures but do not need it

    origin = origin_for(callset, storage, client)
    # No lock: several threads may unpickle copies of one future, and all of them write the same facts.
    origin.remember(call_id, record or {})
    return futures_of(origin, [call_id])[0]
