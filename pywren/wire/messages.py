"""What crosses between client and worker: keys, Call, Status and Outcome, each with its encoding.

Nobody else builds or reads these dicts. JSON keys are PyWren 0.4's; what is new is optional. Decoding any
bytes gives a value or a ``DecodeError``, and never unpickles anything.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pywren.exceptions import DecodeError
from pywren.wire.digests import attempt_key, signature, signature_matches
from pywren.wire.failure import Failure

ASYNC_PAYLOAD_LIMIT = 1_000_000
"""Bytes of an asynchronous Lambda payload, 1 MB (AWS Lambda quotas, 2026)."""

INLINE_ARGUMENT_LIMIT = 128 * 1024
"""Bytes of a pickled argument up to which it travels inside the payload."""

INLINE_OUTCOME_LIMIT = 256 * 1024
"""Bytes of an encoded outcome up to which it travels inside ``status.json``."""

STATUS_LIMIT = 4 * 1024 * 1024
"""Bytes of an encoded status: the biggest outcome in it takes a twelfth of that, texts and tails of outputs less."""

INLINE_REFERENCES = 200
"""References that travel inside the payload; a longer list gets an object of its own."""

EAGER_OUTPUT_LIMIT = 1024 * 1024
"""Bytes of a separate output up to which the client fetches it before anyone asks."""


# -- keys ----------------------------------------------------------------------------------------------------

FUNC_SUFFIX = "func.pickle"
AGG_DATA_SUFFIX = "aggdata.pickle"
DATA_SUFFIX = "data.pickle"
OUTPUT_SUFFIX = "output.pickle"
STATUS_SUFFIX = "status.json"
CANCEL_SUFFIX = "cancel"


def failure_prefix(function: str) -> str:
    """Return what stands before the keys of Lambda's records of a function's failed calls; AWS fixes them."""
    return f"aws/lambda/async/{function}"


def function_name(name_or_arn: str) -> str:
    """Return the name of a Lambda function that was given by its ARN, or with a qualifier."""
    _, arn, name = name_or_arn.rpartition(":function:")
    return (name if arn else name_or_arn).partition(":")[0]


@dataclass(frozen=True)
class CallsetKeys:
    """The keys of all objects of one callset: ``<prefix>/<callset_id>/…``."""

    prefix: str
    callset_id: str

    @property
    def root(self) -> str:
        """The prefix that all keys of the callset start with, with its trailing slash."""
        return "/".join(part for part in (self.prefix.strip("/"), self.callset_id) if part) + "/"

    @property
    def func(self) -> str:
        """The function with its modules."""
        return self.root + FUNC_SUFFIX

    @property
    def aggdata(self) -> str:
        """Many small arguments end to end."""
        return self.root + AGG_DATA_SUFFIX

    def call(self, call_id: str) -> CallKeys:
        """The keys of one call."""
        return CallKeys(f"{self.root}{call_id}/")

    def call_id_of_status(self, key: str) -> str | None:
        """Return the call whose ``status.json`` this key is, or ``None`` when it is another object."""
        if not key.startswith(self.root):
            return None
        call_id, _, name = key[len(self.root) :].partition("/")
        return call_id if call_id and name == STATUS_SUFFIX else None


@dataclass(frozen=True)
class CallKeys:
    """The keys of the objects of one call: ``<prefix>/<callset_id>/<call_id>/…``."""

    root: str

    @property
    def data(self) -> str:
        """The argument, when it has an object of its own."""
        return self.root + DATA_SUFFIX

    @property
    def output(self) -> str:
        """The outcome, when it is too big for the status."""
        return self.root + OUTPUT_SUFFIX

    @property
    def status(self) -> str:
        """The one final status; whoever writes it first has ended the call."""
        return self.root + STATUS_SUFFIX

    @property
    def cancel(self) -> str:
        """0.4's mark of a cancelled call."""
        return self.root + CANCEL_SUFFIX

    def attempt(self, attempt: int) -> str:
        """The status of an attempt that failed and may be tried again."""
        return f"{self.root}attempts/{attempt}.json"

    def spare_output(self, attempt: int, sha256: str) -> str:
        """Where an outcome goes when another one stands under ``output`` already: a call may be delivered twice."""
        return f"{self.root}attempts/{attempt}-{sha256[:16]}.pickle"

    @property
    def references(self) -> str:
        """The list of references, when it is too long for the payload."""
        return self.root + "references.json"

    def input(self, index: int) -> str:
        """An outcome that an argument refers to and that stands nowhere else in this storage."""
        return f"{self.root}inputs/{index}.pickle"


