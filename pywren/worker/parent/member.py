"""``Member``: one worker process of the local pool, what that process knows, and the calls that it holds.

A member has no lock of its own: everything here happens with the pool's lock held, and nothing here waits. Frames that
do not fit into the socket are queued, and the pump sends the rest. Killing may take long. So a member that must be
killed is *condemned*, and the pump kills it without holding the lock.
"""

from __future__ import annotations

import os
import pickle
import select
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence

from pywren.wire.failure import Failure
from pywren.worker import frames, own_signals, pages
from pywren.worker.descriptors import pipe
from pywren.worker.frames import UnlinkedFile
from pywren.worker.parent.batch import Batch
from pywren.worker.parent.output import LabelledLines, OutputTail, Sink
from pywren.worker.parent.process import Process
from pywren.worker.protocol import TAIL_LIMIT, TICKET, TICKET_SHIFT, pack_tickets, unpack_tickets

# Calls that take longer than this are worth moving: a move costs a few system calls, and sends the argument once more.
STALL_SECONDS = 0.002
"""Seconds without a result after which the pool takes back the calls that wait behind a member's current one."""

_MAX_TICKETS = 512  # 4,096 bytes, which is the most that one write puts into a pipe atomically
_WORK_AHEAD_SECONDS = 0.01  # how many seconds of work to keep in the pipe: enough to hide the pump's latency
# Beyond eight functions, the process drops the four that were used least recently. Dropping one at a time would cost a
# message for every new function.
_KEPT_FUNCTIONS, _MOST_FUNCTIONS = 4, 8
_FORGET_AFTER = 16  # how many ended batches to forget in one message


