"""The parent's handle of one child process, and the fork server that runs a process for each call."""

from __future__ import annotations

import codecs
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from pywren.exceptions import ConfigError
from pywren.pickling.packed import Packed
from pywren.wire.failure import Failure
from pywren.worker import frames as _frames
from pywren.worker import process_tree
from pywren.worker.directories import private_directory, remove_directory
from pywren.worker.frames import Buffer, Channel, Frame, UnlinkedFile, high_descriptor
from pywren.worker.task import (
    Function,
    RunResult,
    Stop,
    Task,
    cancelled_failure,
    crash_failure,
    timeout_failure,
)

TAIL_LIMIT = 64 * 1024
"""Bytes of output that are kept of a call, the last ones."""

LONGEST_POLL = 86_400_000.0
"""Milliseconds to wait at once: ``poll`` takes no more than 24 days, and calls may have more."""

_READ_BYTES = 64 * 1024
_FORK_ATTEMPTS = 3
_FORK_PAUSE_SECONDS = 1.0
_END_SECONDS = 5.0
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
    "1",
)

# pywren itself, cloudpickle and tblib come from where the parent has them, without their directories, which are
# the user's, being on the path. The empty entry of the path is the client's working directory.
_BOOTSTRAP = """\
import sys
from importlib.machinery import PathFinder

class Homes:
    def find_spec(self, name, path=None, target=None):
        home = homes.get(name)
        return PathFinder.find_spec(name, [home]) if home else None

sys.path[:] = [entry for entry in sys.path if entry]
count = 2 * int(sys.argv[1]) + 2
homes = dict(zip(sys.argv[2:count:2], sys.argv[3:count:2]))
sys.meta_path.insert(0, Homes())
from pywren.worker.child.main import main
main(sys.argv[count:])
"""


def check_platform() -> None:
    """Raise an error where child processes cannot be run as pywren needs.

    Raises:
        ConfigError: this is neither Linux nor macOS.
    """
    if not hasattr(os, "posix_spawn") or not hasattr(socket, "AF_UNIX"):
        raise ConfigError(
            "the local executor needs Linux or macOS; on Windows use PyWren through Lambda "
            "(PYWREN_EXECUTOR=lambda with a config file), or run it inside WSL"
        )


class Process:
    """One child process: a fresh interpreter that runs ``worker/child/main.py``, in a session of its own.

    Args:
        mode: ``pool`` or ``fork``.
        executable: the Python interpreter; ``None`` for this one.
        output: files for descriptors 1 and 2; ``None`` for this process's own.
        environment: its environment variables; ``None`` for this process's own.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        mode: str,
        *,
        executable: str | None = None,
        output: tuple[UnlinkedFile, UnlinkedFile] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.output = output
        self.root = private_directory()
        self.returncode: int | None = None
        self.reaped = self._killed = False
        self.pidfd = -1
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        parent, child = _frames.socket_pair()
        lifeline, self.lifeline = _frames.pipe()
        self.tickets_in, self.tickets_out = _frames.pipe()
        parent.setblocking(False)
        self.channel = Channel(parent)
        theirs = [high_descriptor(child.detach()), high_descriptor(lifeline), high_descriptor(os.dup(self.tickets_in))]
        try:
            self.pid = _spawn(_command(mode, self.root, executable), self.root, theirs, output, environment)
        except BaseException:
            self._close_descriptors()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        os.set_blocking(self.tickets_in, False)
        self._watch_end()

    def _watch_end(self) -> None:
        """Have ``pidfd`` become readable when the process has ended."""
        if hasattr(os, "pidfd_open"):
            try:
                self.pidfd = _frames.above_standard(os.pidfd_open(self.pid))
                return
            except OSError:
                pass  # an old kernel, or a sandbox without it
        self.pidfd, ended = _frames.pipe()
        threading.Thread(target=self._wait, args=(ended,), name="pywren-wait", daemon=True).start()

    def _wait(self, ended: int) -> None:
        self._reap()
        os.close(ended)

    def send(self, frame: _frames.Outgoing) -> None:
        """Send a frame, whole; for threads that share the process."""
        with self._sending:
            _send_waiting(self.channel, frame)

    def kill(self) -> None:
        """Kill the process and all that it has started; its end is seen on ``pidfd``."""
        if self.reaped:
            return
        self._killed = process_tree.kill_descendants(self.pid)
        self._kill_group()

    def _kill_group(self) -> None:
        with self._lock:
            if not self.reaped:
                process_tree.kill_group(self.pid)

    def wait(self) -> int | None:
        """Wait for the end of the process, kill what is left of its group, and return its exit code."""
        self._reap()
        return self.returncode

    def _reap(self) -> None:
        try:
            if hasattr(os, "waitid"):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
                self._kill_group()  # its pid is taken until it is reaped, so the group is the right one
                with self._lock:
                    if not self.reaped:
                        self._take_status(os.waitpid(self.pid, 0)[1])
            else:
                self._take_status(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            self.reaped = True  # the user's program reaps every child, or has SIGCHLD ignored

    def _take_status(self, status: int) -> None:
        self.reaped = True
        self.returncode = os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Kill the process if it still runs, wait for its end, and give back all it took."""
        self.kill()
        self.end()
        self.remove_traces()

    def end(self) -> None:
        """Wait for the end of a process that was killed or has died, and give back its descriptors."""
        self.wait()
        self._close_descriptors()

    def remove_traces(self) -> None:
        """Remove what a process that has ended left: its private directory, and processes outside its group."""
        if not self._killed:
            process_tree.kill_marked(self.root)
        remove_directory(self.root)

    def forget(self) -> None:
        """Close the descriptors of a process that belongs to the process this one was forked from."""
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self.channel.close()
        for name in ("lifeline", "tickets_in", "tickets_out", "pidfd"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)


