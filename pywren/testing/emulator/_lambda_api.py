"""Lambda's control plane and its front door ``Invoke``: REST-JSON, driven by botocore's service model.

An operation is a coroutine method named like it (``create_function``) that takes the decoded arguments and returns
the answer's fields; decoding, status codes and errors are generic. ``Invoke``, the hot one, takes a short way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pywren.testing.emulator._dispatch import Dispatcher
from pywren.testing.emulator._faults import FaultPlan
from pywren.testing.emulator._functions import FunctionTable
from pywren.testing.emulator._operations import Operation


class Answer(NamedTuple):
    """An HTTP answer.

    Args:
        status: its status.
        headers: its headers.
        body: its bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class LambdaApi:
    """Answers what is asked of Lambda.

    Args:
        functions: what is deployed.
        dispatcher: runs invocations.
    """

    def __init__(self, functions: FunctionTable, dispatcher: Dispatcher) -> None:
        raise NotImplementedError

    async def answer(
        self, operation: Operation, query: str, headers: Mapping[str, str], body: bytes, plan: FaultPlan
    ) -> Answer:
        """Answer one request; what the operation refuses is an answer too."""
        raise NotImplementedError
