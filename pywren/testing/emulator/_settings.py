"""``Settings`` and ``Limits``: what can be chosen about an emulator, and AWS's own figures. Standard library only.

Sources: [quotas] docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, [async]
…/invocation-async-error-handling.html, [scaling] …/scaling-behavior.html,
[reserved] …/configuration-concurrency.html, [runtime] …/lambda-runtime-environment.html. Ranges of single arguments
(memory, time-out, …) come from botocore's model instead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pywren.exceptions import ArgumentError


@dataclass(frozen=True)
class Limits:
    """What Lambda allows; the defaults are AWS's, tests choose smaller ones.

    Args:
        synchronous_payload: bytes of a request or an answer of ``RequestResponse`` [quotas].
        asynchronous_payload: bytes of an ``Event`` [quotas].
        zip_direct: bytes of a zip that is uploaded directly [quotas].
        unzipped: bytes of function and layers, unzipped [quotas].
        layers: layers of a function [quotas].
        environment: bytes of all environment variables [quotas].
        concurrency: executions at once in the account [quotas].
        unreserved: concurrency that reservations must leave to functions without one [reserved].
        scaling_environments: environments that a function may start in ``scaling_seconds`` [scaling].
        scaling_seconds: see above.
        retry_delays: seconds before a failed event runs again the first and the second time [async].
        init_seconds: seconds that the init phase may take before it is done again within the call's own time [runtime].
        log_tail: bytes of log that ``LogType=Tail`` returns.
        event_age_scale: what ``MaximumEventAgeInSeconds`` is multiplied by: AWS takes no less than 60 s.
    """

    synchronous_payload: int = 6 * 1024 * 1024
    asynchronous_payload: int = 1024 * 1024
    zip_direct: int = 50 * 1024 * 1024
    unzipped: int = 250 * 1024 * 1024
    layers: int = 5
    environment: int = 4 * 1024
    concurrency: int = 1000
    unreserved: int = 100
    scaling_environments: int = 1000
    scaling_seconds: float = 10.0
    retry_delays: tuple[float, ...] = (60.0, 120.0)
    init_seconds: float = 10.0
    log_tail: int = 4 * 1024
    event_age_scale: float = 1.0


@dataclass(frozen=True)
class Settings:
    """What can be chosen about an emulator; crosses to its process as JSON.

    Args:
        region: the region it is.
        containers: processes that run functions at once on this machine, whatever AWS would allow; what comes
            beyond waits, and is not throttled.
        transition_seconds: how long a function stays Pending, or an update InProgress.
        role_seconds: how long after its creation a role cannot be assumed by Lambda.
        idle_seconds: after which a container that does nothing is ended.
        isolated: whether containers have namespaces of their own; ``None`` where it is possible.
        limits: AWS's figures.
    """

    region: str = "us-west-2"
    containers: int = 8
    transition_seconds: float = 0.05
    role_seconds: float = 0.0
    idle_seconds: float = 300.0
    isolated: bool | None = None
    limits: Limits = field(default_factory=Limits)

    def encode(self) -> dict[str, Any]:
        """Return them as JSON takes them."""
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Settings:
        """Return what ``encode`` was given.

        Raises:
            ArgumentError: an unknown name, or a number out of range.
        """
        return _checked(cls, fields)


ACCOUNT_ID = "123456789012"
"""The account; moto's default, which its ARNs have."""


_Figures = TypeVar("_Figures", Limits, Settings)


def _checked(cls: type[_Figures], fields: Mapping[str, Any]) -> _Figures:
    """Return the settings or limits that the fields say, each of the type of its default."""
    known = {item.name for item in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ArgumentError(
            f"the emulator's {cls.__name__} have no {', '.join(unknown)}; choose from {', '.join(sorted(known))}"
        )
    default = cls()
    return cls(**{name: _value(name, value, getattr(default, name)) for name, value in fields.items()})


def _value(name: str, value: Any, default: Any) -> Any:
    """Check one field against its default: both have the same type."""
    if isinstance(default, Limits):
        return value if isinstance(value, Limits) else _checked(Limits, value)
    if isinstance(default, tuple):
        return tuple(_number(name, item, whole=False) for item in value)
    if default is None:
        if value is not None and not isinstance(value, bool):
            raise ArgumentError(f"the emulator's {name} must be True, False or None, not {value!r}")
        return value
    if isinstance(default, str):
        if not isinstance(value, str) or not value:
            raise ArgumentError(f"the emulator's {name} must be a non-empty string, not {value!r}")
        return value
    return _number(name, value, whole=isinstance(default, int))


_AT_LEAST_ONE = frozenset({"containers"})


def _number(name: str, value: Any, *, whole: bool) -> Any:
    kinds = (int,) if whole else (int, float)
    least = 1 if name in _AT_LEAST_ONE else 0
    if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value) or value < least:
        raise ArgumentError(
            f"the emulator's {name} must be a {'whole ' if whole else ''}number of at least {least}, not {value!r}"
        )
    return value
