"""The handler: runs one call on a worker, from its payload to its committed status.

::

    payload ─ decode, once ─ versions ─ (ended already?) ─ runtime ─ fetch function, argument, references; verify
            ─ run in a child
            ─ big outcome to its own object ─ status, signed, first commit wins
    meanwhile: check now and then whether the call was ended elsewhere; show that it runs (``worker.watch``)

The handler unpickles nothing. The child unpickles, but only what the handler has verified. The handler never imports
the client.

Threads: on Lambda one thread handles one call at a time; a stand-alone worker and the mock call ``Container.handle``
from several threads. While a call is handled, a thread ``pywren-status-watch`` looks after it. The container's lock
guards its storages and its runner, and is never held during a request. ``warm``, ``serves`` and
``looked_in_vain`` are hints that threads overwrite without a lock: a lost update only costs a request or a process.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from pywren.exceptions import (
    CallError,
    ConfigError,
    DecodeError,
    PywrenError,
    RuntimeSetupError,
    StorageError,
    StorageNoSuchKeyError,
    VersionMismatchError,
)
from pywren.pickling.packed import Packed, in_band
from pywren.storage import Storage
from pywren.version import PYTHON, __version__
from pywren.wire.beacon import Beacon
from pywren.wire.call import FORMAT, Call, Envelope
from pywren.wire.cause import CURABLE, Cause
from pywren.wire.chunk import CHUNK_FORMAT, Chunk
from pywren.wire.digests import sha256, verify_sha256
from pywren.wire.failure import Failure, cause_of
from pywren.wire.journal import PAGE_LIMIT, Page
from pywren.wire.keys import STATUS_SUFFIX, CallKeys
from pywren.wire.outcome import INLINE_OUTCOME_LIMIT, Outcome
from pywren.wire.references import Reference, decode_references
from pywren.wire.relay import Relay, is_relay
from pywren.wire.status import STATUS_LIMIT, Status
from pywren.worker import memory
from pywren.worker.chunk import ChunkRun, Done
from pywren.worker.extraction import ERROR
from pywren.worker.function_cache import FunctionCache, OutcomeCache
from pywren.worker.run_status import add_result, first_info, server_info, tail, texts
from pywren.worker.runtime_cache import Archive, RuntimeCache
from pywren.worker.task import Function, Runner, RunResult, Stop, Task
from pywren.worker.watch import BEACON_INTERVAL, FIRST_LOOK, LOOK_INTERVAL, BeaconWriter, CallWatch

if TYPE_CHECKING:
    from pywren.worker.relay import OwnFunction

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

LATE_START = 5.0
"""A call that starts this many seconds after its submission first checks whether it has been ended meanwhile."""

LATE_LOOK_PAUSE = 1.0
"""Seconds for which late calls skip that check after one that found nothing. When a map queues up, all of its calls
start late; one request for each would cost more than the second of calls that may run in vain."""

PLATFORM_MARGIN = 3.0
"""Seconds to reserve for reporting before the platform stops the worker."""

TRACE_VARIABLE = "_X_AMZN_TRACE_ID"
"""Lambda says in this variable which invocations have led to this one. AWS SDKs send it along, so that AWS can stop
functions that invoke each other for ever ("Use Lambda recursive loop detection", AWS Lambda Developer Guide)."""

REFERENCE_THREADS = 16
"""How many threads fetch the results that an argument refers to."""


class Container:
    """What a warm worker keeps between calls: storages, child processes, functions and runtimes.

    Several threads may handle calls at the same time, if the runner allows it.

    Args:
        runner: runs the child processes; by default the container's own fork server, which closes with the container.
        environment: environment variables for every call; a call's own ``extra_env`` takes precedence.
        context: what is known about every invocation; the context given to ``handle`` takes precedence.
        make_storage: makes a storage from a ``storage_config``.
        clock: returns seconds since the epoch.
        runtimes: extracts the users' runtimes; by default the container's own cache, which closes with the container.
        first_look: seconds before the first check whether a call was ended elsewhere, and before its first beacon.
        look_interval: seconds between later checks.
        beacon_interval: seconds between two writes of a call's beacon.
    """

    def __init__(
        self,
        runner: Runner | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        context: Mapping[str, Any] | None = None,
        make_storage: Callable[[Mapping[str, Any]], Storage] = Storage,
        clock: Callable[[], float] = time.time,
        runtimes: RuntimeCache | None = None,
        first_look: float = FIRST_LOOK,
        look_interval: float = LOOK_INTERVAL,
        beacon_interval: float = BEACON_INTERVAL,
    ) -> None:
        self.runtimes = runtimes or RuntimeCache()
        self.environment = dict(environment or {})
        self.context = dict(context or {})
        self.clock = clock
        self.first_look = first_look
        self.look_interval = look_interval
        self.beacon_interval = beacon_interval
        self.functions = FunctionCache()
        self.outcomes = OutcomeCache()
        self.warm = False
        self.looked_in_vain = -math.inf
        self.serves: object = None
        self._runner = runner
        self._owns_runner = runner is None
        self._owns_runtimes = runtimes is None
        self._make_storage = make_storage
        self._storages: dict[str, Storage] = {}
        self._functions: dict[str, OwnFunction] = {}
        # Innermost: a thread that holds it takes no other lock of pywren and sends no request.
        self._lock = threading.Lock()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the child processes, unless the caller provided the runner, and close the connections."""
        # Take these objects under the lock, but close them without it, because closing waits for processes.
        with self._lock:
            runner = self._runner if self._owns_runner else None
            if self._owns_runner:
                self._runner = None
            storages, self._storages = self._storages, {}
            functions, self._functions = self._functions, {}
        if runner is not None:
            runner.close()
        # A thread that is still in handle() keeps its storage and opens new connections for its commit.
        for storage in storages.values():
            storage.close()
        for function in functions.values():
            function.close()
        # After the runner, whose idle children may have a runtime's files open. A runtime that a running call uses
        # stays, because the call holds its lease.
        if self._owns_runtimes:
            self.runtimes.close()

    @property
    def runner(self) -> Runner:
        """The runner of the child processes, created on first use."""
        with self._lock:
            if self._runner is None:
                # Imported here: a container that was given its runner does not need it.
                from pywren.worker.parent.fork_server import ForkServer

                self._runner, self._owns_runner = ForkServer(), True
            return self._runner

    def storage(self, config: Mapping[str, Any]) -> Storage:
        """Return the storage for a ``storage_config``: the same object every time, so that connections are reused."""
        # A payload's configuration is JSON and may hold dicts, which cannot be hashed.
        name = repr(sorted((key, repr(value)) for key, value in config.items()))
        with self._lock:
            # A storage on this machine may delete old callsets here, for up to 0.3 s once an hour (``expire_if_due``).
            if name not in self._storages:
                self._storages[name] = self._make_storage(dict(config))  # cheap, because it sends nothing yet
            return self._storages[name]

    def handle(self, payload: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Run one call and commit its status; or run the calls of a chunk.

        Args:
            payload: what the client sent: ``Call.encode()``, ``Chunk.encode()`` or ``relay_payload()``.
            context: what the platform says about this invocation. Its strings (``aws_request_id``,
                ``log_group_name``, ``log_stream_name``) go into the status; ``remaining_seconds`` is the time after
                which the platform stops the worker. ``own_arn``, if there is one, returns the ARN of this
                function.

        Returns:
            The status as a dict, or ``None`` if the call was ended elsewhere. For a chunk or a relay, what became of
            its calls, in numbers.

        Raises:
            DecodeError: the payload is not valid.
            StorageError: the status could not be committed.
        """
        started = self.clock()
        context = {**self.context, **(context or {})}
        if is_relay(payload):
            return self._handle_relay(payload, context, started)
        try:
            # Before any request. An invalid payload is read as an Envelope instead: the few members that it takes to
            # tell the client.
            call = Call.decode(payload)
        except DecodeError as error:
            return self._refuse_unreadable(Envelope.decode(payload), context, started, error)
        storage = self.storage(call.storage_config)
        # After the storage, which is where the client looks for the refusal. Before anything is fetched or run: pickled
        # code works in one version of Python only.
        mismatch = _version_mismatch(call)
        if call.format == CHUNK_FORMAT:
            return self._handle_chunk(call, storage, context, started, mismatch)
        if mismatch is not None:
            return _refuse(call, storage, context, started, mismatch)
        status = _Attempt(self, call, storage, context, started).run()
        # Also after a call that failed: the container is warm all the same.
        self.warm = True
        return None if status is None else status.document()

    def _handle_chunk(
        self,
        first: Call,
        storage: Storage,
        context: Mapping[str, Any],
        started: float,
        mismatch: VersionMismatchError | None,
    ) -> dict[str, Any]:
        """Run the calls of a chunk, and write what became of them into its journal."""
        try:
            chunk = Chunk.of(first)
        except DecodeError as error:
            _refuse(first, storage, context, started, mismatch or error)
            raise
        run = ChunkRun(
            chunk, storage, _ChunkCalls(self, storage, context, started).run,
            late=started - first.host_submit_time > LATE_START,
            beacon=_Attempt(self, chunk.calls[0], storage, context, started).beacon(chunk.key),
            pauses=(self.first_look, self.look_interval),
            remaining=_remaining(context, self.clock, started),
        )  # fmt: skip
        if mismatch is not None:
            return run.refuse([_refusal(call, context, started, mismatch) for call in chunk.calls])
        try:
            return run.run()
        finally:
            self.warm = True

    def _handle_relay(self, payload: Mapping[str, Any], context: Mapping[str, Any], started: float) -> dict[str, Any]:
        """Hand on the payloads of a relay. Their own workers find out whether they fit this version."""
        relay = Relay.decode(payload)
        # From the platform, never from the payload: the function can invoke itself only.
        own_arn = context.get("own_arn")
        if own_arn is None:
            raise DecodeError("the relay: only a Lambda function can hand payloads on")
        from pywren.worker.relay import RelayRun  # imported here: most workers never do

        info = {"start_time": started, "end_time": started, **texts(context)}
        remaining = _remaining(context, self.clock, started)
        invoke = self._function(own_arn()).invoke
        return RelayRun(relay, invoke, self.storage(relay.storage_config), remaining=remaining, info=info).run()

    def _function(self, arn: str) -> OwnFunction:
        from pywren.worker.relay import OwnFunction

        with self._lock:
            # One for each way in which the function is invoked: an ARN may have a qualifier.
            if arn not in self._functions:
                self._functions[arn] = OwnFunction(arn)  # it sends nothing yet
            return self._functions[arn]

    def _refuse_unreadable(
        self, envelope: Envelope, context: Mapping[str, Any], started: float, error: DecodeError
    ) -> dict[str, Any]:
        """End a call whose payload this version of pywren cannot read: another version made it, or it is damaged."""
        storage, mismatch = self.storage(envelope.storage_config), _version_mismatch(envelope)
        if mismatch is not None:
            return _refuse(envelope, storage, context, started, mismatch)
        _refuse(envelope, storage, context, started, error)
        raise error

    def refuse(self, payload: Mapping[str, Any], error: CallError) -> None:
        """End a call with an error without running it, unless it has a status already.

        Args:
            payload: what the client sent.
            error: the error that becomes the call's outcome.

        Raises:
            DecodeError: the payload is not valid.
            StorageError: the status could not be committed.
        """
        envelope = Envelope.decode(payload)
        _refuse(envelope, self.storage(envelope.storage_config), {}, self.clock(), error)


def _version_mismatch(envelope: Envelope | Call) -> VersionMismatchError | None:
    """Return an error if the client has another version, because its pickles may fail to load or behave differently."""
    ours = (__version__, PYTHON)
    theirs = (envelope.pywren_version, envelope.python_version or ours[1])
    if ours == theirs and envelope.format in (FORMAT, CHUNK_FORMAT):
        return None
    # Between two releases the version stays the same, while what is sent may change.
    formats = f" (its calls have format {envelope.format}, the worker reads format {FORMAT})"
    return VersionMismatchError(
        f"version mismatch: the client runs pywren {theirs[0]} on Python {theirs[1]}, the worker pywren "
        f"{ours[0]} on Python {ours[1]}{formats if envelope.format != FORMAT else ''}; "
        "run 'pywren deploy_lambda' to deploy the client's version to the worker "
        "(stand-alone workers: 'pywren standalone terminate_instances', then 'pywren standalone launch_instances')",
        ours[0],
        theirs[0],
    )


def _refuse(
    envelope: Envelope | Call, storage: Storage, context: Mapping[str, Any], started: float, error: PywrenError
) -> dict[str, Any]:
    """End a call without running it. The status is unsigned if the payload has no key to sign it with."""
    status = _refusal(envelope, context, started, error)
    # Conditional: on a second delivery by Lambda or SQS, the status of the first one stands.
    storage.commit_status(envelope.status_key, status.encode(envelope.attempt_key))
    return status.document()


def _refusal(envelope: Envelope | Call, context: Mapping[str, Any], started: float, error: PywrenError) -> Status:
    return Status(
        callset_id=envelope.callset_id,
        call_id=envelope.call_id,
        attempt=envelope.attempt,
        failure=Failure.of(error),
        info={"start_time": started, "end_time": started, "status_key": envelope.status_key, **texts(context)},
    )


def _remaining(context: Mapping[str, Any], clock: Callable[[], float], started: float) -> Callable[[], float | None]:
    """Return a function that tells how many seconds the platform leaves for calls; ``None`` for no limit."""
    remaining = context.get("remaining_seconds")
    if remaining is None:
        return lambda: None
    return lambda: float(remaining) - PLATFORM_MARGIN - (clock() - started)


class _ChunkCalls:
    """Runs the calls of a chunk, for ``ChunkRun``. The arguments are those of ``_Attempt``."""

    def __init__(self, container: Container, storage: Storage, context: Mapping[str, Any], started: float) -> None:
        self._container = container
        self._storage = storage
        self._context = context
        self._remaining = _remaining(context, container.clock, started)
        # Once: pages contain what all statuses share only once, and this is most of a status.
        self._machine = server_info()

    def run(self, call: Call, stopped: Stop) -> Done:
        """Run one call."""
        left = self._remaining()
        context = self._context if left is None else {**self._context, "remaining_seconds": left + PLATFORM_MARGIN}
        attempt = _Attempt(self._container, call, self._storage, context, self._container.clock())
        attempt.info["server_info"] = self._machine
        status, size = _bounded(attempt.outcome(stopped))
        self._container.warm = True
        return Done(status, size, attempt.may_be_followed(), attempt.cause)


class _Attempt:
    """One attempt of one call on this worker."""

    def __init__(
        self, container: Container, call: Call, storage: Storage, context: Mapping[str, Any], started: float
    ) -> None:
        self.container = container
        self.call = call
        self.storage = storage
        self.context = context
        self.started = started
        self.keys = CallKeys(call.status_key.removesuffix(STATUS_SUFFIX))
        self.info = self._first_info()
        self.cause: Cause | None = None  # why the attempt has no value

    def run(self) -> Status | None:
        """Run all steps of the call. Return the status that was written; ``None`` if the call already had a status."""
        # A call that starts promptly skips the check: a GET for each call of a map would cost more than the few
        # cancelled calls that it saves.
        if self._starts_late() and self._ended_before():
            logger.info("call %s of %s was ended before it started", self.call.call_id, self.call.callset_id)
            return None
        status = self._survive(self._watched)
        return None if status is None else self._commit(status)

    def outcome(self, stopped: Stop) -> Status:
        """Run the call, and return its status without writing it."""
        return self._survive(lambda: self._status(self._execute(stopped)))

    def _survive(self, run: Callable[[], _Answer]) -> _Answer | Status:
        try:
            # An exception that left the handler would leave the call without a status: the client would learn of it
            # only from Lambda's record, and SQS would deliver the call again.
            return run()
        except Exception as error:  # any error that the handler survives becomes the call's outcome
            logger.warning("call %s of %s failed on the worker", self.call.call_id, self.call.callset_id, exc_info=True)
            return self._failed(_failure(error))

    def _starts_late(self) -> bool:
        # By two machines' clocks. If they differ, the check runs too often or never, which costs a request or a run in
        # vain.
        return self.started - self.call.host_submit_time > LATE_START

    def _ended_before(self) -> bool:
        """Tell whether the call was ended before it started; False if a recent check for another call found nothing."""
        # Read without the lock: threads that race here send one request too many.
        if 0 <= self.started - self.container.looked_in_vain < LATE_LOOK_PAUSE:
            return False
        stands = self._status_stands()
        self.container.looked_in_vain = -math.inf if stands else self.started
        return stands

    def _watched(self) -> Status | None:
        """Execute the call while the watch looks after it; ``None`` if the call was ended elsewhere meanwhile."""
        # From the beginning: fetching a big runtime takes longer than clients wait for a sign of life.
        beacon = self.beacon(self.call.attempt_key)
        watch = CallWatch(self._status_stands, beacon, self.container.first_look, self.container.look_interval)
        with watch:
            # This thread blocks here for the whole call. The watch's thread stops it by setting ``stopped``, which
            # kills the child's process group.
            result = self._execute(watch.stopped)
        # If the watch has stopped the call, the call has a status already, so this attempt has nothing to add.
        return None if watch.stopped.is_set() else self._status(result)

    def beacon(self, key: bytes | None) -> BeaconWriter | None:
        """Return what writes the beacon of the call, signed with this key; ``None`` if there is none to write."""
        if not self.call.beacon or key is None:
            return None
        context = texts(self.context)
        beacon = Beacon(
            self.call.callset_id,
            self.call.call_id,
            self.call.attempt,
            self.started,
            request_id=context.get("aws_request_id", "")[:_NAME_LIMIT],
            log_group=context.get("log_group_name", "")[:_NAME_LIMIT],
            log_stream=context.get("log_stream_name", "")[:_NAME_LIMIT],
            instance="" if "log_stream_name" in context else platform.node()[:_NAME_LIMIT],
        )
        place = self.keys.beacon(self.call.attempt)
        return BeaconWriter(
            beacon, lambda one: self.storage.put(place, one.encode(key)), self.container.beacon_interval
        )

    def _execute(self, stopped: Stop) -> RunResult:
        # Before the runtime is extracted: the processes of another function may hold the disk space that it needs.
        self._end_other_processes()
        archive = Archive.of_call(self.call)
        if archive is None:
            return self._run(stopped)
        used = {"runtime_s3_bucket_used": archive.bucket, "runtime_s3_key_used": archive.key, "runtime_cached": False}
        self.info.update(used)
        # The lease lasts as long as the call, so the runtime is not removed while the child imports from it.
        with self.container.runtimes.lease(archive, fresh=not self.call.use_cached_runtime) as lease:
            self.info["runtime_cached"] = lease.cached
            return self._run(stopped, lease.path)

    def _end_other_processes(self) -> None:
        """Stop processes that this call may not use, to free their memory and their runtimes' disk space."""
        # Only waiting processes end, so calls of other maps that run on other threads are not disturbed. With two
        # functions in turn, each call ends the other function's idle processes.
        wanted = self._shared_as(self.call.runtime_sha256)
        if self.container.serves != wanted or not self.call.use_cached_runtime:
            self.container.serves = wanted
            self.container.runner.end_waiting()

    def _shared_as(self, runtime: str | None) -> tuple[str | None, ...]:
        """Return what the calls have in common that may use the same processes: function, runtime and client.

        The function is the same if its digest is, which covers the modules that were sent with it. Calls of several
        callsets share processes if the same process of a client made them. What they leave in variables of libraries
        and modules, they leave to each other; nobody else's calls find it. A payload that does not name its client is
        by itself.
        """
        client = self.call.client_process
        maker = ("callset", self.call.callset_id) if client is None else ("client", client)
        return *maker, self.call.func_sha256, runtime

    def _run(self, stopped: Stop, runtime_path: str | None = None) -> RunResult:
        function = self._fetch_function(runtime_path)
        data = self._fetch_data()
        references = self._fetch_references()
        self.info["setup_time"] = self.container.clock() - self.started
        task = Task(
            function=function,
            data=Packed(data),
            references=references,
            extra_env={**self.container.environment, **(self.call.extra_env or {})},
            timeout=self._timeout(),
            trace={TRACE_VARIABLE: os.environ.get(TRACE_VARIABLE)},
        )
        kills = memory.oom_kills()
        result = self._run_child(task, stopped)
        return result if result.failure is None else result._replace(failure=memory.judge(result.failure, kills))

    def _run_child(self, task: Task, stopped: Stop) -> RunResult:
        try:
            return self.container.runner.run(task, stopped=stopped)
        except ConfigError as error:
            if task.function.runtime_path is None:
                raise
            raise RuntimeSetupError(str(error), ERROR) from error  # the runtime's interpreter no longer starts

    # -- before the child ------------------------------------------------------------------------------------

    def _fetch_function(self, runtime_path: str | None) -> Function:
        begun = self.container.clock()
        key, digest = self.call.func_key, self.call.func_sha256
        limit = self.call.func_size
        # ``limit`` comes from the payload: a replaced object must not fill this worker's memory before its digest is
        # checked.
        staged = self.container.functions.get(key, digest, lambda: self.storage.get(key, limit=limit))
        self.info["func_download_time"] = self.container.clock() - begun
        # The name contains the callset: a map gets the function as it was sent, not as an earlier map changed it. The
        # path is of one extraction: processes that have imported from an older copy of the runtime are not used again.
        name = f"{self.call.callset_id} {digest} {runtime_path}"
        shared_as = self._shared_as(runtime_path)
        return Function(name, Packed(staged.pickle), staged.modules, runtime_path, shared_as=shared_as)

    def _fetch_data(self) -> bytes:
        if self.call.data_inline is not None:
            return self.call.data_inline
        begun = self.container.clock()
        data = self.storage.get(self.call.data_key, self.call.data_byte_range, limit=self.call.data_size)
        self.info["data_download_time"] = self.container.clock() - begun
        # Before the child sees it: unpickling runs code, and anyone who can write to the prefix can replace the object.
        verify_sha256(data, self.call.data_sha256, self.call.data_key)
        return data

    def _fetch_references(self) -> tuple[bytes, ...]:
        references = self._references()
        if len(references) < 2:
            return tuple(self._fetch_reference(reference) for reference in references)
        # The threads hide the latency of S3, and end with this block. The first error in order ends the call.
        with ThreadPoolExecutor(min(len(references), REFERENCE_THREADS)) as pool:
            return tuple(pool.map(self._fetch_reference, references))

    def _references(self) -> tuple[Reference, ...]:
        if self.call.references_sha256 is None:
            return self.call.references
        data = self.storage.get(self.keys.references, limit=self.call.references_size)
        verify_sha256(data, self.call.references_sha256, self.keys.references)
        return decode_references(data)

    def _fetch_reference(self, reference: Reference) -> bytes:
        """Return the encoded outcome of an earlier call; often of one that a program has put there for many calls."""
        what = f"the result of call {reference.call_id} of callset {reference.callset_id} at {reference.key}"
        try:
            return self.container.outcomes.get(
                reference.key, reference.sha256, lambda: self._read_reference(reference), what
            )
        except StorageNoSuchKeyError as error:
            raise StorageError(
                f"an argument of the call is gone from the storage: {what}. It was deleted, or was older than the "
                "bucket keeps objects; make it again"
            ) from error

    def _read_reference(self, reference: Reference) -> bytes:
        # No signature is checked: this worker lacks the key of the other call. The digest, which the client took
        # from a status that it verified, covers the outcome.
        if reference.key.endswith(STATUS_SUFFIX):
            return Status.decode(self.storage.get(reference.key, limit=STATUS_LIMIT)).outcome or b""
        if self.storage.keys(reference.callset_id).parse_page(reference.key) is not None:
            page = Page.decode(self.storage.get(reference.key, limit=PAGE_LIMIT))
            return next((one.outcome for one in page.statuses if one.call_id == reference.call_id), None) or b""
        return self.storage.get(reference.key, limit=reference.size)

    def _timeout(self) -> float:
        remaining = self.context.get("remaining_seconds")
        if remaining is None:
            return self.call.job_max_runtime
        # At the function's time-out Lambda kills the worker without notice, and then nothing could report.
        left = float(remaining) - PLATFORM_MARGIN - (self.container.clock() - self.started)
        # Never negative: the set-up may have taken all the time that was left.
        return max(0.0, min(self.call.job_max_runtime, left))

    def _status_stands(self) -> bool:
        try:
            # One byte of it: only its existence matters. A HEAD costs the same, but answers a missing permission
            # without a reason.
            self.storage.get(self.call.status_key, (0, 0))
        except StorageNoSuchKeyError:
            return False
        except StorageError as error:
            # If the call continues to run, at worst it runs in vain; the first commit wins anyway.
            logger.warning("cannot check for a status at %s: %s", self.call.status_key, error)
            return False
        return True

    # -- after the child -------------------------------------------------------------------------------------

    def _status(self, result: RunResult) -> Status:
        add_result(self.info, result)
        if result.failure is not None:
            return self._failed(result.failure)
        if result.success is None or result.body is None:
            return self._failed(Failure("CallError", "the worker's child returned neither an outcome nor a failure"))
        if not result.success:
            self.cause = Cause.EXCEPTION
        name, text, trace = result.exception or (None, None, None)
        outcome = Outcome(result.success, in_band(result.body), name, text, trace).encode()
        if len(outcome) <= INLINE_OUTCOME_LIMIT:
            return self._make_status(outcome=outcome, exception_traceback=trace)
        return self._make_status(
            output_key=self._store_outcome(outcome),
            output_sha256=sha256(outcome),
            output_size=len(outcome),
            exception_traceback=trace,
        )

    def _store_outcome(self, outcome: bytes) -> str:
        """Store an outcome that is too big for the status, and return its key."""
        begun = self.container.clock()
        key = self.call.output_key
        # The outcome before the status: a reader of the status must find the object that it names.
        if not self.storage.put(key, outcome, if_absent=True):
            # Another attempt wrote the object, or Lambda delivered this attempt twice (it delivers at least once).
            # Overwriting could replace what the other attempt's status has signed, and the existing object is
            # unverified.
            key = self.keys.spare_output(self.call.attempt, sha256(outcome))
            self.storage.put(key, outcome)
        self.info["output_upload_time"] = self.container.clock() - begun
        return key

    def _failed(self, failure: Failure) -> Status:
        if failure.cause is None:
            failure = failure._replace(cause=cause_of(failure.kind, failure.details) or Cause.WORKER_FAILED)
        self.cause = failure.cause
        return self._make_status(failure=failure)

    def _make_status(self, *, exception_traceback: str | None = None, **outcome: Any) -> Status:
        end = self.container.clock()
        self.info["end_time"] = end
        self.info.setdefault("exec_time", end - self.started)
        return Status(
            callset_id=self.call.callset_id,
            call_id=self.call.call_id,
            attempt=self.call.attempt,
            exception_traceback=tail(exception_traceback),
            info=self.info,
            **{"output_key": self.call.output_key, **outcome},
        )

    def _commit(self, status: Status) -> Status | None:
        body = status.encode(self.call.attempt_key)
        if len(body) > STATUS_LIMIT:  # clients would not read beyond it
            status = _too_large(status, len(body))
            body = status.encode(self.call.attempt_key)
        # Not at the status key: the first status there ends the call for good, and a retry would have nothing left to
        # say. If the attempt was delivered twice, the first status counts here too.
        if self.may_be_followed():
            self.storage.put(self.keys.attempt(self.call.attempt), body, if_absent=True)
            return status
        # The write is conditional: a canceller, another attempt or a second delivery may have ended the call first.
        if self.storage.commit_status(self.call.status_key, body):
            return status
        logger.info("call %s of %s was ended elsewhere while it ran", self.call.call_id, self.call.callset_id)
        return None

    def may_be_followed(self) -> bool:
        """Tell whether the client may let another attempt follow this one. The client decides; it may also end it."""
        if self.cause is None or self.cause in (Cause.CANCELLED, Cause.REFUSED):
            return False
        return self.call.retry_exceptions or (self.call.retryable and self.cause in CURABLE)

    def _first_info(self) -> dict[str, Any]:
        call = self.call
        return first_info(
            func_key=call.func_key,
            data_key=call.data_key,
            status_key=call.status_key,
            host_submit_time=call.host_submit_time,
            start_time=self.started,
            runtime_cached=call.use_cached_runtime and self.container.warm,
            context=self.context,
        )


def _too_large(status: Status, size: int) -> Status:
    text = f"the status of the call is too large: {size:,} bytes, but the limit is {STATUS_LIMIT:,}"
    return Status(status.callset_id, status.call_id, status.attempt, Failure(CallError.__name__, text))


def _bounded(status: Status) -> tuple[Status, int]:
    """Return a status that fits into a page, and about how many bytes it takes there."""
    texts_of = (*status.info.values(), *(status.failure or ()), status.exception_traceback)
    size = len(status.outcome or b"") * 4 // 3 + sum(len(one) for one in texts_of if isinstance(one, str))
    if size < STATUS_LIMIT // 12 and not (status.failure and status.failure.details):
        return status, size  # JSON spells a character with 12 bytes at most
    size = len(status.encode(None))
    return (_too_large(status, size), size) if size > STATUS_LIMIT else (status, size)


def _failure(error: Exception) -> Failure:
    """Turn an error in the handler into the failure that is sent to the client."""
    if isinstance(error, PywrenError):
        return Failure.of(error)
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return Failure(CallError.__name__, f"the worker itself failed:\n{tail(trace)}", cause=Cause.WORKER_FAILED)


_NAME_LIMIT = 512
"""The longest name of a log group or log stream, in characters (CloudWatch Logs quotas)."""
