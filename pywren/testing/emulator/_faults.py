"""``Faults``: what goes wrong in the emulated AWS, how often, and with which random seed. Standard library only."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pywren.exceptions import ArgumentError

_TIMES_TO_KILL = ("start", "running", "before_response")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Args:
        share: the share of the occasions on which it strikes, 0 to 1.
        most: how often it strikes at most; ``None`` is without end.

    Raises:
        ArgumentError: a share outside 0..1, or a ``most`` that is not a whole number of times.
    """

    share: float = 1.0
    most: int | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.share) or not 0 <= self.share <= 1:
            raise ArgumentError(f"the share of a fault must be a number from 0 to 1, not {self.share!r}")
        if self.most is not None and (not _is_number(self.most) or self.most < 0 or self.most != int(self.most)):
            raise ArgumentError(f"most must be a whole number or None, not {self.most!r}")


NEVER = Fault(share=0.0)


@dataclass(frozen=True)
class Faults:
    """Everything that can be made to go wrong; the default is nothing.

    Args:
        seed: of the random choices, a stream for each kind: the n-th occasion of a kind is decided by seed, kind and n.
        kill_container: an execution's container is killed in the middle of the call.
        kill_at: when: ``start`` (the event was handed to the runtime client), ``running`` (at a moment within the next
            second that the seed chooses, or already when the function is about to write to S3 or to answer) or
            ``before_response`` (the function has ended, its answer is not taken any more).
        drop_event: an accepted asynchronous event never runs, and nobody is told.
        repeat_event: an accepted event runs twice.
        throttle_invoke: ``Invoke`` answers 429 ``TooManyRequestsException``.
        fail_invoke: ``Invoke`` answers 500 ``ServiceException``.
        slow_down_s3: a request to S3 answers 503 ``SlowDown`` and does nothing.
        invoke_latency: seconds added to every ``Invoke``.
        cold_start_latency: seconds added to every cold start.
        s3_latency: seconds added to every request to S3.

    Raises:
        ArgumentError: a value that its field cannot take.
    """

    seed: int = 0
    kill_container: Fault = NEVER
    kill_at: str = "running"
    drop_event: Fault = NEVER
    repeat_event: Fault = NEVER
    throttle_invoke: Fault = NEVER
    fail_invoke: Fault = NEVER
    slow_down_s3: Fault = NEVER
    invoke_latency: float = 0.0
    cold_start_latency: float = 0.0
    s3_latency: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int):
            raise ArgumentError(f"seed must be a whole number, not {self.seed!r}")
        if self.kill_at not in _TIMES_TO_KILL:
            raise ArgumentError(f"kill_at must be one of {', '.join(_TIMES_TO_KILL)}, not {self.kill_at!r}")
        for name in _KINDS:
            if not isinstance(getattr(self, name), Fault):
                raise ArgumentError(f"{name} must be a Fault, such as Fault(share=0.1), not {getattr(self, name)!r}")
        for name in _LATENCIES:
            seconds = getattr(self, name)
            if not _is_number(seconds) or not 0 <= seconds < float("inf"):
                raise ArgumentError(f"{name} must be a number of seconds, 0 or more, not {seconds!r}")

    def encode(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Faults:
        """Return what ``encode`` was given.

        Raises:
            ArgumentError: an unknown name, a share outside 0..1, a negative number.
        """
        _check_names(fields, _NAMES, "Faults")
        values: dict[str, Any] = dict(fields)
        values.update((name, _decode_fault(name, values[name])) for name in _KINDS if name in values)
        return cls(**values)


_NAMES = tuple(field.name for field in fields(Faults))
_LATENCIES = tuple(name for name in _NAMES if name.endswith("_latency"))
_KINDS = tuple(field.name for field in fields(Faults) if field.default is NEVER)


def _decode_fault(name: str, value: Any) -> Fault:
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{name} must be an object with share and most, not {value!r}")
    _check_names(value, ("share", "most"), name)
    return Fault(**value)


def _check_names(given: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(given, Mapping):
        raise ArgumentError(f"{where} must be an object, not {given!r}")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ArgumentError(f"{where} has no {', '.join(map(str, unknown))}: choose from {', '.join(known)}")


class FaultPlan:
    """Decides, in the server, on which occasions faults strike; replaced when the user sets others.

    Args:
        faults: what was asked for.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._occasions: Counter[str] = Counter()
        self._strikes: Counter[str] = Counter()

    def strikes(self, kind: str) -> bool:
        """Tell whether the fault of this name (a field of ``Faults``) strikes now.

        Strikes are numbered here, for ``most``; who asks tells ``Tally.fault``.
        """
        fault: Fault = getattr(self.faults, kind)
        if not fault.share:
            return False
        occasion = self._occasions[kind]
        self._occasions[kind] += 1
        if fault.most is not None and self._strikes[kind] >= fault.most:
            return False
        # A generator of its own for each occasion: what other kinds do, and in which order, changes nothing.
        if random.Random(f"{self.faults.seed}/{kind}/{occasion}").random() >= fault.share:
            return False
        self._strikes[kind] += 1
        return True

    def moment(self) -> float:
        """Return how many seconds after its event a container lives that ``kill_container`` struck just now."""
        return random.Random(f"{self.faults.seed}/moment/{self._strikes['kill_container']}").random()
