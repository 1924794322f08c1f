"""``Role`` and ``InstanceProfile``: what Lambda's function, and stand-alone workers on EC2, run as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pywren.aws.errors import error_code
from pywren.aws.requests import AWS
from pywren.cloud.names import OWNER_TAG, Names, is_ours
from pywren.cloud.plan import Step, find
from pywren.exceptions import DeploymentError

POLICY_NAME = "pywren-worker"
"""A role's inline policy."""

_MISSING = ("NoSuchEntity",)
_EXISTS = ("EntityAlreadyExists",)
_TAGS = [{"Key": OWNER_TAG[0], "Value": OWNER_TAG[1]}]


class Role:
    """A role with one inline policy. One that pywren did not make is neither changed nor deleted.

    Args:
        name: its name.
        aws: the account.
        trust: who may take it.
        policy: what it may do.
        user: whom it is for, such as ``Lambda``.
    """

    def __init__(
        self, name: str, aws: AWS, *, trust: Mapping[str, Any], policy: Mapping[str, Any], user: str = "Lambda"
    ) -> None:
        self.name = name
        self._aws = aws
        self._trust = trust
        self._policy = policy
        self._user = user

    @property
    def title(self) -> str:
        """``the role NAME``."""
        return f"the role {self.name}"

    def exists(self) -> bool:
        """Tell whether there is such a role."""
        return self._look() is not None

    def plan(self) -> list[Step]:
        """Return the steps until the role is there, with its trust and its policy."""
        role = self._look()
        if role is None:
            return [Step("create", f"{self.title}, which {self._user} alone may take", self._create)]
        if not is_ours(role.get("Tags")):
            printed = f"`pywren iam --print {'execution' if self._user == 'Lambda' else 'instance'}` prints"
            return [Step("keep", f"{self.title}: pywren did not make it; it must allow what {printed}")]
        steps = []
        if role.get("AssumeRolePolicyDocument") != self._trust:
            steps.append(Step("update", f"who may take {self.title}", self._put_trust))
        found = self._find("get_role_policy", PolicyName=POLICY_NAME)
        if (found or {}).get("PolicyDocument") != self._policy:
            steps.append(Step("update", f"what {self.title} may do", self._put_policy))
        return steps

    def plan_removal(self, *, goes_before: str = "") -> list[Step]:
        """Return the steps until the role is gone.

        Args:
            goes_before: an instance profile that will be gone by then.
        """
        role = self._look()
        if role is None:
            return []
        if not is_ours(role.get("Tags")):
            return [Step("keep", f"{self.title}: pywren did not make it")]
        profiles = (self._find("list_instance_profiles_for_role") or {}).get("InstanceProfiles", ())
        users = [profile["InstanceProfileName"] for profile in profiles]
        if others := [name for name in users if name != goes_before]:
            return [Step("keep", f"{self.title}: the instance profile {others[0]} uses it")]
        return [Step("delete", self.title, self._delete)]

    def _look(self) -> dict[str, Any] | None:
        found = self._find("get_role")
        return None if found is None else found["Role"]

    def _create(self) -> None:
        find(
            self._aws,
            "iam",
            "create_role",
            absent=_EXISTS,  # another set-up was quicker: what it lacks comes next
            doing=f"create {self.title}",
            permission=f"iam:CreateRole and iam:TagRole on {self.title}",
            RoleName=self.name,
            AssumeRolePolicyDocument=json.dumps(self._trust),
            Description=f"What pywren's workers on {self._user} may do",
            Tags=_TAGS,
        )
        self._aws.wait(
            "iam",
            "role_exists",
            doing=f"wait for {self.title}",
            permission=f"iam:GetRole on {self.title}",
            RoleName=self.name,
        )
        self._put_policy()

    def _put_trust(self) -> None:
        self._request("update_assume_role_policy", PolicyDocument=json.dumps(self._trust))

    def _put_policy(self) -> None:
        self._request("put_role_policy", PolicyName=POLICY_NAME, PolicyDocument=json.dumps(self._policy))

    def _delete(self) -> None:
        """Delete the role with what others have attached to it: AWS deletes only a bare one."""
        for name in (self._find("list_role_policies") or {}).get("PolicyNames", ()):
            self._find("delete_role_policy", PolicyName=name)
        for policy in (self._find("list_attached_role_policies") or {}).get("AttachedPolicies", ()):
            self._find("detach_role_policy", PolicyArn=policy["PolicyArn"])
        self._find("delete_role")

    def _request(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return self._aws.request(
            "iam",
            operation,
            doing=f"{_verb(operation)} {self.title}",
            permission=f"{_action(operation)} on {self.title}",
            RoleName=self.name,
            **arguments,
        )

    def _find(self, operation: str, **arguments: Any) -> dict[str, Any] | None:
        return find(
            self._aws,
            "iam",
            operation,
            absent=_MISSING,
            doing=f"{_verb(operation)} {self.title}",
            permission=f"{_action(operation)} on {self.title}",
            RoleName=self.name,
            **arguments,
        )


class RoleInUse(Role):
    """The role for who deploys: one that may not be looked at was made by somebody else, and is used as it is."""

    def plan(self) -> list[Step]:
        """Return the steps until the role is there, none but a remark when that cannot be known."""
        try:
            return super().plan()
        except DeploymentError as error:
            if error.__cause__ is None or error_code(error.__cause__) not in ("AccessDenied", "AccessDeniedException"):
                raise
            return [Step("keep", f"{self.title}: these credentials may not look at it")]


class InstanceProfile:
    """The instance profile of stand-alone workers, with a role of its own: EC2 and Lambda share none.

    Args:
        names: what everything is called.
        aws: the account.
        trust: who may take its role.
        policy: what its role may do.
    """

    def __init__(self, names: Names, aws: AWS, *, trust: Mapping[str, Any], policy: Mapping[str, Any]) -> None:
        self.name = names.instance_profile
        self._aws = aws
        self._role = Role(self.name, aws, trust=trust, policy=policy, user="EC2")

    @property
    def title(self) -> str:
        """``the instance profile NAME``."""
        return f"the instance profile {self.name}"

    def plan(self) -> list[Step]:
        """Return the steps until the role, the profile, and the role in the profile are there."""
        profile = self._look()
        if profile is not None and not is_ours(profile.get("Tags")):
            return [Step("keep", f"{self.title}: pywren did not make it; it is used as it is")]
        steps = self._role.plan()
        if profile is None:
            steps.append(Step("create", self.title, self._create))
        elif not profile.get("Roles"):
            steps.append(Step("update", f"{self.title}: its role", self._add_role))
        return steps

    def plan_removal(self) -> list[Step]:
        """Return the steps until the profile and its role are gone."""
        profile = self._look()
        if profile is None:
            return self._role.plan_removal()
        if not is_ours(profile.get("Tags")):
            return [Step("keep", f"{self.title}: pywren did not make it"), *self._role.plan_removal()]
        roles = [role["RoleName"] for role in profile.get("Roles", ())]
        own = Step("delete", self.title, lambda: self._delete(roles))
        return [own, *self._role.plan_removal(goes_before=self.name)]

    def _look(self) -> dict[str, Any] | None:
        found = self._find("get_instance_profile", _MISSING)
        return None if found is None else found["InstanceProfile"]

    def _create(self) -> None:
        self._find("create_instance_profile", _EXISTS, Tags=_TAGS)
        self._aws.wait(
            "iam",
            "instance_profile_exists",
            doing=f"wait for {self.title}",
            permission=f"iam:GetInstanceProfile on {self.title}",
            InstanceProfileName=self.name,
        )
        self._add_role()

    def _add_role(self) -> None:
        # a profile holds one role: the limit is met when another set-up was quicker
        self._find("add_role_to_instance_profile", (*_EXISTS, "LimitExceeded"), RoleName=self.name)

    def _delete(self, roles: list[str]) -> None:
        for role in roles:
            self._find("remove_role_from_instance_profile", _MISSING, RoleName=role)
        self._find("delete_instance_profile", _MISSING)

    def _find(self, operation: str, absent: tuple[str, ...], **arguments: Any) -> dict[str, Any] | None:
        return find(
            self._aws,
            "iam",
            operation,
            absent=absent,
            doing=f"{_verb(operation)} {self.title}",
            permission=f"{_action(operation)} on {self.title}",
            InstanceProfileName=self.name,
            **arguments,
        )


def _action(operation: str) -> str:
    return "iam:" + operation.title().replace("_", "")


def _verb(operation: str) -> str:
    return {"get": "look at", "list": "look at", "create": "create", "delete": "delete"}.get(
        operation.partition("_")[0], "change"
    )
