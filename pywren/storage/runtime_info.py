"""What is known of a runtime: the ``.meta.json`` beside its tarball in S3."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from pywren.exceptions import ConfigError, StorageNoSuchKeyError

PUBLIC_BUCKETS = "pywren-runtimes-public-"
"""How the names of 0.4's public buckets begin. They are gone, and a stranger could register them."""

LAMBDA_PREINSTALLS = (
    "awslambdaric",
    "boto3",
    "botocore",
    "cloudpickle",
    "dateutil",
    "jmespath",
    "pywren",
    "runtime_client",
    "s3transfer",
    "simplejson",
    "six",
    "snapshot_restore_py",
    "tblib",
    "urllib3",
)
"""Top-level modules that a Lambda function of ours has without any runtime."""


def has_own_runtime(runtime_config: Mapping[str, Any] | None) -> bool:
    """Tell whether a ``runtime`` section names a runtime that may be used: one of the user's own."""
    if not runtime_config or not runtime_config.get("s3_key"):
        return False
    return bool(runtime_config.get("s3_bucket")) and not is_public(runtime_config)


def required_sha256(runtime_config: Mapping[str, Any]) -> str:
    """Return the SHA-256 that a ``runtime`` section gives for its tarball, in lower case.

    Raises:
        ConfigError: it gives none.
    """
    digest = str(runtime_config.get("sha256") or "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        url = f"s3://{runtime_config.get('s3_bucket')}/{runtime_config.get('s3_key')}"
        raise ConfigError(
            f"the configuration has no runtime: sha256: write the SHA-256 of {url} there, in quotes, as 64 hexadecimal "
            f"digits; `aws s3 cp {url} - | sha256sum` computes it, or sha256sum of the file that you uploaded. "
            "Workers extract nothing that they cannot verify"
        )
    return digest


def is_public(runtime_config: Mapping[str, Any]) -> bool:
    """Tell whether a ``runtime`` section names one of 0.4's public buckets."""
    return str(runtime_config.get("s3_bucket", "")).startswith(PUBLIC_BUCKETS)


def get_runtime_info(runtime_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a runtime holds.

    Args:
        runtime_config: the configuration's ``runtime`` section: ``s3_bucket`` and ``s3_key`` of the tarball,
            and ``preinstalls``, the modules that the worker has besides, from a layer or an image.

    Returns:
        ``python_ver`` ("3.12"), ``preinstalls`` ([module, whether it is a package], …) and ``pkg_ver_list``;
        without a runtime those of the worker's own Python.

    Raises:
        ConfigError: the runtime does not exist, or what stands there is none.
        StorageError: it cannot be read.
    """
    if runtime_config is None or not has_own_runtime(runtime_config):
        return _workers_own(runtime_config or {})
    from pywren.storage.s3_backend import S3Backend

    bucket, key = runtime_config["s3_bucket"], meta_key(runtime_config["s3_key"])
    backend = S3Backend(bucket, runtime_config.get("region"))
    try:
        data = backend.get(key)
    except StorageNoSuchKeyError as error:
        raise ConfigError(f"there is no runtime s3://{bucket}/{key}: {_REMEDY}") from error
    finally:
        backend.close()
    info = _parse(data, f"s3://{bucket}/{key}")
    besides = [[name, True] for name in runtime_config.get("preinstalls") or ()]
    return {**info, "preinstalls": [*info["preinstalls"], *besides]}


_REMEDY = (
    "make one as docs/runtimes.md says, or remove the runtime section from the configuration to use "
    "the worker's own Python"
)


def meta_key(tarball_key: str) -> str:
    """Return the key of the description of a runtime, from that of its tarball."""
    return tarball_key.removesuffix(".tar.gz") + ".meta.json"


def _workers_own(runtime_config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "python_ver": f"{sys.version_info.major}.{sys.version_info.minor}",
        "preinstalls": [[name, True] for name in (*LAMBDA_PREINSTALLS, *(runtime_config.get("preinstalls") or ()))],
        "pkg_ver_list": [],
    }


def _parse(data: bytes, place: str) -> dict[str, Any]:
    try:
        info = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"{place} is not JSON: {error}; {_REMEDY}") from error
    if not isinstance(info, dict) or not isinstance(info.get("python_ver"), str):
        raise ConfigError(f"{place} does not describe a runtime: it has no python_ver; {_REMEDY}")
    return {"preinstalls": [], "pkg_ver_list": [], **info}
