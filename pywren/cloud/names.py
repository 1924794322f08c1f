"""``Names``: what everything of one configuration is called on AWS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pywren import wrenconfig
from pywren._wire import failure_prefix
from pywren.exceptions import ConfigError

OWNER_TAG = ("created-by", "pywren")
"""Key and value of the tag that pywren gives to what it makes: what has it not is neither changed nor deleted."""

QUEUE_TAG = "pywren-queue"
"""Key of the tag that says which queue an instance takes calls from."""

INSTANCE_PROFILE_DEFAULT = "pywren-standalone"

_RULES: Mapping[str, tuple[str, str]] = {
    "account.aws_lambda_role": (r"[\w+=,.@-]{1,64}", "up to 64 letters, digits and any of +=,.@-_"),
    "lambda.function_name": (r"[A-Za-z0-9_-]{1,64}", "up to 64 letters, digits, - and _"),
    "standalone.sqs_queue_name": (r"[A-Za-z0-9_-]{1,80}", "up to 80 letters, digits, - and _"),
    "standalone.instance_profile_name": (r"[\w+=,.@-]{1,64}", "up to 64 letters, digits and any of +=,.@-_"),
    "standalone.instance_name": (r"[\w +=.:/@-]{1,128}", "up to 128 letters, digits, spaces and any of +-=._:/@"),
    # what IAM reads as wildcards and variables must not get into a policy
    "s3.pywren_prefix": (r"[A-Za-z0-9!_.()/-]{1,200}", "up to 200 letters, digits and any of !-_.()/"),
}
"""What AWS allows as a name, by the configuration's key: a pattern, and its description."""


@dataclass(frozen=True)
class Names:
    """What everything of one configuration is called.

    Args:
        region: where it is.
        account_id: 12 digits.
        bucket: calls are staged in it.
        prefix: under this prefix, without slashes at its ends.
        role: the function runs as this.
        function: the Lambda function.
        queue: the SQS queue of stand-alone workers.
        instance_profile: stand-alone workers have it, with a role of the same name.
        instances: the tag ``Name`` of their instances.
    """

    region: str
    account_id: str
    bucket: str
    prefix: str
    role: str
    function: str
    queue: str
    instance_profile: str
    instances: str = INSTANCE_PROFILE_DEFAULT

    @classmethod
    def of(cls, config: Mapping[str, Any], account_id: str) -> Names:
        """Return the names that a configuration gives.

        Raises:
            ConfigError: a name is missing, or none that AWS takes.
        """
        bucket = str(wrenconfig.require(config, "s3.bucket"))
        check_bucket_name(bucket)
        region = wrenconfig.require(config, "account.aws_region")
        wrenconfig.check_value("account.aws_region", region, "the configuration")
        names = cls(
            region=region,
            account_id=account_id,
            bucket=bucket,
            prefix=_checked(config, "s3.pywren_prefix").strip("/"),
            role=_checked(config, "account.aws_lambda_role"),
            function=_checked(config, "lambda.function_name"),
            queue=_checked(config, "standalone.sqs_queue_name"),
            instance_profile=_checked(config, "standalone.instance_profile_name"),
            instances=_checked(config, "standalone.instance_name"),
        )
        if not names.prefix:
            raise ConfigError(
                "the configuration has no s3: pywren_prefix, so the whole bucket would be pywren's: write one such as "
                f"{wrenconfig.AWS_S3_PREFIX_DEFAULT}"
            )
        if names.role == names.instance_profile:
            raise ConfigError(
                f"account: aws_lambda_role and standalone: instance_profile_name are both {names.role}: Lambda and EC2 "
                "do not share a role; give one of them another name"
            )
        return names

    # -- ARNs ------------------------------------------------------------------------------------------------

    @property
    def partition(self) -> str:
        """The AWS partition of the region."""
        return partition(self.region)

    @property
    def bucket_arn(self) -> str:
        """The bucket's ARN."""
        return f"arn:{self.partition}:s3:::{self.bucket}"

    @property
    def role_arn(self) -> str:
        """The ARN of the function's role."""
        return f"arn:{self.partition}:iam::{self.account_id}:role/{self.role}"

    @property
    def instance_role_arn(self) -> str:
        """The ARN of the role of stand-alone workers."""
        return f"arn:{self.partition}:iam::{self.account_id}:role/{self.instance_profile}"

    @property
    def instance_profile_arn(self) -> str:
        """The ARN of the instance profile."""
        return f"arn:{self.partition}:iam::{self.account_id}:instance-profile/{self.instance_profile}"

    @property
    def function_arn(self) -> str:
        """The function's ARN."""
        return f"arn:{self.partition}:lambda:{self.region}:{self.account_id}:function:{self.function}"

    def bundle_key(self, sha256: str) -> str:
        """Return the key of what stand-alone workers fetch and run."""
        # begins like a callset, with a hexadecimal digit: the bucket's rules for callsets delete it when it is old
        return f"{self.prefix}/bundles/{sha256}.zip"

    @property
    def queue_arn(self) -> str:
        """The queue's ARN."""
        return f"arn:{self.partition}:sqs:{self.region}:{self.account_id}:{self.queue}"

    @property
    def log_group(self) -> str:
        """The function's log group; Lambda fixes its name."""
        return f"/aws/lambda/{self.function}"

    @property
    def log_group_arn(self) -> str:
        """The log group's ARN."""
        return f"arn:{self.partition}:logs:{self.region}:{self.account_id}:log-group:{self.log_group}"

    @property
    def failure_prefix(self) -> str:
        """Where Lambda writes records of calls that ended without the handler's doing; it fixes the keys."""
        return failure_prefix(self.function)

    @property
    def prefixes(self) -> tuple[str, str]:
        """The beginnings of every key that pywren or its function writes."""
        return f"{self.prefix}/", f"{self.failure_prefix}/"


def partition(region: str) -> str:
    """Return the AWS partition that a region belongs to: ``aws``, ``aws-cn`` or ``aws-us-gov``."""
    for start, name in (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov")):
        if region.startswith(start):
            return name
    return "aws"


def check_bucket_name(bucket: str) -> None:
    """Check that S3 takes a name for a bucket.

    Raises:
        ConfigError: says what the rules are.
    """
    well_formed = re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket) and ".." not in bucket
    if not well_formed or re.fullmatch(r"\d+\.\d+\.\d+\.\d+", bucket):
        raise ConfigError(
            f"{bucket!r} is no valid name of a bucket: write 3 to 63 lower-case letters, digits, dots and hyphens, "
            "beginning and ending with a letter or digit, under s3: bucket"
        )


def is_ours(tags: Any) -> bool:
    """Tell from the tags of a bucket, a role or a profile, as AWS lists them, whether pywren made it."""
    return any((tag.get("Key"), tag.get("Value")) == OWNER_TAG for tag in tags or ())


_DEFAULTS = dict.fromkeys(("standalone.instance_profile_name", "standalone.instance_name"), INSTANCE_PROFILE_DEFAULT)


def _checked(config: Mapping[str, Any], path: str) -> str:
    value = str(wrenconfig.setting(config, path) or _DEFAULTS.get(path, ""))
    pattern, description = _RULES[path]
    # without a prefix there is more to say
    if (value or path != "s3.pywren_prefix") and not re.fullmatch(pattern, value):
        section, _, key = path.partition(".")
        raise ConfigError(f"the configuration's {section}: {key} is {value!r}: write {description}")
    return value
