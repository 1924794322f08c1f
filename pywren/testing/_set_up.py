"""The environment, configuration and resources that both the mocked and the emulated AWS need."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from pywren.aws.requests import AWS
from pywren.cloud import prices
from pywren.cloud.plan import create_all
from pywren.cloud.resources import Resources

ACCOUNT_ID = "123456789012"
"""The account in moto's ARNs."""

REGION = "us-west-2"
"""The default region."""


def configuration(
    name: str, *, region: str = REGION, memory: int = 1536, timeout: int = 300, preinstalls: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a configuration whose resources are all called ``name``.

    Args:
        name: the name of the bucket, the role, the function and the queue.
        region: the region of the resources.
        memory: the function's memory in megabytes.
        timeout: the function's time-out in seconds.
        preinstalls: top-level modules that the function has in addition to those of a deployed worker.
    """
    return {
        "account": {"aws_account_id": ACCOUNT_ID, "aws_lambda_role": name, "aws_region": region},
        "lambda": {"memory": memory, "timeout": timeout, "function_name": name},
        "s3": {"bucket": name, "pywren_prefix": "pywren.jobs"},
        "runtime": {"preinstalls": list(preinstalls)},
        "scheduler": {"map_item_limit": 10000},
        "standalone": {"sqs_queue_name": name, "visibility": 10},
        # Those of us-east-1, whatever the region is: what calls would cost there, as nobody pays for them here.
        "prices": prices.section(),
    }


def create_bucket(config: Mapping[str, Any], aws: AWS) -> None:
    """Create the bucket of a configuration."""
    region = config["account"]["aws_region"]
    where: dict[str, Any] = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    if region == "us-east-1":  # the default region, which S3 refuses as an explicit location
        where = {}
    aws.request("s3", "create_bucket", doing="set up the bucket", Bucket=config["s3"]["bucket"], **where)


def create_resources(config: Mapping[str, Any], aws: AWS, *, archive: bytes) -> None:
    """Create the queue, the role and the function of a configuration, as pywren's commands do.

    Args:
        config: the configuration; its bucket exists.
        aws: the account and region.
        archive: the zip to deploy.
    """
    queue = config["standalone"]["sqs_queue_name"]
    aws.request("sqs", "create_queue", doing="set up the queue", QueueName=queue)
    resources = Resources(config, aws, archive=archive)
    create_all([resources.role])  # the role must exist before the function
    create_all([resources.log_groups, resources.functions])


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Replace AWS's settings in the environment (profiles, keys, endpoints) while the context lasts.

    Args:
        variables: the variables to set while the context lasts; AWS's or any others.
    """
    mine = [name for name in os.environ if _is_aws(name) or name in variables]
    saved = {name: os.environ.pop(name) for name in mine}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in [name for name in os.environ if _is_aws(name) or name in variables]:
            del os.environ[name]
        os.environ.update(saved)


@contextmanager
def models_are_read_once() -> Iterator[None]:
    """Let all botocore sessions share loaders while the context lasts.

    Otherwise each session would parse botocore's service descriptions again, which takes 50 ms per client.
    """
    import botocore.session

    with mock.patch.object(botocore.session, "create_loader", _loader):
        yield


@functools.cache
def _loader(search_path_string: str | None = None) -> Any:
    """Return botocore's loader for a search path, which also caches what no loader of botocore caches itself."""
    import botocore.loaders

    loader = botocore.loaders.create_loader(search_path_string)
    loader.load_data_with_path = functools.cache(loader.load_data_with_path)
    return loader


def no_proxy_here() -> dict[str, str]:
    """Return environment variables that make requests to this machine bypass the user's proxies."""
    # some tools read the upper-case name, others the lower-case name
    mine = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [*filter(None, mine.split(",")), *(host for host in _HERE if host not in mine.split(","))]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))


_HERE = ("127.0.0.1", "localhost")


def without_aws(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables without those that are settings of AWS."""
    return {name: value for name, value in variables.items() if not _is_aws(name)}


def _is_aws(name: str) -> bool:
    return name.startswith("AWS_")