def _command(mode: str, root: str, executable: str | None) -> list[str]:
    python = executable or sys.executable
    if not python:
        raise ConfigError("Python does not know its own executable (sys.executable is empty): set it, or use Lambda")
    homes = [part for item in _homes().items() for part in item]
    return [python, "-c", _BOOTSTRAP, str(len(homes) // 2), *homes, mode, root, *_clients_own_directories()]


def _homes() -> dict[str, str]:
    """Return the directories that pywren, cloudpickle and tblib are in."""
    homes: dict[str, str] = {}
    for name in ("pywren", "cloudpickle", "tblib"):
        loaded = sys.modules.get(name)
        if loaded is not None and loaded.__file__:
            homes[name] = os.path.dirname(os.path.dirname(os.path.abspath(loaded.__file__)))
            continue
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin:
            homes[name] = os.path.dirname(os.path.dirname(os.path.abspath(spec.origin)))
    return homes


def _clients_own_directories() -> list[str]:
    """Return the directories that are on the client's path only because it was started there."""
    own = []
    try:
        own.append(os.getcwd())
    except FileNotFoundError:
        pass  # it was removed
    script = getattr(sys.modules.get("__main__"), "__dict__", {}).get("__file__")  # a worker's own would be written
    if script:
        own.append(os.path.dirname(os.path.abspath(script)))
    return own


def _spawn(
    command: list[str],
    root: str,
    theirs: Sequence[int],
    output: tuple[UnlinkedFile, UnlinkedFile] | None,
    environment: Mapping[str, str] | None,
) -> int:
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    ]
    if output is None:
        # Where this process has no output, what the child opens next must not take its place.
        for target in filter(_is_closed, (1, 2)):
            actions.append((os.POSIX_SPAWN_OPEN, target, os.devnull, os.O_WRONLY, 0))
    for target, file in enumerate(output or (), 1):
        actions.append((os.POSIX_SPAWN_DUP2, file.descriptor, target))
    for target, descriptor in enumerate(theirs, 3):
        actions.append((os.POSIX_SPAWN_DUP2, descriptor, target))
    variables = {**_ONE_THREAD, **(os.environ if environment is None else environment)}
    process_tree.mark(variables, root)
    defaults = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT]
    # The child leaves this session itself: not every platform lets posix_spawn do it.
    return os.posix_spawn(command[0], command, variables, file_actions=actions, setsigmask=[], setsigdef=defaults)


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


# -- what a child says ---------------------------------------------------------------------------------------------


