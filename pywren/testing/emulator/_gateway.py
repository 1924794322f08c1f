"""The gateway: the one endpoint of the emulated AWS. Every request is told apart, counted, made to fail, and sent on.

A request goes by the credential scope of its signature: ``s3`` to SeaweedFS, ``lambda`` to ``LambdaApi``, the rest to
moto's server. Its access key must be one that the emulator handed out: the port is open to every user of the machine,
and what Lambda is given, it executes.
"""

from __future__ import annotations

from typing import Any

from pywren.testing.emulator._counters import Tally
from pywren.testing.emulator._faults import FaultPlan
from pywren.testing.emulator._lambda_api import LambdaApi

CONTROL_PATH = "/_emulator"
"""Where the user's process asks for counters and sets faults; the access key is the bearer token."""


class Gateway:
    """An aiohttp application.

    Args:
        s3: ``http://127.0.0.1:PORT`` of SeaweedFS.
        moto: that of moto's server.
        functions: answers what is asked of Lambda.
        callers: who holds which access key: ``client`` or ``function:NAME``.
        tally: counts.
        plan: the faults; replaced by ``PUT /_emulator/faults``.
    """

    def __init__(
        self, *, s3: str, moto: str, functions: LambdaApi, callers: dict[str, str], tally: Tally, plan: FaultPlan
    ) -> None:
        raise NotImplementedError

    async def start(self) -> int:
        """Listen on a free port of 127.0.0.1 and return it."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop listening, and end what is under way."""
        raise NotImplementedError

    async def answer(self, request: Any) -> Any:
        """Answer one request."""
        raise NotImplementedError
