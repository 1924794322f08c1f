"""Functions that tests send to workers.

A worker imports the module of a function that it is sent. Test modules import pytest and much of pywren, which takes a
worker half a second of processor time, and every process that runs one call only pays it again. This module imports
the standard library only.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from typing import Any


def add_one(x: int) -> int:
    return x + 1


def variable(name: str) -> str | None:
    """Return a variable of the worker's environment."""
    return os.environ.get(name)


def leave(code: int) -> None:
    """End the worker's process."""
    os._exit(code)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def later(x: Any) -> Any:
    """Return the argument after a moment, when the test has added its callbacks."""
    time.sleep(0.2)
    return x


def first_time_for_ever(path: str) -> str:
    """Write the process's id to a file and wait forever; return at once if the file already exists."""
    if os.path.exists(path):
        return "by another worker"
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)  # now a process that polls for the file can read all of it
    threading.Event().wait()
    return "never"


# -- on a mocked AWS -------------------------------------------------------------------------------------------


def buckets(_: Any) -> list[str]:
    import boto3

    return [item["Name"] for item in boto3.client("s3").list_buckets()["Buckets"]]


def endpoint_and_key(_: Any) -> tuple[str, str]:
    return os.environ["AWS_ENDPOINT_URL"], os.environ["AWS_ACCESS_KEY_ID"]


def with_a_role(_: Any) -> int:
    """Assume a role, and count the buckets with its credentials."""
    import boto3

    role = boto3.client("sts").assume_role(RoleArn="arn:aws:iam::123456789012:role/any", RoleSessionName="session")
    keys = role["Credentials"]
    client = boto3.client(
        "s3",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    return len(client.list_buckets()["Buckets"])


def through_a_presigned_url(bucket: str) -> bytes:
    """Put an object, and get it through a presigned URL."""
    import boto3

    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key="key", Body=b"text")
    url = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "key"})
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


def square(x: Any) -> Any:
    return x * x


def fail_at(x: Any, bad: Any) -> Any:
    """Return the argument, or raise if it is the bad one."""
    if x == bad:
        raise LookupError(f"{x} is bad")
    return x


def total(argument: Any, number: int) -> tuple[float, str, tuple[int, ...], int]:
    """Return a figure that depends on the whole of an array or a frame, its type, its shape and the number."""
    values = argument["x"] if hasattr(argument, "columns") else argument
    return float(values.sum()), type(argument).__name__, argument.shape, number


def change(array: Any) -> float:
    """Change an array, and return the number that is now in it."""
    array[0] = 7
    return float(array[0])


def type_of(value: Any) -> type:
    return type(value)


class Placed:
    """Notes the thread on which it was unpickled."""

    def __init__(self) -> None:
        self.thread: int | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.thread = threading.get_ident()
