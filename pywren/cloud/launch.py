"""``Launcher``: launches EC2 instances as stand-alone workers."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pywren import wrenconfig
from pywren.aws.errors import service_code
from pywren.aws.requests import AWS
from pywren.cloud._user_data import Boot, client_requirements
from pywren.cloud.instances import Instance, ask_ec2
from pywren.cloud.names import OWNER_TAG, QUEUE_TAG, Names
from pywren.exceptions import ArgumentError, DeploymentError, PywrenError
from pywren.storage.s3_backend import S3Backend
from pywren.version import PYTHON
from pywren.worker.bundle import build_zip

logger = logging.getLogger(__name__)

PACKAGED_PYTHONS = frozenset({"3.11", "3.12", "3.13", "3.14"})
"""The versions of Python that Amazon Linux 2023 packages (November 2026)."""

DISK_GIGABYTES = 32
"""The smallest disk of an instance: the system uses 2 GB, and the rest is for runtimes and arguments."""

FAST_DISK = {"Iops": 10_000, "Throughput": 500}
"""The disk of ``standalone: fast_io``: requests and megabytes per second. The defaults of gp3 are 3,000 and 125."""

ON_SCARCITY = frozenset(
    {
        "InstanceLimitExceeded",
        "InsufficientCapacity",
        "InsufficientFreeAddressesInSubnet",
        "InsufficientInstanceCapacity",
        "MaxSpotInstanceCountExceeded",
        "UnfulfillableCapacity",
        "VcpuLimitExceeded",
    }
)
"""EC2's error codes after which a smaller request may still succeed."""

_IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}"


