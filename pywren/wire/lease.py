"""``Holder``: what a lease says. The client that drives a callset keeps a lease on it in the storage."""

from __future__ import annotations

from typing import NamedTuple

from pywren.wire.reading import dump
from pywren.wire.signed import opened, sign

LEASE_LIMIT = 4096
"""The largest encoded lease, in bytes."""

_LONGEST_NAME = 255  # of a host (RFC 1035), so that a lease never exceeds its limit


class Holder(NamedTuple):
    """The client that drives a callset: it alone retries calls, starts backups and gives calls up.

    Args:
        id: tells this holder from all others; empty if the holder is only presumed.
        host: the name of its machine, for people.
        pid: its process there, for people.
        since: when it began to hold the lease, by the storage's clock in seconds since the epoch.
        renewed: when it last renewed the lease, by the same clock.
    """

    id: str
    host: str
    pid: int
    since: float
    renewed: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.id else "the client that made the calls"

    def encode(self, secret: bytes) -> bytes:
        """Return the lease, signed with the secret of its callset."""
        return sign(dump({**self._asdict(), "host": self.host[:_LONGEST_NAME]}), secret, _PURPOSE)

    @classmethod
    def decode(cls, data: bytes, secret: bytes) -> Holder:
        """Read a lease.

        Raises:
            IntegrityError: it is not signed with the secret of this callset.
            DecodeError: it is signed, but is not a lease.
        """
        refusal = "the lease is not signed with the secret of its callset"
        reader = opened(data, secret, _PURPOSE, "the lease", refusal)
        return cls(
            id=reader.take("id", str),
            host=reader.take("host", str),
            pid=reader.take("pid", int),
            since=reader.take_number("since"),
            renewed=reader.take_number("renewed"),
        )


_PURPOSE = "lease:"
