"""The IAM policies that pywren needs, each with no more than it uses."""

from __future__ import annotations

from typing import Any

_VERSION = "2012-10-17"


def partition(region: str) -> str:
    """Return the AWS partition that a region belongs to: ``aws``, ``aws-cn`` or ``aws-us-gov``."""
    for start, name in (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov")):
        if region.startswith(start):
            return name
    return "aws"


def lambda_trust_policy() -> dict[str, Any]:
    """Return who may take the execution role: the Lambda service, and nobody else."""
    return {
        "Version": _VERSION,
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"},
        ],
    }


def execution_policy(*, bucket: str, prefix: str, function_name: str, region: str, account_id: str) -> dict[str, Any]:
    """Return what the worker may do: read and write under its prefix, and write its own log.

    Args:
        bucket: the bucket that calls are staged in.
        prefix: the key prefix in it.
        function_name: the Lambda function.
        region: the region it is in.
        account_id: the account it belongs to.
    """
    bucket_arn = f"arn:{partition(region)}:s3:::{bucket}"
    log_group = f"arn:{partition(region)}:logs:{region}:{account_id}:log-group:/aws/lambda/{function_name}"
    staged = _below(prefix.strip("/"))
    # AWS fixes these keys: records of calls that ended without the handler's doing
    failures = _below(f"aws/lambda/async/{function_name}")
    return {
        "Version": _VERSION,
        "Statement": [
            {
                "Sid": "StagedObjects",
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"],
                "Resource": f"{bucket_arn}/{staged}",
            },
            {
                "Sid": "FailureRecords",
                "Effect": "Allow",
                "Action": "s3:PutObject",
                "Resource": f"{bucket_arn}/{failures}",
            },
            {
                # without it S3 answers 403 instead of 404 for an object that is not there
                "Sid": "List",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": bucket_arn,
                "Condition": {"StringLike": {"s3:prefix": [staged, failures]}},
            },
            {
                "Sid": "OwnLog",
                "Effect": "Allow",
                "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
                "Resource": [log_group, f"{log_group}:*"],
            },
        ],
    }


def _below(prefix: str) -> str:
    return f"{prefix}/*" if prefix else "*"
