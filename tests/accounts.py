"""An AWS account for tests of set-up and the command line: empty, mocked, and able to refuse requests."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import botocore.client
import botocore.exceptions
import botocore.loaders
import pytest
from moto import mock_aws
from moto.utilities.utils import load_resource

from pywren.aws.requests import AWS
from pywren.cloud.launch import PACKAGED_PYTHONS, Launcher, Wish
from pywren.cloud.policies import lambda_trust_policy
from pywren.cloud.resources import Resources
from pywren.testing._moto_corrections import over_tls
from pywren.worker.bundle import build_zip

ACCOUNT_ID = "123456789012"
REGION = "us-west-2"
READING = ("Get", "List", "Describe", "Head")


def configuration(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration; keyword arguments change keys in its sections."""
    config: dict[str, dict[str, Any]] = {
        "account": {"aws_account_id": ACCOUNT_ID, "aws_lambda_role": "the-role", "aws_region": REGION},
        "lambda": {"function_name": "the-function"},
        "s3": {"bucket": "the-bucket", "pywren_prefix": "the.jobs"},
        "standalone": {"sqs_queue_name": "the-queue", "visibility": 10, "instance_profile_name": "the-profile"},
    }
    for section, keys in changes.items():
        config[section] = {**config.get(section, {}), **keys}
    return config


