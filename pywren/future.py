"""``ResponseFuture``: the outcome of one call, which may not be there yet.

The state machine stands here and nowhere else::

    new ──▶ invoked (PENDING) ──▶ running (RUNNING) ──▶ success, error (FINISHED)
                    └──────────────────┴──────────────▶ error (CANCELLED_AND_NOTIFIED)

The words in brackets are those of ``concurrent.futures``, whose ``Future`` this is: the standard library's
``wait``, ``as_completed`` and ``asyncio.wrap_future`` work on it. What learns of outcomes (the monitor of a
storage, the local pool) is the future's *origin*; it alone settles futures, many at a time, under the condition that
the futures of a callset share. Callbacks run later and elsewhere, see ``system.callbacks``.
"""

from __future__ import annotations

import concurrent.futures
import copy
import enum
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pywren.exceptions import (
    ArgumentError,
    CallCancelledError,
    CallError,
    PywrenError,
    ResultSerializationError,
    StorageConfigMismatchError,
    StorageTimeoutError,
    WaitTimeoutError,
)
from pywren.system import private_names
from pywren.system.callbacks import callbacks

if TYPE_CHECKING:
    from types import TracebackType

    from pywren.client.callset import Callset
    from pywren.storage import Storage

__all__ = ["JobState", "ResponseFuture"]

logger = logging.getLogger(__name__)

PENDING, RUNNING, CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED = private_names.future_states()

SILENCE = 60.0
"""Seconds without any result after which those who wait are told what is known and where to look."""

_DONE = frozenset({FINISHED, CANCELLED_AND_NOTIFIED})
_NAMED = 5  # so many calls are named in the line that Ctrl-C leaves


class JobState(enum.Enum):
    """Where a call stands, in the words of PyWren 0.4."""

    new = 1
    invoked = 2
    running = 3
    success = 4
    error = 5


class Origin(Protocol):
    """Where the outcomes of a future's callset come from."""

    callset: Callset

    @property
    def storage_path(self) -> list[str]:
        """``[backend, bucket, prefix]`` of the storage the callset was made with."""

    def ask(self, futures: Iterable[ResponseFuture]) -> None:
        """Take note that somebody waits for these futures; returns at once."""

    def look(self, futures: Iterable[ResponseFuture]) -> None:
        """Find out now which of these futures are done, and settle them.

        What another thread is finding out at this moment is not waited for.

        Raises:
            StorageError: nothing could be found out for a while, and cannot now.
        """

    def trouble(self) -> PywrenError | None:
        """Return why nothing can be found out at present, ``None`` when all is well."""

    def wonder(self) -> None:
        """Say why no results come, if that is worth saying: somebody has waited for a while."""

    def cancel(self, future: ResponseFuture) -> bool:
        """End the call; returns whether this is what ended it."""

    def run_status(self, future: ResponseFuture, source: Any) -> dict[str, Any] | None:
        """Make the user's view of the worker's status from what the future was settled with."""

    def invoke_status(self, future: ResponseFuture) -> dict[str, Any]:
        """Make the user's view of what the client did for the call."""

    def recipe(self, future: ResponseFuture) -> tuple[Callable[..., ResponseFuture], tuple[Any, ...]]:
        """Return what makes this future again in another process (``__reduce__``)."""


class Settlement(NamedTuple):
    """How a call ended: the value, or the error.

    ``source`` is what the origin makes ``run_status`` from when someone asks for it.
    """

    future: ResponseFuture
    value: Any
    error: BaseException | None
    source: Any


