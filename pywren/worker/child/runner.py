"""Running one task in a child: load the function and its argument, call it, and leave no trace for the next."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the enums of signal, which cost microseconds
import builtins
import hashlib
import importlib
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pickle import PickleBuffer
from types import ModuleType
from typing import Any, NamedTuple, TextIO

from pywren.pickling import arguments, packed, packed_exceptions
from pywren.pickling.format import FUTURE, NAMES_FOLLOW
from pywren.pickling.packed import Packed
from pywren.system import private_names
from pywren.worker.child.condition import Condition
from pywren.worker.child.program import Program
from pywren.worker.directories import own_umask, remove_directory
from pywren.worker.frames import high_descriptor

# The user's function may replace any of these under their public names.
_perf_counter, _getsignal = time.perf_counter, _signal.getsignal
_gettrace, _settrace = sys.gettrace, sys.settrace
_dump_result, _dump_exception = packed.dump_result, packed_exceptions.dump_exception
_Exception = Exception
_loads, _load_argument, _load_with_names = packed.loads, arguments.load_argument, arguments.load_with_names
_FUTURE_MARK = FUTURE.encode()

_PICKLE = tuple((name, getattr(pickle, name)) for name in ("dumps", "loads", "Pickler"))

_KEPT_MODULE_SETS = 4
_RESTORED_SIGNALS = tuple(
    getattr(_signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE")
    if hasattr(_signal, name)
)
_TIMERS = tuple(getattr(_signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"))
_UNUSED_TIME = 0  # the scratch directory's time of modification as long as nothing was written there


class FunctionSource(NamedTuple):
    """A function as it arrived, before it is loaded.

    Args:
        pickle: the pickled function.
        modules: the user's modules and data files by relative path.
        digest: equal digests mean equal modules; empty without modules.
        runtime_path: the directory of an extracted runtime.
    """

    pickle: Packed
    modules: Mapping[str, bytes]
    digest: str
    runtime_path: str | None


class Report(NamedTuple):
    """What a child says about a call that did not end its process.

    Args:
        success: True for a value, False for an exception, None for a result that does not pickle.
        body: the pickled value or exception.
        setup_time: seconds until the function was called.
        exec_time: seconds the function ran.
        exception: name, text and traceback of the exception, or of what went wrong with the result.
        begun: whether the function was called.
    """

    success: bool | None
    body: Packed | None
    setup_time: float
    exec_time: float
    exception: tuple[str, str, str] | None = None
    begun: bool = True


def packed_from(segments: Sequence[bytes | bytearray | memoryview]) -> Packed:
    """Make a pickle and its buffers from the segments of a frame."""
    data = segments[0]
    return Packed(
        data if isinstance(data, bytes) else bytes(data), tuple(PickleBuffer(segment) for segment in segments[1:])
    )


def modules_digest(modules: Mapping[str, bytes]) -> str:
    """Return a name for a set of modules; empty for no modules."""
    if not modules:
        return ""
    digest = hashlib.sha256()
    for path in sorted(modules):
        digest.update(f"{path}\0{len(modules[path])}\0".encode())
        digest.update(modules[path])
    return digest.hexdigest()[:32]


class TaskRunner:
    """Runs one task after the other in this process.

    Args:
        root: a private directory, for modules and for scratch directories.
        scratch: the directory in which calls run; made on need.
        condition: how this process was before it ran a call.
    """

    def __init__(self, root: str, scratch: str, condition: Condition | None = None) -> None:
        self.condition = condition or Condition()
        self.modules = ShippedModules(root)
        self.place = _Place(scratch)
        self._program = Program(root)

    def activate(self, source: FunctionSource, program: Program) -> None:
        """Make one function's modules importable, and no other's.

        Args:
            source: the function.
            program: the modules that came with its pickle, or will.
        """
        if self.modules.activate(source):
            self.place.start_over()
            self.condition.count_modules()
        if program is not self._program:
            self._program.leave()
            self._program = program
            program.enter()

    def run(
        self,
        load: Callable[[], Callable[[Any], Any]],
        argument: Packed,
        references: Sequence[bytes],
        extra_env: Mapping[str, str | None],
        *,
        mend: bool = True,
    ) -> Report:
        """Run one call.

        Args:
            load: gives the function.
            argument: its pickled argument.
            references: encoded outcomes that the argument refers to.
            extra_env: environment variables of this call; ``None`` for one that it is not to see.
            mend: whether the call can have changed what its result is pickled with.

        Raises:
            BaseException: what is no ``Exception`` ends the process, see ``exit_code``.
        """
        started = _perf_counter()
        called = ended = None
        try:
            self.place.enter(extra_env)
            imported = len(sys.modules)
            function = load()
            value = self._load_argument(argument, references)
            if len(sys.modules) != imported:
                self.place.adopt(extra_env)
                self.condition.adopt()
            called = _perf_counter()
            value = function(value)
            ended = _perf_counter()
            if mend:
                if _gettrace() is not self.condition.trace:  # it must see, and fail, no function of this package
                    _settrace(self.condition.trace)
                self.condition.mend()
                _restore_pickle()
            return Report(True, _dump_result(value, out_of_band=True), called - started, ended - called)
        except _Exception as error:
            now = _perf_counter()
            if _gettrace() is not self.condition.trace:
                _settrace(self.condition.trace)
            self.condition.mend()
            _restore_pickle()
            if called is None:
                return _raised(error, now - started, 0.0)._replace(begun=False)
            report = _raised if ended is None else _not_pickled
            return report(error, called - started, (ended or now) - called)

    def _load_argument(self, argument: Packed, references: Sequence[bytes]) -> Any:
        if argument.data.endswith(NAMES_FOLLOW):
            value, names = _load_with_names(argument, references)
            self._program.add(names)
            self._program.enter()
            return value
        has_futures = references or _FUTURE_MARK in argument.data
        return _load_argument(argument, references) if has_futures else _loads(argument)


def _restore_pickle() -> None:
    """Put back what the user's function may have replaced in ``pickle``, and results are pickled with."""
    for name, original in _PICKLE:
        if getattr(pickle, name) is not original:
            setattr(pickle, name, original)


