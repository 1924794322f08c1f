"""What a storage must be able to do: four methods, and to tell the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from pywren.exceptions import IntegrityError, StorageError, StorageNoSuchKeyError


class Backend(Protocol):
    """Objects by key, strongly consistent, each put whole or not at all.

    Every method raises an error of the ``StorageError`` branch, never the lower library's own.
    Methods may be called from several threads at once.
    """

    def put(self, key: str, data: bytes | bytearray | memoryview, *, if_absent: bool = False) -> bool:
        """Store an object.

        Args:
            key: slash-separated, relative to the bucket or directory.
            data: the object's bytes.
            if_absent: leave an object that stands already as it is.

        Returns:
            Whether the object was written: False only with ``if_absent``, when one stood already.
        """

    def get(self, key: str, byte_range: tuple[int, int] | None = None, *, limit: int | None = None) -> bytes:
        """Return an object's bytes, or those from one offset to another, both included.

        Args:
            key: the object's key.
            byte_range: the first and the last offset; the object may end before the last.
            limit: bytes that are expected at most; of a bigger object no more than that is read.

        Raises:
            StorageNoSuchKeyError: there is no such object.
            IntegrityError: there are more bytes than ``limit``.
        """

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """Return the keys that start with a prefix, and come after another key, in order."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are missing are no error."""

    def now(self) -> float:
        """Return the time by the clock that the storage's own times are of, in seconds since the epoch."""

    def close(self) -> None:
        """Give up connections; the backend is not used afterwards."""


class NamesOf04:
    """The methods that backends had in PyWren 0.4, over those of ``Backend``."""

    def put_object(self: Backend, key: str, data: bytes | str) -> None:
        """Store an object."""
        self.put(key, as_bytes(data))

    def get_object(self: Backend, key: str) -> bytes:
        """Return an object's bytes.

        Raises:
            StorageNoSuchKeyError: there is no such object.
        """
        return self.get(key)

    def key_exists(self: Backend, key: str) -> bool:
        """Tell whether there is an object under a key."""
        try:
            self.get(key)
        except StorageNoSuchKeyError:
            return False
        return True

    def list_keys_with_prefix(self: Backend, prefix: str) -> list[str]:
        """Return the keys that start with a prefix, in order."""
        return self.list(prefix)


def as_bytes(data: bytes | str) -> bytes:
    """Return what an object is to hold: 0.4 stored text too, as UTF-8."""
    return data.encode() if isinstance(data, str) else data


def check_range(key: str, byte_range: tuple[int, int] | None) -> None:
    """Check a byte range before it is sent: S3 answers one that is upside down with the whole object.

    Raises:
        StorageError: it is no range.
    """
    if byte_range is not None and not 0 <= byte_range[0] <= byte_range[1]:
        raise StorageError(f"cannot read {key}: {byte_range} is no range of bytes")


def read_at_most(read: Callable[[int], bytes], limit: int, key: str) -> bytes:
    """Read to the end of what must not be longer than expected: whoever can write an object can make it any size.

    Args:
        read: reads so many bytes, fewer only near the end, none at it.
        limit: bytes that are expected at most.
        key: the object's key, for the error.

    Raises:
        IntegrityError: there is more; one byte of that was read.
    """
    pieces, size = [], 0
    while size <= limit and (piece := read(limit + 1 - size)):
        pieces.append(piece)
        size += len(piece)
    if size > limit:
        raise IntegrityError(
            f"{key} is not what was stored: it is longer than the {limit:,} bytes that it may have. Someone or "
            "something else wrote there; it was not unpickled"
        )
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
