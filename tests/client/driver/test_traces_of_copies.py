"""The whole driver on a simulated service that has copies of the function, in virtual time.

The driver does not know of copies. What it sees must not make it believe that calls are lost.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from simulation import LAMBDA, Client, Service, Trace, World

from benchmarks.simulated.functions import Event, Functions
from pywren.client.copies import Copies
from pywren.wire.keys import copies_of

pytestmark = pytest.mark.thorough


class Copied(Functions):
    """Each copy has environments of its own, and gains 1,000 of them in ten seconds; the account limits all."""

    def __init__(self, world: World, service: Service, copies: int, **told: Any) -> None:
        super().__init__(world, replace(service, concurrency=copies * service.concurrency), world.rng, **told)
        names = copies_of("f", copies)
        self._concurrency = service.concurrency
        self._copies = Copies(names, clock=lambda: world.now)
        self._numbers_of = {name: number for number, name in enumerate(names)}
        self._at: dict[tuple[str, int], int] = {}
        self._states: list[tuple[list[int], deque[float]]] = [([], deque()) for _ in names]

    def accept(self, event: Event) -> None:
        name = self._copies.invoke(lambda name: name)
        self._at[event.call_id, event.number] = self._numbers_of[name]
        super().accept(event)

    def _try(self, event: Event, tries: int) -> None:
        self._as_copy_of(event, lambda: super(Copied, self)._try(event, tries))

    def _finish(self, event: Event, *ended: Any) -> None:
        self._as_copy_of(event, lambda: super(Copied, self)._finish(event, *ended))

    def _has_room(self) -> bool:
        # An environment that does nothing counts for its copy alone, and not for the account.
        return self._busy < self._concurrency and (bool(self._warm) or super()._has_room())

    def _as_copy_of(self, event: Event, step: Callable[[], None]) -> None:
        number = self._at[event.call_id, event.number]
        self._warm, self._born = self._states[number]
        step()
        self._states[number] = self._warm, self._born


class WorldOfCopies(World):
    """A client, and a function that has copies."""

    def __init__(self, calls: int, service: Service, copies: int, client: Client) -> None:
        super().__init__(calls, service, client, LAMBDA)
        self.functions = Copied(self, service, copies, finished=self._finish, shown=self._show, failed=self._record)
        self.trace = Trace(runs=self.functions.runs, causes=self.functions.causes)


def lasts(seconds: float) -> Callable[[random.Random, int], float]:
    return lambda rng, index: seconds


def run(copies: int, seconds: float, concurrency: int = 4_000, **faults: float) -> Trace:
    service = Service(concurrency=concurrency, duration=lasts(seconds), **faults)
    trace = WorldOfCopies(4_000, service, copies, Client(sends=2_000.0)).run()
    assert len(trace.ended) == 4_000
    assert not trace.failures
    return trace


def test_copies_start_calls_sooner() -> None:
    """Four copies start 4,000 calls at once, where one function takes half a minute."""
    one, four = run(1, 60.0), run(4, 60.0)
    assert one.seconds > 85.0
    assert four.seconds < 70.0
    assert one.repeats <= 10
    assert four.repeats == 0


@pytest.mark.parametrize("seconds", [2.0, 20.0])
def test_copies_in_an_account_that_is_full(seconds: float) -> None:
    """They do not help, and do no harm: calls that wait at one copy are not taken for lost."""
    assert run(4, seconds, concurrency=500).repeats <= 10


def test_calls_that_copies_lose() -> None:
    """They are noticed as with one function."""
    trace = run(4, 5.0, dropped=0.01)
    assert trace.seconds < 120.0
    assert trace.repeats < 200
