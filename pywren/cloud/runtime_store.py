"""``RuntimeStore``: the runtimes in the bucket, named by their digests.

The order of writing makes every interruption harmless: first the tarball, then its description, then the configuration
that names it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pywren.cloud.runtime_builder import Built
from pywren.exceptions import ArgumentError, IntegrityError
from pywren.storage.backend import Backend
from pywren.storage.runtime_info import META_LIMIT, meta_key

logger = logging.getLogger(__name__)

FOLDER = "runtimes"
"""The folder of runtimes below the configuration's prefix, where the function's role may read."""

_SUFFIX, _META_SUFFIX = ".tar.gz", ".meta.json"


class Stored(NamedTuple):
    """A runtime in the bucket.

    Args:
        name: its name.
        key: the key of its tarball.
        meta: its description; empty when the upload of the runtime was interrupted.
    """

    name: str
    key: str
    meta: Mapping[str, Any]


class RuntimeStore:
    """The runtimes in a bucket.

    Args:
        bucket: the bucket.
        prefix: pywren's key prefix in the bucket.
        region: the bucket's region; by default the region in the AWS profile or the environment.
        backend: reads and writes objects; by default an S3 backend.
    """

    def __init__(self, bucket: str, prefix: str, region: str | None = None, *, backend: Backend | None = None) -> None:
        from pywren.storage.s3_backend import S3Backend

        self.bucket = bucket
        self.folder = f"{prefix.strip('/')}/{FOLDER}/".lstrip("/")
        self._backend: Backend = backend or S3Backend(bucket, region)

    def close(self) -> None:
        """Close connections."""
        self._backend.close()

    def section(self, built: Built) -> dict[str, str | None]:
        """Return the configuration's ``runtime`` section for a runtime."""
        return {"s3_bucket": self.bucket, "s3_key": self._key(built.name), "sha256": built.sha256}

    def upload(self, built: Built) -> bool:
        """Store a runtime unless it is already in the bucket; return whether the tarball was uploaded.

        Raises:
            StorageError: the bucket cannot be written.
        """
        key, there = self._key(built.name), self._there(built)
        if key not in there:
            self._backend.put(key, built.path.read_bytes())
        if meta_key(key) not in there:
            self._backend.put(meta_key(key), json.dumps(built.meta, indent=1).encode())
        return key not in there

    def holds(self, built: Built) -> bool:
        """Tell whether a runtime is stored completely.

        Raises:
            StorageError: the bucket cannot be read.
        """
        key = self._key(built.name)
        return {key, meta_key(key)} <= self._there(built)

    def _there(self, built: Built) -> set[str]:
        return set(self._backend.list(f"{self.folder}{built.name}"))

    def list(self) -> list[Stored]:
        """Return the stored runtimes, sorted by name.

        Raises:
            StorageError: the bucket cannot be read.
        """
        keys = self._backend.list(self.folder)
        names = {key.removesuffix(_SUFFIX).removesuffix(_META_SUFFIX)[len(self.folder) :] for key in keys}
        return [self._stored(name, keys) for name in sorted(names) if "/" not in name]

    def find(self, name: str) -> Stored:
        """Return a runtime by its name, the start of its name, its key or its URL.

        Raises:
            ArgumentError: no runtime matches, or several match.
        """
        wanted = name.removeprefix(f"s3://{self.bucket}/").removeprefix(self.folder).removesuffix(_SUFFIX)
        there = self.list()
        found = [item for item in there if item.name == wanted] or [
            item for item in there if wanted and item.name.startswith(wanted)
        ]
        if len(found) == 1:
            return found[0]
        names = ", ".join(item.name for item in (found or there)) or "none"
        what = "more than one runtime matches" if found else "there is no runtime"
        which = "matches" if found else "runtimes"
        raise ArgumentError(f"{what} {name!r} in s3://{self.bucket}/{self.folder}; {which}: {names}")

    def delete(self, stored: Stored) -> None:
        """Delete a runtime.

        Raises:
            StorageError: the bucket cannot be written.
        """
        self._backend.delete([meta_key(stored.key), stored.key])

    def _key(self, name: str) -> str:
        return f"{self.folder}{name}{_SUFFIX}"

    def _stored(self, name: str, keys: Sequence[str]) -> Stored:
        key = self._key(name)
        meta: Any = {}
        if meta_key(key) in keys and key in keys:
            try:
                meta = json.loads(self._backend.get(meta_key(key), limit=META_LIMIT))
            except (ValueError, IntegrityError) as error:
                logger.debug("%s does not describe a runtime: %s", meta_key(key), error)
        return Stored(name, key, meta if isinstance(meta, dict) else {})
