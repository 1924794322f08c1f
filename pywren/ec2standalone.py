"""PyWren 0.4's functions for workers on EC2, on top of ``pywren.cloud.instances`` and ``pywren.cloud.launch``.

As in 0.4, an instance is represented by a pair of its name and its boto3 object. New programs should use the classes
in those two modules.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.cloud.instances import LAUNCH_POLICY, Instance, Instances, described
from pywren.cloud.launch import Launcher, Order, Wish
from pywren.cloud.resources import Resources, check_account
from pywren.exceptions import ConfigError
from pywren.wrenutil import bytes_to_b64str

__all__ = ["Instance", "Instances", "Launcher", "Order", "Wish"]

Named = tuple[str, Any]
"""An instance's name and its boto3 ``ec2.Instance``."""


def launch_instances(
    number: int,
    tgt_ami: str | None,
    aws_region: str,
    my_aws_key: str | None,
    instance_type: str,
    instance_name: str,
    instance_profile_name: str,
    sqs_queue_name: str,
    default_volume_size: int = 100,
    max_idle_time: float = 60,
    idle_terminate_granularity: float = 600,
    pywren_git_branch: str = "master",
    spot_price: float | None = None,
    availability_zone: str | None = None,
    fast_io: bool = False,
    parallelism: int = 1,
    pywren_git_commit: str | None = None,
) -> list[Named]:
    """Launch instances that take calls from a queue, and wait until they run. The configuration names the bucket.

    Args:
        number: how many instances to launch.
        tgt_ami: the machine image that the instances boot from; ``None`` for Amazon Linux 2023.
        aws_region: the region.
        my_aws_key: the name of the SSH key pair; ``None`` for no key pair.
        instance_type: the type of the instances, such as ``m5.large``.
        instance_name: the value of the instances' tag ``Name``.
        instance_profile_name: the instance profile.
        sqs_queue_name: the queue.
        default_volume_size: the size of the disk in gigabytes if ``fast_io`` is set.
        max_idle_time: seconds without a call after which a worker ends.
        idle_terminate_granularity: the length of a billing period in seconds; an idle worker ends only near the end of
            a period.
        pywren_git_branch: ignored; kept for 0.4. Workers get the pywren that runs here.
        spot_price: the most to pay for spot instances, in dollars per hour; ``None`` for on-demand instances.
        availability_zone: a zone of the region; ``None`` for any.
        fast_io: whether the instances have a fast disk.
        parallelism: how many calls each instance runs in parallel.
        pywren_git_commit: ignored; kept for 0.4. Workers get the pywren that runs here.

    Returns:
        The instances; fewer than ``number`` if EC2 has no more of them.

    Raises:
        ConfigError: there is no configuration with a bucket.
        DeploymentError: something is missing, or EC2 launched no instance.
    """
    config = _configuration(
        aws_region,
        target_ami=tgt_ami,
        ec2_ssh_key=my_aws_key,
        ec2_instance_type=instance_type,
        instance_name=instance_name,
        instance_profile_name=instance_profile_name,
        sqs_queue_name=sqs_queue_name,
        availability_zone=availability_zone,
        fast_io=fast_io,
    )
    wish = Wish(
        number, instance_type, parallelism, max_idle_time, idle_terminate_granularity, spot_price=spot_price or None
    )
    with closing(AWS(aws_region)) as aws:
        return _launch(config, wish, aws, default_volume_size if fast_io else 0)


def _launch(config: wrenconfig.Config, wish: Wish, aws: AWS, gigabytes: int) -> list[Named]:
    launcher = Launcher(config, _resources(config, aws).names, aws)
    order = launcher.order(wish)
    image = order.image._replace(gigabytes=max(order.image.gigabytes, gigabytes))
    launched = launcher.launch(dataclasses.replace(order, image=image)).instances
    aws.wait(
        "ec2",
        "instance_running",
        doing="wait until the instances run",
        permission=LAUNCH_POLICY,
        InstanceIds=[instance.id for instance in launched],
    )
    ec2 = aws.resource("ec2")
    return [(instance.name, ec2.Instance(instance.id)) for instance in launched]


def list_instances(aws_region: str, instance_name: str) -> list[Named]:
    """Return the running instances in a region whose names contain ``instance_name``."""
    found: list[Named] = []
    with closing(AWS(aws_region)) as aws:
        ec2 = aws.resource("ec2")
        for item in described(aws, {"instance-state-name": ["running"]}):
            name = tags_to_dict(item.get("Tags")).get("Name")
            if name is not None and instance_name in name:
                found.append((name, ec2.Instance(item["InstanceId"])))
                found[-1][1].meta.data = item  # otherwise boto3 sends a request for each instance
    return found


def terminate_instances(instance_list: Iterable[Named]) -> None:
    """Terminate instances."""
    for _, instance in instance_list:
        instance.terminate()


def create_instance_profile(instance_profile_name: str) -> None:
    """Create or update the workers' instance profile and its role.

    Raises:
        ConfigError: there is no configuration with a bucket and a region.
        DeploymentError: AWS refused the request.
    """
    region = wrenconfig.require(wrenconfig.default(), "account.aws_region")
    config = _configuration(region, instance_profile_name=instance_profile_name)
    with closing(AWS(region)) as aws:
        for step in _resources(config, aws).instance_profile.plan():
            step.run()


def prettyprint_instances(inst_list: Iterable[Named]) -> None:
    """Print each instance's name and public address."""
    from click import echo

    for name, instance in inst_list:
        echo(f"{name} {instance.public_dns_name}")


def prettyprint_instance_uptimes(inst_list: Iterable[Named]) -> None:
    """Print each instance's name and uptime."""
    from click import echo

    for name, instance in inst_list:
        launched = instance.launch_time
        up = datetime.datetime.now(launched.tzinfo) - launched
        echo(f"{name} {datetime.timedelta(seconds=max(0, int(up.total_seconds())))}")


def tags_to_dict(d: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """Return a list of tags, in the format that AWS uses, as a dict."""
    return {tag["Key"]: tag["Value"] for tag in d or ()}


def b64s(string: str) -> str:
    """Return the base64 of a string."""
    return bytes_to_b64str(string.encode())


def _configuration(aws_region: str, **standalone: Any) -> wrenconfig.Config:
    """Return the configuration that a program would load, with the caller's settings added."""
    config = wrenconfig.default()
    if wrenconfig.setting(config, "s3.bucket") is None:
        raise ConfigError("workers on EC2 need a bucket: create a configuration with `pywren create_config`")
    account = {**(config.get("account") or {}), "aws_region": aws_region}
    return {**config, "account": account, "standalone": {**(config.get("standalone") or {}), **standalone}}


def _resources(config: wrenconfig.Config, aws: AWS) -> Resources:
    return Resources(config, aws, account_id=check_account(config, aws))
