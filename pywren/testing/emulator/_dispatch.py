"""``Dispatcher``: which invocation runs where and when: warm reuse, concurrency, scaling rate, the asynchronous queue.

An asynchronous event is accepted (202), waits while its function is at its limit, is run again after a function error
up to ``MaximumRetryAttempts``, is given up at ``MaximumEventAgeInSeconds``, and leaves a record at the on-failure
destination (S3 or SQS) when nothing came of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pywren.testing.emulator._container import Container, Reply
from pywren.testing.emulator._counters import Tally
from pywren.testing.emulator._faults import FaultPlan
from pywren.testing.emulator._functions import Function, Revision
from pywren.testing.emulator._settings import Settings


class Dispatcher:
    """Runs invocations.

    Args:
        make_container: makes a container for a function.
        tally: counts executions.
        find: returns a function by name: an event runs what is current when it runs, not when it was accepted.
        send_record: puts an on-failure record to the destination ARN; counted as the caller ``lambda``.
        settings: containers, limits.
    """

    def __init__(
        self,
        *,
        make_container: Callable[[Function, Revision], Container],
        tally: Tally,
        find: Callable[[str], Function],
        send_record: Callable[[Function, str, bytes], Awaitable[None]],
        settings: Settings,
    ) -> None:
        raise NotImplementedError

    async def run(self, function: Function, payload: bytes, request_id: str, plan: FaultPlan) -> Reply:
        """Run a synchronous invocation; raises ``Refusal`` ``TooManyRequestsException`` at the limit."""
        raise NotImplementedError

    def accept(self, function: Function, payload: bytes, request_id: str, plan: FaultPlan) -> None:
        """Take an asynchronous one."""
        raise NotImplementedError

    async def retire(self, function: Function) -> None:
        """End the idle containers of older revisions; busy ones end after their call. All of a deleted one."""
        raise NotImplementedError

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        raise NotImplementedError

    async def close(self) -> None:
        """Drop the queue and end every container."""
        raise NotImplementedError
