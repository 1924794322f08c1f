"""``RelayRun``: hands the payloads of a relay on to the function that runs it, and reports those that it could not.

Only the platform's context says which function that is, and its role must allow it. What cannot be handed on is handed
back, under the key of each attempt or in the journal of each chunk, so that the client invokes it itself.

Threads: the thread that handles the invocation and a few helpers (``for_each``) invoke. Each payload is handled by one
of them. They share an event, which is set when no more can be handed on, and a list; both need no lock.
"""

from __future__ import annotations

import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pywren.exceptions import CallLostError, DecodeError, InvocationError, InvocationThrottledError, StorageError
from pywren.storage import Storage
from pywren.system.threads import for_each
from pywren.wire.call import Call
from pywren.wire.cause import Cause
from pywren.wire.chunk import CHUNK_FORMAT, Chunk
from pywren.wire.failure import Failure
from pywren.wire.keys import STATUS_SUFFIX, CallKeys
from pywren.wire.relay import BUSY, DENIED, Relay
from pywren.wire.status import Status
from pywren.worker.journal import JournalWriter

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds for which a relay goes on when Lambda is too busy. Meanwhile the client waits for its calls."""

MARGIN = 3.0
"""Seconds to reserve for handing calls back, before those that a worker reserves for reporting anyway."""

THREADS = 16
"""How many payloads are handed on at once."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

Invoke = Callable[[bytes], object]
"""Invokes the function itself with a payload."""


class _Left(NamedTuple):
    payload: Mapping[str, Any]
    error: InvocationError


class RelayRun:
    """Hands on the payloads of one relay.

    Args:
        relay: the payloads.
        invoke: invokes the function that runs the relay.
        storage: where the calls report.
        remaining: returns how many seconds the platform leaves; ``None`` for no limit.
        info: what is known about this invocation, for reports.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        relay: Relay,
        invoke: Invoke,
        storage: Storage,
        *,
        remaining: Callable[[], float | None],
        info: Mapping[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = relay
        self._invoke = invoke
        self._storage = storage
        self._info = info
        self._clock = clock
        left = remaining()
        self._end = math.inf if left is None else clock() + left - MARGIN  # after that, nothing more is handed on
        self._until = min(self._end, clock() + PATIENCE)
        self._over = threading.Event()
        self._error: InvocationError | None = None  # why no more is handed on
        self._left: list[_Left] = []

    def run(self) -> dict[str, Any]:
        """Hand on all payloads, and return what became of them, in numbers."""
        payloads = self._relay.payloads
        for_each(self._hand_on, payloads, THREADS)
        for_each(self._hand_back, self._left, THREADS)
        handed_on = len(payloads) - len(self._left)
        return {"callset_id": self._relay.callset_id, "handed_on": handed_on, "handed_back": len(self._left)}

    def _hand_on(self, payload: Mapping[str, Any]) -> None:
        body = json.dumps(payload, separators=(",", ":")).encode()
        pause = _FIRST_PAUSE
        while self._error is None:
            if self._clock() >= self._end:
                self._give_up(InvocationThrottledError("the time of the relay's worker was over"))
                break
            try:
                self._invoke(body)
                return
            except InvocationThrottledError as error:
                if self._clock() >= self._until:
                    self._give_up(error)
                    break
                # Woken when another thread gives up.
                self._over.wait(min(pause * (0.5 + random.random()), max(0.0, self._until - self._clock())))
                pause = min(2.0 * pause, _LONGEST_PAUSE)
            except InvocationError as error:
                self._give_up(error)
        self._left.append(_Left(payload, self._error or InvocationError("the relay has ended")))

    def _give_up(self, error: InvocationError) -> None:
        self._error = error
        self._over.set()

    def _hand_back(self, left: _Left) -> None:
        try:
            self._report(Call.decode(left.payload), left.error)
        except (DecodeError, StorageError) as error:
            # The client notices that the call does not start, though later.
            logger.warning("cannot hand a call of callset %s back: %s", self._relay.callset_id, error)

    def _report(self, call: Call, error: InvocationError) -> None:
        code = BUSY if isinstance(error, InvocationThrottledError) else DENIED
        text = f"the relay that was to invoke the call could not: {error.args[0]}"
        failure = Failure(CallLostError.__name__, text, (code,), Cause.HANDED_BACK)
        info = {"status_key": call.status_key, **self._info}
        status = Status(call.callset_id, call.call_id, call.attempt, failure, info=info)
        if call.format == CHUNK_FORMAT:
            chunk = Chunk.of(call)
            # The last page: the calls that no page mentions never started.
            JournalWriter(chunk, self._storage).write([status], frozenset([call.call_id]), last=True)
            return
        key = CallKeys(call.status_key.removesuffix(STATUS_SUFFIX)).attempt(call.attempt)
        self._storage.put(key, status.encode(call.attempt_key), if_absent=True)


class OwnFunction:
    """The Lambda function that runs here. It invokes itself with the credentials of this process.

    Args:
        arn: its ARN, as the platform says.
    """

    def __init__(self, arn: str) -> None:
        # Imported here: most workers never hand anything on, and loading botocore takes 0.3 to 0.4 s.
        from pywren.aws.requests import AWS

        self.arn = arn
        self._aws = AWS(arn.split(":")[3])

    def invoke(self, body: bytes) -> None:
        """Invoke the function with a payload.

        Raises:
            InvocationThrottledError: Lambda is too busy.
            InvocationError: the function may not invoke itself.
        """
        self._aws.invoke_async(self.arn, body)

    def close(self) -> None:
        """Close the connections."""
        self._aws.close()
