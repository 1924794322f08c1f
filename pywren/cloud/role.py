"""``Role`` and ``InstanceProfile``: the identities that the function on Lambda and the workers on EC2 run as.

IAM is eventually consistent: it takes some seconds until a new role or profile is known everywhere, and until then
Lambda and EC2 refuse it. The waiters below wait only for IAM itself; ``AWS.request`` repeats requests that Lambda and
EC2 refuse.
Source: "Changes that I make are not always immediately visible", IAM User Guide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pywren.aws.errors import was_denied
from pywren.aws.requests import AWS
from pywren.cloud.names import OWNER_TAG, Names, is_ours
from pywren.cloud.plan import Step
from pywren.exceptions import DeploymentError

POLICY_NAME = "pywren-worker"
"""The name of a role's inline policy."""

_MISSING = ("NoSuchEntity",)
_EXISTS = ("EntityAlreadyExists",)
_TAGS = [{"Key": OWNER_TAG[0], "Value": OWNER_TAG[1]}]


class _Entity:
    """Sends requests about one role or instance profile.

    Args:
        aws: the account.
        title: its kind and name, such as ``the role NAME``.
        **name: the argument that names it, ``RoleName`` or ``InstanceProfileName``.
    """

    def __init__(self, aws: AWS, title: str, **name: str) -> None:
        self._aws = aws
        self._title = title
        self._name = name

    def find(
        self, operation: str, *, absent: tuple[str, ...] = _MISSING, permission: str = "", **arguments: Any
    ) -> dict[str, Any] | None:
        """Send a request; return ``None`` if IAM answers with one of the error codes in ``absent``."""
        verbs = {"get": "look up", "list": "look up", "create": "create", "delete": "delete"}
        return self._aws.find(
            "iam",
            operation,
            absent=absent,
            doing=f"{verbs.get(operation.partition('_')[0], 'change')} {self._title}",
            permission=f"{permission or 'iam:' + operation.title().replace('_', '')} on {self._title}",
            **self._name,
            **arguments,
        )

    def wait(self, waiter: str, permission: str) -> None:
        """Wait until IAM itself knows the role or profile."""
        doing = f"wait for {self._title}"
        self._aws.wait("iam", waiter, doing=doing, permission=f"{permission} on {self._title}", **self._name)


class Role:
    """A role with one inline policy. pywren neither changes nor deletes a role that it did not create.

    Args:
        name: its name.
        aws: the account.
        trust: the trust policy, which says who may assume the role.
        policy: the role's inline policy.
        user: the service that assumes the role, ``Lambda`` or ``EC2``.
    """

    def __init__(
        self, name: str, aws: AWS, *, trust: Mapping[str, Any], policy: Mapping[str, Any], user: str = "Lambda"
    ) -> None:
        self.name = name
        self._entity = _Entity(aws, self.title, RoleName=name)
        self._trust = trust
        self._policy = policy
        self._user = user

    @property
    def title(self) -> str:
        """The kind and name of the resource, such as ``the role NAME``."""
        return f"the role {self.name}"

    def plan(self) -> list[Step]:
        """Return the steps that create the role, or update its trust policy and its inline policy."""
        role = self._found()
        if role is None:
            return [Step("create", f"{self.title}, which only {self._user} may assume", self._create)]
        if not is_ours(role.get("Tags")):
            printed = f"`pywren iam --print {'execution' if self._user == 'Lambda' else 'instance'}` prints"
            return [Step("keep", f"{self.title}: pywren did not create it; it must allow what {printed}")]
        steps = []
        if role.get("AssumeRolePolicyDocument") != self._trust:
            steps.append(Step("update", f"who may assume {self.title}", self._put_trust))
        found = self._entity.find("get_role_policy", PolicyName=POLICY_NAME)
        if (found or {}).get("PolicyDocument") != self._policy:
            steps.append(Step("update", f"what {self.title} may do", self._put_policy))
        return steps

    def plan_removal(self, *, goes_before: str = "") -> list[Step]:
        """Return the steps that delete the role.

        Args:
            goes_before: the name of an instance profile that will be deleted before the role, so its use does not
                count.
        """
        role = self._found()
        if role is None:
            return []
        if not is_ours(role.get("Tags")):
            return [Step("keep", f"{self.title}: pywren did not create it")]
        # IAM does not delete a role that is in an instance profile
        profiles = (self._entity.find("list_instance_profiles_for_role") or {}).get("InstanceProfiles", ())
        users = [profile["InstanceProfileName"] for profile in profiles]
        if others := [name for name in users if name != goes_before]:
            return [Step("keep", f"{self.title}: the instance profile {others[0]} uses it")]
        return [Step("delete", self.title, self._delete)]

    def _found(self) -> dict[str, Any] | None:
        found = self._entity.find("get_role")
        return None if found is None else found["Role"]

    def _create(self) -> None:
        self._entity.find(
            "create_role",
            absent=_EXISTS,  # another set-up was faster, but its role may still lack the policy
            permission="iam:CreateRole and iam:TagRole",
            AssumeRolePolicyDocument=json.dumps(self._trust),
            Description=f"What pywren's workers on {self._user} may do",
            Tags=_TAGS,
        )
        self._entity.wait("role_exists", "iam:GetRole")
        self._put_policy()

    def _put_trust(self) -> None:
        self._entity.find("update_assume_role_policy", absent=(), PolicyDocument=json.dumps(self._trust))

    def _put_policy(self) -> None:
        document = json.dumps(self._policy)
        self._entity.find("put_role_policy", absent=(), PolicyName=POLICY_NAME, PolicyDocument=document)

    def _delete(self) -> None:
        """Delete the role and all its policies, even those of other people: IAM deletes only roles without policies."""
        for name in (self._entity.find("list_role_policies") or {}).get("PolicyNames", ()):
            self._entity.find("delete_role_policy", PolicyName=name)
        for policy in (self._entity.find("list_attached_role_policies") or {}).get("AttachedPolicies", ()):
            self._entity.find("detach_role_policy", PolicyArn=policy["PolicyArn"])
        self._entity.find("delete_role")


