"""What a batch of joblib's contains in place of a large argument, and how a worker turns it back into the argument.

Workers import this module, so it imports almost nothing.
"""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Large(Protocol):
    """Stands for an argument that does not travel with each call that needs it."""

    def load(self) -> Any:
        """Return the argument."""


class Span(NamedTuple):
    """Where a buffer is in a file: its first byte, and the byte after its last."""

    start: int
    stop: int


@dataclass(frozen=True)
class InFile:
    """An argument whose buffers are in a file of this machine. All workers map the same file.

    Args:
        pickled: the argument without its buffers.
        path: the file, in a directory that only this user can enter.
        spans: where the buffers are.
        writable: whether the worker may write to its own copy of the buffers; otherwise they are read-only.
    """

    pickled: bytes
    path: str
    spans: Sequence[Span]
    writable: bool

    def load(self) -> Any:
        """Map the file, and return the argument. The mapping ends with the last object that uses it."""
        with open(self.path, "rb") as file:
            access = mmap.ACCESS_COPY if self.writable else mmap.ACCESS_READ
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=access))
        return pickle.loads(self.pickled, buffers=[mapped[start:stop] for start, stop in self.spans])


@dataclass(frozen=True)
class InStorage:
    """An argument that is in the storage as the result of a call, which the worker reads there.

    Args:
        future: the future of that call. It arrives at the worker as a finished future.
    """

    future: Any

    def load(self) -> Any:
        """Return the argument."""
        return self.future.result()


def itself(value: Any) -> Any:
    """Return the argument: a call of this function leaves it in the storage as its result."""
    return value


def loaded(argument: Any) -> Any:
    """Return the argument that an object stands for, or the object itself if it stands for none."""
    return argument.load() if isinstance(argument, (InFile, InStorage)) else argument
