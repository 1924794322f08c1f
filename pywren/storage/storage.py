"""``Storage``: stores and reads the objects of callsets and calls."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from pywren.exceptions import (
    CallCancelledError,
    ConfigError,
    DecodeError,
    IntegrityError,
    PywrenError,
    StorageNoSuchKeyError,
    StorageOutputNotFoundError,
)
from pywren.pickling.format import PROTOCOL
from pywren.pickling.packed import Packed, load_result
from pywren.pickling.packed_exceptions import load_exception
from pywren.storage import journals
from pywren.storage.backend import Backend, as_bytes
from pywren.storage.runtime_info import get_runtime_info
from pywren.storage.storage_utils import get_storage_path
from pywren.system.home import user_key
from pywren.wire import digests
from pywren.wire.beacon import BEACON_LIMIT
from pywren.wire.failure import Failure
from pywren.wire.keys import BEACON_SUFFIX, CallsetKeys
from pywren.wire.outcome import Outcome
from pywren.wire.status import CLIENT_ATTEMPT, STATUS_LIMIT, Status

__all__ = ["Storage", "get_runtime_info", "make_backend", "output_of_0_4"]


logger = logging.getLogger(__name__)


class KeyRecords(Protocol):
    """Lambda's records of failed calls. A record reveals the key of an attempt, so the key proves nothing any more."""

    def refresh(self, now: float) -> None:
        """Read the records that were not read before; ``now`` is the storage's time, in seconds since the epoch."""

    def of_key(self, key: bytes) -> PywrenError | None:
        """Return why an attempt ended if a record reveals the attempt's key; otherwise return ``None``."""


class Listing(NamedTuple):
    """What one listing of a callset shows. Anyone who can write to the storage may have written it.

    Args:
        statuses: the ids of the calls that have a status, in order.
        attempts: the failed attempts that left a status of their own: call ids and numbers, in order of the calls.
        beacons: when the beacons were last written, in seconds since the epoch by the storage's clock, keyed by the
            call's id and the attempt's number.
        pages: the names of chunks and the numbers of the pages of their journals, in the order of their keys.
    """

    statuses: list[str]
    attempts: list[tuple[str, int]]
    beacons: dict[tuple[str, int], float]
    pages: list[tuple[str, int]]


