"""The program of a worker process, in two modes: *pool* runs calls itself, *fork* forks a process for each function.

It is a fresh interpreter that loads nothing of the client's: not its main script, not its directory. It imports
the runner, the protocol and pickling of pywren, cloudpickle and tblib.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pywren.pickling.arguments import load_with_names
from pywren.pickling.packed import Packed
from pywren.worker import frames as _frames
from pywren.worker import process_tree
from pywren.worker.child.condition import Condition, is_inert
from pywren.worker.child.leftovers import leftovers, watch_threads
from pywren.worker.child.program import Program
from pywren.worker.child.runner import (
    FunctionSource,
    Output,
    Report,
    TaskRunner,
    exit_code,
    packed_from,
)
from pywren.worker.child.snapshot import Snapshot
from pywren.worker.directories import hold_directory
from pywren.worker.frames import Buffer, Channel, Frame, UnlinkedFile, high_descriptor

# The user's function may replace any of these under their public names.
_loads = pickle.loads
_quoted = json.encoder.encode_basestring_ascii  # what ``dumps`` is made of is the user's to change, too
_exit, _getpid, _read, _pause, _setpgid = os._exit, os.getpid, os.read, signal.pause, os.setpgid

_TICKET = struct.Struct("<Q")
_NAMES = pickle.STACK_GLOBAL  # a pickle without it makes plain data: numbers, texts, lists and so on
_NO_OUTPUT = ("", "")
STATUS = struct.Struct("<qq")
"""What stands on a call's status pipe: the pid, and ``RUNNING`` (says the call) or the exit code (says the server)."""
RUNNING = 1 << 32
_USUAL_MEGABYTES = 2048
_LIGHT_SHARE = 0.25  # of the memory that there is
_SETSIG = 10  # F_SETSIG, which the fcntl module does not know before Python 3.14
_CHANNEL, _LIFELINE, _TICKETS = 3, 4, 5


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the program.

    Args:
        arguments: the mode, ``pool`` or ``fork``; the private directory; directories that are the client's own.
    """
    mode, root, *unwanted = arguments
    sys.argv = [""]
    _leave_the_clients_session()
    _tidy_path(unwanted)
    channel, lifeline, tickets = _take_descriptors(has_tickets=mode == "pool")
    hold_directory(root)
    if mode == "pool":
        _die_with_parent(lifeline)
        _PoolChild(channel, tickets, root).serve()
    _ForkServer(channel, lifeline, root).serve()


def _leave_the_clients_session() -> None:
    """Neither Ctrl-C at the client's terminal nor a kill of its process group is meant for this process."""
    if os.getsid(0) != os.getpid():
        os.setsid()


