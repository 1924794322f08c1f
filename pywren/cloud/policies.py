"""The IAM policies that pywren needs for one configuration, each with only the necessary permissions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pywren.cloud.names import OWNER_TAG, QUEUE_TAG, Names

_VERSION = "2012-10-17"

Policy = dict[str, Any]

# -- who may assume a role -----------------------------------------------------------------------------------


def lambda_trust_policy() -> Policy:
    """Return the trust policy of the function's role: only the Lambda service may assume it."""
    return _trust("lambda.amazonaws.com")


def ec2_trust_policy(names: Names) -> Policy:
    """Return the trust policy of the role of stand-alone workers: only the EC2 service may assume it."""
    return _trust(_ec2_service(names))


def _ec2_service(names: Names) -> str:
    return "ec2.amazonaws.com.cn" if names.partition == "aws-cn" else "ec2.amazonaws.com"


def _trust(service: str) -> Policy:
    return {
        "Version": _VERSION,
        "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
    }


# -- what workers may do -------------------------------------------------------------------------------------


def execution_policy(names: Names, *, fan_out: bool = False) -> Policy:
    """Return the policy of the function, which may read and write objects under the prefix, and write its own log.

    Args:
        names: the names of all resources.
        fan_out: whether it may also invoke itself (``lambda: fan_out``).
    """
    # With the copies, as they share the role; a worker invokes only the copy that it runs.
    itself = [_allow("InvokeSelf", ["lambda:InvokeFunction"], _functions(names))] if fan_out else []
    return _policy(
        _worker_objects(names),
        # Lambda itself writes the records; it assumes this role to do so
        _allow("FailureRecords", ["s3:PutObject"], _records(names)),
        _listing(names, *(f"{prefix}*" for prefix in names.prefixes)),
        _allow("OwnLog", ["logs:CreateLogStream", "logs:PutLogEvents"], _logs(names)),
        *itself,
    )


def instance_policy(names: Names) -> Policy:
    """Return the policy of stand-alone workers, which may read and write objects under the prefix, and take calls."""
    return _policy(
        _worker_objects(names),
        _listing(names, f"{names.prefix}/*"),
        _allow(
            "TakeCalls",
            ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"],
            [names.queue_arn],
        ),
    )


def _worker_objects(names: Names) -> Policy:
    # AbortMultipartUpload: results beyond some size are uploaded in parts, which must not stay after a failure
    actions = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
    return _allow("StagedObjects", actions, [_below(names, names.prefix)])


def _listing(names: Names, *prefixes: str) -> Policy:
    # Without ListBucket, S3 answers 403 instead of 404 for an object that does not exist (GetObject, S3 API Reference).
    return _allow("List", ["s3:ListBucket"], [names.bucket_arn], {"StringLike": {"s3:prefix": list(prefixes)}})


# -- what people may do --------------------------------------------------------------------------------------


