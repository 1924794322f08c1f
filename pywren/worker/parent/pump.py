"""``Pump``: the only thread of the local pool. Everything that no caller triggers happens here.

A *turn* reads what members have sent, buries those that have ended, starts others, does what is due (time-outs, stalls,
the end of the linger) and gives out calls; all of it with the pool's lock held. Between two turns, without the lock, it
does what takes long or runs the code of others: writing shown output to the client's streams, handing results over,
killing the condemned with everything that they started, and removing what the dead left.

Callers wake the pump if it would otherwise sleep past something new. For a quick call there is no need to: the result
wakes it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from pywren.wire.failure import Failure
from pywren.worker.descriptors import LONGEST_POLL
from pywren.worker.parent import lifetime as pool_lifetime
from pywren.worker.parent.batch import EncodedFunctions, OnStart
from pywren.worker.parent.feeder import Feeder
from pywren.worker.parent.ledger import Ledger, announce
from pywren.worker.parent.lifetime import Lifetime
from pywren.worker.parent.member import Member
from pywren.worker.parent.members import Members
from pywren.worker.parent.output import write_through
from pywren.worker.parent.process import Process
from pywren.worker.parent.watch import Watch
from pywren.worker.task import crash_failure

logger = logging.getLogger(__name__)

_NEVER = float("inf")
_GATHER_SECONDS = 0.0003
_GATHER_FROM = 64  # this many calls given ahead to a member, and as many outstanding, mean that calls take microseconds


class Pump:
    """Runs a pool as long as it has members, calls or results to hand over.

    Args:
        lock: the pool's lock; it guards everything here except the poll itself.
        lifetime: how long the pool is needed.
        members: its processes.
        ledger: its calls.
        feeder: moves calls between the two.
        functions: the encoded functions that it keeps.

    Attributes:
        thread: the thread; ``None`` when there is none. It ends with the last process.
    """

    def __init__(
        self,
        lock: threading.RLock,
        lifetime: Lifetime,
        members: Members,
        ledger: Ledger,
        feeder: Feeder,
        functions: EncodedFunctions,
    ) -> None:
        self.thread: threading.Thread | None = None
        self._lock = lock
        self._lifetime = lifetime
        self._members = members
        self._ledger = ledger
        self._feeder = feeder
        self._functions = functions
        self._watch = Watch()
        self._wakes_at = _NEVER
        self._dead: list[Process] = []

    # -- for callers, with the lock held -----------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread if the pool has processes and no thread; otherwise wake it, because processes are new."""
        if self.thread is not None or not len(self._members):
            self._watch.wake()
            return
        self._watch.open()
        thread = threading.Thread(target=self._run, name="pywren-pool", daemon=True)
        thread.start()  # its first turn waits for the lock, so it cannot end before the next line
        self.thread = thread
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
        """Close this process's ends of the pipe. The thread is in the other process."""
        self._watch.close()

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Serve the pool. Whatever goes wrong here, no thread may be left waiting for a result."""
        try:
            self._serve()
        except BaseException as error:  # threading would silently ignore a SystemExit
            logger.exception("the local pool has failed")
            self._fail(error)

    def _serve(self) -> None:
        timeout: float | None = 0.0
        while True:
            ready = self._watch.wait(timeout)
            with self._lock:
                starts = self._turn(ready)
                has_results = self._ledger.has_results
                has_ended = not len(self._members) and not self._ledger.outstanding and not has_results
                if has_ended:
                    self._end()
                else:
                    # Do this before handing results over, so that this thread sleeps right after: the threads that
                    # wait for them need the GIL.
                    timeout = self._prepare_to_wait()
                # The condemned and the dead leave the shared state here, so only this thread has them from now on.
                dead, self._dead = self._dead, []
                condemned = self._members.take_condemned()
                shown = self._members.take_shown()
                self._ledger.collect()
            _show(shown)  # before the results: whoever has a result has seen what its call printed
            announce(starts)
            self._hand_over()
            for member in condemned:
                member.process.kill()  # this takes up to a second for each round of what the call has started
            for process in dead:
                process.remove_traces()  # this walks through /proc and the scratch directory
            if has_ended:
                return
            if self._ledger.outstanding >= _GATHER_FROM and has_results and self._is_streaming():
                time.sleep(_GATHER_SECONDS)  # a turn costs as much as ten results, so gather several for one turn

    def _hand_over(self) -> None:
        self._ledger.hand_over()
        if self._ledger.waiters:  # read without the lock: a thread that begins to wait now sees ``outstanding`` itself
            with self._lock:
                self._ledger.tell_waiters()

    def _fail(self, error: BaseException) -> None:
        """End every call and process after an error of the pump's own."""
        with self._lock:
            self._lifetime.closed = True
            pool_lifetime.forget_closed()
            for member in self._members:
                member.lose()
            text = f"the local pool has failed ({error!r}) and ended its processes: make the call again"
            self._ledger.fail_all(Failure("WorkerCrashedError", text, (None,)))
            self._ledger.collect()
        self._hand_over()  # before the processes end, which may take long: no thread should wait for that
        with self._lock:
            self._members.close()
            shown = self._members.take_shown()
            self._end()
        _show(shown)

    def _end(self) -> None:
        self.thread = None
        self._watch.close()

    def _is_streaming(self) -> bool:
        """Whether results arrive too fast to be worth waking up for each."""
        return all(len(member.tickets) >= _GATHER_FROM for member in self._members)

    # -- one turn ----------------------------------------------------------------------------------------------

    def _turn(self, ready: Sequence[tuple[int, int]]) -> list[tuple[OnStart, int]]:
        """Process what has arrived, and do what is due. Return the calls whose start must be announced."""
        dead = []
        for descriptor, _ in ready:
            member = self._watch.member_of(descriptor)
            if member is None:
                continue
            if descriptor == member.process.pidfd:
                dead.append(member)  # handle it last: what it sent before it died comes first
            elif member.shown is not None and descriptor in (tail.descriptor for tail in member.shown):
                for tail in member.shown:
                    tail.pump()
            else:
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
        self._feeder.expire(now)
        self._end_if_unused(now)
        self._feeder.balance(now)
        return self._feeder.feed(now)

    def _bury(self, member: Member) -> None:
        """Settle the calls of a process that has ended, and replace the process."""
        returncode = self._feeder.settle_dead(member)
        tails = member.tails()  # for the message; read before the files are closed
        self._watch.forget(member)
        self._members.remove(member)
        member.close_shown()
        member.process.end()
        self._dead.append(member.process)  # its traces are removed after the turn
        if self._lifetime.closed or not (self._lifetime.users or self._ledger.outstanding):
            return
        failure = self._members.give_up(crash_failure(returncode, *tails))
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
            self._members.kill()

    # -- sleeping ----------------------------------------------------------------------------------------------

    def _prepare_to_wait(self) -> float | None:
        """Set up what to watch, and return the longest time to wait, in milliseconds."""
        self._watch.update(self._members)
        if not len(self._members):
            return 0
        now = time.monotonic()
        # A time that is still to come is kept, even if its reason may be gone: one turn too many does no harm, and
        # callers compare with it (``wake_if_late``).
        known = self._wakes_at if self._wakes_at > now else _NEVER
        self._wakes_at = min(known, self._next_time())
        if self._wakes_at == _NEVER:
            return None
        # Round up: ``poll`` counts whole milliseconds, and a turn that is too early would be followed by many more.
        return min(max(0.0, (self._wakes_at - now) * 1000 + 1), LONGEST_POLL)

    def _next_time(self) -> float:
        """Return when the pump must next act without being woken: a start, time-out, stalled member or linger's end."""
        earliest = _NEVER if self._lifetime.closed else self._members.next_start()
        if self._ledger.outstanding:
            return min(earliest, self._feeder.next_time())
        return min(earliest, self._lifetime.ends_at(self._ledger.ended_at)) if len(self._members) else earliest


def _show(shown: Sequence[tuple[str, str]]) -> None:
    """Write output to the client's streams. A slow terminal or a file of the user's own may take long over it."""
    for stream, text in shown:
        write_through(stream, text)
