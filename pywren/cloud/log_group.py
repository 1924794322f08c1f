"""``LogGroup``: where the function's output goes. The function's role may write to it, but not make one."""

from __future__ import annotations

from typing import Any

from pywren.cloud.aws import AWS
from pywren.cloud.names import Names
from pywren.cloud.plan import Step, find

RETENTION_DAYS = 30

_EXISTS = ("ResourceAlreadyExistsException",)
_MISSING = ("ResourceNotFoundException",)


class LogGroup:
    """The function's log group.

    Args:
        names: what everything is called.
        aws: the account and region.
    """

    def __init__(self, names: Names, aws: AWS) -> None:
        self.names = names
        self._aws = aws

    @property
    def title(self) -> str:
        """``the log group NAME``."""
        return f"the log group {self.names.log_group}"

    def plan(self) -> list[Step]:
        """Return the steps until the log group is there and old lines expire."""
        found = self._look()
        if found is None:
            return [Step("create", f"{self.title}, for lines of {RETENTION_DAYS} days", self._create)]
        if "retentionInDays" not in found:  # what somebody has chosen, stays
            return [Step("update", f"{self.title}: lines expire after {RETENTION_DAYS} days", self._set_retention)]
        return []

    def plan_removal(self) -> list[Step]:
        """Return the steps until the log group is gone."""
        if self._look() is None:
            return []
        return [Step("delete", self.title, lambda: self._find("delete_log_group", _MISSING))]

    def _look(self) -> dict[str, Any] | None:
        arguments: dict[str, Any] = {}
        while True:
            page = self._aws.request(
                "logs",
                "describe_log_groups",
                doing=f"look at {self.title}",
                logGroupNamePrefix=self.names.log_group,
                **arguments,
            )
            for group in page.get("logGroups", ()):
                if group["logGroupName"] == self.names.log_group:
                    return dict(group)
            if not page.get("nextToken"):
                return None
            arguments = {"nextToken": page["nextToken"]}

    def _create(self) -> None:
        self._find("create_log_group", _EXISTS)
        self._set_retention()

    def _set_retention(self) -> None:
        self._find("put_retention_policy", (), retentionInDays=RETENTION_DAYS)

    def _find(self, operation: str, absent: tuple[str, ...], **arguments: Any) -> dict[str, Any] | None:
        return find(
            self._aws,
            "logs",
            operation,
            absent=absent,
            doing=f"{operation.partition('_')[0].replace('put', 'change')} {self.title}",
            permission=f"logs:{operation.title().replace('_', '')} on {self.names.log_group_arn}",
            logGroupName=self.names.log_group,
            **arguments,
        )
