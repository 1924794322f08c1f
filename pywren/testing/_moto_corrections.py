"""Patches for the differences between moto and AWS that affect pywren.

moto handles each request in the thread that sends it. Each request reads state and then changes this state, without a
lock. With workers in several threads, two conditional puts could both succeed, and two receivers could get the same
message. One lock per service therefore makes each request finish before the next one starts.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from pywren.system import private_names

_CHANGES = (
    "send_message",
    "send_message_batch",
    "delete_message",
    "delete_message_batch",
    "change_message_visibility",
    "change_message_visibility_batch",
    "purge_queue",
)
_POLL_SECONDS = 1.0  # moto's queue signals new messages, but not that hidden messages have become visible again


@contextmanager
def atomic_s3() -> Iterator[None]:
    """Handle one request to moto's S3 at a time while the context lasts."""
    from moto.s3.responses import S3Response

    with _one_at_a_time(S3Response, ("bucket_response", "key_response"), threading.RLock()):
        yield


@contextmanager
def atomic_sqs() -> Iterator[None]:
    """Handle one request to moto's SQS at a time while the context lasts; receivers release the lock while they wait.

    A receiver that held the lock while it waited would block the very sender that it waits for.
    """
    from moto.sqs.models import SQSBackend

    receive = SQSBackend.receive_message
    lock = threading.RLock()

    def receive_message(self: SQSBackend, queue_name: str, count: int, wait_seconds: int, *args: Any) -> list[Any]:
        deadline = time.monotonic() + wait_seconds
        while True:
            with lock:
                received: list[Any] = receive(self, queue_name, count, 0, *args)
            left = deadline - time.monotonic()
            if received or left <= 0:
                return received
            self.get_queue(queue_name).wait_for_messages(min(left, _POLL_SECONDS))

    with _one_at_a_time(SQSBackend, _CHANGES, lock), mock.patch.object(SQSBackend, "receive_message", receive_message):
        yield


@contextmanager
def over_tls() -> Iterator[None]:
    """Treat every request as encrypted while the context lasts.

    The bucket policy that pywren sets denies requests without TLS. moto ignores this condition and would deny them all.
    """
    from moto.iam.access_control import IAMPolicyStatement, PermissionResult

    permitted = IAMPolicyStatement.is_action_permitted

    def is_action_permitted(self: IAMPolicyStatement, *args: Any, **kwargs: Any) -> PermissionResult:
        condition = private_names.policy_statement(self).get("Condition", {}).get("Bool", {})
        if condition.get("aws:SecureTransport") == "false":
            return PermissionResult.NEUTRAL
        return permitted(self, *args, **kwargs)

    with mock.patch.object(IAMPolicyStatement, "is_action_permitted", is_action_permitted):
        yield


@contextmanager
def _one_at_a_time(owner: type, names: Iterable[str], lock: threading.RLock) -> Iterator[None]:
    """Make the methods with these names hold the lock while they run."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(owner, name, _locked(getattr(owner, name), lock)))
        yield


def _locked(method: Callable[..., Any], lock: threading.RLock) -> Callable[..., Any]:
    @functools.wraps(method)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return method(*args, **kwargs)

    return locked
