"""Deployment: the execution role, and the function with the bundle of this machine's pywren."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from pywren.cloud.aws import AWS, FunctionSpec
from pywren.cloud.policies import execution_policy, lambda_trust_policy, partition
from pywren.exceptions import ConfigError, DeploymentError
from pywren.storage._aws_errors import error_code
from pywren.worker.bundle import HANDLER, build_zip, code_sha256

logger = logging.getLogger(__name__)

POLICY_NAME = "pywren-worker"
"""The role's inline policy."""

EVENT_AGE = 21_600
"""Seconds that a call may wait in Lambda's own queue: the most there is."""

LOG_RETENTION_DAYS = 30


def deploy_function(config: Mapping[str, Any], aws: AWS, *, archive: bytes | None = None) -> str:
    """Create the Lambda function of a configuration, or bring it up to date.

    Args:
        config: the configuration, with its sections ``account``, ``lambda`` and ``s3``.
        aws: the account and region.
        archive: the zip to deploy; the bundle of this machine when not given.

    Returns:
        The function's ARN.

    Raises:
        ConfigError: the configuration lacks a key.
        DeploymentError: AWS refused.
    """
    archive = build_zip() if archive is None else archive
    spec = _function_spec(config, aws)
    _ensure_log_group(spec.name, aws)
    existing = aws.function_config(spec.name)
    if existing is None:
        arn = aws.create_function(spec, archive)
    else:
        arn = str(existing["FunctionArn"])
        if existing.get("CodeSha256") != code_sha256(archive):
            aws.update_function_code(spec.name, archive, architecture=spec.architecture)
        aws.update_function_configuration(spec)
    # Lambda's own retries would run the user's function again behind pywren's back
    bucket_arn = f"arn:{partition(_region(config))}:s3:::{_setting(config, 's3', 'bucket')}"
    event_age = int((config.get("lambda") or {}).get("event_age") or EVENT_AGE)
    aws.set_event_invoke(spec.name, event_age=event_age, on_failure=bucket_arn, retries=0)
    logger.info("the function %s is deployed for %s", spec.name, spec.runtime)
    return arn


def create_execution_role(config: Mapping[str, Any], aws: AWS) -> str:
    """Create the role that the function runs as, or bring its policy up to date.

    Args:
        config: the configuration, with its sections ``account``, ``lambda`` and ``s3``.
        aws: the account and region.

    Returns:
        The role's ARN.

    Raises:
        ConfigError: the configuration lacks a key.
        DeploymentError: AWS refused.
    """
    name = str(_setting(config, "account", "aws_lambda_role"))
    _unless_exists(
        aws,
        "iam",
        "create_role",
        doing=f"create the role {name}",
        permission=f"iam:CreateRole on the role {name}",
        RoleName=name,
        AssumeRolePolicyDocument=json.dumps(lambda_trust_policy()),
        Description="What pywren's Lambda function may do",
    )
    policy = execution_policy(
        bucket=str(_setting(config, "s3", "bucket")),
        prefix=str(_setting(config, "s3", "pywren_prefix")),
        function_name=str(_setting(config, "lambda", "function_name")),
        region=_region(config),
        account_id=_account_id(config, aws),
    )
    aws.request(
        "iam",
        "put_role_policy",
        doing=f"write the policy of the role {name}",
        permission=f"iam:PutRolePolicy on the role {name}",
        RoleName=name,
        PolicyName=POLICY_NAME,
        PolicyDocument=json.dumps(policy),
    )
    return _role_arn(config, aws)


def lambda_runtime() -> str:
    """Return Lambda's runtime of this machine's Python: client and worker must agree."""
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def _function_spec(config: Mapping[str, Any], aws: AWS) -> FunctionSpec:
    return FunctionSpec(
        name=str(_setting(config, "lambda", "function_name")),
        role_arn=_role_arn(config, aws),
        runtime=lambda_runtime(),
        memory=int(_setting(config, "lambda", "memory")),
        timeout=int(_setting(config, "lambda", "timeout")),
        handler=HANDLER,
    )


def _role_arn(config: Mapping[str, Any], aws: AWS) -> str:
    role = _setting(config, "account", "aws_lambda_role")
    return f"arn:{partition(_region(config))}:iam::{_account_id(config, aws)}:role/{role}"


def _account_id(config: Mapping[str, Any], aws: AWS) -> str:
    # YAML reads an account id as a number and drops its leading zeros
    written = config.get("account", {}).get("aws_account_id")
    return str(written).zfill(12) if written and str(written).isdigit() else aws.account_id()


def _region(config: Mapping[str, Any]) -> str:
    return str(_setting(config, "account", "aws_region"))


def _setting(config: Mapping[str, Any], section: str, key: str) -> Any:
    value = (config.get(section) or {}).get(key)
    if value is None or value == "":
        raise ConfigError(f"the configuration has no {section}: {key}; 'pywren create_config' writes one that has")
    return value


def _ensure_log_group(function_name: str, aws: AWS) -> None:
    """Make the function's log group: the role may write to it, but not make one."""
    group = f"/aws/lambda/{function_name}"
    _unless_exists(aws, "logs", "create_log_group", doing=f"create the log group {group}", logGroupName=group)
    aws.request(
        "logs",
        "put_retention_policy",
        doing=f"set how long the log {group} is kept",
        logGroupName=group,
        retentionInDays=LOG_RETENTION_DAYS,
    )


def _unless_exists(aws: AWS, service: str, operation: str, *, doing: str, **arguments: Any) -> None:
    try:
        aws.request(service, operation, doing=doing, **arguments)
    except DeploymentError as error:
        exists = {"EntityAlreadyExists", "ResourceAlreadyExistsException"}
        if error.__cause__ is None or error_code(error.__cause__) not in exists:
            raise
