"""Correct uses of pywren, which every type checker must accept; ``tests/test_types.py`` checks this file.

It is not run. ``assert_type`` fails a check if an expression has any other type.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

import pywren
from pywren import ResponseFuture


def word(number: int) -> str:
    return str(number)


def add(a: int, b: int, *, scale: float = 1.0) -> float:
    return (a + b) * scale


def pair(number: int, text: str) -> str:
    return text * number


def maybe(number: int) -> str | None:
    return None


async def fetch(url: str) -> bytes:
    return url.encode()


def total(numbers: list[int]) -> int:
    return sum(numbers)


def three(number: int, text: str, data: bytes, *, mark: bool = False) -> bool:
    return mark


async def join(pages: list[bytes]) -> str:
    return b"".join(pages).decode()


async def repeat(number: int, text: str) -> str:
    return text * number


class Model:
    """Something with methods to map."""

    def score(self, row: list[float]) -> float:
        return sum(row)

    def __call__(self, row: list[float]) -> int:
        return len(row)


pwex = pywren.default_executor(job_max_runtime=10)


def maps() -> None:
    """``map`` and ``call_async`` know what the function takes and returns."""
    assert_type(pwex.map(word, [1, 2]), list[ResponseFuture[str]])
    assert_type(pwex.map(word, range(3), {"NAME": "value"}), list[ResponseFuture[str]])
    assert_type(pwex.map(word, (n for n in range(3)), retries=2, retry_on=OSError), list[ResponseFuture[str]])
    assert_type(pwex.map(maybe, [1]), list[ResponseFuture[str | None]])
    assert_type(pwex.map(lambda number: number + 1, [1]), list[ResponseFuture[int]])
    assert_type(pwex.map(len, ["a"]), list[ResponseFuture[int]])
    assert_type(pwex.map(Path, ["a"]), list[ResponseFuture[Path]])
    assert_type(pwex.map(Model().score, [[1.0]]), list[ResponseFuture[float]])
    assert_type(pwex.map(Model(), [[1.0]]), list[ResponseFuture[int]])
    assert_type(pwex.map(fetch, ["url"], extra_env={"NAME": "value"}, backup=True), list[ResponseFuture[bytes]])
    assert_type(pwex.map(fetch, ["url"], {"NAME": "value"}), list[ResponseFuture[bytes]])
    assert_type(pwex.call_async(word, 1), ResponseFuture[str])
    assert_type(pwex.call_async(fetch, "url", name="page"), ResponseFuture[bytes])


def verbs() -> None:
    """The other verbs know it too."""
    assert_type(pwex.submit(add, 1, 2, scale=0.5), ResponseFuture[float])
    assert_type(pwex.submit(fetch, "url"), ResponseFuture[bytes])
    assert_type(pwex.starmap(pair, [(1, "a"), (2, "b")], retries=0), list[ResponseFuture[str]])
    assert_type(pwex.starmap(fetch, [("url",)]), list[ResponseFuture[bytes]])
    assert_type(pwex.zip_map(pair, [1, 2], "ab"), list[ResponseFuture[str]])
    assert_type(pwex.zip_map(fetch, ["url"], backup=True), list[ResponseFuture[bytes]])
    for text in pwex.imap(word, iter([1, 2]), window=10):
        assert_type(text, str)
    for page in pwex.imap_unordered(fetch, ["url"], extra_env={}):
        assert_type(page, bytes)
    with pwex.imap(word, [1], return_exceptions=True) as outcomes:
        assert_type(next(outcomes), str | BaseException)
    with pwex.imap(fetch, ["url"], return_exceptions=True) as pages:
        assert_type(next(pages), bytes | BaseException)
    with pwex.imap_unordered(fetch, ["url"], window=5, return_exceptions=True) as pages:
        assert_type(next(pages), bytes | BaseException)
    iterator: Iterator[str] = pwex.imap(word, [1])
    assert_type(next(iterator), str)


def results() -> None:
    """Results have the type that the function returns."""
    future = pwex.call_async(word, 1)
    assert_type(future.result(), str)
    assert_type(future.result(1.5), str)
    assert_type(future.result(timeout=1.5, throw_except=False), str | None)
    assert_type(future.result(check_only=True), bool)
    assert_type(future.exception(), BaseException | None)
    words = pwex.map(word, [1])
    assert_type(pywren.get_all_results(words), list[str])
    assert_type(pywren.get_all_results(words, 10), list[str])
    assert_type(pywren.get_all_results(words, return_exceptions=True), list[str | BaseException])


def several_types() -> None:
    """A list may mix futures of several types."""
    mixed: list[ResponseFuture[str] | ResponseFuture[bytes]] = [pwex.call_async(word, 1), pwex.call_async(fetch, "url")]
    done, not_done = pywren.wait(mixed, return_when=pywren.ANY_COMPLETED, timeout=5)
    assert_type(done, list[ResponseFuture[str] | ResponseFuture[bytes]])
    assert_type(not_done, list[ResponseFuture[str] | ResponseFuture[bytes]])
    assert_type(pywren.wait(pwex.map(word, [1]))[0], list[ResponseFuture[str]])


def reductions() -> None:
    """``reduce`` takes a function of the list of results."""
    lengths = pwex.map(len, ["a", "b"])
    assert_type(pwex.reduce(total, lengths), ResponseFuture[int])
    assert_type(pwex.reduce(join, pwex.map(fetch, ["url"])), ResponseFuture[str])
    assert_type(pwex.map_reduce(len, ["a", "b"], total), list[ResponseFuture[int]])
    assert_type(pwex.map_reduce(len, ["a", "b"], total, groups=[0, 1], retries=1), list[ResponseFuture[int]])
    assert_type(pwex.map_reduce(fetch, ["url"], join, groups=len), list[ResponseFuture[str]])
    assert_type(pwex.map_reduce(fetch, ["url"], len, lambda url, index: index % 2), list[ResponseFuture[int]])
    assert_type(pwex.map_reduce(lambda url: url.encode(), ["url"], join), list[ResponseFuture[str]])


def futures_as_arguments(untyped: ResponseFuture) -> None:
    """A future stands for its value, among the first three arguments of ``submit`` and the first two of ``starmap``."""
    number, text, data = pwex.call_async(len, "a"), pwex.call_async(word, 1), pwex.call_async(fetch, "url")
    with pywren.PoolExecutor() as pool:
        assert_type(pool.submit(add, number, 2), ResponseFuture[float])
        assert_type(pool.submit(repeat, 2, text), ResponseFuture[str])
    assert_type(pwex.submit(add, number, 2, scale=0.5), ResponseFuture[float])
    assert_type(pwex.submit(add, 1, number), ResponseFuture[float])
    assert_type(pwex.submit(add, number, number), ResponseFuture[float])
    assert_type(pwex.submit(add, number, b=2), ResponseFuture[float])
    assert_type(pwex.submit(pair, number, text), ResponseFuture[str])
    assert_type(pwex.submit(repeat, number, text), ResponseFuture[str])
    assert_type(pwex.submit(three, 1, "a", data, mark=True), ResponseFuture[bool])
    assert_type(pwex.submit(three, number, text, data), ResponseFuture[bool])
    assert_type(pwex.submit(add, untyped, 2), ResponseFuture[float])
    assert_type(pwex.submit(add, untyped, untyped), ResponseFuture[float])
    assert_type(pwex.submit(total, pwex.put([1, 2])), ResponseFuture[int])
    assert_type(pwex.submit(fetch, text), ResponseFuture[bytes])
    assert_type(pwex.starmap(add, [(number, 2)]), list[ResponseFuture[float]])
    assert_type(pwex.starmap(add, [(1, number)], retries=0), list[ResponseFuture[float]])
    assert_type(pwex.starmap(repeat, zip([number], [text], strict=True)), list[ResponseFuture[str]])
    assert_type(pwex.starmap(three, ((number, "a", b"") for _ in range(2))), list[ResponseFuture[bool]])


def the_standard_library() -> None:
    """The functions of ``concurrent.futures`` take pywren's futures."""
    words = pwex.map(word, [1, 2])
    for future in concurrent.futures.as_completed(words, timeout=5):
        assert_type(future.result(), str)
    for own in pywren.as_completed(words, timeout=5):
        assert_type(own, ResponseFuture[str])
    assert_type(concurrent.futures.wait(words).done, set[concurrent.futures.Future[str]])
    plain: concurrent.futures.Future[str] = words[0]
    plain.add_done_callback(lambda ended: None)
    words[0].add_done_callback(lambda ended: assert_type(ended.callset_id, str))


