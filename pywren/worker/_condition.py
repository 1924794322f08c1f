"""``Condition``: whether a process that has run a call can run the next one, which must not be failed by the first.

What can be put back is put back (see ``runner``). For the rest there is a look after every call, and the process is
replaced when it is not as it was. The look that costs two microseconds finds what no process can do without: built-ins,
modules, and the names by which calls are run and imports made. The one that costs a hundred, after calls that took long
beside that and where a call could not be begun, finds every function of the standard library that was replaced. What
cannot be seen afterwards, such as an audit hook, is noted when it is done.
"""

from __future__ import annotations

import builtins
import gc
import sys
from collections.abc import Callable
from functools import wraps
from operator import itemgetter
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

DEEP_LOOK_SECONDS = 0.01
"""Seconds from which on a call is worth the thorough look: that then takes a hundredth of them."""

_CORE = {
    "sys": "modules meta_path path_hooks path_importer_cache addaudithook settrace setprofile",
    "os": "path environ fstat fchdir close open mkdir makedirs utime umask dup dup2 getpid listdir stat read write "
    "pread lseek fsencode fsdecode rename rmdir unlink getcwd chdir fork _exit",
    "json": "dumps loads JSONEncoder JSONDecoder",
    "pickle": "dumps loads dump load Pickler Unpickler",
    "time": "time sleep monotonic perf_counter",
    "io": "open BytesIO StringIO TextIOWrapper",
    "threading": "Thread Lock current_thread main_thread",
    "signal": "signal getsignal",
    "importlib": "import_module invalidate_caches",
    "types": "FunctionType ModuleType SimpleNamespace",
    "builtins": "",
    "copyreg": "dispatch_table __newobj__ _reconstructor",
    "warnings": "warn",
    "struct": "Struct",
    "socket": "socket",
}
_IRREVERSIBLE = (
    ("sys", "addaudithook"),
    ("resource", "setrlimit"),
    ("resource", "prlimit"),
    ("signal", "pthread_sigmask"),
    ("os", "nice"),
    ("os", "setpriority"),
    ("os", "sched_setaffinity"),
    ("os", "chroot"),
    ("os", "unshare"),
    ("os", "setsid"),
    ("os", "setpgid"),
    *(("os", f"set{name}") for name in ("uid", "gid", "euid", "egid", "reuid", "regid", "resuid", "resgid", "groups")),
)
_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})
_CALLABLE = (FunctionType, BuiltinFunctionType, type)


class Condition:
    """This process as it is before it runs a call; made once, before any code of the user's runs."""

    def __init__(self) -> None:
        for name in (*_CORE, "resource"):
            __import__(name)  # so that no call has to be the first that needs it
        self._done: list[str] = []
        for module, name in _IRREVERSIBLE:
            self._note_calls(sys.modules[module], name)
        self._values = builtins.__dict__.values
        self._restore_builtins = builtins.__dict__.update
        self.adopt()

    def adopt(self) -> None:
        """Take the present state for the right one: imports have changed it, and they are not repeated."""
        self._builtins = dict(builtins.__dict__)
        self._builtin_values = [*self._values()]
        self._modules = sys.modules
        self._is_garbage_collected = gc.isenabled()
        self._core = itemgetter(*_CORE)
        self._core_modules = self._core(sys.modules)
        self._looks = [
            (module.__dict__, itemgetter(*names.split()), itemgetter(*names.split())(module.__dict__))
            for module, names in zip(self._core_modules, _CORE.values(), strict=True)
            if names
        ]
        self._finders = len(sys.meta_path), len(sys.path_hooks)
        self._all = [
            (module.__dict__, dict(module.__dict__))
            for name, module in list(sys.modules.items())
            if type(module) is ModuleType and name.partition(".")[0] in sys.stdlib_module_names
        ]
        self.count_modules()

    def count_modules(self) -> None:
        """Take the modules that are loaded now for those that must stay."""
        self._loaded = dict(sys.modules)
        self._count = len(self._loaded)

    def _note_calls(self, module: ModuleType, name: str) -> None:
        original: Callable[..., Any] | None = getattr(module, name, None)
        if original is None:
            return
        done = self._done

        @wraps(original)
        def noted(*arguments: Any, **keywords: Any) -> Any:
            done.append(name)
            return original(*arguments, **keywords)

        setattr(module, name, noted)

    def mend(self) -> None:
        """Put deleted and replaced built-ins back, and modules, before anything else is done after a call."""
        if [*self._values()] != self._builtin_values:
            now = builtins.__dict__
            for name, value in self._builtins.items():
                if name not in now or now[name] is not value:
                    self._done.append("builtins")  # a library that did this expects it to be done
                    break
            self._restore_builtins(self._builtins)
            self._builtins = dict(now)
            self._builtin_values = [*self._values()]  # what was added stays
        if len(sys.modules) < self._count:
            self._done.append("modules")
            sys.modules.update(self._loaded)

    def is_sound(self, *, thoroughly: bool = False) -> bool:
        """Tell whether the process can run another call; never raises."""
        try:
            return self._is_sound() and not (thoroughly and self._is_something_replaced())
        except Exception:  # noqa: BLE001 -- whatever is met where a module of the standard library should be
            return False

    def _is_sound(self) -> bool:
        modules = sys.modules
        if self._done or modules is not self._modules or self._core(modules) != self._core_modules:
            return False
        for names, look, values in self._looks:
            if look(names) != values:
                return False
        count = len(modules)
        if count < self._count or len(sys.meta_path) < self._finders[0] or len(sys.path_hooks) < self._finders[1]:
            return False
        self._count = count
        if gc.isenabled() is not self._is_garbage_collected:
            (gc.enable if self._is_garbage_collected else gc.disable)()
        return sys.gettrace() is None and sys.getprofile() is None

    def _is_something_replaced(self) -> bool:
        for now, before in self._all:
            if now == before:
                continue
            for name, value in before.items():
                if isinstance(value, _CALLABLE) and now.get(name) is not value:
                    return True
        return False


def is_inert(function: object) -> bool:
    """Tell whether a function can do nothing to its process when it is given plain data.

    It names nothing, neither a variable outside nor an attribute, so it can only compute with what it is given.
    """
    if type(function) is not FunctionType or function.__kwdefaults__ or not _is_nameless(function.__code__):
        return False
    if function.__closure__:
        return False  # what it holds may be anything
    return all(type(value) in _PLAIN for value in function.__defaults__ or ())


def _is_nameless(code: CodeType) -> bool:
    return not code.co_names and all(_is_nameless(part) for part in code.co_consts if isinstance(part, CodeType))
