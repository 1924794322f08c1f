"""``Names``: the AWS names of all resources of one configuration."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pywren import wrenconfig
from pywren.exceptions import ConfigError
from pywren.wire.keys import copies_of, failure_prefix

OWNER_TAG = ("created-by", "pywren")
"""The key and value of the tag on everything that pywren creates; it never touches anything without this tag."""

QUEUE_TAG = "pywren-queue"
"""The key of the tag whose value is the name of the queue that an instance takes calls from."""

INSTANCE_PROFILE_DEFAULT = "pywren-standalone"

_RULES: Mapping[str, tuple[str, str]] = {
    # CreateRole, AWS Identity and Access Management API Reference, 2026; letters are ASCII letters
    "account.aws_lambda_role": (r"(?a:[\w+=,.@-]{1,64})", "up to 64 letters, digits and any of +=,.@-_"),
    # CreateFunction, AWS Lambda API Reference, 2026
    "lambda.function_name": (r"[A-Za-z0-9_-]{1,64}", "up to 64 letters, digits, - and _"),
    # CreateQueue, Amazon Simple Queue Service API Reference, 2026
    "standalone.sqs_queue_name": (r"[A-Za-z0-9_-]{1,80}", "up to 80 letters, digits, - and _"),
    # the rule for roles, since the profile's role has the same name; a profile alone could have 128 characters
    "standalone.instance_profile_name": (r"(?a:[\w+=,.@-]{1,64})", "up to 64 letters, digits and any of +=,.@-_"),
    # "Tag restrictions", Amazon EC2 User Guide, 2026: letters of any language
    "standalone.instance_name": (r"[\w +=.:/@-]{1,128}", "up to 128 letters, digits, spaces and any of +-=._:/@"),
    # the prefix is part of policies, in which IAM would read some other characters as wildcards or variables
    "s3.pywren_prefix": (r"[A-Za-z0-9!_.()/-]{1,200}", "up to 200 letters, digits and any of !-_.()/"),
}
"""The names that AWS allows, by the key of the configuration: a pattern, and its description."""


@dataclass(frozen=True)
class Names:
    """The names of all resources of one configuration.

    Args:
        region: the region of all resources.
        account_id: the 12 digits of the account.
        bucket: the bucket that calls are staged in.
        prefix: the key prefix in the bucket, without slashes at its ends.
        role: the role that the function runs as.
        function: the Lambda function.
        queue: the SQS queue of stand-alone workers.
        instance_profile: the instance profile of stand-alone workers, and its role.
        instances: the value of the tag ``Name`` of their instances.
        copies: how many copies of the function there are, the function itself included.
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
    copies: int = 1

    @classmethod
    def of(cls, config: Mapping[str, Any], account_id: str) -> Names:
        """Return the names in a configuration, or their defaults.

        Raises:
            ConfigError: a name is missing, or AWS does not accept it.
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
            copies=_checked_copies(config),
        )
        if not names.prefix:
            raise ConfigError(
                "`s3: pywren_prefix` is empty in the configuration, so pywren would treat the whole bucket as its own: "
                f"write a prefix such as {wrenconfig.AWS_S3_PREFIX_DEFAULT}"
            )
        if names.role == names.instance_profile:
            raise ConfigError(
                f"`account: aws_lambda_role` and `standalone: instance_profile_name` are both {names.role}: Lambda "
                "and EC2 must not share a role; change one of the names"
            )
        return names

    def each_copy(self, copies: int | None = None) -> tuple[Names, ...]:
        """Return the names for each copy of the function, the function itself first.

        Args:
            copies: how many; by default those of the configuration.
        """
        functions = copies_of(self.function, self.copies if copies is None else copies)
        return tuple(replace(self, function=one, copies=1) for one in functions)

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
        """Return the key of the bundle that stand-alone workers fetch and run."""
        # "bundles" starts with a hexadecimal digit, so the bucket's expiry rules for callsets delete old bundles too
        return f"{self.prefix}/bundles/{sha256}.zip"

    @property
    def queue_arn(self) -> str:
        """The queue's ARN."""
        return f"arn:{self.partition}:sqs:{self.region}:{self.account_id}:{self.queue}"

    @property
    def log_group(self) -> str:
        """The function's log group; Lambda determines its name."""
        return f"/aws/lambda/{self.function}"

    @property
    def log_group_arn(self) -> str:
        """The log group's ARN."""
        return f"arn:{self.partition}:logs:{self.region}:{self.account_id}:log-group:{self.log_group}"

    @property
    def failure_prefix(self) -> str:
        """The prefix of Lambda's records of calls that failed outside the handler; Lambda chooses the keys."""
        return failure_prefix(self.function)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes of all keys that pywren or a copy of its function writes; that of the calls is the first."""
        return f"{self.prefix}/", *(f"{one.failure_prefix}/" for one in self.each_copy())


def partition(region: str) -> str:
    """Return the AWS partition that a region belongs to: ``aws``, ``aws-cn`` or ``aws-us-gov``."""
    for start, name in (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov")):
        if region.startswith(start):
            return name
    return "aws"


def check_bucket_name(bucket: str) -> None:
    """Check that S3 accepts a bucket name.

    Source: "General purpose bucket naming rules", Amazon S3 User Guide, 2026.

    Raises:
        ConfigError: S3 does not accept the name; the message states the rules.
    """
    well_formed = re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket) and ".." not in bucket
    if not well_formed or re.fullmatch(r"\d+\.\d+\.\d+\.\d+", bucket):
        raise ConfigError(
            f"{bucket!r} is not a valid bucket name: under `s3: bucket`, write 3 to 63 lower-case letters, digits, "
            "dots and hyphens, beginning and ending with a letter or digit"
        )
    if bucket.startswith(_RESERVED_STARTS) or bucket.endswith(_RESERVED_ENDS):
        raise ConfigError(
            f"{bucket!r} is not a valid bucket name: S3 reserves names that begin with {', '.join(_RESERVED_STARTS)} "
            f"or end with {', '.join(_RESERVED_ENDS)}; choose another name under `s3: bucket`"
        )


_RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


# -- valid names from any text -------------------------------------------------------------------------------


def bucket_name(*parts: str) -> str:
    """Return a valid bucket name made from parts; each part may be any text.

    It contains no dots, because S3's certificate does not cover the host names of buckets with dots.
    """

    def is_valid(name: str) -> bool:
        if "." in name:
            return False
        try:
            check_bucket_name(name)
        except ConfigError:
            return False
        return True

    return _made_valid("-".join(part for part in parts if part).lower(), "-", 63, is_valid)


def suffixed(path: str, name: str, separator: str, suffix: str) -> str:
    """Return a valid name with a suffix; the suffix may be any text.

    Args:
        path: the key of the configuration that holds the name, such as ``lambda.function_name``.
        name: the name without the suffix.
        separator: the text between name and suffix.
        suffix: the suffix; empty for none.
    """
    pattern, _ = _RULES[path]
    most = int(re.findall(r"\{1,(\d+)\}", pattern)[0])
    whole = f"{name}{separator}{suffix}" if suffix else name
    return _made_valid(whole, separator, most, lambda made: re.fullmatch(pattern, made) is not None)


def _made_valid(text: str, separator: str, most: int, is_valid: Callable[[str], bool]) -> str:
    """Return a valid name for a text: the text itself if it is valid, otherwise a name that differs for each text.

    Args:
        text: the wanted name.
        separator: replaces characters that are not allowed in names.
        most: the maximum length of a name.
        is_valid: tells whether a name is valid.
    """
    if is_valid(text):
        return text
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub("[^A-Za-z0-9_-]+" if separator == "_" else "[^A-Za-z0-9]+", separator, ascii_only).strip("-_")
    mark = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_MARK]
    return f"{plain[: most - _MARK - 1].rstrip('-_')}{separator}{mark}"


_MARK = 6
"""The number of hexadecimal digits that distinguish names in which characters were replaced or cut off."""


def is_ours(tags: Any) -> bool:
    """Tell from the tags that AWS lists for a bucket, a role or a profile whether pywren created it."""
    return any((tag.get("Key"), tag.get("Value")) == OWNER_TAG for tag in tags or ())


_DEFAULTS = dict.fromkeys(("standalone.instance_profile_name", "standalone.instance_name"), INSTANCE_PROFILE_DEFAULT)


def _checked_copies(config: Mapping[str, Any]) -> int:
    copies = wrenconfig.setting(config, "lambda.copies")
    wrenconfig.check_value("lambda.copies", copies, "the configuration")
    last = copies_of(_checked(config, "lambda.function_name"), copies)[-1]
    if len(last) > _LONGEST_FUNCTION_NAME:
        raise ConfigError(
            f"with `lambda: copies` a function is called {last}, but Lambda allows {_LONGEST_FUNCTION_NAME} "
            "characters: write a shorter name under `lambda: function_name`"
        )
    return int(copies)


_LONGEST_FUNCTION_NAME = 64
"""The most characters of a function's name (CreateFunction, AWS Lambda API Reference, 2026)."""


def _checked(config: Mapping[str, Any], path: str) -> str:
    value = str(wrenconfig.setting(config, path) or _DEFAULTS.get(path, ""))
    pattern, description = _RULES[path]
    # an empty prefix is reported elsewhere, with its own message
    if (value or path != "s3.pywren_prefix") and not re.fullmatch(pattern, value):
        section, _, key = path.partition(".")
        raise ConfigError(
            f"in the configuration, `{section}: {key}` is {value!r}, which is not valid; write {description}"
        )
    return value
