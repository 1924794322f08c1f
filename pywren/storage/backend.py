"""What a storage must be able to do: four methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pywren.exceptions import StorageError


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

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes:
        """Return an object's bytes, or those from one offset to another, both included.

        Raises:
            StorageNoSuchKeyError: there is no such object.
        """

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """Return the keys that start with a prefix, and come after another key, in order."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are missing are no error."""

    def close(self) -> None:
        """Give up connections; the backend is not used afterwards."""


def check_range(key: str, byte_range: tuple[int, int] | None) -> None:
    """Check a byte range before it is sent: S3 answers one that is upside down with the whole object.

    Raises:
        StorageError: it is no range.
    """
    if byte_range is not None and not 0 <= byte_range[0] <= byte_range[1]:
        raise StorageError(f"cannot read {key}: {byte_range} is no range of bytes")
