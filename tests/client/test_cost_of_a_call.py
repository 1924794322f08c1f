"""What one more call of a chunk costs the client, in lines of Python: to make it, and to read what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lines import lines_run
from test_journals import Chunked

import pywren
from pywren.client.protocols import Invoker
from pywren.executor import Executor


class Taker(Invoker):
    """A service that takes every chunk, and runs none."""

    takes_chunks = True
    payload_limit = 10_000_000

    def invoke(self, payload: Any) -> None:
        pass


def each(lines: Callable[[int], int]) -> float:
    """Return how many lines one more call costs, if ``lines`` returns how many some calls cost."""
    lines(10)  # imports, and what is remembered
    return (lines(110) - lines(10)) / 100


def test_a_call_costs_little_to_make() -> None:
    """What the calls of a map share is made once, and neither staged nor sent for each."""

    def lines(count: int) -> int:
        with Executor(Taker(), pywren.wrenconfig.default(), 60.0) as executor:
            _, found = lines_run("", lambda: executor.map(abs, range(count), chunksize=count))
            executor.cancel_all()
        return found

    assert each(lines) < 250


def test_an_outcome_costs_little_to_read() -> None:
    """Each status on a page is made once, and what it has cost is computed for a budget only."""

    def lines(count: int) -> int:
        client = Chunked(count, chunksize=count)
        client.page(1, *(client.value(one.call_id, 1) for one in client.items))
        _, found = lines_run("", client.look, 1)
        assert client.results() == [1] * count
        return found

    assert each(lines) < 420


def test_a_call_without_news_costs_a_poll_little() -> None:
    """A poll may be about 100,000 calls, of which a few have ended."""

    def lines(count: int) -> int:
        client = Chunked(count, chunksize=count)
        client.look(1)
        _, found = lines_run("", client.look, 1)
        return found

    assert each(lines) < 2