class ResponseFuture(concurrent.futures.Future[Any]):
    """The outcome of one call.

    Made by ``Executor.map`` and ``call_async``. It can be pickled, and unpickled in another process (on
    another machine, when its storage is reachable from there) it goes on waiting for the same call.

    Args:
        call_id: the call within its callset.
        callset_id: the callset, one for each map.
        invoke_metadata: what ``invoke_status`` will hold; ``None`` leaves the future *new*.
        storage_path: ``[backend, bucket, prefix]`` of the storage that holds the outcome.
    """

    GET_RESULT_SLEEP_SECS = 4
    """Kept for programs that set it; nothing here sleeps."""

    # The base class's fields, with defaults on the class: ten thousand futures are made in one go, and a
    # lock and two lists each would be most of their cost. The condition is shared by the callset's futures.
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _installed: list[Any] | None = None
    _callbacks: list[Callable[[Any], object]] | None = None
    _origin: Origin | None = None
    _source: Any = None
    _view: dict[str, Any] | None = None
    _metadata: dict[str, Any] | None = None
    _told = False
    _asked = False
    status_query_count = 0

    def __init__(
        self,
        call_id: str,
        callset_id: str,
        invoke_metadata: dict[str, Any] | None = None,
        storage_path: Sequence[str] | None = None,
        *,
        origin: Origin | None = None,
        condition: threading.Condition | None = None,
    ) -> None:
        # not super().__init__(): see the class's defaults
        self.call_id = call_id
        self.callset_id = callset_id
        self._condition = condition or threading.Condition()
        if origin is not None:
            self._origin = origin
        elif invoke_metadata is not None and storage_path is not None:
            from pywren.client.staged_calls import adopt  # it makes futures, so it cannot be imported above

            adopt(self, storage_path, invoke_metadata)
        else:
            self._metadata = invoke_metadata

    # -- asking ------------------------------------------------------------------------------------------------

    def result(
        self,
        timeout: float | None = None,
        check_only: bool = False,
        throw_except: bool = True,
        storage_handler: Storage | None = None,
    ) -> Any:
        """Wait for the call and return what the function returned.

        Args:
            timeout: how many seconds to wait at most; ``None`` waits until the call has ended.
            check_only: only tell whether the call has ended; does not wait.
            throw_except: with False, a call that failed gives ``None`` instead of raising.
            storage_handler: kept for 0.4; a future uses the storage it was made with.

        Returns:
            The function's value; with ``check_only`` a bool.

        Raises:
            WaitTimeoutError: the call had not ended after ``timeout`` seconds. A ``TimeoutError``. When the storage
                cannot be asked at that moment it is a ``StorageTimeoutError``, which says why.
            StorageError: the storage cannot be asked, and could not for a minute. The call goes on; ask again.
            CallCancelledError: the call was cancelled.
            CallError: the call failed outside the function: the subclass says how.
            ArgumentError: the call was never invoked.
            BaseException: the function's own exception, with its own type and the remote traceback.
        """
        origin = self._invoked()
        if storage_handler is not None and list(storage_handler.path) != list(origin.storage_path):
            raise StorageConfigMismatchError(list(storage_handler.path), list(origin.storage_path))
        if check_only:
            return self.done()
        self._await_outcome(timeout)
        if self._exception is None:
            return self._result
        if not throw_except:
            return None
        try:
            raise self._exception
        finally:
            # the traceback holds this frame, and the frame would hold the future: break the cycle
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call and return what it raised, or ``None`` when it returned.

        Args:
            timeout: how many seconds to wait at most; ``None`` waits until the call has ended.

        Raises:
            WaitTimeoutError: the call had not ended after ``timeout`` seconds.
            StorageError: the storage cannot be asked, and could not for a minute. The call goes on; ask again.
            CallCancelledError: the call was cancelled.
            ArgumentError: the call was never invoked.
        """
        self._invoked()
        self._await_outcome(timeout)
        if self._state == CANCELLED_AND_NOTIFIED and self._exception is not None:
            raise self._exception
        return self._exception

    def done(self) -> bool:
        """Ask whether the call has ended, with a value, an error or by being cancelled.

        Raises:
            StorageError: the storage cannot be asked, and could not for a minute.
        """
        if self._state not in _DONE:
            if self._origin is None:
                return False
            self._asked = True
            self._origin.look((self,))
        if self._state not in _DONE:
            return False
        self._told = True
        return True

    def running(self) -> bool:
        """Tell whether the call is known to be running; a storage does not tell, this machine does."""
        return bool(self._state == RUNNING)

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def succeeded(self) -> bool:
        """Tell whether the caller has already been told that the call returned a value; asks nobody."""
        return self._told and self._state == FINISHED and self._exception is None

    def errored(self) -> bool:
        """Tell whether the caller has already been told that the call failed; asks nobody."""
        return self._told and self._state in _DONE and self._exception is not None

    def cancel(self, storage_handler: Storage | None = None) -> bool:
        """End the call, also when it is running already.

        Args:
            storage_handler: kept for 0.4; a future uses the storage it was made with.

        Returns:
            Whether this is what ended the call (now or earlier); False when the call had ended by itself.

        Raises:
            ArgumentError: the call was never invoked.
        """
        origin = self._invoked()
        if self._state not in _DONE and origin.cancel(self):
            return True
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """Have a function called with this future once it is done, at once when it is done already.

        Args:
            fn: called in a thread for such functions alone, one after the other; what it raises is logged. It may
                take its time, wait for other futures and make calls: that holds up nothing else.
        """
        with self._condition:
            is_first, is_done = self._callbacks is None, self._state in _DONE
            if not is_done:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(fn)
                self._ask()
        if is_done:
            _call_back(self, (fn,))
        elif is_first:
            callbacks.expect(self)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the call in a coroutine: ``value = await future``.

        When the waiting task is cancelled, so is the call; without keeping the event loop waiting for that.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake(_: object) -> None:
            try:
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:
                pass  # the loop was closed meanwhile, and nobody waits

        tell_when_done(self, wake)
        try:
            yield from woken.wait().__await__()
        except asyncio.CancelledError:
            threading.Thread(target=self.cancel, name="pywren-cancel", daemon=True).start()
            raise
        return self.result()

    # -- what is known of it ------------------------------------------------------------------------------------

    @property
    def run_status(self) -> dict[str, Any] | None:
        """What the worker says about the call (times in seconds); ``None`` until the call is collected."""
        if not self._told or self._origin is None:
            return None
        if self._view is None:
            self._view = self._origin.run_status(self, self._source)
        return self._view

    @property
    def invoke_status(self) -> dict[str, Any] | None:
        """What the client did for the call (times in seconds); ``None`` until the call is collected."""
        return None if not self._told or self._origin is None else self._origin.invoke_status(self)

    @property
    def storage_path(self) -> list[str] | None:
        """``[backend, bucket, prefix]`` of the storage that the future was made with."""
        return None if self._origin is None else self._origin.storage_path

    @property
    def job_state(self) -> JobState:
        """Where the call stands as far as is known here; asks nobody."""
        if self._origin is None:
            return JobState.new
        if self._state in _DONE:
            return JobState.success if self._exception is None else JobState.error
        return JobState.running if self._state == RUNNING else JobState.invoked

    def __repr__(self) -> str:
        outcome = ""
        if self._state in _DONE:
            told = self._result if self._exception is None else self._exception
            outcome = f" {'returned' if self._exception is None else 'raised'} {type(told).__name__}"
        return f"<ResponseFuture {self.callset_id[:8]}/{self.call_id} {self.job_state.name}{outcome}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None:
            return ResponseFuture, (self.call_id, self.callset_id)
        return self._origin.recipe(self)

    # -- names of 0.4 --------------------------------------------------------------------------------------------

    @property
    def _error(self) -> BaseException | None:
        return self._exception if self._told and self._state in _DONE else None

    @property
    def _traceback(self) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
        """Type, value and traceback of what the call raised, once it is collected."""
        error = self._error
        return None if error is None else (type(error), error, error.__traceback__)

    @property
    def _return_val(self) -> Any:
        """What the function returned, once it is collected."""
        return self._result if self._told and self._state == FINISHED else None

    @property
    def _call_invoker_result(self) -> dict[str, Any] | None:
        """What the function returned or raised, as 0.4's worker stored it, once it is collected."""
        from pywren.storage.storage import output_of_0_4

        error = self._error
        if not self._told or self._state not in _DONE or self._is_workers(error):
            return None
        output = output_of_0_4(error is None, self._result if error is None else error)
        if isinstance(error, ResultSerializationError):
            output.update(pickle_fail=True, pickle_exception=error)
        return output

    def _is_workers(self, error: BaseException | None) -> bool:
        """Tell whether an error is that of this very call's worker, of which 0.4 stored no result."""
        if not isinstance(error, PywrenError) or isinstance(error, ResultSerializationError):
            return False
        ids = getattr(error, "callset_id", None), getattr(error, "call_id", None)
        return ids == (self.callset_id, self.call_id) or self._source is None

    @property
    def _invoke_metadata(self) -> dict[str, Any]:
        """What ``invoke_status`` will say, as far as it is known."""
        return dict(self._metadata or {}) if self._origin is None else self._origin.invoke_status(self)

    def _set_state(self, new_state: JobState) -> None:
        """Have the call count as running, or as ended; a call that has ended stays as it is."""
        if new_state is JobState.running:
            mark_running(self)
        elif new_state in (JobState.success, JobState.error):
            text = "the program has set the state of the call to error"
            failed = new_state is JobState.error
            error = CallError(text, call_id=self.call_id, callset_id=self.callset_id) if failed else None
            self._told = True
            settle([Settlement(self, None, error, None)])

    # -- the base class's fields that outsiders touch -------------------------------------------------------------

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        # The standard library appends its waiters here: whoever does so wants the outcome.
        if self._installed is None:
            self._installed = []
        self._ask()
        return self._installed

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:
        return self._callbacks or []

    # -- inside ----------------------------------------------------------------------------------------------------

    def _invoked(self) -> Origin:
        if self._origin is None:
            raise ArgumentError("job not yet invoked: a future is made by map or call_async of an executor")
        return self._origin

    def _ask(self) -> None:
        if self._origin is not None and self._state not in _DONE:
            self._asked = True
            self._origin.ask((self,))

    def _await_outcome(self, timeout: float | None) -> None:
        if self._state not in _DONE and not await_all([self], timeout):
            raise self._time_out(timeout)
        self._told = True

    def _time_out(self, timeout: float | None) -> WaitTimeoutError:
        what = f"call {self.call_id} of callset {self.callset_id} had not ended after {timeout} s"
        trouble = None if self._origin is None else self._origin.trouble()
        if trouble is None:
            return WaitTimeoutError(f"{what}; it goes on: ask again with a longer timeout, or cancel() it")
        error = StorageTimeoutError(f"{what} as far as is known, for the storage could not be asked: {trouble}")
        error.__cause__ = trouble
        return error


