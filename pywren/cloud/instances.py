"""``Instances``: a configuration's stand-alone workers on EC2."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pywren.aws.requests import AWS
from pywren.cloud.names import OWNER_TAG, QUEUE_TAG, Names
from pywren.cloud.plan import Step

LAUNCH_POLICY = "`pywren iam --print launch` prints the required permissions"

_LIVING = ("pending", "running", "stopping", "stopped")
_BATCH = 100


class Instance(NamedTuple):
    """An instance as EC2 describes it.

    Args:
        id: its id, such as ``i-0123456789abcdef0``.
        state: its state, such as ``running``.
        kind: its type, such as ``m5.large``.
        name: the value of its tag ``Name``.
        launched: when it was launched.
        zone: its availability zone.
        address: its public host name or IP address; empty if it has neither.
        spot: whether it is a spot instance, which is cheaper, but which AWS may interrupt.
    """

    id: str
    state: str
    kind: str
    name: str
    launched: datetime.datetime
    zone: str = ""
    address: str = ""
    spot: bool = False

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> Instance:
        """Return the instance that an item in an answer of DescribeInstances or RunInstances describes."""
        tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags") or ()}
        return cls(
            id=item["InstanceId"],
            state=item["State"]["Name"],
            kind=item["InstanceType"],
            name=tags.get("Name", ""),
            launched=item["LaunchTime"],
            zone=(item.get("Placement") or {}).get("AvailabilityZone", ""),
            address=item.get("PublicDnsName") or item.get("PublicIpAddress") or "",
            spot=item.get("InstanceLifecycle") == "spot",
        )

    def uptime(self, now: datetime.datetime) -> datetime.timedelta:
        """Return how long ago the instance was launched, in whole seconds."""
        return datetime.timedelta(seconds=max(0, int((now - self.launched).total_seconds())))


class Instances:
    """The instances that work for the queue of a configuration, recognized by their tags.

    Args:
        names: the names of all resources.
        aws: the account and region.
    """

    def __init__(self, names: Names, aws: AWS) -> None:
        self.names = names
        self._aws = aws

    @property
    def title(self) -> str:
        """The kind and name of the resource, such as ``the stand-alone worker of the queue NAME``."""
        return f"the stand-alone worker of the queue {self.names.queue}"

    def living(self) -> list[Instance]:
        """Return the instances that exist and are not terminating, the oldest first."""
        found = map(Instance.read, described(self._aws, {**self._filters, "instance-state-name": _LIVING}))
        return sorted(found, key=lambda instance: (instance.launched, instance.id))

    def plan(self) -> list[Step]:
        """Return no steps, because workers are launched only on request."""
        return []

    def plan_removal(self) -> list[Step]:
        """Return the step that terminates all instances and waits until they have ended."""
        ids = [instance.id for instance in self.living()]
        if not ids:
            return []
        workers = "stand-alone worker" if len(ids) == 1 else f"{len(ids)} stand-alone workers"
        what = f"the {workers} of the queue {self.names.queue}: {', '.join(ids)}"
        return [Step("terminate", what, lambda: self._terminate(ids))]

    @property
    def _filters(self) -> dict[str, Sequence[str]]:
        return {f"tag:{key}": [value] for key, value in (OWNER_TAG, (QUEUE_TAG, self.names.queue))}

    def _terminate(self, ids: Sequence[str]) -> None:
        doing = f"terminate {', '.join(ids)}"
        batches = [ids[first : first + _BATCH] for first in range(0, len(ids), _BATCH)]
        for batch in batches:
            ask_ec2(self._aws, "terminate_instances", doing, InstanceIds=batch)
        for batch in batches:
            self._aws.wait(
                "ec2",
                "instance_terminated",
                doing=f"wait until {', '.join(batch)} are terminated",
                permission=LAUNCH_POLICY,
                InstanceIds=batch,
            )


def described(aws: AWS, filters: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Yield the instances that match every filter, as DescribeInstances describes them.

    Args:
        aws: the account and region.
        filters: the accepted values of each of EC2's filters, such as ``instance-state-name``.
    """
    for page in aws.pages(
        "ec2",
        "describe_instances",
        tokens={"NextToken": "NextToken"},
        doing="list the instances",
        permission=_permission("describe_instances"),
        Filters=[{"Name": name, "Values": list(values)} for name, values in filters.items()],
    ):
        for reservation in page["Reservations"]:
            yield from reservation["Instances"]


def ask_ec2(aws: AWS, operation: str, doing: str, **arguments: Any) -> dict[str, Any]:
    """Send a request to EC2; the error for a denied request says which policy allows the request."""
    return aws.request("ec2", operation, doing=doing, permission=_permission(operation), **arguments)


def _permission(operation: str) -> str:
    return f"ec2:{operation.title().replace('_', '')}; {LAUNCH_POLICY}"
