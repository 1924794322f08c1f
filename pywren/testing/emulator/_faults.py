"""``Faults``: what goes wrong in the emulated AWS, and how often. This module needs only the standard library."""

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
        share: the share of occasions on which the fault strikes, 0 to 1.
        most: the maximum number of times that the fault strikes; ``None`` for no limit.

    Raises:
        ArgumentError: the share is not between 0 and 1, or ``most`` is not a whole number of at least 0.
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
    """The faults that the emulator simulates; by default none.

    Args:
        seed: the seed of the random choices. Whether a fault strikes on its n-th occasion depends only on the seed, the
            kind of fault and n.
        kill_container: the container is killed in the middle of a call.
        kill_at: when ``kill_container`` kills: ``start`` (the event was handed to the runtime client), ``running`` (at
            a random moment within the next second, or earlier when the function is about to write to S3 or to answer)
            or ``before_response`` (the function has ended, but its answer is not accepted).
        drop_event: an accepted asynchronous event never runs, and no error is reported.
        repeat_event: an accepted event runs twice.
        throttle_invoke: ``Invoke`` answers 429 ``TooManyRequestsException``.
        fail_invoke: ``Invoke`` answers 500 ``ServiceException``.
        slow_down_s3: a request to S3 answers 503 ``SlowDown`` and does nothing.
        invoke_latency: seconds added to every ``Invoke``.
        cold_start_latency: seconds added to every cold start.
        s3_latency: seconds added to every request to S3.

    Raises:
        ArgumentError: a value is not valid for its field.
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
        """Return the fields as values that JSON can represent."""
        return asdict(self)

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Faults:
        """Return the ``Faults`` that ``encode`` turned into these fields.

        Raises:
            ArgumentError: a name is unknown, a share is not between 0 and 1, or a number is negative.
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
    """Decides in the emulator's process when faults strike. A new plan replaces it when the user sets other faults.

    Args:
        faults: the faults that the user set.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._occasions: Counter[str] = Counter()
        self._strikes: Counter[str] = Counter()

    def strikes(self, kind: str) -> bool:
        """Tell whether a fault strikes now; ``kind`` is the name of a field of ``Faults``.

        The plan counts strikes only to enforce ``most``; the caller must report them to ``Tally.fault``.
        """
        fault: Fault = getattr(self.faults, kind)
        if not fault.share:
            return False
        occasion = self._occasions[kind]
        self._occasions[kind] += 1
        if fault.most is not None and self._strikes[kind] >= fault.most:
            return False
        # Each occasion has its own random generator, so other kinds and the order of occasions do not affect the
        # result.
        if random.Random(f"{self.faults.seed}/{kind}/{occasion}").random() >= fault.share:
            return False
        self._strikes[kind] += 1
        return True

    def moment(self) -> float:
        """Return after how many seconds to kill the container, once the fault ``kill_container`` has struck."""
        return random.Random(f"{self.faults.seed}/moment/{self._strikes['kill_container']}").random()