class _Teller:
    """A waiter in the sense of ``concurrent.futures`` that calls a function."""

    def __init__(self, function: Callable[[ResponseFuture], object]) -> None:
        self.add_result = self.add_exception = self.add_cancelled = function


def tell_when_done(future: ResponseFuture, function: Callable[[ResponseFuture], object]) -> None:
    """Have a function of pywren's own called once, when a future is done, or at once.

    Unlike a callback it costs no change of threads: it is called by what learns of the outcome, under the lock of the
    callset, so it must neither wait nor raise.
    """
    with future._condition:
        if future._state not in _DONE:
            if future._installed is None:
                future._installed = []
            future._installed.append(_Teller(function))
            future._ask()
            return
    function(future)


class _Countdown:
    """A waiter in the sense of ``concurrent.futures``: it lets one thread go on after so many futures."""

    def __init__(self) -> None:
        self._gate = threading.Lock()  # a bare lock, because an event takes as long as the rest of the waiting
        self._gate.acquire()
        self._lock = threading.Lock()
        self._ended = 0
        self._target: int | None = None
        self.began = time.monotonic()
        self.is_over = False
        self.trouble: PywrenError | None = None

    def start(self, target: int) -> None:
        """Be over once ``target`` futures have ended; those that have since installation count."""
        with self._lock:
            self._target = target
            self._check()

    def wait(self, timeout: float | None) -> bool:
        """Wait until it is over or there is trouble, and return whether it is one of the two."""
        return self.is_over or self._gate.acquire(timeout=-1 if timeout is None else max(0.0, timeout))

    def fail(self, error: PywrenError) -> None:
        """Let the thread go on because nothing can be found out."""
        with self._lock:
            if not self.is_over and self.trouble is None:
                self.trouble = error
                self._gate.release()

    def add_result(self, future: object) -> None:
        with self._lock:
            self._ended += 1
            self._check()

    add_exception = add_cancelled = add_result

    def _check(self) -> None:
        if self._target is not None and self._ended >= self._target and not self.is_over:
            self.is_over = True
            if self.trouble is None:  # or the gate is open already
                self._gate.release()