def _tidy_path(unwanted: Sequence[str]) -> None:
    """Move what ``PYTHONPATH`` names behind everything else, without the client's own directories."""
    named = [_absolute(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    own = {_absolute(entry) for entry in unwanted}
    fixed = [entry for entry in sys.path if entry and _absolute(entry) not in named]
    kept = [entry for entry in named if entry not in own]
    sys.path[:] = fixed + list(dict.fromkeys([*kept, *_path_on_lambda()]))


def _path_on_lambda() -> list[str]:
    """Return what Lambda has on the path of its own process and does not tell others: the deployed code, the layers."""
    code = os.environ.get("LAMBDA_TASK_ROOT")
    if not code:
        return []
    return [code, f"/opt/python/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages", "/opt/python"]


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except FileNotFoundError:  # the client's working directory is gone, and the path is relative to it
        return path


def _take_descriptors(*, has_tickets: bool) -> tuple[Channel, int, int]:
    """Move the channels to numbers that programs do not close in bulk, and close what else was inherited."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=high_descriptor(_CHANNEL))
    lifeline = high_descriptor(_LIFELINE)
    tickets = high_descriptor(_TICKETS) if has_tickets else -1
    keep = {0, 1, 2, sock.fileno(), lifeline, tickets}
    for entry in ("/proc/self/fd", "/dev/fd"):
        try:
            numbers = [int(name) for name in os.listdir(entry)]
        except OSError:
            continue
        for number in numbers:
            if number not in keep:
                _close(number)
        break
    return Channel(sock), lifeline, tickets


def _close(number: int) -> None:
    try:
        os.close(number)
    except OSError:
        pass  # the descriptor of the listing itself


def _die_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process group when the parent is gone, however it went (Linux).

    The fork server, which runs no user's code, sees the end of the lifeline itself: it must first kill the groups
    of what it forked.
    """
    if sys.platform != "linux":
        return
    import fcntl

    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, _SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_NONBLOCK | fcntl.FASYNC)
    try:
        if not os.read(lifeline, 1):
            _exit(1)  # it went before this was set up
    except BlockingIOError:
        pass


def _wait_to_be_killed() -> NoReturn:
    """Do nothing until the parent kills what is left, and this process with it."""
    while True:
        _pause()  # it returns when a signal has a handler


# -- results -----------------------------------------------------------------------------------------------------


def _send_result(
    channel: Channel, ticket: int, report: Report, tails: tuple[str, str], left: str, flags: int = 0
) -> None:
    if report.success is not None:
        flags |= _frames.SUCCESS if report.success else _frames.RAISED
    body = report.body
    told = report.exception is not None or left or tails[0] or tails[1]
    if body is not None and not told and not body.buffers and len(body.data) <= _frames.INLINE_LIMIT:
        channel.send_now(_frames.encode_plain_result(flags, ticket, report.setup_time, report.exec_time, body.data))
        return
    segments: list[Buffer] = [] if body is None else [body.data, *(buffer.raw() for buffer in body.buffers)]
    frame = _frames.encode(
        _frames.RESULT,
        flags=flags | (_frames.LEFTOVERS if left else 0),
        number=ticket,
        first=report.setup_time,
        second=report.exec_time,
        meta=_notes(report, tails, left) if told else b"",
        segments=segments,
    )
    channel.send(frame)


def _notes(report: Report, tails: tuple[str, str], left: str) -> bytes:
    """Encode what there is to tell beside the body: JSON, because the parent must be able to trust it."""
    notes = {"stdout": tails[0], "stderr": tails[1], "leftovers": left}
    members = [f'"{name}":{_quoted(text)}' for name, text in notes.items() if text]
    if report.exception is not None:
        members.append(f'"exception":[{",".join(map(_quoted, report.exception))}]')
    return f"{{{','.join(members)}}}".encode()


def _end_process(error: BaseException, output: Output) -> NoReturn:
    """End this process as Python does when this exception is not caught."""
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        output.flush()
        os.kill(os.getpid(), signal.SIGINT)
    code = exit_code(error)
    output.flush()
    _exit(code)


# -- pool mode ---------------------------------------------------------------------------------------------------


class _Function:
    """A function that this child was given: its source, and what was loaded from it."""

    def __init__(self, source: FunctionSource, runner: TaskRunner, root: str) -> None:
        self.source = source
        self._runner = runner
        self._root = root
        self._program = Program(root)
        self._loaded: Callable[[Any], Any] | None = None
        self._snapshot: Snapshot | None = None
        self.is_inert = False

    def load(self) -> Callable[[Any], Any]:
        """Make the function's modules importable and return it, loading it the first time."""
        self._runner.activate(self.source, self._program)
        if self._loaded is None:
            self._loaded, names = load_with_names(self.source.pickle)
            self._program.add(names)
            self._program.enter()
            self._snapshot = Snapshot.take(self._loaded, names)
            self.is_inert = is_inert(self._loaded)
        return self._loaded

    def anew(self) -> _Function:
        """Return one that no call has changed."""
        made = _Function(self.source, self._runner, self._root)
        if self._snapshot is not None:
            made._loaded, names = self._snapshot.copy_with_names()
            made._snapshot, made.is_inert = self._snapshot, self.is_inert
            made._program.add(names)
        return made


class _PoolChild:
    """Takes one ticket after the other, runs that call, and flushes its result."""

    def __init__(self, channel: Channel, tickets: int, root: str) -> None:
        self.channel = channel
        self.tickets = tickets
        self.root = root
        self.output = Output(captured=True)
        watch_threads(root)
        self.runner = TaskRunner(root, os.path.join(root, "scratch"))
        self.has_run = False
        self.functions: dict[int, _Function] = {}
        self.batches: dict[int, tuple[_Function, Mapping[str, str], bool]] = {}
        self.arenas: dict[int, UnlinkedFile] = {}
        self.arguments: dict[int, Any] = {}
        self.poll = select.poll()
        self.poll.register(tickets, select.POLLIN)
        self.pid = os.getpid()

    def serve(self) -> NoReturn:
        """Run calls until the parent closes the ticket pipe."""
        process_tree.adopt_orphans(process_tree.load_prctl())
        self.channel.send(_frames.encode(_frames.READY))
        while True:
            ticket = self._take_ticket()
            try:
                self._run(ticket)
            except EOFError:
                _exit(0)  # the parent is gone

    def _take_ticket(self) -> int:
        while True:
            try:
                data = _read(self.tickets, 8)
            except BlockingIOError:  # the parent reads here too, and does not block
                self.poll.poll()
                continue
            if not data:
                _exit(0)
            return int(_TICKET.unpack(data)[0])

    def _run(self, ticket: int) -> None:
        while ticket not in self.arguments:
            for frame in self.channel.receive():
                self._take_frame(frame)
        entry = self.arguments.pop(ticket)
        argument, references = (Packed(entry), ()) if isinstance(entry, bytes) else self._argument(entry)
        function, extra_env, shown = self.batches[ticket >> 32]
        if shown:
            self.output.begin(shown=True)
        # Such a call can have changed nothing, printed nothing and left nothing; most short ones are such.
        nothing_to_mend = function.is_inert and type(entry) is bytes and not (_NAMES in entry or shown or extra_env)
        try:
            report = self.runner.run(function.load, argument, references, extra_env, mend=not nothing_to_mend)
        except BaseException as error:  # noqa: BLE001 -- sys.exit() and the like end this process, as they would anywhere
            if _getpid() != self.pid:
                _exit(0)
            _end_process(error, self.output)
        if _getpid() != self.pid:
            _exit(0)  # the user's function forked and came back twice
        if nothing_to_mend:
            self.has_run = True
            _send_result(self.channel, ticket, report, _NO_OUTPUT, "")
            return
        is_sound = _is_sound(self.runner.condition, report)
        if not (report.begun or is_sound) and self.has_run:
            # An earlier call is to blame: this one is for another process.
            self.channel.send(_frames.encode(_frames.RESULT, flags=_frames.NOT_BEGUN, number=ticket))
            _wait_to_be_killed()
        self.has_run = True
        left, tails, is_sound = _what_is_left(self.output, self.runner.condition, is_sound=is_sound)
        _send_result(self.channel, ticket, report, tails, left, 0 if is_sound else _frames.SPENT)
        if left or not is_sound:
            _wait_to_be_killed()
        self.output.restore()
        self.runner.place.leave(self.output.streams)

    def _argument(self, entry: Any) -> tuple[Packed, Sequence[bytes]]:
        """Return an argument that is no plain pickle, and the references it makes."""
        where, references = entry
        if isinstance(where, list):
            return packed_from([where[0], *(bytearray(part) for part in where[1:])]), references
        arena, offset, sizes = where
        return packed_from(_frames.read_segments(self.arenas[arena], sizes, offset)), references

    def _take_frame(self, frame: Frame) -> None:
        if frame.kind == _frames.ARGUMENTS:
            terms, arguments = _loads(frame.meta)
            if terms is not None:
                key, load_anew, extra_env, shown = terms
                function = self.functions[key]
                if load_anew:
                    function = self.functions[key] = function.anew()
                self.batches[frame.number] = (function, extra_env, shown)
            self.arguments.update(arguments)
        elif frame.kind == _frames.FUNCTION:
            self.functions[frame.number] = _Function(function_source(frame.segments()), self.runner, self.root)
        elif frame.kind == _frames.ARENA and isinstance(frame.payload, UnlinkedFile):
            arena, frame.payload.descriptor = frame.payload.descriptor, -1
            self.arenas[frame.number] = UnlinkedFile(high_descriptor(arena))
        elif frame.kind == _frames.SHOW:
            out, err = (high_descriptor(number) for number in frame.descriptors)
            self.output.show((out, err))
        elif frame.kind == _frames.FORGET:
            self._forget(*_loads(frame.meta))

    def _forget(self, batches: Sequence[int], arenas: Sequence[int], functions: Sequence[int]) -> None:
        for batch in batches:
            self.batches.pop(batch, None)
        for arena in arenas:
            self.arenas.pop(arena, None)
        for function in functions:
            self.functions.pop(function, None)
        gone = set(batches)
        for ticket in [ticket for ticket in self.arguments if ticket >> 32 in gone]:
            del self.arguments[ticket]


def _is_sound(condition: Condition, report: Report) -> bool:
    error = report.exception[0] if report.exception is not None else None
    return condition.is_sound_after(report.exec_time, error, begun=report.begun)


def _what_is_left(output: Output, condition: Condition, *, is_sound: bool) -> tuple[str, tuple[str, str], bool]:
    """Return what a call has left running, the tails of its output, and whether the process is still sound."""
    if not is_sound:
        condition.restore()  # for the rest of what is done here
    try:
        return (*_look_for_leftovers(output), is_sound and output.has_descriptors())
    except Exception:  # noqa: BLE001 -- something is broken that no look finds; this call has ended, and is told
        condition.restore()
        return (*_look_for_leftovers(output), False)


def _look_for_leftovers(output: Output) -> tuple[str, tuple[str, str]]:
    _close_nested_pool()
    output.flush()
    return leftovers(), output.tails()


def _close_nested_pool() -> None:
    """End the local pool that the call made, if it did: it ends with the call."""
    if "pywren.worker.parent.pool" in sys.modules:
        from pywren.worker.parent.pool import LocalPool  # waits where a thread that was left still imports it

        LocalPool.close_shared()


def function_source(segments: Sequence[Buffer]) -> FunctionSource:
    """Read a function as the parent sent it: modules, digest and runtime first, then the pickle."""
    modules, digest, runtime_path = _loads(segments[0])
    return FunctionSource(packed_from(segments[1:]), modules, digest, runtime_path)


# -- fork mode ---------------------------------------------------------------------------------------------------


class _Forked:
    """One process that the server forked."""

    def __init__(self, number: int, pid: int, status: int) -> None:
        self.number = number
        self.pid = pid
        self.status = status

    def kill(self) -> None:
        """Kill its process group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nothing is left of it (macOS says so by EPERM)


class _ForkServer:
    """Forks processes, each for calls of one function; cloudpickle and tblib are loaded before."""

    def __init__(self, channel: Channel, lifeline: int, root: str) -> None:
        import cloudpickle  # noqa: F401
        import tblib.pickling_support  # noqa: F401

        from pywren.pickling import pickler  # noqa: F401

        watch_threads(root)
        self.condition = Condition()
        gc.collect()
        gc.freeze()  # a collection in a call would copy every page that has an object of the server's

        self.channel = channel
        self.lifeline = lifeline
        self.root = root
        self.forked: dict[int, _Forked] = {}
        self.pid = os.getpid()
        self._prctl = process_tree.load_prctl()
        process_tree.adopt_orphans(self._prctl)

    def serve(self) -> NoReturn:
        """Fork, reap and kill until the parent is gone."""
        wake_in, wake_out = os.pipe()
        wake_in, wake_out = high_descriptor(wake_in), high_descriptor(wake_out)
        os.set_blocking(wake_in, False)
        os.set_blocking(wake_out, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        poll = select.poll()
        for number in (self.channel.fileno(), self.lifeline, wake_in):
            poll.register(number, select.POLLIN)
        self.channel.send(_frames.encode(_frames.READY))
        while True:
            ready = {number for number, _ in poll.poll()}
            if wake_in in ready:
                _drain(wake_in)
                self._reap()
            if self.lifeline in ready:
                self._end()
            if self.channel.fileno() in ready:
                self._obey()

    def _obey(self) -> None:
        try:
            frames = self.channel.receive()
        except EOFError:
            self._end()
        for frame in frames:
            if frame.kind == _frames.FORK:
                self._fork(frame)
            elif frame.kind == _frames.KILL:
                for forked in self.forked.values():
                    if forked.number == frame.number:
                        forked.kill()

    def _fork(self, frame: Frame) -> None:
        call, out, err, status = frame.descriptors
        try:
            pid = os.fork()
        except OSError:
            for number in frame.descriptors:
                os.close(number)  # the parent sees the status pipe end without a status
            return
        if pid == 0:
            self._become_call(frame)
        try:
            _setpgid(pid, pid)  # both sides do this: whoever comes first
        except OSError:
            pass
        for number in (call, out, err):
            os.close(number)
        self.forked[pid] = _Forked(frame.number, pid, status)

    def _become_call(self, frame: Frame) -> NoReturn:
        call, out, err, status = frame.descriptors
        _setpgid(0, 0)
        # Before any code of the user's runs the parent knows whom to kill, even if that code kills the server.
        _report(status, os.getpid(), RUNNING)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=high_descriptor(call))
        keep = {0, 1, 2, sock.fileno()}
        for number in [int(name) for name in os.listdir("/dev/fd")]:
            if number not in keep:
                _close(number)
        may_stay = process_tree.adopt_orphans(self._prctl)
        scratch = os.fsdecode(frame.meta)
        _run_forked(Channel(sock), self.root, scratch, self.condition, may_stay=may_stay)

    def _reap(self) -> None:
        for pid, forked in list(self.forked.items()):
            status = _reaped(forked)
            if status is None:
                continue
            del self.forked[pid]
            self._end_orphans()  # before the end is told: nothing of the call is left then
            _report(forked.status, pid, os.waitstatus_to_exitcode(status))
            os.close(forked.status)

    def _end_orphans(self) -> None:
        """Kill what has come to this process: calls that have ended left it, outside their process groups."""
        while orphans := [pid for pid in process_tree.children_of(self.pid) if pid not in self.forked]:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
            for pid in orphans:
                os.waitpid(pid, 0)

    def _end(self) -> NoReturn:
        for pid in self.forked:
            process_tree.kill_tree(pid)
        _exit(0)


def _reaped(forked: _Forked) -> int | None:
    """Reap a forked process that has ended, and kill what it left; ``None`` as long as it runs."""
    if hasattr(os, "waitid"):
        if os.waitid(os.P_PID, forked.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        forked.kill()  # its pid is taken until it is reaped, so the group is the right one
    pid, status = os.waitpid(forked.pid, os.WNOHANG)
    return status if pid else None


def _report(descriptor: int, pid: int, returncode: int) -> None:
    try:
        os.write(descriptor, STATUS.pack(pid, returncode))
    except OSError:
        pass  # nobody waits for it any more


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 512):
            pass
    except BlockingIOError:
        pass


def _run_forked(channel: Channel, root: str, scratch: str, condition: Condition, *, may_stay: bool) -> NoReturn:
    """Run calls of one function, one after the other, for as long as each leaves nothing behind."""
    output = Output(captured=False)
    segments = _task_segments(channel)
    count, references, extra_env = _loads(segments[0])
    os.environ.update(extra_env)
    runner = TaskRunner(root, scratch, condition)
    function = _Function(function_source(segments[1 : count + 1]), runner, root)
    pid = os.getpid()
    limits = _limits()
    has_run = False
    while True:
        try:
            report = runner.run(function.load, packed_from(segments[count + 1 :]), references, {})
        except BaseException as error:  # noqa: BLE001 -- sys.exit() and the like end this process, as they would anywhere
            _end_process(error, output)
        if _getpid() != pid:
            _exit(0)  # the user's function forked and came back twice
        is_sound = runner.condition.is_sound(thoroughly=True)
        if not (report.begun or is_sound) and has_run:
            channel.send(_frames.encode(_frames.RESULT, flags=_frames.NOT_BEGUN))
            _exit(0)
        has_run = True
        left, _, is_sound = _what_is_left(output, runner.condition, is_sound=is_sound)
        unchanged = is_sound and not left and runner.place.is_as_found(output.streams) and _limits() == limits
        stays = may_stay and unchanged and _is_light()
        _send_result(channel, 0, report, ("", ""), left, _frames.STAYS if stays else 0)
        if not stays:
            _exit(0)
        del segments, report, references  # they may be big, and the next call's come beside them
        output.restore()
        runner.place.leave(output.streams)
        segments = _task_segments(channel)
        count, references, _ = _loads(segments[0])


def _task_segments(channel: Channel) -> list[Buffer]:
    frames: list[Frame] = []
    try:
        while not frames:
            frames = channel.receive()
    except EOFError:
        _exit(0)  # no more calls
    return frames[0].segments()


def _limits() -> tuple[object, ...]:
    """Return what a call may change about this process that cannot be changed back."""
    import resource

    kinds = ("AS", "CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "NOFILE", "NPROC", "STACK")
    numbers = [getattr(resource, f"RLIMIT_{kind}", None) for kind in kinds]
    limits = [resource.getrlimit(number) for number in numbers if number is not None]
    return os.getpriority(os.PRIO_PROCESS, 0), *limits


def _is_light() -> bool:
    """Tell whether this process never took so much memory that others may lack what it keeps."""
    import resource

    megabytes = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    there_are = int(megabytes) if megabytes.isdecimal() else _USUAL_MEGABYTES
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return bool(most <= there_are * 1024 * 1024 * _LIGHT_SHARE)
