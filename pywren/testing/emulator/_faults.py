"""``Faults``: what goes wrong in the emulated AWS, how often, and decided by which seed. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Args:
        share: the share of the occasions on which it strikes, 0 to 1.
        most: how often it strikes at most; ``None`` is without end.
    """

    share: float = 1.0
    most: int | None = None


NEVER = Fault(share=0.0)


@dataclass(frozen=True)
class Faults:
    """Everything that can be made to go wrong; the default is nothing.

    Args:
        seed: of the random choices, a stream for each kind: the n-th occasion of a kind is decided by seed, kind and n.
        kill_container: an execution's container is killed in the middle of the call.
        kill_at: when: ``start`` (the event was handed to the runtime client) or ``before_response`` (the function
            has ended, its answer is not taken any more).
        drop_event: an accepted asynchronous event never runs, and nobody is told.
        repeat_event: an accepted event runs twice.
        throttle_invoke: ``Invoke`` answers 429 ``TooManyRequestsException``.
        fail_invoke: ``Invoke`` answers 500 ``ServiceException``.
        slow_down_s3: a request to S3 answers 503 ``SlowDown`` and does nothing.
        invoke_latency: seconds added to every ``Invoke``.
        cold_start_latency: seconds added to every cold start.
        s3_latency: seconds added to every request to S3.
    """

    seed: int = 0
    kill_container: Fault = NEVER
    kill_at: str = "before_response"
    drop_event: Fault = NEVER
    repeat_event: Fault = NEVER
    throttle_invoke: Fault = NEVER
    fail_invoke: Fault = NEVER
    slow_down_s3: Fault = NEVER
    invoke_latency: float = 0.0
    cold_start_latency: float = 0.0
    s3_latency: float = 0.0

    def encode(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        raise NotImplementedError

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Faults:
        """Return what ``encode`` was given.

        Raises:
            ArgumentError: an unknown name, a share outside 0..1, a negative number.
        """
        raise NotImplementedError


class FaultPlan:
    """Decides, in the server, on which occasions faults strike; replaced when the user sets others.

    Args:
        faults: what was asked for.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def strikes(self, kind: str) -> bool:
        """Tell whether the fault of this name (a field of ``Faults``) strikes now, and count it."""
        raise NotImplementedError
