"""``Call``: one item of a map, in the form of the payload that is sent to a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pywren.exceptions import DecodeError
from pywren.wire.keys import CallKeys
from pywren.wire.reading import Reader, load_object, to_base64
from pywren.wire.references import Reference, decode_reference, reference_lists

ASYNC_PAYLOAD_LIMIT = 1_000_000
"""The largest payload of an asynchronous Lambda invocation, in bytes: 1 MB (AWS Lambda quotas, 2026)."""

FORMAT = 3
"""The format of payloads, statuses and staged objects. Raise it with every change that older workers or clients would
misread. Payloads without a format have format 1."""

INLINE_ARGUMENT_LIMIT = 128 * 1024
"""The largest pickled argument, in bytes, that is sent inside the payload."""


def _payload_object(payload: object) -> dict[str, Any]:
    """Return the payload as a dict. Lambda delivers a dict; queues and 0.4's tools deliver JSON."""
    if isinstance(payload, (str, bytes)):
        return load_object(payload, "the payload")
    if isinstance(payload, (bytearray, memoryview)):
        return load_object(bytes(payload), "the payload")
    if isinstance(payload, Mapping) and all(isinstance(key, str) for key in payload):
        return dict(payload)
    raise DecodeError(f"the payload is a {type(payload).__name__}, not a JSON object")


@dataclass(frozen=True)
class Envelope:
    """The part of a payload that every version of pywren can read: where to report, and which client sent it.

    A ``format`` that is not a number is 0, so that it differs from that of every worker.
    """

    storage_config: Mapping[str, Any]
    callset_id: str
    call_id: str
    status_key: str
    pywren_version: str
    python_version: str | None
    attempt: int = 1
    attempt_key: bytes | None = field(default=None, repr=False)
    format: int = FORMAT

    @classmethod
    def decode(cls, payload: object) -> Envelope:
        """Read a payload's envelope.

        Raises:
            DecodeError: it is not a payload of any version.
        """
        reader = Reader("the payload", _payload_object(payload))
        number = reader.rest.pop("format", 1)
        return cls(
            storage_config=reader.take("storage_config", dict),
            callset_id=reader.take("callset_id", str),
            call_id=reader.take("call_id", str),
            status_key=reader.take("status_key", str),
            pywren_version=reader.take("pywren_version", str, ""),
            python_version=reader.take("python_version", str, None),
            attempt=reader.take_attempt(),
            attempt_key=reader.take_hex("attempt_key"),
            format=number if type(number) is int else 0,
        )


