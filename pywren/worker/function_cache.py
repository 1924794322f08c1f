"""``FunctionCache``: the staged functions that a warm worker keeps between calls."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from pywren.wire.digests import verify_sha256
from pywren.wire.function import StagedFunction

LIMIT = 128 * 1024 * 1024
"""The most bytes of staged functions that a warm worker keeps."""


class FunctionCache:
    """Keeps the most recently used staged functions, verified, up to a total size. Threads may share it.

    Args:
        limit: the most bytes to keep; a bigger function is fetched for every call.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._entries: OrderedDict[tuple[str, str | None], tuple[StagedFunction, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: str, digest: str | None, fetch: Callable[[], bytes]) -> StagedFunction:
        """Return a function, from the cache or by fetching and verifying it.

        Args:
            key: the key of its object.
            digest: its SHA-256, from the payload.
            fetch: reads the object.

        Raises:
            IntegrityError: the object is not the one that the payload names.
            StorageError: it cannot be read.
        """
        # The lock is held while fetching on purpose: calls that wait mostly belong to one map and need the same object.
        with self._lock:
            if (key, digest) in self._entries:
                self._entries.move_to_end((key, digest))
                return self._entries[key, digest][0]
            data = fetch()
            verify_sha256(data, digest, key)
            function = StagedFunction.decode(data)
            self._keep((key, digest), function, len(data))
            return function

    def _keep(self, name: tuple[str, str | None], function: StagedFunction, size: int) -> None:
        if size > self._limit:
            return
        self._entries[name] = function, size
        self._size += size
        while self._size > self._limit:
            _, (_, dropped) = self._entries.popitem(last=False)
            self._size -= dropped
