"""``Counters``: counts the requests to the emulated AWS and the executions of its functions.

This module needs only the standard library.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

_KEPT_EXECUTIONS = 100_000


class RequestKind(NamedTuple):
    """A kind of request, which is counted separately.

    Args:
        caller: ``client``, or ``function:NAME`` for a request from a deployed function.
        service: botocore's name for the service: ``s3``, ``lambda``, …
        operation: the operation, such as ``PutObject``.
    """

    caller: str
    service: str
    operation: str


@dataclass(frozen=True)
class Traffic:
    """The number of requests of a kind, and their size.

    Args:
        requests: the number of requests.
        refused: the number of requests answered with a status of 400 or more.
        bytes_in: the size of the requests' bodies.
        bytes_out: the size of the responses' bodies.
    """

    requests: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(mine + its for mine, its in zip(_row(self), _row(other), strict=True)))

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(*(mine - its for mine, its in zip(_row(self), _row(earlier), strict=True)))


@dataclass(frozen=True)
class Executions:
    """The executions of a function.

    Args:
        invocations: executions that ended, including retries.
        errors: executions that ended with an error of the function, a time-out or a kill.
        cold_starts: containers that were started.
        throttles: invocations that the concurrency limit or the scaling rate refused or delayed.
        accepted: asynchronous events that were answered with 202.
        retried: events that ran again after a function error.
        expired: events dropped because of their age.
        records: on-failure records that were sent.
        dropped: events dropped by a fault.
        repeated: events repeated by a fault.
        waiting: events currently in the queue, including those waiting for a retry.
        running: executions that have not ended; of the other counts, only ``accepted`` includes them.
        billed_ms: billed milliseconds.
        gb_seconds: memory size times billed seconds.
        most_at_once: the highest number of concurrent executions.
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
    running: int = 0

    def __sub__(self, earlier: Executions) -> Executions:
        """Return the increase since ``earlier``; ``waiting``, ``running`` and ``most_at_once`` keep their values."""
        grown = {name: getattr(self, name) - getattr(earlier, name) for name in _SUMS}
        return Executions(**grown, **{name: getattr(self, name) for name in _STATES})


@dataclass(frozen=True)
class Execution:
    """One execution that has ended.

    Args:
        function: the function's name.
        request_id: the invocation's id, which retries share.
        container: the number of the container that ran the execution.
        cold: whether the container was started for this execution.
        duration_ms: the time from the moment when the process gets the event until its answer, not rounded.
        billed_ms: the billed time, rounded up.
        init_ms: the time from the start of the process to its first request for an event; ``None`` when warm.
        max_memory_mb: the most memory that the environment used.
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

    def encode(self) -> dict[str, Any]:
        """Return the fields as values that JSON can represent."""
        return dict(vars(self))

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Execution:
        """Return the ``Execution`` that ``encode`` turned into these fields."""
        return cls(**fields)


_STATES = ("waiting", "running", "most_at_once")
_SUMS = tuple(each.name for each in fields(Executions) if each.name not in _STATES)


def _row(traffic: Traffic) -> tuple[int, ...]:
    return traffic.requests, traffic.refused, traffic.bytes_in, traffic.bytes_out


@dataclass(frozen=True)
class Counters:
    """All counts since the emulator started; ``after - before`` gives what happened in between.

    Args:
        traffic: the requests, by kind.
        executions: the executions, by function name.
        faults: how often each kind of fault struck.
        actions: the distinct ``(caller, IAM action, resource ARN, condition)`` of all requests, which a policy must
            allow; the condition is the prefix of ``s3:ListBucket``. A difference between two ``Counters`` has only the
            new actions.
    """

    traffic: Mapping[RequestKind, Traffic] = field(default_factory=dict)
    executions: Mapping[str, Executions] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    actions: frozenset[tuple[str, str, str, str]] = frozenset()

    def count(self, *, caller: str | None = None, service: str | None = None, operation: str | None = None) -> Traffic:
        """Return the total of all kinds that match the arguments; ``caller='function'`` matches every function."""
        matching = (
            traffic
            for kind, traffic in self.traffic.items()
            if caller in (None, kind.caller, kind.caller.partition(":")[0])
            and service in (None, kind.service)
            and operation in (None, kind.operation)
        )
        return sum(matching, Traffic())

    def __sub__(self, earlier: Counters) -> Counters:
        traffic = {kind: now - earlier.traffic.get(kind, Traffic()) for kind, now in self.traffic.items()}
        executions = {name: now - earlier.executions.get(name, Executions()) for name, now in self.executions.items()}
        faults = {kind: now - earlier.faults.get(kind, 0) for kind, now in self.faults.items()}
        return Counters(
            traffic={kind: change for kind, change in traffic.items() if change.requests},
            executions=executions,
            faults={kind: change for kind, change in faults.items() if change},
            actions=self.actions - earlier.actions,
        )

    def encode(self) -> dict[str, Any]:
        """Return the counts as values that JSON can represent."""
        return {
            "traffic": [[*kind, *_row(traffic)] for kind, traffic in self.traffic.items()],
            "executions": {name: asdict(executions) for name, executions in self.executions.items()},
            "faults": dict(self.faults),
            "actions": sorted(self.actions),
        }

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Counters:
        """Return the ``Counters`` that ``encode`` turned into these fields."""
        return cls(
            traffic={RequestKind(*row[:3]): Traffic(*row[3:]) for row in fields["traffic"]},
            executions={name: Executions(**executions) for name, executions in fields["executions"].items()},
            faults=dict(fields["faults"]),
            actions=frozenset((caller, action, arn, when) for caller, action, arn, when in fields["actions"]),
        )

    def __str__(self) -> str:
        """Return the table that is printed at the end of a run."""
        parts = [
            _table(3, _TRAFFIC_HEAD, self._traffic_rows()),
            _table(1, _EXECUTIONS_HEAD, self._execution_rows()),
            _table(1, ("fault", "struck"), ((kind, str(times)) for kind, times in sorted(self.faults.items()))),
            *self._unfinished(),
        ]
        return "\n\n".join(part for part in parts if part) or "the emulated AWS received no requests"

    def _traffic_rows(self) -> Iterator[tuple[str, ...]]:
        for kind, traffic in sorted(self.traffic.items()):
            sizes = _size(traffic.bytes_in), _size(traffic.bytes_out)
            yield (*kind, f"{traffic.requests:,}", f"{traffic.refused:,}", *sizes)

    def _execution_rows(self) -> Iterator[tuple[str, ...]]:
        for name, ran in sorted(self.executions.items()):
            numbers = ran.invocations, ran.errors, ran.cold_starts, ran.throttles, ran.most_at_once, ran.billed_ms
            yield (name, *(f"{number:,}" for number in numbers), f"{ran.gb_seconds:,.3f}")

    def _unfinished(self) -> Iterator[str]:
        running = sum(ran.running for ran in self.executions.values())
        waiting = sum(ran.waiting for ran in self.executions.values())
        if running or waiting:
            yield f"not counted yet: {running:,} running executions and {waiting:,} waiting events"


_TRAFFIC_HEAD = ("caller", "service", "operation", "requests", "refused", "in", "out")
_EXECUTIONS_HEAD = ("function", "invocations", "errors", "cold", "throttled", "at once", "billed ms", "GB-s")


def _table(words: int, head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a table whose first ``words`` columns are aligned left; empty when there are no rows."""
    lines = [head, *rows]
    if len(lines) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _size(count: int) -> str:
    """Return a number of bytes in a readable unit."""
    size, units = float(count), ["TB", "GB", "MB", "kB"]
    if size < 1000:
        return f"{count} B"
    while size >= 1000 and units:
        size, unit = size / 1000, units.pop()
    return f"{size:,.1f} {unit}"


