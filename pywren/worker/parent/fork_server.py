"""``ForkServer``: runs tasks in processes that a small server forks, one for each function and environment.

Which thread does what:

- The thread that calls ``run`` does everything for its task: it requests a fork from the server, sends the task, passes
  output on, waits, and decodes the result. Several threads may run tasks at the same time, each with its own
  ``ForkedChild``.
- Another thread may request the end of a task (``Stop``). It only writes a byte to the child's stop pipe. The thread in
  ``run``, which also waits for that pipe, kills the child. So only one thread touches a ``ForkedChild``.
- ``close`` and ``end_waiting`` end children that wait for a call. No other thread uses these children.

``_lock`` guards the lists of servers and of waiting children. No process is started or ended while it is held.
``_starting`` names the interpreters whose servers are starting: one thread starts the server, and other threads that
need the same server wait on ``_started``. The thread that starts a server closes it again if ``close`` was called
meanwhile.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from pywren.exceptions import ConfigError
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker.descriptors import wait_readable
from pywren.worker.parent.forked_child import ForkedChild
from pywren.worker.parent.output import Sink, write_through
from pywren.worker.parent.process import Process, check_platform
from pywren.worker.task import Function, RunResult, Stop, Task, cancelled_failure

# Tries, and the pause between them, when a fork fails with EAGAIN or ENOMEM (fork(2)): limits on processes and memory
# often ease within seconds, and the caller's thread is blocked meanwhile.
_FORK_ATTEMPTS = 3
_FORK_PAUSE_SECONDS = 1.0
_END_SECONDS = 5.0  # seconds to wait for a server to end


class ForkServer:
    """Runs each function in its own processes, forked from a small server that has loaded cloudpickle.

    A process that a call has left unchanged waits for the next call of the same function with the same environment. The
    function's imports are loaded there already. If that call is of another callset (``Function.shared_as``), the
    function is loaded anew. The process ends as soon as a call of another function arrives. Several
    threads may run tasks at the same time, each in its own process. The server starts with the first task, or with
    ``start``. Each runtime that has its own interpreter has its own server.

    Args:
        on_output: called with ``stdout`` or ``stderr`` and text, as calls write it; by default the text goes to this
            process's own streams.

    Raises:
        ConfigError: this is neither Linux nor macOS.
    """

    def __init__(self, on_output: Sink = write_through) -> None:
        check_platform()
        self._on_output = on_output
        self._lock = threading.Lock()
        self._started = threading.Condition(self._lock)
        self._starting: set[str | None] = set()
        self._servers: dict[str | None, Process] = {}
        self._waiting: list[ForkedChild] = []
        # Compared before the lists are used: a fork of the client inherits this object, but neither its threads nor its
        # children.
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
        """Start the server for functions without their own runtime, so that it is already running at the first task."""
        self._server(None)

    def run(self, task: Task, *, stopped: Stop | None = None) -> RunResult:
        """Run one task to its end, and return how it ended. Nothing that the task does makes this method raise.

        After ``close``, a task ends with a ``CallCancelledError``.

        Args:
            task: the task.
            stopped: kills the task when it is set; the task then ends with a ``CallCancelledError``.

        Raises:
            OSError: no process can be started.
            ConfigError: the runtime's interpreter cannot be started.
        """
        python = _runtime_python(task.function.runtime_path)
        for attempt in range(_FORK_ATTEMPTS):
            # From here to ``_take_back`` the child is in no list, so only this thread can find it. After the first
            # attempt it is a new one: several processes may have waited that cannot begin this call.
            process = self._process(python, task, is_new=attempt > 0)
            if process is None:
                return RunResult(None, None, failure=cancelled_failure(running=False), returncode=None)
            try:
                result = process.run(task, stopped)
            finally:
                self._take_back(process)
            if result is not None:
                return result
            # ``None`` from ``run`` with a pid: the child said NOT_BEGUN and has ended. The next attempt forks another
            # at once.
            if process.pid is not None:
                continue  # an earlier call has damaged the process
            # Either the server is just ending, or the machine cannot start more processes and needs this pause.
            wait_readable(process.server.pidfd, _FORK_PAUSE_SECONDS)
        message = "no process could be forked for the call: the machine has run out of processes or memory"
        failure = Failure("WorkerCrashedError", message, (None,), Cause.WORKER_FAILED)
        return RunResult(None, None, failure=failure, returncode=None)

    def _process(self, python: str | None, task: Task, *, is_new: bool) -> ForkedChild | None:
        """Return a process that waits for calls of this function, or a new one; end those for other functions.

        Return ``None`` after ``close``.
        """
        # The environment is part of the purpose: a forked child sets it once, before any of the user's code runs.
        purpose = python, _shared_as(task.function), dict(task.extra_env)
        # Children for other functions end before a new one is forked. On Lambda, all of them share the function's
        # memory.
        self._end_waiting(lambda one: one.purpose != purpose or not one.can_run())
        server = self._server(python)
        if server is None:
            return None
        with self._lock:
            # Search now, with the lock held: another thread may have taken the child since ``_end_waiting``. Whoever
            # removes a child from the list has it alone.
            fitting = [] if is_new else [one for one in self._waiting if one.purpose == purpose]
            if fitting:
                # Rather one that has run calls of this callset, and need not load the function anew.
                one = min(fitting, key=lambda one: one.function_id != task.function.id)
                self._waiting.remove(one)
                return one
            self._processes += 1  # a number is never used twice: the server may still know an earlier process
            number = self._processes
        # If ``close`` is called meanwhile, the child never begins, and ``run`` calls this method again.
        made = ForkedChild(server, number, purpose, self._on_output)
        try:
            # No lock is held: the frame may have to wait for room in the server's socket (``Channel.send_whole``).
            made.start()
        except BaseException:
            made.close()
            raise
        return made

    def end_waiting(self) -> None:
        """End the processes that wait for calls, to free their memory and their open files."""
        self._end_waiting(lambda _: True)

    def _end_waiting(self, is_unwanted: Callable[[ForkedChild], bool]) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._forget()
            ending = [one for one in self._waiting if is_unwanted(one)]
            self._waiting = [one for one in self._waiting if one not in ending]
        # Out of the list, these belong to this thread alone. Ending one waits for its process, so the lock is free
        # again.
        for one in ending:
            one.end()

    def _take_back(self, process: ForkedChild) -> None:
        """Keep a process if it stays for the next call; otherwise close it."""
        with self._lock:
            # While the task ran, ``close`` may have been called, or the client may have forked in an output callback.
            kept = process.stays and not self._closed and self._pid == os.getpid()
            if kept:
                self._waiting.append(process)
        if not kept:
            process.close()

    def _server(self, python: str | None) -> Process | None:
        """Return the running server of an interpreter, and start it if there is none; ``None`` after ``close``."""
        with self._lock:
            if self._pid != os.getpid():
                self._forget()
            while python in self._starting:
                # The wait lets go of the lock. After it everything is read anew: the start may have failed, or
                # ``close`` may have come.
                self._started.wait()
            if self._closed:
                return None
            server = self._servers.get(python)
            # A server may die at any time, for example by the kernel's out-of-memory killer. No thread waits for its
            # end, so look.
            if server is not None and not server.has_ended():
                return server
            # If a runtime was removed, so was its interpreter, whose server must not keep the files open.
            gone = [path for path in self._servers if path == python or not _is_there(path)]
            ended = [self._servers.pop(path) for path in gone]
            # From here on other threads that want this server wait, so ``_start_server`` must remove the name, whatever
            # happens.
            self._starting.add(python)
        return self._start_server(python, ended)

    def _start_server(self, python: str | None, ended: Sequence[Process]) -> Process | None:
        """Close servers that are no longer needed, and start one for an interpreter that is in ``_starting``."""
        made = None
        try:
            for one in ended:
                one.close()
            made = _new_server(python)
        finally:
            with self._lock:
                # ``_closed`` is read in the same step in which the server becomes findable. Either ``close`` finds it
                # in ``_servers``, or this thread sees ``_closed`` and ends it.
                closed = self._closed
                if made is not None and not closed:
                    self._servers[python] = made
                self._starting.discard(python)
                self._started.notify_all()  # also after a failure: then the next thread tries
        if closed:
            made.close()
            return None
        return made

    def _forget(self) -> None:
        """Drop the servers and children in a forked process: they belong to the original process."""
        for one in self._waiting:
            one.forget()
        for server in self._servers.values():
            server.forget()
        self._waiting.clear()
        self._servers.clear()
        self._starting.clear()  # the threads that start these servers are in the original process
        self._pid = os.getpid()

    def close(self) -> None:
        """End every child process."""
        with self._lock:
            if self._pid != os.getpid():
                self._forget()
            self._closed = True  # running tasks continue, and their own threads close the children
            # A server that is being started is in neither list: ``_start_server`` sees ``_closed``, and closes it.
            waiting, servers = self._waiting, list(self._servers.values())
            self._waiting = []
            self._servers.clear()
        for one in waiting:
            one.close()
        for server in servers:
            # The server sees that its channel is closed, kills the processes that it forked, and ends.
            try:
                server.channel.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the server has ended
            # The server kills whole trees, which takes up to a second for each. A server that hangs is killed by
            # ``close`` after this, and its children by their threads, which see the ends of their status pipes.
            if wait_readable(server.pidfd, _END_SECONDS):
                server.wait()
            server.close()


def _new_server(python: str | None) -> Process:
    try:
        return Process("fork", executable=python)
    except OSError as error:
        if python is None:
            raise
        raise ConfigError(f"the runtime's interpreter {python} cannot be started: {error}") from error


def _shared_as(function: Function) -> tuple[object, ...]:
    """Return what the functions have in common that may run in one process. Other functions never have the same."""
    return ("by id", function.id) if function.shared_as is None else ("shared", *function.shared_as)


def _runtime_python(runtime_path: str | None) -> str | None:
    if runtime_path is None:
        return None
    python = os.path.join(runtime_path, "condaruntime", "bin", "python")
    return python if os.path.exists(python) else None


def _is_there(python: str | None) -> bool:
    """Tell whether an interpreter still exists. A runtime may be removed while its server is running."""
    return python is None or os.path.exists(python)
