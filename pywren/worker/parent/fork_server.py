"""``ForkServer``: runs tasks in processes that a small server forks, one for each function and environment.

Who runs where:

- The thread that calls ``run`` does everything for its task: it asks the server for a fork, sends the task, passes
  output on, waits and decodes the result. Several threads may run tasks at once, each with a ``ForkedChild`` of its
  own.
- Another thread may ask for the end of a task (``Stop``). It only writes a byte into the child's stop pipe; the running
  thread, which waits for that pipe too, kills the child. So one thread alone touches a ``ForkedChild``.
- ``close`` and ``end_waiting`` end children that wait for a call, which no thread holds.

``_lock`` guards the lists of servers and of waiting children. It is held while a server or a child is started, so that
two threads do not start two servers; it is not held while a child ends, which may take seconds.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

from pywren.exceptions import ConfigError
from pywren.wire.failure import Failure
from pywren.worker import frames, process_tree
from pywren.worker.descriptors import LONGEST_POLL, pipe, socket_pair, wait_readable
from pywren.worker.directories import remove_directory
from pywren.worker.frames import Channel, Frame
from pywren.worker.parent.output import OutputTail, write_through
from pywren.worker.parent.process import Process, check_platform
from pywren.worker.protocol import RUNNING, STATUS, decode_result, encode_task
from pywren.worker.task import RunResult, Stop, Task, cancelled_failure, crash_failure, timeout_failure

_FORK_ATTEMPTS = 3
_FORK_PAUSE_SECONDS = 1.0
_END_SECONDS = 5.0  # for a server or a child that was killed, or told to end


class ForkServer:
    """Runs each function in processes of its own, forked from a small server that has cloudpickle loaded.

    A process that a call has left as it was waits for the next call of the same function with the same environment;
    what the function has imported is there already. It ends as soon as another function comes. Several threads may
    run tasks at once, each in a process of its own. The server starts with the first task, or with ``start``; each
    runtime with an interpreter of its own has another server.

    Args:
        on_output: called with ``stdout`` or ``stderr`` and text, as calls write it; by default the text goes to this
            process's own streams.

    Raises:
        ConfigError: this is neither Linux nor macOS.
    """

    def __init__(self, on_output: Callable[[str, str], None] = write_through) -> None:
        check_platform()
        self._on_output = on_output
        self._lock = threading.Lock()
        self._servers: dict[str | None, Process] = {}
        self._waiting: list[ForkedChild] = []
        self._pid = os.getpid()
        self._processes = 0
        self._closed = False

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the server for functions without a runtime of their own, so that the first task finds it running."""
        with self._lock:
            if not self._closed:
                self._server(None)

    def run(self, task: Task, *, stopped: Stop | None = None) -> RunResult:
        """Run one task to its end and return how it ended; never raise for what the task does.

        A task that comes after ``close`` ends with a ``CallCancelledError``.

        Args:
            task: the task.
            stopped: kills the task when it is set; the task then ends with a ``CallCancelledError``.

        Raises:
            OSError: no process can be started.
            ConfigError: the runtime's interpreter cannot be started.
        """
        python = _runtime_python(task.function.runtime_path)
        for _ in range(_FORK_ATTEMPTS):
            process = self._process(python, task)
            if process is None:
                return RunResult(None, None, failure=cancelled_failure(running=False), returncode=None)
            try:
                result = process.run(task, stopped)
            finally:
                self._take_back(process)
            if result is not None:
                return result
            if process.pid is not None:
                continue  # an earlier call has damaged the process
            # Either the server is just ending, or the machine is short of processes: then this wait is the pause.
            wait_readable(process.server.pidfd, _FORK_PAUSE_SECONDS)
        message = "no process could be forked for the call: the machine is short of processes or memory"
        return RunResult(None, None, failure=Failure("WorkerCrashedError", message, (None,)), returncode=None)

    def _process(self, python: str | None, task: Task) -> ForkedChild | None:
        """Return a process that waits for calls of this function, or a new one, and end those for other functions.

        ``None`` after ``close``.
        """
        # The environment is part of the purpose: a forked child sets it once, before it runs any code of the user's.
        purpose = python, task.function.id, dict(task.extra_env)
        self._end_waiting(lambda one: one.purpose != purpose or not one.can_run())
        with self._lock:
            if self._closed:
                return None
            server = self._server(python)
            for one in self._waiting:
                if one.purpose == purpose:
                    self._waiting.remove(one)
                    return one
            self._processes += 1  # never used twice: the server may still know an earlier one
            made = ForkedChild(server, self._processes, purpose, self._on_output)
            try:
                made.start()
            except BaseException:
                made.close()
                raise
            return made

    def end_waiting(self) -> None:
        """End the processes that wait for calls, to free the memory and the files that they hold."""
        self._end_waiting(lambda _: True)

    def _end_waiting(self, is_unwanted: Callable[[ForkedChild], bool]) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._forget()
            ending = [one for one in self._waiting if is_unwanted(one)]
            self._waiting = [one for one in self._waiting if one not in ending]
        for one in ending:
            one.end()

    def _take_back(self, process: ForkedChild) -> None:
        """Keep a process that stays for the next call; close any other."""
        with self._lock:
            # ``close`` may have come while the task ran, or the client forked within a callback of the output.
            kept = process.stays and not self._closed and self._pid == os.getpid()
            if kept:
                self._waiting.append(process)
        if not kept:
            process.close()

    def _server(self, python: str | None) -> Process:
        """Return the running server of an interpreter, or start one; with the lock held."""
        if self._pid != os.getpid():
            self._forget()
        server = self._servers.get(python)
        if server is not None and not server.has_ended():
            return server
        # A removed runtime takes its interpreter along; its server must not keep the files open.
        for gone in [path for path in self._servers if path == python or not _is_there(path)]:
            self._servers.pop(gone).close()
        try:
            server = self._servers[python] = Process("fork", executable=python)
        except OSError as error:
            if python is None:
                raise
            raise ConfigError(f"the runtime's interpreter {python} cannot be started: {error}") from error
        return server

    def _forget(self) -> None:
        """Let go of servers and children after a fork: they belong to the other process."""
        for one in self._waiting:
            one.forget()
        for server in self._servers.values():
            server.forget()
        self._waiting.clear()
        self._servers.clear()
        self._pid = os.getpid()

    def close(self) -> None:
        """End every child process."""
        with self._lock:
            if self._pid != os.getpid():
                self._forget()
            self._closed = True  # tasks that run go on: their threads close their children
            waiting, servers = self._waiting, list(self._servers.values())
            self._waiting = []
            self._servers.clear()
        for one in waiting:
            one.close()
        for server in servers:
            # The server reads the end of its channel, kills what it forked, and ends.
            try:
                server.channel.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has ended
            if wait_readable(server.pidfd, 5.0):
                server.wait()
            server.close()


