"""``FunctionCache`` and ``OutcomeCache``: what a warm worker keeps between calls of the objects that it has read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from pywren.wire.digests import verify_sha256
from pywren.wire.function import StagedFunction

LIMIT = 128 * 1024 * 1024
"""The most bytes of staged functions that a warm worker keeps."""


OUTCOMES_LIMIT = 64 * 1024 * 1024
"""The most bytes of earlier calls' outcomes that a warm worker keeps. An outcome that is bigger is read for each call.
"""

T = TypeVar("T")

_Name = tuple[str, str | None]
"""The key of a function's object, and its digest."""


class _Cache(Generic[T]):
    """Keeps the most recently used objects of a storage, verified, up to a total size. Threads may share it.

    The lock guards the tables only. One thread fetches a function. Other threads that need the same function wait for
    its ``_Fetch`` without the lock, and threads that need another function are not held up.

    Args:
        limit: the most bytes to keep; an object that is bigger than this is fetched for every call.
        decode: turns the verified bytes of an object into what is kept.
    """

    def __init__(self, limit: int, decode: Callable[[bytes], T]) -> None:
        self._limit = limit
        self._decode = decode
        self._entries: OrderedDict[_Name, tuple[T, int]] = OrderedDict()
        self._size = 0
        # A worker with several threads gets the first calls of a map at the same time: without this table each would
        # fetch the same function.
        self._fetches: dict[_Name, _Fetch[T]] = {}
        self._lock = threading.Lock()

    def get(self, key: str, digest: str | None, fetch: Callable[[], bytes], what: str = "") -> T:
        """Return an object, from the cache or by fetching and verifying it.

        Args:
            key: the key of the function's object.
            digest: the object's SHA-256, from the payload.
            fetch: reads the object.
            what: what it is, for the error message; by default its key.

        Raises:
            IntegrityError: the object is not the one that the payload names.
            StorageError: the object cannot be read.
        """
        name = key, digest
        while True:
            with self._lock:
                if name in self._entries:
                    self._entries.move_to_end(name)
                    return self._entries[name][0]
                # In the same step as the look at the entries: the fetching thread fills the one and clears the other,
                # both under this lock, so no third thread can miss both.
                theirs = self._fetches.get(name)
                if theirs is None:
                    ours = self._fetches[name] = _Fetch()
            if theirs is None:
                # Without the lock: a function of 100 MB takes seconds, in which other functions stay available.
                return self._fetch(name, ours, fetch, what or key)
            # No time-out is needed: _fetch() sets the event however it ends, and its requests have time-outs of their
            # own.
            theirs.ended.wait()
            # Read from the fetch rather than from the table: a function beyond the limit is never kept there.
            if theirs.function is not None:
                return theirs.function
            # The other thread's fetch failed, perhaps because of its own call. So each call that waited tries again.

    def _fetch(self, name: _Name, under_way: _Fetch[T], fetch: Callable[[], bytes], what: str) -> T:
        digest = name[1]
        try:
            data = fetch()
            # Before decoding: until then this may be anybody's object. Waiting threads share the check, as ``name`` has
            # the digest.
            verify_sha256(data, digest, what)
            function = self._decode(data)
            # Set before the event, which makes it visible to the threads that wait.
            under_way.function = function
            with self._lock:
                self._keep(name, function, len(data))
            return function
        finally:
            # First clear the table, then set the event: a thread that wakes up must not find this fetch again.
            with self._lock:
                del self._fetches[name]
            under_way.ended.set()

    def _keep(self, name: _Name, function: T, size: int) -> None:
        if size > self._limit:
            return
        # Called with the lock held. Only one thread fetches a name at a time, so this never replaces an entry and never
        # counts its size twice.
        self._entries[name] = function, size
        self._size += size
        while self._size > self._limit:
            # The least recently used. Calls that use it now hold their own reference, so its memory is freed when they
            # end.
            _, (_, dropped) = self._entries.popitem(last=False)
            self._size -= dropped


class FunctionCache(_Cache[StagedFunction]):
    """Keeps staged functions.

    Args:
        limit: the most bytes to keep.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit, StagedFunction.decode)


class OutcomeCache(_Cache[bytes]):
    """Keeps outcomes of earlier calls, encoded, because several calls of a map may have the same one as an argument."""

    def __init__(self) -> None:
        super().__init__(OUTCOMES_LIMIT, bytes)


class _Fetch(Generic[T]):
    """A fetch of a function that is in progress.

    Attributes:
        ended: set when the fetch has succeeded or failed.
        function: the function that was fetched; ``None`` if the fetch failed.
    """

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.function: T | None = None
