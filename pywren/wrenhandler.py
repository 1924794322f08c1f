"""PyWren 0.4's entry point of the Lambda function, on top of ``pywren.worker.handler``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Any

from pywren.worker.handler import Container
from pywren.worker.run_status import server_info as get_server_info
from pywren.worker.watch import FIRST_LOOK, LOOK_INTERVAL
from pywren.wrenutil import b64str_to_bytes

__all__ = [
    "aws_lambda_handler",
    "b64str_to_bytes",
    "file_lock",
    "file_unlock",
    "free_disk_space",
    "generic_handler",
    "get_key_size",
    "get_server_info",
    "handle_on_lambda",
    "key_exists",
]

LAMBDA_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
"""Environment variables that calls on Lambda get, because most Lambda functions have less than one core."""

_warm: list[Container] = []
"""The container of this process, kept between invocations. There is one invocation at a time, so no lock is needed."""


def aws_lambda_handler(event: Mapping[str, Any], context: Any) -> dict[str, Any] | None:
    """Run one call. This is the function that Lambda invokes.

    Args:
        event: the payload.
        context: Lambda's context object.

    Returns:
        The status, for callers that wait for it; ``None`` if the call was already ended by something else.
    """
    if "AWS_LAMBDA_FUNCTION_NAME" not in os.environ:  # this is not Lambda, so leave no process behind
        with Container(environment=LAMBDA_ENVIRONMENT) as container:
            return handle_on_lambda(container, event, context)
    if not _warm:
        _warm.append(Container(environment=LAMBDA_ENVIRONMENT))
    return handle_on_lambda(_warm[0], event, context)


def handle_on_lambda(container: Container, event: Mapping[str, Any], context: Any) -> dict[str, Any] | None:
    """Run one call in a container. The status gets data about the invocation from Lambda's context object."""
    return container.handle(
        event,
        {
            "aws_request_id": context.aws_request_id,
            "log_group_name": context.log_group_name,
            "log_stream_name": context.log_stream_name,
            "memory_limit_in_mb": str(getattr(context, "memory_limit_in_mb", "")),
            "remaining_seconds": context.get_remaining_time_in_millis() / 1000,
            # No text: it does not go into the status. Fetched only for a relay.
            "own_arn": lambda: str(context.invoked_function_arn),
        },
    )


def generic_handler(
    event: Mapping[str, Any],
    context_dict: Mapping[str, Any] | None,
    custom_handler_env: Mapping[str, str] | None = None,
    *,
    container: Container | None = None,
) -> dict[str, Any] | None:
    """Run one call anywhere.

    Args:
        event: the payload.
        context_dict: data about this invocation; the strings in it are added to the status.
        custom_handler_env: environment variables of the call; the call's own ``extra_env`` takes precedence. Ignored if
            there is a ``container``, which has its own variables.
        container: a warm worker; by default a new ``Container`` is created for this call and closed after it.

    Returns:
        The status, or ``None`` if the call was already ended by something else.
    """
    if container is not None:
        return container.handle(event, context_dict)
    with Container(environment=custom_handler_env) as made:
        return made.handle(event, context_dict)


# -- names of 0.4 --------------------------------------------------------------------------------------------

TEMP = tempfile.gettempdir()
PROCESS_STDOUT_SLEEP_SECS = FIRST_LOOK
CANCEL_CHECK_EVERY_SECS = LOOK_INTERVAL


def get_key_size(s3client: Any, bucket: str, key: str) -> int | None:
    """Return the size of an object in bytes, or ``None`` when it does not exist.

    Args:
        s3client: botocore's S3 client.
        bucket: the bucket.
        key: the object's key.
    """
    try:
        return int(s3client.head_object(Bucket=bucket, Key=key)["ContentLength"])
    except s3client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
            return None
        raise


def key_exists(s3client: Any, bucket: str, key: str) -> bool:
    """Tell whether an object exists under a key. The arguments are those of ``get_key_size``."""
    return get_key_size(s3client, bucket, key) is not None


def free_disk_space(dirname: str) -> int:
    """Return how many bytes are free on the disk that contains a directory."""
    return shutil.disk_usage(dirname).free


def file_lock(fd: IO[Any]) -> None:
    """Lock an open file for this process. If another process has locked the file, wait until it unlocks it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(fd.fileno(), msvcrt.LK_RLCK, os.fstat(fd.fileno()).st_size)
    else:
        import fcntl

        fcntl.lockf(fd, fcntl.LOCK_EX)


def file_unlock(fd: IO[Any]) -> None:
    """Unlock a file that ``file_lock`` locked."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(fd.fileno(), msvcrt.LK_UNLCK, os.fstat(fd.fileno()).st_size)
    else:
        import fcntl

        fcntl.lockf(fd, fcntl.LOCK_UN)