def _runtime_python(runtime_path: str | None) -> str | None:
    if runtime_path is None:
        return None
    python = os.path.join(runtime_path, "condaruntime", "bin", "python")
    return python if os.path.exists(python) else None


def _is_there(python: str | None) -> bool:
    """Tell whether an interpreter still exists: a runtime may be removed while its server lives."""
    return python is None or os.path.exists(python)


class ForkedChild:
    """One forked process: its socket, its output, and the pipe on which the server tells how it ended.

    Args:
        server: the server that forks it.
        number: the server's name for it.
        purpose: interpreter, function and environment; a process serves one purpose only.
        sink: called with the name of a stream and text that calls write to it.

    Attributes:
        stays: whether it waits for another call, after ``run``.
        pid: its process id; ``None`` until it runs.
    """

    def __init__(
        self, server: Process, number: int, purpose: tuple[object, ...], sink: Callable[[str, str], None]
    ) -> None:
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
        self._knows_function = False
        ours, theirs = socket_pair()
        ours.setblocking(False)
        self.channel = Channel(ours)
        self._theirs = [theirs.detach()]
        tails = []
        for name in ("stdout", "stderr"):
            read, write = pipe()
            self._theirs.append(write)
            tails.append(OutputTail(read, name, sink))
        self.tails = tails
        self.status, write = pipe()
        self._theirs.append(write)
        self.stop_in, self.stop_out = pipe()

    def start(self) -> None:
        """Ask the server to fork."""
        meta = os.fsencode(self.scratch)
        frame = frames.encode(frames.FORK, number=self.number, meta=meta, descriptors=self._theirs)
        self.server.send(frame)
        # The kernel keeps copies in the socket until the server takes them. Ours must go: a pipe ends for its reader
        # when the last write end is closed.
        for descriptor in self._theirs:
            os.close(descriptor)
        self._theirs.clear()

    def run(self, task: Task, stopped: Stop | None) -> RunResult | None:
        """Run a task, and return how it ended; ``None`` if it never began, as no process was there or a damaged one."""
        self._send(task)
        if stopped is not None:
            stopped.listen(self._ask_to_stop)
        try:
            self._wait(task.timeout)
        finally:
            if stopped is not None:
                stopped.listen(None)
        self._receive()  # the end of the process may have been read before its result
        self.stays = self._said_it_stays() and not self.ended and not wait_readable(self.stop_in, 0.0)
        stdout, stderr = (tail.take() for tail in self.tails)
        frame, self.frame = self.frame, None  # it may be big, and this object may be kept for long
        if frame is not None and frame.flags & frames.NOT_BEGUN:
            return None
        if frame is not None:
            return decode_result(frame, stdout, stderr)
        if self.pid is None and self.failure is None:
            return None
        failure = self.failure or crash_failure(self.returncode, stdout, stderr)
        return RunResult(None, None, failure=failure, returncode=self.returncode, stdout=stdout, stderr=stderr)

    def _send(self, task: Task) -> None:
        self.stays, self.frame = False, None
        self.channel.send_whole(encode_task(task, with_function=not self._knows_function))
        self._knows_function = True

    def _ask_to_stop(self) -> None:
        """Have the running thread kill the child; called by another thread."""
        os.write(self.stop_out, b"s")

    def can_run(self) -> bool:
        """Tell whether the process still waits for a call: something may have killed it since the last one."""
        ended = self.server.has_ended() or any(wait_readable(end, 0.0) for end in (self.status, self.channel.fileno()))
        return not ended

    def _said_it_stays(self) -> bool:
        return self.frame is not None and bool(self.frame.flags & frames.STAYS) and not self.killed

    def _wait(self, timeout: float | None) -> None:
        """Serve output and socket until the call has ended, mostly with its process; kill it when its time is up."""
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
            ready = poll.poll(None if left is None else min(left * 1000 + 1, LONGEST_POLL))
            if deadline is not None and time.monotonic() >= deadline:
                deadline = None
                self._give_up(timeout_failure(timeout or 0.0))
            for descriptor, _ in ready:
                # An action returns False at the end of its stream, which would be readable for ever.
                if not actions[descriptor]():
                    poll.unregister(descriptor)

    def _stop(self) -> bool:
        self._give_up(cancelled_failure(running=True))
        return False

    def _give_up(self, failure: Failure) -> None:
        """Kill the child; the call ends with the failure, unless its result has come."""
        self._receive()
        if self.frame is None and self.failure is None:  # a result that came first stands
            self.failure = failure
        self._kill()

    def _kill(self) -> None:
        self.killed = True
        if not self.server.has_ended():
            self.server.send(frames.encode(frames.KILL, number=self.number))
        elif self.pid is not None:
            process_tree.kill_tree(self.pid)  # nobody else will: the server is the child's parent

    def _receive(self) -> bool:
        """Take the result if it has come; return False at the end of the socket."""
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
        """Take what stands on the status pipe; return False at its end."""
        data = os.read(self.status, STATUS.size)  # writes to a pipe of up to PIPE_BUF bytes are atomic
        if not data:  # the server could not fork, or is gone and nobody will tell how the child ended
            self.ended = True
            if self.pid is not None:
                process_tree.kill_tree(self.pid)
            return False
        self.pid, returncode = STATUS.unpack(data)
        if returncode != RUNNING:
            self.returncode, self.ended = returncode, True
        return True

    def end(self) -> None:
        """End a process that waits for a call, and return when it is gone."""
        try:
            self._kill()
            while not self.ended and wait_readable(self.status, _END_SECONDS):
                self._read_status()
        finally:
            self.close()

    def close(self) -> None:
        """Kill the process if it runs, close all descriptors, and remove the scratch directory."""
        if not self.ended:
            self._kill()
        self.forget()
        remove_directory(self.scratch)

    def forget(self) -> None:
        """Close all descriptors."""
        self.channel.close()
        for tail in self.tails:
            tail.close()
        for descriptor in (self.status, self.stop_in, self.stop_out, *self._theirs):
            os.close(descriptor)
