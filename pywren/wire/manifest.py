"""``JobRecord`` and ``Manifest``: what finds a named job again, and what invokes its calls again.

The record is small. It is found by the name of the job, is signed with a key of the user, and contains the digest of
the manifest. The manifest describes every call: which bytes of which object are its argument, and their digest. Neither
contains a secret: the secret of the callset is derived from the user's key, and of ``extra_env`` only the names of the
variables are stored.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from pywren.exceptions import DecodeError
from pywren.wire.call import Call
from pywren.wire.reading import Reader, dump, split_header
from pywren.wire.references import decode_reference, reference_lists
from pywren.wire.signed import opened, sign

RECORD_LIMIT = 16 * 1024
"""The largest encoded record, in bytes."""

RESUMPTION_LIMIT = 1024
"""The largest encoded ``Resumption``, in bytes."""

ATTEMPTS_EACH = 1000
"""The numbers of attempts that each resumption of a job has for itself. The first run of the job begins with 1, the
first resumption with 1,001: a call whose event was lost again and again has used some hundred numbers before."""


@dataclass(frozen=True)
class JobRecord:
    """What is found under the name of a job.

    Args:
        name: the name of the job.
        callset_id: the callset that it names.
        submitted: when it was made, by the storage's clock, in seconds since the epoch.
        calls: how many calls it has.
        where: where its calls run; ``kind`` is ``lambda``, ``queue``, ``here`` or ``other``.
        manifest_sha256: the digest of the manifest.
        manifest_size: the length of the manifest in bytes.
        pywren_version: the version that pickled the function.
        python_version: the minor version of Python that pickled the function.
    """

    name: str
    callset_id: str
    submitted: float
    calls: int
    where: Mapping[str, Any]
    manifest_sha256: str
    manifest_size: int
    pywren_version: str
    python_version: str

    def encode(self, user_key: bytes) -> bytes:
        """Return the record, signed with a key that is derived from the user's key."""
        return sign(dump(asdict(self)), _signing_key(user_key), _RECORD)

    @classmethod
    def verify(cls, data: bytes, user_key: bytes) -> JobRecord:
        """Read a record and check its signature. The caller checks its name.

        Args:
            data: the bytes of the object, at most ``RECORD_LIMIT``.
            user_key: the user's key.

        Raises:
            IntegrityError: it is not signed with this key.
            DecodeError: it is signed, but is not a record that this version of pywren can read.
        """
        refusal = "it is not signed with the key of this user"
        reader = opened(data, _signing_key(user_key), _RECORD, "the record of the job", refusal)
        return cls(
            name=reader.take("name", str),
            callset_id=reader.take("callset_id", str),
            submitted=reader.take_number("submitted"),
            calls=reader.take("calls", int),
            where=reader.take("where", dict),
            manifest_sha256=reader.take("manifest_sha256", str),
            manifest_size=reader.take("manifest_size", int),
            pywren_version=reader.take("pywren_version", str),
            python_version=reader.take("python_version", str),
        )


@dataclass(frozen=True)
class Resumption:
    """Who resumed a job. The first client that writes it under the number of the resumption is the one who does.

    Args:
        number: 1 for the first resumption of the job.
        at: when, by the storage's clock, in seconds since the epoch.
        by: the process, for people.
    """

    number: int
    at: float
    by: str

    def encode(self, secret: bytes) -> bytes:
        """Return it, signed with the secret of the callset."""
        return sign(dump(asdict(self)), secret, _RESUMPTION)

    @classmethod
    def verify(cls, data: bytes, secret: bytes) -> Resumption:
        """Read a resumption.

        Raises:
            IntegrityError: it is not signed with the secret of the callset.
            DecodeError: it is signed, but is not a resumption.
        """
        refusal = "the record of a resumption is not signed with the secret of its callset"
        reader = opened(data, secret, _RESUMPTION, "the record of a resumption", refusal)
        return cls(reader.take("number", int), reader.take_number("at"), reader.take("by", str))


class Place(NamedTuple):
    """Where the argument of a call is.

    Args:
        key: the object; ``None`` for the object that only this call has.
        start: the offset of the first byte.
        size: the length in bytes.
        sha256: the digest of the argument, as bytes.
    """

    key: str | None
    start: int
    size: int
    sha256: bytes