class Storage:
    """Stores and reads the objects of callsets. Threads may share a ``Storage``. Its pickle contains its configuration.

    Creating a ``Storage`` is cheap: it sends nothing and imports no big modules before the first request.

    Args:
        config: a dict with ``storage_backend``, ``storage_prefix`` and ``backend_config``, which
            ``wrenconfig.extract_storage_config`` makes and payloads contain.

    Raises:
        ConfigError: the dict is incomplete, or its backend does not exist.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.storage_config: dict[str, Any] = dict(config)
        self.backend = make_backend(config)
        self.prefix: str = config["storage_prefix"]
        self._key_records: KeyRecords | None = None
        self._knows_records = self.path[0] != "s3"  # only calls in S3 have records

    def hold_against(self, records: KeyRecords | None) -> None:
        """Make ``get_call_output`` reject statuses whose keys these records reveal; ``None`` means no records."""
        self._key_records, self._knows_records = records, True

    def __reduce__(self) -> tuple[type[Storage], tuple[dict[str, Any]]]:
        return type(self), (self.storage_config,)

    def __repr__(self) -> str:
        return f"Storage({'/'.join(self.path)})"

    @property
    def path(self) -> list[str]:
        """The list ``[backend, bucket or directory, prefix]``."""
        return get_storage_path(self.storage_config)

    def keys(self, callset_id: str) -> CallsetKeys:
        """Return the keys of a callset's objects."""
        return CallsetKeys(self.prefix, callset_id)

    # -- objects -----------------------------------------------------------------------------------------

    def get(self, key: str, byte_range: tuple[int, int] | None = None, *, limit: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them.

        Args:
            key: the object's key.
            byte_range: the first and last offset, both inclusive.
            limit: the most bytes to accept. Not much more than this is read from a bigger object.

        Raises:
            StorageNoSuchKeyError: the object does not exist.
            IntegrityError: the object has more than ``limit`` bytes.
        """
        return self.backend.get(key, byte_range, limit=limit)

    def put(self, key: str, data: bytes | bytearray | memoryview, *, if_absent: bool = False) -> bool:
        """Store an object. Return False only if ``if_absent`` is set and the object existed already."""
        return self.backend.put(key, data, if_absent=if_absent)

    # -- callsets and calls --------------------------------------------------------------------------------

    def commit_status(self, key: str, data: bytes) -> bool:
        """End a call by writing its status, unless the call already has a status.

        Args:
            key: the call's status key.
            data: the encoded ``Status``.

        Returns:
            Whether this status is now the call's status.
        """
        return self.backend.put(key, data, if_absent=True)

    def read_status(self, callset_id: str, call_id: str) -> bytes | None:
        """Return the bytes of a call's status, or ``None`` while the call has no status.

        Raises:
            IntegrityError: the object is too big to be a status.
        """
        return self._read(self.keys(callset_id).call(call_id).status, STATUS_LIMIT)

    def read_attempt(self, callset_id: str, call_id: str, attempt: int) -> bytes | None:
        """Return the bytes of the status of a failed attempt after which the call may be tried again.

        Returns:
            The encoded ``Status``; ``None`` if the attempt left none.

        Raises:
            IntegrityError: the object is too big to be a status.
        """
        return self._read(self.keys(callset_id).call(call_id).attempt(attempt), STATUS_LIMIT)

    def read_beacon(self, callset_id: str, call_id: str, attempt: int) -> bytes | None:
        """Return the bytes of the beacon of an attempt, or ``None`` if there is none.

        Raises:
            IntegrityError: the object is too big to be a beacon.
        """
        return self._read(self.keys(callset_id).call(call_id).beacon(attempt), BEACON_LIMIT)

    def _read(self, key: str, limit: int) -> bytes | None:
        try:
            return self.backend.get(key, limit=limit)
        except StorageNoSuchKeyError:
            return None

    def finished_calls(self, callset_id: str, start_after: str = "") -> list[str]:
        """Return the ids of the calls in a callset that have ended, in order, as far as statuses and journals say so.

        Args:
            callset_id: the callset.
            start_after: a call id; only the calls after this one are listed.
        """
        listing = self.look(callset_id, start_after)
        if not listing.pages:
            return listing.statuses
        ended = journals.ended_in_chunks(self, callset_id, listing.pages)
        return sorted({*listing.statuses, *(one for one in ended if one > start_after)})

    def look(self, callset_id: str, start_after: str = "", first_chunk: str | None = "") -> Listing:
        """List what the workers have written about the calls of a callset.

        Args:
            callset_id: the callset.
            start_after: a call id; only the calls after this one are listed.
            first_chunk: the first chunk whose pages are wanted, in the order of their names; ``None`` if none is.
        """
        keys = self.keys(callset_id)
        begin = keys.call(start_after).status if start_after else ""
        # Pages come after all calls. "~" sorts after all names.
        skip = (keys.journals, keys.journals + ("~" if first_chunk is None else first_chunk))
        found, times = self.backend.list_timed(keys.root, begin, suffix=BEACON_SUFFIX, skip=skip)
        listing = Listing([], [], {}, [])
        for key in found:
            parsed = keys.parse(key)
            if parsed is None:
                page = keys.parse_page(key)
                if page is not None:
                    listing.pages.append(page)
                continue
            if parsed.kind == "status":
                listing.statuses.append(parsed.call_id)
            elif parsed.kind == "attempt":
                listing.attempts.append((parsed.call_id, parsed.attempt))
            elif key in times:
                listing.beacons[parsed.call_id, parsed.attempt] = times[key]
        return listing

    def delete_callset(self, callset_id: str) -> None:
        """Delete every object of a callset."""
        self.backend.delete(self.backend.list(self.keys(callset_id).root))

    def now(self) -> float:
        """Return the storage's time, in seconds since the epoch.

        S3's time is known from its answers; before the first answer, this is the time of this machine.
        """
        return self.backend.now()

    def close(self) -> None:
        """Close the connections."""
        self.backend.close()

    # -- names of 0.4 --------------------------------------------------------------------------------------

    @property
    def backend_type(self) -> str:
        """The kind of storage: ``s3`` or ``localhost``."""
        return self.path[0]

    @property
    def backend_handler(self) -> Any:
        """The backend, which also has the methods of PyWren 0.4's backends."""
        return self.backend

    def get_storage_config(self) -> dict[str, Any]:
        """Return the configuration that this storage was made with."""
        return self.storage_config

    def put_data(self, key: str, data: bytes) -> None:
        """Store a pickled argument."""
        self.backend.put(key, data)

    def put_func(self, key: str, func: bytes) -> None:
        """Store a pickled function."""
        self.backend.put(key, func)

    def put_cancelled(self, callset_id: str, call_id: str, cancelled_data: bytes | str = b"CANCEL") -> None:
        """Cancel a call, even if it is running: write PyWren 0.4's marker, and a status unless the call has a status.

        Args:
            callset_id: the callset.
            call_id: the call.
            cancelled_data: the content of the marker; nothing reads it.
        """
        keys = self.keys(callset_id).call(call_id)
        self.backend.put(keys.cancel, as_bytes(cancelled_data))
        failure = Failure.of(CallCancelledError("the call was cancelled"))
        secret = digests.callset_secret(user_key(), callset_id)
        if not journals.end_in_chunk(self, secret, Status(callset_id, call_id, CLIENT_ATTEMPT, failure)):
            self.commit_status(keys.status, Status(callset_id, call_id, failure=failure).encode(None))

    def get_callset_status(self, callset_id: str) -> list[str]:
        """Return the ids of the calls in a callset that have a status."""
        return self.finished_calls(callset_id)

    def get_call_status(self, callset_id: str, call_id: str) -> dict[str, Any] | None:
        """Return a call's status as a dict, or ``None`` while the call has no status.

        The signature of the status is not verified, so do not trust its content.

        Raises:
            DecodeError: the object is not a status.
        """
        data = self.read_status(callset_id, call_id)
        if data is None:
            found = journals.find(self, callset_id, call_id)
            return None if found is None else found.status.members()
        try:
            status = json.loads(data)
        except ValueError as error:
            raise DecodeError(f"the status of call {call_id} of callset {callset_id} is not JSON: {error}") from error
        if not isinstance(status, dict):
            raise DecodeError(f"the status of call {call_id} of callset {callset_id} is not a JSON object")
        return status

    def get_call_output(self, callset_id: str, call_id: str) -> bytes:
        """Return a call's output as PyWren 0.4 stored it.

        A small output takes one request. For calls on Lambda a second request lists the records of failed calls. The
        storage of an executor knows how to find these records; any other ``Storage`` in S3 warns once that it does not.

        Returns:
            A verified pickle of a dict with ``success``, and ``result``: what the function returned or raised. After an
            exception it also has ``exc_type``, ``exc_value`` and ``exc_traceback``.

        Raises:
            StorageOutputNotFoundError: the call has not ended, or has ended without an output.
            IntegrityError: the output was not signed by a worker of this user's calls, or its worker died and other
                users may have read the key.
            DecodeError: the object is not a status, or not an output.
        """
        data = self.read_status(callset_id, call_id)
        secret = digests.callset_secret(user_key(), callset_id)
        found = None
        if data is not None:
            status = Status.verify(data, secret, callset_id, call_id)
        else:
            found = journals.find(self, callset_id, call_id, secret)
            if found is None:
                raise StorageOutputNotFoundError(callset_id, call_id)
            status = found.status
        if status.failure is not None:
            raise StorageOutputNotFoundError(callset_id, call_id)
        if not status.signed:
            raise IntegrityError(
                f"the status of call {call_id} of callset {callset_id} is not signed with this user's key; get the "
                "result from the call's future, which has the key, or set PYWREN_HOME to the directory of the user who "
                "made the call"
            )
        if found is None:
            self._check_key(status, digests.attempt_key(secret, call_id, status.attempt))
        elif not (found.by_client or found.endorsed):
            self._check_key(status, digests.chunk_key(secret, found.chunk))
        return pickle.dumps(_OutputOf04(Outcome.decode(self._outcome(status))), PROTOCOL)

    def _check_key(self, status: Status, key: bytes) -> None:
        """Reject a status if Lambda's records reveal the key that signed it.

        The records must be read after the status: a status can be forged only after a record has revealed the key.
        """
        if not self._knows_records:
            self._knows_records = True
            logger.warning(
                "outputs are not checked against Lambda's records of failed calls, because this Storage does not know "
                "the function: anyone who can read the records and write to the prefix could have forged one. Ask the "
                "futures, or use the executor's storage"
            )
        if self._key_records is None:
            return
        self._key_records.refresh(self.now())
        death = self._key_records.of_key(key)
        if death is not None:
            raise IntegrityError(
                f"the status of call {status.call_id} of callset {status.callset_id} is rejected: the key that signed "
                f"it appears in Lambda's record of a failed call ({death}); run the call again"
            )

    def _outcome(self, status: Status) -> bytes:
        """Return the encoded outcome to which a verified status refers."""
        if status.output_sha256 is None:
            return status.outcome or b""
        try:
            data = self.backend.get(status.output_key or "", limit=status.output_size or 0)
        except StorageNoSuchKeyError as error:
            raise StorageOutputNotFoundError(status.callset_id, status.call_id) from error
        digests.verify_sha256(data, status.output_sha256, f"the output {status.output_key}")
        return data


class _OutputOf04:
    """An object whose pickle, when loaded, gives the dict that 0.4 stored. Only then is the value inside unpickled."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return _output_of_0_4, (self._outcome.success, self._outcome.body)


def _output_of_0_4(success: bool, body: bytes) -> dict[str, Any]:
    """Return the dict that 0.4's workers stored as an output, given a verified pickle of a value or exception."""
    load = load_result if success else load_exception
    return output_of_0_4(success, load(Packed(body)))


def output_of_0_4(success: bool, value: Any) -> dict[str, Any]:
    """Return the dict that 0.4's workers stored as an output.

    Args:
        success: whether the function returned.
        value: what the function returned or raised.
    """
    output = {"success": success, "result": value}
    if not success:
        output.update(exc_type=type(value), exc_value=value, exc_traceback=value.__traceback__)
    return output


def make_backend(config: Mapping[str, Any]) -> Backend:
    """Return the backend of a ``storage_config``.

    Raises:
        ConfigError: the dict is incomplete, or its backend does not exist.
    """
    kind = config.get("storage_backend")
    options = config.get("backend_config") or {}
    if not isinstance(config.get("storage_prefix"), str) or not isinstance(options, Mapping):
        raise ConfigError(
            "a storage_config needs storage_backend, storage_prefix (a string) and backend_config (a mapping)"
        )
    if kind == "s3":
        return _s3(options)
    if kind == "localhost":
        return _localhost(options)
    raise ConfigError(f"storage_backend is {kind!r} in the configuration: write s3 or localhost")


def _s3(options: Mapping[str, Any]) -> Backend:
    from pywren.storage.s3_backend import S3Backend

    return S3Backend(options)


def _localhost(options: Mapping[str, Any]) -> Backend:
    from pywren.storage.localhost_backend import LocalhostBackend

    backend = LocalhostBackend(options.get("root"))
    backend.expire_if_due()
    return backend
