"""Reads the description of a runtime (``.meta.json`` next to its tarball in S3), and checks whether it can be used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pywren.exceptions import ConfigError, StorageError, StorageNoSuchKeyError
from pywren.system.threads import for_each
from pywren.version import PYTHON
from pywren.wrenutil import split_s3_url

PUBLIC_BUCKETS = "pywren-runtimes-public-"
"""How the names of 0.4's public buckets begin. The buckets no longer exist, and a stranger could register the names."""

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
"""The top-level modules of a deployed function without a runtime: those of Lambda and those deployed with pywren."""


def has_own_runtime(runtime_config: Mapping[str, Any] | None) -> bool:
    """Tell whether a ``runtime`` section names a usable runtime: one in the user's own bucket."""
    if not runtime_config or not runtime_config.get("s3_key"):
        return False
    return bool(runtime_config.get("s3_bucket")) and not is_public(runtime_config)


def check_named(runtime_config: Mapping[str, Any]) -> None:
    """Check that a ``runtime`` section is complete or empty, because an incomplete section would otherwise be ignored.

    Raises:
        ConfigError: a key is missing.
    """
    given = [name for name in ("s3_bucket", "s3_key", "sha256") if runtime_config.get(name)]
    missing = [name for name in ("s3_bucket", "s3_key") if not runtime_config.get(name)]
    if not given or not missing or is_public(runtime_config):
        return
    raise ConfigError(
        f"in the configuration, `runtime: {given[0]}` is {runtime_config[given[0]]!r}, but `runtime: {missing[0]}` is "
        f"missing, and PyWren 0.4's public buckets are gone: set both keys to a runtime of your own for this python "
        f"version, {PYTHON} (`pywren runtime build` builds a runtime and writes the keys), or remove {given[0]} to use "
        "the worker's own Python"
    )


def required_sha256(runtime_config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the tarball of a ``runtime`` section, in lower case.

    Raises:
        ConfigError: the section has no valid SHA-256.
    """
    digest = str(runtime_config.get("sha256") or "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        url = _url(runtime_config, runtime_config["s3_key"])
        raise ConfigError(
            "`sha256` is missing or invalid in the `runtime` section of the configuration. Set it to the SHA-256 of "
            f"{url}: 64 hexadecimal digits, in quotes. To compute it, run `aws s3 cp {url} - | sha256sum`, or run "
            "sha256sum on the file that you uploaded. Workers extract only what they can verify"
        )
    return digest


def is_public(runtime_config: Mapping[str, Any]) -> bool:
    """Tell whether a ``runtime`` section uses one of 0.4's public buckets."""
    return str(runtime_config.get("s3_bucket", "")).startswith(PUBLIC_BUCKETS)


def get_runtime_info(runtime_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the description of a runtime.

    Args:
        runtime_config: the configuration's ``runtime`` section: ``s3_bucket`` and ``s3_key`` of the tarball, and
            ``preinstalls``: further modules that the worker has from a layer or an image.

    Returns:
        ``python_ver`` ("3.12"), ``preinstalls`` ([module, whether it is a package], …) and ``pkg_ver_list``. Without a
        runtime, these describe the worker's own Python.

    Raises:
        ConfigError: the section is incomplete, or the runtime does not exist or is not valid.
        StorageError: the description cannot be read.
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
    """Check that a runtime matches this program's Python and the workers' architecture.

    Args:
        runtime_meta: the description of the runtime that ``get_runtime_info`` returns.
        architecture: the architecture of the workers, ``x86_64`` or ``arm64``; ``None`` when unknown.

    Raises:
        ConfigError: the version of Python or the architecture differs.
    """
    if runtime_meta.get("python_ver") != PYTHON:
        raise ConfigError(
            f"the runtime's python version is {runtime_meta.get('python_ver')}, but this program runs on {PYTHON}: "
            f"build a runtime for Python {PYTHON} (docs/runtimes.md), or run this program on the runtime's Python"
        )
    arch = runtime_meta.get("arch")
    if None not in (arch, architecture) and arch != architecture:
        raise ConfigError(
            f"the runtime is for {arch}, but the function is for {architecture}: set `lambda: architecture` to "
            f"{arch} in the configuration and run `pywren deploy_lambda`, or build a runtime for {architecture} with "
            "`pywren runtime build`"
        )


def check_tarballs(runtime_config: Mapping[str, Any], runtime_meta: Mapping[str, Any]) -> None:
    """Check that the tarball of a runtime, or each of its copies, can be read.

    Args:
        runtime_config: the configuration's ``runtime`` section.
        runtime_meta: the description of the runtime that ``get_runtime_info`` returns.

    Raises:
        ConfigError: a tarball does not exist.
        StorageError: a tarball cannot be read.
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
"""The most bytes of a description to read. A description that lists 10,000 modules takes 1 MB."""

_FIRST_BYTE = (0, 0)


def _read(runtime_config: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the bytes of the description and the first byte of the tarball, by key. A missing tarball is left out."""
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
        except StorageError:  # workers may have a permission that this program lacks
            found[key] = b""

    try:
        # Send both requests at the same time, because creating an executor waits for them.
        for_each(lambda request: request(), (read_description, look_for_tarball), threads=2)
    finally:
        backend.close()
    return found


def _url(runtime_config: Mapping[str, Any], key: str) -> str:
    return f"s3://{runtime_config['s3_bucket']}/{key}"


def _missing(url: str) -> ConfigError:
    return ConfigError(f"there is no runtime {url}: {_REMEDY}")


_REMEDY = (
    "build one (docs/runtimes.md), or remove the runtime section from the configuration to use the worker's own Python"
)


def meta_key(tarball_key: str) -> str:
    """Return the S3 key of a runtime's description, given the S3 key of the runtime's tarball."""
    return tarball_key.removesuffix(".tar.gz") + ".meta.json"


def _workers_own(runtime_config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "python_ver": PYTHON,
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
