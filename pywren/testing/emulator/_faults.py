"""``Faults``: what goes wrong in the emulated AWS, and how often. This module needs only the standard library."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pywren.exceptions import ArgumentError

_TIMES_TO_KILL = ("start", "running", "before_response")
_CALLERS = ("client", "function")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Args:
        share: the share of occasions on which the fault strikes, 0 to 1.
        most: the maximum number of times that the fault strikes; ``None`` for no limit.
        seconds: how long the fault can strike, from the moment when the faults are set; ``None`` for no limit.
        caller: whose requests the fault can strike: ``client`` or ``function``; ``None`` for both. Only the faults of
            requests have a caller.

    Raises:
        ArgumentError: the share is not between 0 and 1, ``most`` is not a whole number of at least 0, ``seconds`` is
            negative, or ``caller`` is unknown.
    """

    share: float = 1.0
    most: int | None = None
    seconds: float | None = None
    caller: str | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.share) or not 0 <= self.share <= 1:
            raise ArgumentError(f"the share of a fault must be a number from 0 to 1, not {self.share!r}")
        if self.most is not None and (not _is_number(self.most) or self.most < 0 or self.most != int(self.most)):
            raise ArgumentError(f"most must be a whole number or None, not {self.most!r}")
        if self.seconds is not None and (not _is_number(self.seconds) or not self.seconds >= 0):
            raise ArgumentError(f"seconds must be a number of at least 0 or None, not {self.seconds!r}")
        if self.caller is not None and self.caller not in _CALLERS:
            raise ArgumentError(f"caller must be {' or '.join(_CALLERS)} or None, not {self.caller!r}")


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
        fail_s3: a request to S3 answers 500 ``InternalError`` and does nothing.
        lose_s3: the connection of a request to S3 ends without an answer, and the request does nothing.
        expired_token: requests with this session token are refused with ``ExpiredToken``, as if the credentials had
            expired; ``""`` for none.
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
    fail_s3: Fault = NEVER
    lose_s3: Fault = NEVER
    expired_token: str = ""
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
        for name in _OF_EVENTS:
            if getattr(self, name).caller is not None:
                raise ArgumentError(f"{name} has no caller: it is a fault of events, not of requests")
        if not isinstance(self.expired_token, str):
            raise ArgumentError(f"expired_token must be a string, not {self.expired_token!r}")
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
_OF_EVENTS = ("kill_container", "drop_event", "repeat_event")
_FIELDS_OF_FAULT = tuple(field.name for field in fields(Fault))


def _decode_fault(name: str, value: Any) -> Fault:
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{name} must be an object with {', '.join(_FIELDS_OF_FAULT)}, not {value!r}")
    _check_names(value, _FIELDS_OF_FAULT, name)
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
        clock: returns seconds; by default those of a monotonic clock.
    """

    def __init__(self, faults: Faults, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.faults = faults
        self._clock = clock
        self._set_at = clock()
        self._occasions: Counter[str] = Counter()
        self._strikes: Counter[str] = Counter()

    def strikes(self, kind: str, caller: str = "") -> bool:
        """Tell whether a fault strikes now.

        The plan counts strikes only to enforce ``most``; whoever asks must report them to ``Tally.fault``.

        Args:
            kind: the name of a field of ``Faults``.
            caller: who made the request: ``client`` or ``function:NAME``.
        """
        fault: Fault = getattr(self.faults, kind)
        if not fault.share or fault.caller not in (None, caller.partition(":")[0]):
            return False
        if fault.seconds is not None and self._clock() - self._set_at >= fault.seconds:
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
