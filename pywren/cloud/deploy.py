"""Deployment: the function and its role, made or brought up to date at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pywren.aws.requests import AWS
from pywren.cloud.plan import Resource, plan_all
from pywren.cloud.resources import Resources

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
    _ensure([resources.log_group, resources.function])
    return resources.names.function_arn


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
    _ensure([resources.role])
    return resources.names.role_arn


def _ensure(resources: Iterable[Resource]) -> None:
    for planned in plan_all(resources):
        for step in planned.steps:
            step.run()
            logger.info("%s", step.done)
