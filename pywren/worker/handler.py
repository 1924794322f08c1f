"""The handler: the way of one call through a worker, from its payload to its committed status.

::

    payload ─ decode ─ versions ─ (ended already?) ─ runtime ─ fetch function, argument, references; verify
            ─ run in a child, and look now and then whether the call was ended elsewhere
            ─ big outcome to its own object ─ status, signed, first commit wins

Nothing is unpickled here: that is done in the child, with what was verified here. The handler never imports
the client.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import pickle
import platform
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pywren.exceptions import (
    CallError,
    CallLostError,
    ConfigError,
    DecodeError,
    PywrenError,
    RuntimeSetupError,
    StorageError,
    StorageNoSuchKeyError,
    VersionMismatchError,
    WorkerCrashedError,
)
from pywren.pickling.format import PROTOCOL
from pywren.pickling.packed import Packed
from pywren.storage import Storage
from pywren.version import __version__
from pywren.wire.call import Call, Envelope
from pywren.wire.digests import sha256, verify_sha256
from pywren.wire.failure import Failure
from pywren.wire.function import StagedFunction
from pywren.wire.keys import STATUS_SUFFIX, CallKeys
from pywren.wire.outcome import INLINE_OUTCOME_LIMIT, Outcome
from pywren.wire.references import Reference, decode_references
from pywren.wire.status import STATUS_LIMIT, Status
from pywren.worker.runtime_files import ERROR, Archive, RuntimeFiles
from pywren.worker.task import Function, Runner, RunResult, Stop, Task

logger = logging.getLogger(__name__)

FUNCTION_CACHE_LIMIT = 128 * 1024 * 1024
"""Bytes of staged functions that a warm worker keeps; a bigger one is fetched for every call."""

LATE_START = 5.0
"""Seconds after its submission from which on a call may have been ended before it starts."""

LATE_LOOK_PAUSE = 1.0
"""Seconds for which a late start's look that found nothing does for the calls after it: when a map queues up, all
of it starts late, and a request each would cost more than the second of calls that may run in vain."""

FIRST_LOOK = 2.0
"""Seconds of running after which the handler first looks whether the call was ended elsewhere."""

LOOK_INTERVAL = 3.0
"""Seconds between one such look and the next."""

PLATFORM_MARGIN = 3.0
"""Seconds that are left to report before the platform ends the worker."""

TAIL_LIMIT = 32 * 1024
"""Characters of output, text or traceback that a status carries: it is listed and fetched often."""

REFERENCE_THREADS = 16


class Container:
    """What a warm worker keeps between calls: storages, children, functions, runtimes.

    Calls may be handled by several threads at once, when the runner can.

    Args:
        runner: what runs the children; a fork server of its own, closed with the container, when not given.
        environment: environment variables for every call, under its own ``extra_env``.
        context: what is known about every invocation, under what ``handle`` is told.
        make_storage: makes a storage of a ``storage_config``.
        clock: tells the time in seconds since the epoch.
        runtimes: extracts the users' runtimes; its own, closed with the container, when not given.
        first_look: seconds of running after which a call is first looked after.
        look_interval: seconds between looks.
    """

    def __init__(
        self,
        runner: Runner | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        context: Mapping[str, Any] | None = None,
        make_storage: Callable[[Mapping[str, Any]], Storage] = Storage,
        clock: Callable[[], float] = time.time,
        runtimes: RuntimeFiles | None = None,
        first_look: float = FIRST_LOOK,
        look_interval: float = LOOK_INTERVAL,
    ) -> None:
        self.runtimes = runtimes or RuntimeFiles()
        self.environment = dict(environment or {})
        self.context = dict(context or {})
        self.clock = clock
        self.first_look = first_look
        self.look_interval = look_interval
        self.functions = FunctionCache(FUNCTION_CACHE_LIMIT)
        self.warm = False
        self.looked_in_vain = -math.inf
        self.callset_id = ""
        self._runner = runner
        self._owns_runner = runner is None
        self._owns_runtimes = runtimes is None
        self._make_storage = make_storage
        self._storages: dict[str, Storage] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children, unless the runner was given, and give up connections."""
        with self._lock:
            runner = self._runner if self._owns_runner else None
            if self._owns_runner:
                self._runner = None
            storages, self._storages = self._storages, {}
        if runner is not None:
            runner.close()
        for storage in storages.values():
            storage.close()
        if self._owns_runtimes:
            self.runtimes.close()

    @property
    def runner(self) -> Runner:
        """What runs the children."""
        with self._lock:
            if self._runner is None:
                from pywren.worker.parent.process import ForkServer

                self._runner, self._owns_runner = ForkServer(), True
            return self._runner

    def storage(self, config: Mapping[str, Any]) -> Storage:
        """Return the storage of a ``storage_config``, the same one every time."""
        name = repr(sorted((key, repr(value)) for key, value in config.items()))
        with self._lock:
            if name not in self._storages:
                self._storages[name] = self._make_storage(dict(config))
            return self._storages[name]

    def handle(self, payload: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Run one call and commit its status.

        Args:
            payload: what the client sent: ``Call.encode()``.
            context: what the platform says about this invocation. Its texts (``aws_request_id``,
                ``log_group_name``, ``log_stream_name``) go into the status; ``remaining_seconds`` is the
                time after which the platform ends the worker.

        Returns:
            The status as a dict, or ``None`` when the call had been ended elsewhere.

        Raises:
            DecodeError: the payload is not one.
            StorageError: the status could not be committed.
        """
        started = self.clock()
        context = {**self.context, **(context or {})}
        envelope = Envelope.decode(payload)
        storage = self.storage(envelope.storage_config)
        try:
            _check_versions(envelope)
            call = Call.decode(payload)
        except VersionMismatchError as error:
            return _refuse(envelope, storage, context, started, error)
        except DecodeError as error:
            _refuse(envelope, storage, context, started, error)
            raise
        status = _Attempt(self, call, storage, context, started).run()
        self.warm = True
        return None if status is None else status.document()

    def refuse(self, payload: Mapping[str, Any], error: CallError) -> None:
        """End a call, without running it, with an error as its status, unless one stands.

        Args:
            payload: what the client sent.
            error: what becomes of the call.

        Raises:
            DecodeError: the payload is not one.
            StorageError: the status could not be committed.
        """
        envelope = Envelope.decode(payload)
        _refuse(envelope, self.storage(envelope.storage_config), {}, self.clock(), error)


def _check_versions(envelope: Envelope) -> None:
    ours = (__version__, f"{sys.version_info.major}.{sys.version_info.minor}")
    theirs = (envelope.pywren_version, envelope.python_version or ours[1])
    if ours != theirs:
        raise VersionMismatchError(
            f"version mismatch: the client runs pywren {theirs[0]} on Python {theirs[1]}, the worker pywren "
            f"{ours[0]} on Python {ours[1]}; run 'pywren deploy_lambda' to bring the worker to the client's "
            "(stand-alone workers: 'pywren standalone terminate_instances', then 'pywren standalone launch_instances')",
            ours[0],
            theirs[0],
        )


def _refuse(
    envelope: Envelope, storage: Storage, context: Mapping[str, Any], started: float, error: PywrenError
) -> dict[str, Any]:
    """End a call of which no more than the envelope was read; without a key in it, the status is unsigned."""
    status = Status(
        callset_id=envelope.callset_id,
        call_id=envelope.call_id,
        attempt=envelope.attempt,
        failure=Failure.of(error),
        info={"start_time": started, "end_time": started, "status_key": envelope.status_key, **_texts(context)},
    )
    storage.commit_status(envelope.status_key, status.encode(envelope.attempt_key))
    return status.document()


def _texts(context: Mapping[str, Any]) -> dict[str, str]:
    """Return what of the platform's context goes into the status."""
    return {key: value for key, value in context.items() if isinstance(value, str)}


class FunctionCache:
    """Staged functions that were fetched and verified, the last used ones, up to a number of bytes.

    Args:
        limit: bytes that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[tuple[str, str | None], tuple[StagedFunction, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: str, digest: str | None, fetch: Callable[[], bytes]) -> StagedFunction:
        """Return the function under a key, fetched at most once while it is kept.

        Args:
            key: the key of its object.
            digest: the SHA-256 the payload carries.
            fetch: reads the object.

        Raises:
            IntegrityError: the object is not the one the payload speaks of.
            StorageError: it cannot be read.
        """
        with self._lock:  # held while fetching: calls of one map want one function, and once
            if (key, digest) in self._entries:
                self._entries.move_to_end((key, digest))
                return self._entries[key, digest][0]
            data = fetch()
            verify_sha256(data, digest, key)
            function = StagedFunction.decode(data)
            self._keep((key, digest), function, len(data))
            return function

    def _keep(self, name: tuple[str, str | None], function: StagedFunction, size: int) -> None:
        if size > self._limit:
            return
        self._entries[name] = function, size
        self._size += size
        while self._size > self._limit:
            _, (_, dropped) = self._entries.popitem(last=False)
            self._size -= dropped


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

    def run(self) -> Status | None:
        """Go through the steps; return the status that was written, ``None`` when another stands."""
        if self._starts_late() and self._ended_before():
            logger.info("call %s of %s had been ended before it started", self.call.call_id, self.call.callset_id)
            return None
        try:
            status = self._execute()
        except Exception as error:  # whatever the handler survives is reported
            logger.warning("call %s of %s failed on the worker", self.call.call_id, self.call.callset_id, exc_info=True)
            status = self._failed(_failure(error))
        return None if status is None else self._commit(status)

    def _starts_late(self) -> bool:
        return self.started - self.call.host_submit_time > LATE_START

    def _ended_before(self) -> bool:
        """Look whether the call was ended before it started, unless there was nothing to be found a moment ago."""
        if 0 <= self.started - self.container.looked_in_vain < LATE_LOOK_PAUSE:
            return False
        stands = self._status_stands()
        self.container.looked_in_vain = -math.inf if stands else self.started
        return stands

    def _execute(self) -> Status | None:
        self._end_other_callsets()
        archive = Archive.of_call(self.call)
        if archive is None:
            return self._run()
        used = {"runtime_s3_bucket_used": archive.bucket, "runtime_s3_key_used": archive.key, "runtime_cached": False}
        self.info.update(used)
        with self.container.runtimes.lease(archive, fresh=not self.call.use_cached_runtime) as lease:
            self.info["runtime_cached"] = lease.cached
            return self._run(lease.path)

    def _end_other_callsets(self) -> None:
        """End processes that wait for calls of another map: what they hold of memory and runtimes is needed now."""
        if self.container.callset_id != self.call.callset_id or not self.call.use_cached_runtime:
            self.container.callset_id = self.call.callset_id
            self.container.runner.end_waiting()

    def _run(self, runtime_path: str | None = None) -> Status | None:
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
        )
        watch = StatusWatch(self._status_stands, self.container.first_look, self.container.look_interval)
        with watch:
            result = self._run_child(task, watch.stopped)
        return None if watch.stopped.is_set() else self._status(result)

    def _run_child(self, task: Task, stopped: Stop) -> RunResult:
        try:
            return self.container.runner.run(task, stopped=stopped)
        except ConfigError as error:
            if task.function.runtime_path is None:
                raise
            raise RuntimeSetupError(str(error), ERROR) from error  # its interpreter cannot be started any more

    # -- before the child ------------------------------------------------------------------------------------

    def _fetch_function(self, runtime_path: str | None) -> Function:
        begun = self.container.clock()
        key, digest = self.call.func_key, self.call.func_sha256
        limit = self.call.func_size
        staged = self.container.functions.get(key, digest, lambda: self.storage.get(key, limit=limit))
        self.info["func_download_time"] = self.container.clock() - begun
        # each map has the function as it was sent, not as calls of an earlier one have left it
        name = f"{self.call.callset_id} {digest} {runtime_path}"
        return Function(name, Packed(staged.pickle), staged.modules, runtime_path)

    def _fetch_data(self) -> bytes:
        if self.call.data_inline is not None:
            return self.call.data_inline
        begun = self.container.clock()
        data = self.storage.get(self.call.data_key, self.call.data_byte_range, limit=self.call.data_size)
        self.info["data_download_time"] = self.container.clock() - begun
        verify_sha256(data, self.call.data_sha256, self.call.data_key)
        return data

    def _fetch_references(self) -> tuple[bytes, ...]:
        references = self._references()
        if len(references) < 2:
            return tuple(self._fetch_reference(reference) for reference in references)
        with ThreadPoolExecutor(min(len(references), REFERENCE_THREADS)) as pool:
            return tuple(pool.map(self._fetch_reference, references))

    def _references(self) -> tuple[Reference, ...]:
        if self.call.references_sha256 is None:
            return self.call.references
        data = self.storage.get(self.keys.references, limit=self.call.references_size)
        verify_sha256(data, self.call.references_sha256, self.keys.references)
        return decode_references(data)

    def _fetch_reference(self, reference: Reference) -> bytes:
        if reference.key.endswith(STATUS_SUFFIX):
            data = Status.decode(self.storage.get(reference.key, limit=STATUS_LIMIT)).outcome or b""
        else:
            data = self.storage.get(reference.key, limit=reference.size)
        what = f"the result of call {reference.call_id} of callset {reference.callset_id} at {reference.key}"
        verify_sha256(data, reference.sha256, what)
        return data

    def _timeout(self) -> float:
        remaining = self.context.get("remaining_seconds")
        if remaining is None:
            return self.call.job_max_runtime
        left = float(remaining) - PLATFORM_MARGIN - (self.container.clock() - self.started)
        return max(0.0, min(self.call.job_max_runtime, left))

    def _status_stands(self) -> bool:
        try:
            self.storage.get(self.call.status_key, (0, 0))
        except StorageNoSuchKeyError:
            return False
        except StorageError as error:
            # to run on costs at most a run in vain; the first commit wins anyway
            logger.warning("cannot look for the status at %s: %s", self.call.status_key, error)
            return False
        return True

    # -- after the child -------------------------------------------------------------------------------------

    def _status(self, result: RunResult) -> Status:
        fetching = self.info["setup_time"]  # here; unpickling, in the child, comes on top
        self.info.update(result.info)
        self.info.update(
            setup_time=fetching + float(result.info.get("setup_time", 0.0)),
            retcode=result.returncode,
            stdout=_tail(result.stdout),
            stderr=_tail(result.stderr),
        )
        if result.failure is not None:
            return self._failed(result.failure)
        if result.success is None or result.body is None:
            return self._failed(Failure("CallError", "the worker's child gave neither an outcome nor a failure"))
        name, text, trace = result.exception or (None, None, None)
        outcome = Outcome(result.success, _in_band(result.body), name, text, trace).encode()
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
        if not self.storage.put(key, outcome, if_absent=True):
            # Another attempt was here, or this one was delivered twice. Overwriting could change what the
            # other's status has signed, and what stands there cannot be believed.
            key = self.keys.spare_output(self.call.attempt, sha256(outcome))
            self.storage.put(key, outcome)
        self.info["output_upload_time"] = self.container.clock() - begun
        return key

    def _failed(self, failure: Failure) -> Status:
        return self._make_status(failure=failure)

    def _make_status(self, *, exception_traceback: str | None = None, **outcome: Any) -> Status:
        end = self.container.clock()
        self.info["end_time"] = end
        self.info.setdefault("exec_time", end - self.started)
        return Status(
            callset_id=self.call.callset_id,
            call_id=self.call.call_id,
            attempt=self.call.attempt,
            exception_traceback=_tail(exception_traceback),
            info=self.info,
            **{"output_key": self.call.output_key, **outcome},
        )

    def _commit(self, status: Status) -> Status | None:
        body = status.encode(self.call.attempt_key)
        if len(body) > STATUS_LIMIT:  # nobody would read it
            text = f"the status of the call would have {len(body):,} bytes, and {STATUS_LIMIT:,} are read at most"
            status = Status(status.callset_id, status.call_id, status.attempt, Failure(CallError.__name__, text))
            body = status.encode(self.call.attempt_key)
        if self.call.retryable and _may_be_retried(status.failure):
            self.storage.put(self.keys.attempt(self.call.attempt), body, if_absent=True)
            return status
        if self.storage.commit_status(self.call.status_key, body):
            return status
        logger.info("call %s of %s was ended elsewhere", self.call.call_id, self.call.callset_id)
        return None

    def _first_info(self) -> dict[str, Any]:
        call = self.call
        info: dict[str, Any] = {
            "start_time": self.started,
            "setup_time": 0.0,
            "host_submit_time": call.host_submit_time,
            "func_key": call.func_key,
            "data_key": call.data_key,
            "status_key": call.status_key,
            "runtime_cached": call.use_cached_runtime and self.container.warm,
            "runtime_s3_key_used": None,
            "runtime_s3_bucket_used": None,
            "retcode": None,
            "stdout": "",
            "stderr": "",
            "func_download_time": 0.0,
            "data_download_time": 0.0,
            "output_upload_time": 0.0,
            "server_info": server_info(),
            "free_disk_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
        }
        info.update(_texts(self.context))
        return info


class StatusWatch:
    """Looks now and then whether a running call has been ended elsewhere, and then stops it.

    Args:
        stands: tells whether a status stands.
        first_look: seconds before the first look; a call that is quicker costs no request.
        interval: seconds between looks.
    """

    def __init__(self, stands: Callable[[], bool], first_look: float, interval: float) -> None:
        self.stopped = Stop()
        self._stands = stands
        self._pauses = first_look, interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="pywren-status-watch", daemon=True)

    def __enter__(self) -> StatusWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        first, interval = self._pauses
        pause = first
        while not self._over.wait(pause):
            if self._stands():
                self.stopped.set()
                return
            pause = interval


def server_info() -> dict[str, Any]:
    """Say what this machine is: system, Python, processors, memory in bytes; and the files of ``/proc`` 0.4 sent."""
    return {**_machine(), **_proc_file("/proc/meminfo")}


def _proc_file(path: str) -> dict[str, str]:
    """Return the beginning of a file as 0.4's ``server_info`` had it, where there is one: on Linux."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return {path: file.read(TAIL_LIMIT)}
    except OSError:
        return {}


@functools.cache  # these stay as they are; to read /proc/cpuinfo takes milliseconds where there are many processors
def _machine() -> Mapping[str, Any]:
    system = (platform.system(), platform.node(), platform.release(), platform.version(), platform.machine())
    info: dict[str, Any] = {
        "uname": " ".join(system),
        "python_version": platform.python_version(),
        "cpu_count": os.cpu_count(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        info["memory_bytes"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/proc/cpuinfo", "/proc/self/cgroup", "/proc/cgroups"):
        info.update(_proc_file(path))
    return info


def _failure(error: Exception) -> Failure:
    """Turn what went wrong in the handler into what travels to the client."""
    if isinstance(error, PywrenError):
        return Failure.of(error)
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return Failure(CallError.__name__, f"the worker itself failed:\n{_tail(trace)}")


def _may_be_retried(failure: Failure | None) -> bool:
    """Tell whether an attempt failed for no reason of the call's own: it vanished, or its worker did."""
    if failure is None:
        return False
    vanished = failure.kind == WorkerCrashedError.__name__ and failure.details[:1] == (None,)
    return vanished or failure.kind == CallLostError.__name__


def _in_band(packed: Packed) -> bytes:
    """Return a pickled object as one pickle, without unpickling it."""
    return pickle.dumps(_Joined(packed), PROTOCOL) if packed.buffers else packed.data


class _Joined:
    """Pickles as the call that reads a pickle together with its buffers; needs nothing of pywren to be read."""

    def __init__(self, packed: Packed) -> None:
        self._packed = packed

    def __reduce__(self) -> tuple[Any, ...]:
        buffers = []
        for buffer in self._packed.buffers:
            with buffer.raw() as view:
                buffers.append(bytes(view) if view.readonly else bytearray(view))
        return functools.partial(pickle.loads, buffers=buffers), (self._packed.data,)


def _tail(text: str | None) -> str | None:
    """Return the end of a long text."""
    if text is None or len(text) <= TAIL_LIMIT:
        return text
    return "…" + text[-TAIL_LIMIT:]
