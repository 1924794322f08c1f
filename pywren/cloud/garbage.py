"""``Garbage``: old callsets, names of jobs and failure records that can be deleted."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pywren.cloud.bucket import Bucket
from pywren.wire.keys import jobs_prefix

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass
class Garbage:
    """The objects that can be deleted.

    Args:
        callsets: the keys of each callset whose objects are all old, by the callset's id.
        records: the keys of old records of calls that failed outside the handler.
        jobs: the keys of old names of jobs.
        size: the size of all objects in bytes.
    """

    callsets: dict[str, list[str]] = field(default_factory=dict)
    records: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    size: int = 0

    @property
    def keys(self) -> list[str]:
        """The keys of all objects."""
        return [*itertools.chain.from_iterable(self.callsets.values()), *self.records, *self.jobs]

    def __str__(self) -> str:
        jobs = f", {len(self.jobs):,} names of jobs" if self.jobs else ""
        return (
            f"{len(self.callsets):,} callsets{jobs} and {len(self.records):,} failure records: "
            f"{len(self.keys):,} objects, {self.size / 1e6:,.1f} MB"
        )


def find_garbage(bucket: Bucket, before: datetime.datetime) -> Garbage:
    """Find what was written for calls before a time; never include anything else, such as runtimes.

    Args:
        bucket: the bucket; it must exist.
        before: the time, with a time zone.
    """
    found = Garbage()
    calls, *failures = bucket.prefixes
    for callset_id, items in _by_callset(bucket, calls):
        if all(item["LastModified"] < before for item in items):
            found.callsets[callset_id] = [item["Key"] for item in items]
            found.size += sum(item["Size"] for item in items)
    for prefixes, keys in ((failures, found.records), ([jobs_prefix(calls)], found.jobs)):
        for item in itertools.chain.from_iterable(map(bucket.listing, prefixes)):
            if item["LastModified"] < before:
                keys.append(item["Key"])
                found.size += item["Size"]
    return found


def _by_callset(bucket: Bucket, prefix: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    def callset(item: dict[str, Any]) -> str:
        return str(item["Key"]).removeprefix(prefix).partition("/")[0]

    # S3 lists keys in order, so the keys of a callset are adjacent
    for name, items in itertools.groupby(bucket.listing(prefix), key=callset):
        if _UUID.fullmatch(name):
            yield name, list(items)
