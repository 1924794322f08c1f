"""Calls that go through a storage: ``StagedCallset`` is the origin of their futures.

Which thread does what, and which lock guards what
--------------------------------------------------
A *poll* finds out which calls have ended. It reads statuses, reports of failed attempts and Lambda's records
(``client.looking``); decides what to believe (``client.belief``); tells the driver, which decides what to invoke again
and what to end; writes a status for each call that the client itself ends; fetches outputs; unpickles outcomes; and
settles futures. Usually the monitor's thread polls. A thread of the program polls when it calls ``done()`` or
``wait(…, ALWAYS)``. If ``cancel()`` finds that the call has a status already, it polls that one call. Helper threads
(``for_each``) only send requests for the thread that polls.

- ``StagedCallset._lock`` guards what is known about the callset: its futures, whether a poll is running, and when the
  last poll ran. A thread holds ``_lock`` only for work in memory. It never holds ``_lock`` during a request, while it
  waits for another thread, unpickles or runs a callback, or while it takes the condition of a future. ``_lock`` is an
  ``RLock`` because dropping a future while holding it may destroy a user's object, whose ``__del__`` may call anything.
- ``Callset.condition``, shared by the callset's futures, guards their states (``client.call_state``). A thread that
  holds the condition may take ``_lock`` and then the monitor's lock, as ``add_done_callback`` does. No thread takes
  these locks in another order.
- The driver has a lock of its own, which is innermost: it may be taken with any of these held.
- One poll runs at a time. The flag ``_polling`` ensures this; it is not a lock: a thread that finds a poll running
  continues with what is known, and so never waits for another thread's requests. Only ``cancel`` may poll at the same
  time as another poll. Both polls read the same objects, and the first verdict of a future counts.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pywren.client import call_state, waiting
from pywren.client.belief import Findings, Sign
from pywren.client.call_facts import CallFacts
from pywren.client.call_state import CallState
from pywren.client.callset import Callset
from pywren.client.driver.driver import Attempt, Driver, Planned, Ready, Stop
from pywren.client.driver.record import Counts
from pywren.client.driver.retrying import Over
from pywren.client.ends import End, Ends, store_outcome, with_attempts
from pywren.client.failure_records import Death, FailureRecords, Noted
from pywren.client.invoking import Invocations
from pywren.client.lease import Lease, held
from pywren.client.looking import FETCH_THREADS, InFlight, Looker
from pywren.client.monitor import FIRST_POLL, Monitor, poll_delay
from pywren.client.payloads import Payloads, made_members
from pywren.client.presence import client_file
from pywren.client.protocols import Recipe
from pywren.client.silence import Silence
from pywren.client.trouble import Trouble
from pywren.client.verdict import Verdict, cancelled_with, encoded, name_attempts, of_status, traceback_of, unexpected
from pywren.cloud.prices import Usage, measured, measured_seconds
from pywren.exceptions import (
    CallCancelledError,
    CallLostError,
    CallTimeoutError,
    IntegrityError,
    PywrenError,
    StorageError,
    StorageNoSuchKeyError,
)
from pywren.pickling.packed import Packed
from pywren.storage import Storage
from pywren.system import shutdown
from pywren.system.forks import in_each_child, own_name
from pywren.system.threads import for_each
from pywren.wire import reading
from pywren.wire.cause import NEVER_RAN, Cause
from pywren.wire.chunk import PAGE_INTERVAL, chunk_payload
from pywren.wire.digests import chunk_key, verify_sha256
from pywren.wire.failure import Failure
from pywren.wire.journal import Plan
from pywren.wire.outcome import EAGER_OUTPUT_LIMIT, Outcome
from pywren.wire.status import CLIENT_ATTEMPT, Status
from pywren.wrenutil import create_call_id

logger = logging.getLogger(__name__)

LOST_GRACE = 60.0
"""Seconds that a status may take to arrive before its call is declared lost."""

_RETRY_POLL = 0.25  # seconds: calls to be invoked again become due one after the other, and a poll costs a request

_LOST_OBJECT = (StorageNoSuchKeyError, IntegrityError)

_SHUT_OUT = (
    "the call is lost: for longer than any call may wait and run, the service was too busy to accept an invocation. "
    "Check the reserved concurrency of the function and of other functions in the account, and run the call again"
)


class StagedCallset:
    """The origin of the futures of one callset in a storage.

    The origin holds its futures weakly, and forgets futures that nothing else holds. But it keeps futures that have
    callbacks, because the callbacks must be called.

    Args:
        callset: the callset.
        storage: where its objects are.
        monitor: polls the callset.
        client_alive: tells whether the process that runs the calls is alive; ``None`` if no single process runs them.
        explain_silence: returns why no results arrive, or ``None`` if the reason is unknown; may itself be ``None``.
        noted: what is known from Lambda's records; callsets of one storage and one function share it.
        copies: returns how many copies of the function may have got the calls; by default those of the callset.
        lease: shows other clients that this one drives the callset; ``None`` if it does not.
        clock: returns seconds since the epoch; by default it is the storage's clock.
        timer: returns monotonic seconds.
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
        copies: Callable[[], int] | None = None,
        lease: Lease | None = None,
        clock: Callable[[], float] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.callset = callset
        self.storage = storage
        # For each call that is held because it follows others, what returns the rest of its payload. No lock: filled
        # before any other thread knows this object; each member is then used by the one thread that invokes its call.
        self._incomplete: dict[str, Callable[[], Mapping[str, Any]]] = {}
        # No lock: threads that invoke, for_each() helpers and the polling thread add entries with setdefault().
        self.records: dict[str, CallFacts] = {}
        # Members of the payloads that all calls share: 100,000 copies of them would take a few hundred megabytes.
        self.shared_payload: Mapping[str, Any] = {}
        # Both are set by drive(), before any other thread knows this object. ``None`` if another process drives the
        # calls.
        self.driver: Driver | None = None
        self._invocations: Invocations | None = None
        self._monitor = monitor
        self._client_alive = client_alive
        self._silence = Silence(callset, explain_silence, timer)
        self._clock = storage.now if clock is None else clock
        self._timer = timer
        self._lease = lease
        self._may_drive = True  # False once another client has taken the lease; only the thread that polls writes it
        self._looker = Looker(callset, storage, self._failure_records(noted, copies), self._clock, timer)
        self._journals = self._looker.journals
        self._ends = Ends(callset, storage, self._journals)
        self._planned: set[str] = set()  # chunks whose plans are written; a chunk is invoked by one thread at a time
        self._ending: Sequence[str] = ()  # chunks whose journals this client ends; only the thread that polls writes it
        self._lock = threading.RLock()
        # _lock guards everything below.
        self._polling = False
        self._poll_again = False  # the monitor found another thread polling; that thread then calls the monitor
        # A call may have several futures, because each unpickled copy is one more future.
        self._futures: dict[str, _FutureRef] = {}
        # References to futures that nothing holds any more. Garbage is collected wherever a thread happens to be,
        # perhaps under a lock. So all that happens then is one append(), which is atomic; a poll does the rest.
        self._gone: deque[weakref.ref[CallState]] = deque()
        self._note_gone = self._gone.append  # one object for all references
        self._in_order: list[str] | None = None  # the keys of ``_futures``, sorted; made again after a change
        self._looks = 0  # how often the storage was asked for statuses; only the thread that polls writes it
        # Strong references: a program may drop a future whose callback it still expects to run, or those of a job, for
        # which other processes may wait: this client drives it to its end.
        self._with_callbacks: set[CallState] = set()
        self._order: list[str] = []
        self._passed = 0  # how many calls at the beginning of _order have ended
        self._committed: dict[str, Status] = {}  # believed statuses whose big outputs have not been fetched
        self._last_poll: float | None = None
        self._poll_cost = 0.0
        self._unfetched: dict[str, StorageError] = {}  # for each call, why its output cannot be fetched at present
        self._trouble = Trouble()
        self._withdrawn = False  # calls may have been withdrawn; some may be left over if Ctrl-C came meanwhile
        self._wanted_elsewhere = False  # another process may wait for the calls, so dropped futures do not matter
        _callsets.add(self)

    def drive(self, driver: Driver, invocations: Invocations) -> None:
        """Become the one that owns the calls: invoke them, repeat what failed, and end what cannot be repeated."""
        self.driver, self._invocations = driver, invocations
        self._wanted_elsewhere = self.callset.name is not None
        if invocations.start_by_themselves:  # otherwise only the program could end the wait
            shutdown.wait_for(self)

    def payload(self, ready: Ready) -> dict[str, Any]:
        """Return the payload of an attempt."""
        # On a thread that invokes. Each attempt has a key of its own, and the time is that of this attempt: with
        # thousands of calls the last is invoked much later than the first.
        chunk = None if self.driver is None else self.driver.chunk_of(ready.call_id)
        if chunk is not None:
            return self._chunk_payload(ready.call_id, chunk)
        key = self.callset.attempt_key(ready.call_id, ready.number).hex()
        kept = self.records[ready.call_id]
        complete = self._incomplete.get(ready.call_id)
        if complete is not None:
            # It may store outcomes of other storages. Removed afterwards: if this fails, it may be tried again.
            kept.add_members(complete())
            self._incomplete.pop(ready.call_id, None)
        kept.attempt, kept.submitted = ready.number, time.time()
        own = {"attempt_key": key, "client_process": own_name()}
        return {**self.whole_payload(ready.call_id), **own, **self.callset.overwrite}

    def _chunk_payload(self, name: str, chunk: Planned) -> dict[str, Any]:
        """Write the plan of a chunk, and return its payload."""
        # Whoever finds an outcome must find the plan too. If the service was too busy before, the plan stands.
        if name not in self._planned:
            plan = Plan(self.callset.id, name, chunk.attempts)
            # First here: from now on, what ends one of these calls is written into their journal.
            self._journals.open(plan)
            self.storage.put(self.callset.keys.page(name, 0), plan.encode(self.callset.known_secret()))
            self._planned.add(name)
        now = time.time()
        items: list[dict[str, Any]] = []
        left = set(chunk.left)
        for call_id, number in chunk.attempts.items():
            if items and call_id not in left:
                continue  # it has ended meanwhile; but the first one gives the chunk its name
            kept = self.records[call_id]
            kept.attempt, kept.submitted = number, now
            items.append({"call_id": call_id, **kept.payload()})
        first = {**self.whole_payload(items[0]["call_id"]), "client_process": own_name()}
        interval = PAGE_INTERVAL if self.driver is not None and self.driver.policy.retries else 0.0
        return chunk_payload(first, items, chunk_key(self.callset.known_secret(), name), interval, chunk.time_limit)

    def keep_payloads(self, payloads: Payloads) -> None:
        """Keep what payloads are made from."""
        self.shared_payload = payloads.shared
        self.records.update((call_id, CallFacts(own)) for call_id, own in payloads.own.items())

    def remember(self, call_id: str, record: Mapping[str, Any]) -> None:
        """Remember what a pickled future says about its call: members of ``invoke_status``."""
        self._facts(call_id).add_others(record)

    def _facts(self, call_id: str) -> CallFacts:
        # Nearly always there: one that setdefault() does not need would be made in vain.
        return self.records.get(call_id) or self.records.setdefault(call_id, CallFacts())

    def whole_payload(self, call_id: str) -> dict[str, Any]:
        """Return the payload of a call, without the key of the attempt and what the program overwrites."""
        # Four keys of a hundred characters each: kept, they would be a quarter of what is known of an outstanding call.
        made = made_members(self.callset, call_id)
        return {**made, **self.shared_payload, **self.records[call_id].payload()}

    def note_invocation(self, ready: Ready, seconds: float) -> None:
        """Record that an attempt was invoked, and how many seconds that took."""
        # On a thread that invokes; each call is invoked by one thread at a time.
        chunk = None if self.driver is None else self.driver.chunk_of(ready.call_id)
        for call_id in [ready.call_id] if chunk is None else chunk.attempts:
            self.records[call_id].seconds = seconds

    def complete_later(self, call_id: str, complete: Callable[[], Mapping[str, Any]]) -> None:
        """Have the rest of a payload made just before the call is invoked, on the thread that invokes it."""
        self._incomplete[call_id] = complete

    def put(self, packed: Packed) -> Status:
        """Store an object as the outcome of the callset's only call, and return the status of that call.

        Raises:
            StorageError: it cannot be stored.
        """
        call_id = create_call_id(0)
        members = store_outcome(self.storage, self.callset.call_keys(call_id), Outcome(True, packed.data).encode())
        status = replace(self._ends.status(call_id, None), **members)
        self._ends.write(status, over_what_stands=True)
        return status

    def know(self, future: CallState, status: Status) -> None:
        """Record how a call has ended without asking the storage, which may have deleted the status by then."""
        if status.output_sha256 is None:
            call_state.settle([(future, of_status(status, status.outcome, self.callset.id))])
            with self._lock:
                self._drop(future.call_id)
            return
        with self._lock:
            self._committed[future.call_id] = status
        call_state.mark_stored(future, status)

    # -- Holder: the inputs of a call have ended. On a thread ``pywren-inputs``, without a lock ----------------------

    def let_go(self, call_id: str, inputs: Sequence[CallState]) -> bool:
        """Invoke a call that was held. Return False if it was ended meanwhile."""
        if self.driver is None or self._invocations is None or not self.driver.let_go(call_id):
            return False
        if not self._invocations.wake():
            self._monitor.watch(self, FIRST_POLL)  # the threads that invoke may be about to end: a poll looks again
        return True

    def is_held(self, call_id: str) -> bool:
        """Tell whether a call still waits for its inputs."""
        return call_id in self._incomplete

    def end_like(self, call_id: str, failed: CallState) -> None:
        """End a call with the error of one of its inputs, or as cancelled if that was cancelled."""
        verdict = call_state.verdict_of(failed) or Verdict()
        if isinstance(verdict.error, CallCancelledError):
            self.end_with(call_id, CallCancelledError(cancelled_with(failed)))
            return
        # In the storage, for other processes too, which may wait for the call.
        members = store_outcome(self.storage, self.callset.call_keys(call_id), encoded(verdict))
        status = replace(self._ends.status(call_id, None), exception_traceback=traceback_of(verdict), **members)
        self._end(status)
        self._monitor.watch(self)

    def end_with(self, call_id: str, error: BaseException) -> None:
        """End a call with an error that kept it from being invoked."""
        self.refuse(call_id, error)

    def refuse(self, call_id: str, error: BaseException) -> None:
        """End a call that the service has refused for good, after ``map`` has returned."""
        known = error if isinstance(error, PywrenError) else unexpected(error, "the call could not be invoked")
        for one in [call_id] if self.driver is None else self.driver.refused_calls(call_id):
            self._ends.add(End(self._ends.status(one, Failure.of(known)), error=known))
        self._monitor.watch(self)

    # -- Origin ------------------------------------------------------------------------------------------------

    @property
    def storage_path(self) -> list[str]:
        """The list ``[backend, bucket, prefix]``."""
        return self.storage.path

    def expect(self, futures: Iterable[CallState]) -> None:
        """Record that something waits for these futures, and return immediately."""
        # The caller may hold the condition of the futures, so take only _lock and the monitor's lock here.
        with self._lock:
            self._with_callbacks.update(one for one in futures if call_state.has_callbacks(one))
            # A program that waits for one future after the other must not cause a request for each.
            recently = self._last_poll is not None and self._timer() - self._last_poll < FIRST_POLL
        # After releasing ``_lock``: watch() may start a thread, and needs nothing that ``_lock`` guards.
        self._monitor.watch(self, FIRST_POLL if recently else 0.0)

    def poll(self, futures: Iterable[CallState]) -> None:
        """Find out now which of these futures are done, unless a poll ran a moment ago or is running.

        Raises:
            StorageError: a future is not done, and the storage could not be read for ``trouble.PATIENCE`` seconds.
        """
        # A program may call done() in a loop, so these polls may take at most a tenth of the time.
        with self._lock:
            old = self._last_poll is None or self._timer() - self._last_poll > max(FIRST_POLL, 10 * self._poll_cost)
        # The decision may be outdated by now. _poll() decides again under the lock, so at worst one poll too many runs.
        if old:
            self._poll()
        with self._lock:
            lasting = self._trouble.lasting(self._timer())
            concerned = lasting and self._trouble.concerned(one for one in futures if not call_state.is_done(one))
        if lasting is not None and concerned:
            # Only if a future of the caller is concerned: one output that cannot be fetched must not fail the other
            # calls.
            raise waiting.copied(lasting)

    def trouble(self) -> PywrenError | None:
        """Return the error with which the last poll failed; ``None`` if it succeeded."""
        # Without the lock: one reference, and an answer that is a moment old is good enough for a message.
        return self._trouble.error

    def report_silence(self) -> None:
        """Do nothing: the polls report missing results, even of calls that nothing waits for."""

    def cancel(self, target: CallState) -> bool:
        """Cancel the call by writing a status for it, unless the call already has a status that can be believed."""
        call_id, error = target.call_id, CallCancelledError("the call was cancelled")
        if self.driver is None and self.callset.has_chunks:
            self._poll()  # a plan tells in which chunk the call is
        status = self._ends.status(call_id, Failure.of(error))
        if self._ends.write(status):  # the storage decides the race with the worker: the first status wins
            self._settle({call_id: self._verdict_of(End(status))})
            return True
        if self._journals.of(call_id) is not None:
            self._poll()  # a page says what became of it
            return False
        # A status exists already. It may be the worker's, or something that somebody else has written.
        # On the cancelling thread, even while a poll runs: it must not wait for that poll, nor report False for a
        # status that is forged.
        found = self._looker.look_at_once(call_id, self._in_flight())
        # If another process drives the calls, the poll ends an attempt that has died, and this is its true error.
        if call_id in found.unbelieved or (call_id in found.exposed and self.driver is not None):
            # Unconditional: a conditional write would lose to the status that stands. It overwrites no worker's status,
            # because the worker's own write is conditional and has lost to the same object.
            self._ends.write(status, over_what_stands=True)
            self._settle({call_id: self._verdict_of(End(status))})
            return True
        self._carry_out(found)
        return False

    @property
    def is_run_by_program(self) -> bool:
        """Whether the calls run only when the program runs them: those of a dummy executor."""
        return self._invocations is not None and not self._invocations.start_by_themselves

    @property
    def place(self) -> str:
        """Where the calls run."""
        if self.callset.function is not None:
            return f"in the Lambda function {self.callset.function}"
        if self._invocations is not None and self._invocations.run_here:
            return "on this machine"
        queue = self.callset.facts.get("sqs_queue_name_name")
        return "on workers" if queue is None else f"on the workers of the queue {queue}"

    def outstanding(self) -> list[CallState]:
        """Return one living future for each call that is not known to have ended."""
        with self._lock:
            living = [self._living(call_id) for call_id in self._outstanding()]
        return [one for futures in living for one in futures[:1] if not call_state.is_done(one)]

    def withdraw(self, *, record: bool = False) -> int:
        """Cancel the calls that were never invoked or that wait for a process of this machine. Return how many.

        Args:
            record: return only when their statuses are written, for which another process may wait. Otherwise return
                immediately, and write them later.

        Raises:
            StorageError: a status could not be written. The calls are cancelled all the same.
        """
        if self.driver is None or self._invocations is None:
            return 0
        self._withdrawn = True  # without the lock, and first: if Ctrl-C comes below, a poll does the rest
        taken = {*self.driver.drop_held(), *self._invocations.withdraw()}
        ends = [self._ends.status(call_id, Failure.of(_withdrawal())) for call_id in taken]
        self._end_uninvoked(ends, record=record)
        return len(ends)

    def _end_uninvoked(self, ends: Sequence[Status], *, record: bool = False) -> None:
        """Settle calls that no worker has, and write their statuses, for which another process may wait."""
        self._settle({status.call_id: self._verdict_of(End(status)) for status in ends})
        if record:
            self._ends.write_each(ends, self._looker.threads)
        elif ends:
            # Daemon: Ctrl-C usually ends the program, which must not wait for thousands of requests.
            writer = threading.Thread(target=self._write_behind, args=(ends,), name="pywren-cancel", daemon=True)
            try:
                writer.start()
            except RuntimeError:  # there are too many threads, or the program is ending
                self._write_behind(ends)

    def _write_behind(self, ends: Sequence[Status]) -> None:
        try:
            self._ends.write_each(ends, self._looker.threads)
        except StorageError as error:
            logger.debug("cannot record that calls of callset %s have ended: %s", self.callset.id, error)

    def held_back(self) -> str | None:
        """Return how many calls no service has accepted yet, and why; ``None`` if there are none."""
        held = 0 if self.driver is None else self.driver.not_invoked_yet()
        if not held or self.driver is None:
            return None
        step = self.driver.peek()
        reason = "that is under way" if step is None else step.reason or "the service is busy"
        calls = "1 call is" if held == 1 else f"{held} calls are"
        return f"{calls} not invoked yet ({reason})"

    def wait_until_invoked(self, timeout: float | None) -> bool:
        """Wait until all calls are invoked. Return False if ``timeout``, in seconds, runs out first."""
        return self.driver is None or self.driver.wait_until_invoked(timeout)

    def run_status(self, target: CallState) -> dict[str, Any] | None:
        """Return the worker's status."""
        verdict = call_state.verdict_of(target)
        if verdict is not None and isinstance(verdict.source, Status):
            attempts = [one._asdict() for one in self.attempts(target)]
            return {**verdict.source.document(), **({"attempts": attempts} if len(attempts) > 1 else {})}
        # The verdict has no source if the status was unsigned. Then the error made from the status contains the status.
        status = None if verdict is None else getattr(verdict.error, "status", None)
        return None if status is None else dict(status)

    def attempts(self, target: CallState) -> tuple[Attempt, ...]:
        """Return the attempts of a call; an empty tuple if another process drives the call."""
        return () if self.driver is None else self.driver.attempts(target.call_id)

    def counts(self) -> Counts | None:
        """Return what the driver has counted; ``None`` if another process drives the calls."""
        return None if self.driver is None else self.driver.counts()

    def invoke_status(self, target: CallState) -> dict[str, Any]:
        """Return what the client did for the callset and for this call."""
        record = self._record(target.call_id)
        # If the status contains the outcome, nothing was downloaded separately.
        came = {"download_output_timestamp": record.get("status_done_timestamp"), "download_output_time": 0.0}
        return {**self.callset.facts, **came, **record, "status_query_count": target.status_query_count or self._looks}

    def recipe(self, target: CallState) -> Recipe:
        """Return what another process needs to recreate the future: the callset with its secret, and the storage."""
        if self.callset.deletion is not None:
            self.callset.deletion.detach()  # another process may want the outcome after this one has ended
        self._wanted_elsewhere = True  # without the lock: one reference
        client = client_file(self.storage, self.callset)
        # Only a process that runs calls itself has announced itself there.
        shown = None if client is None or not client.exists() else str(client)
        record = self._record(target.call_id)
        record.pop("extra_env", None)  # it may hold secrets, and a pickled future may go anywhere
        return self.callset, self.storage, shown, record

    def _record(self, call_id: str) -> dict[str, Any]:
        """Return what is known of one call: its payload without secrets and argument, and the client's actions."""
        facts = self.records.get(call_id)
        if facts is None:
            return dict(self.shared_payload)
        payload = self.whole_payload(call_id) if facts.attempt else self.shared_payload
        return {**{name: one for name, one in payload.items() if name != "data_inline"}, **facts.document()}

    # -- futures -------------------------------------------------------------------------------------------------

    def take(self, futures: Sequence[CallState]) -> None:
        """Become responsible for more futures."""
        with self._lock:
            for one in futures:
                self._futures[one.call_id] = _FutureRef(one, self._note_gone, self._futures.get(one.call_id))
            self._in_order = None
            if self._lease is not None and self.callset.name is not None:
                self._with_callbacks.update(futures)
            self._order = []  # made again for the next listing, which may have to begin at an earlier call

    def watch(self) -> None:
        """Have the monitor poll the callset from now on."""
        # Invoking a large map takes a while, during which nothing can come back: silence counts from here.
        self._silence.end()
        self._monitor.watch(self, FIRST_POLL)

    # The next five methods must be called with the lock held.

    def _living(self, call_id: str) -> list[CallState]:
        # The list holds strong references: a future that lives now lives until the caller drops the list.
        living, ref = [], self._futures.get(call_id)
        while ref is not None:
            one, ref = ref(), ref.other
            if one is not None:
                living.append(one)
        return living

    def _outstanding(self) -> list[str]:
        """Return, in the order of their keys, the calls that have an unfinished future which something still holds."""
        # While calls wait to be invoked, of this callset or of another, those in flight are of interest even if nothing
        # holds their futures: their ends make room. And nobody but the driver repeats a call whose outcome another
        # process wants.
        if self._gone and not self._must_go_on():
            self._drop_gone()
        # Polls ask, and a call costs each of them as little as possible: a hundred thousand may be outstanding.
        if self._in_order is None:
            self._in_order = sorted(self._futures)
        return self._in_order

    def _drop_gone(self) -> None:
        while self._gone:
            ref = self._gone[0]
            if isinstance(ref, _FutureRef) and not self._living(ref.call_id):
                self._drop(ref.call_id)
            # Last, as Ctrl-C may come before. Dropping may run a user's __del__, which may come back here: the lock is
            # reentrant.
            with contextlib.suppress(ValueError):
                self._gone.remove(ref)

    def _must_go_on(self) -> bool:
        driver = self.driver
        if self._invocations is not None and not self._invocations.start_by_themselves:
            return False  # nothing happens to such calls until the program runs them
        return driver is not None and (driver.ends_matter() or (self._wanted_elsewhere and driver.policy.retries > 0))

    def _drop(self, call_id: str) -> None:
        for one in self._living(call_id):
            self._with_callbacks.discard(one)
            one.status_query_count = self._looks
        if self._futures.pop(call_id, None) is not None:
            self._in_order = None
        if call_id in self.records:
            self.records[call_id].argument = None  # only another attempt needs it
        # May free a status with its output. pop() with a default: a concurrent poll may have settled the call already.
        self._committed.pop(call_id, None)
        self._ends.forget(call_id)

    def _is_awaited(self, call_id: str) -> bool:
        return any(call_state.is_awaited(one) for one in self._living(call_id))

    # -- polling -------------------------------------------------------------------------------------------------

    def examine(self) -> float | None:
        """Poll once. Return how many seconds later the monitor must poll again; ``None`` if it need not.

        The monitor need not poll again if no future is outstanding, or if another thread is polling: that thread then
        calls the monitor.
        """
        # On the monitor's thread. The other callsets of this storage wait meanwhile.
        if self._poll(again=True):
            return self._until_next_poll()
        return None

    def _poll(self, *, again: bool = False) -> bool:
        """Poll once, unless a poll is running. Return whether this thread polled.

        Args:
            again: if another thread is polling now, have the monitor poll again afterwards.
        """
        mine = False
        try:
            with self._lock:
                if self._polling:
                    # The running poll may have read a status just before its call ended, so another poll must follow. A
                    # lock instead of this flag would make a program's done() wait for the requests of another thread.
                    self._poll_again = self._poll_again or again
                    return False
                # In this order, and inside the ``try``: Ctrl-C may come between any two lines.
                mine = True
                self._polling = True
            # No lock is held from here on: this sends requests and unpickles the users' objects.
            self._poll_now()
        finally:  # even after Ctrl-C: otherwise the flag would prevent every later poll
            if mine:
                # Without the lock, and first: Ctrl-C may come while this thread waits for the lock. ``_poll_again``
                # then stays set, and the next poll hands the callset back.
                self._polling = False
                self._hand_back()
        return True

    def _hand_back(self) -> None:
        """Have the monitor poll the callset again if it has found another thread polling."""
        with self._lock:
            again, self._poll_again = self._poll_again, False
        # The monitor forgot this callset when its examine() returned None, so hand it back or nothing polls it again.
        delay = self._until_next_poll() if again else None
        if delay is not None:
            self._monitor.watch(self, delay)

    def _poll_now(self) -> None:
        """Find out which calls have ended, and settle them. Record an error of the poll instead of raising it."""
        started, began = self._timer(), time.monotonic()
        with self._lock:
            outstanding = self._outstanding()
            unknown = [one for one in outstanding if one not in self._committed] if self._committed else outstanding
        # No request, not even a listing: the monitor then drops this callset.
        if not outstanding:
            if self._lease is not None:
                self._lease.release()
            return
        self._may_drive = self._lease is None or self._lease.renew_if_due()
        driver = self.driver
        waits = driver is not None and not (driver.has_begun() or driver.must_stop() or self._ends)
        if waits and self._invocations is not None:
            # Of thousands of calls that wait for room, each would otherwise cost a listing with every poll.
            self._invocations.wake()
            return
        ended = False
        trouble: PywrenError | None = None
        calls: frozenset[str] | None = None
        try:
            # Ask before reading anything: otherwise the last statuses written before the process ended could be missed.
            client_gone = self._client_alive is not None and bool(unknown) and not self._client_alive()
            if driver is not None:
                driver.begin_look()
            found = self._looker.look(unknown, self._start_after(unknown), self._in_flight(), client_gone)
            self._looks += 1
            ended = self._carry_out(found)
            if self._invocations is not None and self._may_drive:
                self._invocations.wake()
            if found.missing:
                self._silence.report(len(found.missing))
            with self._lock:
                unfetched = dict(self._unfetched)
            if unfetched:
                trouble, calls = next(iter(unfetched.values())), frozenset(unfetched)
        except PywrenError as error:
            trouble = error
        except Exception as error:  # noqa: BLE001 -- after any error, nothing may wait for ever
            trouble = unexpected(error)
        # Waiting threads get the error only after trouble.PATIENCE: one failed poll must not fail a wait of hours.
        self._note_poll(started, ended, trouble, calls)
        with self._lock:
            lasting = self._trouble.lasting(self._timer())
            living = [one for call_id in self._futures for one in self._living(call_id)] if lasting else []
            over = not self._futures
            concerned = self._trouble.concerned(living)
        if lasting is not None:  # not under the lock, because this takes the condition of the futures
            waiting.report_trouble(concerned, lasting, began)
        if over and self._lease is not None:
            self._lease.release()

    def _note_poll(
        self, started: float, ended: bool, trouble: PywrenError | None, calls: frozenset[str] | None
    ) -> None:
        now = self._timer()
        with self._lock:
            # Results are read once, whenever that is: only what a poll costs that finds nothing speaks for fewer polls.
            self._last_poll, self._poll_cost = now, min(now - started, self._looker.cost)
            if ended:
                self._silence.end()
            log = self._trouble.note(trouble, calls, now)
        if log:
            logger.warning("cannot poll for results; pywren keeps trying: %s", trouble)

    def _until_next_poll(self) -> float | None:
        with self._lock:
            if not self._outstanding():
                return None
            # _expect() of a future calls watch() when something asks for it later.
            if self._futures.keys() <= self._committed.keys() and not any(map(self._is_awaited, self._committed)):
                return None  # only big outputs that nothing has asked for are left
            # It backs off with the age of the last result: an hour of waiting costs at most some 720 LIST requests.
            delay = poll_delay(self._silence.seconds(), self._poll_cost)
        if self._ending or (self.driver is not None and self.driver.is_learning()):
            delay = min(delay, FIRST_POLL)
        due, left = (None, None) if self.driver is None else (self.driver.next_due(), self.driver.time_left())
        delay = min(delay, left) if left else delay  # what could not be stopped then is stopped with a usual poll
        # A poll wakes the threads that invoke. A call that is due but held back must not cause a poll at every moment.
        return min(delay, max(due, _RETRY_POLL)) if due else delay

    def forget_parent_locks(self) -> None:
        """In a forked child, replace the locks and flags that other threads of the parent may have held or set."""
        # Only the thread that forked continues here. A poll that was running belongs to the parent.
        self._lock = threading.RLock()
        self._polling = self._poll_again = False
        living = [one for call_id in self._futures for one in self._living(call_id)]
        call_state.forget_parent_threads(self.callset.condition, living)
        self._with_callbacks.clear()  # the parent will call these callbacks
        # The parent drives the calls, and holds their lease. Here they are only waited for.
        self.driver = self._invocations = self._lease = None
        self._ends.forget_parent_threads()
        self._looker.forget_parent_threads()

    # -- reading -------------------------------------------------------------------------------------------------

    def _in_flight(self) -> InFlight | None:
        return None if self.driver is None else self.driver.in_flight

    def _failure_records(self, noted: Noted | None, copies: Callable[[], int] | None) -> FailureRecords | None:
        callset = self.callset
        if callset.function is None:
            return None
        copies = copies or (lambda: callset.copies)
        return FailureRecords(self.storage, callset.function, callset.id, callset.submitted, noted, copies)

    def _start_after(self, unknown: Sequence[str]) -> str:
        """Return the last call before the first outstanding one. Keys up to there need not be listed again."""
        if not unknown:
            return ""
        with self._lock:
            if not self._order:
                self._order, self._passed = sorted(self._futures), 0
            # ``unknown`` is sorted, and calls only ever leave it, so _passed never moves back until take() clears
            # _order.
            while self._passed < len(self._order) and self._order[self._passed] < unknown[0]:
                self._passed += 1
            return self._order[self._passed - 1] if self._passed else ""

    # -- carrying out -------------------------------------------------------------------------------------------

    def _carry_out(self, found: Findings) -> bool:
        """Settle the calls that have ended, repeat or end those that failed. Return whether any call was settled."""
        verdicts = {call_id: Verdict(None, error) for call_id, error in found.failed.items()}
        verdicts.update((call_id, Verdict(None, error)) for call_id, error in found.unbelieved.items())
        for call_id, status in found.believed.items():
            self._tell_driver(status)
            if status.output_sha256 is None:
                # Unpickling runs the user's code. No lock is held here, so that code may use futures of this very
                # callset.
                verdicts[call_id] = of_status(status, status.outcome, self.callset.id)
        with self._lock:
            for call_id, status in found.believed.items():
                if call_id not in verdicts and call_id in self._futures:  # otherwise another poll has settled the call
                    # Remember the status, so that the next poll does not read it again only to fetch the same output.
                    self._committed[call_id] = status
        self._mark_stored()
        # Before any request below: outcomes that are known must not wait for, or be lost to, requests that may fail.
        self._mark_running(found.signs)
        if self.driver is not None:
            self.driver.review()  # before anything that takes time
        self._settle(verdicts)
        if self.driver is None or not self._may_drive:
            self._end_what_died(found)
        else:
            self._repeat(found, self.driver)
        ended = self._write_ends()
        # _fetch_outputs() comes first in the expression: ``or`` must not skip it.
        return self._fetch_outputs() or ended or bool(verdicts) or bool(found.believed)

    def _mark_stored(self) -> None:
        """Record which calls have ended whose outputs have not been fetched."""
        with self._lock:
            found = [(one, status) for call_id, status in self._committed.items() for one in self._living(call_id)]
        for one, status in found:  # without the lock, because this takes the condition of the futures
            if not call_state.has_ended(one):
                call_state.mark_stored(one, status)

    def _tell_driver(self, status: Status) -> None:
        if self.driver is not None and status.attempt != CLIENT_ATTEMPT:
            cause, error = _why(status)
            began, where = _when_and_where(status)
            usage = None if self.driver.policy.budget is None else _usage_of(status)  # nothing else asks for it
            self.driver.ended(
                status.call_id, status.attempt, began, where, failed=cause is not None, cause=cause, error=error,
                usage=usage, seconds=_seconds_of(status),
            )  # fmt: skip

    def _mark_running(self, signs: Iterable[Sign]) -> None:
        for sign in signs:
            if self.driver is not None:
                self.driver.running(sign.call_id, sign.number, sign.started_at, sign.where)
            if self.driver is not None and sign.running is not None:
                self.driver.runs_in_chunk(sign.running)
            with self._lock:
                living = self._living(sign.running or sign.call_id)
            for one in living:
                call_state.mark_running(one)

    # -- calls of this process: another attempt, or the end ----------------------------------------------------------

    def _repeat(self, found: Findings, driver: Driver) -> None:
        """Tell the driver which attempts have failed, and remember the calls that it gives up."""
        # Only now, after everything was read: time in which the storage was out of reach proves nothing.
        driver.look()
        for (call_id, number), status in found.reports.items():
            self._note_failure(driver, call_id, number, status)
            self._looker.heed(call_id, number)
        for call_id in found.exposed - found.deaths.keys():  # with the key of an attempt before the job was resumed
            self._ends.make_room(call_id)
        self._take_back(found, driver)
        for call_id, deaths in found.deaths.items():
            if call_id in found.believed:
                continue  # the record is about another attempt than the one that has brought the outcome
            if call_id in found.exposed and not self._ends.make_room(call_id):
                last = deaths[max(deaths)]
                self._give_up(call_id, Failure.of(last.error), "")
                continue
            self._note_deaths(driver, call_id, deaths)
            if call_id in found.exposed:
                # Where a relay has died, the workers that it invoked live on, beside those of the next attempts.
                step = driver.outrun(call_id)
                if isinstance(step, Over):
                    self._give_up(call_id, Failure.of(deaths[max(deaths)].error), step.message)
        self._give_up_lost(driver)

    def _take_back(self, found: Findings, driver: Driver) -> None:
        """Take care of calls that chunks have left behind."""
        for name, death in found.chunk_deaths.items():
            driver.died(name, death.cause, death.error)
        for name, damaged in self._journals.over():
            for call_id, error, message in driver.leave(name, damaged=damaged):
                self._give_up(call_id, Failure.of(error), message)
            self._journals.close(name)

    def _note_deaths(self, driver: Driver, call_id: str, deaths: Mapping[int, Death]) -> None:
        for number, death in sorted(deaths.items()):
            step = driver.failed(call_id, number, death.cause, death.error)
            if isinstance(step, Over):
                self._give_up(call_id, Failure.of(death.error), step.message)

    def _give_up_lost(self, driver: Driver) -> None:
        """Remember the calls of which no attempt can bring an outcome any more."""
        if self._withdrawn:
            for call_id in driver.dropped():
                self._end(self._ends.status(call_id, Failure.of(_withdrawal())))
        self._stop(driver.stops())
        for call_id, _, cause, message in driver.decide():
            text = f"the call is lost: its worker has vanished ({cause.value})"
            self._give_up(call_id, Failure(CallLostError.__name__, text), message)
        self._end_journals(driver)
        lost_after = self.callset.lost_after(LOST_GRACE)
        if lost_after is None or self._clock() <= lost_after:
            return  # no attempt can be overdue yet, and the driver need not look at each of 100,000 calls
        for call_id, _, _, message in driver.overdue(self._clock(), LOST_GRACE):
            self._give_up(call_id, Failure(CallLostError.__name__, self._overdue_text()), message)
        for call_id in driver.shut_out(LOST_GRACE):
            self._give_up(call_id, Failure(CallLostError.__name__, _SHUT_OUT), "")

    def _end_journals(self, driver: Driver) -> None:
        """End the journals of chunks whose workers are presumed dead. The next poll finds what they left behind."""
        self._ending = driver.lost_chunks()
        if self._ending:
            self._looker.end_journals(self._ending)

    def _stop(self, stops: Sequence[Stop]) -> None:
        """End the calls of a map whose time is over or whose budget is spent."""
        if not stops:
            return
        ends = [(one, self._ends.status(one.call_id, Failure.of(one.error))) for one in stops]
        # A worker may just be writing the status of a call that was invoked: the first status counts.
        for one, status in ends:
            if one.attempts:
                self._end(status)
        self._end_uninvoked([status for one, status in ends if not one.attempts])

    def _note_failure(self, driver: Driver, call_id: str, number: int, status: Status) -> None:
        """Report a failed attempt. If the call is not repeated, what the worker said becomes its status."""
        cause, error = self._reported(status)
        step = driver.failed(call_id, number, cause, error, *_when_and_where(status), _usage_of(status))
        if isinstance(step, Over):
            self._end(with_attempts(status, step.message), attempts=step.message if status.failure is None else "")

    def _reported(self, status: Status) -> tuple[Cause, BaseException]:
        """Return why an attempt failed, according to its worker."""
        if status.failure is not None:
            cause = status.failure.cause or Cause.WORKER_FAILED
            # A worker that reports has run. Repeats of what never ran have no limit, so it cannot ask for them. That of
            # a chunk has run other calls; and a relay, which has run none, says so in its own way: the call is invoked
            # without one from then on.
            is_back = self._invocations is not None and self._invocations.handed_back(
                status.call_id, status.attempt, status.failure
            )
            is_back = is_back or (cause is Cause.HANDED_BACK and status.page is not None)
            cause = Cause.WORKER_FAILED if cause in NEVER_RAN and not is_back else cause
            return cause, status.failure.error(self.callset.id, status.call_id, status.document())
        # Unpickling runs the user's code, without a lock. A big exception has an object of its own.
        outcome = status.outcome if status.output_sha256 is None else self._fetch(status)
        if isinstance(outcome, StorageError):
            return Cause.EXCEPTION, outcome
        error = of_status(status, outcome, self.callset.id).error
        return Cause.EXCEPTION, error or unexpected(ValueError("no exception"))

    def _end(self, status: Status, *, over_what_stands: bool = False, attempts: str = "") -> None:
        with self._lock:
            is_outstanding = status.call_id in self._futures
        if is_outstanding:  # otherwise the call has been settled meanwhile
            self._ends.add(End(status, over_what_stands, attempts=attempts))

    def _give_up(self, call_id: str, failure: Failure, message: str) -> None:
        self._end(with_attempts(self._ends.status(call_id, failure), message))

    def _overdue_text(self) -> str:
        whose = "worker" if self.callset.function is None else "function"
        return (
            f"the call is lost: it has no status {self._clock() - self.callset.submitted:.0f} s after it was invoked. "
            f"The call never started, or its worker vanished. Check the {whose}'s log, and run the call again"
        )

    # -- calls that another process drives ---------------------------------------------------------------------------

    def _end_what_died(self, found: Findings) -> None:
        """Remember calls that have died, or can no longer get a status, unless their own client is alive."""
        dead = {
            call_id: deaths[max(deaths)] for call_id, deaths in found.deaths.items() if call_id not in found.believed
        }
        lost_after = self.callset.lost_after(LOST_GRACE)
        text = ""
        if found.client_gone:
            # The process of the calls holds no lock on its file any more, and the statuses were read after that was
            # seen: no further one can appear.
            text = f"the call is lost: the process that made the call has ended; {self._how_to_run_again()}"
        elif lost_after is not None and self._clock() > lost_after:
            text = self._overdue_text()
        lost = sorted(found.missing - dead.keys()) if text else []
        # A client that has ended drives nothing, however fresh its lease is.
        if (dead or lost) and (found.client_gone or not self._is_driven_elsewhere()):
            for call_id, death in dead.items():
                status = self._ends.status(call_id, Failure.of(death.error))
                self._end(status, over_what_stands=call_id in found.exposed)
            for call_id in lost:
                self._give_up(call_id, Failure(CallLostError.__name__, text), "")

    def _is_driven_elsewhere(self) -> bool:
        return held(self.storage, self.callset, self._clock) is not None

    def _how_to_run_again(self) -> str:
        name = self.callset.name
        return "run the call again" if name is None else f"run it again with `pywren resume {shlex.quote(name)}`"

    def _write_ends(self) -> bool:
        """Write the statuses that end calls, and settle these calls, except those that have just got another status.

        The statuses also tell users who may not read the records. So an error of the storage delays them only.
        """
        done, trouble = self._ends.write_all(self._looker.threads)
        self._settle({end.status.call_id: self._verdict_of(end) for end in done})
        if trouble is not None:
            raise trouble
        return bool(done)

    def _verdict_of(self, end: End) -> Verdict:
        status = end.status
        if end.error is not None:
            return Verdict(None, end.error, status)
        data = status.outcome if status.output_sha256 is None else self._fetch(status)
        if isinstance(data, StorageError):
            return Verdict(None, data, status)
        verdict = of_status(status, data, self.callset.id)
        name_attempts(verdict.error, end.attempts)
        return verdict

    def _fetch_outputs(self) -> bool:
        """Fetch the separate outputs that are small or that something has asked for, and settle their futures.

        If fetching one output fails, the other outputs are fetched nevertheless.

        Raises:
            StorageError: so many outputs could not be fetched that the storage itself must be in trouble.
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
                # On a helper thread. Each writes its own key, which is atomic; this thread reads after for_each() has
                # joined them.
                fetched[call_id] = self._fetch(wanted[call_id])
            except StorageError as error:
                unfetched[call_id] = error
                if len(unfetched) >= FETCH_THREADS:  # the storage is in trouble: more requests would only waste time
                    raise

        try:
            for_each(fetch, wanted, self._looker.threads)
        finally:
            # Only this thread unpickles: a result may contain futures of this callset, on which helpers would collide.
            self._settle(
                {
                    call_id: Verdict(None, data, wanted[call_id])
                    if isinstance(data, StorageError)
                    else of_status(wanted[call_id], data, self.callset.id)
                    for call_id, data in fetched.items()
                }
            )
            with self._lock:
                # Replaced as a whole, also when nothing failed: that ends the trouble that _poll_now() derives from it.
                self._unfetched = unfetched
        return bool(fetched)

    def _fetch(self, status: Status) -> bytes | StorageError:
        """Return a verified output, or the error if it can never be read. Raise an error that may be temporary."""
        started, began = time.time(), self._timer()
        try:
            # The status is signed, so the key, the size and the digest are the worker's. The object itself could be
            # anybody's: bound it and verify it before it is unpickled.
            data = self.storage.get(status.output_key or "", limit=status.output_size or 0)
            verify_sha256(data, status.output_sha256, f"the output {status.output_key}")
        except (IntegrityError, StorageNoSuchKeyError) as error:
            return error
        came = {"download_output_timestamp": started, "download_output_time": self._timer() - began}
        self._facts(status.call_id).add_others(came)
        return data

    def _settle(self, verdicts: Mapping[str, Verdict]) -> None:
        now = time.time()
        # Collect the futures under _lock and settle them under their condition, never holding both (see the top).
        with self._lock:
            batch = [(one, verdict) for call_id, verdict in verdicts.items() for one in self._living(call_id)]
            for call_id in verdicts:
                self._facts(call_id).ended = now
        for call_id, verdict in verdicts.items():
            if verdict.error is not None:
                self.callset.note_failure(call_id, verdict.error)
        # This takes the callset's condition. Another thread may hold that and want ``_lock`` (expect()): with both held
        # here the two would wait for each other.
        call_state.settle(batch)
        lost = self.callset.on_lost_object
        if lost is not None and any(isinstance(one.error, _LOST_OBJECT) for one in verdicts.values()):
            lost()
        for call_id, verdict in verdicts.items():
            if self.driver is not None:
                cancelled = isinstance(verdict.error, (CallCancelledError, CallTimeoutError))
                self.driver.settled(call_id, failed=verdict.error is not None, cancelled=cancelled)
            # A call that was cancelled while it was held needs its inputs no more, and neither does one that has ended.
            self._incomplete.pop(call_id, None)
            self.callset.inputs.pop(call_id, None)
        with self._lock:  # last: if Ctrl-C comes before this, the monitor still has the futures and settles them
            for call_id in verdicts:
                self._drop(call_id)


class _FutureRef(weakref.ref[CallState]):
    """A weak reference to a future that tells, when the future is gone, which call it was of.

    Most calls have one future. So the references of a call are a chain, which takes less memory than a list.
    """

    __slots__ = ("call_id", "other")

    call_id: str
    other: _FutureRef | None

    def __new__(
        cls, future: CallState, gone: Callable[[weakref.ref[CallState]], object], other: _FutureRef | None
    ) -> _FutureRef:
        self = super().__new__(cls, future, gone)
        self.call_id, self.other = future.call_id, other
        return self

    def __init__(self, *_: object) -> None:
        """Nothing is left to do: the base class would refuse the third argument."""


def _why(status: Status) -> tuple[Cause | None, str]:
    """Return why the attempt that ended a call brought no value, and its error in words."""
    if status.failure is not None:
        return status.failure.cause or Cause.WORKER_FAILED, status.failure.message
    if status.exception_traceback is None:
        return None, ""
    return Cause.EXCEPTION, status.exception_traceback.strip().rpartition("\n")[2]


def _usage_of(status: Status) -> Usage | None:
    """Return what an attempt has used, according to its worker; ``None`` if that did not run on Lambda."""
    seconds, memory_mb, downloads = measured(status.info)
    if seconds is None or memory_mb is None:
        return None
    used = Usage.of_attempt(seconds, memory_mb, is_output_apart=status.output_sha256 is not None, downloads=downloads)
    return used if status.page is None else used.plus(Usage(puts=-1, gets=-1))  # the chunk pays for its pages


def _seconds_of(status: Status) -> float | None:
    """Return how long a worker had a call, apart from what only the first call in a container takes."""
    if reading.number(status.info.get("func_download_time")):
        return reading.number(status.info.get("exec_time"))
    return measured_seconds(status.info)


def _when_and_where(status: Status) -> tuple[float | None, str]:
    """Return when an attempt began, by the worker's clock, and the stream of its log."""
    began, where = status.info.get("start_time"), status.info.get("log_stream_name")
    return began if isinstance(began, int | float) else None, where if isinstance(where, str) else ""


def _withdrawal() -> CallCancelledError:
    return CallCancelledError("the call was cancelled before it began")


_callsets: weakref.WeakSet[StagedCallset] = weakref.WeakSet()
in_each_child(_callsets, StagedCallset.forget_parent_locks)
