"""``Storage``: what pywren puts into and takes from a storage, by callset and call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pywren._failure import Failure
from pywren._wire import STATUS_LIMIT, CallsetKeys, Status
from pywren.exceptions import (
    CallCancelledError,
    ConfigError,
    DecodeError,
    StorageNoSuchKeyError,
    StorageOutputNotFoundError,
)
from pywren.storage.backend import Backend
from pywren.storage.storage_utils import get_storage_path


class Storage:
    """The objects of callsets in one storage; threads may share it, and it pickles as its configuration.

    Making one is cheap: nothing is sent, nothing big imported, before the first request.

    Args:
        config: ``{storage_backend, storage_prefix, backend_config}``, as
            ``wrenconfig.extract_storage_config`` makes it and payloads carry it.

    Raises:
        ConfigError: it is not such a dict, or names a backend that does not exist.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.storage_config: dict[str, Any] = dict(config)
        self.backend = make_backend(config)
        self.prefix: str = config["storage_prefix"]

    def __reduce__(self) -> tuple[type[Storage], tuple[dict[str, Any]]]:
        return type(self), (self.storage_config,)

    def __repr__(self) -> str:
        return f"Storage({'/'.join(self.path)})"

    @property
    def path(self) -> list[str]:
        """``[backend, bucket or directory, prefix]``."""
        return get_storage_path(self.storage_config)

    def keys(self, callset_id: str) -> CallsetKeys:
        """Return the keys of a callset's objects."""
        return CallsetKeys(self.prefix, callset_id)

    # -- objects -----------------------------------------------------------------------------------------

    def get(self, key: str, byte_range: tuple[int, int] | None = None, *, limit: int | None = None) -> bytes:
        """Return an object's bytes, or those from one offset to another, both included.

        Args:
            key: the object's key.
            byte_range: the first and the last offset.
            limit: bytes that are expected at most; of a bigger object no more than that is read.

        Raises:
            StorageNoSuchKeyError: there is no such object.
            IntegrityError: there are more bytes than ``limit``.
        """
        return self.backend.get(key, byte_range, limit=limit)

    def put(self, key: str, data: bytes | bytearray | memoryview, *, if_absent: bool = False) -> bool:
        """Store an object; returns False only with ``if_absent``, when one stood already."""
        return self.backend.put(key, data, if_absent=if_absent)

    # -- callsets and calls --------------------------------------------------------------------------------

    def commit_status(self, key: str, data: bytes) -> bool:
        """End a call by writing its status, unless it has ended already.

        Args:
            key: the call's status key.
            data: the encoded ``Status``.

        Returns:
            Whether this status is the one that stands.
        """
        return self.backend.put(key, data, if_absent=True)

    def read_status(self, callset_id: str, call_id: str) -> bytes | None:
        """Return the bytes of a call's status, ``None`` while it has none.

        Raises:
            IntegrityError: what stands there is too big to be one.
        """
        try:
            return self.backend.get(self.keys(callset_id).call(call_id).status, limit=STATUS_LIMIT)
        except StorageNoSuchKeyError:
            return None

    def finished_calls(self, callset_id: str, start_after: str = "") -> list[str]:
        """Return the calls of a callset that have a status, in order.

        Args:
            callset_id: the callset.
            start_after: a call id; only calls after it are listed.
        """
        keys = self.keys(callset_id)
        begin = keys.call(start_after).status if start_after else ""
        found = (keys.call_id_of_status(key) for key in self.backend.list(keys.root, begin))
        return [call_id for call_id in found if call_id is not None]

    def delete_callset(self, callset_id: str) -> None:
        """Delete every object of a callset."""
        self.backend.delete(self.backend.list(self.keys(callset_id).root))

    def now(self) -> float:
        """Return the time by the storage's own clock, in seconds since the epoch.

        A service's is known from its answers; until the first one came it is this machine's.
        """
        return self.backend.now()

    def close(self) -> None:
        """Give up connections."""
        self.backend.close()

    # -- the verbs of 0.4 ----------------------------------------------------------------------------------

    def get_storage_config(self) -> dict[str, Any]:
        """Return the configuration that this storage was made with."""
        return self.storage_config

    def put_data(self, key: str, data: bytes) -> None:
        """Store a pickled argument."""
        self.backend.put(key, data)

    def put_func(self, key: str, func: bytes) -> None:
        """Store a pickled function."""
        self.backend.put(key, func)

    def put_cancelled(self, cancel_key: str, data: bytes = b"CANCELLED") -> None:
        """Cancel a call by its cancel key: leave the mark, and end the call unless it has ended."""
        self.backend.put(cancel_key, data)
        root, _, _ = cancel_key.rpartition("/")
        _, callset_id, call_id = ["", "", *root.split("/")][-3:]
        failure = Failure.of(CallCancelledError("the call was cancelled"))
        status = Status(callset_id=callset_id, call_id=call_id, failure=failure)
        self.commit_status(f"{root}/status.json", status.encode(None))

    def get_callset_status(self, callset_id: str) -> list[str]:
        """Return the calls of a callset that have a status."""
        return self.finished_calls(callset_id)

    def get_call_status(self, callset_id: str, call_id: str) -> dict[str, Any] | None:
        """Return a call's status as a dict, ``None`` while it has none. It is not verified: only to be looked at.

        Raises:
            DecodeError: the object is not a status.
        """
        data = self.read_status(callset_id, call_id)
        if data is None:
            return None
        try:
            status = json.loads(data)
        except ValueError as error:
            raise DecodeError(f"the status of call {call_id} of callset {callset_id} is not JSON: {error}") from error
        if not isinstance(status, dict):
            raise DecodeError(f"the status of call {call_id} of callset {callset_id} is no JSON object")
        return status

    def get_call_output(self, callset_id: str, call_id: str) -> bytes:
        """Return the bytes of a call's output object. They are not verified: do not unpickle them.

        Raises:
            StorageOutputNotFoundError: there is none; a small output stands in the status instead.
        """
        try:
            return self.backend.get(self.keys(callset_id).call(call_id).output)
        except StorageNoSuchKeyError as error:
            raise StorageOutputNotFoundError(callset_id, call_id) from error


def make_backend(config: Mapping[str, Any]) -> Backend:
    """Return the backend that a ``storage_config`` names.

    Raises:
        ConfigError: it names none.
    """
    kind = config.get("storage_backend")
    options = config.get("backend_config") or {}
    if not isinstance(config.get("storage_prefix"), str) or not isinstance(options, Mapping):
        raise ConfigError(
            "a storage_config needs storage_backend, storage_prefix (text) and backend_config (a mapping)"
        )
    if kind == "s3":
        return _s3(options)
    if kind == "localhost":
        return _localhost(options)
    raise ConfigError(f"storage_backend is {kind!r} in the configuration: write s3 or localhost")


def _s3(options: Mapping[str, Any]) -> Backend:
    from pywren.storage.s3_backend import S3Backend

    bucket = options.get("bucket")
    if not isinstance(bucket, str) or not bucket:
        raise ConfigError("the configuration names no bucket: write it under s3: bucket")
    return S3Backend(bucket, options.get("region"))


def _localhost(options: Mapping[str, Any]) -> Backend:
    from pywren.storage.localhost_backend import LocalhostBackend

    backend = LocalhostBackend(options.get("root"))
    backend.expire_if_due()
    return backend
