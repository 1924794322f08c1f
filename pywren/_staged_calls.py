"""Calls that go through a storage: staging and invoking them, and learning of their outcomes.

``StagedDispatcher`` does the former for an executor; ``StagedCallset`` is the origin of the futures, which
the storage's ``Monitor`` looks after.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from pywren import _pickling, _verdict, future
from pywren._callset import Callset, Submission
from pywren._failure import Failure
from pywren._integrity import sha256, verify_sha256
from pywren._monitor import FIRST_LOOK, Monitor, look_delay
from pywren._threads import for_each
from pywren._wire import (
    EAGER_OUTPUT_LIMIT,
    INLINE_ARGUMENT_LIMIT,
    INLINE_REFERENCES,
    Call,
    Outcome,
    Reference,
    StagedFunction,
    Status,
    encode_references,
)
from pywren.exceptions import (
    ArgumentError,
    CallCancelledError,
    CallLostError,
    DecodeError,
    IntegrityError,
    PywrenError,
    StorageError,
    StorageNoSuchKeyError,
)
from pywren.future import ResponseFuture, Settlement
from pywren.runtime import version_str
from pywren.storage import Storage
from pywren.storage.runtime_info import has_own_runtime, required_sha256
from pywren.version import __version__
from pywren.wrenconfig import MAX_AGG_DATA_SIZE
from pywren.wrenutil import create_call_id

logger = logging.getLogger(__name__)

LOST_GRACE = 60.0
"""Seconds for clocks that differ and for a status under way, before a call is declared lost."""

STORAGE_PATIENCE = 60.0
"""Seconds of unbroken storage errors after which the futures end with that error."""

_FETCH_THREADS = 32
_DIRECT_LOOKS = 3  # so many statuses are asked for one by one: a GET costs a twelfth of a LIST
_PAYLOAD_HEADROOM = 2_000
_NOT_KEPT = frozenset({"attempt_key", "data_inline"})  # of a payload, once its call is invoked


class Invoker(Protocol):
    """What starts calls: any object with these two methods.

    It may also have ``payload_limit`` (bytes) and ``queue_patience`` (the seconds that a call may wait
    before it starts, beyond which it is lost).
    """

    def invoke(self, payload: dict[str, Any]) -> Any:
        """Start one call."""

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` says of the invoker."""


# -- learning of outcomes ------------------------------------------------------------------------------------


