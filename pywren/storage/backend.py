"""``Backend``: the interface of a storage backend, which has five methods for objects, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from pywren.exceptions import IntegrityError, StorageError, StorageNoSuchKeyError


class Backend(Protocol):
    """Stores objects under keys. Reads are strongly consistent and writes are atomic.

    If a method fails, it raises a ``StorageError`` or a subclass, never an error of the underlying library. Threads may
    share a backend.
    """

    def put(self, key: str, data: bytes | bytearray | memoryview, *, if_absent: bool = False) -> bool:
        """Store an object.

        Args:
            key: the object's key: names separated by slashes, relative to the bucket or directory.
            data: the object's bytes.
            if_absent: if the object exists already, leave it as it is.

        Returns:
            Whether the object was written; False only if ``if_absent`` is set and the object existed already.
        """

    def get(self, key: str, byte_range: tuple[int, int] | None = None, *, limit: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them.

        Args:
            key: the object's key.
            byte_range: the first and last offset, both inclusive; the object may end before the last one.
            limit: the most bytes to accept. Not much more than this is read from a bigger object.

        Raises:
            StorageNoSuchKeyError: the object does not exist.
            IntegrityError: the object has more than ``limit`` bytes.
        """

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """Return the keys that start with a prefix and sort after ``start_after``, in order."""

    def list_timed(
        self, prefix: str, start_after: str = "", *, suffix: str, skip: tuple[str, str] | None = None
    ) -> tuple[Sequence[str], Mapping[str, float]]:
        """Return the same keys as ``list``, and when the objects were written whose keys end with a suffix.

        The times are in seconds since the epoch, by the storage's clock, and may be rounded down to whole seconds. Of
        an object that is deleted meanwhile, the time may be missing.

        Args:
            prefix: as for ``list``.
            start_after: as for ``list``.
            suffix: the suffix.
            skip: two keys; those between them may be left out, where that saves requests.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects. Objects that do not exist are not an error."""

    def now(self) -> float:
        """Return the time by the clock that gives the storage's objects their times, in seconds since the epoch."""

    def close(self) -> None:
        """Close the connections. The backend must not be used afterwards."""


class NamesOf04:
    """The methods of PyWren 0.4's backends, on top of those of ``Backend``."""

    def put_object(self: Backend, key: str, data: bytes | str) -> None:
        """Store an object."""
        self.put(key, as_bytes(data))

    def get_object(self: Backend, key: str) -> bytes:
        """Return an object's bytes.

        Raises:
            StorageNoSuchKeyError: the object does not exist.
        """
        return self.get(key)

    def key_exists(self: Backend, key: str) -> bool:
        """Tell whether an object exists under a key."""
        try:
            self.get(key)
        except StorageNoSuchKeyError:
            return False
        return True

    def list_keys_with_prefix(self: Backend, prefix: str) -> list[str]:
        """Return the keys that start with a prefix, in order."""
        return self.list(prefix)


def as_bytes(data: bytes | str) -> bytes:
    """Return an object's content as bytes. 0.4 also stored strings, as UTF-8."""
    return data.encode() if isinstance(data, str) else data


def check_range(key: str, byte_range: tuple[int, int] | None) -> None:
    """Check a byte range before sending it, as S3 ignores an invalid range and returns the whole object (RFC 9110).

    Raises:
        StorageError: the range is not valid.
    """
    if byte_range is not None and not 0 <= byte_range[0] <= byte_range[1]:
        raise StorageError(f"cannot read {key}: {byte_range} is not a byte range")


def read_at_most(read: Callable[[int], bytes], limit: int, key: str) -> bytes:
    """Read a stream to its end, up to a limit, because anyone who can write an object can make it any size.

    Args:
        read: reads a number of bytes from the stream; returns fewer only near the end, and none at the end.
        limit: the most bytes to accept.
        key: the object's key, for the error message.

    Raises:
        IntegrityError: the stream is longer than ``limit``. To find this out, one byte beyond the limit is read.
    """
    pieces, size = [], 0
    while size <= limit and (piece := read(limit + 1 - size)):
        pieces.append(piece)
        size += len(piece)
    if size > limit:
        raise IntegrityError(
            f"{key} is not what was stored: it is longer than the {limit:,} bytes allowed. Someone or something else "
            "overwrote it; it was not unpickled"
        )
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