class Tally:
    """The counts while the emulator's process runs. Only the event loop's thread changes them."""

    def __init__(self) -> None:
        self._traffic: dict[RequestKind, list[int]] = {}
        self._functions: dict[str, dict[str, Any]] = {}
        self._faults: Counter[str] = Counter()
        self._actions: set[tuple[str, str, str, str]] = set()
        self._ended: deque[Execution] = deque(maxlen=_KEPT_EXECUTIONS)

    def request(
        self, kind: RequestKind, *, status: int, bytes_in: int, bytes_out: int, action: tuple[str, str, str] | None
    ) -> None:
        """Count one answered request; ``action`` is the IAM action, the resource and the condition."""
        counts = self._traffic.setdefault(kind, [0, 0, 0, 0])
        counts[0] += 1
        counts[1] += status >= 400
        counts[2] += bytes_in
        counts[3] += bytes_out
        if action is not None:
            self._actions.add((kind.caller, *action))

    def execution(self, ended: Execution, *, memory_mb: int, at_once: int) -> None:
        """Count one ended execution, and keep it; only the last 100,000 executions are kept."""
        self._ended.append(ended)
        counts = self._of(ended.function)
        counts["invocations"] += 1
        counts["errors"] += ended.outcome != "ok"
        counts["cold_starts"] += ended.cold
        counts["billed_ms"] += ended.billed_ms
        counts["gb_seconds"] += memory_mb / 1024 * ended.billed_ms / 1000
        counts["most_at_once"] = max(counts["most_at_once"], at_once)

    def event(self, function: str, what: str, change: int = 1) -> None:
        """Add to one of a function's counts: ``what`` is a field of ``Executions``, such as ``throttles``."""
        self._of(function)[what] += change

    def fault(self, kind: str) -> None:
        """Count a fault that struck."""
        self._faults[kind] += 1

    def executions(self) -> list[Execution]:
        """Return the executions that were kept, oldest first."""
        return list(self._ended)

    def snapshot(self) -> Counters:
        """Return a copy of the current counts."""
        return Counters(
            traffic={kind: Traffic(*counts) for kind, counts in self._traffic.items()},
            executions={name: Executions(**counts) for name, counts in self._functions.items()},
            faults=dict(self._faults),
            actions=frozenset(self._actions),
        )

    def _of(self, function: str) -> dict[str, Any]:
        counts = self._functions.get(function)
        if counts is None:
            counts = self._functions[function] = asdict(Executions())
        return counts