# -- wishes and orders ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """The instances that the user asks for.

    Args:
        count: the number of instances.
        kind: their type.
        parallelism: how many calls each instance runs at once.
        max_idle_time: seconds without a call after which a worker ends.
        idle_terminate_granularity: the length of a billing period in seconds; an idle worker ends only shortly before
            the end of such a period.
        spot_price: the highest price for spot instances, in dollars per hour; ``None`` for on-demand instances.
    """

    count: int
    kind: str
    parallelism: int = 1
    max_idle_time: float = 60
    idle_terminate_granularity: float = 3600
    spot_price: float | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], count: int = 1, **chosen: Any) -> Wish:
        """Return a ``Wish`` with the chosen values; those that are ``None`` or missing come from the configuration.

        Raises:
            ArgumentError: ``count`` is less than 1.
        """
        if count < 1:
            raise ArgumentError(f"cannot launch {count} instances: ask for 1 or more")
        defaults = {
            "kind": wrenconfig.setting(config, "standalone.ec2_instance_type"),
            "max_idle_time": wrenconfig.setting(config, "standalone.max_idle_time"),
            "idle_terminate_granularity": wrenconfig.setting(config, "standalone.idle_terminate_granularity"),
        }
        return cls(count, **{**defaults, **{name: value for name, value in chosen.items() if value is not None}})


class Image(NamedTuple):
    """The image that instances boot from.

    Args:
        id: its id, such as ``ami-0123456789abcdef0``.
        architecture: ``x86_64`` or ``arm64``.
        root: the device name of its root disk; empty if the root disk is not an EBS volume.
        gigabytes: the size of its root disk.
    """

    id: str
    architecture: str
    root: str
    gigabytes: int


@dataclass(frozen=True)
class Order:
    """A request to EC2 that has not been sent. Creating an order changes nothing.

    Args:
        wish: the instances that the user asks for.
        image: the image that the instances boot from.
        processors: the number of processors in each instance.
        queue: the queue to take calls from.
    """

    wish: Wish
    image: Image
    processors: int
    queue: str

    def __str__(self) -> str:
        wish, image = self.wish, self.image
        price = "" if wish.spot_price is None else f", for up to ${_dollars(wish.spot_price)} an hour each"
        return f"{wish.count} {wish.kind} ({image.architecture}, {image.id}{price}) for the queue {self.queue}"


class Launched(NamedTuple):
    """The result of a launch.

    Args:
        instances: the new instances.
        why_fewer: the reason why there are fewer instances than requested; empty if all were launched.
    """

    instances: list[Instance]
    why_fewer: str = ""


# -- launching -----------------------------------------------------------------------------------------------


class Launcher:
    """Launches instances that work for the queue of a configuration.

    Args:
        config: the configuration.
        names: the names of all resources.
        aws: the account and region.
    """

    def __init__(self, config: Mapping[str, Any], names: Names, aws: AWS) -> None:
        self.names = names
        self._config = config
        self._aws = aws

    def order(self, wish: Wish) -> Order:
        """Look up everything that a launch needs, and return the ``Order`` for a ``Wish``.

        Raises:
            DeploymentError: something is missing or incompatible.
        """
        self._check_queue_and_profile()
        architectures, processors = self._type(wish.kind)
        own_image = wrenconfig.setting(self._config, "standalone.target_ami")
        if not own_image:
            check_packaged(PYTHON)
            own_image = self._latest_image("arm64" if "x86_64" not in architectures else "x86_64")
        image = self._image(own_image)
        if image.architecture not in architectures:
            raise DeploymentError(
                f"the image {image.id} is for {image.architecture}, but instances of the type {wish.kind} are "
                f"{' or '.join(architectures)}: choose another type with --instance_type, set `standalone: target_ami` "
                "to another image, or remove it to use Amazon Linux 2023"
            )
        return Order(wish, image, processors, self.names.queue)

    def launch(self, order: Order) -> Launched:
        """Upload the bundle and launch the instances, or fewer if EC2 does not have enough capacity.

        Raises:
            StorageError: the bundle could not be written.
            DeploymentError: EC2 launched no instance.
        """
        arguments = self._arguments(order, self._upload())
        count = order.wish.count
        try:
            return Launched(self._run(count, count, arguments))
        except PywrenError as error:
            if count == 1 or service_code(error) not in ON_SCARCITY:
                raise
            logger.info("%s; asking for fewer instances", error)
            return Launched(self._run(1, count - 1, arguments), why_fewer=str(error))

    # -- looking up ------------------------------------------------------------------------------------------

    def _check_queue_and_profile(self) -> None:
        """Check, before an instance costs money, that the queue and the instance profile exist."""
        self._aws.queue_url(self.names.queue)
        profile = self.names.instance_profile
        found = self._aws.find(
            "iam",
            "get_instance_profile",
            absent=("NoSuchEntity",),
            doing=f"look up the instance profile {profile}",
            permission=f"iam:GetInstanceProfile on {self.names.instance_profile_arn}",
            InstanceProfileName=profile,
        )
        if found is None or not found["InstanceProfile"].get("Roles"):
            lacks = f"there is no instance profile {profile}" if found is None else f"{profile} has no role"
            raise DeploymentError(f"{lacks}: create it with `pywren create_instance_profile`")

    def _type(self, kind: str) -> tuple[Sequence[str], int]:
        """Return the architectures and the number of processors of an instance type."""
        found = self._ask("describe_instance_types", f"look up the instance type {kind}", InstanceTypes=[kind])
        told = found["InstanceTypes"][0]
        return told["ProcessorInfo"]["SupportedArchitectures"], told["VCpuInfo"]["DefaultVCpus"]

    def _latest_image(self, architecture: str) -> str:
        name = _IMAGE_PARAMETER.format(architecture)
        found = self._aws.request(
            "ssm",
            "get_parameter",
            doing="find the image of Amazon Linux 2023",
            permission=f"ssm:GetParameter on {name}",
            Name=name,
        )
        return str(found["Parameter"]["Value"])

    def _image(self, image_id: str) -> Image:
        found = self._ask("describe_images", f"look up the image {image_id}", ImageIds=[image_id])["Images"]
        if not found:
            raise DeploymentError(
                f"there is no image {image_id} in {self.names.region}: remove `standalone: target_ami` from the "
                "configuration to use Amazon Linux 2023, or set it to another image"
            )
        image = found[0]
        root = image.get("RootDeviceName", "") if image.get("RootDeviceType", "ebs") == "ebs" else ""
        sizes = [
            mapping.get("Ebs", {}).get("VolumeSize", 0)
            for mapping in image.get("BlockDeviceMappings", ())
            if mapping.get("DeviceName") == root
        ]
        return Image(image_id, image["Architecture"], root, max([0, *sizes]))

    # -- launching -------------------------------------------------------------------------------------------

    def _upload(self) -> str:
        """Upload the bundle to the bucket, and return its SHA-256.

        Each launch uploads it again: the bucket's lifecycle deletes old objects, and a booting instance must find it.
        """
        archive = build_zip()
        sha256 = hashlib.sha256(archive).hexdigest()
        backend = S3Backend(self.names.bucket, self.names.region)
        try:
            backend.put(self.names.bundle_key(sha256), archive)
        finally:
            backend.close()
        return sha256

    def _arguments(self, order: Order, sha256: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "ImageId": order.image.id,
            "InstanceType": order.wish.kind,
            "IamInstanceProfile": {"Name": self.names.instance_profile},
            "InstanceInitiatedShutdownBehavior": "terminate",  # a machine powers off when its worker ends
            "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "UserData": self._boot(order.wish, sha256).user_data(),
            "TagSpecifications": self._tags(["instance", "volume"]),
            **self._chosen("KeyName", "ec2_ssh_key"),
            **self._chosen("SubnetId", "subnet_id"),
        }
        if order.image.root:
            fast = wrenconfig.setting(self._config, "standalone.fast_io")
            arguments["BlockDeviceMappings"] = [_disk(order.image, fast=fast)]
        zone = wrenconfig.setting(self._config, "standalone.availability_zone")
        if zone:
            arguments["Placement"] = {"AvailabilityZone": zone}
        if order.wish.spot_price is not None:
            arguments["InstanceMarketOptions"] = _spot(order.wish.spot_price)
            arguments["TagSpecifications"] += self._tags(["spot-instances-request"])
        return arguments

    def _chosen(self, argument: str, key: str) -> dict[str, str]:
        value = wrenconfig.setting(self._config, f"standalone.{key}")
        return {argument: value} if value else {}

    def _boot(self, wish: Wish, sha256: str) -> Boot:
        return Boot(
            bucket=self.names.bucket,
            key=self.names.bundle_key(sha256),
            sha256=sha256,
            region=self.names.region,
            queue=self.names.queue,
            python=PYTHON,
            requirements=client_requirements(),
            parallelism=wish.parallelism,
            max_idle_time=wish.max_idle_time,
            idle_terminate_granularity=wish.idle_terminate_granularity,
        )

    def _tags(self, kinds: Sequence[str]) -> list[dict[str, Any]]:
        tags = [OWNER_TAG, (QUEUE_TAG, self.names.queue), ("Name", self.names.instances)]
        listed = [{"Key": key, "Value": value} for key, value in tags]
        return [{"ResourceType": kind, "Tags": listed} for kind in kinds]

    def _run(self, least: int, most: int, arguments: Mapping[str, Any]) -> list[Instance]:
        # With a token EC2 launches only once, however often pywren repeats the request because an answer was lost
        # ("Ensuring idempotency", Amazon EC2 API reference).
        answer = self._ask(
            "run_instances",
            f"launch {most} {arguments['InstanceType']}",
            **arguments,
            MinCount=least,
            MaxCount=most,
            ClientToken=str(uuid.uuid4()),
        )
        return [Instance.read(item) for item in answer["Instances"]]

    def _ask(self, operation: str, doing: str, **arguments: Any) -> dict[str, Any]:
        return ask_ec2(self._aws, operation, doing, **arguments)


def check_packaged(python: str) -> None:
    """Check that Amazon Linux 2023 has packages for a version of Python.

    Raises:
        DeploymentError: Amazon Linux 2023 does not have this version.
    """
    if python not in PACKAGED_PYTHONS:
        raise DeploymentError(
            f"Amazon Linux 2023 has no Python {python}, which workers need to match this machine: run this "
            f"command with {' or '.join(sorted(PACKAGED_PYTHONS))}, or set `standalone: target_ami` in the "
            f"configuration to your own image with python{python} and pip"
        )


def _disk(image: Image, *, fast: bool) -> dict[str, Any]:
    volume = {
        "VolumeSize": max(DISK_GIGABYTES, image.gigabytes),
        "VolumeType": "gp3",
        "DeleteOnTermination": True,
        **(FAST_DISK if fast else {}),
    }
    return {"DeviceName": image.root, "Ebs": volume}


def _spot(price: float) -> dict[str, Any]:
    options = {
        "MaxPrice": _dollars(price),
        "SpotInstanceType": "one-time",
        "InstanceInterruptionBehavior": "terminate",
    }
    return {"MarketType": "spot", "SpotOptions": options}


def _dollars(price: float) -> str:
    return f"{price:.6f}".rstrip("0").rstrip(".")