def await_all(futures: Sequence[ResponseFuture], timeout: float | None, at_least: int | None = None) -> bool:
    """Wait until some futures are done, woken by an event.

    Args:
        futures: different futures, of any origin.
        timeout: how many seconds to wait at most; ``None`` for ever.
        at_least: how many must be done; ``None`` means all.

    Returns:
        Whether so many are done.

    Raises:
        StorageError: for some of them the storage cannot be asked, and could not for a while.
    """
    countdown = _Countdown()
    waiting = []
    for future in futures:
        if future._state in _DONE:
            continue
        with future._condition:
            if future._state not in _DONE:
                if future._installed is None:
                    future._installed = []
                future._installed.append(countdown)
                waiting.append(future)
    done = len(futures) - len(waiting)
    countdown.start((len(futures) if at_least is None else at_least) - done)
    try:
        if not countdown.is_over:
            ask(waiting)
            _wait_and_wonder(countdown, timeout, waiting)
        if countdown.trouble is not None and not countdown.is_over:
            raise copied(countdown.trouble)
        return countdown.is_over
    except KeyboardInterrupt:
        _say_what_runs(waiting)
        raise
    finally:
        for future in waiting:
            with future._condition:
                if future._installed is not None:
                    future._installed.remove(countdown)


def _wait_and_wonder(countdown: _Countdown, timeout: float | None, futures: Sequence[ResponseFuture]) -> None:
    """Wait until it is over; as long as it is not, let the origins say now and then what they know of the reason."""
    left = timeout
    while not countdown.wait(SILENCE if left is None else min(left, SILENCE)):
        if left is not None:
            left -= SILENCE
            if left <= 0:
                return
        for origin, _ in _by_origin([one for one in futures if one._state not in _DONE]):
            origin.wonder()


