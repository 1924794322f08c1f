"""``Pump``: the only thread of the local pool. It does everything that no caller's thread does.

A *turn* reads what members have sent, buries members that have ended, starts new ones, does what is due (time-outs,
stalls, the end of the linger) and gives out calls, all with the pool's lock held. Between two turns, without the lock,
the pump does what takes long or runs other people's code: it writes shown output to the client's streams, hands results
over, kills condemned processes with everything that they started, and removes what dead processes left.

Callers wake the pump if it would otherwise sleep too long. For a quick call they need not: its result wakes the pump.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from pywren.wire.failure import Failure
from pywren.worker import process_tree
from pywren.worker.descriptors import LONGEST_POLL, wait_readable
from pywren.worker.parent import lifetime as pool_lifetime
from pywren.worker.parent.batch import EncodedFunctions, OnStart
from pywren.worker.parent.changes import Changes
from pywren.worker.parent.feeder import Feeder
from pywren.worker.parent.ledger import Ledger, announce
from pywren.worker.parent.lifetime import Lifetime
from pywren.worker.parent.member import Member
from pywren.worker.parent.members import Members
from pywren.worker.parent.output import write_through
from pywren.worker.parent.process import Process
from pywren.worker.parent.watch import Watch

logger = logging.getLogger(__name__)

_NEVER = float("inf")
# The most seconds between the end of a process's channel and that of the process, where the kernel does not tell which
# processes it is ending.
_DEATH_SECONDS = 0.05
_GATHER_SECONDS = 0.0003
_GATHER_FROM = 64  # if a member holds this many calls, and as many are outstanding, calls take microseconds


class Pump:
    """Runs a pool as long as the pool has members, calls, or results to hand over.

    Args:
        lock: the pool's lock, which guards everything here except the ``poll`` call itself.
        lifetime: how long the pool is needed.
        members: the processes of the pool.
        ledger: the calls of the pool.
        feeder: moves calls between the two.
        functions: the encoded functions that the pool keeps.
        changes: makes the pool whole after an interrupted change.

    Attributes:
        thread: the thread, which ends with the last process; ``None`` if there is none.
    """

    def __init__(
        self,
        lock: threading.RLock,
        lifetime: Lifetime,
        members: Members,
        ledger: Ledger,
        feeder: Feeder,
        functions: EncodedFunctions,
        changes: Changes,
    ) -> None:
        self.thread: threading.Thread | None = None
        self._lock = lock
        self._lifetime = lifetime
        self._members = members
        self._ledger = ledger
        self._feeder = feeder
        self._functions = functions
        self._changes = changes
        self._watch = Watch()
        self._wakes_at = _NEVER
        self._dead: list[Process] = []

    # -- for callers, with the lock held -----------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread if the pool has processes and no thread; otherwise wake it to serve new processes."""
        if self.thread is not None or not len(self._members):
            self._watch.wake()
            return
        # The pipe exists before the thread, which polls it without the lock.
        self._watch.open()
        # A daemon thread, so that it does not keep the program alive: ``LocalPool.finish_at_exit`` decides when that
        # ends.
        thread = threading.Thread(target=self._run, name="pywren-pool", daemon=True)
        thread.start()  # it waits for the lock, so the thread cannot end before the next line
        self.thread = thread  # Ctrl-C may come before this: the thread then does it itself
        pool_lifetime.end_with_multiprocessing()

    def wake(self) -> None:
        """Wake the thread."""
        self._watch.wake()

    def wake_if_late(self) -> None:
        """Wake the thread only if it would sleep too long."""
        # A wake-up costs a thread switch, more than a quick call itself. Two things cannot wait: a time that has moved
        # forward, and a frame that did not fit into its socket, because only the pump watches for room.
        if self._next_time() < self._wakes_at or any(member.process.channel.waiting for member in self._members):
            self._watch.wake()

    def forget_after_fork(self) -> None:
        """In a process that was forked from the client, close the wake-up pipe. The thread is only in the client."""
        self._watch.close()

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Serve the pool until nothing is left to do. After an error, end all calls, so no thread waits in vain."""
        with self._lock:
            if self.thread is None:
                self.thread = threading.current_thread()
            if self.thread is not threading.current_thread():
                return  # Ctrl-C came while this one was started, and so another one was
        try:
            self._serve()
        except BaseException as error:  # threading would silently ignore a SystemExit
            logger.exception("the local pool has failed")
            self._fail(error)

    def _serve(self) -> None:
        timeout: float | None = 0.0
        while True:
            # The only place where this thread sleeps for long, and it holds no lock here.
            ready = self._watch.wait(timeout)
            with self._lock:
                self._changes.finish()
                # ``ready`` may be out of date by now: a caller may have read a result already. A read that finds
                # nothing does no harm.
                starts = self._turn(ready)
                has_results = self._ledger.has_results
                # With the lock held until ``thread`` is None: a ``submit`` that comes after this starts another thread.
                has_ended = not len(self._members) and not self._ledger.outstanding and not has_results
                if has_ended:
                    self._end()
                else:
                    # Do this before handing results over, so that this thread sleeps immediately afterwards: the
                    # threads that wait for results need the GIL.
                    timeout = self._prepare_to_wait()
                # Condemned and dead processes leave the shared state here, so from now on only this thread has them.
                dead, self._dead = self._dead, []
                condemned = self._members.take_condemned()
                shown = self._members.take_shown()
                self._ledger.collect()
            _show(shown)  # before the results: a user who has a result has seen what its call printed
            announce(starts)
            if self._hand_over():
                timeout = 0.0  # another turn is due: it gives out the calls that run again
            for member in condemned:
                _kill(member)
            for process in dead:
                process.remove_traces()  # this walks through /proc and the scratch directory
            if has_ended:
                return
            if self._ledger.outstanding >= _GATHER_FROM and has_results and self._is_streaming():
                time.sleep(_GATHER_SECONDS)  # a turn costs as much as ten results, so gather several for one turn

    def _hand_over(self) -> bool:
        has_decided = self._ledger.hand_over()
        if self._ledger.waiters:  # read without the lock: a thread that begins to wait now reads ``outstanding`` itself
            with self._lock:
                self._ledger.tell_waiters()
        return has_decided

    def _fail(self, error: BaseException) -> None:
        """End every call and process after an error in the pump itself."""
        with self._lock:
            # Closed first: from here on ``submit`` refuses, so no call can be added that nothing would end.
            self._lifetime.closed = True
            for member in self._members:
                member.lose()
            text = f"the local pool has failed ({error!r}) and ended its processes: make the call again"
            self._ledger.fail_all(Failure("WorkerCrashedError", text, (None,)))
            self._ledger.collect()
        self._hand_over()  # do this before the processes end, which may take long: no thread should wait for that
        with self._lock:
            # Here the pool's lock is held while processes end, because no thread may find half of them. Nobody needs
            # speed any more.
            self._members.close()
            shown = self._members.take_shown()
            self._end()
        _show(shown)

    def _end(self) -> None:
        self.thread = None
        self._watch.close()
        pool_lifetime.forget(self._lifetime)

    def _is_streaming(self) -> bool:
        """Whether results arrive too fast to be worth waking up for each."""
        return all(len(member.tickets) >= _GATHER_FROM for member in self._members)

    # -- one turn ----------------------------------------------------------------------------------------------

    def _turn(self, ready: Sequence[tuple[int, int]]) -> list[tuple[OnStart, int]]:
        """Process what has arrived, and do what is due now. Return the calls whose start must be announced."""
        dead = []
        for descriptor, _ in ready:
            member = self._watch.member_of(descriptor)
            if member is None:
                continue
            if descriptor == member.process.pidfd:
                dead.append(member)  # handle this later: what the process sent before it died comes first
            elif member.shown is not None and descriptor in (tail.descriptor for tail in member.shown):
                for tail in member.shown:
                    tail.pump()
            else:
                # Send before receiving: room in the socket is what this event may be about, and the child may wait for
                # the rest.
                if member.process.channel.waiting:
                    member.process.channel.flush()
                self._feeder.receive(member, everything=False)
        for member in dead:
            self._bury(member)
        if not self._lifetime.closed:
            self._members.start_due(self._ledger.outstanding)
        if not (self._ledger.outstanding or self._ledger.queue) and self._lifetime.users:
            return []  # nothing is due, and a thread that waits for the last result needs the GIL
        now = time.monotonic()
        # This order: first free processes (time-outs), then the end of an unused pool, then calls taken back, so that
        # ``feed`` hands out everything that is waiting by then.
        self._feeder.expire(now)
        self._end_if_unused(now)
        self._ledger.requeue_due(now)
        self._feeder.look_for_unsent(now)
        self._feeder.balance(now)
        return self._feeder.feed(now) + self._ledger.ticks(now)

    def _bury(self, member: Member) -> None:
        """Settle the calls of a process that has ended, and replace the process."""
        # Before the channel is closed, because results may still be in it.
        last = self._feeder.settle_dead(member)
        # Before ``process.end`` closes the descriptors: a ``poll`` on a closed or reused number would never sleep
        # again.
        self._watch.forget(member)
        self._members.remove(member, last)
        member.close_shown()
        member.process.end()
        self._dead.append(member.process)  # the traces of the process are removed after the turn
        if self._lifetime.closed or not (self._lifetime.users or self._ledger.outstanding):
            return
        # Without this, a machine on which no interpreter can start would start one after the other, and calls would
        # wait forever.
        failure = self._members.give_up(last)
        if failure is None:
            try:
                self._members.start_missing(self._ledger.outstanding)
            except OSError as error:
                failure = Failure("WorkerCrashedError", f"no worker process can be started: {error}", (None,))
        if failure is not None:
            self._ledger.fail_all(failure)

    def _end_if_unused(self, now: float) -> None:
        """Condemn all processes when the pool has lingered long enough."""
        if not self._ledger.outstanding and now >= self._lifetime.ends_at(self._ledger.ended_at):
            self._functions.forget()
            # Condemned here, killed after the lock is released, and buried when their ``pidfd`` reports it.
            self._members.kill()

    # -- sleeping ----------------------------------------------------------------------------------------------

    def _prepare_to_wait(self) -> float | None:
        """Choose the descriptors to watch, and return the longest time to wait, in milliseconds."""
        # After the turn, because feeding may have left frames that wait for room in a socket (POLLOUT).
        self._watch.update(self._members)
        if not len(self._members):
            return 0
        now = time.monotonic()
        # A time in the future is kept, even if nothing may be due then any more: an unnecessary turn does no harm, and
        # callers compare other times with this one (``wake_if_late``).
        known = self._wakes_at if self._wakes_at > now else _NEVER
        self._wakes_at = min(known, self._next_time())
        if self._wakes_at == _NEVER:
            return None
        # Round up: ``poll`` counts whole milliseconds, and a turn that is too early would be followed by many more.
        return min(max(0.0, (self._wakes_at - now) * 1000 + 1), LONGEST_POLL)

    def _next_time(self) -> float:
        """Return the monotonic time when something is next due: a start, a time-out, a stall, the linger's end."""
        earliest = _NEVER if self._lifetime.closed else self._members.next_start()
        if self._ledger.outstanding:
            return min(earliest, self._feeder.next_time())
        return min(earliest, self._lifetime.ends_at(self._ledger.ended_at)) if len(self._members) else earliest


def _kill(member: Member) -> None:
    if member.was_lost:
        # The channel of a process that is killed closes some time before ``pidfd`` reports the end. A process that
        # lives on has closed the channel itself.
        ends = process_tree.is_ending(member.process.pid) or wait_readable(member.process.pidfd, _DEATH_SECONDS)
        member.closed_channel = not ends
    member.process.kill()  # this takes up to a second for each round of killing what the call has started


def _show(shown: Sequence[tuple[str, str]]) -> None:
    """Write output to the client's streams. This may take long with a slow terminal or a user's own stream object."""
    for stream, text in shown:
        write_through(stream, text)
