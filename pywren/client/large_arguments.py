"""``LargeArguments``: sends an array that many batches of joblib's contain only once.

One thread uses an object of this class, so it needs no lock.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pywren.pickling.large_arguments import InFile, InStorage, Large, Span, itself
from pywren.worker.directories import hold_directory, private_directory, remove_directory

_ALIGNMENT = 64
"""Bytes; NumPy aligns the data of its own arrays so, for vector instructions."""

_LIBRARIES = frozenset({"numpy", "pandas", "pyarrow", "scipy"})
"""The libraries whose objects may be large. Their objects refer to each other, and to what Python itself has."""


class LargeArguments:
    """Puts each argument that is large and used by several calls where all workers can read it.

    Calls on this machine map a file. Elsewhere, one call leaves the argument in the storage as its result, from where
    the other calls get it without the client. An argument that only one call needs travels with that call.

    Args:
        executor: makes the calls.
        in_memory: whether these calls run on this machine, without a storage.
        least: the least size of an argument in bytes; ``None`` sends every argument with its call.
        writable: whether workers may write to their own copies.
    """

    def __init__(self, executor: Any, *, in_memory: bool, least: int | None, writable: bool) -> None:
        self._executor = executor
        self._in_memory = in_memory
        self._least = math.inf if least is None else least
        self._writable = writable
        self._seen: dict[int, weakref.ref[Any]] = {}
        # The objects are kept, because the id of an object that is gone may soon be that of another.
        self._placed: dict[int, tuple[Any, Large]] = {}
        self._files: _Files | None = None

    def place(self, arguments: Iterable[Any]) -> Callable[[Any], Any]:
        """Put the large arguments of several calls where workers can read them.

        Args:
            arguments: all arguments of all these calls.

        Returns:
            A function that returns what to send in place of an argument.
        """
        for argument in arguments:
            if self._is_large(argument) and self._is_seen_again(argument) and id(argument) not in self._placed:
                self._place(argument)
        return self._stand_in

    def close(self) -> None:
        """Remove the files. Workers that have mapped a file keep their mappings."""
        self._placed.clear()
        if self._files is not None:
            self._files.close()

    def _stand_in(self, argument: Any) -> Any:
        placed = self._placed.get(id(argument))
        return argument if placed is None else placed[1]

    def _is_large(self, argument: Any) -> bool:
        return type(argument).__module__.partition(".")[0] in _LIBRARIES and _size(argument) >= self._least

    def _is_seen_again(self, argument: Any) -> bool:
        known = self._seen.get(id(argument))
        if known is not None and known() is argument:
            return True
        try:
            self._seen[id(argument)] = weakref.ref(argument)
        except TypeError:  # a NumPy scalar
            pass
        return False

    def _place(self, argument: Any) -> None:
        if not self._in_memory:
            self._placed[id(argument)] = argument, InStorage(self._executor.call_async(itself, argument))
            return
        buffers: list[pickle.PickleBuffer] = []
        pickled = _pickled(argument, buffers)
        if pickled is None or not buffers:
            return
        if self._files is None:
            self._files = _Files()
        path, spans = self._files.write([buffer.raw() for buffer in buffers])
        self._placed[id(argument)] = argument, InFile(pickled, path, spans, self._writable)


def _size(argument: Any) -> int:
    """Return the size of an object of one of the libraries in bytes, roughly; 0 if it has none."""
    size: Any = getattr(argument, "nbytes", None)  # arrays, series, tables
    if size is None and hasattr(argument, "memory_usage"):
        size = argument.memory_usage().sum()  # a data frame
    if size is None:
        size = getattr(getattr(argument, "data", None), "nbytes", 0)  # a sparse matrix
    return int(size)


class _Pickler(pickle.Pickler):
    """Pickles what consists of objects of the libraries and of Python's own objects, and refuses anything else."""

    def reducer_override(self, obj: Any) -> Any:
        # Workers unpickle this with ``pickle`` alone: they have not been sent any modules of the user's for it.
        kind = obj if isinstance(obj, type) or callable(obj) else type(obj)
        module = str(getattr(kind, "__module__", None) or "builtins").partition(".")[0]
        if module == "__main__" or (module not in _LIBRARIES and module not in sys.stdlib_module_names):
            raise pickle.PicklingError(f"{module} may be unknown to workers")
        return NotImplemented


def _pickled(argument: Any, buffers: list[pickle.PickleBuffer]) -> bytes | None:
    """Pickle an argument without its buffers; return ``None`` if it must travel with the calls."""
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(argument)
    except Exception:  # noqa: BLE001 - objects decide how they are pickled; the call's own pickler reports its errors
        return None
    return stream.getvalue()


class _Files:
    """Files in a private directory, which is removed with this object, or by a later client if this one is killed."""

    def __init__(self) -> None:
        self._directory = private_directory()
        lock = hold_directory(self._directory)
        self._close = weakref.finalize(self, _remove, os.getpid(), self._directory, lock)
        self._count = 0

    def write(self, buffers: Sequence[memoryview]) -> tuple[str, list[Span]]:
        """Write buffers to a new file. Return its path, and where in it they are."""
        self._count += 1
        path = os.path.join(self._directory, str(self._count))
        spans = []
        with open(path, "xb") as file:
            for buffer in buffers:
                start = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
                file.seek(start)
                file.write(buffer)
                spans.append(Span(start, start + buffer.nbytes))
        return path, spans

    def close(self) -> None:
        """Remove the directory."""
        self._close()


def _remove(pid: int, directory: str, lock: int) -> None:
    if pid == os.getpid():  # finalizers run in a forked child, too
        remove_directory(directory)
    os.close(lock)