def copied(error: PywrenError) -> PywrenError:
    """Return a copy of an error that is kept, to be raised: who raises it must not share a traceback with others."""
    copied: PywrenError = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


def report_trouble(futures: Sequence[ResponseFuture], error: PywrenError, since: float) -> None:
    """Tell the threads that wait for futures of one callset why nothing can be found out. For origins alone.

    Args:
        futures: the futures.
        error: why.
        since: when the look began that found nothing out, in monotonic seconds. Who began to wait later asks what is
            wrong now, and hears of a later look.

    The futures stay as they are. Callbacks, awaiters and the waiters of the standard library hear nothing and go on
    waiting.
    """
    if not futures:
        return
    with futures[0]._condition:
        waiters = {waiter for one in futures for waiter in one._installed or () if isinstance(waiter, _Countdown)}
    for waiter in waiters:
        if waiter.began <= since:
            waiter.fail(error)


def _say_what_runs(futures: Iterable[ResponseFuture]) -> None:
    names = [f"{one.callset_id[:8]}/{one.call_id}" for one in futures if one._state not in _DONE]
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        logger.warning(
            "stopped waiting; %d calls still run: %s%s; cancel() ends them", len(names), ", ".join(names[:_NAMED]), more
        )


def ask(futures: Iterable[ResponseFuture]) -> None:
    """Tell the origins of these futures, one message each, that somebody waits for them."""
    for origin, group in _by_origin(futures):
        for future in group:
            future._asked = True
        origin.ask(group)


