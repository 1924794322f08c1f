"""``Program``: the modules of the client's program that workers cannot import, with those objects that were sent.

Functions and classes of a script name ``__main__`` as their module. On a worker, ``__main__`` is another program. So
each function has its own ``__main__`` here, which contains everything that was sent with the function. ``pickle``,
``multiprocessing`` and other code that looks things up by module and name find them there. The same applies to handmade
modules.
"""

from __future__ import annotations

import operator
import os
import sys
import types
import weakref
from typing import Any

from pywren.exceptions import PywrenError
from pywren.pickling.format import Names
from pywren.pickling.packed import Packed, dumps, loads

_MAIN = "__main__"

_SCRIPT = """\
# What the calls in process {process} know about the program that made them; the processes that they start load this.
from pywren.worker.child import program as _program
globals().update(_program.read({path!r}))
"""


class Program:
    """The modules of one function that were sent to this process.

    Args:
        root: a private directory, for files that processes started by a call must read.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._names: Names = {}
        self._modules: dict[str, types.ModuleType] = {}
        self._script = 0, ""

    def add(self, names: Names) -> None:
        """Add objects by module and qualified name; an empty name means the module itself. ``enter`` must follow."""
        if names and not self._names:
            self._modules[_MAIN] = _Main(self)
        self._names.update(names)
        # Sorted by name, so that a class comes before the classes and functions that are attributes of it.
        for (module, name), value in sorted(names.items(), key=operator.itemgetter(0)):
            if name:
                _put(self._modules.setdefault(module, types.ModuleType(module)), name, value)
            else:
                self._modules[module] = value

    def enter(self) -> None:
        """Add the modules to ``sys.modules``."""
        if not self._modules:
            # Some ``__main__`` must be there: multiprocessing looks it up without a check when it starts a process.
            sys.modules[_MAIN] = _empty_main()
        sys.modules.update(self._modules)

    def leave(self) -> None:
        """Remove the modules from ``sys.modules``."""
        for name, module in self._modules.items():
            # A call may have put something else there. That is for ``Condition`` to find.
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def is_main(self, module: object) -> bool:
        """Tell whether a module is the ``__main__`` that ``enter`` adds."""
        return module is (self._modules[_MAIN] if self._modules else _empty[0])

    def main_names(self) -> dict[str, Any]:
        """Return the variables of ``__main__``."""
        held = vars(self._modules[_MAIN]) if self._modules else {}
        return {name: value for name, value in held.items() if not name.startswith("__")}

    def script(self) -> str:
        """Return the path of a script that rebuilds the modules in another process.

        Processes that ``multiprocessing`` spawns, rather than forks, run the script of ``__main__`` first.

        Raises:
            PywrenError: something in the modules cannot be pickled.
            OSError: the script cannot be written.
        """
        count, path = self._script
        if count != len(self._names):  # names are only ever added
            count = len(self._names)
            # The forks of one server share the directory, so the name has the process and the program in it. A new
            # count gets a new file: a process that was spawned before may still be reading the old one.
            base = os.path.join(self._root, f"main-{os.getpid()}-{id(self):x}-{count}")
            path = f"{base}.py"
            # First the pickle, then the script that reads it. If this raises, ``_script`` stays, and the next question
            # tries again.
            _write(f"{base}.pickle", dumps(self._names).data)
            _write(path, _SCRIPT.format(process=os.getpid(), path=f"{base}.pickle").encode())
            self._script = count, path
        return path


_empty = [types.ModuleType(_MAIN)]
_NAMES_OF_EVERY_MODULE = len(vars(_empty[0]))


def _empty_main() -> types.ModuleType:
    """Return the ``__main__`` of functions that were sent without one. They share it until something changes it."""
    if len(vars(_empty[0])) != _NAMES_OF_EVERY_MODULE:
        _empty[0] = types.ModuleType(_MAIN)
    return _empty[0]


class _Main(types.ModuleType):
    """A ``__main__`` whose script is written when its path is first requested."""

    __slots__ = ("_program_of_client",)

    def __init__(self, program: Program) -> None:
        super().__init__(_MAIN)
        # A weak reference, because every map begins with a new program and should leave no reference cycle.
        self._program_of_client = weakref.ref(program)

    def __getattr__(self, name: str) -> str:  # called for names that the module lacks
        program = self._program_of_client()
        if name == "__file__" and program is not None and program.main_names():
            try:
                # Written only now, because few calls spawn processes, and every map would pay for the file.
                return program.script()
            except (PywrenError, OSError):
                pass  # spawned processes then start without these modules
        raise AttributeError(f"module {_MAIN!r} has no attribute {name!r}")


def read(path: str) -> dict[str, Any]:
    """Rebuild the modules in another process, and return what that process's ``__main__`` should contain.

    Args:
        path: the path of the pickle, which is beside the script in a private directory of the worker.
    """
    with open(path, "rb") as file:
        # This unpickles in a process that the call has started: the same user, with the same rights, reads its own
        # file.
        names: Names = loads(Packed(file.read()))
    program = Program(os.path.dirname(path))
    program.add(names)
    program.enter()
    return program.main_names()


def _put(module: types.ModuleType, name: str, value: Any) -> None:
    *holders, last = name.split(".")
    place: Any = module
    for holder in holders:
        if not hasattr(place, holder):
            setattr(place, holder, types.SimpleNamespace())  # the object's class was not sent
        place = getattr(place, holder)
    setattr(place, last, value)


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
