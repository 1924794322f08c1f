"""``LoadedFunction``: a function in a child process, from the time it arrives until its last call."""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

from pywren.pickling.adapters import Initialized, put_around, taken_apart
from pywren.pickling.arguments import load_with_names
from pywren.pickling.by_value._pickle_state import is_importable
from pywren.worker.child.condition import is_inert
from pywren.worker.child.modules import modules_digest
from pywren.worker.child.program import Program
from pywren.worker.child.runner import TaskRunner
from pywren.worker.child.snapshot import Snapshot
from pywren.worker.task import Function

_FUNCTIONS = (FunctionType, BuiltinFunctionType)


class LoadedFunction:
    """A function that this child received. After its first call it is loaded.

    The function is loaded by its first call, not when it arrives: loading runs the user's imports, and whatever these
    raise is the outcome of that call.

    Args:
        source: the pickled function as it arrived.
        runner: runs the function's calls.
        root: the child's private directory.
        digest: the ``modules_digest`` of the function's modules, if it is known.

    Attributes:
        is_inert: whether the function can only compute, so that a call with plain data changes nothing in its process;
            False until it is loaded.
    """

    def __init__(self, source: Function, runner: TaskRunner, root: str, digest: str | None = None) -> None:
        self.source = source
        self.is_inert = False
        self._runner = runner
        self._root = root
        self._digest = modules_digest(source.modules) if digest is None else digest
        self._program = Program(root)
        self._loaded: Callable[[Any], Any] | None = None
        self._is_imported = False
        self._snapshot: Snapshot | None = None

    def load(self) -> Callable[[Any], Any]:
        """Make the function's modules importable and return the function. The first call loads it."""
        # Before each call, not only the first: calls of other functions in between have made their own modules
        # importable.
        self._runner.activate(self.source, self._digest, self._program)
        # If loading raises, nothing is kept, and the next call tries again: an import may fail for a passing reason.
        if self._loaded is None:
            self._loaded, names = load_with_names(self.source.pickle)
            self._program.add(names)
            self._program.enter()  # enter the program again, because it now contains more modules
            # Do both of these before the first call, which may change the function's variables.
            _, function = taken_apart(self._loaded)
            self._is_imported = isinstance(function, _FUNCTIONS) and is_importable(function)
            self._snapshot = None if self._is_imported else Snapshot.take(function, names)
            # Between the calls of a pool with a setup there is always something to do.
            self.is_inert = type(self._loaded) is not Initialized and is_inert(function)
        return self._loaded

    def unchanged(self) -> LoadedFunction:
        """Return this function without the changes that calls made: copied from its snapshot, or to be loaded again."""
        fresh = LoadedFunction(self.source, self._runner, self._root, self._digest)
        fresh._is_imported = self._is_imported
        if self._is_imported:
            # Its variables are those of its module, which calls of all functions share.
            fresh._loaded, fresh.is_inert = self._loaded, self.is_inert
        elif self._snapshot is not None:
            function, names = self._snapshot.copy_with_names()
            fresh._loaded = put_around(self._loaded, function)
            # The snapshot itself never changes: each copy has its own variables, so all copies can come from the same
            # one.
            fresh._snapshot, fresh.is_inert = self._snapshot, self.is_inert
            fresh._program.add(names)
        return fresh
