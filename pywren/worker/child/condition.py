"""``Condition``: tells whether a process that has run a call can run the next one without making it fail.

``place`` restores what can be restored. Everything else is checked after every call, and the process is replaced if its
state has changed. The quick check takes a few microseconds and covers what no process can do without: built-ins,
modules, and the names that run calls and import modules. The thorough check takes a hundred microseconds and covers
every function of the standard library. It is due when calls have run long enough to make its cost negligible, and after
errors that damage to the library can cause. Changes that cannot be seen afterwards, such as an audit hook, are recorded
when they are made.

Everything runs on the child's main thread, after code that may have replaced anything. So names that are needed after a
call are bound before it, and a check that raises counts as failed.
"""

from __future__ import annotations

import builtins
import copyreg
import gc
import importlib
import io
import json
import opcode
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from pywren.system import private_names

_DEEP_LOOK_SECONDS = 0.01  # seconds of calls after which the thorough check is due: it then takes 1 % of their time
_CALL_SECONDS = 2e-5  # the least time that a call takes, including its overhead
_ERRORS_OF_DAMAGE = frozenset({"ImportError", "ModuleNotFoundError", "NameError", "AttributeError"})


def _core() -> tuple[object, ...]:
    """Return the objects that no process can do without. Writing the tuple out is the fastest way to read them."""
    return (
        sys.modules, sys.meta_path, sys.path_hooks, sys.path_importer_cache, sys.addaudithook, sys.settrace,
        sys.setprofile,
        os.path, os.environ, os.fstat, os.fchdir, os.close, os.open, os.mkdir, os.makedirs, os.utime, os.umask,
        os.dup, os.dup2, os.getpid, os.listdir, os.stat, os.read, os.write, os.pread, os.lseek, os.fsencode,
        os.fsdecode, os.rename, os.rmdir, os.unlink, os.getcwd, os.chdir, os.fork, os._exit,
        json.dumps, json.loads, json.JSONEncoder, json.JSONDecoder,
        pickle.dumps, pickle.loads, pickle.dump, pickle.load, pickle.Pickler, pickle.Unpickler,
        time.time, time.sleep, time.monotonic, time.perf_counter,
        io.open, io.BytesIO, io.StringIO, io.TextIOWrapper,
        threading.Thread, threading.Lock, threading.current_thread, threading.main_thread,
        signal.signal, signal.getsignal,
        importlib.import_module, importlib.invalidate_caches,
        types.FunctionType, types.ModuleType, types.SimpleNamespace,
        copyreg.dispatch_table, copyreg.__newobj__, copyreg._reconstructor,  # type: ignore[attr-defined]
        warnings.warn,
        struct.Struct,
        socket.socket,
    )  # fmt: skip


_IDS = ("uid", "gid", "euid", "egid", "reuid", "regid", "resuid", "resgid", "groups")
# What these change is either unreadable afterwards, or read only by a system call each. So the calls are recorded, and
# the state is read only after one of them.
_NOTED = {
    "sys": ("addaudithook",),
    "resource": ("setrlimit", "prlimit"),
    "signal": ("pthread_sigmask",),
    "os": (
        *("nice", "setpriority", "sched_setaffinity", "chroot", "unshare", "setsid", "setpgid"),
        *(f"set{name}" for name in _IDS),
    ),
}
# A process after one of the other three is never sound again: nothing shows or undoes an audit hook, a changed root or
# a new namespace.
_READABLE = frozenset(name for names in _NOTED.values() for name in names) - {"addaudithook", "chroot", "unshare"}
_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
_read_mask = signal.pthread_sigmask  # bound before calls of it are recorded
_READERS = tuple(
    getattr(os, name)
    for name in ("getsid", "getpgid", "sched_getaffinity", "getresuid", "getresgid", "getgroups", "getuid", "getgid")
    if hasattr(os, name)
)

# Names of the standard library that are meant to be replaced, for example by ``logging.captureWarnings``.
_REPLACEABLE = frozenset(
    {
        *("excepthook", "unraisablehook", "displayhook", "breakpointhook", "showwarning"),
        *("_loggerClass", "_logRecordFactory"),
    }
)
_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})
_Exception = Exception  # the user's function may replace the public name
_CALLABLE = (FunctionType, BuiltinFunctionType, type)


