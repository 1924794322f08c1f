"""``Garbage``: callsets and failure records that nobody needs any more."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pywren.cloud.bucket import Bucket

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass
class Garbage:
    """What may go.

    Args:
        callsets: keys of each callset of which every object is old, by its id.
        records: keys of old records of calls that ended without the handler's doing.
        size: bytes of all.
    """

    callsets: dict[str, list[str]] = field(default_factory=dict)
    records: list[str] = field(default_factory=list)
    size: int = 0

    @property
    def keys(self) -> list[str]:
        """All keys."""
        return [*itertools.chain.from_iterable(self.callsets.values()), *self.records]

    def __str__(self) -> str:
        return (
            f"{len(self.callsets):,} callsets and {len(self.records):,} failure records: "
            f"{len(self.keys):,} objects, {self.size / 1e6:,.1f} MB"
        )


def find_garbage(bucket: Bucket, before: datetime.datetime) -> Garbage:
    """Return what was written before a moment. What is not a callset (runtimes, others' objects) is never among it.

    Args:
        bucket: the bucket; must exist.
        before: with a time zone.
    """
    found = Garbage()
    calls, *failures = bucket.prefixes
    for callset_id, items in _by_callset(bucket, calls):
        if all(item["LastModified"] < before for item in items):
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

    # a listing is in order of the keys: a callset's stand together
    for name, items in itertools.groupby(bucket.listing(prefix), key=callset):
        if _UUID.fullmatch(name):
            yield name, list(items)