def user_policy(names: Names) -> Policy:
    """Return the policy for people who run calls: staging and invoking calls, collecting results, reading the log."""
    return _policy(
        _allow(
            "StagedObjects",
            ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
            [_below(names, names.prefix)],
        ),
        _allow("FailureRecords", ["s3:GetObject"], _records(names)),
        _listing(names, *(f"{prefix}*" for prefix in names.prefixes)),
        _allow("Invoke", ["lambda:GetFunctionConfiguration", "lambda:InvokeFunction"], _functions(names)),
        _allow("ReadLog", ["logs:DescribeLogStreams", "logs:FilterLogEvents"], _logs(names)),
        _allow("Queue", ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"], [names.queue_arn]),
    )


def setup_policy(names: Names, *, layers: Sequence[str] = ()) -> Policy:
    """Return the policy for people who create and delete the resources; testing them also needs ``user_policy``.

    Args:
        names: the names of all resources.
        layers: the ARNs of the function's layers.
    """
    roles = [names.role_arn, names.instance_role_arn]
    statements = [
        _allow("Bucket", _BUCKET_ACTIONS, [names.bucket_arn]),
        _allow(
            "Objects",
            ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetObject", "s3:PutObject"],
            [_below(names, names.prefix), *_records(names)],
        ),
        _allow("Roles", _ROLE_ACTIONS, roles),
        _pass_role("PassToLambda", names.role_arn, "lambda.amazonaws.com"),
        _allow("InstanceProfile", _PROFILE_ACTIONS, [names.instance_profile_arn]),
        # AddRoleToInstanceProfile requires PassRole on the role
        _pass_role("PassToEC2", names.instance_role_arn, _ec2_service(names)),
        # With all copies that there may be: those of an earlier configuration are to be found and deleted.
        _allow("Function", _FUNCTION_ACTIONS, _any_copy(names.function_arn)),
        _allow("LogGroup", _LOG_GROUP_ACTIONS, _any_copy(names.log_group_arn, ":*")),
        # DescribeLogGroups lists groups, so it cannot be limited to one group
        _allow("FindLogGroup", ["logs:DescribeLogGroups"], [names.log_group_arn.partition(names.log_group)[0] + "*"]),
        _allow("OwnQueue", _QUEUE_ACTIONS, [names.queue_arn]),
        *_worker_removal(names),
        # applies to the account, so it cannot be limited to a resource
        _allow("Quotas", ["lambda:GetAccountSettings"], ["*"]),
    ]
    if layers:
        statements.append(_allow("Layers", ["lambda:GetLayerVersion"], list(layers)))
    return _policy(*statements)


def launch_policy(names: Names) -> Policy:
    """Return the policy for ``pywren standalone``: it allows managing workers and their queue."""
    return _policy(
        _allow(
            "Launch",
            ["ec2:RunInstances"],
            [_ec2_arn(names, "instance/*")],
            {
                # Allow only pywren's workers, with their own role, and only version 2 of the instance metadata service.
                "StringEquals": {**_worker_tags(names, "aws:RequestTag"), "ec2:MetadataHttpTokens": "required"},
                "ArnEquals": {"ec2:InstanceProfile": names.instance_profile_arn},
            },
        ),
        _allow("LaunchWith", ["ec2:RunInstances"], [_ec2_arn(names, kind) for kind in _LAUNCHED_WITH]),
        _allow(
            "TagLaunched",
            ["ec2:CreateTags"],
            [_ec2_arn(names, kind) for kind in ("instance/*", "spot-instances-request/*", "volume/*")],
            {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        ),
        _pass_role("PassToEC2", names.instance_role_arn, _ec2_service(names)),
        _allow("LookAtProfile", ["iam:GetInstanceProfile"], [names.instance_profile_arn]),
        # list operations, which cannot be limited to a resource
        _allow("LookAtTypes", ["ec2:DescribeImages", "ec2:DescribeInstanceTypes"], ["*"]),
        _allow(
            "FindImage",
            ["ssm:GetParameter"],
            [f"arn:{names.partition}:ssm:{names.region}::parameter/aws/service/ami-amazon-linux-latest/*"],
        ),
        _allow("UploadBundle", ["s3:PutObject"], [f"{names.bucket_arn}/{names.bundle_key('*')}"]),
        _allow(
            "FirstSpot",
            ["iam:CreateServiceLinkedRole"],
            [f"arn:{names.partition}:iam::{names.account_id}:role/{_SPOT_ROLE}"],
            {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
        ),
        _allow("Calls", ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:PurgeQueue"], [names.queue_arn]),
        *_worker_removal(names),
    )


_LAUNCHED_WITH = (
    "image/*",
    "key-pair/*",
    "network-interface/*",
    "security-group/*",
    "spot-instances-request/*",
    "subnet/*",
    "volume/*",
)

_SPOT_ROLE = "aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"


def _worker_removal(names: Names) -> list[Policy]:
    tags = {"StringEquals": _worker_tags(names, "aws:ResourceTag")}
    return [
        # a list operation, which cannot be limited to a resource
        _allow("LookAtWorkers", ["ec2:DescribeInstances"], ["*"]),
        _allow("EndWorkers", ["ec2:TerminateInstances"], [_ec2_arn(names, "instance/*")], tags),
    ]


def _worker_tags(names: Names, key: str) -> dict[str, str]:
    return {f"{key}/{OWNER_TAG[0]}": OWNER_TAG[1], f"{key}/{QUEUE_TAG}": names.queue}


def _ec2_arn(names: Names, what: str) -> str:
    # the ARN of an image has no account
    account = "" if what.startswith("image/") else names.account_id
    return f"arn:{names.partition}:ec2:{names.region}:{account}:{what}"


_BUCKET_ACTIONS = (
    "s3:CreateBucket",
    "s3:DeleteBucket",
    "s3:DeleteBucketPolicy",
    "s3:GetBucketPolicy",
    "s3:GetBucketPublicAccessBlock",
    "s3:GetBucketTagging",
    "s3:GetBucketVersioning",
    "s3:GetLifecycleConfiguration",
    "s3:ListBucket",
    "s3:ListBucketVersions",
    "s3:PutBucketPolicy",
    "s3:PutBucketPublicAccessBlock",
    "s3:PutBucketTagging",
    "s3:PutLifecycleConfiguration",
)

_ROLE_ACTIONS = (
    "iam:CreateRole",
    "iam:DeleteRole",
    "iam:DeleteRolePolicy",
    "iam:DetachRolePolicy",
    "iam:GetRole",
    "iam:GetRolePolicy",
    "iam:ListAttachedRolePolicies",
    "iam:ListInstanceProfilesForRole",
    "iam:ListRolePolicies",
    "iam:PutRolePolicy",
    "iam:TagRole",
    "iam:UpdateAssumeRolePolicy",
)

_PROFILE_ACTIONS = (
    "iam:AddRoleToInstanceProfile",
    "iam:CreateInstanceProfile",
    "iam:DeleteInstanceProfile",
    "iam:GetInstanceProfile",
    "iam:RemoveRoleFromInstanceProfile",
    "iam:TagInstanceProfile",
)

_FUNCTION_ACTIONS = (
    "lambda:CreateFunction",
    "lambda:DeleteFunction",
    "lambda:GetFunction",
    "lambda:GetFunctionConcurrency",
    "lambda:GetFunctionConfiguration",
    "lambda:GetFunctionEventInvokeConfig",
    "lambda:PutFunctionEventInvokeConfig",
    "lambda:TagResource",
    "lambda:UpdateFunctionCode",
    "lambda:UpdateFunctionConfiguration",
)

_LOG_GROUP_ACTIONS = (
    "logs:CreateLogGroup",
    "logs:DeleteLogGroup",
    "logs:ListTagsForResource",
    "logs:PutRetentionPolicy",
    "logs:TagResource",
)

_QUEUE_ACTIONS = (
    "sqs:CreateQueue",
    "sqs:DeleteQueue",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ListQueueTags",
    "sqs:SetQueueAttributes",
    "sqs:TagQueue",
)


# -- statements ----------------------------------------------------------------------------------------------


def tls_only(sid: str, service: str, resources: str | Sequence[str]) -> Policy:
    """Return a statement for a resource's policy that denies requests without TLS.

    Args:
        sid: the statement's name.
        service: the prefix of the service's actions, such as ``s3``.
        resources: one or more ARNs.
    """
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        "Action": f"{service}:*",
        "Resource": resources,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def _policy(*statements: Policy) -> Policy:
    return {"Version": _VERSION, "Statement": list(statements)}


def _allow(
    sid: str, actions: Sequence[str], resources: Sequence[str], condition: Mapping[str, Any] | None = None
) -> Policy:
    statement: Policy = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
    if condition:
        statement["Condition"] = dict(condition)
    return statement


def _pass_role(sid: str, role_arn: str, service: str) -> Policy:
    return _allow(sid, ["iam:PassRole"], [role_arn], {"StringEquals": {"iam:PassedToService": service}})


def _functions(names: Names) -> list[str]:
    return [one.function_arn for one in names.each_copy()]


def _any_copy(arn: str, *suffixes: str) -> list[str]:
    """Return ARNs of the function, or its log group, and of any copy, with and without some suffixes."""
    return [f"{name}{suffix}" for name in (arn, f"{arn}_copy?") for suffix in ("", *suffixes)]


def _logs(names: Names) -> list[str]:
    return [arn for one in names.each_copy() for arn in (one.log_group_arn, f"{one.log_group_arn}:*")]


def _records(names: Names) -> list[str]:
    """Return the ARNs of the records of failed calls, of the function and its copies."""
    return [_below(one, one.failure_prefix) for one in names.each_copy()]


def _below(names: Names, prefix: str) -> str:
    return f"{names.bucket_arn}/{prefix}/*"
