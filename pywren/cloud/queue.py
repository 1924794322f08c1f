"""``Queue``: the SQS queue that stand-alone workers take calls from."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pywren.aws.requests import AWS, MISSING_QUEUE
from pywren.cloud.names import OWNER_TAG, Names
from pywren.cloud.plan import Step, differing
from pywren.cloud.policies import tls_only

RETENTION_SECONDS = 14 * 86_400
"""How long SQS keeps a call that no worker takes, in seconds; this is its maximum (Amazon SQS quotas)."""

MESSAGE_BYTES = 1024 * 1024
"""The largest message that SQS accepts, in bytes (Amazon SQS quotas)."""

_SPOKEN = {
    "VisibilityTimeout": "visibility",
    "MessageRetentionPeriod": "retention",
    "MaximumMessageSize": "size of messages",
    "Policy": "policy (TLS only)",
}


class Size(NamedTuple):
    """The approximate number of calls in a queue.

    Args:
        waiting: the number of calls that no worker has taken.
        taken: the number of calls that workers have taken but not finished.
    """

    waiting: int
    taken: int

    def __str__(self) -> str:
        wait, run = ("is" if self.waiting == 1 else "are"), ("is" if self.taken == 1 else "are")
        return f"{self.waiting:,} {_calls(self.waiting)} {wait} waiting, {self.taken:,} {run} with workers"


def _calls(number: int) -> str:
    return "call" if number == 1 else "calls"


class Queue:
    """The queue of a configuration. pywren can use a queue that others created, but never changes or deletes it.

    Args:
        names: the names of all resources.
        aws: the account and region.
        visibility: seconds for which a received message is hidden from other workers.
    """

    def __init__(self, names: Names, aws: AWS, *, visibility: int = 10) -> None:
        self.names = names
        self._aws = aws
        self._attributes = {
            "VisibilityTimeout": str(visibility),
            "MessageRetentionPeriod": str(RETENTION_SECONDS),
            "MaximumMessageSize": str(MESSAGE_BYTES),
        }

    @property
    def title(self) -> str:
        """The kind and name of the resource, such as ``the queue NAME``."""
        return f"the queue {self.names.queue}"

    def plan(self) -> list[Step]:
        """Return the steps that create or update the queue; they do not change a policy that the queue already has."""
        url = self._url()
        if url is None:
            return [Step("create", self.title, self._create)]
        if not self._is_tagged(url):
            return [Step("keep", f"{self.title}: pywren did not create it, and uses it as it is")]
        asked = [*self._attributes, "Policy"]
        found = (self._find("get_queue_attributes", QueueUrl=url, AttributeNames=asked) or {}).get("Attributes", {})
        wanted = {**self._attributes, **({} if found.get("Policy") else self._policy)}
        changes = {name: wanted[name] for name in differing(wanted, found)}
        if not changes:
            return []
        what = f"{self.title}: its {', '.join(_SPOKEN[name] for name in changes)}"
        # Send the policy with any change, because servers other than AWS lose it otherwise.
        changes.setdefault("Policy", found.get("Policy"))
        return [Step("update", what, lambda: self._find("set_queue_attributes", QueueUrl=url, Attributes=changes))]

    def plan_removal(self) -> list[Step]:
        """Return the steps that delete the queue and the messages in it."""
        url = self._url()
        if url is None:
            return []
        if not self._is_tagged(url):
            return [Step("keep", f"{self.title}: pywren did not create it")]
        return [Step("delete", self.title, lambda: self._find("delete_queue", QueueUrl=url))]

    def size(self) -> Size:
        """Return the number of calls in the queue.

        Raises:
            DeploymentError: the queue does not exist.
        """
        waiting, delayed, taken = (f"ApproximateNumberOfMessages{kind}" for kind in ("", "Delayed", "NotVisible"))
        found = self._aws.queue_numbers(self._aws.queue_url(self.names.queue), waiting, delayed, taken)
        return Size(found.get(waiting, 0) + found.get(delayed, 0), found.get(taken, 0))

    def purge(self) -> None:
        """Delete all calls in the queue. SQS takes up to a minute, and accepts only one purge a minute.

        Raises:
            DeploymentError: the queue does not exist, or another purge is in progress.
        """
        self._aws.request(
            "sqs",
            "purge_queue",
            doing=f"purge {self.title}",
            permission=f"sqs:PurgeQueue on {self.names.queue_arn}",
            QueueUrl=self._aws.queue_url(self.names.queue),
        )

    @property
    def _policy(self) -> dict[str, str]:
        statement = tls_only("PywrenTlsOnly", "sqs", self.names.queue_arn)
        return {"Policy": json.dumps({"Version": "2012-10-17", "Statement": [statement]})}

    def _create(self) -> None:
        self._aws.request(
            "sqs",
            "create_queue",
            doing=f"create {self.title}",
            permission=f"sqs:CreateQueue and sqs:TagQueue on {self.names.queue_arn}",
            QueueName=self.names.queue,
            Attributes={**self._attributes, **self._policy},
            tags=dict([OWNER_TAG]),
        )

    def _is_tagged(self, url: str) -> bool:
        found = self._find("list_queue_tags", QueueUrl=url) or {}
        return OWNER_TAG in found.get("Tags", {}).items()

    def _url(self) -> str | None:
        found = self._find("get_queue_url", QueueName=self.names.queue)
        return None if found is None else str(found["QueueUrl"])

    def _find(self, operation: str, **arguments: Any) -> dict[str, Any] | None:
        return self._aws.find(
            "sqs",
            operation,
            absent=MISSING_QUEUE,
            doing=f"{'delete' if operation.startswith('delete') else 'look up'} {self.title}",
            permission=f"sqs:{operation.title().replace('_', '')} on {self.names.queue_arn}",
            **arguments,
        )
