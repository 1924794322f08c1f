"""What moto leaves to chance when requests come at once: its S3 and its SQS, one request after the other.

moto looks at something and then changes it: with workers in several threads a conditional put would now and
then write twice, and a message go to two receivers.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

_CHANGES = (
    "send_message",
    "send_message_batch",
    "delete_message",
    "delete_message_batch",
    "change_message_visibility",
    "change_message_visibility_batch",
    "purge_queue",
)
_LOOK_SECONDS = 1.0  # nobody tells moto's queue that a hidden message is visible again


@contextmanager
def atomic_s3() -> Iterator[None]:
    """Let one request to moto's S3 finish before the next begins, while the context lasts."""
    from moto.s3.responses import S3Response

    with _one_at_a_time(S3Response, ("bucket_response", "key_response"), threading.RLock()):
        yield


@contextmanager
def atomic_sqs() -> Iterator[None]:
    """Let one request to moto's SQS finish before the next begins, but for those that wait for a message."""
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
            self.get_queue(queue_name).wait_for_messages(min(left, _LOOK_SECONDS))

    with _one_at_a_time(SQSBackend, _CHANGES, lock), mock.patch.object(SQSBackend, "receive_message", receive_message):
        yield


@contextmanager
def _one_at_a_time(owner: type, names: Iterable[str], lock: threading.RLock) -> Iterator[None]:
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
