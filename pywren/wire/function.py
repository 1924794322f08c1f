"""``StagedFunction``: a function and the user's modules, in the form of the object that a worker fetches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pywren.exceptions import DecodeError
from pywren.wire.reading import dump, split_header

REUSED_FOR = 3600.0
"""Seconds for which a client uses a stored function again for other callsets. Lifecycle rules delete objects after a
number of days, of which this hour is a small part."""


@dataclass(frozen=True)
class StagedFunction:
    """The object under ``func_key``: the pickled function and the user's modules that it needs.

    Args:
        pickle: the pickled function.
        modules: the contents of source and data files, keyed by relative POSIX path; the worker writes them to a
            separate directory.
    """

    pickle: bytes
    modules: Mapping[str, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return one line of JSON with all lengths, then the pickle, then the files."""
        head = {"pickle": len(self.pickle), "modules": [[path, len(data)] for path, data in self.modules.items()]}
        return b"".join((dump(head), b"\n", self.pickle, *self.modules.values()))

    @classmethod
    def decode(cls, data: bytes) -> StagedFunction:
        """Read a staged function without unpickling it.

        Raises:
            DecodeError: the bytes are not a staged function, or a path leads out of the directory.
        """
        reader, start = split_header(data, "the staged function")
        end = start + reader.take("pickle", int)
        if end < start:
            raise DecodeError("the staged function: its pickle has a negative length")
        pickle = data[start:end]
        modules = {}
        for item in reader.take("modules", list):
            if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and type(item[1]) is int):
                raise DecodeError("the staged function: a module is not a pair of path and length")
            path, size = item
            if size < 0 or {"\\", "\0"} & set(path) or {"", ".", ".."} & set(path.split("/")):
                raise DecodeError(f"the staged function: {path!r} is not a safe path")
            modules[path], end = data[end : end + size], end + size
        if end != len(data):
            raise DecodeError("the staged function: its parts do not add up to its length")
        return cls(pickle, modules)
