"""``LocalPool``: long-lived worker processes on this machine, shared by all local executors in one client.

::

    submit ──▶ Ledger ──▶ a Member's tickets ──▶ its process runs ──▶ result ──▶ Ledger ──▶ on_results
    (caller)      │ Feeder: as many as ~10 ms of work      │        (pump)                   (pump)
                  ◀──── taken back: cancelled, stalled behind a slow call, or the process has died

========== ===========================================================================================================
part       purpose
========== ===========================================================================================================
Members    the processes, how many there should be, and when the next ones start
Ledger     the calls that have no result yet, and the results to be handed over
Feeder     moves calls between the two: gives, takes back, cancels, ends
Watch      the descriptors that the pump waits for
Changes    keeps all of them whole although Ctrl-C may come between any two steps of a caller's thread
Pump       the pool's thread
Lifetime   how long the pool is needed; the end of the program, and forks
========== ===========================================================================================================

Which thread does what:

- The *caller's thread*, in ``submit``, packs the arguments, then writes directly to members that have room, so a single
  call on an idle pool needs only one thread switch. In ``cancel`` and ``close``, this thread only *condemns* a process,
  and does not kill it.
- The *pump* reads everything that children send, buries children that have ended, starts new ones, and does what is due
  at a certain time: time-outs, stalls, the end of the linger, delayed starts.
- What takes long, or runs other people's code, happens without the lock: the pump writes shown output, hands results
  over, kills condemned processes with everything that they have started, and removes what dead processes left. The
  thread that gives out calls announces their starts.

One reentrant lock guards all state of the pool and its parts. It is reentrant because an executor that is
garbage-collected releases the pool, in any thread and at any moment. The lock is innermost: a thread that holds it
takes no other lock except a process's own, calls no callback, and does not write to the client's streams. Shown output
is queued in ``Members``, and the pump writes it. ``LocalPool._shared_lock`` is outermost.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from pywren.exceptions import ConfigError, ShutdownError
from pywren.pickling.packed import Packed
from pywren.system import shutdown
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker import call_resources, frames
from pywren.worker.directories import remove_abandoned_directories
from pywren.worker.parent import lifetime
from pywren.worker.parent.batch import Batch, EncodedFunctions, Label, OnPage, OnResults, OnStart
from pywren.worker.parent.changes import Changes
from pywren.worker.parent.feeder import Feeder
from pywren.worker.parent.ledger import Ledger, announce
from pywren.worker.parent.lifetime import LINGER_SECONDS, Lifetime
from pywren.worker.parent.members import Members
from pywren.worker.parent.process import check_platform
from pywren.worker.parent.pump import Pump
from pywren.worker.task import Function, Repeats, RunResult, Stop, Task

logger = logging.getLogger(__name__)

PROCESSES_VARIABLE = "PYWREN_LOCAL_PROCESSES"
"""The environment variable that sets how many processes the local pool has; by default one per usable processor."""


class LocalPool:
    """Worker processes on this machine that run calls.

    The first process starts when the pool is created. Executors share one pool, ``LocalPool.shared()``. The pool ends
    its processes some seconds after the last executor has released it, and starts processes again when it is used
    again. At the end of the program it waits for the calls that are still running. A pool that was closed, or has
    failed, takes no more calls; if it was the shared one, the next use creates another.

    Args:
        processes: how many processes; by default one for each processor that this process may use.
        show_output: whether what calls print is written to this process's own streams as it arrives, unless the
            batch says otherwise.
        linger: seconds for which processes stay when no executor uses the pool.

    Raises:
        ConfigError: this is neither Linux nor macOS.
        OSError: no process can be started.
        ShutdownError: the program is ending.
    """

    _shared: ClassVar[LocalPool | None] = None
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self, processes: int | None = None, *, show_output: bool = False, linger: float = LINGER_SECONDS
    ) -> None:
        check_platform()
        shutdown.require_running()
        self.lifetime = Lifetime(linger)
        self._size = processes or usual_processes()
        self._show_output = show_output
        self._reset()
        with self._lock:
            self._changes.make(self._start_missing)

    @property
    def size(self) -> int:
        """How many processes the pool has when all are started."""
        return self._size

    def _reset(self) -> None:
        """Enter the state of a pool without processes. A process that was forked from the client calls this too."""
        # Everything new, the lock included: at a fork another thread may have held the old lock, and that thread does
        # not exist in the new process.
        self._lock = threading.RLock()
        self._members = Members(self._size)
        self._ledger = Ledger(self._lock, self._members)
        self._feeder = Feeder(self._members, self._ledger)
        self._functions = EncodedFunctions()
        self._changes = Changes(self._repair, lambda: self._pump.wake())
        parts = (self._members, self._ledger, self._feeder, self._functions, self._changes)
        self._pump = Pump(self._lock, self.lifetime, *parts)
        self.lifetime.linger_anew()

    # -- who uses it -------------------------------------------------------------------------------------------

    @classmethod
    def shared(cls) -> LocalPool:
        """Return the shared pool of this process. The first call creates the pool."""
        with cls._shared_lock:
            if cls._shared is None or cls._shared.lifetime.closed:  # the program closed the pool, or the pool failed
                # The lock is held during the start of the first process, so two threads cannot make two pools. Order of
                # locks: this one, then the pool's.
                cls._shared = cls()
            return cls._shared

    @classmethod
    def close_shared(cls) -> None:
        """End the shared pool of this process, if there is one. Unfinished calls end as cancelled."""
        with cls._shared_lock:
            # Take the pool away first and close it without the lock. ``close`` waits for the pump, and a callback on
            # the pump's thread may be in ``shared``, waiting for this lock.
            pool, cls._shared = cls._shared, None
        if pool is not None:
            pool.close()

    @classmethod
    def _renew_shared_lock(cls) -> None:
        """Renew the lock in a forked process: a thread of the original process may have held the lock."""
        cls._shared_lock = threading.Lock()

    def acquire(self) -> None:
        """Record that an executor uses the pool, and start the processes if they have ended."""
        with self._lock:
            # One lock for all three steps: in between, the pump could find the pool unused and end its processes.
            self._changes.make(self._acquire)

    def _acquire(self) -> None:
        self.lifetime.acquire()
        self._require_open()
        self._start_missing()

    def release(self) -> None:
        """Record that an executor no longer uses the pool. The processes end some seconds after the last executor."""
        with self._lock:
            # A finalizer may bring any thread here at any moment, even one that holds the pool's lock already. So
            # nothing here may depend on the state that an interrupted caller was about to change.
            self.lifetime.release()
            # The pump may sleep without a time limit, because a pool with users never lingers. Now there is an end to
            # wait for.
            self._pump.wake()

    def close(self) -> None:
        """End every child process and the pump. Unfinished calls end as cancelled."""
        with self._lock:
            # Several threads may close the pool. The first one ends the calls; all of them wait for the pump.
            if not self.lifetime.closed:
                self._changes.make(self._close)
            self._pump.wake()
        lifetime.forget(self.lifetime)
        self._join()

    def _close(self) -> None:
        self.lifetime.closed = True
        text = "the call was cancelled: the local pool was closed"
        self._ledger.fail_all(Failure("CallCancelledError", text, cause=Cause.CANCELLED))
        self._members.kill()

    def retire(self) -> None:
        """Wait until no executor uses the pool and all calls and processes have ended, without the linger."""
        with self._lock:
            self.lifetime.linger_no_more()
            self._pump.wake()
        self._join()

    def _join(self) -> None:
        with self._lock:
            # Read with the lock held: the pump sets it to None at its end.
            thread = self._pump.thread
        # Do this without the lock, which the pump needs to end. A callback may be here on the pump's own thread.
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # -- calls -------------------------------------------------------------------------------------------------

    def prepare(
        self,
        function: Function,
        args: Sequence[Packed],
        *,
        on_results: OnResults,
        on_page: OnPage | None = None,
        on_start: OnStart | None = None,
        extra_env: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
        references: Sequence[Sequence[bytes]] | None = None,
        show_output: bool | None = None,
        label: Label | None = None,
        repeats: Repeats = Repeats.NEVER,
        most_processes: int | None = None,
        on_tick: OnStart | None = None,
        held: Collection[int] = (),
    ) -> Batch:
        """Return the calls of a function, one for every argument, for ``add``.

        Snapshots are taken of the arguments and the function: the caller may change arrays afterwards.

        Args:
            function: the function.
            args: one packed argument per call.
            on_results: called on the pump's thread with results (``OnResults``). It must not block.
            on_page: called likewise with the results of several calls that have returned (``OnPage``); if ``None``,
                ``on_results`` gets these too.
            on_start: called with the index of a call that is running, on the pump's or the submitting thread, unless
                the call is quick.
            extra_env: environment variables of these calls.
            environment: all other variables that these calls see, in a mapping that never changes; ``None`` for those
                with which the processes were started.
            timeout: seconds after which a running call is killed; ``None`` for no limit.
            references: for each call, the encoded outcomes that the futures in its argument stand for.
            show_output: whether output is shown as it arrives; by default, as chosen when the pool was created.
            label: returns what to put before each line that a call shows; with the pool's lock held.
            repeats: which failed calls may run again.
            most_processes: the most processes that hold calls of this batch at the same time; ``None`` for no limit.
            on_tick: called with 0 every ``TICK_SECONDS`` while calls are outstanding, on the pump's thread.
            held: the calls that must wait for ``let_go``.

        Raises:
            OSError: there is no room for the arguments.
        """
        shown = self._show_output if show_output is None else show_output
        # Take snapshots before taking the lock: copying big arguments must delay neither the pump nor other callers.
        key, frame = self._functions.encode(function)
        rules = (repeats, most_processes, on_tick, label)
        batch = Batch(function, key, frame, extra_env or {}, timeout, shown, on_start, on_results, *rules)
        batch.environment, batch.on_page = environment, on_page
        batch.add(args, references, held)
        return batch

    def add(self, batch: Batch) -> None:
        """Run calls in worker processes, and return immediately.

        Args:
            batch: what ``prepare`` has returned. ``Batch.is_accepted`` tells whether its calls will get results, if
                Ctrl-C interrupts this method.

        Raises:
            OSError: no process can be started.
            ShutdownError: the pool is closed, or the program is ending.
        """
        with self._lock:
            starts = self._changes.make(self._add, batch)
        announce(starts)  # without the lock, because the callbacks are other people's code

    def _add(self, batch: Batch) -> Sequence[tuple[OnStart, int]]:
        self._require_open()
        # Start before adding: if no process can be started, the error leaves no call behind in the ledger.
        self._start_missing(batch.remaining)
        # After the start, which may have given the processes a new environment, and with the lock held since.
        if changes := self._members.environment_changes(batch.environment):
            batch.extra_env = {**changes, **batch.extra_env}
        has_room = not self._ledger.is_anything_waiting()
        self._ledger.add(batch)
        return self._feed() if has_room else ()

    def submit(self, function: Function, args: Sequence[Packed], *, on_results: OnResults, **options: Any) -> Batch:
        """Run a function for every argument in worker processes, and return immediately.

        Args:
            function: the function.
            args: one packed argument per call.
            on_results: called on the pump's thread with results (``OnResults``). It must not block.
            options: see ``prepare``.

        Raises:
            OSError: no process can be started, or there is no room for the arguments.
            ShutdownError: the pool is closed, or the program is ending.
        """
        batch = self.prepare(function, args, on_results=on_results, **options)
        self.add(batch)
        return batch

    def extend(self, batch: Batch, argument: Packed) -> bool:
        """Add one call to a batch, with an index that follows that of its last call.

        Only one thread at a time may extend a batch.

        Args:
            batch: what ``submit`` has returned.
            argument: the packed argument of the call.

        Returns:
            False if all calls of the batch have ended, or the argument is too big: then no call was added.

        Raises:
            OSError: no process can be started.
            ShutdownError: the pool is closed, or the program is ending.
        """
        if argument.buffers or len(argument.data) > frames.INLINE_LIMIT:
            return False
        with self._lock:
            starts = self._changes.make(self._extend, batch, argument.data)
        announce(starts or ())
        return starts is not None

    def _extend(self, batch: Batch, argument: bytes) -> Sequence[tuple[OnStart, int]] | None:
        self._require_open()
        self._start_missing(1)
        has_room = not self._ledger.is_anything_waiting()
        if not self._ledger.extend(batch, argument):
            return None
        return self._feed() if has_room else ()

    def _feed(self) -> Sequence[tuple[OnStart, int]]:
        """Give out calls here rather than in the pump, so that a call reaches its process one thread switch earlier."""
        starts = self._feeder.feed(time.monotonic())
        self._pump.wake_if_late()
        return starts

    def let_go(self, batch: Batch, index: int, references: Sequence[bytes]) -> None:
        """Let a call run that was held, unless it has ended. The pool need not be open: it was accepted before.

        Args:
            batch: the batch of the call.
            index: the call.
            references: the encoded outcomes that the futures in its argument stand for.
        """
        with self._lock:
            starts = self._changes.make(self._let_go, batch, index, references)
        announce(starts)  # without the lock, as in add()

    def _let_go(self, batch: Batch, index: int, references: Sequence[bytes]) -> Sequence[tuple[OnStart, int]]:
        self._ledger.let_go(batch, index, references)
        return self._feed()

    def cancel(self, batch: Batch, index: int, *, running: bool = True) -> bool:
        """Cancel a call. A waiting call never runs; a running call is killed with its process.

        Args:
            batch: the batch of the call.
            index: the call.
            running: with False, leave the call alone if it has begun.

        Returns:
            Whether the call is cancelled; its result is then a ``CallCancelledError``. False if the call had ended.
        """
        with self._lock:
            # This records a result or condemns a process. Handing the result over and killing are for the pump, so wake
            # it.
            is_cancelled = self._changes.make(self._feeder.cancel, batch, index, running=running)
            self._pump.wake()
            return is_cancelled

    def has_idle(self) -> bool:
        """Tell whether a process has nothing to do, and no call waits for one."""
        with self._lock:
            return self._members.has_idle() and not any(batch.waiting for batch in self._ledger.queue)

    def back_up(self, batch: Batch, index: int) -> int | None:
        """Have an idle process run a call that another process has. The first final result ends the other attempt.

        Returns:
            The id of the idle process; ``None`` if there is none, or if the call is not with exactly one process.
        """
        with self._lock:
            process = self._changes.make(self._feeder.back_up, batch, index, time.monotonic())
            self._pump.wake_if_late()
            return process

    def run(
        self, task: Task, *, stopped: Stop | None = None, environment: Mapping[str, str] | None = None
    ) -> RunResult:
        """Run one task to its end, and return how it ended. Nothing that the task does makes this method raise.

        Args:
            task: the task.
            stopped: kills the task when it is set; the task then ends with a ``CallCancelledError``.
            environment: all variables that the task sees besides ``extra_env``; ``None`` for the variables with which
                the processes were started.

        Raises:
            OSError: no process can be started.
            ShutdownError: the pool is closed, or the program is ending.
        """
        ended = threading.Event()
        results: list[RunResult] = []

        def take(found: list[tuple[int, RunResult]]) -> None:
            # On the pump's thread. The result is in the list before the event lets the waiting thread read it.
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
            # The listener runs in the thread that sets ``stopped``, with the lock of ``Stop`` held: that lock comes
            # before the pool's. It may run at once, and then ``ended`` is set by the cancelled call's result.
            stopped.listen(lambda: self.cancel(batch, 0))
        try:
            # No time limit is needed: every call gets a result, also when its process, the pool or the pump fails.
            ended.wait()
        except BaseException:  # Ctrl-C: the call must not continue when nothing waits for it
            self.cancel(batch, 0)
            raise
        finally:
            if stopped is not None:
                stopped.listen(None)
        return results[0]

    def end_waiting(self) -> None:
        """Do nothing, because processes of the pool can run calls of any function."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no call is outstanding. Return False if the time runs out first."""
        with self._lock:
            self._changes.finish()
            return self._ledger.wait(timeout)

    def _require_open(self) -> None:
        shutdown.require_running()
        if self.lifetime.closed:
            raise ShutdownError(
                "the worker processes on this machine have ended and take no more calls: make another executor with "
                "pywren.local_executor()"
            )

    def _start_missing(self, coming: int = 0) -> None:
        if self._members.start_missing(self._ledger.outstanding, coming):
            self._start_pump()

    def _start_pump(self) -> None:
        if self._pump.thread is None:
            lifetime.end_with_program(self)  # until the pump ends
        self._pump.start()

    def _repair(self) -> None:
        """Make the pool whole, after Ctrl-C has come between two steps of a change."""
        self._feeder.repair()
        if self.lifetime.closed:
            self._close()
        if len(self._members):
            self._start_pump()  # or wake it: there are calls to give out, and perhaps processes to kill

    # -- the end of the process, and forks ---------------------------------------------------------------------

    def finish_at_exit(self) -> None:
        """Wait for outstanding calls, as ``ProcessPoolExecutor`` does, then end the pump and all processes.

        Ctrl-C ends the wait and the calls. If Ctrl-C is what ends the program, do not wait at all.
        """
        try:
            if not shutdown.is_interrupted():
                self._finish_calls()
        except KeyboardInterrupt:
            shutdown.interrupt_end()  # another pool must not need another Ctrl-C
        finally:
            stopped = self._ledger.outstanding
            # On Linux the lifeline would end the children with this process anyway. Closing also removes their
            # directories and daemons.
            self.close()
            remove_abandoned_directories()
        if stopped:
            calls = "1 call was" if stopped == 1 else f"{stopped} calls were"
            logger.warning("%s stopped because the program ended", calls)

    def _finish_calls(self) -> None:
        # The pump is a daemon thread, and daemon threads still run while ``atexit`` functions do. So calls can end.
        if self.wait(shutdown.WARNING_SECONDS):
            return
        with self._lock:
            outstanding, running = self._ledger.outstanding, self._feeder.running()
        them = "it" if outstanding == 1 else "them"
        logger.warning(
            "the program is ending, but %s: waiting for %s; press Ctrl-C to stop %s",
            _what_is_left(running, outstanding - running), them, them,
        )  # fmt: skip
        self.wait()

    def forget_after_fork(self) -> None:
        """In a process that was forked from the client, become a pool without processes and without a pump."""
        # Without the pool's lock, which nobody may ever release in this process; and no other thread exists here.
        self._members.forget_after_fork()
        self._pump.forget_after_fork()
        self._reset()


def _what_is_left(running: int, waiting: int) -> str:
    if running and waiting:
        return f"{running + waiting:,} calls have not ended ({running:,} running, {waiting:,} waiting)"
    calls = "1 call is" if running + waiting == 1 else f"{running + waiting:,} calls are"
    return f"{calls} still {'running' if running else 'waiting to run'}"


def usual_processes() -> int:
    """Return how many processes a pool has by default: one for each processor that this process may use.

    Raises:
        ConfigError: ``PYWREN_LOCAL_PROCESSES`` is not a number of processes.
    """
    asked = os.environ.get(PROCESSES_VARIABLE)
    if asked:
        if not asked.isdecimal() or not int(asked):
            raise ConfigError(f"{PROCESSES_VARIABLE} is {asked!r}; set it to a number of processes, or unset it")
        return int(asked)
    # sched_getaffinity(2) knows cpusets, but not the CPU quotas of cgroups (cpu.max). There the variable helps.
    if hasattr(os, "sched_getaffinity"):  # in a container, often fewer processors than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


call_resources.close_after_call(LocalPool.close_shared)  # a pool that a call creates in a worker ends with the call
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=LocalPool._renew_shared_lock)