def _by_origin(futures: Iterable[ResponseFuture]) -> list[tuple[Origin, list[ResponseFuture]]]:
    groups: dict[int, tuple[Origin, list[ResponseFuture]]] = {}
    for future in futures:
        if future._origin is not None:
            groups.setdefault(id(future._origin), (future._origin, []))[1].append(future)
    return list(groups.values())


def settle(settlements: Iterable[Settlement]) -> None:
    """Give futures of one callset their outcome; those that have one keep it.

    For origins alone. Waiters are told under the callset's condition; callbacks run in threads of their own.
    """
    settlements = list(settlements)
    if not settlements:
        return
    called: list[tuple[ResponseFuture, Sequence[Callable[[Any], object]]]] = []
    condition = settlements[0].future._condition
    with condition:
        for future, value, error, source in settlements:
            if future._state in _DONE:
                continue
            future._result, future._exception, future._source = value, error, source
            cancelled = isinstance(error, CallCancelledError)
            future._state = CANCELLED_AND_NOTIFIED if cancelled else FINISHED
            if future._installed is not None:
                for waiter in future._installed:
                    _tell(waiter, future)
            if future._callbacks is not None:
                called.append((future, future._callbacks))
                future._callbacks = None
        condition.notify_all()
    for future, functions in called:
        callbacks.run(future, partial(_call_back, future, functions))


def _tell(waiter: Any, future: ResponseFuture) -> None:
    if future._state == CANCELLED_AND_NOTIFIED:
        waiter.add_cancelled(future)
    elif future._exception is not None:
        waiter.add_exception(future)
    else:
        waiter.add_result(future)


def _call_back(future: ResponseFuture, functions: Sequence[Callable[[Any], object]]) -> None:
    future._told = True
    for function in functions:
        try:
            function(future)
        except BaseException as error:
            # A callback's error is its own, as in concurrent.futures. Of what is no Exception only the main thread
            # hears, as Ctrl-C: a SystemExit would end the thread that all other outcomes come through.
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
            private_names.futures_logger().exception("exception calling callback for %r", future)


def mark_running(future: ResponseFuture) -> None:
    """Note that a call has started. For origins alone."""
    with future._condition:
        if future._state == PENDING:
            future._state = RUNNING


def tell(futures: Iterable[ResponseFuture]) -> None:
    """Note that the caller has been told of these futures, which are done: ``succeeded`` may repeat it."""
    for future in futures:
        future._told = True


def forget_parent_threads(condition: threading.Condition, futures: Iterable[ResponseFuture]) -> None:
    """Let go, in a forked child, of what only threads of the parent release, wait for or call. For origins alone."""
    threading.Condition.__init__(condition)  # in place: all futures of the callset share it
    for future in futures:
        future._installed = future._callbacks = None


def is_done(future: ResponseFuture) -> bool:
    """Tell whether a future is known to be done, asking nobody."""
    return future._state in _DONE


def modules_sent_for(future: ResponseFuture) -> frozenset[str]:
    """Return the names of the user's modules that the call was sent with: its outcome may refer to them."""
    return frozenset() if future._origin is None else future._origin.callset.modules


def settlement(future: ResponseFuture) -> Settlement:
    """Return how a call ended, of a future that is done, without raising. For what hands outcomes on."""
    return Settlement(future, future._result, future._exception, future._source)


def has_callbacks(future: ResponseFuture) -> bool:
    """Tell whether functions are to be called with this future, so that it must not be forgotten."""
    return bool(future._callbacks)


def is_asked(future: ResponseFuture) -> bool:
    """Tell whether anybody waits for this future, so that its output is worth fetching."""
    return future._asked


def look(futures: Iterable[ResponseFuture]) -> None:
    """Have the origins of these futures find out now which are done."""
    for origin, group in _by_origin(futures):
        origin.look(group)
