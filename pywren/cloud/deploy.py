"""Deployment: the execution role, and the function with the bundle of this machine's pywren."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

DIRECT_LIMIT = 50 * 1024 * 1024
"""Bytes of a zip that Lambda takes in the request; bigger ones go through the bucket."""


def deploy_function(config: Mapping[str, Any], aws: AWS, *, archive: bytes | None = None) -> str:
    """Create the Lambda function of a configuration, or change in place what differs.

    Args:
        config: the configuration, with its sections ``account``, ``lambda`` and ``s3``.
        aws: the account and region.
        archive: the zip to deploy; the bundle of this machine when not given.

    Returns:
        The function's ARN.

    Raises:
        ConfigError: the configuration lacks a key.
        DeploymentError: AWS refused, or Lambda has no runtime for this machine's Python.
    """
    spec = _function_spec(config, aws)
    bucket = str(_setting(config, "s3", "bucket"))
    archive = build_zip() if archive is None else archive
    _ensure_log_group(spec.name, aws)
    existing = aws.settled_function(spec.name)
    if existing is None:
        with _code(archive, config, aws) as code:
            arn = aws.create_function(spec, code)
    else:
        arn = str(existing["FunctionArn"])
        _update(spec, existing, archive, config, aws)
    # Lambda's own retries would run the user's function again behind pywren's back
    event_age = int(_optional(config, "event_age", EVENT_AGE))
    bucket_arn = f"arn:{partition(_region(config))}:s3:::{bucket}"
    aws.set_event_invoke(spec.name, event_age=event_age, on_failure=bucket_arn, retries=0)
    logger.info("the function %s is deployed for %s", spec.name, spec.runtime)
    return arn


def _update(
    spec: FunctionSpec, existing: Mapping[str, Any], archive: bytes, config: Mapping[str, Any], aws: AWS
) -> None:
    same_architecture = list(existing.get("Architectures") or ["x86_64"]) == [spec.architecture]
    if existing.get("CodeSha256") != code_sha256(archive) or not same_architecture:
        with _code(archive, config, aws) as code:
            aws.update_function_code(spec.name, code, architecture=spec.architecture)
    changes = spec.changes(existing)
    if changes:
        aws.update_function_configuration(spec, changes)


@contextmanager
def _code(archive: bytes, config: Mapping[str, Any], aws: AWS) -> Iterator[dict[str, Any]]:
    """Give the code as Lambda takes it: in the request, or through the bucket while the context lasts."""
    if len(archive) <= DIRECT_LIMIT:
        yield {"ZipFile": archive}
        return
    prefix = str(_setting(config, "s3", "pywren_prefix")).strip("/")
    digest = hashlib.sha256(archive).hexdigest()
    place: dict[str, Any] = {"Bucket": str(_setting(config, "s3", "bucket")), "Key": f"{prefix}/deployments/{digest}.zip".lstrip("/")}
    aws.request("s3", "put_object", doing="put the function's code into the bucket", Body=archive, **place)
    try:
        yield {"S3Bucket": place["Bucket"], "S3Key": place["Key"]}
    finally:
        aws.request("s3", "delete_object", doing="delete the function's code from the bucket", **place)


def ensure_execution_role(config: Mapping[str, Any], aws: AWS) -> bool:
    """Create the role that the function runs as if there is none; one that exists is left as it is.

    Args:
        config: the configuration, with its sections ``account``, ``lambda`` and ``s3``.
        aws: the account and region.

    Returns:
        Whether it was created.

    Raises:
        ConfigError: the configuration lacks a key.
        DeploymentError: AWS refused.
    """
    name = str(_setting(config, "account", "aws_lambda_role"))
    try:
        aws.request("iam", "get_role", doing=f"look at the role {name}", RoleName=name)
    except DeploymentError as error:
        code = error_code(error.__cause__) if error.__cause__ is not None else ""
        if code in ("AccessDenied", "AccessDeniedException"):
            return False  # who may not look at roles deploys with one that somebody else has made
        if code != "NoSuchEntity":
            raise
    else:
        return False
    create_execution_role(config, aws)
    return True


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


def lambda_runtime(known: Sequence[str], version: tuple[int, int] = sys.version_info[:2]) -> str:
    """Return Lambda's runtime of this machine's Python: client and worker must agree.

    Args:
        known: the Python runtimes that Lambda has.
        version: the version of this machine's Python.

    Raises:
        DeploymentError: Lambda has none for it.
    """
    wanted = f"python{version[0]}.{version[1]}"
    if wanted not in known:
        raise DeploymentError(
            f"Lambda has no runtime {wanted} that this machine's botocore knows of, and the function needs the Python "
            f"of the client: run pywren with one of {', '.join(known)}, or try a newer SDK (pip install -U boto3)"
        )
    return wanted


def _function_spec(config: Mapping[str, Any], aws: AWS) -> FunctionSpec:
    chosen = {
        key: value
        for key in ("memory", "timeout", "ephemeral_storage", "architecture")
        if (value := _optional(config, key)) is not None
    }
    return FunctionSpec(
        name=str(_setting(config, "lambda", "function_name")),
        role_arn=_role_arn(config, aws),
        runtime=lambda_runtime(aws.python_runtimes()),
        layers=tuple(_optional(config, "layers", ())),
        handler=HANDLER,
        **chosen,
    )


def _optional(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    value = (config.get("lambda") or {}).get(key)
    return default if value is None else value


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
    found = aws.request(
        "logs", "describe_log_groups", doing=f"look at the log group {group}", logGroupNamePrefix=group, limit=50
    )
    for one in found.get("logGroups", ()):
        if one.get("logGroupName") == group and one.get("retentionInDays"):
            return  # somebody chose how long it is kept
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
