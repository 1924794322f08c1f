"""``Status``: how one attempt of a call ended, signed by the worker that ran it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pywren.exceptions import DecodeError
from pywren.wire.cause import Cause
from pywren.wire.digests import attempt_key
from pywren.wire.failure import Failure
from pywren.wire.reading import Reader, dump, load_object, to_base64
from pywren.wire.signed import is_signed, sign

STATUS_LIMIT = 4 * 1024 * 1024
"""The largest encoded status, in bytes. The largest inline outcome takes a twelfth of it; texts and outputs less."""


CLIENT_ATTEMPT = 0
"""The number in statuses that a client writes to end a call. The key of this attempt is in no payload, so no record of
a failed event can ever show it."""


@dataclass(frozen=True)
class Status:
    """What the worker reports about one attempt of a call.

    A failed attempt has ``failure``. Any other has an outcome: either encoded in ``outcome``, or in the object
    ``output_key``, whose digest is ``output_sha256`` and whose length is ``output_size`` bytes.
    ``exception_traceback`` is the formatted remote traceback if the function raised. ``info`` contains 0.4's other
    keys: times in seconds since the epoch, log names, ``stdout``, ``stderr``, ``server_info`` and so on.
    Only those who verify set ``signed``, and only readers set ``page``: the key of the page of a journal that contains
    the status (``wire.journal``), if it is not an object of its own.
    """

    callset_id: str
    call_id: str
    attempt: int = 1
    failure: Failure | None = None
    outcome: bytes | None = field(default=None, repr=False)
    output_key: str | None = None
    output_sha256: str | None = None
    output_size: int | None = None
    exception_traceback: str | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    signed: bool = False
    page: str | None = field(default=None, compare=False)

    def document(self) -> dict[str, Any]:
        """Return the dict that users see as ``run_status``. It does not contain the outcome itself."""
        document: dict[str, Any] = {str(name): value for name, value in self.info.items() if name not in _STATUS_OWN}
        document.update(
            callset_id=self.callset_id,
            call_id=self.call_id,
            attempt=self.attempt,
            output_key=self.output_key,
            **self._exception_of_0_4(),
        )
        if self.output_sha256 is not None:
            document["output_sha256"] = self.output_sha256
        if self.output_size is not None:
            document["output_size"] = self.output_size
        if self.failure is not None:
            document["failure"] = [self.failure.kind, self.failure.message, *self.failure.details]
            if self.failure.cause is not None:
                document["cause"] = self.failure.cause.value
        return document

    def _exception_of_0_4(self) -> dict[str, Any]:
        """Return three exception keys, which programs for PyWren 0.4 read as a failure of the worker."""
        if self.failure is None:
            return {"exception": None, "exception_args": None, "exception_traceback": self.exception_traceback}
        args = self.failure.args_of_0_4()
        return {
            "exception": None if args is None else str(Exception(*args)),
            "exception_args": None if args is None else list(args),
            "exception_traceback": f"pywren.exceptions.{self.failure.kind}: {self.failure.message}",
        }

    def encode(self, key: bytes | None) -> bytes:
        """Return ``status.json``.

        Args:
            key: the attempt's key; ``None`` leaves the status unsigned, and the client then treats it as an error.
        """
        body = dump(self.members())
        return body if key is None else sign(body, key)

    def members(self) -> dict[str, Any]:
        """Return all members of ``status.json`` but the signature, in a form that JSON can encode."""
        document = self.document()
        if self.outcome is not None:
            document["outcome"] = to_base64(self.outcome)
        # A worker must always be able to report how a call ended, whatever info and details contain.
        members: dict[str, Any] = _plain(document)
        return members

    @classmethod
    def decode(cls, data: bytes) -> Status:
        """Read a status without checking its signature; ``signed`` is False.

        Raises:
            DecodeError: the bytes are not a status.
        """
        return cls.of_members(load_object(data, "the status"))

    @classmethod
    def of_members(cls, members: Mapping[str, Any], *, page: str | None = None, signed: bool = False) -> Status:
        """Read a status from its members, without its signature.

        Args:
            members: the members.
            page: see ``Status``.
            signed: whether the caller has verified that they were signed.

        Raises:
            DecodeError: they are not those of a status.
        """
        reader = Reader("the status", members)
        failure, cause = reader.take("failure", list, None), reader.rest.pop("cause", None)
        trace = _text(reader.rest.pop("exception_traceback", None))
        for name in ("signature", "exception", "exception_args"):  # document() makes the last two from the failure
            reader.rest.pop(name, None)
        return cls(
            callset_id=reader.take("callset_id", str),
            call_id=reader.take("call_id", str),
            attempt=reader.take_attempt(CLIENT_ATTEMPT),
            failure=None if failure is None else _failure(failure, cause),
            outcome=reader.take_bytes("outcome"),
            output_key=reader.take("output_key", str, None),
            output_sha256=reader.take("output_sha256", str, None),
            output_size=reader.take_size("output_size"),
            exception_traceback=trace if failure is None else None,
            info={_known(name): value for name, value in reader.rest.items()},
            signed=signed,
            page=page,
        )

    @classmethod
    def verify(cls, data: bytes, secret: bytes, callset_id: str, call_id: str) -> Status:
        """Read the status of a call and check its signature. Then ``signed`` tells whether to believe the status.

        A status is not believed if its signature is wrong or if it belongs to another call.

        Args:
            data: the bytes of ``status.json``.
            secret: the callset's secret.
            callset_id: the callset of the expected status.
            call_id: the call of the expected status.

        Raises:
            DecodeError: the bytes are not a status.
        """
        status = cls.decode(data)
        if (status.callset_id, status.call_id) != (callset_id, call_id):
            return status
        return replace(status, signed=is_signed(data, attempt_key(secret, call_id, status.attempt)))


_MOST_NAMES = 256
_names: dict[str, str] = {}  # threads may add to it at the same time: setdefault() is atomic

_STATUS_OWN = frozenset(
    {
        "callset_id",
        "call_id",
        "attempt",
        "failure",
        "cause",
        "outcome",
        "output_key",
        "output_sha256",
        "output_size",
        "exception",
        "exception_args",
        "exception_traceback",
        "signature",
    }
)


def _plain(value: Any, depth: int = 8) -> Any:
    """Return a value in a form that JSON can encode. Anything else, or anything nested too deeply, becomes a string."""
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if depth and isinstance(value, Mapping):
        return {str(name): _plain(item, depth - 1) for name, item in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    return repr(value)


def _known(name: str) -> str:
    """Return a name of ``info``, as one object for all statuses: 40 copies would be half of the memory of a status."""
    # Bounded, because anybody who can write to the bucket can invent names.
    return _names.setdefault(name, name) if len(_names) < _MOST_NAMES else _names.get(name, name)


def _text(value: Any) -> str | None:
    # PyWren 0.4 also wrote lists and other values here, but only people read them.
    return value if value is None or isinstance(value, str) else str(value)


def _failure(item: list[Any], cause: Any) -> Failure:
    if len(item) < 2 or not all(isinstance(part, str) for part in item[:2]):
        raise DecodeError("the status: 'failure' does not begin with a kind and a message")
    return Failure(item[0], item[1], tuple(item[2:]), _CAUSES.get(cause) if isinstance(cause, str) else None)


_CAUSES = {cause.value: cause for cause in Cause}  # a newer worker may know more causes
