"""Setting up: the environment, configuration and resources that a mocked and an emulated AWS need."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pywren.aws.requests import AWS
from pywren.cloud.plan import create_all
from pywren.cloud.resources import Resources

ACCOUNT_ID = "123456789012"
"""The account: moto's, which its ARNs have."""

REGION = "us-west-2"
"""The region that everything is made in when nothing else is said."""


def configuration(
    name: str, *, region: str = REGION, memory: int = 1536, timeout: int = 300, preinstalls: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a configuration whose resources are all called ``name``.

    Args:
        name: of the bucket, the role, the function and the queue.
        region: where they are.
        memory: the function's, in megabytes.
        timeout: the function's, in seconds.
        preinstalls: the top-level modules that the function has beside those of a deployed worker.
    """
    return {
        "account": {"aws_account_id": ACCOUNT_ID, "aws_lambda_role": name, "aws_region": region},
        "lambda": {"memory": memory, "timeout": timeout, "function_name": name},
        "s3": {"bucket": name, "pywren_prefix": "pywren.jobs"},
        "runtime": {"preinstalls": list(preinstalls)},
        "scheduler": {"map_item_limit": 10000},
        "standalone": {"sqs_queue_name": name, "visibility": 10},
    }


def create_bucket(config: Mapping[str, Any], aws: AWS) -> None:
    """Create the bucket of a configuration."""
    region = config["account"]["aws_region"]
    where: dict[str, Any] = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    if region == "us-east-1":  # where a bucket is when nothing is said; it refuses to be named
        where = {}
    aws.request("s3", "create_bucket", doing="set up the bucket", Bucket=config["s3"]["bucket"], **where)


def create_resources(config: Mapping[str, Any], aws: AWS, *, archive: bytes) -> None:
    """Create the queue, the role and the function of a configuration, the last two as pywren itself does.

    Args:
        config: the configuration; its bucket stands.
        aws: the account and region.
        archive: the zip to deploy.
    """
    queue = config["standalone"]["sqs_queue_name"]
    aws.request("sqs", "create_queue", doing="set up the queue", QueueName=queue)
    resources = Resources(config, aws, archive=archive)
    create_all([resources.role])  # AWS creates no function for a role that does not exist
    create_all([resources.log_group, resources.function])


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Take every AWS setting out of the environment (profiles, keys, endpoints), put others there, and undo it all.

    Args:
        variables: what is there meanwhile; may hold other names too.
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


def no_proxy_here() -> dict[str, str]:
    """Return the variables under which no proxy of the user's is asked for what is on this machine."""
    # tools look at one or the other: both say the same
    mine = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [*filter(None, mine.split(",")), *(host for host in _HERE if host not in mine.split(","))]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))


_HERE = ("127.0.0.1", "localhost")


def without_aws(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without AWS's settings."""
    return {name: value for name, value in variables.items() if not _is_aws(name)}


def _is_aws(name: str) -> bool:
    return name.startswith("AWS_")