class Condition:
    """The state of this process before its first call. It is recorded once, before any of the user's code runs.

    Attributes:
        is_main: tells whether a module is the ``__main__`` of the function that runs: each program has its own.
    """

    def __init__(self) -> None:
        self._done: list[str] = []
        main = sys.modules.get("__main__")
        self.is_main: Callable[[object], bool] = lambda module: module is main
        # The state is compared with this one after a recorded call, so it is read before any call.
        self._state = _state()
        # Before ``adopt``, which records the wrappers themselves as what must be there.
        for module, names in _NOTED.items():
            for name in names:
                self._note_calls(sys.modules[module], name)
        self._unlooked = 0.0
        self.trace, self._profile = sys.gettrace(), sys.getprofile()  # set if a tool measures test coverage
        self._values = builtins.__dict__.values
        self._restore_builtins = builtins.__dict__.update
        self.adopt()

    def adopt(self) -> None:
        """Accept the present state as the right one: imports have changed it, and Python does not repeat imports."""
        self._builtins = dict(builtins.__dict__)
        self._builtin_values = [*self._values()]
        self._modules = sys.modules
        self._is_garbage_collected = gc.isenabled()
        self._socket_timeout = socket.getdefaulttimeout()
        self._start_method = _start_method()
        self._core = _core()
        self._finders = len(sys.meta_path), len(sys.path_hooks)
        self._all = [
            (module.__dict__, dict(module.__dict__))
            for name, module in sys.modules.copy().items()
            if type(module) is ModuleType and _is_of_python(name)
        ]
        self.count_modules()

    def adopt_settings(self) -> None:
        """Accept the present state, with all settings that were changed on purpose: an initializer has run."""
        self._done.clear()
        self._state = _state()
        self.trace, self._profile = sys.gettrace(), sys.getprofile()
        self.adopt()

    def spend(self) -> None:
        """Have this process run no more calls."""
        self._done.append("spent")  # ``_is_sound`` knows no way to undo it

    def count_modules(self) -> None:
        """Record the modules that are loaded now as those that must stay."""
        self._loaded = dict(sys.modules)
        self._module_values = [*self._loaded.values()]
        self._count = len(self._loaded)

    def _note_calls(self, module: ModuleType, name: str) -> None:
        """Replace a function with one that records its calls."""
        original: Callable[..., Any] | None = getattr(module, name, None)
        if original is None:
            return
        done = self._done

        @wraps(original)
        def noted(*arguments: Any, **keywords: Any) -> Any:
            # Any thread of the call may be here. ``append`` is one step, so no lock is needed. It comes before the
            # change, because ``original`` may raise after it has changed something.
            done.append(name)
            return original(*arguments, **keywords)

        setattr(module, name, noted)

    def mend(self) -> None:
        """Restore deleted and replaced built-ins and modules. After a call, this runs before anything else."""
        try:
            # Comparing lists compares identities first, so for an unchanged process no ``__eq__`` runs and this takes
            # microseconds.
            are_same = [*self._values()] == self._builtin_values
        except _Exception:  # the call replaced one with an object that has its own ``__eq__``
            are_same = False
        if not are_same:
            self._mend_builtins()
        if sys.modules is not self._modules:
            sys.modules = self._modules
            self._done.append("modules")
        if len(self._modules) < self._count:
            self._done.append("modules")
            # The modules return, so that the result can be reported. ``_is_sound`` then finds the note, and no other
            # call runs here.
            self._modules.update(self._loaded)

    def _mend_builtins(self) -> None:
        now = builtins.__dict__
        for name, value in self._builtins.items():
            if name not in now or now[name] is not value:
                # If a library's import did this, the library relies on it, so this process runs no more calls.
                self._done.append("builtins")
                break
        self._restore_builtins(self._builtins)
        self._builtin_values = [*self._values()]  # additions stay, and calls may replace them

    def restore(self) -> None:
        """Restore the whole standard library. This process runs no more calls, but must still report the last call."""
        for now, before in self._all:
            # ``update`` on the dictionaries of modules: attribute assignment could run code that the call has put
            # there.
            now.update(before)

    def is_sound_after(self, seconds: float, error: str | None, *, begun: bool) -> bool:
        """Tell whether the process can run another call, using the check that is due: quick or thorough. Never raise.

        Args:
            seconds: how long the call ran.
            error: the name of the exception that the call raised; ``None`` if the call returned.
            begun: whether the function was called.
        """
        # Without the least time, calls that take next to nothing would never add up to a thorough check.
        self._unlooked += seconds + _CALL_SECONDS
        thoroughly = self._unlooked >= _DEEP_LOOK_SECONDS or not begun or error in _ERRORS_OF_DAMAGE
        if thoroughly:
            self._unlooked = 0.0
        return self.is_sound(thoroughly=thoroughly)

    def is_sound(self, *, thoroughly: bool = False) -> bool:
        """Tell whether the process can run another call. Never raise."""
        try:
            # The quick check comes first: the thorough one relies on what it has confirmed.
            return self._is_sound() and not (thoroughly and self._is_something_replaced())
        except Exception:  # noqa: BLE001 -- anything may have replaced a module of the standard library
            return False

    def _is_sound(self) -> bool:
        modules = sys.modules
        if modules is not self._modules or (self._done and not self._is_undone()):
            return False
        values = [*modules.values()]
        if values != self._module_values:
            if self._is_module_replaced():
                return False
            self._module_values = values
        # An attribute that was deleted raises here, and ``is_sound`` takes that as damage.
        if _core() != self._core:
            return False
        count = len(modules)
        if count < self._count or len(sys.meta_path) < self._finders[0] or len(sys.path_hooks) < self._finders[1]:
            return False
        self._count = count
        self._put_settings_back()
        return sys.getprofile() is self._profile

    def _put_settings_back(self) -> None:
        """Restore settings that can be set only once in a process, or that make other calls fail."""
        if gc.isenabled() is not self._is_garbage_collected:
            # The next call must not run out of memory because this one switched the collector off.
            (gc.enable if self._is_garbage_collected else gc.disable)()
        if socket.getdefaulttimeout() != self._socket_timeout:
            socket.setdefaulttimeout(self._socket_timeout)
        if _start_method() != self._start_method:  # creating a multiprocessing pool also sets it
            # Without ``force`` it can be set once in a process, and the next call that sets it would fail.
            sys.modules["multiprocessing"].set_start_method(self._start_method, force=True)
        if "asyncio.events" in sys.modules:
            private_names.forget_spent_event_loop()

    def _is_undone(self) -> bool:
        """Tell whether the recorded settings are as before. Many programs restore them, or set the values they have."""
        if not _READABLE.issuperset(self._done) or _state() != self._state:
            return False
        # The same list that the wrappers append to, so it must not be replaced.
        self._done.clear()
        return True

    def _is_module_replaced(self) -> bool:
        """Tell whether a module was removed or replaced. Modules that are not part of Python may be reloaded."""
        for name, module in self._modules.items():
            if name == "__main__":
                if not self.is_main(module):
                    return True
                continue
            before = self._loaded.get(name, module)
            if module is not before and _is_of_python(name):
                return True
            # ``None`` in ``sys.modules`` blocks an import. A lazy library may put objects of its own there, which is no
            # damage.
            if type(module) is not ModuleType and (module is None or type(before) is ModuleType):
                return True
        return False

    def _is_something_replaced(self) -> bool:
        for now, before in self._all:
            if now == before:
                continue
            for name, value in before.items():
                if isinstance(value, _CALLABLE) and now.get(name) is not value and name not in _REPLACEABLE:
                    return True
        return False


