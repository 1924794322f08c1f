"""``ForkedChild``: one process that a fork server forked: its socket, its output, and the pipe with its status.

One thread at a time uses a ``ForkedChild``: the thread that runs a task in it, or, while it waits for a call, the
thread that ends it. Only ``Stop`` may act from another thread, through a pipe.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from pywren.wire.failure import Failure
from pywren.worker import frames, own_signals, process_tree
from pywren.worker.descriptors import LONGEST_POLL, pipe, socket_pair, wait_readable
from pywren.worker.directories import remove_directory
from pywren.worker.frames import Channel, Frame
from pywren.worker.parent.output import OutputTail, Sink
from pywren.worker.parent.process import Process
from pywren.worker.protocol import RUNNING, STATUS, decode_result, encode_task
from pywren.worker.task import RunResult, Stop, Task, cancelled_failure, crash_failure, timeout_failure

_END_SECONDS = 5.0  # seconds to wait for a killed process to end


class ForkedChild:
    """One forked process: its socket, its output, and the pipe on which the server reports how it ended.

    Args:
        server: the server that forks the process.
        number: the number by which the server knows the process.
        purpose: interpreter, function and environment; a process serves one purpose only.
        sink: called with the text that calls write.

    Attributes:
        stays: after ``run``, whether the process waits for another call.
        pid: the process id; ``None`` until the process runs.
        function_id: the id of the function whose call it ran last; ``None`` before the first call. The ids differ
            between callsets that share the process.
    """

    def __init__(self, server: Process, number: int, purpose: tuple[object, ...], sink: Sink) -> None:
        self.server = server
        self.number = number
        self.purpose = purpose
        self.scratch = os.path.join(server.root, f"call-{number}")
        self.stays = False
        self.pid: int | None = None
        self.returncode: int | None = None
        self.ended = False
        self.killed = False
        self.frame: Frame | None = None
        self.failure: Failure | None = None
        self.function_id: str | bytes | None = None
        ours, theirs = socket_pair()
        # Only this end: the flag belongs to each end of a socket pair, and the child's end must block.
        ours.setblocking(False)
        self.channel = Channel(ours)
        # In the order in which the server unpacks them: socket, stdout, stderr, status pipe.
        self._theirs = [theirs.detach()]
        tails = []
        for name in ("stdout", "stderr"):
            read, write = pipe()
            self._theirs.append(write)
            tails.append(OutputTail(read, name, sink))
        self.tails = tails
        self.status, write = pipe()
        self._theirs.append(write)
        self.stop_in, self.stop_out = pipe()  # this process uses both ends: ``Stop`` writes, the running thread polls

    def start(self) -> None:
        """Request a fork from the server."""
        meta = os.fsencode(self.scratch)
        frame = frames.encode(frames.FORK, number=self.number, meta=meta, descriptors=self._theirs)
        # The channel to the server is shared by all running threads. ``Process.send`` keeps their frames apart.
        self.server.send(frame)
        # The kernel keeps copies of the descriptors in the socket until the server takes them. Close the ones here,
        # because the reader of a pipe sees its end only when every write end is closed.
        for descriptor in self._theirs:
            os.close(descriptor)
        self._theirs.clear()

    def run(self, task: Task, stopped: Stop | None) -> RunResult | None:
        """Run a task, and return how it ended; ``None`` if the task never began, because there was no sound process."""
        # Send first: ``send_whole`` waits until the child has read a big task. A stop that comes meanwhile is not lost,
        # because ``listen`` calls the listener at once if the stop was requested already.
        self._send(task)
        if stopped is not None:
            stopped.listen(self._ask_to_stop)
        try:
            self._wait(task.timeout)
        finally:
            if stopped is not None:
                # After this no ``Stop`` writes to the pipe: ``listen`` waits for a listener that is running. So
                # ``close`` may close it.
                stopped.listen(None)
        self._receive()  # the end of the process may have been seen before its result was read
        # A stop may have been written after the last ``poll``. Its byte would kill the next call, so such a child does
        # not stay.
        self.stays = self._said_it_stays() and not self.ended and not wait_readable(self.stop_in, 0.0)
        stdout, stderr = (tail.take() for tail in self.tails)
        frame, self.frame = self.frame, None  # the frame may be big, and this object may be kept for a long time
        if frame is not None and frame.flags & frames.NOT_BEGUN:
            return None
        if frame is not None:
            return decode_result(frame, stdout, stderr)
        # The status pipe ended before the child wrote its pid, so none of the user's code has run and another attempt
        # is safe.
        if self.pid is None and self.failure is None:
            return None
        by_itself = own_signals.take_mark(self.server.root, self.pid)
        failure = self.failure or crash_failure(self.returncode, stdout, stderr, by_itself=by_itself)
        return RunResult(None, None, failure=failure, returncode=self.returncode, stdout=stdout, stderr=stderr)

    def _send(self, task: Task) -> None:
        self.stays, self.frame = False, None
        known, self.function_id = self.function_id, task.function.id
        is_other = known is not None and known != task.function.id
        self.channel.send_whole(encode_task(task, with_function=known is None, load_anew=is_other))

    def _ask_to_stop(self) -> None:
        """Ask the thread that runs the task to kill the child. Other threads call this."""
        # At most one byte is ever written (``Stop`` calls its listener once), so this cannot block on a full pipe.
        os.write(self.stop_out, b"s")

    def can_run(self) -> bool:
        """Tell whether the process still waits for a call. It may have been killed since its last call."""
        # A waiting child says nothing. So if its socket is readable, the other end is closed; and if its status pipe is
        # readable, the server has reported its end or has died.
        ended = self.server.has_ended() or any(wait_readable(end, 0.0) for end in (self.status, self.channel.fileno()))
        return not ended

    def _said_it_stays(self) -> bool:
        return self.frame is not None and bool(self.frame.flags & frames.STAYS) and not self.killed

    def _wait(self, timeout: float | None) -> None:
        """Read output and result until the call has ended, usually with its process. At the time limit, kill it."""
        deadline = None if timeout is None else time.monotonic() + timeout
        actions: dict[int, Callable[[], bool]] = {
            self.channel.fileno(): self._receive,
            self.status: self._read_status,
            self.stop_in: self._stop,
            **{tail.descriptor: tail.pump for tail in self.tails},
        }
        poll = select.poll()
        for descriptor in actions:
            poll.register(descriptor, select.POLLIN)
        while not self.ended and not self._said_it_stays():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            # ``poll`` counts whole milliseconds. The added one makes sure that the deadline has passed when it returns.
            ready = poll.poll(None if left is None else min(left * 1000 + 1, LONGEST_POLL))
            if deadline is not None and time.monotonic() >= deadline:
                # From now on there is no limit: the status pipe reports the end of the killed child, or ends with the
                # server.
                deadline = None
                self._give_up(timeout_failure(timeout or 0.0))
            for descriptor, _ in ready:
                # An action returns False at the end of its stream, which would otherwise stay readable for ever.
                if not actions[descriptor]():
                    poll.unregister(descriptor)

    def _stop(self) -> bool:
        self._give_up(cancelled_failure(running=True))
        return False

    def _give_up(self, failure: Failure) -> None:
        """Kill the child. The call ends with the given failure, unless its result has already arrived."""
        self._receive()
        if self.frame is None and self.failure is None:  # a result that arrived first is kept
            self.failure = failure
        self._kill()

    def _kill(self) -> None:
        self.killed = True
        # The server kills the child because only the server reaps it, and so knows that the process id is still the
        # child's.
        if not self.server.has_ended():
            self.server.send(frames.encode(frames.KILL, number=self.number))
        elif self.pid is not None:
            # An orphan is reaped by init or by a subreaper above this process, so in theory its id may belong to
            # another process by now. Without the server nobody keeps the id from being reused.
            process_tree.kill_tree(self.pid)  # nothing else would kill it: the server was the child's parent

    def _receive(self) -> bool:
        """Read the result if it has arrived. Return False if the other end of the socket is closed."""
        while True:
            try:
                received = self.channel.receive()
            except BlockingIOError:
                return True
            except EOFError:
                return False
            for frame in received:
                if self.frame is None and frame.kind == frames.RESULT:
                    self.frame = frame

    def _read_status(self) -> bool:
        """Read the status pipe. Return False at the end of the pipe."""
        data = os.read(self.status, STATUS.size)  # writes to a pipe of up to PIPE_BUF bytes are atomic
        if not data:  # the server could not fork, or is gone, so there will be no report of how the child ended
            self.ended = True
            if self.pid is not None:
                process_tree.kill_tree(self.pid)
            return False
        # A status arrives twice: from the child when it begins, and from the server when the child and its daemons have
        # ended.
        self.pid, returncode = STATUS.unpack(data)
        if returncode != RUNNING:
            self.returncode, self.ended = returncode, True
        return True

    def end(self) -> None:
        """End a process that waits for a call, and return when it has ended."""
        try:
            self._kill()
            # Wait for the report, so that memory and files are free when the next child is forked. A process that is
            # stuck in the kernel (state D in proc(5)) cannot be killed, so the wait has a limit.
            while not self.ended and wait_readable(self.status, _END_SECONDS):
                self._read_status()
        finally:
            self.close()

    def close(self) -> None:
        """Kill the process if it is running, close all descriptors, and remove the scratch directory."""
        if not self.ended:
            self._kill()
        self.forget()
        # The child may still run for a moment here if it was only now killed. What it writes afterwards is removed with
        # the server's directory.
        remove_directory(self.scratch)

    def forget(self) -> None:
        """Close all descriptors."""
        self.channel.close()
        for tail in self.tails:
            tail.close()
        for descriptor in (self.status, self.stop_in, self.stop_out, *self._theirs):
            os.close(descriptor)