@dataclass(frozen=True)
class Manifest:
    """Everything that is needed to invoke the calls of a job again, besides the function and the arguments themselves.

    Args:
        shared: the members of the payload that are the same in all calls, without secrets.
        places: where the argument of each call is, in order. The ids of the calls are their numbers.
        references: for each call, by its number, the members of its payload that refer to earlier outcomes.
        env_names: the names of the variables in ``extra_env``.
        queue_patience: seconds that a call may wait before it starts; ``None`` for no limit.
        function: the Lambda function whose records report failed calls.
        modules: top-level names of the user's modules that were sent.
        facts: the members of ``invoke_status`` that all calls share.
    """

    shared: Mapping[str, Any]
    places: Sequence[Place]
    references: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    env_names: Sequence[str] = ()
    queue_patience: float | None = None
    function: str | None = None
    modules: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def job_max_runtime(self) -> float:
        """Seconds that each call may run."""
        return float(self.shared["job_max_runtime"])

    def own(self, number: int) -> dict[str, Any]:
        """Return the fields of a call that it does not share with others, and that do not follow from its id.

        Args:
            number: its number in the map.
        """
        place = self.places[number]
        within = {"data_key": place.key, "data_byte_range": (place.start, place.start + place.size - 1)}
        return {
            **({} if place.key is None else within),
            "data_sha256": place.sha256.hex(),
            "data_size": place.size,
            **_decoded_references(self.references.get(number, {})),
        }

    def template(self, storage_config: Mapping[str, Any], callset_id: str) -> Call:
        """Return a call that has only what all calls share.

        Args:
            storage_config: how workers reach the storage, from this client's own configuration.
            callset_id: the callset.

        Raises:
            DecodeError: the shared members are not those of a payload.
        """
        own = dict.fromkeys(("call_id", "data_key", "output_key", "status_key", "cancel_key"), "")
        return Call.decode({**self.shared, **own, "storage_config": dict(storage_config), "callset_id": callset_id})

    def encode(self) -> bytes:
        """Return a line of JSON, then the columns: digests, offsets, lengths, and the numbers of the objects."""
        objects = list(dict.fromkeys(place.key for place in self.places if place.key is not None))
        numbers: dict[str | None, int] = {key: number for number, key in enumerate(objects)}
        numbers[None] = _OWN_OBJECT
        count = len(self.places)
        head = {
            "calls": count,
            "shared": dict(self.shared),
            "objects": objects,
            "references": {str(number): members for number, members in self.references.items()},
            "env_names": list(self.env_names),
            "queue_patience": self.queue_patience,
            "function": self.function,
            "modules": list(self.modules),
            "facts": dict(self.facts),
        }
        return b"".join(
            [
                dump(head),
                b"\n",
                *(place.sha256 for place in self.places),
                struct.pack(f"<{count}Q", *(place.start for place in self.places)),
                struct.pack(f"<{count}Q", *(place.size for place in self.places)),
                struct.pack(f"<{count}I", *(numbers[place.key] for place in self.places)),
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read a manifest. The caller has verified its digest.

        Raises:
            DecodeError: the bytes are not a manifest.
        """
        reader, start = split_header(data, "the manifest")
        count = reader.take("calls", int)
        if count < 0 or len(data) - start != count * _BYTES_EACH:
            raise DecodeError("the manifest: its columns do not have the length that it states")
        references = reader.take("references", dict, {})
        if not all(key.isdecimal() and isinstance(value, dict) for key, value in references.items()):
            raise DecodeError("the manifest: 'references' is not keyed by calls")
        shared = reader.take("shared", dict)
        Reader("the manifest", shared).take_number("job_max_runtime")
        return cls(
            shared=shared,
            places=_places(memoryview(data)[start:], count, reader.take("objects", list)),
            references={int(key): value for key, value in references.items()},
            env_names=reader.take("env_names", list, []),
            queue_patience=reader.take("queue_patience", (int, float), None),
            function=reader.take("function", str, None),
            modules=reader.take("modules", list, []),
            facts=reader.take("facts", dict, {}),
        )


def shared_members(call: Call) -> dict[str, Any]:
    """Return the members of a call's payload that all calls of its callset share and that are no secrets."""
    return {name: value for name, value in call.encode().items() if name not in _NOT_SHARED}


def reference_members(call: Call) -> dict[str, Any]:
    """Return the members of a call's payload that refer to the outcomes of earlier calls."""
    if call.references:
        return {"references": reference_lists(call.references)}
    if call.references_sha256 is not None:
        return {"references_sha256": call.references_sha256, "references_size": call.references_size}
    return {}


def _decoded_references(members: Mapping[str, Any]) -> dict[str, Any]:
    if "references" in members:
        return {"references": tuple(decode_reference(item) for item in members["references"])}
    return dict(members)


def _places(columns: memoryview, count: int, objects: Sequence[str]) -> list[Place]:
    digests, rest = columns[: 32 * count], columns[32 * count :]
    starts = struct.unpack_from(f"<{count}Q", rest)
    sizes = struct.unpack_from(f"<{count}Q", rest, 8 * count)
    numbers = struct.unpack_from(f"<{count}I", rest, 16 * count)
    try:
        keys = [None if number == _OWN_OBJECT else objects[number] for number in numbers]
    except IndexError as error:
        raise DecodeError("the manifest: an argument is in an object that is not listed") from error
    return [
        Place(key, start, size, bytes(digests[32 * index : 32 * index + 32]))
        for index, (key, start, size) in enumerate(zip(keys, starts, sizes, strict=True))
    ]


def _signing_key(user_key: bytes) -> bytes:
    return hmac.digest(user_key, b"jobs", "sha256")


_RECORD, _RESUMPTION = "job:", "resumption:"
_OWN_OBJECT = 2**32 - 1
_BYTES_EACH = 32 + 8 + 8 + 4
_NOT_SHARED = frozenset(
    {
        "storage_config",
        "callset_id",
        "call_id",
        "data_key",
        "data_byte_range",
        "data_sha256",
        "data_size",
        "data_inline",
        "output_key",
        "status_key",
        "cancel_key",
        "references",
        "references_sha256",
        "references_size",
        "attempt",
        "attempt_key",
        "host_submit_time",
        "extra_env",
    }
)
