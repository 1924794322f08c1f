"""``Resources``: all AWS resources of one configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.cloud import policies
from pywren.cloud.bucket import Bucket
from pywren.cloud.copies import FormerCopies
from pywren.cloud.function import LambdaFunction
from pywren.cloud.instances import Instances
from pywren.cloud.log_group import LogGroup
from pywren.cloud.names import Names
from pywren.cloud.plan import Resource, Together
from pywren.cloud.queue import Queue
from pywren.cloud.role import InstanceProfile, Role, RoleInUse
from pywren.exceptions import ConfigError


class Resources:
    """All AWS resources of one configuration.

    Creating this object sends at most one request, which asks for the account of the credentials.

    Args:
        config: the configuration.
        aws: the account and region.
        account_id: the account; by default the account in the configuration, or else that of the credentials.
        archive: the zip to deploy; by default this machine's bundle.
        force: delete the bucket with all objects in it, even those of other people.

    Raises:
        ConfigError: a name is missing, or AWS does not accept it.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        aws: AWS,
        *,
        account_id: str | None = None,
        archive: bytes | None = None,
        force: bool = False,
    ) -> None:
        names = Names.of(config, account_id or written_account(config) or "")
        # the request to AWS comes last, so that invalid names are reported even without credentials
        self.names = names = names if names.account_id else replace(names, account_id=aws.account_id())
        self.each_function = each = [LambdaFunction(config, one, aws, archive=archive) for one in names.each_copy()]
        self.each_log_group = [LogGroup(one.names, aws, one) for one in each]
        self.function, self.log_group = each[0], self.each_log_group[0]
        more = "" if names.copies == 1 else " and its copies"
        self.former_copies = FormerCopies(config, names, aws)
        self.functions = Together(self.function.title + more, [*each, self.former_copies])
        self.log_groups = Together(
            self.log_group.title + ("" if names.copies == 1 else " and those of the copies"), self.each_log_group
        )
        expiry_days = wrenconfig.setting(config, "s3.expiry_days")
        self.bucket = Bucket(names, aws, each, expiry_days=expiry_days, force=force)
        trust, may = policies.lambda_trust_policy(), self.execution_policy(config)
        self.role = Role(names.role, aws, trust=trust, policy=may)
        self._role_in_use = RoleInUse(names.role, aws, trust=trust, policy=may)
        self.queue = Queue(names, aws, visibility=wrenconfig.setting(config, "standalone.visibility"))
        self.instance_profile = InstanceProfile(
            names, aws, trust=policies.ec2_trust_policy(names), policy=policies.instance_policy(names)
        )

        self.instances = Instances(names, aws)

    def execution_policy(self, config: Mapping[str, Any]) -> policies.Policy:
        """Return the policy of the function's role."""
        return policies.execution_policy(self.names, fan_out=wrenconfig.setting(config, "lambda.fan_out"))

    @property
    def for_lambda(self) -> Sequence[Resource]:
        """The resources that calls on Lambda need, in the order of creation."""
        return self.bucket, self.role, self.log_groups, self.functions

    @property
    def for_deployment(self) -> Sequence[Resource]:
        """The resources that ``deploy_lambda`` creates or updates, even if the credentials may not read the role."""
        return self._role_in_use, self.log_groups, self.functions

    @property
    def for_standalone(self) -> Sequence[Resource]:
        """The resources that stand-alone workers need in addition to the bucket."""
        return self.queue, self.instance_profile

    @property
    def for_removal(self) -> Sequence[Resource]:
        """All resources in the order of deletion: a resource is deleted before those that it writes to."""
        workers = self.instances, self.functions, self.log_groups
        return *workers, self.queue, self.instance_profile, self.role, self.bucket


def written_account(config: Mapping[str, Any]) -> str | None:
    """Return the account in a configuration, with the leading zeros that YAML drops; ``None`` if there is none."""
    written = (config.get("account") or {}).get("aws_account_id")
    return str(written).zfill(12) if written and str(written).isdigit() else None


def check_account(config: Mapping[str, Any], aws: AWS) -> str:
    """Return the account of the credentials.

    Raises:
        ConfigError: there are no credentials, or the configuration names another account.
    """
    found, written = aws.account_id(), written_account(config)
    if written and written != found:
        raise ConfigError(
            f"the configuration is for the account {written}, but the credentials belong to {found}: choose a profile "
            "with AWS_PROFILE, or correct `account: aws_account_id`"
        )
    return found
