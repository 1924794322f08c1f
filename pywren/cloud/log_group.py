"""``LogGroup``: the log group for the function's output. The function's role may write to the group, not create it."""

from __future__ import annotations

from typing import Any

from pywren.aws.requests import AWS
from pywren.cloud.function import LambdaFunction, Owner
from pywren.cloud.names import OWNER_TAG, Names
from pywren.cloud.plan import Step

RETENTION_DAYS = 30
"""Days that CloudWatch keeps lines; without a retention policy it keeps them, and charges for them, forever."""

_EXISTS = ("ResourceAlreadyExistsException",)
_MISSING = ("ResourceNotFoundException",)
_THEIRS = "it belongs to a function that pywren did not create"


class LogGroup:
    """The function's log group. It belongs to the function's owner, because Lambda may have created it.

    If the function does not exist, the group's tag tells whether pywren created it.

    Args:
        names: the names of all resources.
        aws: the account and region.
        function: the function that writes to the log group.
    """

    def __init__(self, names: Names, aws: AWS, function: LambdaFunction) -> None:
        self.names = names
        self._aws = aws
        self._function = function

    @property
    def title(self) -> str:
        """The kind and name of the resource, such as ``the log group NAME``."""
        return f"the log group {self.names.log_group}"

    def plan(self) -> list[Step]:
        """Return the steps that create the log group and limit how long it keeps lines."""
        if self._function.owner() is Owner.SOMEBODY_ELSE:
            return [Step("keep", f"{self.title}: {_THEIRS}")]
        found = self._found()
        if found is None:
            return [Step("create", f"{self.title}, which keeps lines for {RETENTION_DAYS} days", self._create)]
        if "retentionInDays" not in found:  # keep a retention that somebody else chose
            return [Step("update", f"{self.title}: lines expire after {RETENTION_DAYS} days", self._set_retention)]
        return []

    def plan_removal(self) -> list[Step]:
        """Return the steps that delete the log group."""
        if self._found() is None:
            return []
        owner = self._function.owner()
        if owner is Owner.SOMEBODY_ELSE:
            return [Step("keep", f"{self.title}: {_THEIRS}")]
        if owner is Owner.NOBODY and not self._is_tagged():
            return [Step("keep", f"{self.title}: pywren did not create it")]
        return [Step("delete", self.title, lambda: self._find("delete_log_group", _MISSING))]

    def _found(self) -> dict[str, Any] | None:
        pages = self._aws.pages(
            "logs",
            "describe_log_groups",
            tokens={"nextToken": "nextToken"},
            doing=f"look up {self.title}",
            logGroupNamePrefix=self.names.log_group,
        )
        groups = (group for page in pages for group in page.get("logGroups", ()))
        return next((dict(group) for group in groups if group["logGroupName"] == self.names.log_group), None)

    def _is_tagged(self) -> bool:
        answer = self._aws.request(
            "logs",
            "list_tags_for_resource",
            doing=f"read the tags of {self.title}",
            permission=f"logs:ListTagsForResource on {self.names.log_group_arn}",
            resourceArn=self.names.log_group_arn,
        )
        return OWNER_TAG in answer.get("tags", {}).items()

    def _create(self) -> None:
        self._find("create_log_group", _EXISTS, tags=dict([OWNER_TAG]))
        self._set_retention()

    def _set_retention(self) -> None:
        self._find("put_retention_policy", (), retentionInDays=RETENTION_DAYS)

    def _find(self, operation: str, absent: tuple[str, ...], **arguments: Any) -> dict[str, Any] | None:
        return self._aws.find(
            "logs",
            operation,
            absent=absent,
            doing=f"{operation.partition('_')[0].replace('put', 'change')} {self.title}",
            permission=f"logs:{operation.title().replace('_', '')} on {self.names.log_group_arn}",
            logGroupName=self.names.log_group,
            **arguments,
        )
