"""``Garbage``: old callsets and failure records that can be deleted."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pywren.cloud.bucket import Bucket

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


_JOBS = "jobs"


@dataclass
class Garbage:
    """The objects that can be deleted.

    Args:
        callsets: the keys of each callset whose objects are all old, by the callset's id.
        jobs: the keys of old records of named jobs.
        records: the keys of old records of calls that failed outside the handler.
        size: the size of all objects in bytes.
    """

    callsets: dict[str, list[str]] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)
    size: int = 0

    @property
    def keys(self) -> list[str]:
        """The keys of all objects."""
        return [*itertools.chain.from_iterable(self.callsets.values()), *self.jobs, *self.records]

    def __str__(self) -> str:
        return (
            f"{len(self.callsets):,} callsets and {len(self.records):,} failure records: "
            f"{len(self.keys):,} objects, {self.size / 1e6:,.1f} MB"
        )


def find_garbage(bucket: Bucket, before: datetime.datetime) -> Garbage:
    """Find callsets and records that were written before a time; never include anything else, such as runtimes.

    Args:
        bucket: the bucket; it must exist.
        before: the time, with a time zone.
    """
    found = Garbage()
    calls, *failures = bucket.prefixes
    for callset_id, items in _by_callset(bucket, calls):
        if callset_id == _JOBS:
            # A record is written again when its job is resumed, so it is never older than what its job needs.
            old = [item for item in items if item["LastModified"] < before]
            found.jobs += [item["Key"] for item in old]
            found.size += sum(item["Size"] for item in old)
        elif all(item["LastModified"] < before for item in items):
            found.callsets[callset_id] = [item["Key"] for item in items]
            found.size += sum(item["Size"] for item in items)
    for item in itertools.chain.from_iterable(map(bucket.listing, failures)):
        if item["LastModified"] < before:
            found.records.append(item["Key"])
            found.size += item["Size"]
    return found


def _by_callset(bucket: Bucket, prefix: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    def callset(item: dict[str, Any]) -> str:
        return str(item["Key"]).removeprefix(prefix).partition("/")[0]

    # S3 lists keys in order, so the keys of a callset are adjacent
    for name, items in itertools.groupby(bucket.listing(prefix), key=callset):
        if _UUID.fullmatch(name) or name == _JOBS:
            yield name, list(items)