async def waiting() -> None:
    """A coroutine awaits a future, alone or with others."""
    words = pwex.map(word, [1, 2])
    assert_type(await words[0], str)
    assert_type(await asyncio.wrap_future(words[0]), str)
    assert_type(await asyncio.gather(words[0], pwex.call_async(fetch, "url")), tuple[str, bytes])
    assert_type(await asyncio.wait_for(words[0], timeout=5), str)


def pools(anyones: concurrent.futures.Executor) -> None:
    """``PoolExecutor`` checks the arguments of ``submit``."""
    with pywren.PoolExecutor() as pool:
        assert_type(pool, pywren.PoolExecutor)
        assert_type(pool.submit(add, 1, 2, scale=0.5), ResponseFuture[float])
        assert_type(pool.submit(fetch, "url"), ResponseFuture[bytes])
        assert_type(pool.map(add, [1, 2], [3, 4]), Iterator[float])
        assert_type(pool.map(fetch, ["url"]), Iterator[bytes])
        pools(pool)


class Labelled(ResponseFuture[str]):
    """A subclass for calls that return texts."""

    label = ""


def futures_in_signatures(one: ResponseFuture, several: list[ResponseFuture[Any]], own: Labelled) -> None:
    """Without brackets, a future may return anything."""
    assert_type(one.result(), Any)
    assert_type(pywren.get_all_results(several), list[Any])
    assert_type(own.result(), str)
    assert_type(pywren.get_all_results([own]), list[str])


def the_package() -> None:
    """Submodules are attributes of the package, and ``pywren.wait`` is the function."""
    with pywren.local_executor() as local:
        assert_type(local, pywren.Executor)
    try:
        pywren.get_all_results(pywren.attach("night-7"))
    except (pywren.exceptions.CallError, pywren.exceptions.StorageError):
        pass
    config = pywren.wrenconfig.default()
    invoker = pywren.invokers.DummyInvoker()
    pywren.executor.Executor(invoker, config, 10)
    assert_type(pywren.__version__, str)
    assert_type(pywren.storage.Storage(pywren.wrenconfig.extract_storage_config(config)).prefix, str)
