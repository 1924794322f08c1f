"""Calls that go through a storage: ``StagedCallset``, the origin of their futures.

Which thread does what, and which lock guards what
--------------------------------------------------
A *look* finds out which calls have ended: it takes note of what is outstanding, reads (statuses, Lambda's records,
outputs), decides, writes the ends that the client itself decides on, unpickles, and settles futures. Mostly the
monitor's thread looks. A program's own thread does when it asks with ``done()`` or ``wait(…, ALWAYS)``; when it loses
``cancel()`` it looks at that one call. Helper threads (``for_each``) send requests for whichever thread looks, and do
nothing else.

- ``StagedCallset._lock`` guards what is known of the callset: futures, whether a look is under way, when the last one
  was. It is held for work in memory only: never across a request, another thread's work, unpickling, a callback, or a
  future's condition. It is an ``RLock`` because letting go of a future under it may end a user's object, whose
  ``__del__`` may ask anything.
- ``Callset.condition``, shared by the callset's futures, guards their states (``pywren.future``). A thread that holds
  it may take ``_lock``, and then the monitor's lock: ``add_done_callback`` asks so. That is the order, and nobody takes
  them the other way round.
- One look at a time, by the flag ``_looking`` and not by a lock: who finds a look under way goes on with what is known,
  and so waits for no other thread's requests. ``cancel`` looks beside it; both find the same, and the first settlement
  of a future counts.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pywren import future
from pywren.client import verdict as _verdict
from pywren.client.belief import Death, Findings, weigh
from pywren.client.callset import Callset
from pywren.client.failure_records import FailureRecords, Noted
from pywren.client.monitor import FIRST_LOOK, Monitor, look_delay
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
from pywren.pickling.packed import dumps
from pywren.pickling.packed_exceptions import dump_exception
from pywren.storage import Storage
from pywren.storage.localhost_backend import is_locked
from pywren.system.threads import for_each
from pywren.wire.digests import verify_sha256
from pywren.wire.failure import Failure
from pywren.wire.keys import function_name
from pywren.wire.outcome import EAGER_OUTPUT_LIMIT, Outcome
from pywren.wire.status import Status

logger = logging.getLogger(__name__)

LOST_GRACE = 60.0
"""Seconds for a status under way, before a call is declared lost."""

STORAGE_PATIENCE = 60.0
"""Seconds of unbroken storage errors after which those who wait are told; the futures stay as they are."""

_FETCH_THREADS = 32
_DIRECT_LOOKS = 3  # so many statuses are asked for one by one: a GET costs a twelfth of a LIST
_CLOCKS_WRONG = 86_400.0  # seconds by which a client's clock may be
_LONGEST_CHAIN = 100

# -- learning of outcomes ------------------------------------------------------------------------------------


class _Outcome(NamedTuple):
    """How a call ended: the value or the error, and the status that said so."""

    value: Any
    error: BaseException | None
    source: Status | None


class StagedCallset:
    """The origin of the futures of one callset in a storage.

    Futures that nobody waits for and nobody holds are forgotten.

    Args:
        callset: the callset.
        storage: where its objects are.
        monitor: the storage's watcher.
        client_alive: tells whether the process that runs the calls lives; ``None`` when no single one does.
        explain_silence: tells why no results come, if it knows; ``None`` when nobody can be asked.
        noted: what callsets of one storage and one function share of Lambda's records.
        clock: tells the time by the storage's clock, in seconds since the epoch; the storage when not given.
        timer: monotonic seconds.
    """

    def __init__(
        self,
        callset: Callset,
        storage: Storage,
        monitor: Monitor,
        *,
        client_alive: Callable[[], bool] | None = None,
        explain_silence: Callable[[], str | None] | None = None,
        noted: Noted | None = None,
        clock: Callable[[], float] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.callset = callset
        self.storage = storage
        self.records: dict[str, dict[str, Any]] = {}
        self._monitor = monitor
        self._client_alive = client_alive
        self._explain_silence = explain_silence
        self._clock = storage.now if clock is None else clock
        self._timer = timer
        self._records_of_failure = self._failure_records(noted)
        self._lock = threading.RLock()
        # all below is guarded by it
        self._looking = False
        self._look_again = False  # the monitor came while another thread looked, which sends it again
        self._futures: dict[str, list[weakref.ref[ResponseFuture]]] = {}
        self._with_callbacks: set[ResponseFuture] = set()
        self._order: list[str] = []
        self._passed = 0  # so many calls at the beginning of _order have ended
        self._committed: dict[str, Status] = {}  # believed, with a big output that nobody has asked for
        self._last_progress = timer()
        self._last_look: float | None = None
        self._look_cost = 0.0
        self._next_question = future.SILENCE
        self._silence_told = False
        self._unfetched: dict[str, StorageError] = {}  # why the output of a call could not be fetched just now
        self._trouble: PywrenError | None = None
        self._trouble_since = 0.0
        self._tell_again = float("-inf")  # when trouble that comes and goes is worth another line
        self._in_trouble: frozenset[str] | None = None  # the calls that it is about; ``None`` for all
        _callsets.add(self)

    # -- Origin ------------------------------------------------------------------------------------------------

    @property
    def storage_path(self) -> list[str]:
        """``[backend, bucket, prefix]``."""
        return self.storage.path

    def ask(self, futures: Iterable[ResponseFuture]) -> None:
        """Take note that somebody waits for these futures; returns at once."""
        with self._lock:
            self._with_callbacks.update(one for one in futures if future.has_callbacks(one))
            recently = self._last_look is not None and self._timer() - self._last_look < FIRST_LOOK
        self._monitor.watch(self, FIRST_LOOK if recently else 0.0)

    def look(self, futures: Iterable[ResponseFuture]) -> None:
        """Find out now which of these futures are done; a look of a moment ago, or one under way, will do.

        Raises:
            StorageError: of one that is not done nothing could be found out for ``STORAGE_PATIENCE``, and cannot now.
        """
        with self._lock:
            old = self._last_look is None or self._timer() - self._last_look > max(FIRST_LOOK, 10 * self._look_cost)
        if old:
            self._look()
        trouble = self._lasting_trouble()
        if trouble is not None and self._concerned(one for one in futures if not future.is_done(one)):
            raise future.copied(trouble)

    def trouble(self) -> PywrenError | None:
        """Return why the last look failed, if it did."""
        return self._trouble

    def wonder(self) -> None:
        """Leave it to the looks, which also see what nobody waits for."""

    def cancel(self, target: ResponseFuture) -> bool:
        """End the call, by being the first to write its status, or the first whose status can be believed."""
        call_id, error = target.call_id, CallCancelledError("the call was cancelled")
        if self._write_end(call_id, error):
            self._settle({call_id: self._outcome_of_error(call_id, error)})
            return True
        found = self._find_out([call_id])
        if call_id in found.unbelieved:
            self._write_end(call_id, error, over_what_stands=True)
            self._settle({call_id: self._outcome_of_error(call_id, error)})
            return True
        self._carry_out(found)
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
        with self._lock:
            self._futures.setdefault(one.call_id, []).append(weakref.ref(one))
            self._order = []

    def watch(self) -> None:
        """Have the monitor look at the callset from now on."""
        with self._lock:
            self._last_progress = self._timer()
        self._monitor.watch(self, FIRST_LOOK)

    # the next four are called with the lock held

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
        """Look once; return the seconds until the next look, or ``None`` when the monitor need not come again.

        It need not when nothing is outstanding. When another thread is looking, that sends for it afterwards.
        """
        if self._look(again=True):
            return self._until_next_look()
        return None

    def _look(self, *, again: bool = False) -> bool:
        """Look once, unless a look is under way; returns whether this was the one.

        Args:
            again: have the monitor look again after the one under way.
        """
        with self._lock:
            if self._looking:
                self._look_again = self._look_again or again
                return False
            self._looking, self._look_again = True, False
        try:
            self._look_now()
        finally:
            with self._lock:
                self._looking, again = False, self._look_again
            delay = self._until_next_look() if again else None
            if delay is not None:
                self._monitor.watch(self, delay)
        return True

    def _look_now(self) -> None:
        started, began = self._timer(), time.monotonic()
        with self._lock:
            outstanding = self._outstanding()
            unknown = [call_id for call_id in outstanding if call_id not in self._committed]
        if not outstanding:
            return
        ended = False
        trouble: PywrenError | None = None
        calls: frozenset[str] | None = None
        try:
            # before all is read, or what it wrote at its end could be missed
            client_gone = self._client_alive is not None and bool(unknown) and not self._client_alive()
            found = self._find_out(unknown, client_gone)
            ended = self._carry_out(found)
            if found.missing:
                self._wonder(len(found.missing))
            with self._lock:
                unfetched = dict(self._unfetched)
            if unfetched:
                trouble, calls = next(iter(unfetched.values())), frozenset(unfetched)
        except PywrenError as error:
            trouble = error
        except Exception as error:  # noqa: BLE001 -- whatever it is, nobody may be left waiting
            trouble = _unexpected(error)
        self._note_look(started, ended, trouble, calls)
        lasting = self._lasting_trouble()
        if lasting is not None:
            with self._lock:
                waiting = [one for call_id in self._futures for one in self._living(call_id)]
            future.report_trouble(self._concerned(waiting), lasting, began)

    def _concerned(self, futures: Iterable[ResponseFuture]) -> list[ResponseFuture]:
        """Return those futures that the trouble is about."""
        calls = self._in_trouble
        return [one for one in futures if calls is None or one.call_id in calls]

    def _note_look(
        self, started: float, ended: bool, trouble: PywrenError | None, calls: frozenset[str] | None
    ) -> None:
        now = self._timer()
        with self._lock:
            self._last_look, self._look_cost = now, now - started
            if ended:
                self._last_progress = now
            began = trouble is not None and self._trouble is None
            if began:
                self._trouble_since = now
            tell = began and now >= self._tell_again
            if tell:
                self._tell_again = now + STORAGE_PATIENCE
            self._trouble, self._in_trouble = trouble, calls
        _forget_frames(trouble)
        if tell:
            logger.warning("cannot look for results; pywren keeps trying: %s", trouble)

    def _lasting_trouble(self) -> PywrenError | None:
        with self._lock:
            lasts = self._timer() - self._trouble_since >= STORAGE_PATIENCE
            return self._trouble if lasts else None

    def _until_next_look(self) -> float | None:
        with self._lock:
            if not self._outstanding():
                return None
            if set(self._futures) <= set(self._committed) and not any(map(self._is_awaited, self._committed)):
                return None  # all that is left are outputs that nobody has asked for
            return look_delay(self._timer() - self._last_progress, self._look_cost)

    def forget_parent_locks(self) -> None:
        """Replace, in a forked child, the locks that another thread of the parent may have held."""
        self._lock = threading.RLock()
        self._looking = self._look_again = False
        living = [one for call_id in self._futures for one in self._living(call_id)]
        future.forget_parent_threads(self.callset.condition, living)
        self._with_callbacks.clear()

    # -- reading -------------------------------------------------------------------------------------------------

    def _find_out(self, unknown: Sequence[str], client_gone: bool = False) -> Findings:
        """Read what stands of these calls, then Lambda's records, and decide what is believed.

        Raises:
            StorageError: it could not be read, or could not be told whether it can be believed.
        """
        read: dict[str, bytes | IntegrityError | None] = dict.fromkeys(unknown)

        def read_one(call_id: str) -> None:
            try:
                read[call_id] = self.storage.read_status(self.callset.id, call_id)
            except IntegrityError as error:  # too big
                read[call_id] = error

        for_each(read_one, self._candidates(unknown), self._threads())
        with self._lock:
            for call_id in unknown:
                for one in self._living(call_id):
                    one.status_query_count += 1
        records = self._records_of_failure
        if records is not None:
            now = self._clock()
            # after the statuses: what is forged with a key from a record comes after the record
            if any(data is not None for data in read.values()) or (read and records.is_due(now)):
                records.refresh(now)
            if records.is_empty:
                records = None
        return weigh(self.callset, read, records, client_gone)

    def _failure_records(self, noted: Noted | None) -> FailureRecords | None:
        function = self.callset.function
        if function is None:
            return None
        return FailureRecords(self.storage, function, self.callset.id, self.callset.submitted, noted)

    def _threads(self) -> int:
        return 1 if self.storage_path[0] == "localhost" else _FETCH_THREADS

    def _candidates(self, unknown: Sequence[str]) -> Sequence[str]:
        if len(unknown) <= _DIRECT_LOOKS:
            return unknown
        with self._lock:
            if not self._order:
                self._order, self._passed = sorted(self._futures), 0
            while self._passed < len(self._order) and self._order[self._passed] < unknown[0]:
                self._passed += 1
            # keys are listed in order: what stands before the first outstanding call need not be listed again
            start_after = self._order[self._passed - 1] if self._passed else ""
        wanted = set(unknown)
        return [c for c in self.storage.finished_calls(self.callset.id, start_after) if c in wanted]

    # -- what follows from it ------------------------------------------------------------------------------------

    def _carry_out(self, found: Findings) -> bool:
        """Settle what has ended, and end what has died; returns whether there was any of it."""
        settlements = {call_id: _Outcome(None, error, None) for call_id, error in found.failed.items()}
        settlements.update((call_id, _Outcome(None, error, None)) for call_id, error in found.unbelieved.items())
        for call_id, status in found.believed.items():
            if status.output_sha256 is None:
                settlements[call_id] = self._judge(status, status.outcome)
        with self._lock:
            for call_id, status in found.believed.items():
                if call_id not in settlements and call_id in self._futures:  # or another look has settled it
                    self._committed[call_id] = status
        self._settle(settlements)
        ended = self._end_dead(found.dead)
        lost = self._end_lost(found.missing, found.client_gone)
        return self._fetch_outputs() or ended or lost or bool(settlements) or bool(found.believed)

    def _fetch_outputs(self) -> bool:
        """Fetch the separate outputs that are small or asked for, and settle their futures.

        One that cannot be fetched does not keep the others from it.

        Raises:
            StorageError: too many could not be fetched for it to be about each of them.
        """
        with self._lock:
            wanted = {
                call_id: status
                for call_id, status in self._committed.items()
                if (status.output_size or 0) <= EAGER_OUTPUT_LIMIT or self._is_awaited(call_id)
            }
        fetched: dict[str, bytes | StorageError] = {}
        unfetched: dict[str, StorageError] = {}

        def fetch(call_id: str) -> None:
            try:
                fetched[call_id] = self._fetch(wanted[call_id])
            except StorageError as error:
                unfetched[call_id] = error
                if len(unfetched) >= _FETCH_THREADS:  # it is not about this output: each more would take its time
                    raise

        try:
            for_each(fetch, wanted, self._threads())
        finally:
            # unpickled by this one thread: what is unpickled may hold futures of this very callset
            self._settle(
                {
                    call_id: _Outcome(None, data, wanted[call_id])
                    if isinstance(data, StorageError)
                    else self._judge(wanted[call_id], data)
                    for call_id, data in fetched.items()
                }
            )
            with self._lock:
                self._unfetched = unfetched
        return bool(fetched)

    def _fetch(self, status: Status) -> bytes | StorageError:
        """Return a verified output, or why there will never be one; other errors of the storage may pass."""
        started, began = time.time(), self._timer()
        try:
            data = self.storage.get(status.output_key or "", limit=status.output_size or 0)
            verify_sha256(data, status.output_sha256, f"the output {status.output_key}")
        except (IntegrityError, StorageNoSuchKeyError) as error:
            return error
        record = self.records.setdefault(status.call_id, {})
        record["download_output_timestamp"] = started
        record["download_output_time"] = self._timer() - began
        return data

    def _judge(self, status: Status, outcome: bytes | None) -> _Outcome:
        document = status.document()
        if status.failure is not None:
            return _Outcome(*_verdict.of_failure(status.failure, self.callset.id, status.call_id, document), status)
        try:
            verdict = _verdict.of_encoded(outcome or b"", self.callset.id, status.call_id, document)
        except DecodeError as error:
            return _Outcome(None, error, status)
        except Exception as error:  # noqa: BLE001 -- of one call: it must not keep the others from their outcomes
            return _Outcome(None, _unexpected(error), status)
        return _Outcome(*verdict, status)

    def _settle(self, settlements: Mapping[str, _Outcome]) -> None:
        now = time.time()
        with self._lock:
            batch = [
                Settlement(one, *outcome) for call_id, outcome in settlements.items() for one in self._living(call_id)
            ]
            for call_id in settlements:
                self.records.setdefault(call_id, {})["status_done_timestamp"] = now
        future.settle(batch)
        with self._lock:  # last, or Ctrl-C in between would leave futures that nobody looks after
            for call_id in settlements:
                self._drop(call_id)

    # -- ending calls --------------------------------------------------------------------------------------------

    def _write_end(self, call_id: str, error: PywrenError, *, over_what_stands: bool = False) -> bool:
        """Write the status that ends a call with an error; returns whether it is what stands.

        Args:
            call_id: the call.
            error: the error.
            over_what_stands: also when a status stands, which was found not to be worth belief.
        """
        status = self._client_status(call_id, error)
        key = self.callset.call_keys(call_id).status
        data = status.encode(self.callset.attempt_key(call_id, status.attempt))
        return self.storage.put(key, data) if over_what_stands else self.storage.commit_status(key, data)

    def _client_status(self, call_id: str, error: PywrenError) -> Status:
        return Status(self.callset.id, call_id, failure=Failure.of(error), info={"ended_by": "client"})

    def _outcome_of_error(self, call_id: str, error: PywrenError) -> _Outcome:
        return self._judge(self._client_status(call_id, error), None)

    def _end_dead(self, dead: Mapping[str, Death]) -> bool:
        """End calls that Lambda says have ended, where that is to be believed rather than what stands there.

        The error is written, too, for those who may not read records.
        """
        ended: list[str] = []  # by the helpers; settled by this thread, when they have ended

        def write(call_id: str) -> None:
            error, over_what_stands = dead[call_id]
            try:
                if not self._write_end(call_id, error, over_what_stands=over_what_stands):
                    return  # it was committed just now: the next look sees whether to believe it
            except StorageError as problem:  # who looks for the call here knows all the same
                logger.debug("cannot write that call %s of callset %s died: %s", call_id, self.callset.id, problem)
            ended.append(call_id)

        for_each(write, dead, self._threads())
        self._settle({call_id: self._outcome_of_error(call_id, dead[call_id].error) for call_id in ended})
        return bool(ended)

    def _end_lost(self, missing: Sequence[str], client_gone: bool) -> bool:
        """Declare calls lost that can have no status any more; of one that has, the next look takes it."""
        lost_after = self.callset.lost_after(LOST_GRACE)
        now = self._clock()
        if client_gone:
            text = "the call is lost: the process that ran it on its machine has ended; run it again"
        elif lost_after is not None and now > lost_after:
            whose = "worker" if self.callset.function is None else "function"
            text = (
                f"the call is lost: {now - self.callset.submitted:.0f} s after it was invoked it has no "
                f"status. It never started, or its worker vanished; look at the {whose}'s log, and run it again"
            )
        else:
            return False
        won: list[str] = []  # by the helpers; settled by this thread, when they have ended

        def end(call_id: str) -> None:
            if self._write_end(call_id, CallLostError(text)):
                won.append(call_id)

        try:
            for_each(end, missing, self._threads())
        finally:
            self._settle({call_id: self._outcome_of_error(call_id, CallLostError(text)) for call_id in won})
        return bool(won)

    # -- silence -------------------------------------------------------------------------------------------------

    def _wonder(self, missing: int) -> None:
        """Say once what is known when nothing comes back; and why, as soon as who can be asked knows."""
        with self._lock:
            silent = self._timer() - self._last_progress
            if silent < self._next_question:
                return
            self._next_question *= 2
            explain, told = self._explain_silence, self._silence_told
            self._silence_told = True
        explanation = None if explain is None else _explanation(explain)
        if explanation is not None:
            logger.warning("%s", explanation)
            self._explain_silence = None
        elif not told:
            logger.warning("%s", self._what_is_known(silent, missing))

    def _what_is_known(self, silent: float, missing: int) -> str:
        function = self.callset.function
        calls = "1 call" if missing == 1 else f"{missing} calls"
        whose = f"{calls} of callset {self.callset.id}"
        known = f"nothing has come back for {silent:.0f} s from {whose}: no result, no failure"
        if function is None:
            return f"{known}. They may still run, or wait to be run: look at what runs them, and at its log"
        return (
            f"{known}. The function {function} may still run them, or they wait for their turn: look at what they "
            "print with `pywren logs`, whether calls get through with `pywren test_config`, and whether other calls "
            "take the function's concurrency"
        )


def _explanation(explain: Callable[[], str | None]) -> str | None:
    try:
        return explain()
    except Exception as error:  # noqa: BLE001 -- the invoker may be anybody's: what it cannot tell is no trouble of the storage
        logger.debug("why no results come is not known: %s", error)
        return None


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what an error that is kept holds by its tracebacks: the futures, which would never be forgotten."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _unexpected(error: Exception) -> StorageError:
    problem = StorageError(f"looking for results failed: {type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem


_callsets: weakref.WeakSet[StagedCallset] = weakref.WeakSet()


def _after_fork() -> None:
    global _attaching
    _attaching = threading.RLock()
    for origin in list(_callsets):
        origin.forget_parent_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- futures from elsewhere ----------------------------------------------------------------------------------

_attached: weakref.WeakValueDictionary[tuple[Any, ...], StagedCallset] = weakref.WeakValueDictionary()
_attaching = threading.RLock()  # what is made under it may have the collector end an object that attaches others
# shared by the callsets from elsewhere that are in one storage: thousands of futures may each have one of their own
_storages: weakref.WeakValueDictionary[tuple[Any, ...], Storage] = weakref.WeakValueDictionary()
_monitors: weakref.WeakValueDictionary[tuple[Any, ...], Monitor] = weakref.WeakValueDictionary()
_noted: weakref.WeakValueDictionary[tuple[Any, ...], Noted] = weakref.WeakValueDictionary()


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
        key = (os.getpid(), *storage.path, callset.id)
        origin = _attached.get(key)
        if origin is None:
            origin = _origin_from_elsewhere(callset, storage, alive)
            _attached[key] = origin
    origin.records.setdefault(call_id, {}).update(record or {})
    return origin.add([call_id])[0]


_Kept = TypeVar("_Kept")


def _kept(
    cache: weakref.WeakValueDictionary[tuple[Any, ...], _Kept], key: tuple[Any, ...], make: Callable[[], _Kept]
) -> _Kept:
    found = cache.get(key)
    if found is None:
        found = cache[key] = make()
    return found


def _origin_from_elsewhere(
    callset: Callset, storage: Storage, alive: Callable[[], bool] | None = None
) -> StagedCallset:
    place = (os.getpid(), *storage.path)
    monitor, noted = _kept(_monitors, place, Monitor), _kept(_noted, (*place, callset.function), Noted)
    return StagedCallset(callset, storage, monitor, client_alive=alive, noted=noted)


def adopt(one: ResponseFuture, storage_path: Sequence[str], facts: dict[str, Any]) -> None:
    """Give a future that a program made by hand its origin, from ``[backend, bucket, prefix]``."""
    backend, place, prefix = storage_path
    settings = {"root": place} if backend == "localhost" else {"bucket": place, "region": facts.get("region")}
    config = {"storage_backend": backend, "storage_prefix": prefix, "backend_config": settings}
    function, submitted = facts.get("lambda_function_name"), facts.get("host_submit_time")
    callset = Callset(
        prefix,
        one.callset_id,
        # by the clock of whoever submitted it; of a call that says nothing all records are looked at
        submitted=submitted - _CLOCKS_WRONG if isinstance(submitted, int | float) else 0.0,
        function=function_name(function) if isinstance(function, str) else None,
        facts=facts,
    )
    key = (os.getpid(), *storage_path, settings.get("region"))
    storage = _storages.get(key) or Storage(config)  # not under the lock: one on this machine throws away what is old
    with _attaching:
        storage = _storages.setdefault(key, storage)
        origin = _origin_from_elsewhere(callset, storage)
    one._origin = origin
    one._condition = origin.callset.condition
    origin.take(one)


def encoded_outcome(ended: Settlement) -> bytes:
    """Encode how a call ended, so that it can be handed on."""
    if ended.error is None:
        return Outcome(True, dumps(ended.value).data).encode()
    return dump_exception(ended.error).encoded_outcome()
