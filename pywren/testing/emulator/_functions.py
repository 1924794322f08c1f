"""``FunctionTable``: the functions and layers of the emulated account, in the states that AWS moves them through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pywren.testing.emulator._settings import Settings


class Refusal(Exception):
    """What Lambda answers instead of doing as it was asked; an answer, not a failure of the emulator.

    Args:
        code: the error's name in Lambda's model, such as ``ResourceConflictException``.
        message: what AWS says.
        reason: the ``Reason`` or ``Type`` some errors carry.
    """

    def __init__(self, code: str, message: str, reason: str = "") -> None:
        super().__init__(code, message, reason)
        self.code, self.message, self.reason = code, message, reason


@dataclass(frozen=True)
class Code:
    """An unzipped function or layer, unchanged once it stands.

    Args:
        directory: where it was extracted.
        sha256: of the zip, in base64, as ``CodeSha256``.
        size: bytes of the zip.
        unzipped: bytes of its files.
    """

    directory: Path
    sha256: str
    size: int
    unzipped: int


@dataclass(frozen=True)
class Revision:
    """A function as it stood at one time: what a container is started with.

    Args:
        number: grows with every update; containers of an older one take no further invocation.
        settings: the configuration under AWS's own keys (``Runtime``, ``Role``, ``Handler``, ``Timeout``,
            ``MemorySize``, ``EphemeralStorage``, ``Environment``, ``Layers``, ``Architectures``, …).
        code: what is executed.
        layers: the layers' code, in order.
    """

    number: int
    settings: Mapping[str, Any]
    code: Code
    layers: tuple[Code, ...]

    @property
    def memory_mb(self) -> int:
        """Its ``MemorySize``."""
        return int(self.settings["MemorySize"])

    @property
    def timeout(self) -> float:
        """Its ``Timeout`` in seconds."""
        return float(self.settings["Timeout"])


@dataclass
class Function:
    """One function, ``$LATEST`` only.

    While an update is in progress, ``current`` is still what runs (as on AWS).

    Args:
        name: its name.
        arn: its ARN.
        current: what runs; ``None`` while it is Pending for the first time.
        upcoming: what an update in progress will make current.
        state: ``Pending``, ``Active`` or ``Failed``.
        last_update: ``InProgress``, ``Successful`` or ``Failed``.
        access_key: the key id of the credentials that its containers are given; random.
        reserved_concurrency: ``None`` shares the account's.
        event_invoke: ``MaximumRetryAttempts``, ``MaximumEventAgeInSeconds``, ``DestinationConfig``.
    """

    name: str
    arn: str
    current: Revision | None
    upcoming: Revision | None
    access_key: str
    state: str = "Pending"
    last_update: str = "InProgress"
    reserved_concurrency: int | None = None
    event_invoke: dict[str, Any] = field(default_factory=dict)


class FunctionTable:
    """All functions and layers.

    Args:
        directory: where code is extracted to.
        settings: transition time, limits.
        check_role: raises ``Refusal`` for a role that does not exist, does not trust Lambda or is too new.
        fetch_object: returns an object of S3 (bucket, key, version), for ``Code.S3Bucket``/``S3Key``.
        callers: the gateway's table of access keys, to which each function's is added.
        on_retired: awaited with a function whose containers are of an old revision, or which is deleted.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: Settings,
        check_role: Callable[[str], Awaitable[None]],
        fetch_object: Callable[[str, str, str | None], Awaitable[bytes]],
        callers: dict[str, str],
        on_retired: Callable[[Function], Awaitable[None]],
    ) -> None:
        raise NotImplementedError

    def find(self, name_or_arn: str) -> Function:
        """Return a function by name, partial ARN or ARN; raises ``Refusal`` ``ResourceNotFoundException``."""
        raise NotImplementedError

    async def create(self, request: Mapping[str, Any]) -> Function:
        """CreateFunction. It is Pending, then Active; extracting is what Pending waits for too."""
        raise NotImplementedError

    # update_code, update_configuration, delete, publish_layer, …: a coroutine for each operation of the control plane
