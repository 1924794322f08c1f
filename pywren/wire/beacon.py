"""``Beacon``: how a worker shows that it runs an attempt of a call. It writes the beacon again and again."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pywren.exceptions import IntegrityError
from pywren.wire.digests import attempt_key, chunk_key
from pywren.wire.keys import chunk_name
from pywren.wire.reading import Reader, dump
from pywren.wire.signed import is_signed, opened, sign

BEACON_LIMIT = 8 * 1024
"""The largest encoded beacon, in bytes. The longest log names have 512 characters each (CloudWatch Logs quotas)."""


@dataclass(frozen=True)
class Beacon:
    """A sign of life of one attempt of one call.

    Args:
        callset_id: the callset of the call.
        call_id: the call.
        attempt: the attempt, from 1.
        started_at: when the worker began to handle the attempt, by its clock, in seconds since the epoch.
        renewed: how many times the beacon was written before.
        request_id: the service's id of the invocation; empty if there is none.
        log_group: the worker's log group on Lambda; else empty.
        log_stream: the worker's log stream on Lambda; else empty.
        instance: the worker's machine, if it is not Lambda; else empty.
    """

    callset_id: str
    call_id: str
    attempt: int
    started_at: float
    renewed: int = 0
    request_id: str = ""
    log_group: str = ""
    log_stream: str = ""
    instance: str = ""

    @property
    def where(self) -> str:
        """The worker: its log stream or its machine."""
        return self.log_stream or self.instance

    def encode(self, key: bytes) -> bytes:
        """Return the beacon's object, signed with the key of the attempt, or of the chunk whose first call it is."""
        return sign(dump(asdict(self)), key, _PURPOSE)

    @classmethod
    def verify(cls, data: bytes, secret: bytes, callset_id: str, call_id: str, attempt: int) -> Beacon:
        """Read a beacon and check that the worker of this attempt has written it.

        Args:
            data: the bytes of the object, at most ``BEACON_LIMIT``.
            secret: the callset's secret.
            callset_id: the callset of the expected beacon.
            call_id: the call of the expected beacon.
            attempt: the attempt of the expected beacon.

        Raises:
            DecodeError: the bytes are not a beacon.
            IntegrityError: it is not signed with the key of this attempt, or of the chunk that begins with it.
        """
        refusal = (
            f"the beacon of attempt {attempt} of call {call_id} of callset {callset_id} is ignored: its signature "
            "does not match. Someone or something other than the call's worker wrote it"
        )
        key = attempt_key(secret, call_id, attempt)
        if not is_signed(data, key, _PURPOSE):
            key = chunk_key(secret, chunk_name(call_id, attempt))
        beacon = cls._decode(opened(data, key, _PURPOSE, "the beacon", refusal))
        if (beacon.callset_id, beacon.call_id, beacon.attempt) != (callset_id, call_id, attempt):
            raise IntegrityError(f"the beacon of attempt {attempt} of call {call_id} belongs to another attempt")
        return beacon

    @classmethod
    def _decode(cls, reader: Reader) -> Beacon:
        return cls(
            callset_id=reader.take("callset_id", str),
            call_id=reader.take("call_id", str),
            attempt=reader.take_attempt(),
            started_at=reader.take_number("started_at"),
            renewed=reader.take("renewed", int, 0),
            request_id=reader.take("request_id", str, ""),
            log_group=reader.take("log_group", str, ""),
            log_stream=reader.take("log_stream", str, ""),
            instance=reader.take("instance", str, ""),
        )


_PURPOSE = "beacon:"