def run_result(frame: Frame, stdout: str = "", stderr: str = "") -> RunResult:
    """Turn a result frame into a result."""
    info: dict[str, Any] = {"setup_time": frame.first, "exec_time": frame.second}
    if frame.flags & ~(_frames.STAYS | _frames.SPENT) == _frames.SUCCESS and not frame.meta:  # most of them
        return RunResult(True, Packed(frame.payload), info=info, stdout=stdout, stderr=stderr)  # type: ignore[arg-type]
    notes = _notes(frame.meta)
    if notes.get("leftovers"):
        info["leftovers"] = notes["leftovers"]
    exception = tuple(notes["exception"]) if notes.get("exception") else None
    stdout, stderr = stdout or notes.get("stdout", ""), stderr or notes.get("stderr", "")
    if not frame.flags & (_frames.SUCCESS | _frames.RAISED):
        kind, message, trace = exception or ("ResultSerializationError", "the result could not be brought back", "")
        failure = Failure(kind, f"{message}\n{trace}".rstrip())
        return RunResult(None, None, failure=failure, stdout=stdout, stderr=stderr, info=info)
    segments = frame.segments()
    buffers = tuple(_pickle_buffer(segment) for segment in segments[1:])
    body = Packed(segments[0], buffers)  # type: ignore[arg-type]  # the first one is always bytes
    success = bool(frame.flags & _frames.SUCCESS)
    return RunResult(success, body, exception, stdout=stdout, stderr=stderr, info=info)


def _pickle_buffer(segment: Buffer) -> Any:
    from pickle import PickleBuffer

    return PickleBuffer(segment)


def _notes(meta: bytes) -> dict[str, Any]:
    if not meta:
        return {}
    import json

    notes: dict[str, Any] = json.loads(meta)
    return notes


_NOTHING_BESIDE = pickle.dumps(({}, "", None), 5)  # no modules, no digest, no runtime


def function_segments(function: Function) -> list[Buffer]:
    """Return what a child needs of a function: modules, digest and runtime, then the pickle with its buffers."""
    if not function.modules and function.runtime_path is None:
        return [_NOTHING_BESIDE, *packed_segments(function.pickle)]
    from pywren.worker.child.runner import modules_digest

    modules = dict(function.modules)
    head = pickle.dumps((modules, modules_digest(modules), function.runtime_path), 5)
    return [head, *packed_segments(function.pickle)]


def packed_segments(packed: Packed) -> list[Buffer]:
    """Return a pickle and its buffers as plain memory."""
    return [packed.data, *(buffer.raw() for buffer in packed.buffers)]


def write_through(stream: str, text: str) -> None:
    """Write what a call printed to this process's own stream of that name."""
    target = getattr(sys, stream)
    if target is None:
        return
    try:
        target.write(text)
        target.flush()
    except (OSError, ValueError):
        pass  # a closed stream of the client's must not lose the call's result