@dataclass(frozen=True)
class Call:
    """One item of a map, in the form of the payload that is sent to a worker.

    The fields are the payload's JSON keys; ``extra`` contains all other keys (``extra_meta``). ``data_byte_range``
    includes both ends. ``attempt_key`` signs the status of this attempt. The payload contains the digest and the size
    of each object. The worker reads no more bytes than the size, because anyone who can write to the bucket could
    enlarge an object.

    Three fields say what a worker may do for a client that tries again. With ``retryable``, failures that another
    attempt may cure (``CURABLE``) are written under the attempt's own key instead of the call's status key. With
    ``retry_exceptions``, so are the function's exceptions and its other failures. With ``beacon``, a call that takes
    longer shows that it still runs.

    ``client_process`` is a random name of the process that made the call. Callsets of one such process that have the
    same function may use the same worker processes, one after the other.
    """

    storage_config: Mapping[str, Any]
    callset_id: str
    call_id: str
    func_key: str
    data_key: str
    output_key: str
    status_key: str
    cancel_key: str
    job_max_runtime: float
    data_byte_range: tuple[int, int] | None = None
    use_cached_runtime: bool = True
    runtime: Mapping[str, Any] | None = None
    runtime_url: str | None = None
    pywren_version: str = ""
    extra_env: Mapping[str, str] | None = None
    host_submit_time: float = 0.0
    # The following are not in 0.4.
    python_version: str | None = None
    attempt: int = 1
    attempt_key: bytes | None = field(default=None, repr=False)
    func_sha256: str | None = None
    data_sha256: str | None = None
    runtime_sha256: str | None = None
    data_inline: bytes | None = field(default=None, repr=False)
    references: tuple[Reference, ...] = ()
    references_sha256: str | None = None
    func_size: int | None = None
    data_size: int | None = None
    runtime_size: int | None = None
    references_size: int | None = None
    retryable: bool = False
    retry_exceptions: bool = False
    beacon: bool = False
    client_process: str | None = None
    format: int = FORMAT
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> dict[str, Any]:
        """Return the payload as a dict that JSON can encode, without the optional keys that are ``None``."""
        document = {**_NULL_IN_0_4, **encode_fields({name: getattr(self, name) for name in _NAMES})}
        document.update(self.extra)
        return document

    def sibling(self, call_id: str, keys: CallKeys, own: Mapping[str, Any]) -> Call:
        """Return a call of the same callset.

        Args:
            call_id: the call.
            keys: the keys of its objects.
            own: further fields that it does not share with this one.
        """
        # Not ``replace``, which takes twice as long: a map may have 100,000 calls.
        members = {
            **self.__dict__,
            "call_id": call_id,
            "data_key": keys.data,
            "output_key": keys.output,
            "status_key": keys.status,
            "cancel_key": keys.cancel,
            **own,
        }
        return Call(**members)

    @classmethod
    def decode(cls, payload: object) -> Call:
        """Read a payload.

        Args:
            payload: the dict, or its JSON.

        Raises:
            DecodeError: it is not a payload; the message names the first wrong field.
        """
        reader = Reader("the payload", _payload_object(payload))
        references = reader.take("references", list, [])
        call = cls(
            storage_config=reader.take("storage_config", dict),
            callset_id=reader.take("callset_id", str),
            call_id=reader.take("call_id", str),
            func_key=reader.take("func_key", str),
            data_key=reader.take("data_key", str),
            output_key=reader.take("output_key", str),
            status_key=reader.take("status_key", str),
            cancel_key=reader.take("cancel_key", str),
            job_max_runtime=reader.take_number("job_max_runtime"),
            data_byte_range=reader.take_range("data_byte_range"),
            use_cached_runtime=reader.take("use_cached_runtime", bool, True),
            runtime=reader.take("runtime", dict, None),
            runtime_url=reader.take("runtime_url", str, None),
            pywren_version=reader.take("pywren_version", str, ""),
            extra_env=_texts(reader.take("extra_env", dict, None)),
            host_submit_time=reader.take_number("host_submit_time", 0.0),
            python_version=reader.take("python_version", str, None),
            attempt=reader.take_attempt(),
            attempt_key=reader.take_hex("attempt_key"),
            func_sha256=reader.take("func_sha256", str, None),
            data_sha256=reader.take("data_sha256", str, None),
            runtime_sha256=reader.take("runtime_sha256", str, None),
            data_inline=reader.take_bytes("data_inline"),
            references=tuple(decode_reference(item) for item in references),
            references_sha256=reader.take("references_sha256", str, None),
            func_size=reader.take_size("func_size"),
            data_size=reader.take_size("data_size"),
            runtime_size=reader.take_size("runtime_size"),
            references_size=reader.take_size("references_size"),
            retryable=reader.take("retryable", bool, False),
            retry_exceptions=reader.take("retry_exceptions", bool, False),
            beacon=reader.take("beacon", bool, False),
            client_process=reader.take("client_process", str, None),
            format=reader.take("format", int, 1),
        )
        return replace(call, extra=reader.rest)


def encode_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a call as members of a payload, without those that are ``None`` or have no references.

    Args:
        values: the values, by the names of the fields.
    """
    return {
        name: _ENCODERS[name](value) if name in _ENCODERS else value
        for name, value in values.items()
        if value is not None and value != ()
    }


_ENCODERS: Mapping[str, Callable[[Any], Any]] = {
    "data_byte_range": list,
    "attempt_key": bytes.hex,
    "data_inline": to_base64,
    "references": reference_lists,
}
_NULL_IN_0_4: Mapping[str, None] = {"data_byte_range": None, "runtime": None, "runtime_url": None}
"""Members that every payload of 0.4 has."""

_NAMES = tuple(item.name for item in fields(Call) if item.name != "extra")  # in order, so that payloads are alike
CALL_FIELDS = frozenset(_NAMES)
"""The keys of a payload. ``extra_meta`` must not use them."""


def _texts(value: dict[str, Any] | None) -> dict[str, str] | None:
    if value is not None and not all(isinstance(text, str) for text in value.values()):
        raise DecodeError("the payload: 'extra_env' has a value that is not a string")
    return value
