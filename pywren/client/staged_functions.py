"""``StagedFunctions``: the functions that this client has stored a short while ago, and need not store again.

A function is found again by the digest of its bytes, which the payload names too: a worker believes no other bytes,
whoever has written the object. No request asks whether the object still exists. S3's lifecycle rules delete objects by
their age in whole days, and ``pywren gc`` warns of ages at which calls may still run, ``REUSED_FOR`` included. So an
object that was stored within that time outlives the calls that use it, as an object of their own would.

Threads may share it without a lock: each step is one operation of a dictionary, and to store a function twice does no
harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pywren.wire.function import REUSED_FOR

_MOST = 256  # a program that maps endlessly many functions must not fill its memory with their digests

_SLACK = 60.0  # seconds


class _Place(NamedTuple):
    key: str
    stored_at: float  # by the storage's clock, in seconds since the epoch


class StagedFunctions:
    """Remembers where functions were stored.

    Args:
        now: returns the storage's time, in seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._places: dict[str, _Place] = {}

    def find(self, digest: str) -> str | None:
        """Return the key of a function that was stored within ``REUSED_FOR``; ``None`` if it must be stored."""
        place = self._places.get(digest)
        if place is None:
            return None
        # A clock that was set back must not make an old object young. But the storage's clock may go back a little when
        # its first answer is known, because the answer tells whole seconds.
        age = self._now() - place.stored_at
        return place.key if -_SLACK <= age < REUSED_FOR else None

    def keep(self, digest: str, key: str, stored_at: float) -> None:
        """Remember a function.

        Args:
            digest: the SHA-256 of its object.
            key: the key of its object.
            stored_at: a time before it was stored, by the storage's clock.
        """
        self._places.pop(digest, None)
        self._places[digest] = _Place(key, stored_at)
        for oldest in list(self._places)[:-_MOST]:
            self._places.pop(oldest, None)

    def forget(self, digest: str) -> None:
        """Forget a function, whose object was deleted or replaced."""
        self._places.pop(digest, None)
