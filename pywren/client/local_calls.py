"""Calls that run on this machine and whose outcomes stay in memory.

``LocalDispatcher`` hands callsets to the pool; ``LocalCallset`` is the origin of their futures. Only when a
future is pickled does its outcome go to a storage: the one of this machine, where another process finds it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pywren import future
from pywren.client import staged_calls, verdict
from pywren.client.callset import Callset, Submission
from pywren.exceptions import (
    CallCancelledError,
    CallLostError,
    PywrenError,
    ResultSerializationError,
    StorageError,
)
from pywren.future import ResponseFuture, Settlement
from pywren.storage import Storage
from pywren.system.private_files import make_directories, open_file
from pywren.version import __version__
from pywren.wire.call import Call
from pywren.wire.digests import sha256
from pywren.wire.failure import Failure
from pywren.wire.outcome import INLINE_OUTCOME_LIMIT
from pywren.wire.status import Status
from pywren.worker.task import Function, RunResult
from pywren.wrenutil import create_call_id

if TYPE_CHECKING:
    from pywren.worker.parent.pool import LocalPool

logger = logging.getLogger(__name__)


class HasPool(Protocol):
    """An invoker that says which pool calls go to; it may say another one when that has ended."""

    @property
    def pool(self) -> LocalPool:
        """The pool."""

    # It may also have ``environment``: the environment variables that calls see.


_KNOWN_AGAIN_BYTES = 64 * 1024
"""Size of a function up to which it is worth finding out whether the workers know it."""


class _Ended(NamedTuple):
    """What a future of this machine was settled with: the child's answer and when it came."""

    result: RunResult
    time: float


class _Sent(NamedTuple):
    """What ``invoke_status`` tells of a submission; few ask, so it is put together when somebody does."""

    data_bytes: int
    function_bytes: int
    use_cached_runtime: bool
    extra_env: Mapping[str, str] | None
    extra_meta: Mapping[str, Any]

    @classmethod
    def of(cls, submission: Submission) -> _Sent:
        """Note it, without keeping the arguments alive."""
        return cls(
            sum([packed.size for packed in submission.arguments]),
            submission.function.size + sum(map(len, submission.modules.values())),
            submission.options.get("use_cached_runtime", True),
            submission.extra_env,
            submission.extra_meta or {},
        )


