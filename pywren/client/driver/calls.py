"""``CallRecord``, ``ChunkRecord`` and ``AttemptRecord``: what the client knows about one call, or chunk. Plain data.

Times are *observed* seconds: a clock that advances while the client can look (``Service.now``). A client that was
suspended for an hour has observed nothing in that hour, and must not conclude anything from it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pywren.exceptions import CallError
from pywren.wire.cause import Cause


class Phase(enum.IntEnum):
    """Where a call is in its life. A call with several attempts in flight is in the furthest phase of any of them."""

    HELD = 0
    """In the driver's queue: not invoked yet, or waiting to be invoked again."""
    SENDING = 1
    """A thread is invoking it."""
    SENT = 2
    """The service has accepted it. Nothing shows yet that it has started."""
    RUNNING = 3
    """A worker has shown that it runs the call."""
    ENDED = 4
    """Its outcome, or the error with which the driver gave up, is known."""


@dataclass(slots=True, eq=False)
class AttemptRecord:
    """One attempt of one call.

    Args:
        number: 1 for the first attempt.
        order: how many attempts of the callset were accepted until this one was; 0 before, or if another client did it.
        sent: the observed time when the service accepted it; ``nan`` before.
        sent_at: the same by the storage's clock, in seconds since the epoch, for people and for comparison with the
            service's records; ``nan`` before.
        request_id: the service's id of the invocation.
        started_at: when it began, by the worker's clock in seconds since the epoch; ``None`` while that is unknown.
        started: the observed time when it was first seen to have started, which is later than it did; ``nan`` before.
        shown: the observed time when its worker last showed that it runs the call; ``nan`` if it never did.
        ended: the observed time when it ended; ``nan`` while it may still be in flight.
        cause: why it ended without a value; ``None`` while it is in flight, or if it returned.
        error: the error in words, for the message of the last error.
        where: the worker: a log stream, an instance or a process.
        suspected: whether it is believed to be lost, though its result would still count.
        backup: whether it was started beside another attempt.
        beside: how many others of the service were just being invoked when it was accepted.
    """

    number: int
    order: int = 0
    sent: float = math.nan
    sent_at: float = math.nan
    request_id: str = ""
    started_at: float | None = None
    started: float = math.nan
    shown: float = math.nan
    ended: float = math.nan
    cause: Cause | None = None
    error: str = ""
    where: str = ""
    suspected: bool = False
    backup: bool = False
    beside: int = 0

    @property
    def in_flight(self) -> bool:
        """Whether it may still bring a result, and is not believed to be lost."""
        return math.isnan(self.ended) and not self.suspected


@dataclass(slots=True, eq=False)
class CallRecord:
    """What is known about one call.

    Args:
        call_id: the call.
        phase: where it is in its life.
        due: the time, by the driver's clock, from which a held call may be invoked.
        backup: whether the next attempt is a backup.
        attempts: its attempts, in order.
        alone: whether it has an invocation of its own from now on.
        chunk: the chunk that it is in at present; ``None`` if it is alone.
    """

    call_id: str
    phase: Phase = Phase.HELD
    due: float = 0.0
    backup: bool = False
    attempts: tuple[AttemptRecord, ...] = ()  # a tuple of one is half as large as a list of one
    alone: bool = False
    chunk: ChunkRecord | None = None

    @property
    def current(self) -> AttemptRecord | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    def attempt(self, number: int) -> AttemptRecord | None:
        """Return an attempt by its number; ``None`` if there is none."""
        for one in self.attempts:
            if one.number == number:
                return one
        return None

    def count(self, causes: Iterable[Cause]) -> int:
        """Return how many attempts ended for one of these causes."""
        wanted = frozenset(causes)
        return sum(one.cause in wanted for one in self.attempts)


class Lost(NamedTuple):
    """Why the worker of a chunk is presumed dead.

    Args:
        cause: why.
        error: the same for people.
    """

    cause: Cause
    error: CallError


@dataclass(slots=True, eq=False)
class ChunkRecord(CallRecord):
    """Calls that share one invocation. For the service it stands for them, as long as it has any.

    Its ``call_id`` is its name, and its only attempt is the invocation. Once its plan is written it stays as it is,
    however often the service is too busy for it; but calls leave it when they end, or when they are to run again.

    Args:
        plan: the attempt of each call, in the order in which they run.
        calls: the calls that have not left it, in the same order.
        lost: why its worker is presumed dead; ``None`` if it is not. Then its calls are being taken back.
        time_limit: seconds after which its worker hands back what it has not begun; ``None`` for no limit.
        news: the observed time when one of its calls was last seen to have ended; ``nan`` before.
    """

    plan: Mapping[str, int] = field(default_factory=dict)
    calls: dict[str, CallRecord] = field(default_factory=dict)
    lost: Lost | None = None
    time_limit: float | None = None
    news: float = math.nan

    @property
    def number(self) -> int:
        """The number of the attempt, which is that of the first call."""
        return next(iter(self.plan.values()))
