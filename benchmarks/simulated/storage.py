"""``Objects``: S3 in virtual time, as a backend of ``Storage``."""

from __future__ import annotations

import bisect
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.simulated.functions import Seconds, drawn
from benchmarks.simulated.threads import VirtualTime
from pywren.exceptions import IntegrityError, StorageNoSuchKeyError
from pywren.storage.backend import NamesOf04

PAGE = 1_000
"""The most keys in one answer of ListObjectsV2 (Amazon S3 API Reference)."""


@dataclass
class Requests:
    """What a request of the client takes: seconds that it computes, and seconds that it waits."""

    get_cpu: float
    put_cpu: float
    list_cpu: float  # for a page of 1,000 keys
    invoke_cpu: float
    get: Seconds
    put: Seconds
    list: Seconds
    invoke: Seconds


class Objects(NamesOf04):
    """The objects of one bucket.

    Args:
        world: the time.
        requests: what requests of the client take.
        rng: where chance comes from.

    Attributes:
        sent: how many requests the client has sent, by kind.
        sent_by_workers: the same of all workers.
    """

    def __init__(self, world: VirtualTime, requests: Requests, rng: random.Random) -> None:
        self.sent: Counter[str] = Counter()
        self.sent_by_workers: Counter[str] = Counter()
        self._world, self._requests, self._rng = world, requests, rng
        # Bytes, or a function that makes them when they are read: a million statuses would not fit into memory.
        self._objects: dict[str, bytes | Callable[[], bytes]] = {}
        self._keys = _SortedKeys()
        self._written: dict[str, float] = {}

    # -- for workers of single calls, which are not simulated in detail ------------------------------------------------

    def write(self, key: str, data: bytes | Callable[[], bytes], *, if_absent: bool = False) -> bool:
        """Write an object at once. Return whether it was written."""
        is_new = key not in self._objects
        if if_absent and not is_new:
            return False
        self._objects[key] = data
        self._written[key] = self._world.time()
        if is_new:
            self._keys.add(key)
        return True

    # -- Backend -------------------------------------------------------------------------------------------------------

    def _count(self, kind: str) -> None:
        (self.sent_by_workers if self._world.is_elsewhere else self.sent)[kind] += 1

    def put(self, key: str, data: bytes | bytearray | memoryview, *, if_absent: bool = False) -> bool:
        self._count("put")
        self._world.request(self._requests.put_cpu, drawn(self._rng, self._requests.put))
        return self.write(key, bytes(data), if_absent=if_absent)

    def get(self, key: str, byte_range: tuple[int, int] | None = None, *, limit: int | None = None) -> bytes:
        self._count("get")
        self._world.request(self._requests.get_cpu, drawn(self._rng, self._requests.get))
        found = self._objects.get(key)
        if found is None:
            raise StorageNoSuchKeyError(key)
        if not isinstance(found, bytes):
            with self._world.uncounted():  # a worker has made it
                found = found()
        data = found if byte_range is None else found[byte_range[0] : byte_range[1] + 1]
        if limit is not None and len(data) > limit:
            raise IntegrityError(f"{key} is too long")
        return data

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        return self._list(prefix, start_after)

    def _list(self, prefix: str, start_after: str, skip: tuple[str, str] | None = None) -> list[str]:
        keys: list[str] = []
        while True:
            page = self._page(prefix, start_after)
            keys += page
            if len(page) < PAGE:
                return keys
            start_after = skip[1] if skip and skip[0] < page[-1] < skip[1] else page[-1]

    def list_timed(
        self, prefix: str, start_after: str = "", *, suffix: str, skip: tuple[str, str] | None = None
    ) -> tuple[Sequence[str], Mapping[str, float]]:
        keys = self._list(prefix, start_after, skip)
        return keys, {key: float(int(self._written[key])) for key in keys if key.endswith(suffix)}

    def _page(self, prefix: str, start_after: str) -> list[str]:
        self._count("list")
        # How many keys an answer has is known when it is there; most of the computing is reading it.
        seen = self._keys.after(prefix, start_after, PAGE)
        self._world.request(
            self._requests.get_cpu + self._requests.list_cpu * len(seen) / PAGE, drawn(self._rng, self._requests.list)
        )
        return self._keys.after(prefix, start_after, PAGE)

    def delete(self, keys: Iterable[str]) -> None:
        self._count("delete")
        self._world.request(self._requests.put_cpu, drawn(self._rng, self._requests.put))
        for key in keys:
            if self._objects.pop(key, None) is not None:
                self._keys.remove(key)

    def now(self) -> float:
        return self._world.time()

    def close(self) -> None:
        pass


class _SortedKeys:
    """Keys in order, in blocks, so that a million of them can arrive in any order."""

    _MOST = 2_000

    def __init__(self) -> None:
        self._blocks: list[list[str]] = [[]]
        self._firsts: list[str] = [""]

    def add(self, key: str) -> None:
        index = bisect.bisect_right(self._firsts, key) - 1
        block = self._blocks[index]
        bisect.insort(block, key)
        if len(block) > self._MOST:
            half = len(block) // 2
            self._blocks[index : index + 1] = [block[:half], block[half:]]
            self._firsts.insert(index + 1, block[half])

    def remove(self, key: str) -> None:
        self._blocks[bisect.bisect_right(self._firsts, key) - 1].remove(key)

    def after(self, prefix: str, start_after: str, most: int) -> list[str]:
        """Return the first keys that begin with a prefix and come after another key."""
        found: list[str] = []
        start = max(prefix, start_after)
        index = bisect.bisect_right(self._firsts, start) - 1
        while index < len(self._blocks) and len(found) < most:
            block = self._blocks[index]
            position = bisect.bisect_right(block, start) if start_after >= prefix else bisect.bisect_left(block, start)
            for key in block[position : position + most - len(found)]:
                if not key.startswith(prefix):
                    return found
                found.append(key)
            index += 1
        return found
