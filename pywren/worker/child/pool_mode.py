"""Pool mode: a child of the local pool runs calls itself, one after the other, on its main thread.

The parent writes eight-byte tickets to a pipe, and the functions and arguments of the calls to the channel. The child
takes *one* ticket, runs that call and sends its result, or writes it to its page, before it takes the next. The parent
can take back tickets that are still in the pipe, to cancel the calls or to give them to an idle process. A read of
eight bytes is atomic, so the kernel decides which side gets a ticket, and the two processes need no common lock.

A call that left threads, child processes or lasting changes ends its process. The child sets a flag in the result and
waits to be killed, so that the parent kills the child and everything below it together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import select
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pywren.pickling.format import FUTURE, NAMES_FOLLOW
from pywren.pickling.packed import Packed
from pywren.worker import frames, own_signals, pages, process_tree
from pywren.worker.child.after_call import end_process, what_is_left
from pywren.worker.child.leftovers import watch_threads
from pywren.worker.child.loaded_function import LoadedFunction
from pywren.worker.child.output import Output
from pywren.worker.child.runner import TaskRunner
from pywren.worker.descriptors import high_descriptor
from pywren.worker.frames import Channel, Frame, UnlinkedFile
from pywren.worker.protocol import TICKET, TICKET_SHIFT, function_from, packed_from, send_result, unpack_tickets
from pywren.worker.task import RunResult

# The user's function may replace any of these under its public name.
_loads = pickle.loads
_exit, _getpid, _read, _pause, _sleep = os._exit, os.getpid, os.read, signal.pause, time.sleep
_unpack = TICKET.unpack

_NAMES = pickle.STACK_GLOBAL  # a pickle without this opcode contains only plain data: numbers, strings, lists and so on
_FUTURE_MARK = FUTURE.encode()
_NO_OUTPUT = ("", "")
_OVERHEAD = 3e-6  # seconds from the end of a call that can only compute to the beginning of the next one
_MOST_SECONDS_TO_LIVE = 10.0  # for a process that its parent should kill


class PoolChild:
    """Runs the calls whose tickets it takes from the pipe.

    Args:
        channel: the child's end of the channel; it blocks.
        tickets: the read end of the ticket pipe. The parent also has this end, and has made it non-blocking.
        root: the private directory of this process.
    """

    def __init__(self, channel: Channel, tickets: int, root: str) -> None:
        self.channel = channel
        self.tickets = tickets
        self.root = root
        self.output = Output(captured=True)
        watch_threads(root)
        own_signals.watch(root)
        self.runner = TaskRunner(root, os.path.join(root, "scratch"))
        self.has_run = False
        self.functions: dict[int, LoadedFunction] = {}
        self.batches: dict[int, tuple[LoadedFunction, Mapping[str, str], bool]] = {}
        self.arenas: dict[int, UnlinkedFile] = {}
        self.arguments: dict[int, Any] = {}
        self.page: pages.PageWriter  # from the first frame on
        self.poll = select.poll()
        self.poll.register(tickets, select.POLLIN)
        self.pid = os.getpid()

    def serve(self) -> NoReturn:
        """Run calls until the parent closes the ticket pipe."""
        # Before the first call can start a daemon: only orphans from then on become children of this process.
        process_tree.adopt_orphans(process_tree.load_prctl())
        # The parent may have sent calls before this. It counts their time from here.
        self.channel.send(frames.encode(frames.READY))
        following = None
        while True:
            ticket = self._take_ticket() if following is None else following
            try:
                following = self._run(ticket)
            except EOFError:
                _exit(0)  # the parent is gone
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                # The call closed descriptors of this process. A channel that closes while this process lives on tells
                # the parent so, and the parent kills this process, usually before it reaches this line.
                with contextlib.suppress(OSError):
                    self.channel.close()
                _sleep(_MOST_SECONDS_TO_LIVE)
                _exit(1)  # the parent is gone, and so may be the lifeline

    def _take_ticket(self) -> int:
        while True:
            ticket = self._next_ticket()
            if ticket is not None:
                return ticket
            # ``poll`` promises nothing: the parent may take the ticket back before it is read here, and then this waits
            # again.
            self.poll.poll()

    def _next_ticket(self) -> int | None:
        """Take a ticket, if there is one."""
        try:
            # Exactly one ticket: a second one in this process's memory could not be taken back if the first call is
            # slow.
            data = _read(self.tickets, TICKET.size)
        except BlockingIOError:  # "non-blocking" is a property of the open pipe, so it applies to both processes
            return None
        if not data:  # the parent has closed the pipe: no more calls
            _exit(0)
        ticket: int = _unpack(data)[0]
        return ticket

    def _run(self, ticket: int) -> int | None:
        """Run a call, and perhaps some of those that follow. Return the ticket of another one, if it has been taken."""
        while ticket not in self.arguments:
            # The parent writes tickets once arguments are queued, but a full socket may delay the arguments.
            for frame in self.channel.receive():
                self._take_frame(frame)
        entry = self.arguments.pop(ticket)
        argument, references = self._argument(entry)
        function, extra_env, shown = self.batches[ticket >> TICKET_SHIFT]
        if shown:
            self.output.begin(shown=True)
        # Such a call cannot have changed, printed or left anything. Most short calls are like this.
        nothing_to_mend = function.is_inert and _is_plain(entry) and not (shown or extra_env)
        try:
            result = self.runner.run(function.load, argument, references, extra_env, mend=not nothing_to_mend)
        except BaseException as error:  # noqa: BLE001 -- sys.exit() and the like end this process, as anywhere
            if _getpid() != self.pid:
                _exit(0)
            end_process(error, self.output)
        if _getpid() != self.pid:
            _exit(0)  # the user's function forked, and this is the second process to return
        if nothing_to_mend:
            self.has_run = True
            send_result(self.channel, ticket, result, _NO_OUTPUT, "")
            return self._compute(ticket >> TICKET_SHIFT, function)
        self._end_call(ticket, result)
        return None

    def _compute(self, batch: int, loaded: LoadedFunction) -> int | None:
        """Run the calls that follow at once, as long as they are of this batch and can only compute.

        The call before has changed nothing, and none of these does. So nothing is prepared or mended for them. Results
        are sent together. Each is on the page before the next call begins, and from then on the parent can read it.

        Returns:
            The ticket of a call of another kind; ``None`` if no other has been taken.
        """
        function, arguments, compute, channel = loaded.load(), self.arguments, self.runner.compute, self.channel
        add, age = self.page.add, 0.0
        while (ticket := self._next_ticket()) is not None:
            if ticket >> TICKET_SHIFT != batch or ticket not in arguments or not _is_plain(arguments[ticket]):
                break
            entry = arguments.pop(ticket)
            try:
                data, seconds, result = compute(function, entry)
            except BaseException as error:  # noqa: BLE001 -- as in ``_run``
                end_process(error, self.output)
            if result is None and not add(ticket, seconds, data):
                self._send_page()
                add(ticket, seconds, data)  # an empty page has room for a result that ``compute`` calls small
            age += seconds + _OVERHEAD
            if result is not None or age >= pages.SECONDS:
                self._send_page()
                age = 0.0
            if result is not None:
                send_result(channel, ticket, result, _NO_OUTPUT, "")
        self._send_page()
        return ticket

    def _send_page(self) -> None:
        """Send the results that are on the page, and begin a new one."""
        content = self.page.content()
        if content is not None:
            self.channel.send_now(frames.encode_page(*content))
            self.page.turn()

    def _end_call(self, ticket: int, result: RunResult) -> None:
        """Send a result, and prepare this process for the next call if it is fit to run one."""
        is_sound = self._is_sound(result) and not own_signals.is_marked()
        if not (result.begun or is_sound) and self.has_run:
            # An earlier call damaged the process: this call must run in another process.
            self.channel.send(frames.encode(frames.RESULT, flags=frames.NOT_BEGUN, number=ticket))
            _wait_to_be_killed()
        self.has_run = True
        left, tails, is_sound = what_is_left(self.output, self.runner.condition, is_sound=is_sound)
        send_result(self.channel, ticket, result, tails, left, 0 if is_sound else frames.SPENT)
        if left or not is_sound:
            # The result has been sent with the flag set: the parent kills this process and whatever the call left.
            _wait_to_be_killed()
        self.output.restore()
        self.runner.place.leave(self.output.streams)

    def _is_sound(self, result: RunResult) -> bool:
        error = result.exception[0] if result.exception is not None else None
        return self.runner.condition.is_sound_after(result.info["exec_time"], error, begun=result.begun)

    def _argument(self, entry: Any) -> tuple[Any, Sequence[bytes]]:
        """Return an argument as ``TaskRunner.run`` takes it, and the encoded outcomes that its references stand for."""
        if type(entry) is not tuple:
            return Packed(entry) if type(entry) is bytes else entry, ()
        where, referred = entry
        references = [one if isinstance(one, bytes) else self.arenas[one[0]].read(*one[1:]) for one in referred]
        if isinstance(where, list):
            return packed_from([where[0], *(bytearray(part) for part in where[1:])]), references
        arena, offset, sizes = where
        return packed_from(frames.read_segments(self.arenas[arena], sizes, offset)), references

    def _take_frame(self, frame: Frame) -> None:
        if frame.kind == frames.ARGUMENTS:
            terms, tickets, entries = _loads(frame.meta)
            if terms is not None:
                key, load_anew, extra_env, shown = terms
                function = self.functions[key]
                if load_anew:  # callsets share this key, and an earlier one may have changed the function's variables
                    function = self.functions[key] = function.unchanged()
                self.batches[frame.number] = (function, extra_env, shown)
            # Of several calls: their tickets follow in the pipe, or are taken back.
            self.arguments.update(zip(unpack_tickets(tickets), entries, strict=True))
        elif frame.kind == frames.FUNCTION:
            source = function_from(frame.segments(), frame.number)
            self.functions[frame.number] = LoadedFunction(source, self.runner, self.root)
        elif frame.kind == frames.ARENA and isinstance(frame.payload, UnlinkedFile):
            # The file object would close the low number. So the descriptor moves up, where a new object owns it.
            arena, frame.payload.descriptor = frame.payload.descriptor, -1
            self.arenas[frame.number] = UnlinkedFile(high_descriptor(arena))
        elif frame.kind == frames.MEMORY and isinstance(frame.payload, UnlinkedFile):
            self.page = pages.PageWriter(frame.payload)
        elif frame.kind == frames.SHOW:
            out, err = (high_descriptor(number) for number in frame.descriptors)
            self.output.show((out, err))
        elif frame.kind == frames.FORGET:
            self._forget(*_loads(frame.meta))

    def _forget(self, batches: Sequence[int], arenas: Sequence[int], functions: Sequence[int]) -> None:
        for batch in batches:
            self.batches.pop(batch, None)
        for arena in arenas:
            self.arenas.pop(arena, None)
        for function in functions:
            self.functions.pop(function, None)
        gone = set(batches)
        # A list first, because the dictionary must not change while it is read.
        for ticket in [ticket for ticket in self.arguments if ticket >> TICKET_SHIFT in gone]:
            del self.arguments[ticket]  # a cancelled call: its ticket was taken back after the argument had arrived


def _is_plain(entry: Any) -> bool:
    """Tell whether an argument is plain data: a number, a string, or a pickle that is read without running code."""
    if type(entry) is not bytes:
        return type(entry) is not tuple
    return not (_NAMES in entry or _FUTURE_MARK in entry or entry.endswith(NAMES_FOLLOW))


def _wait_to_be_killed() -> NoReturn:
    """Do nothing until the parent kills this process and its child processes."""
    while True:
        _pause()  # this returns after a signal that has a handler
