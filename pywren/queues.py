"""Calls through an SQS queue: ``SQSInvoker`` puts them in, ``sqs_run_local`` takes them out and runs them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pywren.exceptions import DecodeError, PywrenError
from pywren.invokers import encode_payload

if TYPE_CHECKING:
    from pywren.cloud.aws import AWS, Message
    from pywren.worker.handler import Container

logger = logging.getLogger(__name__)

MESSAGE_LIMIT = 1024 * 1024
"""Bytes of an SQS message, 1 MiB (Amazon SQS quotas, 2026)."""

VISIBILITY = 60
"""Seconds for which a message that is being worked on stays hidden, again and again."""

HEARTBEAT = 20.0
"""Seconds between one extension and the next."""

EMPTY_WAIT = 1
"""Seconds to wait for a message before a queue counts as empty; from 1 on SQS asks all of its servers."""


@dataclass(frozen=True)
class Queue:
    """An SQS queue.

    Args:
        url: what requests name it by.
    """

    url: str


class SQSInvoker:
    """Puts calls into an SQS queue, for stand-alone workers.

    Args:
        region_name: the queue's region.
        sqs_queue_name: its name.
        aws: what sends the requests; one of its own when not given.
    """

    TIME_LIMIT = False
    payload_limit = MESSAGE_LIMIT

    def __init__(self, region_name: str, sqs_queue_name: str, *, aws: AWS | None = None) -> None:
        from pywren.cloud.aws import AWS

        self.region_name = region_name
        self.sqs_queue_name = sqs_queue_name
        self.aws = AWS(region_name) if aws is None else aws
        self._queue: Queue | None = None

    def __repr__(self) -> str:
        return f"SQSInvoker({self.region_name!r}, {self.sqs_queue_name!r})"

    @property
    def queue(self) -> Queue:
        """The queue, looked up when it is first needed.

        Raises:
            InvocationError: there is no such queue.
        """
        if self._queue is None:
            self._queue = Queue(self.aws.queue_url(self.sqs_queue_name))
        return self._queue

    def invoke(self, payload: Mapping[str, Any]) -> str:
        """Put one call into the queue.

        Returns:
            The message's id.

        Raises:
            ArgumentError: the payload is larger than a message may be.
            InvocationError: the queue refused it.
        """
        body = encode_payload(payload, MESSAGE_LIMIT, "an SQS message")
        return self.aws.send_message(self.queue.url, body.decode("ascii"))

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` says of this invoker; 0.4 spelled the key so."""
        return {"sqs_queue_name_name": self.sqs_queue_name, "region_name": self.region_name}

    def close(self) -> None:
        """Give up connections."""
        self.aws.close()


def sqs_run_local(
    region_name: str,
    sqs_queue_name: str,
    job_num: int = 1,
    run_dir: str | None = None,
    *,
    aws: AWS | None = None,
    container: Container | None = None,
) -> int:
    """Take calls from a queue and run them on this machine, one after the other, until it is empty.

    Args:
        region_name: the queue's region.
        sqs_queue_name: its name.
        job_num: how many calls to run at most.
        run_dir: for 0.4's callers; every call has a directory of its own anyway.
        aws: what sends the requests; one of its own when not given.
        container: a warm worker; without it one is made and closed.

    Returns:
        How many calls were run.

    Raises:
        InvocationError: there is no such queue.
        StorageError: the status of a call could not be written; its message stays in the queue.
    """
    from pywren.cloud.aws import AWS
    from pywren.worker.handler import Container

    if container is None:
        with Container() as made:
            return sqs_run_local(region_name, sqs_queue_name, job_num, run_dir, aws=aws, container=made)
    aws = AWS(region_name) if aws is None else aws
    url = aws.queue_url(sqs_queue_name)
    for done in range(job_num):
        messages = aws.receive(url, wait_seconds=EMPTY_WAIT, visibility=VISIBILITY)
        if not messages:
            return done
        with _Heartbeat(aws, url, messages[0]):
            _run(container, messages[0])
        aws.delete_message(url, messages[0])
    return job_num


def _run(container: Container, message: Message) -> None:
    try:
        container.handle(json.loads(message.body))
    except (DecodeError, json.JSONDecodeError) as error:
        # it would come back for ever
        logger.warning("a message that is no call was dropped: %s", error)


class _Heartbeat:
    """Keeps a message hidden while it is worked on, so that no other worker takes it."""

    def __init__(self, aws: AWS, url: str, message: Message, interval: float = HEARTBEAT) -> None:
        self._aws = aws
        self._url = url
        self._message = message
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pywren-sqs-heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self._aws.extend_message(self._url, self._message, VISIBILITY)
            except PywrenError as error:
                # at worst the call is run twice; the first commit wins
                logger.warning("a message could not be kept: %s", error)
