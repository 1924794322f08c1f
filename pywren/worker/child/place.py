"""``Place``: the process state that calls may change, restored for every call: environment, paths, signals, …

A call may leave these in any state, and ``Place`` restores them before the next call. If something cannot be restored,
``condition`` notices that, and the process is replaced.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # unlike signal it has no enums, which cost microseconds
import builtins
import os
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, TextIO

from pywren.system import private_names
from pywren.worker.descriptors import high_descriptor
from pywren.worker.directories import own_umask, remove_directory

_getsignal = _signal.getsignal  # the user's function may replace it

_RESTORED_SIGNALS = tuple(
    getattr(_signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE")
    if hasattr(_signal, name)
)
_TIMERS = tuple(getattr(_signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"))
_UNUSED_TIME = 0  # the modification time of the scratch directory until something is written to it

_IMPORTING = "<frozen importlib._bootstrap>"  # the file of the interpreter's own functions that import modules
_putenv = os.putenv
_set_by_imports: dict[bytes, bytes] = {}


def watch_imports() -> None:
    """From now on, record which environment variables are set by the import of a module."""
    os.putenv = _note_putenv  # ``os.environ`` looks it up there


def _note_putenv(name: Any, value: Any) -> None:
    # Any thread of the call may be here. Each step is one operation of a dictionary.
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != _IMPORTING:
        frame = frame.f_back
    if frame is None:
        _set_by_imports.pop(os.fsencode(name), None)
    else:
        _set_by_imports[os.fsencode(name)] = os.fsencode(value)
    _putenv(name, value)


class Place:
    """What a call finds in its process and may change. It is recorded when this object is created.

    Args:
        scratch: the directory in which calls run; created for the first call.
    """

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
        # umask(2) can only be read by setting it. No other thread runs yet that could create a file in between.
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._handlers = list(map(_getsignal, _RESTORED_SIGNALS))
        self._recursion_limit = sys.getrecursionlimit()
        self._first = self._saved_environment, self._handlers, self._recursion_limit

    def enter(self, extra_env: Mapping[str, str | None]) -> None:
        """Enter an empty directory and set the call's environment variables. ``None`` removes a variable."""
        if self._scratch_descriptor is None:
            self._make_scratch()
        if extra_env:
            self._set(extra_env)

    def set(self, variables: Mapping[str, str | None]) -> None:
        """Set environment variables. After each call they are restored, until they are set again."""
        self._set(variables)
        for saved in (self._saved_environment, self._first[0]):
            for name in map(os.fsencode, variables):
                if name in self._environment_data:
                    saved[name] = self._environment_data[name]
                else:
                    saved.pop(name, None)

    def _set(self, variables: Mapping[str, str | None]) -> None:
        for name, value in variables.items():
            if value is None:
                self._environment.pop(name, None)
            else:
                self._environment[name] = value
        if "TZ" in variables:
            time.tzset()  # otherwise the C library reads TZ only once

    def start_over(self) -> None:
        """From now on, restore the very first state. Modules that are not active now have changed the present one."""
        self._saved_environment, self._handlers, self._recursion_limit = self._first
        self._saved_path = list(sys.path)

    def adopt(self, extra_env: Mapping[str, str | None]) -> None:
        """From now on, restore the present state.

        Imports have changed the state, and Python does not repeat imports for the next call. The environment variables
        of this call alone are not part of the state.

        Args:
            extra_env: the environment variables of this call alone.
        """
        environment = dict(self._environment_data)
        for name in map(os.fsencode, extra_env):
            environment.pop(name, None)
            if name in self._saved_environment:
                environment[name] = self._saved_environment[name]
        self._saved_environment = environment
        self._saved_path = list(sys.path)
        self._handlers = list(map(_getsignal, _RESTORED_SIGNALS))
        self._recursion_limit = sys.getrecursionlimit()

    def adopt_settings(self, extra_env: Mapping[str, str | None]) -> None:
        """From now on, restore the present state, with what only an initializer may change for good: the umask."""
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self.adopt(extra_env)
        self._first = self._saved_environment, self._handlers, self._recursion_limit

    def is_as_found(self, streams: tuple[TextIO, TextIO]) -> bool:
        """Tell whether the call changed nothing but the contents of its directory.

        Environment variables that an import has set, as that of scikit-learn does, are part of the state from now on.

        Args:
            streams: what ``sys.stdout`` and ``sys.stderr`` were before the call.
        """
        now = self._environment_data
        by_imports = {name: set_to for name, set_to in _set_by_imports.copy().items() if now.get(name) == set_to}
        _set_by_imports.clear()
        if by_imports:  # Python does not repeat imports for the next call
            self._saved_environment = {**self._saved_environment, **by_imports}
        return (
            os.environ is self._environment
            and now == self._saved_environment
            and sys.path is self._path
            and sys.path == self._saved_path
            and builtins.print is self._print
            and (sys.stdin, sys.stdout, sys.stderr) == (self._stdin, *streams)
            and list(map(_getsignal, _RESTORED_SIGNALS)) == self._handlers
            and not any(_signal.getitimer(timer)[0] for timer in _TIMERS)
            and sys.getrecursionlimit() == self._recursion_limit
        )

    def leave(self, streams: tuple[TextIO, TextIO]) -> None:
        """Restore what the call changed. If it changed nothing, this takes a few microseconds.

        Args:
            streams: what ``sys.stdout`` and ``sys.stderr`` become.
        """
        if os.environ is not self._environment:
            os.environ = self._environment  # noqa: B003 -- the original object; its content is restored next
        if self._environment_data != self._saved_environment:
            self._restore_environment()
        if sys.path is not self._path or sys.path != self._saved_path:
            sys.path = self._path
            # In place: modules that have kept a reference to the list must see the change.
            sys.path[:] = self._saved_path
        if builtins.print is not self._print:
            builtins.print = self._print
        sys.stdin, sys.stdout, sys.stderr = self._stdin, *streams
        # Set without looking, because reading it is the same system call (umask(2)).
        os.umask(self._umask)
        # Before the handlers: an alarm that goes off with the default action would end this process (signal(7)).
        _signal.alarm(0)
        if list(map(_getsignal, _RESTORED_SIGNALS)) != self._handlers:
            for number, handler in zip(_RESTORED_SIGNALS, self._handlers, strict=True):
                # Python allows this only on the main thread, where everything here runs. ``None`` stands for a handler
                # that is not Python's. It cannot be set again: this then raises, and the process is replaced.
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
                # Through ``os.environ``, because that calls setenv(3): C libraries and child processes read the C
                # environment.
                self._environment[_decoded(name)] = _decoded(value)
        time.tzset()

    def _make_scratch(self) -> None:
        with own_umask():
            os.makedirs(self._scratch)
        os.utime(self._scratch, ns=(_UNUSED_TIME, _UNUSED_TIME))  # any file that a call creates here sets a later time
        descriptor = os.open(self._scratch, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        # Returning by descriptor works even if a call has renamed the directory, or taken away the permission to enter
        # it.
        self._scratch_descriptor = high_descriptor(descriptor)
        os.fchdir(self._scratch_descriptor)

    def _restore_directory(self) -> None:
        """Return to the scratch directory. If it has been used, replace it with an empty directory."""
        descriptor = self._scratch_descriptor
        if descriptor is None:
            return
        try:
            found = os.fstat(descriptor)
            # A removed directory has no links left (inode(7)), though its descriptor still works.
            if found.st_mtime_ns == _UNUSED_TIME and found.st_nlink:
                os.fchdir(descriptor)
                return
            os.close(descriptor)
        except OSError:
            pass  # the call closed descriptors, or removed the directory
        self._scratch_descriptor = None
        # The call's own threads and child processes are gone by now, or this process would be replaced. So only a
        # library's thread could still create files here.
        remove_directory(self._scratch)
        if os.path.exists(self._scratch):  # the call created something that cannot be removed
            self._scratch += "+"
        self._make_scratch()


def _decoded(name: bytes) -> str:
    return os.fsdecode(name)
