"""A client that invokes chunks, and a service that runs them, in virtual time."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pywren.client.driver.chunks import Situation, chunk_size, fitting, time_limit


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
    sent: float = 0.0
    shown: float = 0.0  # when the client last saw something of it


@dataclass
class _World:
    durations: Sequence[float]
    setting: Setting
    chunksize: int | None
    most: int | None = None
    now: float = 0.0
    events: list[tuple[float, int, str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._order = itertools.count()
        self.held = deque(range(len(self.durations)))
        self.queue: deque[_Chunk] = deque()
        self.free = self.setting.slots
        self.in_flight = self.ended = self.invocations = self.handed_back = 0
        self.busy = 0.0
        self.delay = 0.0  # the sum of what the outcomes took besides the calls
        self.known: dict[_Chunk, None] = {}  # the chunks in flight, in the order of their acceptance
        self.arrived: list[tuple[float, int, str, tuple[object, ...]]] = []
        self.running = 0  # how many invocations were seen to run at the last poll
        self.unfinished = 0.0  # how long calls have run that have not ended, at the last poll
        self.sizes: list[int] = []
        self.client_is_free = True

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
            self.running,
            self.ended,
            self.busy + self.unfinished,
            setting.invoking,
            most=self.most,
        )

    def _send(self, _: object) -> None:
        if self.chunksize is None:
            size = chunk_size(self._situation())
        else:
            size = fitting(self.chunksize, len(self.held), self.most) if self.held else 0
        self.client_is_free = not size
        if not size:
            return
        limit = float("inf") if self.chunksize is not None else time_limit(size, self._situation().duration)
        self.invocations += 1
        self.in_flight += 1
        self.sizes.append(size)
        sent = self.now + self.setting.invoking
        chunk = _Chunk([self.held.popleft() for _ in range(size)], limit, sent, sent)
        self.known[chunk] = None
        self.at(sent, "accept", chunk)
        self.at(sent, "send")

    def _poll(self, _: object) -> None:
        while self.arrived and self.arrived[0][0] <= self.now:
            _, _, kind, what = heapq.heappop(self.arrived)
            chunk = what[0]
            assert isinstance(chunk, _Chunk)
            if kind == "outcome":
                self.ended += 1
                duration = float(what[1])  # type: ignore[arg-type]
                self.busy += duration
                self.delay += max(0.0, self.now - chunk.shown - duration)
                chunk.shown = self.now
            else:
                self.in_flight -= 1
                del self.known[chunk]
                back = chunk.calls[int(what[1]) :]  # type: ignore[call-overload]
                self.held.extendleft(reversed(back))
                self.handed_back += len(back)
        delay = self.delay / max(1, self.ended)
        first = itertools.islice(self.known, self.setting.slots)
        self.unfinished = sum(max(0.0, self.now - one.shown - delay) for one in first)
        running = self.setting.seen + self.setting.start
        self.running = sum(self.now - one.sent >= running for one in self.known)
        if self.client_is_free and self.held:
            self.client_is_free = False
            self.at(self.now, "send")
        self.at(self.now + self.setting.poll, "poll")

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
        time = began = self.now + setting.start + (setting.cold if self.invocations <= setting.slots else 0.0)
        page, unwritten, count = float("inf"), [], 0
        for call in chunk.calls:
            if count and time - began > chunk.limit:
                break
            time += self.durations[call] + setting.each
            count += 1
            if time > page:
                self._show(page, chunk, unwritten)
                page, unwritten = float("inf"), []
            unwritten.append(call)
            page = min(page, time + setting.page)
        self._show(time, chunk, unwritten)
        heapq.heappush(self.arrived, (time + setting.put, next(self._order), "over", (chunk, count)))
        self.at(time + setting.between, "free")

    def _show(self, time: float, chunk: _Chunk, calls: Sequence[int]) -> None:
        for one in calls:
            shown = (time + self.setting.put, next(self._order), "outcome", (chunk, self.durations[one]))
            heapq.heappush(self.arrived, shown)

    def _free(self, _: object) -> None:
        self.free += 1
        self._start()


def run(durations: Sequence[float], setting: Setting, chunksize: int | None, most: int | None = None) -> Result:
    """Run a map.

    Args:
        durations: how long each call runs, in seconds.
        setting: how fast everything else is.
        chunksize: the size of all chunks; ``None`` for what ``chunk_size`` says.
        most: how many calls fit into a payload.
    """
    return _World(durations, setting, chunksize, most).run()
