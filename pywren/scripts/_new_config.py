"""A new configuration file: every option with what it means, for its owner's eyes only."""

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
# What is commented out shows the default.

account:
  aws_region: {aws_region}
{account}
  # The function runs as this role; `pywren create_role` makes it.
  aws_lambda_role: {lambda_role}

# `pywren deploy_lambda` brings this section into force.
lambda:
  function_name: {function_name}
  memory: 1536  # megabytes, 128 to 10240; 1769 are one processor
  timeout: 300  # seconds, up to 900
  # ephemeral_storage: 512  # megabytes of /tmp, up to 10240
  # architecture: x86_64  # or arm64, a fifth cheaper
  # layers: []  # up to 5 ARNs of layers with their versions
  # event_age: 21600  # seconds that Lambda may keep a call before it starts; later it is lost

s3:
  # Calls are staged here; `pywren create_bucket` makes it.
  bucket: {bucket_name}
  pywren_prefix: {bucket_prefix}
  # expiry_days: 7  # S3 deletes calls after so many days

# runtime: your packages on the worker; `pywren runtime build` makes one and writes this section

scheduler:
  map_item_limit: 10000  # items of one map

# Workers on EC2 instead of Lambda: a queue and machines that take calls from it.
standalone:
  sqs_queue_name: {sqs_queue}
  visibility: 10  # seconds until a call that was taken and not kept is given to another worker
  instance_name: {standalone_name}
  instance_profile_name: {standalone_name}
  ec2_instance_type: {instance_type}
  ec2_ssh_key:  # the name of a key pair; without one nobody can log in
  target_ami:  # an image of yours; without one it is Amazon Linux 2023
  max_idle_time: 60  # seconds without calls after which a worker ends,
  idle_terminate_granularity: 3600  # near the end of a period of so many seconds; 0: at any time
  # subnet_id: subnet-0123456789abcdef0  # where there is no default network
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
        bucket_name: calls are staged in it.
        bucket_prefix: under this prefix.
        lambda_role: the function runs as this role.
        function_name: the Lambda function.
        sqs_queue: the queue of stand-alone workers.
        standalone_name: the name of stand-alone instances, and of their profile.
        account_id: the 12 digits of the account.
    """
    account = (
        "  aws_account_id:  # the 12 digits of the account; asked from AWS when they are not here"
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
    """Return a text as YAML reads it back: ``no``, ``1e5`` and the like only in quotes."""
    is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]{3,}", value) and value.lower() not in ("true", "false", "null")
    return value if is_plain else json.dumps(value)


def check_config(text: str) -> None:
    """Check what a configuration names as the commands do that make it; nothing is sent.

    Args:
        text: the configuration as YAML.

    Raises:
        ConfigError: a name is none that AWS takes, or there is no such region.
    """
    import yaml

    names = Names.of(yaml.safe_load(text), "")
    aws = AWS(names.region)
    try:
        if not aws.has_region():
            raise ConfigError(f"AWS has no region {names.region}: correct account: aws_region (--aws_region)")
    finally:
        aws.close()


def write_config(path: Path, text: str, *, force: bool) -> None:
    """Write a file that its owner alone can read, whole or not at all.

    Args:
        path: the file.
        text: what it is to hold.
        force: replace a file that is there.

    Raises:
        ConfigError: it is there and may not be replaced, or it cannot be written.
    """
    real = Path(os.path.realpath(path))  # a link stays one
    try:
        temporary = _write_beside(real, text)
        try:
            if force:
                os.replace(temporary, real)
            else:
                os.link(temporary, real)  # fails when there is a file
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists: name another with --filename, or overwrite it with --force") from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _write_beside(path: Path, text: str) -> str:
    handle, name = temporary_file(path.parent, f"{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return name
