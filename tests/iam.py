"""A small IAM: whether policies allow a request, and which statement does."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any

Policy = Mapping[str, Any]


def allowing(policy: Policy, action: str, resource: str, context: Mapping[str, str] | None = None) -> str | None:
    """Return the ``Sid`` of the statement that allows a request, or ``None`` if none allows it or one denies it.

    Args:
        policy: an identity policy.
        action: such as ``s3:GetObject``.
        resource: an ARN, or ``*`` for an action without a resource.
        context: condition keys and their values.
    """
    found = None
    for statement in policy["Statement"]:
        if _applies(statement, action, resource, context or {}):
            if statement["Effect"] == "Deny":
                return None
            found = found or statement["Sid"]
    return found


def actions(policy: Policy) -> set[str]:
    """Return every action that a policy names."""
    return {action for statement in policy["Statement"] for action in _listed(statement["Action"])}


def _applies(statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    return (
        any(_matches(pattern.lower(), action.lower()) for pattern in _listed(statement["Action"]))
        and any(_matches(pattern, resource) for pattern in _listed(statement["Resource"]))
        and all(_holds(operator, tests, context) for operator, tests in statement.get("Condition", {}).items())
    )


def _holds(operator: str, tests: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    compare = {
        "StringEquals": str.__eq__,
        "ArnEquals": str.__eq__,
        "StringLike": lambda value, pattern: _matches(pattern, value),
    }[operator]
    # a condition fails when the request lacks its key
    return all(
        key in context and any(compare(context[key], wanted) for wanted in _listed(values))
        for key, values in tests.items()
    )


def _matches(pattern: str, value: str) -> bool:
    """Match as IAM does: ``*`` and ``?`` also match slashes and colons; no other character is special."""
    escaped = "".join(f"[{letter}]" if letter == "[" else letter for letter in pattern)
    return re.match(fnmatch.translate(escaped), value) is not None


def _listed(value: Any) -> Iterable[str]:
    return [value] if isinstance(value, str) else value


# -- which action an operation takes -------------------------------------------------------------------------

_ACTIONS = {
    ("lambda", "Invoke"): ["InvokeFunction"],
    ("s3", "DeleteBucketLifecycle"): ["PutLifecycleConfiguration"],
    ("s3", "DeleteObjects"): ["DeleteObject"],
    ("s3", "GetBucketLifecycleConfiguration"): ["GetLifecycleConfiguration"],
    ("s3", "GetPublicAccessBlock"): ["GetBucketPublicAccessBlock"],
    ("s3", "HeadBucket"): ["ListBucket"],
    ("s3", "ListObjectVersions"): ["ListBucketVersions"],
    ("s3", "ListObjectsV2"): ["ListBucket"],
    ("s3", "PutBucketLifecycleConfiguration"): ["PutLifecycleConfiguration"],
    ("s3", "PutPublicAccessBlock"): ["PutBucketPublicAccessBlock"],
}
_FREE = {("sts", "GetCallerIdentity")}


def required(service: str, operation: str, arguments: Mapping[str, Any], region: str, account: str) -> list[Any]:
    """Return the permissions that a request needs, as ``(action, resource, context)``.

    Args:
        service: botocore's name of the service.
        operation: such as ``CreateRole``.
        arguments: the request's arguments.
        region: the request's region.
        account: the account's id.
    """
    if (service, operation) in _FREE:
        return []
    if service == "ec2":
        return _required_of_ec2(operation, arguments, f"arn:aws:ec2:{region}:{account}", account)
    if service == "ssm":
        return [(f"ssm:{operation}", f"arn:aws:ssm:{region}::parameter{arguments['Name']}", {})]
    names = list(_ACTIONS.get((service, operation), [operation]))
    if operation == "DeleteObjects" and any("VersionId" in item for item in arguments["Delete"]["Objects"]):
        names = ["DeleteObjectVersion"]
    needed = [
        (f"{service}:{name}", resource, _context(service, name, arguments))
        for name in names
        for resource in _resources(service, operation, arguments, region, account)
    ]
    return needed + _implied(service, operation, arguments, region, account)


def _required_of_ec2(operation: str, arguments: Mapping[str, Any], place: str, account: str) -> list[Any]:
    if operation == "TerminateInstances":  # only the account knows which instances are pywren's
        tags = {"aws:ResourceTag/created-by": "pywren", "aws:ResourceTag/pywren-queue": "the-queue"}
        return [("ec2:TerminateInstances", f"{place}:instance/{name}", tags) for name in arguments["InstanceIds"]]
    if operation != "RunInstances":
        return [(f"ec2:{operation}", "*", {})]
    profile = arguments["IamInstanceProfile"]["Name"]
    tagged = {item["ResourceType"]: item["Tags"] for item in arguments["TagSpecifications"]}
    context = {
        **{f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in tagged["instance"]},
        "ec2:MetadataHttpTokens": arguments["MetadataOptions"]["HttpTokens"],
        "ec2:InstanceProfile": f"arn:aws:iam::{account}:instance-profile/{profile}",
    }
    kinds = ["network-interface", "security-group", "subnet", "volume"]
    kinds += ["key-pair"] if "KeyName" in arguments else []
    kinds += ["spot-instances-request"] if "InstanceMarketOptions" in arguments else []
    image = f"{place.rpartition(':')[0]}::image/{arguments['ImageId']}"
    return [
        ("ec2:RunInstances", f"{place}:instance/i-0", context),
        *(("ec2:RunInstances", resource, {}) for resource in [image, *(f"{place}:{kind}/x" for kind in kinds)]),
        *(("ec2:CreateTags", f"{place}:{kind}/x", {"ec2:CreateAction": "RunInstances"}) for kind in tagged),
        ("iam:PassRole", f"arn:aws:iam::{account}:role/{profile}", {"iam:PassedToService": "ec2.amazonaws.com"}),
    ]


def _context(service: str, name: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    return (
        {"s3:prefix": arguments["Prefix"]} if (service, name) == ("s3", "ListBucket") and "Prefix" in arguments else {}
    )


def _resources(service: str, operation: str, arguments: Mapping[str, Any], region: str, account: str) -> list[str]:
    if service == "s3":
        bucket = f"arn:aws:s3:::{arguments['Bucket']}"
        if operation == "DeleteObjects":
            return [f"{bucket}/{item['Key']}" for item in arguments["Delete"]["Objects"]]
        return [f"{bucket}/{arguments['Key']}" if "Key" in arguments else bucket]
    if service == "iam":
        kind, name = ("role", arguments.get("RoleName"))
        if "InstanceProfileName" in arguments:
            kind, name = "instance-profile", arguments["InstanceProfileName"]
        return [f"arn:aws:iam::{account}:{kind}/{name}"]
    place = f"arn:aws:{service}:{region}:{account}"
    if service == "lambda":
        return [f"{place}:function:{arguments['FunctionName']}" if "FunctionName" in arguments else "*"]
    if "resourceArn" in arguments:
        return [arguments["resourceArn"]]
    if service == "logs":
        return [
            f"{place}:log-group:{arguments['logGroupName']}" if "logGroupName" in arguments else f"{place}:log-group:"
        ]
    queue = arguments.get("QueueName") or arguments["QueueUrl"].rpartition("/")[2]
    return [f"{place}:{queue}"]


def _implied(service: str, operation: str, arguments: Mapping[str, Any], region: str, account: str) -> list[Any]:
    """Return the permissions that a request needs besides its own action."""
    found: list[Any] = []
    if service == "iam" and arguments.get("Tags"):
        name = {"CreateRole": "TagRole", "CreateInstanceProfile": "TagInstanceProfile"}[operation]
        found += [
            (f"iam:{name}", resource, {}) for resource in _resources(service, operation, arguments, region, account)
        ]
    tagging = {"lambda": "TagResource", "logs": "TagResource", "sqs": "TagQueue"}.get(service)
    if tagging and (arguments.get("Tags") or arguments.get("tags")):
        found += [(f"{service}:{tagging}", _resources(service, operation, arguments, region, account)[0], {})]
    if service == "lambda" and "Role" in arguments:
        found.append(("iam:PassRole", arguments["Role"], {"iam:PassedToService": "lambda.amazonaws.com"}))
    if operation == "AddRoleToInstanceProfile":
        role = f"arn:aws:iam::{account}:role/{arguments['RoleName']}"
        found.append(("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"}))
    return found
