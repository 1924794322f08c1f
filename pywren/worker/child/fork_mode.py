"""Fork mode: a small server forks a process for each function and environment. That process runs calls one by one.

Three processes take part:

- The *parent* (``parent/fork_server``) requests a fork over the server's channel. With the request it passes four
  descriptors: the call's socket, stdout, stderr and status pipe.
- The *server*, ``ForkLoop``, runs none of the user's code. It has one thread, which waits in ``poll`` for the channel,
  the lifeline and SIGCHLD (a wake-up pipe); it forks, kills and reaps. It must have only one thread, because a fork
  copies only the forking thread: what other threads held would stay locked or half changed in the child.
- The *forked process* runs calls that it reads from its socket. Each result says whether the process will run more.

The server is a subreaper. Daemons that a call started outside its process group become the server's children when the
forked process ends. The server kills them before the parent learns from the status pipe that the call has ended.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from typing import NoReturn

from pywren.worker import frames, own_signals, process_tree
from pywren.worker.child.after_call import end_process, what_is_left
from pywren.worker.child.condition import Condition
from pywren.worker.child.leftovers import watch_threads
from pywren.worker.child.loaded_function import LoadedFunction
from pywren.worker.child.output import Output
from pywren.worker.child.place import watch_imports
from pywren.worker.child.runner import TaskRunner
from pywren.worker.descriptors import close_all_but, drain, high_descriptor
from pywren.worker.frames import Channel, Frame
from pywren.worker.protocol import RUNNING, STATUS, decode_task, send_result
from pywren.worker.task import Function, Task

# The user's function may replace any of these under its public name.
_exit, _getpid, _setpgid = os._exit, os.getpid, os.setpgid

_USUAL_MEGABYTES = 2048
_LIGHT_SHARE = 0.25  # fraction of the available memory


class _ForkedProcess:
    """One process that the server forked.

    Args:
        number: the number that the parent gave the process.
        pid: the process id, which is also the id of the process group.
        status: the write end of its status pipe.
    """

    def __init__(self, number: int, pid: int, status: int) -> None:
        self.number = number
        self.pid = pid
        self.status = status

    def kill(self) -> None:
        """Kill the process group of the forked process."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # the group no longer exists (macOS returns EPERM for a group of zombies)


