"""``Counters``: what was asked of the emulated AWS and what its functions did. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class RequestKind(NamedTuple):
    """What requests are counted by.

    Args:
        caller: ``client``, or ``function:NAME`` for a request of a deployed function.
        service: botocore's name: ``s3``, ``lambda``, …
        operation: such as ``PutObject``.
    """

    caller: str
    service: str
    operation: str


@dataclass(frozen=True)
class Traffic:
    """How often, and how much.

    Args:
        requests: how many.
        refused: how many of them were answered with a status of 400 or more.
        bytes_in: bytes of the requests' bodies.
        bytes_out: bytes of the answers' bodies.
    """

    requests: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True)
class Executions:
    """What the containers of a function did.

    Args:
        invocations: calls that ran, repeated ones too.
        errors: calls that ended with an error of the function, a time-out or a kill.
        cold_starts: containers that were started.
        throttles: invocations refused or put back because of concurrency or scaling rate.
        accepted: asynchronous events that were answered 202.
        retried: events that ran again after a function error.
        expired: events given up because of their age.
        records: on-failure records that were sent.
        dropped: events dropped by a fault.
        repeated: events repeated by a fault.
        waiting: events in the queue now.
        billed_ms: billed milliseconds.
        gb_seconds: memory size times billed seconds.
        most_at_once: the highest number of executions at one time.
    """

    invocations: int = 0
    errors: int = 0
    cold_starts: int = 0
    throttles: int = 0
    billed_ms: int = 0
    gb_seconds: float = 0.0
    most_at_once: int = 0
    accepted: int = 0
    retried: int = 0
    expired: int = 0
    records: int = 0
    dropped: int = 0
    repeated: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class Execution:
    """One execution that has ended.

    Args:
        function: the function's name.
        request_id: the invocation's id; repetitions have the same.
        container: which container ran it.
        cold: whether it started the container.
        duration_ms: from the hand-over of the event to the answer, not rounded.
        billed_ms: rounded up.
        init_ms: from the start of the process until it asked for its first event; ``None`` when warm.
        max_memory_mb: the most that the environment used.
        outcome: ``ok``, ``error``, ``timeout``, ``killed``, ``exited`` or ``init``.
    """

    function: str
    request_id: str
    container: int
    cold: bool
    duration_ms: float
    billed_ms: int
    init_ms: float | None
    max_memory_mb: int
    outcome: str


@dataclass(frozen=True)
class Counters:
    """All of it, since the emulator started; ``after - before`` is what happened in between.

    Args:
        traffic: by kind of request.
        executions: by function name.
        faults: how often each kind of fault struck.
        actions: ``(caller, IAM action, resource ARN, condition)`` of every request, once each: what a policy must
            allow; the condition is the prefix of ``s3:ListBucket``.
    """

    traffic: Mapping[RequestKind, Traffic] = field(default_factory=dict)
    executions: Mapping[str, Executions] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    actions: frozenset[tuple[str, str, str, str]] = frozenset()

    def count(self, *, caller: str | None = None, service: str | None = None, operation: str | None = None) -> Traffic:
        """Return the sum of the kinds that match what is given; ``caller='function'`` matches every function."""
        raise NotImplementedError

    def __sub__(self, earlier: Counters) -> Counters:
        raise NotImplementedError

    def encode(self) -> dict[str, Any]:
        """Return them as JSON takes them."""
        raise NotImplementedError

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Counters:
        """Return what ``encode`` was given."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Return the table that is printed at the end of a run."""
        raise NotImplementedError


class Tally:
    """Counts in the server; one thread (the event loop's) writes to it."""

    def request(
        self, kind: RequestKind, *, status: int, bytes_in: int, bytes_out: int, action: tuple[str, str, str] | None
    ) -> None:
        """Count one request that was answered; ``action`` is IAM action, resource and condition."""
        raise NotImplementedError

    def execution(self, ended: Execution, *, memory_mb: int, at_once: int) -> None:
        """Count one execution that ended, and keep it (the last 100,000)."""
        raise NotImplementedError

    def event(self, function: str, what: str, change: int = 1) -> None:
        """Count what befell an invocation: a field of ``Executions`` such as ``throttles`` or ``accepted``."""
        raise NotImplementedError

    def fault(self, kind: str) -> None:
        """Count a fault that struck."""
        raise NotImplementedError

    def executions(self) -> list[Execution]:
        """Return the executions that are kept, oldest first."""
        raise NotImplementedError

    def snapshot(self) -> Counters:
        """Return what was counted until now."""
        raise NotImplementedError
