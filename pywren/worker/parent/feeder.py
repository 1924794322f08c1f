"""``Feeder``: gives calls to the members of the local pool, receives their results, and takes calls back.

All of this happens with the pool's lock held, on the pump's thread or a caller's thread. The tickets of a member are in
two places: some are in the pipe, which the parent and the child can both read, and one is the ticket that the child has
read and is running. So emptying the pipe decides a race with the child: tickets that the parent reads never run in the
child, and the calls of all other tickets have begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker import frames, memory
from pywren.worker.frames import Frame
from pywren.worker.pages import Page
from pywren.worker.parent.batch import Batch, OnStart
from pywren.worker.parent.ledger import INDEX_MASK, Ledger, failed
from pywren.worker.parent.member import STALL_SECONDS, Member
from pywren.worker.parent.members import Members
from pywren.worker.protocol import TICKET_SHIFT, decode_result, results_on
from pywren.worker.task import RunResult, cancelled_failure, crash_failure, timeout_failure

_LONGEST_LOOK_SECONDS = 0.5  # between two looks for results that a process has not sent


class Feeder:
    """Moves calls between the ledger and the members.

    Args:
        members: the processes of the pool.
        ledger: the calls of the pool.
    """

    def __init__(self, members: Members, ledger: Ledger) -> None:
        self._members = members
        self._ledger = ledger
        # How many processes here had been killed for want of memory when a member last became ready, or died.
        self._oom_kills = memory.oom_kills()

    # -- giving ------------------------------------------------------------------------------------------------

    def feed(self, now: float) -> list[tuple[OnStart, int]]:
        """Give calls to members that have room.

        Args:
            now: the present monotonic time.

        Returns:
            The calls that are running now and that have an ``on_start`` callback, for ``ledger.announce``.
        """
        queue = self._ledger.queue
        held_back: list[Batch] = []
        while queue:
            batch = queue[0]
            waiting = batch.waiting
            gave = False
            members = self._members if batch.most_processes is None else self._usable(batch, batch.most_processes)
            share = -(-waiting // len(members)) if members else 0  # rounded up; no member gets what others could run
            # The least loaded comes first, so that a single call goes to an idle process and not behind a running call.
            for member in sorted(members, key=Member.load) if waiting else ():
                room = min(member.room(batch), share)
                if room and (indices := batch.take(room)):
                    member.give(batch, indices, now)
                    gave = True
                    waiting = batch.waiting
                    if not waiting:
                        break
            if not waiting:
                queue.popleft()  # the batch returns when calls are taken back (``Ledger.requeue``)
            elif not gave and batch.waiting:  # otherwise all waiting calls had been cancelled: go on to the next batch
                if batch.most_processes is None:
                    break
                # The batches behind it may use the other processes.
                held_back.append(queue.popleft())
        queue.extendleft(reversed(held_back))
        return self._starts()

    def _usable(self, batch: Batch, most: int) -> list[Member]:
        """Return the members that may hold calls of a batch that must not use more than so many processes."""
        # Its holders come first, and among the others the least loaded.
        members = sorted(self._members, key=lambda member: (not member.holds(batch), member.load()))
        return members[: max(most, len([member for member in members if member.holds(batch)]))]

    def _starts(self) -> list[tuple[OnStart, int]]:
        found = []
        for member in self._members:
            # The head may still be in the pipe, for example while the process is starting. The head counts as running
            # anyway.
            head = member.tickets[0] if member.tickets else -1
            if head != member.announced:
                member.announced = head
                batch = self._ledger.batch_of(head)
                if batch is not None and batch.on_start is not None:
                    found.append((batch.on_start, head & INDEX_MASK))
        return found

    def repair(self) -> None:
        """Make members and ledger agree again, after Ctrl-C has come between two steps of a change."""
        for member in self._members:
            if member.in_doubt:
                member.kill()  # the call that it runs is tried again, as after any other kill from outside
        self._ledger.repair()

    def balance(self, now: float) -> None:
        """Take back calls that wait behind a slow one while another member is idle."""
        stalled = [member for member in self._members if member.could_share and now - member.last >= STALL_SECONDS]
        # While calls wait here, an idle member is given those by ``feed``. Taking others back then would only cost
        # time.
        if not stalled or any(batch.waiting and batch.most_processes is None for batch in self._ledger.queue):
            return
        if self._members.has_idle():
            for member in stalled:
                member.window = 1  # its calls are slow now, whatever the earlier ones were like
                self._ledger.requeue(member.take_back())
                self.receive(member)  # what it has not sent; after the pipe, so that only one call is left

    # -- receiving results -------------------------------------------------------------------------------------

    def receive(self, member: Member, *, everything: bool = True) -> None:
        """Process the frames that a member has sent.

        Args:
            member: the member.
            everything: whether to read until nothing is left, and what the process has not sent yet (``pages``). With
                False, one read is enough, because the pump's ``poll`` will report the rest.
        """
        count = 0
        before, member.in_doubt = member.in_doubt, True
        try:
            while True:
                # Each ``receive`` is one recvmsg(2) of up to 64 KiB. A child that sends without end cannot keep the
                # pump here, because the pump passes ``everything=False``.
                for frame in member.process.channel.receive():
                    count += self._take_frame(member, frame)
                if not everything:
                    break
        except BlockingIOError:
            pass  # nothing more has arrived
        except EOFError:
            member.lose()  # the process may only have closed the socket so far; ``pidfd`` will report when it ends
        if everything and member.tickets:  # after the socket, as ``PageReader`` requires
            count += self._take_page(member, partial(member.pages.unsent, member.tickets[0]))
        if count:
            member.progressed(count, time.monotonic())
        member.in_doubt = before

    def _take_frame(self, member: Member, frame: Frame) -> int:
        """Process one frame, and return how many calls it ends."""
        if frame.kind == frames.READY:
            self._members.note_ready(member)
            self._oom_kills = memory.oom_kills()
            return 0
        if frame.kind == frames.PAGE and isinstance(frame.payload, bytes):
            return self._take_page(member, partial(member.pages.received, frame.meta, frame.payload))
        ticket = frame.number
        if frame.kind != frames.RESULT or not member.tickets or member.tickets[0] != ticket:
            member.lose()  # the user's code has written to the channel: nothing else from this channel can be trusted
            return 0
        # Results come in the order of the tickets, so the answered ticket is the head. The next ticket is the head from
        # now on.
        member.tickets.popleft()
        batch = self._ledger.batch_of(ticket)
        if frame.flags & frames.NOT_BEGUN:
            self._ledger.requeue([ticket])  # an earlier call has damaged the process, so another one runs this call
        elif batch is not None:
            self._finish(member, batch, ticket, decode_result(frame, *member.shown_tails()))
        if frame.flags & (frames.LEFTOVERS | frames.SPENT | frames.NOT_BEGUN):
            member.kill()
        return 1

    def _take_page(self, member: Member, read: Callable[[], Page]) -> int:
        """Process the results on a page, and return how many calls they end."""
        try:
            page = read()
        except ValueError:
            member.lose()  # as in ``_take_frame``
            return 0
        count, tickets = len(page.tickets), member.tickets
        if not count:
            return 0
        heads = [tickets.popleft() for _ in range(min(count, len(tickets)))]
        # They answer the first tickets, which are of one batch, or else the user's code has written this.
        if heads != page.tickets or max(heads) >> TICKET_SHIFT != min(heads) >> TICKET_SHIFT:
            tickets.extendleft(reversed(heads))
            member.lose()
            return 0
        batch = self._ledger.batch_of(page.tickets[0])
        if batch is None:
            return count
        if batch.doubled or batch.cancelled or batch.arenas:
            for ticket, result in zip(heads, results_on(page), strict=True):
                self._finish(member, batch, ticket, result)
        else:
            self._ledger.finish_page(batch, [ticket & INDEX_MASK for ticket in heads], page)
        return count

    def look_for_unsent(self, now: float) -> None:
        """Read the results that processes have not sent yet, if nothing has come from them for a while.

        A process sends its page after a millisecond of calls, and before it waits. But a call may take longer than all
        before it, and then these need not wait for it.
        """
        for member in self._members:
            if now >= member.look_at and member.may_have_unsent:
                # Less and less often: most likely there is nothing. A result sets it back (``progressed``).
                member.look_at = now + max(STALL_SECONDS, min(now - member.last, _LONGEST_LOOK_SECONDS))
                self.receive(member)

    def settle_dead(self, member: Member) -> Failure:
        """Settle the calls of a process that has ended: those with results, the call that ran, and those that waited.

        Returns:
            The failure of the call that was running, or that would have been.
        """
        # The socket comes before the ticket pipe: what the child sent before it died can still be read, and those calls
        # have ended properly. Otherwise such a call would look like the one that ran at the crash.
        self.receive(member)
        returncode = member.process.wait()  # this returns immediately: ``pidfd`` has reported the end
        # Calls whose tickets are still in the pipe never ran. Of the others, which the process had read, the first ran.
        taken = member.take_back()
        member.dying = True
        # The child takes one ticket at a time, so at most the head is left here. More are left only if the user's code
        # has read from the pipe.
        tails = member.tails()
        failure = crash_failure(returncode, *tails, was_lost=member.closed_channel, by_itself=member.has_ended_itself())
        if failure.cause is Cause.KILLED:
            failure = memory.judge(failure, self._oom_kills) or failure
            self._oom_kills = memory.oom_kills()
        if member.tickets:
            self._end_head(member, failure, tails)
        self._ledger.requeue([*member.tickets, *taken])
        return failure

    def _end_head(self, member: Member, failure: Failure, tails: tuple[str, str]) -> None:
        """End the call that was running when its process ended."""
        ticket = member.tickets.popleft()
        ending, member.ending = member.ending, None
        if ending is not None and ending[0] == ticket:
            failure = ending[1]  # it died because its call was cancelled or timed out
        batch = self._ledger.batch_of(ticket)
        if batch is not None:
            result = RunResult(
                None, None, failure=failure, returncode=member.process.returncode, stdout=tails[0], stderr=tails[1],
                info={"process": member.process.pid},
            )  # fmt: skip
            self._finish(member, batch, ticket, result)

    def _finish(self, member: Member, batch: Batch, ticket: int, result: RunResult) -> None:
        """Record a result that a process has brought."""
        index = ticket & INDEX_MASK
        if index not in batch.doubled:
            self._ledger.finish(batch, index, result)
            return
        result = result._replace(info={**result.info, "process": member.process.pid})
        self._ledger.finish(batch, index, result)
        if batch.done[index]:
            self._take_from(self._ledger.holders(ticket), ticket)

    def _take_from(self, members: Iterable[Member], ticket: int) -> None:
        """Have processes run a call no further, whose result is not needed any more."""
        for member in members:
            taken = member.take_back()
            member.put_back([other for other in taken if other != ticket])
            if ticket not in taken:  # it runs there
                member.kill()

    def back_up(self, batch: Batch, index: int, now: float) -> int | None:
        """Give a call that one process has to an idle one, too. Return the id of that process; ``None`` if none can."""
        if self._ledger.has_ended(batch, index) or index in batch.undecided or index in batch.cancelled:
            return None
        idle = next((member for member in self._members if member.idle), None)
        if idle is None or len(self._ledger.holders(batch.number << TICKET_SHIFT | index)) != 1:
            return None
        batch.doubled.add(index)
        idle.give(batch, [index], now)
        return idle.process.pid

    # -- ending calls ------------------------------------------------------------------------------------------

    def cancel(self, batch: Batch, index: int, *, running: bool = True) -> bool:
        """Cancel a call. Return whether the call is cancelled; False if it had already ended.

        With ``running=False``, a call that has begun is left alone too.

        A waiting call is finished immediately. For a running call, the process is condemned; the call is finished when
        the process has died.
        """
        if self._ledger.has_ended(batch, index):
            return False
        if index in batch.undecided:  # the callback that decides about it is running: ``Ledger._decide`` ends the call
            batch.cancelled.add(index)
            return True
        ticket = batch.number << TICKET_SHIFT | index
        holder = next((member for member in self._members if ticket in member.tickets), None)
        begun = False
        if holder is not None:
            taken = holder.take_back()
            self.receive(holder)  # after the pipe was read, so that a result that arrived earlier is not lost
            if batch.done[index]:
                holder.put_back(taken)
                return False
            if index in batch.undecided:  # its result was a failure
                holder.put_back(taken)
                batch.cancelled.add(index)
                return True
            # The pipe is empty now, and this side is the only writer. So a ticket that is not among ``taken`` and has
            # no result is the one that the child has read.
            begun = ticket not in taken
            holder.put_back([other for other in taken if other != ticket])
            if begun and not running:
                return False
            # The other process, if the call is backed up.
            self._take_from([other for other in self._ledger.holders(ticket) if other is not holder], ticket)
        if holder is not None and begun:
            # Nothing short of SIGKILL ends a call for certain: C code does not return to the interpreter for a signal
            # handler. The calls that were put back are taken back again when the process is buried (``settle_dead``).
            holder.kill((ticket, cancelled_failure(running=True)))
            batch.cancelled.add(index)  # so that a result that arrives before the kill does not count
        else:
            self._ledger.finish(batch, index, failed(cancelled_failure(running=False)))
        return True

    def expire(self, now: float) -> None:
        """Condemn the processes whose calls have run for too long."""
        for member in self._members if self._ledger.outstanding else ():
            # ``started`` is when this side gave the head or read the result before it. The child began the head a
            # thread switch earlier or later, which no time limit is exact enough to notice.
            timeout = self._timeout_of(member)
            if timeout is None or now < member.started + timeout:
                continue
            head = member.tickets[0]
            self.receive(member)  # the call's result may have arrived already
            if member.tickets and member.tickets[0] == head:
                member.kill((head, timeout_failure(timeout)))

    def running(self) -> int:
        """Return how many calls are running. A call that is backed up runs in two processes, and counts once."""
        return len({member.tickets[0] for member in self._members if member.runs_head})

    def _timeout_of(self, member: Member) -> float | None:
        """Return the time limit in seconds of a member's first call, if that call is running and has a limit."""
        batch = self._ledger.batch_of(member.tickets[0]) if member.runs_head else None
        return None if batch is None else batch.timeout

    def next_time(self) -> float:
        """Return the monotonic time when a call runs out of time or runs again, or a member counts as stalled."""
        earliest = self._ledger.next_time()
        for member in self._members:
            if not member.tickets:
                continue
            timeout = self._timeout_of(member)
            if timeout is not None:
                earliest = min(earliest, member.started + timeout)
            if member.may_have_unsent:
                earliest = min(earliest, member.look_at)
            if member.could_share and self._members.has_idle():
                earliest = min(earliest, member.last + STALL_SECONDS)
        return earliest