# -- JSON ----------------------------------------------------------------------------------------------------


def _load_object(data: bytes | str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DecodeError(f"{what} is a JSON {type(value).__name__}, not an object")
    return value


class _Reader:
    """Takes typed fields out of a JSON object; every misfit is a ``DecodeError`` naming the field."""

    def __init__(self, what: str, document: Mapping[str, Any]) -> None:
        self.what = what
        self.rest = dict(document)

    def take(self, name: str, kind: type[Any] | tuple[type[Any], ...], default: Any = ...) -> Any:
        value = self.rest.pop(name, None)
        if value is None:
            if default is ...:
                raise DecodeError(f"{self.what} has no {name!r}")
            return default
        # bool is an int to isinstance, but true is no number here
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DecodeError(f"{self.what}: {name!r} is a {type(value).__name__}")
        return value

    def take_number(self, name: str, default: Any = ...) -> float:
        """Take a finite number: JSON of Python knows NaN, infinities and integers that no float can hold."""
        value: float = self.take(name, (int, float), default)
        try:
            finite = math.isfinite(value)
        except OverflowError:
            finite = False
        if not finite:
            raise DecodeError(f"{self.what}: {name!r} is not a finite number")
        return value

    def take_attempt(self) -> int:
        attempt: int = self.take("attempt", int, 1)
        if attempt < 1:
            raise DecodeError(f"{self.what}: 'attempt' is {attempt}, but they count from 1")
        return attempt

    def take_size(self, name: str) -> int | None:
        size: int | None = self.take(name, int, None)
        if size is not None and size < 0:
            raise DecodeError(f"{self.what}: {name!r} is {size}")
        return size

    def take_bytes(self, name: str) -> bytes | None:
        text = self.take(name, str, None)
        return None if text is None else _from_base64(text, f"{self.what}: {name!r}")

    def take_range(self, name: str) -> tuple[int, int] | None:
        value = self.take(name, (list, tuple), None)
        if value is None:
            return None
        if len(value) != 2 or not all(type(end) is int for end in value) or not 0 <= value[0] <= value[1]:
            raise DecodeError(f"{self.what}: {name!r} is not two offsets")
        return value[0], value[1]


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise DecodeError(f"{what} is not base64") from error


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


# -- Call ----------------------------------------------------------------------------------------------------


def _payload_object(payload: object) -> dict[str, Any]:
    if isinstance(payload, (str, bytes)):
        return _load_object(payload, "the payload")
    if isinstance(payload, (bytearray, memoryview)):
        return _load_object(bytes(payload), "the payload")
    if isinstance(payload, Mapping) and all(isinstance(key, str) for key in payload):
        return dict(payload)
    raise DecodeError(f"the payload is a {type(payload).__name__}, not a JSON object")


@dataclass(frozen=True)
class Envelope:
    """As much of a payload as any version of pywren can read: where to report, and who sent it."""

    storage_config: Mapping[str, Any]
    callset_id: str
    call_id: str
    status_key: str
    pywren_version: str
    python_version: str | None
    attempt: int = 1
    attempt_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def decode(cls, payload: object) -> Envelope:
        """Read a payload's envelope.

        Raises:
            DecodeError: it is not a payload of any version.
        """
        reader = _Reader("the payload", _payload_object(payload))
        attempt_key = reader.take("attempt_key", str, None)
        return cls(
            storage_config=reader.take("storage_config", dict),
            callset_id=reader.take("callset_id", str),
            call_id=reader.take("call_id", str),
            status_key=reader.take("status_key", str),
            pywren_version=reader.take("pywren_version", str, ""),
            python_version=reader.take("python_version", str, None),
            attempt=reader.take_attempt(),
            attempt_key=None if attempt_key is None else _from_hex(attempt_key),
        )


@dataclass(frozen=True)
class Reference:
    """An outcome of an earlier call that an argument stands for; the handler fetches and verifies it.

    Args:
        key: the object that holds the encoded outcome: an output, or a status with the outcome inside.
        sha256: the digest of the encoded outcome, which the client has verified.
        callset_id: the callset of that earlier call.
        call_id: that earlier call.
        size: bytes of the encoded outcome, beyond which nothing is read; ``None`` when it is not known.
    """

    key: str
    sha256: str
    callset_id: str
    call_id: str
    size: int | None = None


@dataclass(frozen=True)
class Call:
    """One item of a map, as it is sent to a worker: the payload.

    The fields are the payload's JSON keys; ``extra`` holds what else stands there (``extra_meta``).
    ``data_byte_range`` is inclusive at both ends. ``attempt_key`` signs the status of this attempt. No object is read
    beyond the size that stands here beside its digest: whoever can write to the bucket can make it any size.
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
    # new since 0.4
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
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> dict[str, Any]:
        """Return the payload: a dict that JSON can hold, without the keys that are not set."""
        document: dict[str, Any] = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in _CALL_ENCODED and getattr(self, item.name) is not None
        }
        document["data_byte_range"] = None if self.data_byte_range is None else list(self.data_byte_range)
        document["runtime"] = self.runtime
        document["runtime_url"] = self.runtime_url
        if self.attempt_key is not None:
            document["attempt_key"] = self.attempt_key.hex()
        if self.data_inline is not None:
            document["data_inline"] = _to_base64(self.data_inline)
        if self.references:
            document["references"] = _reference_lists(self.references)
        document.update(self.extra)
        return document

    @classmethod
    def decode(cls, payload: object) -> Call:
        """Read a payload.

        Args:
            payload: the dict, or its JSON.

        Raises:
            DecodeError: it is not a payload; names the first field that misfits.
        """
        reader = _Reader("the payload", _payload_object(payload))
        attempt_key = reader.take("attempt_key", str, None)
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
            attempt_key=None if attempt_key is None else _from_hex(attempt_key),
            func_sha256=reader.take("func_sha256", str, None),
            data_sha256=reader.take("data_sha256", str, None),
            runtime_sha256=reader.take("runtime_sha256", str, None),
            data_inline=reader.take_bytes("data_inline"),
            references=tuple(_reference(item) for item in references),
            references_sha256=reader.take("references_sha256", str, None),
            func_size=reader.take_size("func_size"),
            data_size=reader.take_size("data_size"),
            runtime_size=reader.take_size("runtime_size"),
            references_size=reader.take_size("references_size"),
            retryable=reader.take("retryable", bool, False),
        )
        return replace(call, extra=reader.rest)


_CALL_ENCODED = frozenset(
    {"extra", "data_byte_range", "runtime", "runtime_url", "attempt_key", "data_inline", "references"}
)
CALL_FIELDS = frozenset(item.name for item in fields(Call)) - {"extra"}
"""The keys that a payload has of its own, with which ``extra_meta`` must not clash."""


def _texts(value: dict[str, Any] | None) -> dict[str, str] | None:
    if value is not None and not all(isinstance(text, str) for text in value.values()):
        raise DecodeError("the payload: 'extra_env' has a value that is not a string")
    return value


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise DecodeError("the payload: 'attempt_key' is not hexadecimal") from error


def encode_references(references: Iterable[Reference]) -> bytes:
    """Return a list of references as the object that stands for it when it is long."""
    return json.dumps(_reference_lists(references)).encode()


def decode_references(data: bytes) -> tuple[Reference, ...]:
    """Read what ``encode_references`` wrote.

    Raises:
        DecodeError: the bytes are no such list.
    """
    try:
        items = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the references are not JSON: {error}") from error
    if not isinstance(items, list):
        raise DecodeError("the references are not a list")
    return tuple(_reference(item) for item in items)


def _reference_lists(references: Iterable[Reference]) -> list[list[Any]]:
    return [[r.key, r.sha256, r.callset_id, r.call_id, *([] if r.size is None else [r.size])] for r in references]


def _reference(item: Any) -> Reference:
    if not (isinstance(item, list) and len(item) in (4, 5) and all(isinstance(part, str) for part in item[:4])):
        raise DecodeError("the payload: a reference is not four strings and a size")
    if item[4:] and not (type(item[4]) is int and item[4] >= 0):
        raise DecodeError("the payload: the size of a reference is no number of bytes")
    return Reference(*item)


# -- the staged function ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StagedFunction:
    """The object under ``func_key``: the pickled function and the user's modules it needs.

    Args:
        pickle: the pickled function.
        modules: sources and data files by relative POSIX path, which the worker writes to a directory of
            its own.
    """

    pickle: bytes
    modules: Mapping[str, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return a line of JSON with all lengths, then the pickle, then the files."""
        head = {"pickle": len(self.pickle), "modules": [[path, len(data)] for path, data in self.modules.items()]}
        return b"".join((_dump(head), b"\n", self.pickle, *self.modules.values()))

    @classmethod
    def decode(cls, data: bytes) -> StagedFunction:
        """Read a staged function without unpickling it.

        Raises:
            DecodeError: the bytes are not one, or a path leads out of the directory.
        """
        start = data.find(b"\n") + 1
        if not start:
            raise DecodeError("the staged function has no header line")
        reader = _Reader("the staged function", _load_object(data[:start], "the staged function's header"))
        end = start + reader.take("pickle", int)
        if end < start:
            raise DecodeError("the staged function: its pickle has a negative length")
        pickle = data[start:end]
        modules = {}
        for item in reader.take("modules", list):
            if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and type(item[1]) is int):
                raise DecodeError("the staged function: a module is not a path and a length")
            path, size = item
            if size < 0 or {"\\", "\0"} & set(path) or {"", ".", ".."} & set(path.split("/")):
                raise DecodeError(f"the staged function: {path!r} is no safe path")
            modules[path], end = data[end : end + size], end + size
        if end != len(data):
            raise DecodeError("the staged function: its length is not that of its parts")
        return cls(pickle, modules)