def _raised(error: Exception, setup_time: float, exec_time: float) -> Report:
    told = _dump_exception(error)
    if told.body is None:
        return Report(None, None, setup_time, exec_time, _failure(told.error or error))
    exception = (told.type_name, told.text, told.traceback)
    return Report(False, told.body, setup_time, exec_time, exception)


def _not_pickled(error: Exception, setup_time: float, exec_time: float) -> Report:
    return Report(None, None, setup_time, exec_time, _failure(error))


def _failure(error: Exception) -> tuple[str, str, str]:
    return "ResultSerializationError", str(error), ""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a process that ends with this exception, and print what Python would print."""
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF
        sys.stderr.write(f"{error.code}\n")
        return 1
    import traceback

    traceback.print_exception(type(error), error, error.__traceback__)
    return 1


# -- the user's modules ------------------------------------------------------------------------------------------


class ShippedModules:
    """The modules that came with functions: those of one function are importable at a time.

    Args:
        root: the directory under which each set gets one of its own.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._active = ""
        self._runtime: str | None = None
        self._runtime_entries: list[str] = []
        self._set_aside: dict[tuple[str, str | None], dict[str, ModuleType]] = {}

    @property
    def directory(self) -> str:
        """The directory of the modules that are importable now."""
        return self._directory(self._active)

    def _directory(self, digest: str) -> str:
        return os.path.join(self._root, f"modules-{digest}")

    def activate(self, source: FunctionSource) -> bool:
        """Make one function's modules importable, and no other's; returns whether that changed anything."""
        if source.digest == self._active and source.runtime_path == self._runtime:
            return False
        self._deactivate()
        if source.digest:
            _write_modules(self._directory(source.digest), source.modules)
        self._active, self._runtime = source.digest, source.runtime_path
        if source.runtime_path is not None:
            self._runtime_entries = runtime_directories(source.runtime_path)
            sys.path[:0] = self._runtime_entries
        if source.digest:
            sys.path.insert(0, self.directory)
        sys.modules.update(self._set_aside.pop((source.digest, source.runtime_path), {}))
        importlib.invalidate_caches()
        return True

    def _deactivate(self) -> None:
        unwanted = [*self._runtime_entries, *([self.directory] if self._active else ())]
        if not unwanted:
            return
        sys.path[:] = [entry for entry in sys.path if entry not in unwanted]
        self._runtime_entries = []
        # Functions that are loaded keep their modules; they must find the same ones when they run again.
        names = [name for entry in unwanted for name in _modules_in(entry + os.sep)]
        self._set_aside[self._active, self._runtime] = {name: sys.modules.pop(name) for name in dict.fromkeys(names)}
        while len(self._set_aside) > _KEPT_MODULE_SETS:
            del self._set_aside[next(iter(self._set_aside))]


