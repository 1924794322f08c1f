"""The local pool: long-lived worker processes of this machine, shared by all local executors of one client.

::

    submit ──▶ queue of batches ──▶ a member's tickets ──▶ its process runs ──▶ result ──▶ on_results
    (caller)        │  feed: as many tickets as ~10 ms of work    │               (pump thread)
                    ◀──── take back: cancelled, stalled behind a slow call, or the process has died

Who runs where:

- The caller's thread writes straight to members that have room, so a single call on an idle pool meets one thread
  switch. It only *condemns* a process that is to be killed, by ``cancel`` or ``close``.
- One thread, the *pump*, reads everything that children say, buries those that have ended, starts others, and lets time
  pass: time-outs, stalls, the linger, starts that had to wait.
- What takes long the pump does without the lock: it hands results over, kills the condemned with all that they have
  started, and removes what the dead left.

One reentrant lock guards all state of the pool, of its members and batches. Nobody calls code of others with it held.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from pywren.exceptions import ConfigError, ShutdownError
from pywren.pickling.packed import Packed
from pywren.system import shutdown
from pywren.wire.failure import Failure
from pywren.worker import call_resources, frames
from pywren.worker.descriptors import LONGEST_POLL, drain, pipe
from pywren.worker.directories import remove_abandoned_directories
from pywren.worker.frames import Frame, Outgoing
from pywren.worker.parent.batch import Batch, OnResults, OnStart, encode_function
from pywren.worker.parent.member import STALL_SECONDS, Member
from pywren.worker.parent.process import Process, check_platform
from pywren.worker.protocol import TICKET_SHIFT, decode_result
from pywren.worker.task import (
    Function,
    RunResult,
    Stop,
    Task,
    cancelled_failure,
    crash_failure,
    timeout_failure,
)

logger = logging.getLogger(__name__)

PROCESSES_VARIABLE = "PYWREN_LOCAL_PROCESSES"
"""Says how many processes the local pool has, instead of as many as there are processors to use."""

GROW_SECONDS = 0.2
"""Seconds after the first process is ready at which the others start, though there is no second call yet."""

LINGER_SECONDS = 5.0
"""How long the children of a pool stay when no executor uses it."""

_MAX_FAILED_STARTS = 3  # rounds in which no process came up, one after the other
_MOST_START_DELAY = 10.0
_EXIT_WARNING_SECONDS = 2.0
_GATHER_SECONDS = 0.0003
_GATHER_FROM = 64  # so many calls ahead of a member, and as many outstanding, mean that calls take microseconds
_INDEX_MASK = (1 << TICKET_SHIFT) - 1


class LocalPool:
    """Worker processes of this machine that run calls.

    They start when the pool is made. Executors share one pool, ``LocalPool.shared()``; it ends its processes some
    seconds after the last executor released it, and starts them again when it is used again. At the end of the
    program calls that still run are waited for. A pool that was closed, or has failed, takes no more calls; the
    shared one has a successor then.

    Args:
        processes: how many; by default as many as there are processors that this process may use.
        show_output: whether what calls print is written to this process's own streams as it comes, unless the
            batch says otherwise.
        linger: seconds for which processes stay when no executor uses the pool.

    Raises:
        ConfigError: this is neither Linux nor macOS.
        OSError: no process can be started.
        ShutdownError: the program is at its end.
    """

    _shared: ClassVar[LocalPool | None] = None
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()
    _open: ClassVar[set[LocalPool]] = set()

    def __init__(
        self, processes: int | None = None, *, show_output: bool = False, linger: float = LINGER_SECONDS
    ) -> None:
        check_platform()
        shutdown.require_running()
        self._size = processes or _usable_processors()
        self._show_output = show_output
        self._linger = linger
        self._users = 0
        self._closed = False
        self._reset()
        _register_hooks()
        LocalPool._open.add(self)
        self._start_members()

    def _reset(self) -> None:
        """Take the state of a pool without processes; also in a process that was forked from the client."""
        # Reentrant, because an executor that is garbage-collected releases the pool, in any thread and at any moment.
        self._lock = threading.RLock()
        self._finished = threading.Condition(self._lock)
        self._members: list[Member] = []
        self._environment: Mapping[str, str] = {}  # that all members were started with
        self._equal_environment: Mapping[str, str] | None = None  # another that is the same, and never changed
        self._queue: deque[Batch] = deque()
        self._batches: dict[int, Batch] = {}
        self._numbers = 0
        self._outstanding = self._waiters = 0
        self._touched: dict[int, Batch] = {}
        self._collected: deque[tuple[OnResults, list[tuple[int, RunResult]]]] = deque()
        self._garbage: list[Process] = []
        # Processes that died before they were ready: of the missing ones since the last that was, and rounds of them
        # that left none. The next start waits longer after each, as long as there is another process to go on with.
        self._failed_starts = self._failed_rounds = 0
        self._starts_at = 0.0
        # Interpreters that start at once are in each other's way, and the first result needs one only: the
        # others start when there is more than one call, or somewhat later.
        self._wanted = 1
        self._grows_at = float("inf")
        self._last_function: tuple[str | bytes, int, Outgoing] | None = None
        self._thread: threading.Thread | None = None
        self._poll = select.poll()
        self._watched: dict[int, tuple[Member, int]] = {}
        self._wakes_at = float("inf")
        self._idle_since = time.monotonic()
        self._wake_in = self._wake_out = -1

    # -- who uses it -------------------------------------------------------------------------------------------

    @classmethod
    def shared(cls) -> LocalPool:
        """Return the pool of this process; its children are started the first time."""
        with cls._shared_lock:
            if cls._shared is None or cls._shared._closed:
                cls._shared = cls()
            return cls._shared

    @classmethod
    def close_shared(cls) -> None:
        """End the pool of this process, if there is one; calls under way end as cancelled."""
        with cls._shared_lock:
            pool, cls._shared = cls._shared, None
        if pool is not None:
            pool.close()

    def acquire(self) -> None:
        """Say that an executor uses the pool; its processes are started if they have ended."""
        with self._lock:
            self._users += 1
            self._require_open()
            self._start_missing()

    def release(self) -> None:
        """Say that an executor uses it no more; after the last one, and some seconds, the processes end."""
        with self._lock:
            self._users -= 1
            self._idle_since = time.monotonic()
            self._wake()

    def close(self) -> None:
        """End every child process and the pump; calls under way end as cancelled."""
        with self._lock:
            LocalPool._open.discard(self)
            if not self._closed:
                self._closed = True
                self._fail_all(Failure("CallCancelledError", "the call was cancelled: the local pool was closed"))
                for member in self._members:
                    member.kill()
            thread = self._thread
            self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # -- calls -------------------------------------------------------------------------------------------------

    def submit(
        self,
        function: Function,
        args: Sequence[Packed],
        *,
        on_results: OnResults,
        on_start: OnStart | None = None,
        extra_env: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
        references: Sequence[Sequence[bytes]] | None = None,
        show_output: bool | None = None,
    ) -> Batch:
        """Have a function called for every argument; returns at once.

        Arguments and function are snapshots: the caller may change arrays afterwards.

        Args:
            function: the function.
            args: one packed argument a call.
            on_results: called on the pump's thread with ``[(index, result), …]``, whatever has come together;
                exactly one result for every call. It must not block.
            on_start: called with the index of a call that runs, on the pump's or the submitting thread. Quick calls
                may end without, and the call may already have ended.
            extra_env: environment variables of these calls.
            environment: all that they see besides, never changed afterwards; ``None`` for what the processes were
                started with.
            timeout: seconds after which a call that runs is killed; ``None`` never.
            references: for each call the encoded outcomes that futures among its argument stand for.
            show_output: whether output is shown as it comes; by default as the pool was made.

        Raises:
            OSError: no process can be started, or there is no room for the arguments.
            ShutdownError: the pool is closed, or the program at its end.
        """
        shown = self._show_output if show_output is None else show_output
        batch = Batch(function, *self._encoded(function), extra_env or {}, timeout, shown, on_start, on_results)
        batch.add(args, references)
        with self._lock:
            self._require_open()
            self._start_missing(batch.remaining)
            if environment is not None and environment is not self._equal_environment:
                if environment == self._environment:
                    self._equal_environment = environment  # to find that out takes as long as to run a small call
                else:
                    batch.extra_env = {**_changes(self._environment, environment), **batch.extra_env}
            self._numbers += 1
            batch.number = self._numbers
            for arena in batch.arenas:
                self._numbers += 1
                arena.number = self._numbers
            self._outstanding += batch.remaining
            if batch.remaining:
                self._batches[batch.number] = batch
                self._queue.append(batch)
            starts = self._feed(time.monotonic())
            self._wake_for_new_work()
        _announce(starts)
        return batch

    def cancel(self, batch: Batch, index: int) -> bool:
        """Cancel a call: one that waits never runs, one that runs is killed with its process.

        Returns:
            Whether it is cancelled; its result is then a ``CallCancelledError``. False when it had ended.
        """
        with self._lock:
            if batch.number not in self._batches or batch.done[index]:
                return False
            ticket = batch.number << TICKET_SHIFT | index
            holder = next((member for member in self._members if ticket in member.tickets), None)
            running = False
            if holder is not None:
                taken = holder.take_back()
                self._receive(holder)
                if batch.done[index]:
                    holder.put_back(taken)
                    self._wake()
                    return False
                running = ticket not in taken
                holder.put_back([other for other in taken if other != ticket])
                if running:
                    holder.kill((ticket, cancelled_failure(running=True)))
            if not running:
                self._finish(batch, index, _failed(cancelled_failure(running=False), None))
            else:
                batch.cancelled.add(index)
            self._wake()
            return True

    def run(
        self, task: Task, *, stopped: Stop | None = None, environment: Mapping[str, str] | None = None
    ) -> RunResult:
        """Run one task to its end and say how it ended; never raises for what the task does.

        Args:
            task: the task.
            stopped: asks for the task to be killed; it then ends with a ``CallCancelledError``.
            environment: the variables that it sees under its own; ``None`` for what the processes were started with.

        Raises:
            OSError: no process can be started.
            ShutdownError: the pool is closed, or the program at its end.
        """
        ended = threading.Event()
        results: list[RunResult] = []

        def take(found: list[tuple[int, RunResult]]) -> None:
            results.append(found[0][1])
            ended.set()

        batch = self.submit(
            task.function,
            [task.data],
            on_results=take,
            extra_env=task.extra_env,
            environment=environment,
            timeout=task.timeout,
            references=[task.references],
        )
        if stopped is not None:
            stopped.listen(lambda: self.cancel(batch, 0))
        try:
            ended.wait()
        except BaseException:
            self.cancel(batch, 0)
            raise
        finally:
            if stopped is not None:
                stopped.listen(None)
        return results[0]

    def end_waiting(self) -> None:
        """Do nothing: processes of the pool wait for calls of any function."""

    def _encoded(self, function: Function) -> tuple[int, Outgoing]:
        """Return a function's key and frame; those of the last one are kept, as maps often repeat it."""
        last = self._last_function
        if last is None or last[0] != function.id:
            last = self._last_function = (function.id, *encode_function(function))
        return last[1], last[2]

    def _require_open(self) -> None:
        shutdown.require_running()
        if self._closed:
            raise ShutdownError(
                "the worker processes of this machine have been ended, and take no more calls: make another executor "
                "with pywren.local_executor()"
            )

    # -- members -----------------------------------------------------------------------------------------------

    def _start_members(self) -> None:
        with self._lock:
            self._start_missing()

    def _start_missing(self, coming: int = 0) -> None:
        """Start processes until there are enough; one is enough to go on with."""
        if self._outstanding + coming > 1:
            self._wanted = self._size
        if not self._members and not self._outstanding:  # else calls wait whose variables differ from the earlier ones
            self._environment, self._equal_environment = dict(os.environ), None
        alive = self._alive()
        if alive and time.monotonic() < self._starts_at:
            return
        missing = self._wanted - alive
        if missing <= 0:
            return
        for _ in range(missing):
            try:
                self._members.append(Member(self._environment))
            except OSError:
                if not self._alive():
                    raise
                self._delay_starts()
                logger.warning("only %d of %d worker processes could be started", len(self._members), self._size)
                break
        if self._members and self._thread is None:
            self._start_pump()
        else:
            self._wake()

    def _alive(self) -> int:
        return len([member for member in self._members if not member.dying])

    def _delay_starts(self) -> None:
        """Wait before the next start: it takes memory and time from the processes that run calls."""
        self._starts_at = time.monotonic() + min(GROW_SECONDS * 2**self._failed_starts, _MOST_START_DELAY)
        self._failed_starts += 1

    def _note_ready(self) -> None:
        self._failed_starts = self._failed_rounds = 0
        self._starts_at = 0.0

    def _bury(self, member: Member) -> None:
        """Settle what a process that has ended leaves, and replace it."""
        self._receive(member)
        returncode = member.process.wait()
        taken = member.take_back()
        member.dying = True
        if member.tickets:
            self._end_head(member, returncode)
        self._requeue([*member.tickets, *taken])
        tails = member.tails()
        self._drop(member)
        if not (member.ready or member.killed):
            self._delay_starts()
            if not self._alive():
                # Those that start together may be too many for this machine's memory: the next one starts alone.
                self._failed_rounds += 1
                self._wanted = 1
        if self._closed or not (self._users or self._outstanding):
            return
        if self._failed_rounds >= _MAX_FAILED_STARTS:
            self._failed_rounds = 0
            self._fail_all(_no_start(crash_failure(returncode, *tails)))
            return
        try:
            self._start_missing()
        except OSError as error:
            self._fail_all(Failure("WorkerCrashedError", f"no worker process can be started: {error}", (None,)))

    def _end_head(self, member: Member, returncode: int | None) -> None:
        ticket = member.tickets[0]
        ending, member.ending = member.ending, None
        member.tickets.popleft()
        stdout, stderr = member.tails()
        failure = crash_failure(returncode, stdout, stderr, was_lost=member.was_lost)
        if ending is not None and ending[0] == ticket:
            failure = ending[1]
        batch = self._batches.get(ticket >> TICKET_SHIFT)
        if batch is not None:
            result = RunResult(None, None, failure=failure, returncode=returncode, stdout=stdout, stderr=stderr)
            self._finish(batch, ticket & _INDEX_MASK, result)

    def _drop(self, member: Member) -> None:
        for descriptor in [number for number, (owner, _) in self._watched.items() if owner is member]:
            self._poll.unregister(descriptor)
            del self._watched[descriptor]
        self._members.remove(member)
        member.close_shown()
        member.process.end()
        self._garbage.append(member.process)

    # -- giving and taking back --------------------------------------------------------------------------------

    def _feed(self, now: float) -> list[tuple[OnStart, int]]:
        """Give calls to members that have room; returns whose start is to be announced."""
        while self._queue:
            batch = self._queue[0]
            waiting = batch.waiting
            gave = False
            share = -(-waiting // len(self._members)) if self._members else 0
            for member in sorted(self._members, key=Member.load) if waiting else ():
                room = min(member.room(batch), share)
                if room and (indices := batch.take(room)):
                    member.give(batch, indices, now)
                    gave = True
                    waiting = batch.waiting
                    if not waiting:
                        break
            if not waiting:
                self._queue.popleft()
            elif not gave and batch.waiting:  # else all that waited had been cancelled: on to the next batch
                break
        return self._starts()

    def _starts(self) -> list[tuple[OnStart, int]]:
        found = []
        for member in self._members:
            head = member.tickets[0] if member.tickets else -1
            if head != member.announced:
                member.announced = head
                batch = self._batches.get(head >> TICKET_SHIFT)
                if batch is not None and batch.on_start is not None:
                    found.append((batch.on_start, head & _INDEX_MASK))
        return found

    def _balance(self, now: float) -> None:
        """Take back calls that wait behind a slow one while another member has nothing to do."""
        stalled = [member for member in self._members if member.could_share and now - member.last >= STALL_SECONDS]
        if not stalled or any(batch.waiting for batch in self._queue):
            return
        if any(member.idle for member in self._members):
            for member in stalled:
                member.window = 1
                self._requeue(member.take_back())

    def _requeue(self, tickets: Sequence[int]) -> None:
        by_batch: dict[int, list[int]] = {}
        for ticket in tickets:
            by_batch.setdefault(ticket >> TICKET_SHIFT, []).append(ticket & _INDEX_MASK)
        for number, indices in by_batch.items():
            batch = self._batches.get(number)
            if batch is not None:
                batch.give_back(indices)
                if batch not in self._queue:
                    self._queue.appendleft(batch)

    # -- results -----------------------------------------------------------------------------------------------

    def _receive(self, member: Member, *, everything: bool = True) -> None:
        """Take what a member has said; not everything when the poll tells if there is more."""
        count = 0
        try:
            while True:
                for frame in member.process.channel.receive():
                    count += self._take_frame(member, frame)
                if not everything:
                    break
        except BlockingIOError:
            pass
        except EOFError:
            member.lose()
        if count:
            member.progressed(count, time.monotonic())

    def _take_frame(self, member: Member, frame: Frame) -> int:
        if frame.kind == frames.READY:
            member.ready = True
            self._note_ready()
            member.last = member.started = time.monotonic()
            if self._wanted < self._size:
                self._grows_at = member.started + GROW_SECONDS
            return 0
        ticket = frame.number
        if frame.kind != frames.RESULT or not member.tickets or member.tickets[0] != ticket:
            member.lose()
            return 0
        member.tickets.popleft()
        batch = self._batches.get(ticket >> TICKET_SHIFT)
        if frame.flags & frames.NOT_BEGUN:
            self._requeue([ticket])
        elif batch is not None:
            self._finish(batch, ticket & _INDEX_MASK, decode_result(frame, *member.shown_tails()))
        if frame.flags & (frames.LEFTOVERS | frames.SPENT | frames.NOT_BEGUN):
            member.kill()
        return 1

    def _finish(self, batch: Batch, index: int, result: RunResult) -> None:
        if batch.done[index]:
            return
        if index in batch.cancelled and result.failure is None:
            result = _failed(cancelled_failure(running=True), None)
        batch.done[index] = 1
        arena = batch.arena_of(index) if batch.arenas else None
        batch.entries[index] = None
        batch.collected.append((index, result))
        batch.remaining -= 1
        self._outstanding -= 1
        self._touched[batch.number] = batch
        if arena is not None:
            arena.calls -= 1
            if not arena.calls:
                batch.arenas.remove(arena)
                for member in self._members:
                    member.forget_arena(arena.number)
        if not batch.remaining:
            del self._batches[batch.number]
            for member in self._members:
                member.forget(batch)
            self._idle_since = time.monotonic()

    def _fail_all(self, failure: Failure) -> None:
        for batch in list(self._batches.values()):
            for index in range(len(batch.done)):
                if not batch.done[index]:
                    self._finish(batch, index, _failed(failure, None))
        self._queue.clear()

    # -- the pump ----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        try:
            os.write(self._wake_out, b"w")
        except (BlockingIOError, OSError):
            pass  # it is awake already, or has ended

    def _wake_for_new_work(self) -> None:
        """Wake the pump only when it would sleep too long: a quick call wakes it by its result."""
        if self._next_time() < self._wakes_at or any(member.process.channel.waiting for member in self._members):
            self._wake()

    def _start_pump(self) -> None:
        self._wake_in, self._wake_out = pipe()
        for descriptor in (self._wake_in, self._wake_out):
            os.set_blocking(descriptor, False)
        self._poll.register(self._wake_in, select.POLLIN)
        thread = threading.Thread(target=self._pump, name="pywren-pool", daemon=True)
        thread.start()
        self._thread = thread
        _end_with_multiprocessing()

    def _end_pump(self) -> None:
        self._thread = None
        self._poll.unregister(self._wake_in)
        self._close_wake_pipe()

    def _pump(self) -> None:
        """The pump's thread: whatever goes wrong here, nobody may be left waiting for a result."""
        try:
            self._serve()
        except BaseException as error:  # a SystemExit would end the thread without a word
            logger.exception("the local pool has failed")
            with self._lock:
                self._closed = True
                LocalPool._open.discard(self)
                for member in self._members:
                    member.lose()
                text = f"the local pool has failed ({error!r}) and ended its processes: make the call again"
                self._fail_all(Failure("WorkerCrashedError", text, (None,)))
                self._collect()
            self._hand_over()
            self._tell_waiters()
            with self._lock:
                for member in self._members:
                    member.process.close()
                    member.close_shown()
                self._members.clear()
                self._end_pump()

    def _serve(self) -> None:
        timeout: float | None = 0.0
        while True:
            ready = self._poll.poll(timeout)
            with self._lock:
                starts = self._turn(ready)
                finished = bool(self._touched)
                ended = not self._members and not self._outstanding and not finished
                if ended:
                    self._end_pump()
                else:  # here, so that it sleeps as soon as results are handed over: who waits for them needs the GIL
                    timeout = self._prepare_to_wait()
                garbage, self._garbage = self._garbage, []
                condemned = self._take_condemned()
                self._collect()
            _announce(starts)
            self._hand_over()
            if self._waiters:
                self._tell_waiters()
            for member in condemned:
                member.process.kill()
            for process in garbage:
                process.remove_traces()
            if ended:
                return
            if self._outstanding >= _GATHER_FROM and finished and self._is_streaming():
                time.sleep(_GATHER_SECONDS)  # a turn costs as much as ten results: they are taken together

    def _take_condemned(self) -> list[Member]:
        found = [member for member in self._members if member.condemned]
        for member in found:
            member.condemned = False
        return found

    def _collect(self) -> None:
        """Take the results that have come, to be handed over without the lock; nothing after this may lose them."""
        for batch in self._touched.values():
            self._collected.append((batch.on_results, batch.collected))
            batch.collected = []
        self._touched.clear()

    def _hand_over(self) -> None:
        while self._collected:
            _call_back(*self._collected.popleft())

    def _is_streaming(self) -> bool:
        """Whether results come faster than it is worth waking up for each."""
        return all(len(member.tickets) >= _GATHER_FROM for member in self._members)

    def _tell_waiters(self) -> None:
        """Wake those who wait for the last call, whose result has been handed over."""
        with self._lock:
            if not self._outstanding:
                self._finished.notify_all()

    def _prepare_to_wait(self) -> float | None:
        """Watch what is to be watched, and return the milliseconds to wait at most."""
        for member in self._members:
            if member.watched_for != member.watch_for:
                self._watch(member)
        if not self._members:
            return 0
        now = time.monotonic()
        known = self._wakes_at if self._wakes_at > now else float("inf")
        self._wakes_at = min(known, self._next_time())
        if self._wakes_at == float("inf"):
            return None
        return min(max(0.0, (self._wakes_at - now) * 1000 + 1), LONGEST_POLL)

    def _watch(self, member: Member) -> None:
        """Watch the descriptors of a member, and no others."""
        member.watched_for = member.watch_for
        wanted = member.events()
        for descriptor in [number for number in member.watched if number not in wanted]:
            self._poll.unregister(descriptor)
            del member.watched[descriptor], self._watched[descriptor]
        for descriptor, events in wanted.items():
            if member.watched.get(descriptor) != events:
                self._poll.register(descriptor, events)
                member.watched[descriptor] = events
                self._watched[descriptor] = (member, events)

    def _next_time(self) -> float:
        """Return when the pump must act by itself: a time-out, a stalled member, the end of the linger."""
        earliest = self._grows_at
        if self._is_missing_some():
            earliest = min(earliest, self._starts_at)
        if not self._outstanding:
            return earliest if self._users or not self._members else min(earliest, self._idle_since + self._linger)
        for member in self._members:
            if not member.tickets:
                continue
            timeout = self._timeout_of(member)
            if timeout is not None and not member.dying:
                earliest = min(earliest, member.started + timeout)
            if member.could_share and any(other.idle for other in self._members):
                earliest = min(earliest, member.last + STALL_SECONDS)
        return earliest

    def _is_missing_some(self) -> bool:
        """Whether processes are still to be started whose start had to wait."""
        return bool(self._starts_at) and not self._closed and self._alive() < self._wanted

    def _timeout_of(self, member: Member) -> float | None:
        if not member.tickets or not member.ready:
            return None
        batch = self._batches.get(member.tickets[0] >> TICKET_SHIFT)
        return None if batch is None else batch.timeout

    def _turn(self, ready: Sequence[tuple[int, int]]) -> list[tuple[OnStart, int]]:
        """Take what has come, and do what is due."""
        dead = []
        for descriptor, _ in ready:
            if descriptor == self._wake_in:
                drain(self._wake_in)
                continue
            member = self._watched[descriptor][0]
            if descriptor == member.process.pidfd:
                dead.append(member)
            elif member.shown is not None and descriptor in (tail.descriptor for tail in member.shown):
                for tail in member.shown:
                    tail.pump()
            else:
                if member.process.channel.waiting:
                    member.process.channel.flush()
                self._receive(member, everything=False)
        for member in dead:
            self._bury(member)
        if time.monotonic() >= self._grows_at:
            self._wanted, self._grows_at = self._size, float("inf")
            self._start_missing()
        elif self._is_missing_some() and time.monotonic() >= self._starts_at:
            self._start_missing()
        if not (self._outstanding or self._queue) and self._users:
            return []  # who waits for the last result needs the GIL
        now = time.monotonic()
        self._expire(now)
        self._balance(now)
        return self._feed(now)

    def _expire(self, now: float) -> None:
        for member in self._members if self._outstanding else ():
            timeout = self._timeout_of(member)
            if timeout is None or member.dying or now < member.started + timeout:
                continue
            head = member.tickets[0]
            self._receive(member)
            if member.tickets and member.tickets[0] == head:
                member.kill((head, timeout_failure(timeout)))
        if not self._users and not self._outstanding and now >= self._idle_since + self._linger:
            self._last_function = None
            self._wanted, self._grows_at = 1, float("inf")
            for member in self._members:
                member.kill()

    # -- the end of the process, and forks ---------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no call is outstanding; returns whether that is so."""
        with self._lock:
            self._waiters += 1
            try:
                return self._finished.wait_for(lambda: not self._outstanding, timeout)
            finally:
                self._waiters -= 1

    def _close_wake_pipe(self) -> None:
        if self._wake_in >= 0:
            os.close(self._wake_in)
            os.close(self._wake_out)
            self._wake_in = self._wake_out = -1

    def _finish_at_exit(self) -> None:
        """Wait for outstanding calls as ``ProcessPoolExecutor`` does, then end everything."""
        try:
            if not self.wait(_EXIT_WARNING_SECONDS):
                logger.warning(
                    "the program is at its end, but %d calls still run: waiting for them; Ctrl-C ends them",
                    self._outstanding,
                )
                self.wait()
        except KeyboardInterrupt:
            logger.warning("%d calls were ended with the program", self._outstanding)
        finally:
            self.close()
            remove_abandoned_directories()

    def _forget_after_fork(self) -> None:
        """In a forked process: the children are the other process's, and the pump is not here."""
        for member in self._members:
            member.process.forget()
            member.close_shown()
        self._close_wake_pipe()
        self._reset()


def _usable_processors() -> int:
    asked = os.environ.get(PROCESSES_VARIABLE)
    if asked:
        if not asked.isdecimal() or not int(asked):
            raise ConfigError(f"{PROCESSES_VARIABLE} is {asked!r}; set it to a number of processes, or unset it")
        return int(asked)
    if hasattr(os, "sched_getaffinity"):  # in a container often fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _no_start(last: Failure) -> Failure:
    told = f"no worker process comes up on this machine: {_MAX_FAILED_STARTS} times in a row it ended while it started"
    return last._replace(message=f"{told}. The last time {last.message}")


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """Return what makes one environment the other; ``None`` for a variable that is to go."""
    changed: dict[str, str | None] = {name: value for name, value in after.items() if before.get(name) != value}
    return changed | dict.fromkeys(before.keys() - after.keys())


def _failed(failure: Failure, returncode: int | None) -> RunResult:
    return RunResult(None, None, failure=failure, returncode=returncode)


def _announce(starts: Sequence[tuple[OnStart, int]]) -> None:
    for on_start, index in starts:
        _call_back(on_start, index)


def _call_back(function: Callable[..., None], argument: object) -> None:
    try:
        function(argument)
    except Exception:
        # The pump serves every executor: one's mistake must not end the others' calls.
        logger.exception("a callback of the local pool raised")


_hooked = False


def _register_hooks() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        atexit.register(_at_exit)
        os.register_at_fork(after_in_child=_after_fork)


_ends_with_multiprocessing = False


def _end_with_multiprocessing() -> None:
    """Have pools end with a process that multiprocessing has made: it runs nothing that was registered with atexit."""
    global _ends_with_multiprocessing
    if _ends_with_multiprocessing or "multiprocessing.process" not in sys.modules:
        return
    from multiprocessing.process import parent_process

    if parent_process() is not None:
        from multiprocessing.util import Finalize

        _ends_with_multiprocessing = True
        Finalize(None, _at_exit, exitpriority=0)


def _at_exit() -> None:
    shutdown.begin()  # a process of multiprocessing comes here without running what was registered with atexit
    for pool in list(LocalPool._open):
        pool._finish_at_exit()


def _after_fork() -> None:
    global _ends_with_multiprocessing
    _ends_with_multiprocessing = False
    LocalPool._shared_lock = threading.Lock()
    for pool in list(LocalPool._open):
        pool._forget_after_fork()


call_resources.close_after_call(LocalPool.close_shared)  # a pool that a call makes in a worker ends with the call
