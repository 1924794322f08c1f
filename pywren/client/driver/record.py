"""``CallsetRecord``: what the client knows about the calls of one callset.

It is plain data. The lock of its service guards it (``client.driver.driver``); the pure modules work on it while the
driver holds that lock. Progress, summaries and timelines read it through ``Driver.counts`` and ``Driver.attempts``.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from pywren.client.driver.calls import AttemptRecord, CallRecord, ChunkRecord, Phase
from pywren.client.driver.chunks import Times
from pywren.client.driver.service import UNSEEN, Histogram, Service, Share
from pywren.wire.cause import Cause

FOLLOWING = math.inf
"""When a call is due that follows others: not before they have ended, which no clock tells."""


class Counts(NamedTuple):
    """How many calls of a callset are in each phase, and what became of the others."""

    total: int
    held: int
    sending: int
    sent: int
    running: int
    done: int
    failed: int
    retried: int


class CallsetRecord(Share):
    """All calls of one callset, with indexes and statistics that make the decisions cheap for 100,000 calls.

    Args:
        call_ids: the calls, all of them held.
        service: what this callset shares with others.
        following: those of the calls that follow others, and are not due before ``let_go``.
    """

    def __init__(self, call_ids: Iterable[str], service: Service, following: Container[str] = ()) -> None:
        super().__init__()
        self.service = service
        self.calls: dict[str, CallRecord] = {call_id: CallRecord(call_id) for call_id in call_ids}
        for call_id, call in self.calls.items() if following else ():
            call.due, call.alone = (FOLLOWING, True) if call_id in following else (0.0, False)
        self.in_phase[Phase.HELD] = len(self.calls)
        self.chunks: dict[str, ChunkRecord] = {}
        # For readers calls count, and for the service chunks: how many more calls are in a phase than in_phase says.
        self.inside = [0] * len(Phase)
        self.failed = self.retried = 0
        # ``(due, order, call_id)``; the order keeps calls that are due at the same time in the order of the map.
        # An entry whose call is not held any more, or is due at another time, is skipped when it is taken out.
        self.queue: list[tuple[float, int, str]] = [
            (call.due, order, one) for order, (one, call) in enumerate(self.calls.items())
        ]
        heapq.heapify(self.queue)
        self._order = len(self.queue)
        self.durations = Histogram()
        self.times = Times()
        service.add(self)

    def hold(self, call: CallRecord, due: float) -> None:
        """Put a call into the queue."""
        self.move(call, Phase.HELD)
        call.due = due
        self._order += 1
        heapq.heappush(self.queue, (due, self._order, call.call_id))

    def move(self, call: CallRecord, phase: Phase) -> None:
        """Change the phase of a call or chunk, and the counts."""
        if call.chunk is not None:
            if phase is Phase.ENDED:
                call.chunk.news = self.service.now()
            if phase is not Phase.HELD and phase is not Phase.ENDED:
                self._move_inside(call, phase)
                return
            self.leave(call)
        elif type(call) is ChunkRecord:
            self._move_chunk(call, phase)
            return
        self.service.move(self, call, phase)

    def unit(self, name: str) -> CallRecord | None:
        """Return a call by its id, or a chunk by its name; ``None`` if there is none."""
        return self.calls.get(name) or self.chunks.get(name)

    # -- chunks --------------------------------------------------------------------------------------------------

    def take_together(self, now: float, most: int, sizes: Mapping[str, int], room: int | None) -> list[CallRecord]:
        """Take calls out of the queue that may share an invocation: the first that is due, and some of those behind it.

        Args:
            now: the time by the driver's clock.
            most: how many.
            sizes: the size of each call in a payload.
            room: how much the sizes may be together; ``None`` for any sum.
        """
        taken: list[CallRecord] = []
        while len(taken) < most:
            call = self.first_held()
            if call is None or call.due > now or call.alone or type(call) is ChunkRecord:
                break
            if room is not None:
                room -= sizes.get(call.call_id, 0)
                if room < 0 and taken:
                    break
            heapq.heappop(self.queue)
            taken.append(call)
        return taken

    def review(self, now: float) -> None:
        """Add up how long the calls that run have run so far. ``now`` is the observed time."""
        # What was invoked before something that has started has started too; unless it is lost, it shows that soon.
        newest = self.service.newest_started
        overtaken = itertools.takewhile(lambda item: item[0].order < newest, self.waiting.items())
        waited = (self._so_far(one, call, now) for one, call in overtaken)
        ran = (self._so_far(one, call, now) for one, call in self.running.items())
        self.times.review(itertools.chain(ran, (one for one in waited if one[1] < 2.0 * UNSEEN)))

    def _so_far(self, attempt: AttemptRecord, call: CallRecord, now: float) -> tuple[float, float]:
        # A single call that was seen to run has run for some time by then.
        news = call.news if type(call) is ChunkRecord else attempt.started - UNSEEN
        return self.times.so_far(now, attempt.sent, news)

    def join(
        self, name: str, plan: Mapping[str, int], calls: Sequence[CallRecord], time_limit: float | None = None
    ) -> ChunkRecord:
        """Make a chunk of held calls; it is held too."""
        members = {call.call_id: call for call in calls}
        chunk = self.chunks[name] = ChunkRecord(name, plan=plan, calls=members, time_limit=time_limit)
        for call in calls:
            call.chunk = chunk
        for counts in (self.in_phase, self.service.in_phase):
            counts[Phase.HELD] -= len(calls) - 1
        self.inside[Phase.HELD] += len(calls) - 1
        return chunk

    def leave(self, call: CallRecord) -> None:
        """Take a call out of its chunk, in the phase that it has. Without calls a chunk has ended."""
        chunk = call.chunk
        if chunk is None:
            return
        call.chunk = None
        del chunk.calls[call.call_id]
        self.inside[call.phase] -= 1
        self.in_phase[call.phase] += 1
        self.service.in_phase[call.phase] += 1
        if not chunk.calls:
            self._end_chunk(chunk)

    def _end_chunk(self, chunk: ChunkRecord) -> None:
        attempt = chunk.current
        if attempt is not None:
            attempt.ended = self.service.now() if math.isnan(attempt.ended) else attempt.ended
            self.service.note_end(self, chunk, attempt)
        self._move_chunk(chunk, Phase.ENDED)

    def _move_chunk(self, chunk: ChunkRecord, phase: Phase) -> None:
        before = chunk.phase
        self.service.move(self, chunk, phase)
        self.inside[before] += 1
        self.inside[phase] -= 1
        if phase is Phase.RUNNING:
            return  # one of its calls runs
        for call in chunk.calls.values():
            self._move_inside(call, phase)
            if phase is Phase.HELD:  # the service was too busy for it
                call.attempts = tuple(one for one in call.attempts if one.number != chunk.plan[call.call_id])

    def _move_inside(self, call: CallRecord, phase: Phase) -> None:
        self.inside[call.phase] -= 1
        self.inside[phase] += 1
        call.phase = phase

    def add(self, call_id: str) -> CallRecord:
        """Add a call that somebody else has invoked."""
        call = self.calls[call_id] = CallRecord(call_id, Phase.SENT)
        self.in_phase[Phase.SENT] += 1
        self.service.in_phase[Phase.SENT] += 1
        return call

    def first_held(self) -> CallRecord | None:
        """Return the call that is next in the queue; ``None`` if no call is held."""
        while self.queue:
            due, _, call_id = self.queue[0]
            call = self.calls.get(call_id) or self.chunks[call_id]
            # What is in a chunk waits as long as the chunk does.
            if call.phase is Phase.HELD and call.due == due and call.chunk is None:
                return call
            heapq.heappop(self.queue)
        return None

    def note_start(self, call: CallRecord, attempt: AttemptRecord, now: float) -> None:
        """Record that an attempt is seen to have started. It may be called again, whenever its worker shows itself."""
        chunk = call.chunk
        if chunk is None or chunk.plan[call.call_id] != attempt.number:
            self.service.note_start(self, call, attempt, now)
        elif chunk.current is not None:
            # What shows that one of the calls runs shows that the chunk does.
            self.service.note_start(self, chunk, chunk.current, now)
            chunk.current.shown = now
            if chunk.phase in (Phase.SENDING, Phase.SENT):
                self.move(chunk, Phase.RUNNING)

    def note_end(self, call: CallRecord, attempt: AttemptRecord) -> None:
        """Record that an attempt has ended, perhaps without having been seen to start."""
        if call.chunk is not None and call.chunk.plan[call.call_id] == attempt.number:
            return  # the invocation goes on
        duration = self.service.note_end(self, call, attempt)
        if duration is not None:
            self.durations.add(duration)

    def note_suspected(self, call: CallRecord, attempt: AttemptRecord, cause: Cause) -> None:
        """Record that an attempt is suspected, until its worker shows itself."""
        self.service.note_suspected(self, call, attempt, cause)

    def counts(self) -> Counts:
        """Return the counts that readers show."""
        held, sending, sent, running, ended = map(sum, zip(self.in_phase, self.inside, strict=True))
        return Counts(len(self.calls), held, sending, sent, running, ended - self.failed, self.failed, self.retried)
