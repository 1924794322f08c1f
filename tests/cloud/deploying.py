"""Deployment as the commands do it, for tests that need no output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pywren.aws.requests import AWS
from pywren.cloud.plan import create_all
from pywren.cloud.resources import Resources


def deploy_function(config: Mapping[str, Any], aws: AWS, *, archive: bytes | None = None) -> str:
    """Create the function and its log group, or change what differs, and return the function's ARN."""
    resources = Resources(config, aws, archive=archive)
    create_all([resources.log_group, resources.function])
    return resources.names.function_arn


def create_execution_role(config: Mapping[str, Any], aws: AWS) -> str:
    """Create the function's role, or change what differs, and return its ARN."""
    resources = Resources(config, aws)
    create_all([resources.role])
    return resources.names.role_arn
