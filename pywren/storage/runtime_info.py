"""What is known of a runtime: the ``.meta.json`` beside its tarball in S3; and whether calls can use it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from pywren.exceptions import ConfigError, StorageError, StorageNoSuchKeyError
from pywren.system.threads import for_each
from pywren.wrenutil import split_s3_url

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


def check_named(runtime_config: Mapping[str, Any]) -> None:
    """Check that a ``runtime`` section names a runtime whole or not at all: half of one would be ignored in silence.

    Raises:
        ConfigError: names what is missing.
    """
    given = [name for name in ("s3_bucket", "s3_key", "sha256") if runtime_config.get(name)]
    missing = [name for name in ("s3_bucket", "s3_key") if not runtime_config.get(name)]
    if not given or not missing or is_public(runtime_config):
        return
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise ConfigError(
        f"the configuration's runtime: {given[0]} is {runtime_config[given[0]]!r}, but there is no runtime: "
        f"{missing[0]}, and PyWren 0.4's public buckets are gone: write there where a runtime of yours is, made for "
        f"this python version, {here} (`pywren runtime build` does both), or remove {given[0]} to use the worker's own "
        "Python"
    )


def required_sha256(runtime_config: Mapping[str, Any]) -> str:
    """Return the SHA-256 that a ``runtime`` section gives for its tarball, in lower case.

    Raises:
        ConfigError: it gives none.
    """
    digest = str(runtime_config.get("sha256") or "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        url = _url(runtime_config, runtime_config["s3_key"])
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
        ConfigError: the runtime is named by half, does not exist, or what stands there is none.
        StorageError: it cannot be read.
    """
    check_named(runtime_config or {})
    if runtime_config is None or not has_own_runtime(runtime_config):
        return _workers_own(runtime_config or {})
    found = _read(runtime_config)
    key = runtime_config["s3_key"]
    info = _parse(found[meta_key(key)], _url(runtime_config, meta_key(key)))
    if key not in found and not info.get("urls"):
        raise _missing(_url(runtime_config, key))
    besides = [[name, True] for name in runtime_config.get("preinstalls") or ()]
    return {**info, "preinstalls": [*info["preinstalls"], *besides]}


def check_runtime(runtime_meta: Mapping[str, Any], architecture: str | None = None) -> None:
    """Check that a runtime has the same Python as this program, and the architecture of the workers.

    Args:
        runtime_meta: what ``get_runtime_info`` returns.
        architecture: that of the workers, ``x86_64`` or ``arm64``, where it is known.

    Raises:
        ConfigError: it has another.
    """
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if runtime_meta.get("python_ver") != here:
        raise ConfigError(
            f"the runtime's python version is {runtime_meta.get('python_ver')}, but this program runs on {here}: "
            f"make a runtime for Python {here} as docs/runtimes.md says, or run this program on the other"
        )
    arch = runtime_meta.get("arch")
    if None not in (arch, architecture) and arch != architecture:
        raise ConfigError(
            f"the runtime is for {arch}, but the function is for {architecture}: write `architecture: {arch}` under "
            f"lambda: in the configuration and run `pywren deploy_lambda`, or make a runtime for {architecture} with "
            "`pywren runtime build`"
        )


def check_tarballs(runtime_config: Mapping[str, Any], runtime_meta: Mapping[str, Any]) -> None:
    """Check that what workers fetch can be read: the tarball, or each of its copies.

    Args:
        runtime_config: the configuration's ``runtime`` section.
        runtime_meta: what ``get_runtime_info`` returns.

    Raises:
        ConfigError: one does not exist.
        StorageError: one cannot be read.
    """
    from pywren.storage.s3_backend import S3Backend

    for url in runtime_meta.get("urls") or [_url(runtime_config, runtime_config["s3_key"])]:
        bucket, key = split_s3_url(str(url))
        backend = S3Backend(bucket, runtime_config.get("region"))
        try:
            backend.get(key, _FIRST_BYTE)
        except StorageNoSuchKeyError as error:
            raise _missing(str(url)) from error
        finally:
            backend.close()


META_LIMIT = 16 * 1024 * 1024
"""Bytes of the description of a runtime that are read: an environment of 10,000 modules takes one."""

_FIRST_BYTE = (0, 0)


def _read(runtime_config: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the description, and the first byte of the tarball unless it is missing, by key."""
    from pywren.storage.s3_backend import S3Backend

    key, found = runtime_config["s3_key"], dict[str, bytes]()
    backend = S3Backend(runtime_config["s3_bucket"], runtime_config.get("region"))

    def read_description() -> None:
        try:
            found[meta_key(key)] = backend.get(meta_key(key), limit=META_LIMIT)
        except StorageNoSuchKeyError as error:
            raise _missing(_url(runtime_config, meta_key(key))) from error

    def look_for_tarball() -> None:
        try:
            found[key] = backend.get(key, _FIRST_BYTE)
        except StorageNoSuchKeyError:
            pass
        except StorageError:  # workers may read what this program may not, and say so if they may not either
            found[key] = b""

    try:
        # at the same time, so that nobody waits for the second request
        for_each(lambda request: request(), (read_description, look_for_tarball), threads=2)
    finally:
        backend.close()
    return found


def _url(runtime_config: Mapping[str, Any], key: str) -> str:
    return f"s3://{runtime_config['s3_bucket']}/{key}"


def _missing(url: str) -> ConfigError:
    return ConfigError(f"there is no runtime {url}: {_REMEDY}")


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
