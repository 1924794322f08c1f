"""Calls that go through a storage: ``StagedCallset``, the origin of their futures."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pywren import _pickling, _verdict, future
from pywren._callset import Callset
from pywren._failure import Failure
from pywren._failure_records import FailureRecords
from pywren._integrity import verify_sha256
from pywren._monitor import FIRST_LOOK, Monitor, look_delay
from pywren._threads import for_each
from pywren._wire import (
    EAGER_OUTPUT_LIMIT,
    Outcome,
    Status,
)
from pywren.exceptions import (
    CallCancelledError,
    CallLostError,
    DecodeError,
    IntegrityError,
    PywrenError,
    StorageError,
    StorageNoSuchKeyError,
)
from pywren.future import ResponseFuture, Settlement
from pywren.storage import Storage
from pywren.storage.localhost_backend import is_locked

logger = logging.getLogger(__name__)

LOST_GRACE = 60.0
"""Seconds for clocks that differ and for a status under way, before a call is declared lost."""

STORAGE_PATIENCE = 60.0
"""Seconds of unbroken storage errors after which the futures end with that error."""

SILENCE = 60.0
"""Seconds without any result after which it is asked why; each time it is not known, twice as many pass."""

_FETCH_THREADS = 32
_DIRECT_LOOKS = 3  # so many statuses are asked for one by one: a GET costs a twelfth of a LIST

# -- learning of outcomes ------------------------------------------------------------------------------------


class StagedCallset:
    """The origin of the futures of one callset in a storage.

    Futures that nobody waits for and nobody holds are forgotten.

    Args:
        callset: the callset.
        storage: where its objects are.
        monitor: the storage's watcher.
        client_alive: tells whether the process that runs the calls lives; ``None`` when no single one does.
        explain_silence: tells why no results come, if it knows; ``None`` when nobody can be asked.
        clock: tells the time in seconds since the epoch.
    """

    def __init__(
        self,
        callset: Callset,
        storage: Storage,
        monitor: Monitor,
        *,
        client_alive: Callable[[], bool] | None = None,
        explain_silence: Callable[[], str | None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.callset = callset
        self.storage = storage
        self.records: dict[str, dict[str, Any]] = {}
        self._monitor = monitor
        self._client_alive = client_alive
        self._explain_silence = explain_silence
        self._next_question = SILENCE
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
        self._records_of_failure = self._failure_records()
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
        if isinstance(source, Status):
            return source.document()
        # what ended it without a signature is known by the error alone
        status = getattr(future.settlement(target).error, "status", None)
        return None if status is None else dict(status)

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
            self._heed_failures(missing)
            self._declare_lost([call_id for call_id in missing if call_id in self._futures], client_gone)
            self._wonder()
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

    def _failure_records(self) -> FailureRecords | None:
        function = self.callset.function
        if function is None:
            return None
        return FailureRecords(self.storage, function, self.callset.id, self.callset.submitted)

    def _heed_failures(self, missing: Sequence[str]) -> None:
        """End the calls that Lambda says have ended without their worker's doing.

        Their payloads, with the keys that sign their statuses, now lie in the bucket: what is found signed with those
        from now on is not believed.
        """
        if self._records_of_failure is None:
            return
        for call_id, error in self._records_of_failure.look(missing, self._clock()).items():
            if not self._end(call_id, error):
                with self._looking:
                    self._settle(
                        {call_id: (*_verdict.of_failure(Failure.of(error), self.callset.id, call_id, None), None)}
                    )

    def _declare_lost(self, missing: Sequence[str], client_gone: bool) -> None:
        lost_after = self.callset.lost_after(LOST_GRACE)
        if client_gone:
            text = "the call is lost: the process that ran it on its machine has ended; run it again"
        elif lost_after is not None and self._clock() > lost_after:
            whose = "worker" if self.callset.function is None else "function"
            text = (
                f"the call is lost: {self._clock() - self.callset.submitted:.0f} s after it was invoked it has no "
                f"status. It never started, or its worker vanished; look at the {whose}'s log, and run it again"
            )
        else:
            return
        for_each(lambda call_id: self._end(call_id, CallLostError(text)), missing, self._threads())

    def _wonder(self) -> None:
        """Ask now and then why nothing comes back, and say so once."""
        if self._explain_silence is None or self._clock() - self._last_progress < self._next_question:
            return
        self._next_question *= 2
        explanation = self._explain_silence()
        if explanation is not None:
            logger.warning("%s", explanation)
            self._explain_silence = None

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
    alive = None if client is None else functools.partial(is_locked, client)
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


def encoded_outcome(ended: Settlement) -> bytes:
    """Encode how a call ended, so that it can be handed on."""
    if ended.error is None:
        return Outcome(True, _pickling.dumps(ended.value).data).encode()
    packed = _pickling.dump_exception(ended.error)
    return Outcome(False, packed.required_body().data, packed.type_name, packed.text, packed.traceback).encode()