class OutputTail:
    """Passes one stream of a call on as it comes, and keeps its last bytes.

    Args:
        descriptor: the read end of a pipe; owned by this object.
        name: ``stdout`` or ``stderr``.
        sink: called with the name and each piece of text.
    """

    def __init__(self, descriptor: int, name: str, sink: Callable[[str, str], None]) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.name = name
        self._sink = sink
        self._tail = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def pump(self) -> bool:
        """Pass on what is there; returns False at the end of the stream."""
        while True:
            try:
                data = os.read(self.descriptor, _READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tail += data
            del self._tail[:-TAIL_LIMIT]
            if text := self._decoder.decode(data):
                self._sink(self.name, text)

    def take(self) -> str:
        """Return the last of what came since the last time."""
        self.pump()
        text = self._tail.decode("utf-8", "replace")
        self._tail.clear()
        return text

    def close(self) -> None:
        """Close the pipe."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


# -- the fork server -----------------------------------------------------------------------------------------------


class ForkServer:
    """Runs each function in processes of its own, forked from a small server that has cloudpickle loaded.

    A process that a call has left as it was waits for the next call of the same function with the same environment:
    what the function has imported is there then. It ends as soon as another function comes. Several threads may run
    tasks at once, each in another process. The server starts with the first task, or with ``start``.

    Args:
        on_output: called with ``stdout`` or ``stderr`` and text, as calls write it; by default it is written to
            this process's own streams.

    Raises:
        ConfigError: this is neither Linux nor macOS.
    """

    def __init__(self, on_output: Callable[[str, str], None] = write_through) -> None:
        check_platform()
        self._on_output = on_output
        self._lock = threading.Lock()
        self._servers: dict[str | None, Process] = {}
        self._waiting: list[_Forked] = []
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
        """Run one task to its end and say how it ended; never raises for what the task does.

        A task that comes after ``close`` ends with a ``CallCancelledError``.

        Args:
            task: the task.
            stopped: asks for the task to be killed; it then ends with a ``CallCancelledError``.

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
                continue  # an earlier call has spoilt the process
            # Either the server is just ending, or the machine is short of processes: then the wait is the pause.
            _wait_readable(process.server.pidfd, _FORK_PAUSE_SECONDS)
        message = "no process could be forked for the call: the machine is short of processes or memory"
        return RunResult(None, None, failure=Failure("WorkerCrashedError", message, (None,)), returncode=None)

    def _process(self, python: str | None, task: Task) -> _Forked | None:
        """Return a process that waits for calls of this function, or a new one; end those for other functions.

        There is none after ``close``.
        """
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
            self._processes += 1
            made = _Forked(server, self._processes, purpose, self._on_output)
            try:
                made.start()
            except BaseException:
                made.close()
                raise
            return made

    def end_waiting(self) -> None:
        """End the processes that wait for calls: somebody needs the memory and the files that they hold."""
        self._end_waiting(lambda _: True)

    def _end_waiting(self, is_unwanted: Callable[[_Forked], bool]) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._forget()
            ending = [one for one in self._waiting if is_unwanted(one)]
            self._waiting = [one for one in self._waiting if one not in ending]
        for one in ending:
            one.end()

    def _take_back(self, process: _Forked) -> None:
        with self._lock:
            kept = process.stays and not self._closed and self._pid == os.getpid()
            if kept:
                self._waiting.append(process)
        if not kept:
            process.close()

    def _server(self, python: str | None) -> Process:
        if self._pid != os.getpid():
            self._forget()
        server = self._servers.get(python)
        if server is not None and not _has_ended(server):
            return server
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
        """After a fork the servers are the other process's."""
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
            self._closed = True
            waiting, servers = self._waiting, list(self._servers.values())
            self._waiting = []
            self._servers.clear()
        for one in waiting:
            one.close()
        for server in servers:
            # The end of the channel tells the server to kill what it forked.
            try:
                server.channel.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has ended
            if _wait_readable(server.pidfd, 5.0):
                server.wait()
            server.close()


def _runtime_python(runtime_path: str | None) -> str | None:
    if runtime_path is None:
        return None
    python = os.path.join(runtime_path, "condaruntime", "bin", "python")
    return python if os.path.exists(python) else None


def _is_there(python: str | None) -> bool:
    """Tell whether an interpreter has not been removed together with its runtime."""
    return python is None or os.path.exists(python)


def _has_ended(process: Process) -> bool:
    return process.reaped or _wait_readable(process.pidfd, 0.0)


def _wait_readable(descriptor: int, seconds: float) -> bool:
    if descriptor < 0:
        return True  # it was closed, by another thread: the process has ended
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class _Forked:
    """One forked process: its socket, its output, and the pipe on which the server tells how it ended.

    Args:
        server: what forks it.
        number: what the server knows it by.
        purpose: what it is for: interpreter, function and environment.
        sink: takes what it prints.
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
        ours, theirs = _frames.socket_pair()
        ours.setblocking(False)
        self.channel = Channel(ours)
        self._theirs = [theirs.detach()]
        tails = []
        for name in ("stdout", "stderr"):
            read, write = _frames.pipe()
            self._theirs.append(write)
            tails.append(OutputTail(read, name, sink))
        self.tails = tails
        self.status, write = _frames.pipe()
        self._theirs.append(write)
        self.stop_in, self.stop_out = _frames.pipe()

    def start(self) -> None:
        """Ask the server to fork."""
        meta = os.fsencode(self.scratch)
        frame = _frames.encode(_frames.FORK, number=self.number, meta=meta, descriptors=self._theirs)
        self.server.send(frame)
        for descriptor in self._theirs:
            os.close(descriptor)
        self._theirs.clear()

    def run(self, task: Task, stopped: Stop | None) -> RunResult | None:
        """Send the task, and wait for its end; ``None`` when it never began: there was no process, or a spoilt one."""
        self._send(task)
        if stopped is not None:
            stopped.listen(self._ask_to_stop)
        try:
            self._wait(task.timeout)
        finally:
            if stopped is not None:
                stopped.listen(None)
        self._receive()
        self.stays = self._said_it_stays() and not self.ended and not _wait_readable(self.stop_in, 0.0)
        stdout, stderr = (tail.take() for tail in self.tails)
        frame, self.frame = self.frame, None  # it may be big, and this process may wait for long
        if frame is not None and frame.flags & _frames.NOT_BEGUN:
            return None
        if frame is not None:
            return run_result(frame, stdout, stderr)
        if self.pid is None and self.failure is None:
            return None
        failure = self.failure or crash_failure(self.returncode, stdout, stderr)
        return RunResult(None, None, failure=failure, returncode=self.returncode, stdout=stdout, stderr=stderr)

    def _send(self, task: Task) -> None:
        self.stays, self.frame = False, None
        _send_waiting(self.channel, _task_frame(task, with_function=not self._knows_function))
        self._knows_function = True

    def _ask_to_stop(self) -> None:
        os.write(self.stop_out, b"s")

    def can_run(self) -> bool:
        """Tell whether the process waits for another call: something may have killed it since."""
        ended = _has_ended(self.server) or any(_wait_readable(end, 0.0) for end in (self.status, self.channel.fileno()))
        return not ended

    def _said_it_stays(self) -> bool:
        return self.frame is not None and bool(self.frame.flags & _frames.STAYS) and not self.killed

    def _wait(self, timeout: float | None) -> None:
        """Serve output and socket until the call has ended, mostly with its process; kill it when its time is over."""
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
                if not actions[descriptor]():
                    poll.unregister(descriptor)

    def _stop(self) -> bool:
        self._give_up(cancelled_failure(running=True))
        return False

    def _give_up(self, failure: Failure) -> None:
        self._receive()
        if self.frame is None and self.failure is None:
            self.failure = failure
        self._kill()

    def _kill(self) -> None:
        self.killed = True
        if not _has_ended(self.server):
            self.server.send(_frames.encode(_frames.KILL, number=self.number))
        elif self.pid is not None:
            process_tree.kill_tree(self.pid)

    def _receive(self) -> bool:
        """Take the result if it is there; returns False at the end of the socket."""
        while True:
            try:
                frames = self.channel.receive()
            except BlockingIOError:
                return True
            except EOFError:
                return False
            for frame in frames:
                if self.frame is None and frame.kind == _frames.RESULT:
                    self.frame = frame

    def _read_status(self) -> bool:
        from pywren.worker.child.main import RUNNING, STATUS

        data = os.read(self.status, STATUS.size)  # a pipe gives whole what was written whole
        if not data:  # the server could not fork, or is gone
            self.ended = True
            if self.pid is not None:
                process_tree.kill_tree(self.pid)
            return False
        self.pid, returncode = STATUS.unpack(data)
        if returncode != RUNNING:
            self.returncode, self.ended = returncode, True
        return True

    def end(self) -> None:
        """End a process that waits for a call, and do not return before it is gone."""
        try:
            self._kill()
            while not self.ended and _wait_readable(self.status, _END_SECONDS):
                self._read_status()
        finally:
            self.close()

    def close(self) -> None:
        """Have the process killed if it runs, close all descriptors, and remove the scratch directory."""
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


def _task_frame(task: Task, *, with_function: bool) -> _frames.Outgoing:
    function = function_segments(task.function) if with_function else []
    head = pickle.dumps((len(function), list(task.references), dict(task.extra_env)), 5)
    return _frames.encode(_frames.TASK, segments=[head, *function, *packed_segments(task.data)])


def _send_waiting(channel: Channel, frame: _frames.Outgoing) -> None:
    """Send a frame on a channel that does not block, waiting until all of it is sent."""
    channel.send(frame)
    if channel.flush():
        return
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLOUT)
    while not channel.flush():
        poll.poll()
