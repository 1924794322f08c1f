"""PyWren 0.4's functions that make object keys (using ``pywren.wire``) and that compare storages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pywren.exceptions import StorageConfigMismatchError
from pywren.wire.keys import (
    AGG_DATA_SUFFIX,
    CANCEL_SUFFIX,
    DATA_SUFFIX,
    FUNC_SUFFIX,
    OUTPUT_SUFFIX,
    STATUS_SUFFIX,
    CallsetKeys,
)

func_key_suffix = FUNC_SUFFIX
agg_data_key_suffix = AGG_DATA_SUFFIX
data_key_suffix = DATA_SUFFIX
output_key_suffix = OUTPUT_SUFFIX
status_key_suffix = STATUS_SUFFIX
cancel_key_suffix = CANCEL_SUFFIX


def create_func_key(prefix: str, callset_id: str) -> str:
    """Return the key of a callset's function."""
    return CallsetKeys(prefix, callset_id).func


def create_agg_data_key(prefix: str, callset_id: str) -> str:
    """Return the key of the object that contains the arguments of a callset."""
    return CallsetKeys(prefix, callset_id).aggdata


def create_data_key(prefix: str, callset_id: str, call_id: str) -> str:
    """Return the key of a call's argument."""
    return CallsetKeys(prefix, callset_id).call(call_id).data


def create_output_key(prefix: str, callset_id: str, call_id: str) -> str:
    """Return the key of a call's output."""
    return CallsetKeys(prefix, callset_id).call(call_id).output


def create_status_key(prefix: str, callset_id: str, call_id: str) -> str:
    """Return the key of a call's status."""
    return CallsetKeys(prefix, callset_id).call(call_id).status


def create_cancel_key(prefix: str, callset_id: str, call_id: str) -> str:
    """Return the key of 0.4's marker of a cancelled call."""
    return CallsetKeys(prefix, callset_id).call(call_id).cancel


def create_keys(prefix: str, callset_id: str, call_id: str) -> tuple[str, str, str, str]:
    """Return the keys of a call's argument, output, status and cancel marker."""
    keys = CallsetKeys(prefix, callset_id).call(call_id)
    return keys.data, keys.output, keys.status, keys.cancel


def get_storage_path(config: Mapping[str, Any]) -> list[str]:
    """Return the location of a storage: ``[backend, bucket or directory, prefix]``.

    Args:
        config: a ``storage_config``, as ``wrenconfig.extract_storage_config`` makes it.
    """
    backend_config = config.get("backend_config") or {}
    place = backend_config.get("bucket") or backend_config.get("root") or ""
    return [config["storage_backend"], str(place), config["storage_prefix"]]


def check_storage_path(config: Mapping[str, Any], prev_path: Sequence[str]) -> None:
    """Check that a storage configuration describes the storage with which an object was created.

    Raises:
        StorageConfigMismatchError: the configuration describes a different storage.
    """
    current_path = get_storage_path(config)
    if current_path != list(prev_path):
        raise StorageConfigMismatchError(current_path, list(prev_path))