class LocalCallset:
    """The origin of the futures of one callset that runs in the pool.

    Args:
        callset: the callset.
        storage: where outcomes go when their futures are pickled.
        pool: what runs the calls.
    """

    def __init__(self, callset: Callset, storage: Storage, pool: LocalPool) -> None:
        self.callset = callset
        self.storage = storage
        self._pool = pool
        self._batch: Any = None
        self._sent: _Sent | None = None
        self._futures: dict[int, ResponseFuture] = {}
        self._sharing = threading.Lock()
        self._shared: set[str] = set()
        self._stored: set[str] = set()
        self._lock_file: Any = None
        self._last_result = time.monotonic()
        self._wondered = False
        _callsets.add(self)

    def submit(
        self, submission: Submission, show_output: bool, environment: Mapping[str, str] | None
    ) -> list[ResponseFuture]:
        """Hand the calls to the pool and return their futures."""
        condition = self.callset.condition
        futures = [
            ResponseFuture(create_call_id(index), self.callset.id, origin=self, condition=condition)
            for index in range(len(submission.arguments))
        ]
        self._futures = dict(enumerate(futures))
        self._batch = self._pool.submit(
            _function_of(submission),
            submission.arguments,
            extra_env=submission.extra_env or {},
            environment=environment,
            timeout=self.callset.job_max_runtime,
            on_start=self._on_start,
            on_results=self._on_results,
            show_output=show_output,
        )
        self._sent = _Sent.of(submission)  # only now, while the calls run
        return futures

    def _note_facts(self) -> None:
        """Note for ``invoke_status`` what a callset in a storage has: the payload, sizes, times."""
        sent = self._sent
        if sent is None:
            return
        callset = self.callset
        shared = Call(
            storage_config=self.storage.get_storage_config(),
            callset_id=callset.id,
            call_id="",
            func_key=callset.keys.func,
            data_key="",
            output_key="",
            status_key="",
            cancel_key="",
            job_max_runtime=callset.job_max_runtime,
            use_cached_runtime=sent.use_cached_runtime,
            pywren_version=__version__,
            extra_env=sent.extra_env,
            host_submit_time=callset.submitted,
            extra=sent.extra_meta,
        )
        callset.facts.update(
            shared.encode(),
            agg_data=True,
            data_size_bytes=sent.data_bytes,
            data_upload_time=0.0,
            data_upload_timestamp=callset.submitted,
            func_module_str_len=sent.function_bytes,
            func_upload_time=0.0,
            func_upload_timestamp=callset.submitted,
            lambda_invoke_time=0.0,
            lambda_invoke_timestamp=callset.submitted,
        )
        self._sent = None

    # -- what the pool tells -----------------------------------------------------------------------------------

    def _on_start(self, index: int) -> None:
        one = self._futures.get(index)
        if one is not None:
            future.mark_running(one)

    def _on_results(self, results: Sequence[tuple[int, RunResult]]) -> None:
        now, self._last_result = time.time(), time.monotonic()
        settlements = []
        for index, result in results:
            one = self._futures.pop(index, None)
            if one is not None:
                settlements.append(Settlement(one, *self._judge(one.call_id, result), _Ended(result, now)))
        if not self._futures:
            self._batch = None  # it calls back here: without the cycle all is freed with the last future
        if self._shared:  # first: once a wait() is over, others may collect
            for settlement in settlements:
                self._store_if_shared(settlement)
        future.settle(settlements)
        if self._shared:  # a future may have been pickled since
            for settlement in settlements:
                self._store_if_shared(settlement)

    def _judge(self, call_id: str, result: RunResult) -> tuple[Any, BaseException | None]:
        if result.failure is not None:
            return verdict.of_failure(result.failure, self.callset.id, call_id, None)
        if result.success is None or result.body is None:
            lost = CallLostError("the call ended without an outcome; run it again", call_id=call_id)
            lost.callset_id = self.callset.id
            return None, lost
        return verdict.of_outcome(result.success, result.body, self.callset.id, call_id)

    # -- Origin ------------------------------------------------------------------------------------------------

    @property
    def storage_path(self) -> list[str]:
        """``[backend, directory, prefix]``."""
        return self.storage.path

    def ask(self, futures: Iterable[ResponseFuture]) -> None:
        """Nothing to do: the pool tells of every outcome."""

    def look(self, futures: Iterable[ResponseFuture]) -> None:
        """Nothing to do: the pool tells of every outcome."""

    def trouble(self) -> None:
        """There is none: the pool can always be asked."""

    def wonder(self) -> None:
        """Say once when nothing has come back for a while: how many calls run, and how many wait."""
        silent = time.monotonic() - self._last_result
        running = sum(one.running() for one in list(self._futures.values()))
        waiting = len(self._futures) - running
        if silent < future.SILENCE or self._wondered or not self._futures:
            return
        self._wondered = True
        logger.warning(
            "nothing has come back for %.0f s from callset %s on this machine (calls that run: %d, that wait for a "
            "free process: %d). Look whether those that run work (`top`), or wait for something; cancel() ends a call",
            silent, self.callset.id, running, waiting,
        )  # fmt: skip

    def cancel(self, target: ResponseFuture) -> bool:
        """Take the call back from the pool, or have its process killed."""
        index = int(target.call_id)
        batch = self._batch
        if batch is None or not self._pool.cancel(batch, index):
            return False
        error = CallCancelledError("the call was cancelled", call_id=target.call_id, callset_id=self.callset.id)
        ended = _Ended(RunResult(None, None, failure=Failure.of(error), returncode=None), time.time())
        self._futures.pop(index, None)
        future.settle([Settlement(target, None, error, ended)])
        self._store_if_shared(future.settlement(target))
        return target.cancelled()

    def run_status(self, target: ResponseFuture, source: Any) -> dict[str, Any] | None:
        """Return what the worker of a storage would have said."""
        if not isinstance(source, _Ended):
            return None
        return self._status(future.settlement(target)).document()

    def invoke_status(self, target: ResponseFuture) -> dict[str, Any]:
        """Return what the client did for the callset; what 0.4 did besides took no time here."""
        self._note_facts()
        keys = self.callset.call_keys(target.call_id)
        ended = future.settlement(target).source
        ended_at = ended.time if isinstance(ended, _Ended) else None
        return {
            **self.callset.facts,
            "call_id": target.call_id,
            "data_key": keys.data,
            "output_key": keys.output,
            "status_key": keys.status,
            "cancel_key": keys.cancel,
            "status_done_timestamp": ended_at,
            "status_query_count": 0,
            "download_output_timestamp": ended_at,
            "download_output_time": 0.0,
        }

    def recipe(self, target: ResponseFuture) -> tuple[Callable[..., ResponseFuture], tuple[Any, ...]]:
        """Put the outcome, now or once it is there, where another process finds it."""
        self._note_facts()
        client = self._share(target)
        return staged_calls.attach, (target.call_id, self.callset, self.storage, client)

    # -- sharing with other processes ------------------------------------------------------------------------------

    def _share(self, target: ResponseFuture) -> str:
        path = Path(self.storage.path[1], self.callset.keys.root, "client")
        with self._sharing:
            self._shared.add(target.call_id)
            if self._lock_file is None:
                self._lock_file = _hold_lock(path)
                weakref.finalize(self, self._lock_file.close)
        if future.is_done(target):
            self._store_if_shared(future.settlement(target))
        return str(path)

    def _store_if_shared(self, ended: Settlement) -> None:
        call_id = ended.future.call_id
        with self._sharing:  # not while storing: what is pickled then may hold futures of this callset
            if call_id not in self._shared or call_id in self._stored:
                return
            self._stored.add(call_id)
        try:
            try:
                self._store(ended)
            except (StorageError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 -- whatever a result does when it is pickled, others are told
                text = f"the result cannot be stored for other processes: {type(error).__name__}: {error}"
                self._commit(self._status(ended), failure=Failure.of(ResultSerializationError(text)))
        except (PywrenError, OSError) as error:
            logger.warning("call %s cannot be collected by another process: %s", call_id, error)

    def _store(self, ended: Settlement) -> None:
        status = self._status(ended)
        if status.failure is not None:
            self._commit(status)
            return
        outcome = staged_calls.encoded_outcome(ended)
        if len(outcome) <= INLINE_OUTCOME_LIMIT:
            self._commit(status, outcome=outcome)
        else:
            self.storage.put(self.callset.call_keys(status.call_id).output, outcome)
            self._commit(status, output_sha256=sha256(outcome), output_size=len(outcome))

    def _commit(self, status: Status, **members: Any) -> None:
        data = dataclasses.replace(status, **members).encode(self.callset.attempt_key(status.call_id, 1))
        self.storage.commit_status(self.callset.call_keys(status.call_id).status, data)

    def _status(self, ended: Settlement) -> Status:
        source = ended.source if isinstance(ended.source, _Ended) else _Ended(RunResult(None, None), time.time())
        result, call_id = source.result, ended.future.call_id
        keys = self.callset.call_keys(call_id)
        return Status(
            callset_id=self.callset.id,
            call_id=call_id,
            failure=result.failure,
            output_key=keys.output,
            exception_traceback=result.exception[2] if result.exception else None,
            info=self._info(keys, result, source.time),
        )

    def _info(self, keys: Any, result: RunResult, end_time: float) -> dict[str, Any]:
        from pywren.worker.handler import server_info  # which nothing else here needs

        exec_time = result.info.get("exec_time", 0.0)
        setup_time = result.info.get("setup_time", 0.0)
        return {
            "func_key": self.callset.keys.func,
            "data_key": keys.data,
            "status_key": keys.status,
            "host_submit_time": self.callset.submitted,
            "start_time": end_time - exec_time - setup_time,
            "end_time": end_time,
            "exec_time": exec_time,
            "setup_time": setup_time,
            "func_download_time": 0.0,
            "data_download_time": 0.0,
            "output_upload_time": 0.0,
            "runtime_cached": True,
            "runtime_s3_key_used": None,
            "runtime_s3_bucket_used": None,
            "retcode": result.returncode,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "server_info": server_info(),
            "free_disk_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
            "invoker": "LocalInvoker",
            "jobnum": str(os.getpid()),
            **result.info,
        }

    # -- after os.fork ---------------------------------------------------------------------------------------------

    def lose_in_child(self) -> None:
        """End the futures in a forked child: the pool is the parent's, and so are the calls."""
        self._sharing = threading.Lock()
        if self._lock_file is not None:
            self._lock_file.close()  # the lock lasts as long as any process has the file open
            self._lock_file = None
        lost, self._futures = self._futures, {}
        future.forget_parent_threads(self.callset.condition, lost.values())
        settlements = []
        for one in lost.values():
            error = CallLostError(
                "the call runs for the process that this one was forked from, which alone gets its result",
                call_id=one.call_id,
                callset_id=self.callset.id,
            )
            settlements.append(Settlement(one, None, error, None))
        future.settle(settlements)


def _hold_lock(path: Path) -> Any:
    """Lock a file for as long as this process lives; others see by it that the calls still run."""
    import fcntl  # the pool is there on Linux and macOS only

    try:
        make_directories(path.parent)
        file = open(open_file(path), "wb")  # noqa: SIM115 -- held for as long as the callset lives
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StorageError(
            f"cannot keep results for other processes below {path.parent}: {error}; set PYWREN_HOME to a directory "
            "that can be written"
        ) from error
    return file


_callsets: weakref.WeakSet[LocalCallset] = weakref.WeakSet()


def _after_fork() -> None:
    for callset in list(_callsets):
        callset.lose_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _function_of(submission: Submission) -> Function:
    """Return the function as the pool takes it; a small one that was sent before need not be sent again."""
    pickle = submission.function
    if submission.modules or pickle.buffers or len(pickle.data) > _KNOWN_AGAIN_BYTES:
        return Function(submission.callset.id, pickle, submission.modules)
    return Function(pickle.data, pickle, load_anew=True)


class LocalDispatcher:
    """Hands callsets to the pool of this machine, which stays while there is a dispatcher.

    Args:
        storage: where outcomes go when their futures are pickled.
        invoker: its ``pool`` runs the calls.
        show_output: whether what calls print is shown as it comes.
    """

    out_of_band = True
    """Big buffers cross apart from their pickles."""

    longest_runtime = math.inf
    """Seconds that a call may be given at most."""

    def __init__(self, storage: Storage, invoker: HasPool, *, show_output: bool = False) -> None:
        self.storage = storage
        self._invoker = invoker
        self._show_output = show_output
        self._use = _Use(self, invoker.pool)

    def close(self) -> None:
        """Let go of the pool; its processes end some seconds after its last user has."""
        self._use.end()

    def dispatch(self, submission: Submission) -> list[ResponseFuture]:
        """Submit a callset and return its futures.

        Raises:
            InvocationError: the pool was closed, and has no successor.
        """
        pool = self._invoker.pool
        if pool is not self._use.pool:  # the shared one has failed, or ended with the call that this executor is from
            self._use.end()
            self._use = _Use(self, pool)
        environment = getattr(self._invoker, "environment", None)
        return LocalCallset(submission.callset, self.storage, pool).submit(submission, self._show_output, environment)


class _Use:
    """That a dispatcher uses a pool, until it says otherwise or is gone."""

    def __init__(self, user: LocalDispatcher, pool: LocalPool) -> None:
        self.pool = pool
        pool.acquire()
        self.end = weakref.finalize(user, pool.release)
