"""``Queue``: the SQS queue that stand-alone workers take calls from."""

from __future__ import annotations

from typing import Any

from pywren.cloud.aws import AWS
from pywren.cloud.names import Names
from pywren.cloud.plan import Step, differing, find

_MISSING = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")


class Queue:
    """The queue of a configuration.

    Args:
        names: what everything is called.
        aws: the account and region.
        visibility: seconds for which a message that was received is hidden from others.
    """

    def __init__(self, names: Names, aws: AWS, *, visibility: int = 10) -> None:
        self.names = names
        self._aws = aws
        self._attributes = {"VisibilityTimeout": str(visibility)}

    @property
    def title(self) -> str:
        """``the queue NAME``."""
        return f"the queue {self.names.queue}"

    def plan(self) -> list[Step]:
        """Return the steps until the queue is there, with its visibility."""
        url = self._url()
        if url is None:
            return [Step("create", self.title, self._create)]
        found = self._find("get_queue_attributes", QueueUrl=url, AttributeNames=list(self._attributes)) or {}
        if differing(self._attributes, found.get("Attributes")):
            put = lambda: self._find("set_queue_attributes", QueueUrl=url, Attributes=self._attributes)  # noqa: E731
            return [Step("update", f"{self.title}: its visibility", put)]
        return []

    def plan_removal(self) -> list[Step]:
        """Return the steps until the queue is gone, with the messages in it."""
        url = self._url()
        if url is None:
            return []
        return [Step("delete", self.title, lambda: self._find("delete_queue", QueueUrl=url))]

    def _create(self) -> None:
        self._aws.request(
            "sqs",
            "create_queue",
            doing=f"create {self.title}",
            permission=f"sqs:CreateQueue on {self.names.queue_arn}",
            QueueName=self.names.queue,
            Attributes=self._attributes,
        )

    def _url(self) -> str | None:
        found = self._find("get_queue_url", QueueName=self.names.queue)
        return None if found is None else str(found["QueueUrl"])

    def _find(self, operation: str, **arguments: Any) -> dict[str, Any] | None:
        return find(
            self._aws,
            "sqs",
            operation,
            absent=_MISSING,
            doing=f"{'delete' if operation.startswith('delete') else 'look at'} {self.title}",
            permission=f"sqs:{operation.title().replace('_', '')} on {self.names.queue_arn}",
            **arguments,
        )
