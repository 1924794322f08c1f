"""Calls through an SQS queue: ``SQSInvoker`` sends calls, and ``sqs_run_local`` runs calls on this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pywren.client.payloads import encode_payload
from pywren.client.protocols import Invoker
from pywren.exceptions import DeploymentError, PywrenError
from pywren.invokers import SOURCE_DIR
from pywren.worker.standalone.ending import EndRule
from pywren.worker.standalone.worker import QueueWorker

if TYPE_CHECKING:
    from pywren.aws.requests import AWS
    from pywren.worker.handler import Container

__all__ = ["SOURCE_DIR", "SQSInvoker", "sqs_run_local"]

logger = logging.getLogger(__name__)

MESSAGE_LIMIT = 1024 * 1024
"""The most bytes of an SQS message: 1 MiB (Amazon SQS quotas, 2026)."""

LONGEST_RETENTION = 14 * 86_400
"""The longest time in seconds for which SQS can keep a message: 14 days (Amazon SQS quotas, 2026)."""

EMPTY_WAIT = 1
"""Seconds to wait for a message before the queue counts as empty. If this is 1 or more, SQS asks all its servers."""

_RETENTION = "MessageRetentionPeriod"
_WAITING = "ApproximateNumberOfMessages"
_TAKEN = "ApproximateNumberOfMessagesNotVisible"


class SQSInvoker(Invoker):
    """Sends calls to an SQS queue, for stand-alone workers.

    Args:
        region_name: the queue's region.
        sqs_queue_name: the queue's name.
        aws: sends the requests; by default the invoker creates its own.
    """

    payload_limit: int | None = MESSAGE_LIMIT

    def __init__(self, region_name: str, sqs_queue_name: str, *, aws: AWS | None = None) -> None:
        from pywren.aws.requests import AWS

        self.region_name = region_name
        self.sqs_queue_name = sqs_queue_name
        self.aws = AWS(region_name) if aws is None else aws
        self._url: str | None = None
        self._queue: Any = None
        self._retention: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.region_name, self.sqs_queue_name)

    def __repr__(self) -> str:
        return f"SQSInvoker({self.region_name!r}, {self.sqs_queue_name!r})"

    @property
    def queue_url(self) -> str:
        """The queue's URL, looked up when it is first needed.

        Raises:
            InvocationError: the queue does not exist.
        """
        if self._url is None:
            self._url = self.aws.queue_url(self.sqs_queue_name)
        return self._url

    def invoke(self, payload: Mapping[str, Any]) -> str:
        """Send one call to the queue.

        Returns:
            The message id.

        Raises:
            ArgumentError: the payload is larger than an SQS message may be.
            InvocationError: the queue refused the message.
        """
        body = encode_payload(payload, MESSAGE_LIMIT, "an SQS message")
        return self.aws.send_message(self.queue_url, body.decode("ascii"))

    @property
    def queue_patience(self) -> float:
        """How many seconds the queue keeps a call that no worker takes. SQS is asked for this number only once.

        Raises:
            InvocationError: the queue does not exist.
        """
        if self._retention is None:
            try:
                found = self.aws.queue_numbers(self.queue_url, _RETENTION)
            except DeploymentError as error:
                logger.debug("cannot find out how long the queue keeps calls: %s", error)
                found = {}
            self._retention = found.get(_RETENTION, LONGEST_RETENTION)
        return self._retention

    def explain_silence(self) -> str | None:
        """Return why no results arrive if no worker takes calls from the queue; otherwise return ``None``."""
        try:
            found = self.aws.queue_numbers(self.queue_url, _WAITING, _TAKEN)
        except PywrenError as error:
            logger.debug("cannot find out whether workers take calls: %s", error)
            return None
        if found.get(_TAKEN) or not found.get(_WAITING):
            return None
        return (
            f"no stand-alone worker is taking calls from the queue {self.sqs_queue_name} (waiting calls: "
            f"{found[_WAITING]}): start workers with `pywren standalone launch_instances` (`pywren standalone "
            "list_instances` lists the running instances), or run `pywren-server` on your own machine"
        )

    def config(self) -> dict[str, Any]:
        """Return what ``invoke_status`` reports about this invoker. The spelling of the key is that of PyWren 0.4."""
        return {"sqs_queue_name_name": self.sqs_queue_name, "region_name": self.region_name}

    def close(self) -> None:
        """Close the connections."""
        self.aws.close()

    # -- names kept only for programs written for 0.4 --------------------------------------------------------------

    TIME_LIMIT = False
    """Whether the service that runs the calls itself stops a call after some time."""

    @property
    def queue(self) -> Any:
        """The queue as boto3's ``sqs.Queue``. Threads must not share it.

        Raises:
            InvocationError: the queue does not exist.
        """
        if self._queue is None:
            self._queue = self.aws.resource("sqs").Queue(self.queue_url)
        return self._queue


def sqs_run_local(
    region_name: str,
    sqs_queue_name: str,
    job_num: int = 1,
    run_dir: str | None = None,
    *,
    aws: AWS | None = None,
    container: Container | None = None,
) -> int:
    """Take calls from a queue and run them on this machine, one after the other, until the queue is empty.

    Args:
        region_name: the queue's region.
        sqs_queue_name: the queue's name.
        job_num: the most calls to run.
        run_dir: has no effect; kept for 0.4, as every call has its own directory.
        aws: sends the requests; by default a new ``AWS`` is created.
        container: a warm worker; by default a new ``Container`` is created, and closed at the end.

    Returns:
        How many calls were run.

    Raises:
        InvocationError: the queue does not exist.
        StorageError: the status of a call could not be written; its message stays in the queue.
    """
    from pywren.aws.requests import AWS

    sender = AWS(region_name) if aws is None else aws
    rule = EndRule(max_idle_time=0.0, max_calls=job_num)
    worker = QueueWorker(sender, sqs_queue_name, container, rule=rule, poll=EMPTY_WAIT, patience=0.0)
    try:
        return worker.run()
    finally:
        worker.close()
        if aws is None:
            sender.close()