@dataclass
class Account:
    """A mocked account, which records requests and can refuse operations.

    Args:
        aws: for direct requests to it.
        requests: ``(service, operation, arguments)`` of every request, including refused ones.
    """

    aws: AWS
    requests: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    _before: dict[str, Callable[[dict[str, Any]], None]] = field(default_factory=dict)

    @property
    def changes(self) -> list[str]:
        """Return the operations that were meant to change something."""
        return [operation for _, operation, _ in self.requests if not operation.startswith(READING)]

    def before(self, operation: str, do: Callable[[dict[str, Any]], None]) -> None:
        """Run an action, or raise an exception, before an operation such as ``CreateRole`` is sent."""
        self._before[operation] = do

    def refuse(self, *operations: str, code: str = "AccessDenied", status: int = 403, message: str = "no") -> None:
        """Refuse these operations from now on."""
        for operation in operations:
            self.before(operation, _raising(operation, code, status, message))

    def relent(self) -> None:
        """Stop refusing operations."""
        self._before.clear()

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Do not record the requests that are sent within the context."""
        watched = list(self.requests)
        yield
        self.requests[:] = watched

    def resources(self, **changes: Any) -> Resources:
        """Return the resources that a configuration describes."""
        return Resources(configuration(**changes), self.aws)

    def ask(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """Send a request."""
        return self.aws.request(service, operation, doing="look", **arguments)

    def keys(self, bucket: str = "the-bucket") -> list[str]:
        """Return the keys in a bucket."""
        return [item["Key"] for item in self.ask("s3", "list_objects_v2", Bucket=bucket).get("Contents", ())]

    def put(self, *keys: str, bucket: str = "the-bucket") -> None:
        """Write small objects."""
        for key in keys:
            self.ask("s3", "put_object", Bucket=bucket, Key=key, Body=b"x")

    def make_queue(self, message: str, name: str = "the-queue") -> str:
        """Create a queue that pywren does not own, with a message in it, and return its URL."""
        url = str(self.ask("sqs", "create_queue", QueueName=name)["QueueUrl"])
        self.ask("sqs", "send_message", QueueUrl=url, MessageBody=message)
        return url

    def make_function(self, name: str = "the-function") -> None:
        """Create a function that pywren does not own, with a role and a log group."""
        trust = json.dumps(lambda_trust_policy())
        role = self.ask("iam", "create_role", RoleName="theirs", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        code = {"ZipFile": build_zip({"app.py": b"def main(event, context): pass"})}
        settings = {"Runtime": "python3.12", "Role": role, "Handler": "app.main"}
        self.ask("lambda", "create_function", FunctionName=name, Code=code, **settings)
        self.ask("logs", "create_log_group", logGroupName=f"/aws/lambda/{name}")

    def make_bucket(self, name: str = "the-bucket", region: str = REGION) -> None:
        """Create a bucket that pywren does not own."""
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        aws = AWS(region)
        aws.request("s3", "create_bucket", doing="make", Bucket=name, **where)
        aws.close()

    def image(self, architecture: str = "x86_64") -> str:
        """Return the newest image of Amazon Linux 2023."""
        name = f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"
        return str(self.ask("ssm", "get_parameter", Name=name)["Parameter"]["Value"])

    def running(self) -> list[str]:
        """Return the ids of all running instances, including those that pywren does not own."""
        found = self.ask("ec2", "describe_instances")["Reservations"]
        instances = [item for group in found for item in group["Instances"]]
        return [item["InstanceId"] for item in instances if item["State"]["Name"] == "running"]

    def launch(self, count: int = 1, **changes: Any) -> list[str]:
        """Launch stand-alone workers; their queue, instance profile and bucket must exist."""
        config, names = configuration(**changes), self.resources(**changes).names
        launcher = Launcher(config, names, self.aws)
        return [item.id for item in launcher.launch(launcher.order(Wish.of(config, count))).instances]

    def left(self) -> dict[str, list[str]]:
        """Return the names of everything in the account."""
        found = {
            "buckets": [item["Name"] for item in self.ask("s3", "list_buckets")["Buckets"]],
            "roles": [item["RoleName"] for item in self.ask("iam", "list_roles")["Roles"]],
            "profiles": [
                item["InstanceProfileName"] for item in self.ask("iam", "list_instance_profiles")["InstanceProfiles"]
            ],
            "functions": [item["FunctionName"] for item in self.ask("lambda", "list_functions")["Functions"]],
            "logs": [item["logGroupName"] for item in self.ask("logs", "describe_log_groups")["logGroups"]],
            "queues": self.ask("sqs", "list_queues").get("QueueUrls", []),
            "instances": self.running(),
        }
        return {kind: names for kind, names in found.items() if names}


def _raising(operation: str, code: str, status: int, message: str) -> Callable[[dict[str, Any]], None]:
    def do(arguments: dict[str, Any]) -> None:
        raise botocore.exceptions.ClientError(
            {
                "Error": {"Code": code, "Message": message},
                "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}, "RequestId": "r-1"},
            },
            operation,
        )

    return do


@functools.cache
def _archive() -> bytes:
    return build_zip()


@functools.cache
def _al2023() -> list[dict[str, Any]]:
    images = load_resource(f"ec2/resources/latest_amis/{REGION}.json")
    return [image for image in images if image["name"].startswith("al2023-ami-2023")]


def _images(path: str) -> list[dict[str, Any]]:
    return [dict(image) for image in _al2023()] if path.endswith(f"latest_amis/{REGION}.json") else []


@contextmanager
def mocked_account() -> Iterator[Account]:
    """Mock an empty account within the context."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in list(os.environ):
            if name.startswith("AWS_") and not name.endswith("_FILE"):
                patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        stack.enter_context(mock_aws(config={"lambda": {"use_docker": False}}))
        stack.enter_context(over_tls())
        for module in ("function", "doctor", "launch"):
            patch.setattr(f"pywren.cloud.{module}.build_zip", _archive)
        # moto creates each of a thousand images anew for every account; these are the ones that workers boot from
        patch.setattr("moto.ec2.models.amis.AMIS", [])
        patch.setattr("moto.ec2.models.amis.load_resource", _images)
        # the suite also runs on Python versions that Amazon Linux 2023 does not have
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        patch.setattr("pywren.cloud.launch.PACKAGED_PYTHONS", PACKAGED_PYTHONS | {here})
        account = Account(AWS(REGION))
        stack.callback(account.aws.close)
        send = botocore.client.BaseClient._make_api_call

        def watched(client: Any, operation: str, arguments: dict[str, Any]) -> Any:
            account.requests.append((client.meta.service_model.service_name, operation, arguments))
            if operation in account._before:
                account._before[operation](arguments)
            return send(client, operation, arguments)

        patch.setattr(botocore.client.BaseClient, "_make_api_call", watched)
        yield account