# -- Outcome -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What the child says about a call: the function's value, or the exception it raised.

    Args:
        success: whether the function returned.
        body: the pickled value or exception; unpickle it only when it is verified.
        exception: the name of the exception's type, for people.
        exception_args: the exception's text.
        exception_traceback: the formatted remote traceback.
    """

    success: bool
    body: bytes = field(repr=False)
    exception: str | None = None
    exception_args: str | None = None
    exception_traceback: str | None = None

    def encode(self) -> bytes:
        """Return the outcome as bytes: a line of JSON, then the body."""
        if self.success:
            return _SUCCESS_LINE + self.body
        head = {
            "success": False,
            "exception": self.exception,
            "exception_args": self.exception_args,
            "exception_traceback": self.exception_traceback,
        }
        return _dump(head) + b"\n" + self.body

    @classmethod
    def decode(cls, data: bytes) -> Outcome:
        """Read an outcome without unpickling its body.

        Raises:
            DecodeError: the bytes are not an outcome.
        """
        if data.startswith(_SUCCESS_LINE):
            return cls(True, data[len(_SUCCESS_LINE) :])
        start = data.find(b"\n") + 1
        if not start:
            raise DecodeError("the outcome has no header line")
        reader = _Reader("the outcome", _load_object(data[:start], "the outcome's header"))
        return cls(
            success=reader.take("success", bool),
            body=data[start:],
            exception=reader.take("exception", str, None),
            exception_args=reader.take("exception_args", str, None),
            exception_traceback=reader.take("exception_traceback", str, None),
        )


_SUCCESS_LINE = b'{"success":true}\n'


# -- Status --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """What the worker says about one attempt of a call.

    Either ``failure`` is set, or the outcome is: inside (``outcome``, encoded) or, when ``output_sha256`` is
    set, as the object ``output_key`` of ``output_size`` bytes. ``exception_traceback`` is the formatted remote
    traceback of what the function raised. ``info`` holds 0.4's other keys: times in
    seconds since the epoch, log names, ``stdout``, ``stderr``, ``server_info`` and so on.
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

    def document(self) -> dict[str, Any]:
        """Return the status as the dict that users see as ``run_status``, without the outcome itself."""
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
        return document

    def _exception_of_0_4(self) -> dict[str, Any]:
        """Return what 0.4's programs tell a failure of the worker by; what the function raised is none."""
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
            key: the attempt's key; ``None`` leaves the status unsigned, so that it can only be an error.

        The signature is the last member and has a fixed length, so that what is signed is exactly the
        bytes before it, and the whole stays plain JSON.
        """
        document = self.document()
        if self.outcome is not None:
            document["outcome"] = _to_base64(self.outcome)
        # a worker must always be able to say how a call ended, whatever stands in info or details
        body = json.dumps(_plain(document), separators=(",", ":")).encode()
        if key is None:
            return body
        return body[:-1] + b',"signature":"' + signature(key, body).encode() + b'"}'

    @classmethod
    def decode(cls, data: bytes) -> Status:
        """Read a status without looking at its signature: ``signed`` is False.

        Raises:
            DecodeError: the bytes are not a status.
        """
        reader = _Reader("the status", _load_object(data, "the status"))
        failure = reader.take("failure", list, None)
        trace = _text(reader.rest.pop("exception_traceback", None))
        for name in ("signature", "exception", "exception_args"):  # the latter follow from the failure
            reader.rest.pop(name, None)
        return cls(
            callset_id=reader.take("callset_id", str),
            call_id=reader.take("call_id", str),
            attempt=reader.take_attempt(),
            failure=None if failure is None else _failure(failure),
            outcome=reader.take_bytes("outcome"),
            output_key=reader.take("output_key", str, None),
            output_sha256=reader.take("output_sha256", str, None),
            output_size=reader.take_size("output_size"),
            exception_traceback=trace if failure is None else None,
            info=reader.rest,
        )

    @classmethod
    def verify(cls, data: bytes, secret: bytes, callset_id: str, call_id: str) -> Status:
        """Read the status of a call and check its signature: ``signed`` says whether it can be believed.

        It cannot when the signature does not hold, or when it speaks of another call.

        Args:
            data: the bytes of ``status.json``.
            secret: the callset's secret.
            callset_id: the callset that was asked for.
            call_id: the call that was asked for.

        Raises:
            DecodeError: the bytes are not a status.
        """
        status = cls.decode(data)
        match = _SIGNATURE.search(data)
        if match is None or (status.callset_id, status.call_id) != (callset_id, call_id):
            return status
        key = attempt_key(secret, call_id, status.attempt)
        holds = signature_matches(key, data[: match.start()] + b"}", match[1].decode())
        return replace(status, signed=holds)


_STATUS_OWN = frozenset(
    {
        "callset_id",
        "call_id",
        "attempt",
        "failure",
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
    """Return what JSON can hold of any value; the rest as text."""
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if depth and isinstance(value, Mapping):
        return {str(name): _plain(item, depth - 1) for name, item in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    return repr(value)


_SIGNATURE = re.compile(rb',"signature":"([0-9a-f]{64})"\}\Z')


def _text(value: Any) -> str | None:
    # 0.4 wrote lists and other things here; people read it, nothing decides on it
    return value if value is None or isinstance(value, str) else str(value)


def _failure(item: list[Any]) -> Failure:
    if len(item) < 2 or not all(isinstance(part, str) for part in item[:2]):
        raise DecodeError("the status: 'failure' is not a kind and a message")
    return Failure(item[0], item[1], tuple(item[2:]))
