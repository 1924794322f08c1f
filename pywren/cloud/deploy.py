"""Deployment: the function and its role, made or brought up to date at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pywren.cloud.aws import AWS
from pywren.cloud.plan import Resource
from pywren.cloud.resources import Resources
from pywren.exceptions import DeploymentError
from pywren.storage._aws_errors import error_code

logger = logging.getLogger(__name__)


def deploy_function(config: Mapping[str, Any], aws: AWS, *, archive: bytes | None = None) -> str:
    """Create the Lambda function of a configuration and its log group, or change in place what differs.

    Args:
        config: the configuration, with its sections ``account``, ``lambda`` and ``s3``.
        aws: the account and region.
        archive: the zip to deploy; the bundle of this machine when not given.

    Returns:
        The function's ARN.

    Raises:
        ConfigError: the configuration lacks a key.
        DeploymentError: AWS refused, Lambda has no runtime for this machine's Python, or the function is not pywren's.
    """
    resources = Resources(config, aws, archive=archive)
    ensure(resources.log_group)
    ensure(resources.function)
    logger.info("%s is deployed", resources.function.title)
    return resources.names.function_arn


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
    role = Resources(config, aws).role
    try:
        if role.exists():
            return False
    except DeploymentError as error:
        if error.__cause__ is not None and error_code(error.__cause__) in ("AccessDenied", "AccessDeniedException"):
            return False  # who may not look at roles deploys with one that somebody else has made
        raise
    ensure(role)
    return True


def create_execution_role(config: Mapping[str, Any], aws: AWS) -> str:
    """Create the role that the function runs as, or bring it up to date.

    Args:
        config: the configuration, with its sections ``account``, ``lambda`` and ``s3``.
        aws: the account and region.

    Returns:
        The role's ARN.

    Raises:
        ConfigError: the configuration lacks a key.
        DeploymentError: AWS refused.
    """
    resources = Resources(config, aws)
    ensure(resources.role)
    return resources.names.role_arn


def ensure(resource: Resource) -> None:
    """Make a thing as it should be, or leave it so."""
    for step in resource.plan():
        logger.info("%s", step.planned)
        step.run()
