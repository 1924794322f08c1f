"""Writes a new configuration file, which explains every option and is readable only by its owner."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

from pywren.aws.requests import AWS
from pywren.cloud.names import Names
from pywren.exceptions import ConfigError
from pywren.system.private_files import temporary_file
from pywren.wrenconfig import AWS_EC2_INSTANCE_TYPE_DEFAULT

_TEMPLATE = """\
# The configuration of pywren: where functions run and where their data goes.
# Lines that are commented out show the defaults.

account:
  aws_region: {aws_region}
{account}
  # The function runs as this role; `pywren create_role` creates it.
  aws_lambda_role: {lambda_role}

# Run `pywren deploy_lambda` to apply changes to this section.
lambda:
  function_name: {function_name}
  memory: 1536  # megabytes, 128 to 10240; 1769 MB give one processor
  timeout: 300  # seconds, up to 900
  # ephemeral_storage: 512  # megabytes of /tmp, up to 10240
  # architecture: x86_64  # or arm64, which costs a fifth less
  # layers: []  # up to 5 ARNs of layer versions
  # fan_out: false  # true lets the function invoke itself, to start the calls of very large maps
  # copies: 1  # up to 9; Lambda adds environments to each copy of the function on its own
  # event_age: 21600  # seconds that a call may wait to start before Lambda drops it

s3:
  # The data of calls goes here; `pywren create_bucket` creates it.
  bucket: {bucket_name}
  pywren_prefix: {bucket_prefix}
  # expiry_days: 7  # S3 deletes the data of calls after this many days

# runtime: your packages on the worker; `pywren runtime build` builds a runtime and writes this section

scheduler:
  map_item_limit: 10000  # the most items of one map

# Workers on EC2 instead of Lambda: machines that take calls from a queue.
standalone:
  sqs_queue_name: {sqs_queue}
  visibility: 10  # seconds after which another worker gets a call whose worker vanished
  instance_name: {standalone_name}
  instance_profile_name: {standalone_name}
  ec2_instance_type: {instance_type}
  ec2_ssh_key:  # the name of a key pair; without one, nobody can log in
  target_ami:  # your own image; without one, Amazon Linux 2023
  max_idle_time: 60  # a worker stops after this many seconds without calls, but
  idle_terminate_granularity: 3600  # only near the end of a period of this many seconds; 0: at any time
  # subnet_id: subnet-0123456789abcdef0  # needed when the region has no default network
"""


def config_text(
    *,
    aws_region: str,
    bucket_name: str,
    bucket_prefix: str,
    lambda_role: str,
    function_name: str,
    sqs_queue: str,
    standalone_name: str,
    account_id: str | None = None,
) -> str:
    """Return a configuration as YAML with comments.

    Args:
        aws_region: the region of the function and the bucket.
        bucket_name: the bucket for the data of calls.
        bucket_prefix: the key prefix in the bucket.
        lambda_role: the role that the function runs as.
        function_name: the Lambda function.
        sqs_queue: the queue of stand-alone workers.
        standalone_name: the name of stand-alone instances, and of their profile.
        account_id: the 12 digits of the account.
    """
    account = (
        "  aws_account_id:  # the 12 digits of the account; if empty, pywren asks AWS"
        if account_id is None
        else f'  aws_account_id: "{account_id}"'
    )
    return _TEMPLATE.format(
        account=account,
        instance_type=AWS_EC2_INSTANCE_TYPE_DEFAULT,
        aws_region=_scalar(aws_region),
        bucket_name=_scalar(bucket_name),
        bucket_prefix=_scalar(bucket_prefix),
        lambda_role=_scalar(lambda_role),
        function_name=_scalar(function_name),
        sqs_queue=_scalar(sqs_queue),
        standalone_name=_scalar(standalone_name),
    )


def _scalar(value: str) -> str:
    """Return a text as YAML, in quotes if needed: without quotes, ``no`` and ``1e5`` would not be text."""
    is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]{3,}", value) and value.lower() not in ("true", "false", "null")
    return value if is_plain else json.dumps(value)


def check_config(text: str) -> None:
    """Check the names in a configuration as the commands that create the resources do, without sending requests.

    Args:
        text: the configuration as YAML.

    Raises:
        ConfigError: AWS does not accept a name, or the region does not exist.
    """
    import yaml

    names = Names.of(yaml.safe_load(text), "")
    aws = AWS(names.region)
    try:
        if not aws.has_region():
            raise ConfigError(f"AWS has no region {names.region}: correct `account: aws_region` (--aws_region)")
    finally:
        aws.close()


def write_config(path: Path, text: str, *, force: bool) -> None:
    """Write a file that only its owner can read, either completely or not at all.

    Args:
        path: the file.
        text: its new content.
        force: replace an existing file.

    Raises:
        ConfigError: the file exists and ``force`` is false, or the file cannot be written.
    """
    real = Path(os.path.realpath(path))  # replaces the target of a symbolic link, not the link itself
    try:
        temporary = _write_beside(real, text)
        try:
            if force:
                os.replace(temporary, real)
            else:
                os.link(temporary, real)  # unlike os.replace, this fails if the file exists
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists: choose another file with --filename, or overwrite it with --force"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _write_beside(path: Path, text: str) -> str:
    handle, name = temporary_file(path.parent, f"{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return name