class ForkLoop:
    """The server's only loop. The server loads cloudpickle and tblib before it forks, so every fork has them.

    Args:
        channel: the server's end of the channel to the parent; it blocks.
        lifeline: a pipe that closes when the parent ends.
        root: the private directory of the server and its forks.
    """

    def __init__(self, channel: Channel, lifeline: int, root: str) -> None:
        import cloudpickle  # noqa: F401
        import tblib.pickling_support  # noqa: F401

        from pywren.pickling import pickler  # noqa: F401

        # Before ``Condition``, which takes the present ``Thread.start`` for the right one.
        watch_threads(root)
        watch_imports()
        own_signals.watch(root)
        self.condition = Condition()
        gc.collect()
        gc.freeze()  # otherwise a collection in a fork would copy every page with an object of the server

        self.channel = channel
        self.lifeline = lifeline
        self.root = root
        self.forked: dict[int, _ForkedProcess] = {}
        self.pid = os.getpid()
        self._prctl = process_tree.load_prctl()
        process_tree.adopt_orphans(self._prctl)

    def serve(self) -> NoReturn:
        """Fork, reap and kill processes until the parent has ended."""
        wake_in, wake_out = os.pipe()
        wake_in, wake_out = high_descriptor(wake_in), high_descriptor(wake_out)
        os.set_blocking(wake_in, False)
        os.set_blocking(wake_out, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only a signal with a Python handler reaches the wake-up pipe
        # The signal itself does not end ``poll``: Python continues it after a handler (PEP 475). The byte in the pipe
        # does. If the pipe is full, it is readable anyway.
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        poll = select.poll()
        for number in (self.channel.fileno(), self.lifeline, wake_in):
            poll.register(number, select.POLLIN)
        self.channel.send(frames.encode(frames.READY))
        while True:
            ready = {number for number, _ in poll.poll()}
            if wake_in in ready:
                drain(wake_in)  # do this first: a child that ends during the reaping must wake this loop again
                self._reap()
            if self.lifeline in ready:
                self._end()
            if self.channel.fileno() in ready:
                self._obey()

    def _obey(self) -> None:
        try:
            received = self.channel.receive()
        except EOFError:
            self._end()
        for frame in received:
            if frame.kind == frames.FORK:
                self._fork(frame)
            elif frame.kind == frames.KILL:
                for forked in self.forked.values():
                    # A process that has been reaped is not in ``forked``, so this never meets a reused number. The
                    # parent learns of the end from the status pipe, whichever came first.
                    if forked.number == frame.number:
                        forked.kill()

    def _fork(self, frame: Frame) -> None:
        call, out, err, status = frame.descriptors
        try:
            # This fails at the limit of processes (EAGAIN) or for want of memory (ENOMEM); the parent tries again after
            # a pause.
            pid = os.fork()
        except OSError:
            for number in frame.descriptors:
                os.close(number)  # the parent then reads end of file from the status pipe, without a status
            return
        if pid == 0:
            self._become_call(frame)
        try:
            _setpgid(pid, pid)  # both processes do this, so that the group exists no matter which runs first
        except OSError:
            pass  # the child has ended already
        for number in (call, out, err):
            os.close(number)
        # This loop has one thread, so a child that has ended already is reaped in the next round, when it is in the
        # table.
        self.forked[pid] = _ForkedProcess(frame.number, pid, status)

    def _become_call(self, frame: Frame) -> NoReturn:
        call, out, err, status = frame.descriptors
        _setpgid(0, 0)
        own_signals.watch_fork()
        # Before any of the user's code runs, the parent must know which process to kill: that code may kill the server.
        _report(status, os.getpid(), RUNNING)
        # The wake-up pipe is shared with the server: a SIGCHLD of this process would wake the server.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=high_descriptor(call))
        close_all_but({0, 1, 2, sock.fileno()})  # closes the status pipe too: only the server reports the end
        # Where there is no subreaper (macOS), nothing shows whether the call has left a daemon, so the process runs one
        # call.
        may_stay = process_tree.adopt_orphans(self._prctl)
        scratch = os.fsdecode(frame.meta)
        _run_calls(Channel(sock), self.root, scratch, self.condition, may_stay=may_stay)

    def _reap(self) -> None:
        # All of them, because signals of one kind do not queue (signal(7)): one SIGCHLD may stand for several ends.
        for pid, forked in list(self.forked.items()):
            status = _reaped(forked)
            if status is None:
                continue
            del self.forked[pid]
            self._end_orphans()  # do this first: when the parent learns of the end, nothing of the call may remain
            _report(forked.status, pid, os.waitstatus_to_exitcode(status))
            os.close(forked.status)

    def _end_orphans(self) -> None:
        """Kill the orphans that this subreaper inherited. Finished calls left them outside their process groups."""
        while orphans := [pid for pid in process_tree.children_of(self.pid) if pid not in self.forked]:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
            for pid in orphans:
                # A killed process ends soon, but one in state D (proc(5)) would hold up the server here.
                os.waitpid(pid, 0)

    def _end(self) -> NoReturn:
        for pid in self.forked:
            # Each forked process is a subreaper of its own, so what its call has daemonized is below it. It is
            # unreaped, so the number is right.
            process_tree.kill_tree(pid)
        _exit(0)


def _reaped(forked: _ForkedProcess) -> int | None:
    """Reap a forked process that has ended, kill what it left, and return its status; ``None`` if it still runs."""
    if hasattr(os, "waitid"):
        if os.waitid(os.P_PID, forked.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        forked.kill()  # while the process is a zombie, no other process or group can have its number
    pid, status = os.waitpid(forked.pid, os.WNOHANG)
    return status if pid else None


def _report(descriptor: int, pid: int, returncode: int) -> None:
    """Write a process id and an exit code to a status pipe. Such a small write is atomic."""
    try:
        os.write(descriptor, STATUS.pack(pid, returncode))
    except OSError:
        pass  # the parent has closed its end


def _run_calls(channel: Channel, root: str, scratch: str, condition: Condition, *, may_stay: bool) -> NoReturn:
    """Run calls of one function, one after the other, until one leaves something behind.

    They may be calls of several callsets. Each callset gets the function as it was sent, not as calls of another have
    changed it.
    """
    output = Output(captured=False)
    task = _receive_task(channel, None)
    os.environ.update(task.extra_env)  # the same for all calls of this process; see the parent's ``ForkServer``
    runner = TaskRunner(root, scratch, condition)
    function = LoadedFunction(task.function, runner, root)
    pid = os.getpid()
    limits = _limits()
    has_run = is_shared = False
    while True:
        if task.function.load_anew:
            # Nothing of the user's runs here: the function is loaded by the call, and what that raises is its outcome.
            function, is_shared = function.unchanged(), True
        runner.place.set(task.trace)
        try:
            result = runner.run(function.load, task.data, task.references, {})
        except BaseException as error:  # noqa: BLE001 -- sys.exit() and the like end this process, as anywhere
            end_process(error, output)
        if _getpid() != pid:
            _exit(0)  # the user's function forked, and this is the second process to return
        # Thorough after each call: compared with the requests to the storage around a call, a tenth of a millisecond is
        # nothing.
        is_sound = runner.condition.is_sound(thoroughly=True) and not own_signals.is_marked()
        if not result.begun and has_run and (is_shared or not is_sound):
            # An earlier call damaged the process: this call must run in another process. Or it may be that what can be
            # done only once in a process, such as taking a name in a registry, was done for another callset.
            channel.send(frames.encode(frames.RESULT, flags=frames.NOT_BEGUN))
            _exit(0)
        has_run = True
        left, _, is_sound = what_is_left(output, runner.condition, is_sound=is_sound)
        unchanged = is_sound and not left and runner.place.is_as_found(output.streams) and _limits() == limits
        stays = may_stay and unchanged and _is_light()
        # On a fork's own socket there is one call at a time, so its number says nothing.
        send_result(channel, 0, result, ("", ""), left, frames.STAYS if stays else 0)
        if not stays:
            _exit(0)
        del task, result  # they may be big, and would otherwise be freed only after the next task and result exist
        output.restore()
        runner.place.leave(output.streams)
        task = _receive_task(channel, function.source)


def _receive_task(channel: Channel, known: Function | None) -> Task:
    """Wait for the next task. A parent sends nothing else to a forked child."""
    received: list[Frame] = []
    try:
        while not received:
            received = channel.receive()
    except EOFError:
        _exit(0)  # no more calls
    return decode_task(received[0], known)


def _limits() -> tuple[object, ...]:
    """Return the limits and the priority of this process. A call may lower them, but nothing can raise them again."""
    import resource

    kinds = ("AS", "CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "NOFILE", "NPROC", "STACK")
    numbers = [getattr(resource, f"RLIMIT_{kind}", None) for kind in kinds]
    limits = [resource.getrlimit(number) for number in numbers if number is not None]
    return os.getpriority(os.PRIO_PROCESS, 0), *limits


def _is_light() -> bool:
    """Tell whether this process has never used much memory, so that it may keep its memory until the next call.

    ``ru_maxrss`` is in bytes on macOS and in KiB elsewhere (getrusage(2)).
    """
    import resource

    megabytes = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    # Lambda sets this variable to the function's memory size in MB. All processes of the function share that memory,
    # and exceeding it ends the whole environment, so a waiting process must not hold much of it.
    available = int(megabytes) if megabytes.isdecimal() else _USUAL_MEGABYTES
    unit = 1 if sys.platform == "darwin" else 1024
    # The most that was ever in memory: freed memory does not lower it. Whether the allocator has returned it to the
    # kernel cannot be known.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return bool(most <= available * 1024 * 1024 * _LIGHT_SHARE)