class RoleInUse(Role):
    """The role as ``deploy_lambda`` treats it: if the credentials may not read the role, it is used as it is.

    People who deploy often lack permission to read roles, because somebody else created the role for them.
    """

    def plan(self) -> list[Step]:
        """Return the steps that create or update the role; a ``keep`` step if the credentials may not read the role."""
        try:
            return super().plan()
        except DeploymentError as error:
            if not was_denied(error):
                raise
            return [Step("keep", f"{self.title}: these credentials are not allowed to read it")]


class InstanceProfile:
    """The instance profile of stand-alone workers, with its own role, since EC2 and Lambda do not share a role.

    Args:
        names: the names of all resources.
        aws: the account.
        trust: the trust policy of its role.
        policy: the inline policy of its role.
    """

    def __init__(self, names: Names, aws: AWS, *, trust: Mapping[str, Any], policy: Mapping[str, Any]) -> None:
        self.name = names.instance_profile
        self._entity = _Entity(aws, self.title, InstanceProfileName=self.name)
        self._role = Role(self.name, aws, trust=trust, policy=policy, user="EC2")

    @property
    def title(self) -> str:
        """The kind and name of the resource, such as ``the instance profile NAME``."""
        return f"the instance profile {self.name}"

    def plan(self) -> list[Step]:
        """Return the steps that create the role and the profile, and add the role to the profile."""
        profile = self._found()
        if profile is not None and not is_ours(profile.get("Tags")):
            return [Step("keep", f"{self.title}: pywren did not create it, and uses it as it is")]
        steps = self._role.plan()
        if profile is None:
            steps.append(Step("create", self.title, self._create))
        elif not profile.get("Roles"):
            steps.append(Step("update", f"{self.title}: its role", self._add_role))
        return steps

    def plan_removal(self) -> list[Step]:
        """Return the steps that delete the profile and its role."""
        profile = self._found()
        if profile is None:
            return self._role.plan_removal()
        if not is_ours(profile.get("Tags")):
            return [Step("keep", f"{self.title}: pywren did not create it"), *self._role.plan_removal()]
        roles = [role["RoleName"] for role in profile.get("Roles", ())]
        own = Step("delete", self.title, lambda: self._delete(roles))
        return [own, *self._role.plan_removal(goes_before=self.name)]

    def _found(self) -> dict[str, Any] | None:
        found = self._entity.find("get_instance_profile")
        return None if found is None else found["InstanceProfile"]

    def _create(self) -> None:
        self._entity.find("create_instance_profile", absent=_EXISTS, Tags=_TAGS)
        self._entity.wait("instance_profile_exists", "iam:GetInstanceProfile")
        self._add_role()

    def _add_role(self) -> None:
        # A profile holds only one role, so IAM answers LimitExceeded if another set-up was faster.
        self._entity.find("add_role_to_instance_profile", absent=(*_EXISTS, "LimitExceeded"), RoleName=self.name)

    def _delete(self, roles: list[str]) -> None:
        for role in roles:
            self._entity.find("remove_role_from_instance_profile", RoleName=role)
        self._entity.find("delete_instance_profile")
