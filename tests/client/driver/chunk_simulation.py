"""A client that invokes chunks, and a service that runs them, in virtual time."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pywren.client.driver.chunks import ENOUGH, Situation, Times, chunk_size, first_wave, time_limit


@dataclass
class Setting:
    """How fast everything is, in seconds. The defaults are those of warm workers on Lambda, as far as was measured."""

    slots: int = 1_000
    invoking: float = 0.002
    start: float = 0.03  # from the acceptance of an invocation to its first call
    between: float = 0.01  # of a worker, between two invocations
    each: float = 0.001  # of a worker, for a call besides the call itself
    page: float = 1.0
    put: float = 0.03  # from the end of a call to its outcome in the storage
    poll: float = 0.1
    seen: float = 2.0  # after this time a running invocation shows that it runs
    cold: float = 0.0
    believed_slots: int | None = None  # what the client knows; None for the truth


class Result(NamedTuple):
    """How a map went. ``wall`` is when the client knew the last outcome."""

    wall: float
    invocations: int
    handed_back: int
    sizes: list[int]


@dataclass(eq=False)
class _Chunk:
    calls: Sequence[int]
    limit: float
    sent: float
    order: int
    shown: float = float("nan")  # when the client last saw an outcome of it
    started: float = float("inf")


@dataclass
class _World:
    durations: Sequence[float]
    setting: Setting
    chunksize: int | None
    now: float = 0.0
    events: list[tuple[float, int, str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._order = itertools.count()
        self.held = deque(range(len(self.durations)))
        self.queue: deque[_Chunk] = deque()
        self.free = self.setting.slots
        self.in_flight = self.ended = self.invocations = self.handed_back = 0
        self.known: dict[_Chunk, None] = {}  # the chunks in flight, in the order of their acceptance
        self.arrived: list[tuple[float, int, str, tuple[object, ...]]] = []
        self.times = Times()
        self.newest = -1  # the newest chunk that is known to have started
        self.sizes: list[int] = []
        self.client_is_free = True
        self.learns = self.chunksize is None
        self.back: set[int] = set()  # calls that were handed back
        self.reviewed = 0  # how many calls were known to have ended when the times were last reviewed

    def at(self, time: float, kind: str, what: object = None) -> None:
        heapq.heappush(self.events, (time, next(self._order), kind, what))

    def run(self) -> Result:
        self.at(0.0, "send")
        self.at(self.setting.poll, "poll")
        while self.ended < len(self.durations):
            self.now, _, kind, what = heapq.heappop(self.events)
            getattr(self, "_" + kind)(what)
        return Result(self.now, self.invocations, self.handed_back, self.sizes)

    # -- the client ----------------------------------------------------------------------------------------------

    def _situation(self) -> Situation:
        setting = self.setting
        return Situation(
            len(self.held),
            setting.believed_slots or setting.slots,
            self.in_flight,
            self.times.ended,
            self.times.busy + self.times.unfinished,
            setting.invoking,
            self.times.doubtful,
            len(self.durations),
            bool(self.held) and self.held[0] in self.back,
        )

    def _send(self, _: object) -> None:
        self.client_is_free = not self.held or self._waits()
        if self.client_is_free:
            return
        size = 1 if self.learns else self.chunksize or chunk_size(self._situation())
        size = min(size, len(self.held))
        limit = float("inf") if self.chunksize is not None else time_limit(size, self._situation().duration)
        self.invocations += 1
        self.in_flight += 1
        self.sizes.append(size)
        sent = self.now + self.setting.invoking
        chunk = _Chunk([self.held.popleft() for _ in range(size)], limit, sent, self.invocations)
        self.known[chunk] = None
        self.at(sent, "accept", chunk)
        self.at(sent, "send")

    def _waits(self) -> bool:
        slots, calls = self.setting.believed_slots or self.setting.slots, len(self.durations)
        short = self.times.ended > 0.0 and chunk_size(self._situation()) > 1
        wave = first_wave(calls, 0, slots, self.now - self.setting.invoking, self.setting.invoking, short=short)
        self.learns = self.learns and wave.calls < calls
        return self.learns and calls - len(self.held) >= wave.calls + self.reviewed

    def _poll(self, _: object) -> None:
        while self.arrived and self.arrived[0][0] <= self.now:
            _, _, kind, what = heapq.heappop(self.arrived)
            chunk = what[0]
            assert isinstance(chunk, _Chunk)
            if kind == "outcome":
                self.ended += 1
                duration = float(what[1])  # type: ignore[arg-type]
                alone = len(chunk.calls) == 1
                self.times.add(duration + self.setting.each, self.now - chunk.sent if alone else float("nan"))
                chunk.shown, self.newest = self.now, max(self.newest, chunk.order)
            elif kind == "back":
                self.held.extend(what[1])  # type: ignore[arg-type]
                self.handed_back += len(what[1])  # type: ignore[arg-type]
                self.back.update(what[1])  # type: ignore[arg-type]
                self.newest = max(self.newest, chunk.order)
            else:
                self.in_flight -= 1
                del self.known[chunk]
        self.times.review(self._so_far(one) for one in self.known)
        self.reviewed = self.ended
        is_known = self.ended >= ENOUGH and bool(self.held) and chunk_size(self._situation()) > 1
        self.learns = self.learns and not is_known
        if self.client_is_free and self.held:
            self.client_is_free = False
            self.at(self.now, "send")
        self.at(self.now + self.setting.poll, "poll")

    def _so_far(self, chunk: _Chunk) -> tuple[float, float]:
        """Return how long a call has run that is seen to run."""
        if chunk.order > self.newest and chunk.started + self.setting.seen > self.now:
            return 0.0, 0.0
        return self.times.so_far(self.now, chunk.sent, chunk.shown)

    # -- the service ---------------------------------------------------------------------------------------------

    def _accept(self, chunk: object) -> None:
        assert isinstance(chunk, _Chunk)
        self.queue.append(chunk)
        self._start()

    def _start(self) -> None:
        while self.free and self.queue:
            self.free -= 1
            self._work(self.queue.popleft())

    def _work(self, chunk: _Chunk) -> None:
        """Work through a chunk. When its calls end is known beforehand, for nothing else influences it."""
        setting = self.setting
        time = self.now + setting.start + (setting.cold if self.invocations <= setting.slots else 0.0)
        chunk.started, limit = time, time + chunk.limit
        page, unwritten = float("inf"), []
        for count, call in enumerate(chunk.calls, 1):
            time += self.durations[call] + setting.each
            if time > limit and count < len(chunk.calls):
                shown = (limit + setting.put, next(self._order), "back", (chunk, chunk.calls[count:]))
                heapq.heappush(self.arrived, shown)
                unwritten.append(call)
                break
            if time > page:
                self._show(page, chunk, unwritten)
                page, unwritten = float("inf"), []
            unwritten.append(call)
            page = min(page, time + setting.page)
        self._show(time, chunk, unwritten)
        heapq.heappush(self.arrived, (time + setting.put, next(self._order), "over", (chunk,)))
        self.at(time + setting.between, "free")

    def _show(self, time: float, chunk: _Chunk, calls: Sequence[int]) -> None:
        for one in calls:
            shown = (time + self.setting.put, next(self._order), "outcome", (chunk, self.durations[one]))
            heapq.heappush(self.arrived, shown)

    def _free(self, _: object) -> None:
        self.free += 1
        self._start()


def run(durations: Sequence[float], setting: Setting, chunksize: int | None) -> Result:
    """Run a map.

    Args:
        durations: how long each call runs, in seconds.
        setting: how fast everything else is.
        chunksize: the size of all chunks; ``None`` for what ``chunk_size`` says.
    """
    return _World(durations, setting, chunksize).run()
