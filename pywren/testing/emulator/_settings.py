"""``Settings`` and ``Limits``: an emulator's options, and AWS's quotas. Needs only the standard library.

Sources: [quotas] docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, [async]
…/invocation-async-error-handling.html, [scaling] …/scaling-behavior.html,
[reserved] …/configuration-concurrency.html, [runtime] …/lambda-runtime-environment.html. The ranges of single arguments
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
    """Lambda's limits. The defaults are AWS's; tests choose smaller values.

    Args:
        synchronous_payload: bytes in the request or the answer of a ``RequestResponse`` invocation [quotas].
        asynchronous_payload: bytes in the request of an ``Event`` invocation [quotas].
        zip_direct: bytes in a zip that is uploaded directly [quotas].
        unzipped: bytes in a function and its layers, unzipped [quotas].
        layers: the number of a function's layers [quotas].
        environment: bytes in all environment variables [quotas].
        concurrency: the account's concurrency limit [quotas].
        unreserved: the concurrency that reservations must leave for functions without a reservation [reserved].
        scaling_environments: the number of environments that a function may start in ``scaling_seconds`` [scaling].
        scaling_seconds: the period for ``scaling_environments`` [scaling].
        retry_delays: seconds before the first and the second retry of a failed event [async].
        init_seconds: seconds after which Lambda aborts the init phase and repeats it within the call's time-out
            [runtime].
        log_tail: bytes of the log that ``LogType=Tail`` returns.
        event_age_scale: a factor that tests apply to ``MaximumEventAgeInSeconds``, since AWS accepts no less than 60 s.
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
    """The options of an emulator, which are sent to its process as JSON.

    Args:
        region: the region to emulate.
        containers: the maximum number of containers on this machine, whatever AWS would allow; further invocations wait
            instead of being throttled.
        transition_seconds: how long a function stays Pending, or an update InProgress.
        role_seconds: how long Lambda cannot assume a role after the role was created.
        idle_seconds: the idle time after which a container is ended.
        isolated: whether containers have their own namespaces; ``None``: only if the machine allows namespaces.
        limits: Lambda's limits.
    """

    region: str = "us-west-2"
    containers: int = 8
    transition_seconds: float = 0.05
    role_seconds: float = 0.0
    idle_seconds: float = 300.0
    isolated: bool | None = None
    limits: Limits = field(default_factory=Limits)

    def encode(self) -> dict[str, Any]:
        """Return the settings as values that JSON can represent."""
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Settings:
        """Return the settings that ``encode`` turned into these fields.

        Raises:
            ArgumentError: a name is unknown, or a number is out of range.
        """
        return _checked(cls, fields)


ACCOUNT_ID = "123456789012"
"""The account id: moto's default, which appears in its ARNs."""


_Figures = TypeVar("_Figures", Limits, Settings)


def _checked(cls: type[_Figures], fields: Mapping[str, Any]) -> _Figures:
    """Return ``Settings`` or ``Limits`` with these fields; each value must have the same type as its default."""
    known = {item.name for item in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ArgumentError(
            f"the emulator's {cls.__name__} have no {', '.join(unknown)}; choose from {', '.join(sorted(known))}"
        )
    default = cls()
    return cls(**{name: _value(name, value, getattr(default, name)) for name, value in fields.items()})


def _value(name: str, value: Any, default: Any) -> Any:
    """Return the value of one field, which must have the same type as its default."""
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