def _start_method() -> str | None:
    """Return the method with which ``multiprocessing`` starts processes here; ``None`` if none has been chosen yet."""
    multiprocessing: Any = sys.modules.get("multiprocessing")
    known = None if multiprocessing is None else multiprocessing.get_start_method(allow_none=True)
    return known if isinstance(known, str) else None


def _is_of_python(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def _state() -> tuple[object, ...]:
    """Return the values of the settings whose changes are recorded, as far as the values can be read."""
    limits = [resource.getrlimit(number) for number in _LIMITS]
    # 0 means this process in getsid(2), getpgid(2) and sched_getaffinity(2). The other functions take no argument.
    ids = [read(0) if read.__name__ in ("getsid", "getpgid", "sched_getaffinity") else read() for read in _READERS]
    # Blocking no signals changes nothing, and returns the mask (sigprocmask(2)).
    return _read_mask(signal.SIG_BLOCK, ()), os.getpriority(os.PRIO_PROCESS, 0), limits, ids


# -- functions that cannot do harm -----------------------------------------------------------------------------------

# Not here: whatever reaches attributes by a string (``getattr``), runs text, opens files, or prints.
_HARMLESS = frozenset(
    {
        *(abs, all, any, bin, bool, bytes, chr, complex, dict, divmod, enumerate, filter, float, frozenset, hash, hex),
        *(int, isinstance, issubclass, len, list, map, max, min, oct, ord, pow, range, repr, reversed, round, set),
        *(slice, sorted, str, sum, tuple, zip, iter, next),
        *(ArithmeticError, Exception, IndexError, KeyError, LookupError, OverflowError, RuntimeError, StopIteration),
        *(TypeError, ValueError, ZeroDivisionError),
    }
)
_HARMLESS_MODULES = frozenset({"math", "cmath"})
_REACHING_OUT = frozenset(
    number
    for name, number in opcode.opmap.items()
    if name.startswith(("IMPORT_", "STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_BUILD_CLASS"))
)
_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE; importing inspect takes longer than a call
_INTO_FRAMES = ("_", "f_", "gi_", "cr_", "ag_", "tb_")  # prefixes of attributes that lead from a generator to frames


def is_inert(function: object) -> bool:
    """Tell whether a function cannot change its process when it is called with plain data.

    Such a function refers only to numbers and strings, to built-ins that compute, to the functions of ``math``, to
    other functions of this kind, and to attributes of its argument. So it can only compute, and so can such a built-in.
    """
    if type(function) is BuiltinFunctionType:
        is_of_math = type(function.__self__) is ModuleType and function.__module__ in _HARMLESS_MODULES
        return is_of_math or function in _HARMLESS
    return _is_inert(function, set())


def _is_inert(function: object, met: set[int]) -> bool:
    if type(function) is not FunctionType or function.__kwdefaults__:
        return False
    # A function that calls itself, or that two others call: it is being examined, or has been.
    if id(function) in met:
        return True
    met.add(id(function))
    try:
        held = [*(function.__defaults__ or ()), *[cell.cell_contents for cell in function.__closure__ or ()]]
    except ValueError:
        return False  # a variable that has no value yet
    if not all(type(value) in _PLAIN or _is_inert(value, met) for value in held):
        return False
    return _names_only_inert(function.__code__, function.__globals__, met)


def _names_only_inert(code: CodeType, variables: Mapping[str, Any], met: set[int]) -> bool:
    if code.co_flags & _CO_COROUTINE:
        return False  # an event loop runs it, with sockets and perhaps threads
    # Instructions are two bytes each, the opcode first. ``co_code`` shows inline caches as zeros, and no specialised
    # opcodes.
    if not _REACHING_OUT.isdisjoint(code.co_code[::2]):
        return False
    for name in code.co_names:
        if name.startswith(_INTO_FRAMES):
            return False
        # As the interpreter looks a name up: globals, then built-ins. An attribute that has the name of neither gives
        # ``None``.
        value = variables.get(name, builtins.__dict__.get(name))
        if type(value) in _PLAIN or (type(value) in (type, BuiltinFunctionType) and value in _HARMLESS):
            continue  # some of these names are only attributes; checking these too does no harm
        if type(value) is ModuleType:
            if value.__name__ not in _HARMLESS_MODULES:
                return False
        elif not _is_inert(value, met):
            return False
    return all(_names_only_inert(part, variables, met) for part in code.co_consts if isinstance(part, CodeType))