class Member:
    """One worker process as the pool sees it.

    Results arrive in the order of the tickets. So the first ticket without a result, the *head*, is the call that is
    running, unless this ticket is still in the pipe.

    Args:
        environment: the process's environment variables.
        sink: called with the text that the calls show. The pool's lock is held, so the sink must not write the text
            anywhere.

    Attributes:
        ready: whether the process has reported that it can run calls.
        dying: whether the process gets no more calls.
        killed: whether the pool decided to end the process; ``was_lost`` instead means that the channel closed or was
            misused.
        condemned: whether the pump has yet to kill the process.
        closed_channel: whether the channel closed, or was misused, while the process lived on.
        tickets: the calls that the process was given and has not answered, in order.
        announced: the last ticket whose start was announced.
        window: how many calls the process should hold, judging by how quick the last calls were.
        last: the monotonic time of the last result; ``started`` is when the head began, as far as the pool knows.
        look_at: the monotonic time when the pool looks for results that the process has not sent, if nothing comes.
        ending: the ticket that the process is killed for, and the failure that the ticket gets.
        shown: the output that is shown as it arrives, once a call has asked for this; ``exclusive`` is set while the
            process holds such a call.
        in_doubt: set while the channel or the pipe is used. If Ctrl-C ends that use, nobody knows what the process has
            got, and ``Feeder.repair`` ends the process.
        watched, watched_for: which descriptors of the member the pump watches, and why.
    """

    def __init__(self, environment: Mapping[str, str], sink: Sink) -> None:
        self._lines = LabelledLines(sink)
        self.output = (UnlinkedFile(), UnlinkedFile())
        memory = pages.create()
        self.pages = pages.PageReader(memory)
        # With the pool's lock held, as everything here: posix_spawn(3) returns as soon as the program is loaded, and
        # nothing waits for the interpreter to start.
        self.process = Process("pool", output=self.output, environment=environment)
        self.ready = False
        self.dying = self.killed = self.condemned = self.was_lost = self.closed_channel = False
        self.tickets: deque[int] = deque()
        self.announced = -1
        self.window = 1
        self.last = self.started = time.monotonic()
        self.look_at = self.last + STALL_SECONDS
        self.ending: tuple[int, Failure] | None = None
        self.shown: tuple[OutputTail, OutputTail] | None = None
        self._shown_ends: list[int] = []
        self.exclusive = self.in_doubt = False
        self.watched: dict[int, int] = {}
        self.watched_for: tuple[bool, bool, bool] | None = None
        self._functions: OrderedDict[str | bytes, int] = OrderedDict()
        self._current_function: str | bytes = ""
        self._batches: set[int] = set()
        self._arenas: set[int] = set()
        self._stale_batches: list[int] = []
        # It is sent with the first call, and is there before it.
        self._queue(frames.encode(frames.MEMORY, sizes=(0,), file=memory))

    @property
    def idle(self) -> bool:
        """Whether the process could run a call immediately."""
        return self.ready and not self.dying and not self.tickets

    @property
    def runs_head(self) -> bool:
        """Whether the process runs the head. The process takes a ticket from the pipe without telling the parent."""
        return self.ready and not self.dying and bool(self.tickets)

    def holds(self, batch: Batch) -> bool:
        """Tell whether the process holds calls of a batch."""
        return any(ticket >> TICKET_SHIFT == batch.number for ticket in self.tickets)

    def room(self, batch: Batch) -> int:
        """Return how many calls of a batch the process should be given now."""
        held = len(self.tickets)
        # A member without a ticket does not read its socket. If cancelled calls have filled the socket, it would never
        # have room, so do not wait for room. A member with a ticket reads until the argument arrives.
        if self.dying or (held and (self.process.channel.waiting or batch.show_output or self.exclusive)):
            return 0
        if batch.show_output:
            return 1
        # The window was measured with the current function. How quick another one is nobody knows yet, so it begins
        # with one.
        window = self.window if batch.function_id == self._current_function else 1
        # Refill from half: each refill costs a pickle, a socket write and a pipe write, whatever the number of calls.
        return window - held if held <= window // 2 else 0

    def give(self, batch: Batch, indices: Sequence[int], now: float) -> None:
        """Send calls to the process, and whatever they need that the process does not have yet."""
        if not self.tickets:
            self.last = self.started = now
            self.look_at = now + STALL_SECONDS
        # The socket keeps the order, so the child has the function and the terms before the arguments that need them.
        # Whatever is noted here as sent was queued before: Ctrl-C between the two has it sent once more.
        terms = None if batch.number in self._batches else self._introduce(batch)
        if batch.has_big_references:
            batch.place_references(indices)
        for index in indices if batch.arenas else ():
            for arena in batch.arenas_of(index):
                if arena.number in self._arenas:
                    continue
                # The frame has a reference to the file, so the descriptor stays open until it is sent, even if the last
                # call ends.
                self._queue(frames.encode(frames.ARENA, number=arena.number, sizes=(0,), file=arena.file))
                self._arenas.add(arena.number)
        # Send arguments before tickets: a child that has read a ticket waits only for the argument on the socket.
        base = batch.number << TICKET_SHIFT
        tickets = [base | index for index in indices]
        entry = batch.entry if batch.arenas else batch.entries.__getitem__
        meta = pickle.dumps((terms, pack_tickets(tickets), [*map(entry, indices)]), 5)
        self._queue(frames.encode_note(frames.ARGUMENTS, meta, batch.number))
        self._batches.add(batch.number)
        self._flush()
        # One shown call at a time: whatever arrives in the pipes until its result belongs to it (``shown_tails``).
        self.exclusive = batch.show_output
        if batch.show_output:
            self._lines.begin(batch.label(indices[0]))
        self._write_tickets(tickets)

    def _flush(self) -> None:
        """Send what is queued, as far as there is room."""
        before, self.in_doubt = self.in_doubt, True
        self.process.channel.flush()
        self.in_doubt = before

    def _write_tickets(self, tickets: Sequence[int]) -> None:
        """Write tickets to the pipe. It has at most ``_MAX_TICKETS``, so a write neither blocks nor is incomplete."""
        before, self.in_doubt = self.in_doubt, True
        self.tickets.extend(tickets)
        try:
            # If the child is dead, the tickets stay in the pipe, and ``Feeder.settle_dead`` takes them back from there.
            os.write(self.process.tickets_out, pack_tickets(tickets))
        except BrokenPipeError:
            pass  # this never happens, because this process also has a read end
        self.in_doubt = before

    def _introduce(self, batch: Batch) -> tuple[int, bool, Mapping[str, str | None], bool]:
        """Send what all calls of a batch need, and return the terms that are sent with the batch's first calls."""
        key = self._functions.get(batch.function_id)
        if key is None:
            self._queue(batch.function_frame)
            key = self._functions[batch.function_id] = batch.function_key
            self._forget_functions()
        self._functions.move_to_end(batch.function_id)
        if batch.function_id != self._current_function:
            self._current_function, self.window = batch.function_id, 1
        if batch.show_output and self.shown is None:
            self._prepare_shown()
        return key, batch.load_anew, batch.extra_env, batch.show_output

    def _forget_functions(self) -> None:
        """Tell the process to drop functions that were used long ago, several with each message."""
        if len(self._functions) <= _MOST_FUNCTIONS:
            return
        # The newest key is at the end, so the function that was just queued is not among these. Calls of a dropped
        # function that are still in the child have their batch, which refers to it (``PoolChild.batches``).
        functions = [self._functions.popitem(last=False)[1] for _ in range(_MOST_FUNCTIONS - _KEPT_FUNCTIONS)]
        self._queue_forget([], functions)

    def _queue_forget(self, arenas: Sequence[int], functions: Sequence[int]) -> None:
        meta = pickle.dumps((self._stale_batches, arenas, functions), 5)
        self._queue(frames.encode_note(frames.FORGET, meta))
        self._stale_batches = []

    def _prepare_shown(self) -> None:
        pipes = [pipe(), pipe()]
        self._shown_ends = [
            write for _, write in pipes
        ]  # these ends stay open here until the frame is sent, which may take a while
        self._queue(frames.encode(frames.SHOW, descriptors=self._shown_ends))
        # The write ends here mean that the pipes never reach their end. The death of the process shows only on
        # ``pidfd``.
        self.shown = (OutputTail(pipes[0][0], "stdout", self._lines), OutputTail(pipes[1][0], "stderr", self._lines))

    def _queue(self, frame: frames.Outgoing) -> None:
        self.process.channel.queue(frame)

    def take_back(self) -> list[int]:
        """Take all tickets out of the pipe and return them. The ticket of the running call is not in the pipe.

        The kernel makes each read atomic: a ticket goes either to this process or to the child, never to both.
        """
        taken: list[int] = []
        before, self.in_doubt = self.in_doubt, True
        while True:
            try:
                # Non-blocking, so an empty pipe is seen at once. The flag belongs to the open pipe, which the child
                # shares (open(2)), so the child must poll.
                data = os.read(self.process.tickets_in, TICKET.size * _MAX_TICKETS)
            except BlockingIOError:
                break
            # Whole tickets only: all writes and reads of both sides are multiples of eight bytes.
            taken.extend(unpack_tickets(data))
        if taken:
            # Not simply the last ones: after Ctrl-C, tickets may be noted that were never written.
            gone = set(taken)
            self.tickets = deque([ticket for ticket in self.tickets if ticket not in gone])
        self.in_doubt = before
        return taken

    def put_back(self, tickets: Sequence[int]) -> None:
        """Write tickets to the pipe again. The process already has the arguments of these calls."""
        if tickets:
            self._write_tickets(tickets)

    def forget(self, batch: Batch) -> None:
        """Tell the process to drop the data of a batch that has ended: arenas immediately, small data later."""
        if batch.number not in self._batches or self.dying:
            return
        self._batches.discard(batch.number)
        # In the child, a batch holds small things. An arena holds up to 64 MiB of memory, so it must not wait for
        # others.
        self._stale_batches.append(batch.number)
        arenas = [arena.number for arena in batch.arenas if arena.number in self._arenas]
        if arenas or len(self._stale_batches) >= _FORGET_AFTER:
            self._queue_forget(arenas, [])
            self._flush()
            self._arenas.difference_update(arenas)

    def forget_arena(self, number: int) -> None:
        """Tell the process to drop an arena whose calls have all ended."""
        if number in self._arenas and not self.dying:
            self._arenas.discard(number)
            self._queue_forget([number], [])
            self._flush()

    def progressed(self, count: int, now: float) -> None:
        """Record that some calls have ended, and set the window to a few milliseconds of work."""
        # The lower bound only prevents a division by zero: results that arrived together may be read within the clock's
        # step.
        each = max((now - self.last) / count, 1e-6)
        self.last = self.started = now  # the next call has begun by now: the child takes it without being told
        self.look_at = now + STALL_SECONDS
        # The window grows at most fourfold: one quick call does not mean that the others are quick.
        self.window = max(1, min(int(_WORK_AHEAD_SECONDS / each), self.window * 4, _MAX_TICKETS))

    def kill(self, ending: tuple[int, Failure] | None = None) -> None:
        """Condemn the process. The ticket in ``ending`` gets that failure; the other calls run in other processes."""
        self.ending = self.ending or ending  # keep the first reason
        self.killed = True
        self.lose()

    def lose(self) -> None:
        """Condemn a process without a usable channel: it died, or the user's code closed or misused the channel.

        The pump kills the process soon, without the pool's lock, because it may have to wait for processes that the
        call started.
        """
        # Only flags: killing walks through /proc and waits, which no thread may do with the pool's lock held.
        self.dying = self.condemned = True
        self.was_lost = not self.killed

    def has_ended_itself(self) -> bool:
        """Tell whether the process, which has died, is known to have ended by what its call did."""
        return own_signals.take_mark(self.process.root, self.process.pid) or self.closed_channel

    def shown_tails(self) -> tuple[str, str]:
        """Return the tails of the shown output of the call that has just ended."""
        if self.shown is None or not self.exclusive:
            return "", ""
        tails = self.shown[0].take(), self.shown[1].take()
        # What the processes that the call has left behind still print gets its label too, until the next call.
        self._lines.end_lines()
        return tails

    def tails(self) -> tuple[str, str]:
        """Return the tails of what a process that has died wrote to stdout and stderr."""
        if self.exclusive and self.shown is not None:
            return self.shown_tails()
        out, err = (file.tail(TAIL_LIMIT).decode("utf-8", "replace") for file in self.output)
        return out, err

    def close_shown(self) -> None:
        """Close the pipes for output that is shown."""
        for tail in self.shown or ():
            tail.close()
        for descriptor in self._shown_ends:
            os.close(descriptor)
        self._shown_ends = []

    @property
    def watch_for(self) -> tuple[bool, bool, bool]:
        """The state that ``events`` depends on. While it is unchanged, the pump need not call ``events`` again."""
        return self.dying, self.process.channel.waiting, self.shown is not None

    def events(self) -> dict[int, int]:
        """Return the descriptors that the pump must watch, each with its ``poll`` events."""
        channel = self.process.channel
        # Watched even for a dying member: only this event leads to ``Pump._bury``, which settles its calls.
        found = {self.process.pidfd: select.POLLIN}
        # A closed socket is always readable (POLLHUP), so watching that of a dying member would keep the pump busy.
        if not self.dying:
            found[channel.fileno()] = select.POLLIN | (select.POLLOUT if channel.waiting else 0)
        for tail in self.shown or ():
            found[tail.descriptor] = select.POLLIN
        return found

    def load(self) -> tuple[int, bool]:
        """Return a key that sorts the least loaded member first: how many calls it holds, whether it is starting."""
        return len(self.tickets), not self.ready

    @property
    def may_have_unsent(self) -> bool:
        """Whether results may be on the page of the process that it has not sent (``pages``)."""
        # The process sends its page before it waits for a ticket. So with a single ticket, that call runs.
        return self.ready and not self.dying and len(self.tickets) > 1

    @property
    def could_share(self) -> bool:
        """Whether calls that other members could run wait in the pipe of this one."""
        # While a process starts, even its head is still in the pipe.
        return not self.dying and len(self.tickets) > (1 if self.ready else 0)
