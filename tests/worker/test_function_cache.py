"""The staged functions that a warm worker keeps, and threads that want one at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pywren.exceptions import IntegrityError, StorageError
from pywren.wire.digests import sha256
from pywren.wire.function import StagedFunction
from pywren.worker.function_cache import FunctionCache

DATA = {name: StagedFunction(name.encode() * 100).encode() for name in "abcde"}


def get(cache: FunctionCache, name: str, fetch: Callable[[], bytes]) -> StagedFunction:
    """Get a function of ``DATA``."""
    return cache.get(name, sha256(DATA[name]), fetch)


def test_the_cache_is_bounded() -> None:
    """New functions displace old ones, and one that exceeds the limit is not kept."""
    big = StagedFunction(b"x" * 1000).encode()
    fetched: list[str] = []

    def ask(name: str, data: bytes) -> None:
        def fetch() -> bytes:
            fetched.append(name)
            return data

        cache.get(name, sha256(data), fetch)

    cache = FunctionCache(limit=3 * len(DATA["a"]))
    for name in "abcdea":
        ask(name, DATA[name])
    assert fetched == list("abcdea")
    ask("a", DATA["a"])
    ask("e", DATA["e"])
    assert fetched == list("abcdea")
    ask("big", big)
    ask("big", big)
    ask("e", DATA["e"])
    assert fetched == [*"abcdea", "big", "big"]


class SlowStorage:
    """Answers the first fetch when it is let go, and every other at once.

    Args:
        first: what the first fetch answers, or raises.
    """

    def __init__(self, first: bytes | Exception) -> None:
        self.began, self.let_go = threading.Event(), threading.Event()
        self.fetches = 0
        self._first = first

    def fetch(self) -> bytes:
        self.fetches += 1
        if self.fetches > 1:
            return DATA["a"]
        self.began.set()
        assert self.let_go.wait(60), "nobody may wait for this fetch"
        if isinstance(self._first, Exception):
            raise self._first
        return self._first


def test_one_thread_fetches_for_all() -> None:
    """Calls that want a function which is on its way wait for it, and get the same object."""
    cache, storage = FunctionCache(), SlowStorage(DATA["a"])
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(get, cache, "a", storage.fetch)
        assert storage.began.wait(60)
        others = [threads.submit(get, cache, "a", storage.fetch) for _ in range(3)]
        storage.let_go.set()
        assert all(other.result(60) is first.result(60) for other in others)
    assert storage.fetches == 1


def test_another_function_is_not_held_up() -> None:
    """A slow fetch makes only those wait who want that function."""
    cache, storage = FunctionCache(), SlowStorage(DATA["a"])
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(get, cache, "a", storage.fetch)
        assert storage.began.wait(60)
        assert get(cache, "b", lambda: DATA["b"]).pickle == b"b" * 100
        assert not slow.done()
        storage.let_go.set()
        slow.result(60)


@pytest.mark.parametrize(("first", "raised"), [(StorageError("lost"), StorageError), (DATA["b"], IntegrityError)])
def test_a_failed_fetch_is_repeated(first: bytes | Exception, raised: type[Exception]) -> None:
    """Only the call that fetched gets the error. The calls that waited fetch again, one for all."""
    cache, storage = FunctionCache(), SlowStorage(first)
    with ThreadPoolExecutor(3) as threads:
        failing = threads.submit(get, cache, "a", storage.fetch)
        assert storage.began.wait(60)
        others = [threads.submit(get, cache, "a", storage.fetch) for _ in range(2)]
        storage.let_go.set()
        with pytest.raises(raised):
            failing.result(60)
        assert others[0].result(60) is others[1].result(60)
    assert storage.fetches == 2