def runtime_directories(runtime: str) -> list[str]:
    """Return the directories of an extracted runtime that packages are imported from and that are not on the path yet.

    Its own interpreter, if it has one and runs this, knows some of them already.
    """
    packages = os.path.join("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    places = (os.path.join("condaruntime", packages), packages, "site-packages")
    directories = [*(os.path.join(runtime, place) for place in places), runtime]
    return [directory for directory in directories if directory not in sys.path and os.path.isdir(directory)]


def _modules_in(directory: str) -> list[str]:
    found = []
    for name, module in list(sys.modules.items()):
        places = [getattr(module, "__file__", None)]
        try:
            places += list(getattr(module, "__path__", None) or ())
        except Exception:  # noqa: BLE001 -- odd objects live in sys.modules, and computing a __path__ may import
            pass
        if any(isinstance(place, str) and (place + os.sep).startswith(directory) for place in places):
            found.append(name)
    return found


def _write_modules(directory: str, modules: Mapping[str, bytes]) -> None:
    """Write modules so that the directory has its name only when it is whole; another process may do the same."""
    if os.path.isdir(directory):
        return
    temporary = f"{directory}.{os.getpid()}"
    with own_umask():
        for path, content in modules.items():
            target = os.path.join(temporary, *path.split("/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(content)
    try:
        os.rename(temporary, directory)
    except OSError:
        if not os.path.isdir(directory):
            raise
        remove_directory(temporary)


# -- what a call may change ----------------------------------------------------------------------------------------


class _Place:
    """The state of the process that a call finds and may change: environment, paths, directory, streams, signals."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._scratch_descriptor: int | None = None
        self._environment = os.environ
        self._environment_data = private_names.environment_data()
        self._saved_environment = dict(self._environment_data)
        self._path = sys.path
        self._saved_path = list(sys.path)
        self._stdin = sys.stdin
        self._print = builtins.print
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._handlers = list(map(_getsignal, _RESTORED_SIGNALS))
        self._recursion_limit = sys.getrecursionlimit()
        self._first = self._saved_environment, self._handlers, self._recursion_limit

    def enter(self, extra_env: Mapping[str, str | None]) -> None:
        """Go to an empty directory and set the call's environment variables."""
        if self._scratch_descriptor is None:
            self._make_scratch()
        if extra_env:
            for name, value in extra_env.items():
                if value is None:
                    self._environment.pop(name, None)
                else:
                    self._environment[name] = value
            if "TZ" in extra_env:
                time.tzset()  # the C library has read it already

    def start_over(self) -> None:
        """Restore what there was at first: modules that are importable no more may have changed it since."""
        self._saved_environment, self._handlers, self._recursion_limit = self._first
        self._saved_path = list(sys.path)

    def adopt(self, extra_env: Mapping[str, str | None]) -> None:
        """Take what imports have changed for what is to be restored: they are not repeated for the next call."""
        environment = dict(self._environment_data)
        for name in map(os.fsencode, extra_env):
            environment.pop(name, None)
            if name in self._saved_environment:
                environment[name] = self._saved_environment[name]
        self._saved_environment = environment
        self._saved_path = list(sys.path)
        self._handlers = list(map(_getsignal, _RESTORED_SIGNALS))
        self._recursion_limit = sys.getrecursionlimit()

    def is_as_found(self, streams: tuple[TextIO, TextIO]) -> bool:
        """Tell whether a call has changed nothing but the content of its directory.

        Args:
            streams: what ``sys.stdout`` and ``sys.stderr`` should be.
        """
        return (
            os.environ is self._environment
            and self._environment_data == self._saved_environment
            and sys.path is self._path
            and sys.path == self._saved_path
            and builtins.print is self._print
            and (sys.stdin, sys.stdout, sys.stderr) == (self._stdin, *streams)
            and list(map(_getsignal, _RESTORED_SIGNALS)) == self._handlers
            and not any(_signal.getitimer(timer)[0] for timer in _TIMERS)
            and sys.getrecursionlimit() == self._recursion_limit
        )

    def leave(self, streams: tuple[TextIO, TextIO]) -> None:
        """Restore what the call changed; costs a few microseconds when it changed nothing.

        Args:
            streams: what ``sys.stdout`` and ``sys.stderr`` are to be.
        """
        if os.environ is not self._environment:
            os.environ = self._environment  # noqa: B003 -- the very object, whose content is restored next
        if self._environment_data != self._saved_environment:
            self._restore_environment()
        if sys.path is not self._path or sys.path != self._saved_path:
            sys.path = self._path
            sys.path[:] = self._saved_path
        if builtins.print is not self._print:
            builtins.print = self._print
        sys.stdin, sys.stdout, sys.stderr = self._stdin, *streams
        os.umask(self._umask)
        _signal.alarm(0)
        if list(map(_getsignal, _RESTORED_SIGNALS)) != self._handlers:
            for number, handler in zip(_RESTORED_SIGNALS, self._handlers, strict=True):
                _signal.signal(number, handler)
        if sys.getrecursionlimit() != self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        self._restore_directory()

    def _restore_environment(self) -> None:
        current, saved = self._environment_data, self._saved_environment
        for name in [name for name in current if name not in saved]:
            del self._environment[_decoded(name)]
        for name, value in saved.items():
            if current.get(name) != value:
                self._environment[_decoded(name)] = _decoded(value)
        time.tzset()

    def _make_scratch(self) -> None:
        with own_umask():
            os.makedirs(self._scratch)
        os.utime(self._scratch, ns=(_UNUSED_TIME, _UNUSED_TIME))
        descriptor = os.open(self._scratch, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        self._scratch_descriptor = high_descriptor(descriptor)
        os.fchdir(self._scratch_descriptor)

    def _restore_directory(self) -> None:
        descriptor = self._scratch_descriptor
        if descriptor is None:
            return
        try:
            found = os.fstat(descriptor)
            if found.st_mtime_ns == _UNUSED_TIME and found.st_nlink:
                os.fchdir(descriptor)
                return
            os.close(descriptor)
        except OSError:
            pass  # the call closed descriptors, or removed the directory
        self._scratch_descriptor = None
        remove_directory(self._scratch)
        if os.path.exists(self._scratch):  # the call made something that cannot be removed
            self._scratch += "+"
        self._make_scratch()


def _decoded(name: bytes) -> str:
    return os.fsdecode(name)


# -- output ----------------------------------------------------------------------------------------------------

TAIL_LIMIT = 64 * 1024
"""Bytes of output that go into the result, the last ones."""


class Output:
    """File descriptors 1 and 2 of a child, and the text streams over them.

    Args:
        captured: whether they are files whose tails this object reads; otherwise they are pipes to the parent.
    """

    def __init__(self, *, captured: bool) -> None:
        self._captured = captured
        # Fresh ones, because those of the interpreter may have been made over something else. Line by line, so that
        # a crash loses nothing; and any text can be printed.
        self._streams = self._open_streams()
        self._null = high_descriptor(os.dup(0))
        self._targets = (high_descriptor(os.dup(1)), high_descriptor(os.dup(2)))
        self._shown: tuple[int, int] | None = None
        first = self._lowest_free()
        self._most = first + max(0, _most_descriptors() - first) // 2

    def has_descriptors(self) -> bool:
        """Tell whether calls have left more than half of the descriptors that this process may open."""
        try:
            return self._lowest_free() < self._most
        except OSError:
            return False

    def _lowest_free(self) -> int:
        number = os.dup(self._null)  # what is open above it is this process's own, or counts for little
        os.close(number)
        return number

    def show(self, descriptors: tuple[int, int]) -> None:
        """Take the pipes for output that is to be shown as it comes."""
        self._shown = descriptors

    def begin(self, *, shown: bool) -> None:
        """Let the next call write to the pipes instead of the files, or back."""
        targets = self._shown if shown and self._shown is not None else self._targets
        os.dup2(targets[0], 1)
        os.dup2(targets[1], 2)

    def flush(self) -> None:
        """Write out what the streams hold; a call may have closed them, or what is under them."""
        for stream in self._streams:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue

    def restore(self) -> None:
        """Put standard streams back that the call closed or redirected."""
        os.dup2(self._null, 0)
        os.dup2(self._targets[0], 1)
        os.dup2(self._targets[1], 2)
        if self._streams[0].closed or self._streams[1].closed:
            self._streams = self._open_streams()

    @staticmethod
    def _open_streams() -> tuple[TextIO, TextIO]:
        sys.stdout, sys.stderr = (
            open(number, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            for number in (1, 2)
        )
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
        return sys.stdout, sys.stderr

    @property
    def streams(self) -> tuple[TextIO, TextIO]:
        """The text streams over descriptors 1 and 2."""
        return self._streams

    def tails(self) -> tuple[str, str]:
        """Return the last of what the call wrote, and forget it."""
        if not self._captured:
            return "", ""
        out, err = self._targets
        return _tail(out) if os.lseek(out, 0, os.SEEK_CUR) else "", _tail(err) if os.lseek(err, 0, os.SEEK_CUR) else ""


def _most_descriptors() -> int:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if most == resource.RLIM_INFINITY else most


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, TAIL_LIMIT, max(0, size - TAIL_LIMIT))
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return data.decode("utf-8", "replace")