class StagedCallset:
    """The origin of the futures of one callset in a storage.

    Futures that nobody waits for and nobody holds are forgotten.

    Args:
        callset: the callset.
        storage: where its objects are.
        monitor: the storage's watcher.
        client_alive: tells whether the process that runs the calls lives; ``None`` when no single one does.
        clock: tells the time in seconds since the epoch.
    """

    def __init__(
        self,
        callset: Callset,
        storage: Storage,
        monitor: Monitor,
        *,
        client_alive: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.callset = callset
        self.storage = storage
        self.records: dict[str, dict[str, Any]] = {}
        self._monitor = monitor
        self._client_alive = client_alive
        self._clock = clock
        self._looking = threading.RLock()
        self._futures: dict[str, list[weakref.ref[ResponseFuture]]] = {}
        self._with_callbacks: set[ResponseFuture] = set()
        self._order: list[str] = []
        self._passed = 0  # so many calls at the beginning of _order have ended
        self._committed: dict[str, Status] = {}  # verified, with a big output that nobody has asked for
        self._last_progress = clock()
        self._last_look = 0.0
        self._look_cost = 0.0
        self._failing_since: float | None = None
        _callsets.add(self)

    # -- Origin ------------------------------------------------------------------------------------------------

    @property
    def storage_path(self) -> list[str]:
        """``[backend, bucket, prefix]``."""
        return self.storage.path

    def ask(self, futures: Iterable[ResponseFuture]) -> None:
        """Take note that somebody waits for these futures; returns at once."""
        self._with_callbacks.update(one for one in futures if future.has_callbacks(one))
        recently = self._clock() - self._last_look < FIRST_LOOK
        self._monitor.watch(self, FIRST_LOOK if recently else 0.0)

    def look(self, futures: Iterable[ResponseFuture]) -> None:
        """Find out now which of these futures are done; a look of a moment ago will do."""
        if self._clock() - self._last_look > max(FIRST_LOOK, 10 * self._look_cost):
            self.examine()

    def cancel(self, target: ResponseFuture) -> bool:
        """End the call, by being the first to write its status."""
        if self._end(target.call_id, CallCancelledError("the call was cancelled")):
            return True
        self.examine()
        return False

    def run_status(self, target: ResponseFuture, source: Any) -> dict[str, Any] | None:
        """Return the worker's status."""
        return source.document() if isinstance(source, Status) else None

    def invoke_status(self, target: ResponseFuture) -> dict[str, Any]:
        """Return what the client did: for the callset, and for this call."""
        record = self._record(target.call_id)
        # an outcome inside the status came with it
        came = {"download_output_timestamp": record.get("status_done_timestamp"), "download_output_time": 0.0}
        return {**self.callset.facts, **came, **record, "status_query_count": target.status_query_count}

    def recipe(self, target: ResponseFuture) -> tuple[Callable[..., ResponseFuture], tuple[Any, ...]]:
        """Return what makes the future again: the callset with its secret, the storage's configuration."""
        if self.callset.deletion is not None:
            self.callset.deletion.detach()  # another process may want the outcome
        return attach, (target.call_id, self.callset, self.storage, None, self._record(target.call_id))

    def _record(self, call_id: str) -> dict[str, Any]:
        """Return what is known of one call: its payload without secrets and argument, and what was done with it."""
        record = dict(self.records.get(call_id, {}))
        return {**record.pop("payload", {}), **record}

    # -- futures -------------------------------------------------------------------------------------------------

    def add(self, call_ids: Iterable[str]) -> list[ResponseFuture]:
        """Make the futures of these calls."""
        made = [
            ResponseFuture(call_id, self.callset.id, origin=self, condition=self.callset.condition)
            for call_id in call_ids
        ]
        for one in made:
            self.take(one)
        return made

    def take(self, one: ResponseFuture) -> None:
        """Look after one more future."""
        with self._looking:
            self._futures.setdefault(one.call_id, []).append(weakref.ref(one))
            self._order = []

    def watch(self) -> None:
        """Have the monitor look at the callset from now on."""
        self._last_progress = self._clock()
        self._monitor.watch(self, FIRST_LOOK)

    def _living(self, call_id: str) -> list[ResponseFuture]:
        return [one for one in (ref() for ref in self._futures.get(call_id, ())) if one is not None]

    def _outstanding(self) -> list[str]:
        """Return the calls, in the order of their keys, of which somebody still holds an unfinished future."""
        for call_id in [c for c in self._futures if not self._living(c)]:
            self._drop(call_id)
        return sorted(self._futures)

    def _drop(self, call_id: str) -> None:
        for one in self._living(call_id):
            self._with_callbacks.discard(one)
        self._futures.pop(call_id, None)
        self._committed.pop(call_id, None)

    def _is_awaited(self, call_id: str) -> bool:
        return any(future.is_asked(one) for one in self._living(call_id))

    # -- looking -------------------------------------------------------------------------------------------------

    def examine(self) -> float | None:
        """Look once; return the seconds until the next look, or ``None`` when nothing is outstanding."""
        with self._looking:
            started = self._clock()
            outstanding = self._outstanding()
            if not outstanding:
                return None
            try:
                ended = self._examine(outstanding)
            except PywrenError as error:
                ended = self._storage_failed(error, outstanding)
            except Exception as error:  # noqa: BLE001 -- whatever it is, nobody may be left waiting
                ended = self._storage_failed(_unexpected(error), outstanding)
            else:
                self._failing_since = None
            self._last_look = self._clock()
            self._look_cost = self._last_look - started
            if ended:
                self._last_progress = self._last_look
            if not self._outstanding():
                return None
            if set(self._futures) <= set(self._committed) and not any(map(self._is_awaited, self._committed)):
                return None  # all that is left are outputs that nobody has asked for
            return look_delay(self._last_look - self._last_progress, self._look_cost)

    def forget_parent_locks(self) -> None:
        """Replace, in a forked child, the locks that another thread of the parent may have held."""
        self._looking = threading.RLock()
        living = [one for call_id in self._futures for one in self._living(call_id)]
        future.forget_parent_threads(self.callset.condition, living)
        self._with_callbacks.clear()

    def _examine(self, outstanding: Sequence[str]) -> bool:
        verdicts: dict[str, Status | PywrenError] = {}
        unknown = [call_id for call_id in outstanding if call_id not in self._committed]
        client_gone = self._client_alive is not None and bool(unknown) and not self._client_alive()

        def read(call_id: str) -> None:
            data = self.storage.read_status(self.callset.id, call_id)
            if data is not None:
                verdicts[call_id] = self._verify(data, call_id)

        for_each(read, self._candidates(unknown), self._threads())
        for call_id in unknown:
            for one in self._living(call_id):
                one.status_query_count += 1
        missing = [call_id for call_id in unknown if call_id not in verdicts]
        if missing:
            self._declare_lost(missing, client_gone)
        return self._conclude(verdicts)

    def _threads(self) -> int:
        return 1 if self.storage_path[0] == "localhost" else _FETCH_THREADS

    def _candidates(self, unknown: Sequence[str]) -> Sequence[str]:
        if len(unknown) <= _DIRECT_LOOKS:
            return unknown
        if not self._order:
            self._order, self._passed = sorted(self._futures), 0
        while self._passed < len(self._order) and self._order[self._passed] < unknown[0]:
            self._passed += 1
        # keys are listed in order: what stands before the first outstanding call need not be listed again
        start_after = self._order[self._passed - 1] if self._passed else ""
        wanted = set(unknown)
        return [c for c in self.storage.finished_calls(self.callset.id, start_after) if c in wanted]

    def _verify(self, data: bytes, call_id: str) -> Status | PywrenError:
        """Return a status that can be believed, or the error that an unbelievable one is."""
        where = f"call {call_id} of callset {self.callset.id}"
        try:
            status = Status.verify(data, self.callset.known_secret(), self.callset.id, call_id)
        except DecodeError as error:
            return IntegrityError(f"the status of {where} is none: {error}; something else wrote there")
        if status.signed:
            return status
        if status.failure is not None:
            return status.failure.error(self.callset.id, call_id, status.document())
        return IntegrityError(
            f"the status of {where} is not signed with this callset's key: something else than its worker wrote it, "
            "or PYWREN_HOME is not the one the call was made with; nothing was unpickled"
        )

    def _conclude(self, verdicts: Mapping[str, Status | PywrenError]) -> bool:
        """Settle what has ended, fetching the outputs that are small or asked for."""
        settlements: dict[str, tuple[Any, BaseException | None, Any]] = {}
        for call_id, verdict in verdicts.items():
            if isinstance(verdict, PywrenError):
                settlements[call_id] = (None, verdict, None)
            elif verdict.output_sha256 is None:
                settlements[call_id] = (*self._judge(verdict, verdict.outcome), verdict)
            else:
                self._committed[call_id] = verdict
        self._settle(settlements)
        return self._fetch_outputs() or bool(verdicts)

    def _fetch_outputs(self) -> bool:
        """Fetch the separate outputs that are small or asked for, and settle their futures."""
        wanted = {
            call_id: status
            for call_id, status in self._committed.items()
            if (status.output_size or 0) <= EAGER_OUTPUT_LIMIT or self._is_awaited(call_id)
        }
        fetched: dict[str, bytes | StorageError] = {}

        def fetch(call_id: str) -> None:
            fetched[call_id] = self._fetch(wanted[call_id])

        try:
            for_each(fetch, wanted, self._threads())
        finally:
            # unpickled by this one thread: what is unpickled may hold futures of this very callset
            self._settle(
                {
                    call_id: (None, data, wanted[call_id])
                    if isinstance(data, StorageError)
                    else (*self._judge(wanted[call_id], data), wanted[call_id])
                    for call_id, data in fetched.items()
                }
            )
        return bool(fetched)

    def _fetch(self, status: Status) -> bytes | StorageError:
        """Return a verified output, or why there will never be one; other errors of the storage may pass."""
        started = self._clock()
        try:
            data = self.storage.get(status.output_key or "")
            verify_sha256(data, status.output_sha256, f"the output {status.output_key}")
        except (IntegrityError, StorageNoSuchKeyError) as error:
            return error
        record = self.records.setdefault(status.call_id, {})
        record["download_output_timestamp"] = started
        record["download_output_time"] = self._clock() - started
        return data

    def _judge(self, status: Status, outcome: bytes | None) -> tuple[Any, BaseException | None]:
        document = status.document()
        if status.failure is not None:
            return _verdict.of_failure(status.failure, self.callset.id, status.call_id, document)
        try:
            return _verdict.of_encoded(outcome or b"", self.callset.id, status.call_id, document)
        except DecodeError as error:
            return None, error

    def _settle(self, settlements: Mapping[str, tuple[Any, BaseException | None, Any]]) -> None:
        now = self._clock()
        batch: list[Settlement] = []
        for call_id, outcome in settlements.items():
            self.records.setdefault(call_id, {})["status_done_timestamp"] = now
            batch.extend(Settlement(one, *outcome) for one in self._living(call_id))
        future.settle(batch)
        for call_id in settlements:  # last, or Ctrl-C in between would leave futures that nobody looks after
            self._drop(call_id)

    # -- giving up -----------------------------------------------------------------------------------------------

    def _end(self, call_id: str, error: PywrenError) -> bool:
        """Write the status that ends a call with an error, unless one stands; settle it if ours does."""
        status = Status(self.callset.id, call_id, failure=Failure.of(error), info={"ended_by": "client"})
        key = self.callset.call_keys(call_id).status
        won = self.storage.commit_status(key, status.encode(self.callset.attempt_key(call_id, status.attempt)))
        if won:
            with self._looking:
                self._settle({call_id: (*self._judge(status, None), status)})
        return won

    def _declare_lost(self, missing: Sequence[str], client_gone: bool) -> None:
        lost_after = self.callset.lost_after(LOST_GRACE)
        if client_gone:
            text = "the call is lost: the process that ran it on its machine has ended; run it again"
        elif lost_after is not None and self._clock() > lost_after:
            text = (
                f"the call is lost: {self._clock() - self.callset.submitted:.0f} s after it was invoked it has no "
                "status. It never started, or its worker vanished; look at the function's log, and run it again"
            )
        else:
            return
        for_each(lambda call_id: self._end(call_id, CallLostError(text)), missing, self._threads())

    def _storage_failed(self, error: PywrenError, outstanding: Sequence[str]) -> bool:
        """Put up with a storage that fails for a while; then end the futures (not the calls) with its error."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
            logger.warning("cannot look for results, trying on for %d s: %s", STORAGE_PATIENCE, error)
        if now - self._failing_since < STORAGE_PATIENCE:
            return False
        self._settle(dict.fromkeys(outstanding, (None, error, None)))
        return True


def _unexpected(error: Exception) -> StorageError:
    problem = StorageError(f"looking for results failed: {type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem


_callsets: weakref.WeakSet[StagedCallset] = weakref.WeakSet()


def _after_fork() -> None:
    global _attaching
    _attaching = threading.Lock()
    for origin in list(_callsets):
        origin.forget_parent_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- futures from elsewhere ----------------------------------------------------------------------------------

_attached: weakref.WeakValueDictionary[tuple[Any, ...], StagedCallset] = weakref.WeakValueDictionary()
_attaching = threading.Lock()


def attach(
    call_id: str,
    callset: Callset,
    storage: Storage,
    client: str | None = None,
    record: Mapping[str, Any] | None = None,
) -> ResponseFuture:
    """Make the future of a call that another future was made for, here or in another process.

    Args:
        call_id: the call.
        callset: its callset.
        storage: where its objects are.
        client: for calls that run in the client's own process: the file that it holds locked while it lives.
        record: what ``invoke_status`` is to say of this call alone.
    """
    alive = None if client is None else functools.partial(_is_locked, client)
    # one origin for all futures of a callset that are unpickled here, while one of them lives
    with _attaching:
        key = (os.getpid(), callset.id, *storage.path)
        origin = _attached.get(key)
        if origin is None:
            origin = StagedCallset(callset, storage, Monitor(), client_alive=alive)
            _attached[key] = origin
    # Not under the lock: this waits for a look under way, which may be unpickling a future, here, of its own.
    origin.records.setdefault(call_id, {}).update(record or {})
    return origin.add([call_id])[0]


def adopt(one: ResponseFuture, storage_path: Sequence[str], facts: dict[str, Any]) -> None:
    """Give a future that a program made by hand its origin, from ``[backend, bucket, prefix]``."""
    backend, place, prefix = storage_path
    settings = {"root": place} if backend == "localhost" else {"bucket": place, "region": facts.get("region")}
    storage = Storage({"storage_backend": backend, "storage_prefix": prefix, "backend_config": settings})
    origin = StagedCallset(Callset(prefix, one.callset_id, facts=facts), storage, Monitor())
    one._origin = origin
    one._condition = origin.callset.condition
    origin.take(one)


def _is_locked(path: str) -> bool:
    """Tell whether a living process holds a lock on a file."""
    import fcntl  # not on Windows, which does not come here

    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


# -- staging and invoking ------------------------------------------------------------------------------------


class StagedDispatcher:
    """Stages callsets in a storage and invokes their calls.

    Args:
        storage: where functions, arguments and outcomes are stored.
        invoker: what starts calls.
        runtime: the members of the payload that name the runtime.
    """

    def __init__(self, storage: Storage, invoker: Invoker, runtime: Mapping[str, Any]) -> None:
        self.storage = storage
        self.invoker = invoker
        self.monitor = Monitor()
        self._runtime = _runtime_members(runtime)
        self._kept: list[Callset] = []

    out_of_band = False
    """An object holds all bytes of a pickle."""

    def close(self) -> None:
        """Let go of callsets on this machine; their directories go when their futures do."""
        self._kept.clear()

    def dispatch(self, submission: Submission) -> list[ResponseFuture]:
        """Stage a callset, invoke its calls and return their futures.

        Raises:
            ArgumentError: a payload is too large for the invoker; nothing was invoked.
            StorageError: staging failed; nothing was invoked.
            InvocationError: a call was refused; those that were invoked before it run on.
        """
        callset = submission.callset
        self._keep_while_used(callset)
        calls = self._stage(submission)
        overwrite = submission.options.get("overwrite_invoke_args") or {}
        threads = submission.options.get("invoke_pool_threads", 64)
        return self._start(callset, [{**call.encode(), **overwrite} for call in calls], threads)

    def invoke_stored(self, callset: Callset, call: Call, overwrite: Mapping[str, Any]) -> ResponseFuture:
        """Invoke one call whose function and argument are stored already."""
        call = dataclasses.replace(
            call,
            pywren_version=__version__,
            python_version=version_str(sys.version_info),
            attempt_key=callset.attempt_key(call.call_id, call.attempt),
            func_sha256=sha256(self.storage.get(call.func_key)),
            data_sha256=sha256(self.storage.get(call.data_key, call.data_byte_range)),
            **self._runtime,
        )
        return self._start(callset, [{**call.encode(), **overwrite}], threads=1)[0]

    def _start(self, callset: Callset, payloads: list[dict[str, Any]], threads: int) -> list[ResponseFuture]:
        self._check_sizes(payloads)
        callset.queue_patience = getattr(self.invoker, "queue_patience", None)
        origin = StagedCallset(callset, self.storage, self.monitor)
        futures = origin.add(_call_id_of(payload) for payload in payloads)
        self._invoke(origin, payloads, threads)
        origin.watch()
        return futures

    def _keep_while_used(self, callset: Callset) -> None:
        """On this machine, delete the callset's directory when neither executor nor futures need it any more."""
        if self.storage.path[0] == "localhost":
            self._kept.append(callset)
            callset.deletion = weakref.finalize(callset, _delete_own, os.getpid(), self.storage, callset.id)

    def _stage(self, submission: Submission) -> list[Call]:
        callset, options = submission.callset, submission.options
        staged = StagedFunction(submission.function.data, submission.modules).encode()
        facts = callset.facts
        facts["func_upload_timestamp"] = started = time.time()
        self.storage.put(callset.keys.func, staged)
        facts["func_upload_time"] = time.time() - started
        facts["func_module_str_len"] = len(staged)
        first = callset.call_keys(create_call_id(0))
        template = Call(
            storage_config=self.storage.get_storage_config(),
            callset_id=callset.id,
            call_id="",
            func_key=callset.keys.func,
            data_key=first.data,
            output_key="",
            status_key="",
            cancel_key="",
            job_max_runtime=callset.job_max_runtime,
            use_cached_runtime=options.get("use_cached_runtime", True),
            pywren_version=__version__,
            python_version=version_str(sys.version_info),
            func_sha256=sha256(staged),
            extra_env=submission.extra_env,
            extra=submission.extra_meta or {},
            **self._runtime,
        )
        return _ArgumentStager(self.storage, submission, template).stage()

    def _check_sizes(self, payloads: Sequence[Mapping[str, Any]]) -> None:
        limit = getattr(self.invoker, "payload_limit", None)
        if limit is None:
            return
        for payload in payloads:
            # the argument is by far the biggest member, and bounded: only the rest needs encoding
            size = len(json.dumps({**payload, "data_inline": ""}, default=str)) + len(payload.get("data_inline") or "")
            if size + _PAYLOAD_HEADROOM > limit:
                raise ArgumentError(
                    f"the payload of call {payload.get('call_id')} has {size:,} bytes, but the service takes "
                    f"{limit:,}: put less into extra_env and extra_meta. Nothing was invoked"
                )
            if "data_inline" not in payload:
                return  # without arguments inside they are all alike

    def _invoke(self, origin: StagedCallset, payloads: Sequence[dict[str, Any]], threads: int) -> None:
        invoked: list[str] = []

        def invoke(payload: dict[str, Any]) -> None:
            record = origin.records.setdefault(payload["call_id"], {})
            started = time.time()
            payload["host_submit_time"] = started
            self.invoker.invoke(payload)
            record["lambda_invoke_timestamp"] = started
            record["lambda_invoke_time"] = time.time() - started
            # ten thousand arguments need not stay in memory for as long as a future does
            record["payload"] = {name: value for name, value in payload.items() if name not in _NOT_KEPT}
            invoked.append(payload["call_id"])

        try:
            for_each(invoke, payloads, threads)
        except BaseException:
            logger.warning(
                "callset %s: %d of %d calls were invoked before map() was stopped; they run on",
                origin.callset.id, len(invoked), len(payloads),
            )  # fmt: skip
            raise


class _ArgumentStager:
    """Decides where each argument of a callset goes, and puts it there."""

    def __init__(self, storage: Storage, submission: Submission, template: Call) -> None:
        self._storage = storage
        self._submission = submission
        self._template = template
        self._callset = submission.callset

    def stage(self) -> list[Call]:
        arguments = self._submission.arguments
        apart = not self._submission.options.get("data_all_as_one", True)
        inline = [not apart and len(packed.data) <= INLINE_ARGUMENT_LIMIT for packed in arguments]
        rest = [index for index, inside in enumerate(inline) if not inside]
        together = not apart and sum(len(arguments[i].data) for i in rest) <= MAX_AGG_DATA_SIZE
        started = time.time()
        placed = self._put_together(rest) if together else self._put_apart(rest)
        self._callset.facts.update(
            agg_data=together,
            data_size_bytes=sum(len(packed.data) for packed in arguments),
            data_upload_timestamp=started,
            data_upload_time=time.time() - started,
        )
        return [self._call(index, placed.get(index)) for index in range(len(arguments))]

    def _put_together(self, indices: Sequence[int]) -> dict[int, dict[str, Any]]:
        if not indices:
            return {}
        arguments = [self._submission.arguments[index].data for index in indices]
        key = self._callset.keys.aggdata
        joined, ranges = agg_data(arguments)
        self._storage.put(key, joined)
        return {
            index: {"data_key": key, "data_byte_range": span, "data_sha256": sha256(data)}
            for index, span, data in zip(indices, ranges, arguments, strict=True)
        }

    def _put_apart(self, indices: Sequence[int]) -> dict[int, dict[str, Any]]:
        def put(index: int) -> None:
            key = self._callset.call_keys(create_call_id(index)).data
            self._storage.put(key, self._submission.arguments[index].data)

        for_each(put, indices, self._submission.options.get("invoke_pool_threads", 64))
        return {
            index: {
                "data_key": self._callset.call_keys(create_call_id(index)).data,
                "data_sha256": sha256(self._submission.arguments[index].data),
            }
            for index in indices
        }

    def _call(self, index: int, place: Mapping[str, Any] | None) -> Call:
        call_id = create_call_id(index)
        keys = self._callset.call_keys(call_id)
        members: dict[str, Any] = {
            **self._template.__dict__,
            "call_id": call_id,
            "data_key": keys.data,
            "output_key": keys.output,
            "status_key": keys.status,
            "cancel_key": keys.cancel,
            "attempt_key": self._callset.attempt_key(call_id, self._template.attempt),
            **(place or {"data_inline": self._submission.arguments[index].data}),
        }
        if self._submission.inputs and self._submission.inputs[index]:
            members.update(self._references(call_id, self._submission.inputs[index]))
        return Call(**members)

    def _references(self, call_id: str, inputs: Sequence[ResponseFuture]) -> dict[str, Any]:
        references = tuple(self._reference(call_id, number, one) for number, one in enumerate(inputs))
        if len(references) <= INLINE_REFERENCES:
            return {"references": references}
        data = encode_references(references)
        self._storage.put(self._callset.call_keys(call_id).references, data)
        return {"references_sha256": sha256(data)}

    def _reference(self, call_id: str, number: int, one: ResponseFuture) -> Reference:
        """Refer to where an outcome stands in this storage, or store it for this call."""
        status = future.settlement(one).source
        if isinstance(status, Status) and status.failure is None and one.storage_path == self._storage.path:
            self._callset.inputs.append(one)  # what it refers to must not go before this callset does
            if status.output_sha256 is not None and status.output_key:
                return Reference(status.output_key, status.output_sha256, one.callset_id, one.call_id)
            if status.outcome is not None:
                key = self._earlier_status_key(one)
                return Reference(key, sha256(status.outcome), one.callset_id, one.call_id)
        data = encoded_outcome(future.settlement(one))
        key = self._callset.call_keys(call_id).input(number)
        self._storage.put(key, data)
        return Reference(key, sha256(data), one.callset_id, one.call_id)

    def _earlier_status_key(self, one: ResponseFuture) -> str:
        return self._storage.keys(one.callset_id).call(one.call_id).status


def _delete_own(pid: int, storage: Storage, callset_id: str) -> None:
    if pid == os.getpid():  # a forked child must leave the parent's alone
        storage.delete_callset(callset_id)


def _runtime_members(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of the payload that name the user's own runtime.

    Raises:
        ConfigError: its digest is not known, and workers extract nothing unverified.
    """
    if not has_own_runtime(runtime):
        return {}
    named = {key: value for key, value in runtime.items() if key != "preinstalls"}
    url = f"s3://{runtime['s3_bucket']}/{runtime['s3_key']}"
    return {"runtime": named, "runtime_url": url, "runtime_sha256": required_sha256(runtime)}


def _call_id_of(payload: Mapping[str, Any]) -> str:
    return str(payload["call_id"])


def encoded_outcome(ended: Settlement) -> bytes:
    """Encode how a call ended, so that it can be handed on."""
    if ended.error is None:
        return Outcome(True, _pickling.dumps(ended.value).data).encode()
    packed = _pickling.dump_exception(ended.error)
    return Outcome(False, packed.required_body().data, packed.type_name, packed.text, packed.traceback).encode()


def agg_data(data_strs: Sequence[bytes]) -> tuple[bytes, list[tuple[int, int]]]:
    """Join pieces end to end; return the whole, and the first and last offset of each piece, both included."""
    ranges = []
    position = 0
    for piece in data_strs:
        ranges.append((position, position + len(piece) - 1))
        position += len(piece)
    return b"".join(data_strs), ranges
