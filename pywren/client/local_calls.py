"""Calls that run on this machine and whose outcomes stay in memory.

``LocalDispatcher`` submits callsets to the pool; ``LocalCallset`` is the origin of their futures. An outcome is stored
only if its future is pickled. The outcome then goes to this machine's storage, where another process can read it.

Which thread does what, and which lock guards what
--------------------------------------------------
- The program's threads submit and cancel calls, pickle futures and wait. ``cancel`` settles the future on the thread
  that called it.
- The pool's pump calls ``_on_results``, which settles all other futures. ``_on_start`` is called by the pump or by the
  thread that submits. Neither thread holds a lock of the pool at that moment. But the pump serves every callset, so the
  code that it runs here must not wait for another thread.
- ``_futures`` has no lock. Its ``pop`` is atomic: if a result and a cancellation of the same call arrive together, only
  one of them finds the future, and ``settle`` lets the first verdict count.
- ``_sharing`` guards which outcomes other processes may collect, and which of those outcomes are stored. A thread holds
  ``_sharing`` only for work in memory and to create the lock file, never while it pickles a result: the result may
  contain futures of the same callset, and pickling these futures takes ``_sharing`` again.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pywren.client import call_state, waiting
from pywren.client.call_output import label_of
from pywren.client.call_state import CallState
from pywren.client.callset import Callset, Submission
from pywren.client.driver.policy import Policy, too_late
from pywren.client.ends import store_outcome
from pywren.client.following import Following, must_follow
from pywren.client.local_attempts import LocalAttempts
from pywren.client.protocols import Invoker, Recipe
from pywren.client.verdict import Verdict, cancelled_with, encoded, of_result, outcomes_of, traceback_of, unexpected
from pywren.exceptions import (
    CallCancelledError,
    CallError,
    CallLostError,
    PywrenError,
    ResultSerializationError,
    StorageError,
)
from pywren.future import ResponseFuture, futures_of, new_futures
from pywren.pickling.packed import Packed, size_of
from pywren.storage import Storage
from pywren.system import file_locks
from pywren.system.forks import in_each_child
from pywren.system.private_files import make_directories, open_file
from pywren.version import __version__
from pywren.wire.call import Call
from pywren.wire.failure import Failure
from pywren.wire.keys import CallKeys
from pywren.wire.outcome import Outcome
from pywren.wire.status import Status
from pywren.worker.pages import Page
from pywren.worker.parent.lifetime import Use
from pywren.worker.protocol import results_on
from pywren.worker.task import Function, Repeat, RunResult
from pywren.wrenutil import create_call_id

if TYPE_CHECKING:
    from pywren.client.driver.driver import Attempt
    from pywren.client.driver.record import Counts
    from pywren.worker.parent.pool import LocalPool

logger = logging.getLogger(__name__)

_ON_LAMBDA = "AWS_LAMBDA_FUNCTION_NAME"
"""Lambda sets this environment variable in its containers."""


_KNOWN_AGAIN_BYTES = 64 * 1024
"""The largest pickled function, in bytes, for which it is worth checking whether the workers have it already."""


_loads = pickle.loads

_JOIN_SECONDS = 0.01
"""For how long after it was made a callset takes more calls of ``submit``. Its time of submission counts for them."""


class _Sent(NamedTuple):
    """The figures of a submission from which ``invoke_status`` is made on request, as few programs ask for it."""

    data_bytes: int
    function_bytes: int
    use_cached_runtime: bool
    extra_env: Mapping[str, str] | None
    extra_meta: Mapping[str, Any]

    @classmethod
    def of(cls, submission: Submission) -> _Sent:
        """Copy the figures of a submission, so that the arguments themselves need not be kept in memory."""
        return cls(
            size_of(submission.arguments),
            submission.function.size + sum(map(len, submission.modules.values())),
            submission.options.get("use_cached_runtime", True),
            submission.extra_env,
            submission.extra_meta or {},
        )


class LocalCallset:
    """The origin of the futures of one callset that runs in the pool.

    Args:
        callset: the callset.
        storage: where an outcome is stored when its future is pickled.
        pool: runs the calls.
        policy: which calls run again when an attempt has failed, and how many may run at once.
        follow: has a call that is held let go when its inputs have ended (``Invoker.follow``).
    """

    def __init__(
        self,
        callset: Callset,
        storage: Storage,
        pool: LocalPool,
        policy: Policy,
        *,
        follow: Callable[[Following], object] = Following.start,
    ) -> None:
        self.callset = callset
        self.storage = storage
        self._pool = pool
        # Set by the submitting thread and cleared by the pump. cancel() copies it once, so it never sees it change
        # midway.
        self._batch: Any = None
        self._sent: _Sent | None = None
        self._policy = policy
        self._follow = follow
        self._deadline = math.inf if policy.timeout is None else time.monotonic() + policy.timeout
        self._attempts = LocalAttempts(callset, policy)
        # Strong references, unlike in StagedCallset: the pool reports every call anyway, and the report removes the
        # entry.
        self._futures: dict[int, CallState] = {}
        # What calls that are held wait for. The origin of an input may keep it only weakly, and the program may have
        # dropped it. Each step is one operation of the dictionary.
        self._inputs: dict[int, Sequence[CallState]] = {}
        # Held by a thread that adds a call, so that the indices here and in the pool agree. No thread waits for it.
        self._joining = threading.Lock()
        self._joins_until = 0.0
        self._function: Packed | None = None
        self._returned = 0  # how many calls have returned a value; only the pump writes it
        self._sharing = threading.Lock()
        # ``_sharing`` guards the next three. The pump peeks at ``_shared`` without it; _on_results() says why that is
        # safe.
        self._shared: set[str] = set()
        self._stored: set[str] = set()
        self._lock_file: Any = None
        # Only for report_silence(): the pump writes it, waiting threads read it, and a stale value costs nothing.
        self._last_result = time.monotonic()
        self._reported_silence = False
        _callsets.add(self)

    def submit(
        self, submission: Submission, show_output: bool, environment: Mapping[str, str] | None
    ) -> list[ResponseFuture]:
        """Submit the calls to the pool and return their futures."""
        # All futures exist before the pool knows of the calls: the pump may report a result before submit() returns.
        futures = futures_of(self, map(create_call_id, range(len(submission.arguments))))
        held, references = _inputs_of(submission)
        if self._policy.backup:
            self._attempts.watch([one.call_id for index, one in enumerate(futures) if index not in held])
        # Assigned before the pool has the calls: the result of a tiny map may be complete before add() returns. And
        # Ctrl-C may come between any two steps here: outstanding() then asks whether the pool has accepted the batch.
        self._batch = batch = self._pool.prepare(
            _function_of(submission),
            submission.arguments,
            extra_env=submission.extra_env or {},
            environment=environment,
            timeout=self.callset.job_max_runtime,
            on_start=self._on_start,
            on_results=self._on_results,
            on_page=self._on_page,
            show_output=show_output,
            label=partial(_label_of, self.callset.id) if submission.options.get("show_output") else None,
            repeats=self._attempts.repeats,
            most_processes=self._policy.max_concurrency,
            on_tick=self._on_tick if self._policy.backup or self._deadline < math.inf else None,
            references=references,
            held=held,
        )
        self._pool.add(batch)
        for index in held:  # after add(), which let_go() needs
            inputs, as_values = submission.inputs[index], submission.as_values
            self._inputs[index] = inputs
            self._follow(Following(self, create_call_id(index), inputs, as_values=as_values))
        self._sent = _Sent.of(submission)  # done last, because the calls are already running
        if len(futures) == 1 and not (
            submission.inputs or submission.modules or submission.extra_env or submission.extra_meta
        ):
            self._function = submission.function
            self._joins_until = time.monotonic() + _JOIN_SECONDS
        return futures

    def join(self, function: Packed, argument: Packed, policy: Policy, max_runtime: float) -> ResponseFuture | None:
        """Add a call to the callset if that is the same as a callset of its own. Otherwise return ``None``."""
        batch = self._batch
        if batch is None or function is not self._function or time.monotonic() >= self._joins_until:
            return None
        if policy != self._policy or policy.backup or max_runtime != self.callset.job_max_runtime:
            return None
        # Another thread may be here, or this one: a destructor that runs meanwhile may submit a call.
        if not self._joining.acquire(blocking=False):
            return None
        try:
            return self._add(batch, argument)
        finally:
            self._joining.release()

    def _add(self, batch: Any, argument: Packed) -> ResponseFuture | None:
        # Not a count of futures: if Ctrl-C interrupts this method, the pool may have a call that has no future.
        index = len(batch.entries)
        future = new_futures(self, [create_call_id(index)])[0]
        self._futures[index] = future  # before the pool knows of the call, whose result may arrive at once
        is_added = False
        try:
            is_added = self._pool.extend(batch, argument)
        finally:
            if not is_added:
                self._futures.pop(index, None)
        if not is_added:
            return None
        self._batch = batch  # the pump may have found no future in between, and cleared it
        sent = self._sent
        if sent is not None:
            self._sent = sent._replace(data_bytes=sent.data_bytes + len(argument.data))
        return future

    # -- Holder: the inputs of a call have ended. On a thread ``pywren-inputs``, without a lock ----------------------

    def let_go(self, call_id: str, inputs: Sequence[CallState]) -> bool:
        """Have the pool run a call that was held. Return False if it was cancelled meanwhile."""
        batch = self._batch
        self._inputs.pop(int(call_id), None)
        if batch is None or int(call_id) not in self._futures:
            return False
        # Here, and not on the thread that settles an input: pickling an outcome may run the user's code.
        self._pool.let_go(batch, int(call_id), outcomes_of(inputs))
        return True

    def is_held(self, call_id: str) -> bool:
        """Tell whether a call still waits for its inputs."""
        return int(call_id) in self._inputs

    def end_like(self, call_id: str, failed: CallState) -> None:
        """End a call with the error of one of its inputs, or as cancelled if that was cancelled."""
        verdict = call_state.verdict_of(failed) or Verdict()
        if isinstance(verdict.error, CallCancelledError):
            text = cancelled_with(failed)
            self.end_with(call_id, CallCancelledError(text, call_id=call_id, callset_id=self.callset.id))
            return
        # A copy with its own traceback, as a call in a storage gets it.
        source, outcome = verdict.source, Outcome.decode(encoded(verdict))
        told = source.exception if isinstance(source, RunResult) else None
        result = RunResult(False, Packed(outcome.body), told or ("", "", traceback_of(verdict)))
        self._end(call_id, of_result(result, self.callset.id, call_id, time.time()))

    def end_with(self, call_id: str, error: BaseException) -> None:
        """End a call with an error that kept it from running."""
        known = error if isinstance(error, PywrenError) else unexpected(error, "the call could not be started")
        result = RunResult(None, None, failure=Failure.of(known), returncode=None)
        self._end(call_id, Verdict(None, known, result, time.time()))

    def _end(self, call_id: str, verdict: Verdict) -> None:
        batch, index = self._batch, int(call_id)
        self._inputs.pop(index, None)
        one = self._futures.pop(index, None)  # as in _on_results(): cancel() may be faster
        if one is None:
            return
        if batch is not None:
            self._pool.cancel(batch, index, running=False)
        if verdict.error is not None:
            self.callset.note_failure(call_id, verdict.error)
        call_state.settle([(one, verdict)])
        self._store_if_known(one)

    def put(self, packed: Packed) -> ResponseFuture:
        """Keep an object as the outcome of the callset's only call, and return the future of that call."""
        future = futures_of(self, [create_call_id(0)])[0]
        self._futures = {}  # the pool knows nothing of it
        call_state.settle([(future, of_result(RunResult(True, packed), self.callset.id, future.call_id, time.time()))])
        return future

    def _note_facts(self) -> None:
        """Collect the members of ``invoke_status`` that a callset in a storage also has: payload, sizes and times."""
        # Any thread may ask. Two that race here compute the same members and update the same dict with them.
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

    # -- what the pool reports ---------------------------------------------------------------------------------

    def _on_start(self, index: int) -> None:
        # On the pump's or the submitting thread. The call may have ended or been cancelled since; mark_running()
        # checks.
        one = self._futures.get(index)
        if one is not None:
            call_state.mark_running(one)
            self._attempts.started(one.call_id)

    def _on_tick(self, _: int) -> None:
        # On the pump's thread.
        if time.monotonic() >= self._deadline:
            for one in self.outstanding():
                self._stop(one, too_late(self._policy))
        elif self._policy.backup and self._pool.has_idle():
            self._attempts.start_backups(self._back_up)

    def _back_up(self, call_id: str) -> int | None:
        batch = self._batch
        return None if batch is None else self._pool.back_up(batch, int(call_id))

    def _on_results(self, results: Sequence[tuple[int, RunResult]]) -> Sequence[Repeat]:
        # On the pump's thread, for as many results as have arrived together. of_result() unpickles here: the value is
        # ready when its waiter wakes, but a slow unpickling delays the results of every executor.
        now, self._last_result = time.time(), time.monotonic()
        verdicts: list[tuple[CallState, Verdict]] = []
        repeats: list[Repeat] = []
        for index, result in results:
            if not result.success and self._attempts.repeats.includes(result):
                self._after_failure(index, result, now, verdicts, repeats)
                continue
            # pop() decides the race with cancel(), which pops the same key: dict.pop of an int key is atomic under the
            # GIL and under the per-object lock of a free-threaded build.
            one = self._futures.pop(index, None)
            if one is not None:  # otherwise cancel() on another thread came first
                verdicts.append((one, of_result(result, self.callset.id, one.call_id, now)))
        if self._attempts.is_driven:
            self._attempts.ended(verdicts)
        if not self._futures:
            self._batch = None  # the batch refers to this object; breaking the cycle frees both with the last future
        if self._shared:  # store before settling: when a wait() returns, other processes may collect
            for one, verdict in verdicts:
                self._store_if_shared(one.call_id, verdict)
        for one, verdict in verdicts:
            if verdict.error is None:
                self._returned += 1
            else:
                self.callset.note_failure(one.call_id, verdict.error)
        # No lock of this module may be held here: settle() takes the callset's condition, and waiters run under that.
        call_state.settle(verdicts)
        if self._shared:  # store again after settling: an unfinished future may have been pickled meanwhile
            for one, verdict in verdicts:
                self._store_if_shared(one.call_id, verdict)
        return repeats

    def _on_page(self, indices: Sequence[int], page: Page) -> None:
        # On the pump's thread, as ``_on_results``, which takes whatever is not plain here.
        if self._attempts.is_driven or self._shared or (values := _values_on(page)) is None:
            self._on_results(list(zip(indices, results_on(page), strict=True)))
            return
        now, self._last_result = time.time(), time.monotonic()
        futures = [self._futures.pop(index, None) for index in indices]
        ended = [one for one in futures if one is not None]
        if len(ended) < len(futures):  # cancel() on another thread came first
            values = [value for one, value in zip(futures, values, strict=True) if one is not None]
        if not self._futures:
            self._batch = None
        self._returned += len(ended)
        call_state.settle_returned(ended, values, _Returned(indices, page, now))
        if self._shared:  # an unfinished future may have been pickled meanwhile
            for one in ended:
                self._store_if_known(one)

    def _after_failure(
        self,
        index: int,
        result: RunResult,
        now: float,
        verdicts: list[tuple[CallState, Verdict]],
        repeats: list[Repeat],
    ) -> None:
        """Decide about a call whose attempt has failed: append it to ``repeats``, or how it has ended to ``verdicts``.

        If the call was cancelled, do neither: the pool then takes the result as final.
        """
        one = self._futures.get(index)
        if one is None:
            return
        verdict = of_result(result, self.callset.id, one.call_id, now)
        step = self._attempts.failed(one.call_id, verdict, result)
        if isinstance(step, Verdict):
            if self._futures.pop(index, None) is not None:
                verdicts.append((one, step))
        elif step is not None:
            # The future stays where cancel() finds it. If that was faster, the pool ends the call instead of running
            # it, and this function hears of it.
            repeats.append(Repeat(index, step))

    # -- Origin ------------------------------------------------------------------------------------------------

    def take(self, futures: Sequence[CallState]) -> None:
        """Become the origin of these futures: one for every call of the callset, in order."""
        self._futures = dict(enumerate(futures))

    @property
    def storage_path(self) -> list[str]:
        """The list ``[backend, directory, prefix]``."""
        return self.storage.path

    def expect(self, futures: Iterable[CallState]) -> None:
        """Do nothing: the pool reports every outcome."""

    def poll(self, futures: Iterable[CallState]) -> None:
        """Do nothing: the pool reports every outcome."""

    def trouble(self) -> None:
        """Return ``None``: nothing can prevent this origin from learning the outcomes."""

    def report_silence(self) -> None:
        """Log once that no results have arrived for a while, and how many calls are running and waiting."""
        silent = time.monotonic() - self._last_result
        # A copy, because the pump removes entries while this waiting thread counts.
        running = sum(one.running() for one in list(self._futures.values()))
        waiting_calls = len(self._futures) - running
        if silent < waiting.SILENCE or self._reported_silence or not self._futures:
            return
        self._reported_silence = True
        logger.warning(
            "no result has arrived for %.0f s from callset %s on this machine (running calls: %d, calls waiting for a "
            "free process: %d). Check with `top` whether the running calls are working or waiting for something; "
            "cancel() stops a call",
            silent, self.callset.id, running, waiting_calls,
        )  # fmt: skip

    def cancel(self, target: CallState) -> bool:
        """Remove the call from the pool's queue, or have the pool kill the process that runs the call."""
        return self._cancel(target)

    @property
    def place(self) -> str:
        """Where the calls run."""
        return "on this machine"

    @property
    def is_run_by_program(self) -> bool:
        """Return False."""
        return False

    def outstanding(self) -> list[CallState]:
        """Return the futures of the calls that have no outcome yet, and will get one."""
        batch = self._batch
        if batch is None or not batch.is_accepted:
            return []  # all have ended; or Ctrl-C has kept the calls from the pool, and their futures from the program
        return list(self._futures.values())  # a copy, which is one step: the pump removes entries meanwhile

    def withdraw(self, *, record: bool = False) -> int:
        """Cancel the calls that no process has begun. Return how many were cancelled."""
        # From the end: the pool takes calls from the beginning, and gives out more while this thread cancels.
        return sum(self._cancel(one, running=False) for one in reversed(self.outstanding()))

    def _cancel(self, target: CallState, *, running: bool = True) -> bool:
        return self._stop(target, CallCancelledError("the call was cancelled"), running=running) and target.cancelled()

    def _stop(self, target: CallState, error: CallError, *, running: bool = True) -> bool:
        """End a call with an error, even if a process runs it. Return False if the call has ended, or may go on."""
        index = int(target.call_id)
        batch = self._batch
        if batch is None or not self._pool.cancel(batch, index, running=running):
            return False
        self._inputs.pop(index, None)
        error.call_id, error.callset_id = target.call_id, self.callset.id
        result = RunResult(None, None, failure=Failure.of(error), returncode=None)
        # The pool reports nothing more about this call, unless it already has a result: then settle() decides.
        # The pool still reports this call, as cancelled or with whatever else ended its process first. If the pump pops
        # the future before this thread does, both settle it, the first verdict counts, and the return value says which.
        self._futures.pop(index, None)
        self._attempts.cancelled(target.call_id)
        self.callset.note_failure(target.call_id, error)
        call_state.settle([(target, Verdict(None, error, result, time.time()))])
        # Another process may be waiting for this call: it learns of the end from the stored status.
        self._store_if_known(target)
        return True

    def run_status(self, target: CallState) -> dict[str, Any] | None:
        """Return the status that a worker would have written to a storage."""
        verdict = call_state.verdict_of(target)
        if verdict is None or verdict.source is None:
            return None
        document = self._status(target.call_id, verdict).document()
        attempts = self._attempts.of(target.call_id, verdict)
        if len(attempts) > 1:
            document["attempts"] = [one._asdict() for one in attempts]
        return document

    def attempts(self, target: CallState) -> tuple[Attempt, ...]:
        """Return the attempts of a call; of those that were killed or raised, when and where."""
        return self._attempts.of(target.call_id, call_state.verdict_of(target))

    def counts(self) -> Counts:
        """Return how many calls are in each phase. The driver knows only the calls of which an attempt has failed."""
        from pywren.client.driver.record import Counts

        outstanding, driven = self.outstanding(), self._attempts.counts()
        running = sum(one._state == call_state.RUNNING for one in outstanding)
        held = 0 if driven is None else min(driven.held, len(outstanding) - running)
        done, failed = self._returned, len(self.callset.failures)
        total = done + failed + len(outstanding)
        retried = 0 if driven is None else driven.retried
        return Counts(total, held, 0, len(outstanding) - running - held, running, done, failed, retried)

    def invoke_status(self, target: CallState) -> dict[str, Any]:
        """Return what the client did for the callset. Steps of PyWren 0.4 that do not exist here have a time of 0."""
        self._note_facts()
        keys = self.callset.call_keys(target.call_id)
        verdict = call_state.verdict_of(target)
        ended_at = None if verdict is None or verdict.source is None else verdict.known_at
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

    def recipe(self, target: CallState) -> Recipe:
        """Return what another process needs to recreate the future, and have the outcome stored for that process."""
        _refuse_on_lambda()
        self._note_facts()
        client = self._share(target)
        return self.callset, self.storage, client, {}

    # -- sharing with other processes ------------------------------------------------------------------------------

    def _share(self, target: CallState) -> str:
        """Have the outcome stored as soon as it is known. Return the file that this process locks while it lives."""
        # On the thread that pickles. The other process tests this file with flock(2) before it declares the calls lost.
        path = Path(self.storage.path[1], self.callset.keys.root, "client")
        with self._sharing:
            # First mark, then look for a verdict below. The pump does the reverse: it settles, then looks at the mark.
            # So at least one of the two threads sees both and stores the outcome, and ``_stored`` lets only one of them
            # do it.
            self._shared.add(target.call_id)
            if self._lock_file is None:
                # Lock the file before the future leaves: an unlocked file tells its reader that this process is dead.
                self._lock_file = _hold_lock(path)
                # Closing releases the flock. While calls run, the pool's batch keeps this object alive, so the lock
                # goes only when no further outcome can be stored.
                weakref.finalize(self, self._lock_file.close)
        self._store_if_known(target)  # the call is marked as shared now, so the pump stores a later result
        return str(path)

    def _store_if_known(self, target: CallState) -> None:
        verdict = call_state.verdict_of(target)
        if verdict is not None and call_state.is_done(target):
            self._store_if_shared(target.call_id, verdict)

    def _store_if_shared(self, call_id: str, verdict: Verdict) -> None:
        """Store an outcome that another process may collect, unless another thread has stored or is storing it."""
        with self._sharing:
            # The lock is released before anything is pickled (see the top). The mark alone keeps the second thread
            # away; that thread may return before the object is written, and the reader in the other process just polls
            # again.
            if call_id not in self._shared or call_id in self._stored:
                return
            self._stored.add(call_id)  # before storing: the pump and a thread that pickles may both get here
        try:
            try:
                self._store(call_id, verdict)
            # These are for the outer handler. They are no reason to write a status: writing that would most likely fail
            # too.
            except (StorageError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 -- other processes must learn of any error in pickling
                text = f"the result cannot be stored for other processes: {type(error).__name__}: {error}"
                self._commit(self._status(call_id, verdict), failure=Failure.of(ResultSerializationError(text)))
        except (PywrenError, OSError) as error:
            # Never raise on the pump's thread. In this process the future has its outcome all the same.
            logger.warning("the result of call %s cannot be collected by another process: %s", call_id, error)

    def _store(self, call_id: str, verdict: Verdict) -> None:
        status = self._status(call_id, verdict)
        if status.failure is not None:
            self._commit(status)
            return
        self._commit(status, **store_outcome(self.storage, self.callset.call_keys(call_id), encoded(verdict)))

    def _commit(self, status: Status, **members: Any) -> None:
        data = dataclasses.replace(status, **members).encode(self.callset.attempt_key(status.call_id, 1))
        self.storage.commit_status(self.callset.call_keys(status.call_id).status, data)

    def _status(self, call_id: str, verdict: Verdict) -> Status:
        """Return the status that a worker would have written for this verdict."""
        if isinstance(verdict.source, RunResult):
            result, known_at = verdict.source, verdict.known_at
        else:  # the child process reported nothing: the program set the state itself
            result, known_at = RunResult(None, None), time.time()
        keys = self.callset.call_keys(call_id)
        return Status(
            callset_id=self.callset.id,
            call_id=call_id,
            failure=result.failure,
            output_key=keys.output,
            exception_traceback=result.exception[2] if result.exception else None,
            info=self._info(keys, result, known_at),
        )

    def _info(self, keys: CallKeys, result: RunResult, end_time: float) -> dict[str, Any]:
        from pywren.worker.run_status import add_result, first_info  # imported here, as few programs need it

        exec_time = result.info.get("exec_time", 0.0)
        is_measured = "exec_time" in result.info
        info = first_info(
            func_key=self.callset.keys.func,
            data_key=keys.data,
            status_key=keys.status,
            host_submit_time=self.callset.submitted,
            start_time=end_time - exec_time - result.info.get("setup_time", 0.0),
            runtime_cached=True,
            context={"invoker": "LocalInvoker", "jobnum": str(os.getpid())},
        )
        info.update(exec_time=exec_time, end_time=end_time)
        add_result(info, result, limit=None)
        if not is_measured:  # it never began, or its process died: nobody knows when it began, and how long it ran
            for name in ("start_time", "setup_time", "exec_time"):
                del info[name]
        return info

    # -- after os.fork ---------------------------------------------------------------------------------------------

    def lose_in_child(self) -> None:
        """In a forked child, settle the futures with an error: the pool and its calls belong to the parent."""
        self._sharing = threading.Lock()  # a thread of the parent may have held the old lock
        self._attempts.forget_parent_threads()
        if self._lock_file is not None:
            # flock(2) belongs to the open file description, which fork(2) shares: unless the child closes its copy, the
            # calls would look alive to others after the parent has died. Closing a copy does not release the parent's
            # lock.
            self._lock_file.close()  # the lock lasts as long as any process keeps the file open
            self._lock_file = None
        # The parent's pump continues with the calls there. No thread of this process will ever report them.
        # after_in_child hooks run in the order of registration, on the only thread that the child has. So take no lock
        # that a later hook replaces: settle() takes only the condition that has just been replaced, as no callbacks are
        # left.
        lost, self._futures, self._inputs = self._futures, {}, {}
        call_state.forget_parent_threads(self.callset.condition, lost.values())
        text = "the call belongs to the process from which this process was forked; only that process gets the result"
        call_state.settle(
            [
                (one, Verdict(None, CallLostError(text, call_id=one.call_id, callset_id=self.callset.id)))
                for one in lost.values()
            ]
        )


def _refuse_on_lambda() -> None:
    """Refuse to send a future away from a Lambda container: nobody outside the container can read its files."""
    if _ON_LAMBDA in os.environ:
        raise StorageError(
            "its value is only in the memory of this Lambda container, as an executor made there runs its calls there: "
            "use result(), and send the value itself"
        )


def _hold_lock(path: Path) -> Any:
    """Lock a file until this process ends. The lock shows other processes that the client is alive."""
    try:
        make_directories(path.parent)
        file = open(open_file(path), "wb")  # noqa: SIM115 -- kept open as long as the callset lives
        # Without waiting: a thread must not hang under ``_sharing``. Nothing else locks the file of a new callset:
        # is_locked() tests only callsets that are old, or whose futures another process has unpickled.
        file_locks.lock(file)
    except OSError as error:
        raise StorageError(
            f"cannot keep results for other processes below {path.parent}: {error}; set PYWREN_HOME to a writable "
            "directory"
        ) from error
    return file


_callsets: weakref.WeakSet[LocalCallset] = weakref.WeakSet()
in_each_child(_callsets, LocalCallset.lose_in_child)


class _Returned(call_state.Ends):
    """How the calls on a page ended."""

    def __init__(self, indices: Sequence[int], page: Page, known_at: float) -> None:
        self._indices, self._page, self._known_at = indices, page, known_at

    def verdict_of(self, future: CallState) -> Verdict:
        result = results_on(self._page)[self._indices.index(int(future.call_id))]
        return Verdict(future._result, None, result, self._known_at)


def _values_on(page: Page) -> list[Any] | None:
    """Unpickle the values on a page; return ``None`` if one of them cannot be unpickled."""
    try:
        return list(map(_loads, page.data))
    except BaseException:  # noqa: BLE001 -- ``of_result`` tells, for each call, what is wrong
        return None


def _inputs_of(submission: Submission) -> tuple[list[int], list[Sequence[bytes]] | None]:
    """Return which calls are to be held, and for all others the outcomes that their arguments refer to."""
    if not submission.inputs:
        return [], None
    held = [
        index for index, inputs in enumerate(submission.inputs) if must_follow(inputs, as_values=submission.as_values)
    ]
    waiting_calls, known = frozenset(held), dict[CallState, bytes]()
    return held, [
        () if index in waiting_calls else outcomes_of(inputs, known) for index, inputs in enumerate(submission.inputs)
    ]


def _label_of(callset_id: str, index: int) -> str:
    return label_of(callset_id, create_call_id(index))


def _function_of(submission: Submission) -> Function:
    """Return the function as the pool takes it. A small function is named by its pickle, so workers recognize it."""
    pickle = submission.function
    if submission.modules or pickle.buffers or len(pickle.data) > _KNOWN_AGAIN_BYTES:
        return Function(submission.callset.id, pickle, submission.modules)
    # The id is the same for equal pickles of different callsets, hence load_anew: a call must not see the globals that
    # a call of an earlier map has changed.
    return Function(pickle.data, pickle, load_anew=True)


class LocalDispatcher:
    """Submits callsets to the pool of this machine. The pool lives as long as a dispatcher uses it.

    Args:
        storage: where an outcome is stored when its future is pickled.
        invoker: its pool runs the calls; when that pool has ended, the invoker may have a new one.
        pool: the pool that the invoker has now.
        show_output: whether the output of calls is shown as it arrives.
    """

    out_of_band = True
    shows_output = True
    longest_runtime = math.inf

    def __init__(self, storage: Storage, invoker: Invoker, pool: LocalPool, *, show_output: bool = False) -> None:
        self.storage = storage
        self._invoker = invoker
        self._show_output = show_output
        self._use = Use(self, pool)
        # The callset that was dispatched last. One reference, which threads replace as a whole.
        self._last: weakref.ref[LocalCallset] | None = None

    def close(self) -> None:
        """Release the pool. Its processes end a few seconds after its last user has released it."""
        self._use.end()

    def dispatch(self, submission: Submission) -> list[ResponseFuture]:
        """Submit a callset and return its futures.

        Raises:
            InvocationError: the pool was closed, and there is no other.
        """
        pool = self._invoker.pool or self._use.pool
        # Two threads may notice at the same time that the pool was replaced. Both then acquire the new pool, and one
        # of the two _Use objects is dropped. Its finalizer releases the pool when the dispatcher is gone.
        if pool is not self._use.pool:  # the old pool has failed, or ended with the call that unpickled the executor
            self._use.end()
            self._use = Use(self, pool)
        callset = LocalCallset(submission.callset, self.storage, pool, submission.policy, follow=self._invoker.follow)
        show_output = self._show_output or bool(submission.options.get("show_output"))
        futures = callset.submit(submission, show_output, self._invoker.environment)
        self._last = weakref.ref(callset)
        return futures

    def join(self, function: Packed, argument: Packed, policy: Policy, max_runtime: float) -> ResponseFuture | None:
        """Add a call to the callset that was dispatched last, if the function is the same and that was just now."""
        callset = None if self._last is None else self._last()
        return None if callset is None else callset.join(function, argument, policy, max_runtime)

    def put(self, callset: Callset, packed: Packed) -> ResponseFuture:
        """Keep an object that calls may refer to, and return its future."""
        return LocalCallset(callset, self.storage, self._use.pool, Policy()).put(packed)
