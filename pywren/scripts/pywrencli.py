"""The command ``pywren``: creates a configuration and its AWS resources, tests them, and deletes them again."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from pywren import wrenconfig
from pywren.exceptions import ConfigError, PywrenError
from pywren.scripts._console import (
    Group,
    confirm,
    create,
    dry_run_option,
    load_config,
    open_account,
    option,
    remove,
    yes_option,
)
from pywren.scripts._new_config import check_config, config_text, write_config
from pywren.scripts.instances import standalone
from pywren.scripts.jobs import cancel, jobs, print_output, resume
from pywren.scripts.runtime import runtime
from pywren.version import PYTHON, __version__

TEST_PATIENCE = 120.0
"""Seconds to wait for the test function."""

_DAY = 86_400
_UNITS = {"m": 60, "h": 3600, "d": _DAY}


@click.group(cls=Group)
@click.version_option(__version__, prog_name="pywren")
@click.option("--filename", help="The configuration file.", type=click.Path(dir_okay=False))
@click.pass_context
def cli(ctx: click.Context, filename: str | None) -> None:
    """Run your Python functions over thousands of inputs on AWS Lambda."""
    ctx.obj = filename


cli.add_command(runtime)
cli.add_command(standalone)
cli.add_command(jobs)
cli.add_command(resume)
cli.add_command(cancel)


# -- the configuration ---------------------------------------------------------------------------------------


@cli.command("create_config")
@option("aws_region", default=wrenconfig.AWS_REGION_DEFAULT, help="The region of the function and the bucket.")
@option("bucket_name", default=wrenconfig.AWS_S3_BUCKET_DEFAULT, help="Your bucket for the data of calls.")
@option("bucket_prefix", default=wrenconfig.AWS_S3_PREFIX_DEFAULT, help="The key prefix in the bucket.")
@option("lambda_role", default=wrenconfig.AWS_LAMBDA_ROLE_DEFAULT, help="The role that the function runs as.")
@option("function_name", default=wrenconfig.AWS_LAMBDA_FUNCTION_NAME_DEFAULT, help="The Lambda function.")
@option("sqs_queue", default=wrenconfig.AWS_SQS_QUEUE_DEFAULT, help="The queue of stand-alone workers.")
@option(
    "standalone_name",
    default="pywren-standalone",
    help="The name of stand-alone instances and of their instance profile.",
)
@option(
    "pythonver", default=None, help="For scripts written for 0.4: must be the version of Python that runs this command."
)
@option("force", is_flag=True, help="Overwrite the file if it exists.")
@click.pass_obj
def create_config(filename: str | None, /, pythonver: str | None, force: bool, **settings: str) -> None:
    """Write a configuration file."""
    path = new_config_path(filename)
    if pythonver not in (None, PYTHON):
        raise click.UsageError(
            f"the function gets the Python of this command, {PYTHON}: run the command with Python {pythonver} instead"
        )
    check_config(config_text(**settings))
    text = config_text(**settings, account_id=_account_id_if_known(settings["aws_region"]))
    write_config(path, text, force=force)
    click.echo(f"new configuration written to {path}")
    if settings["bucket_name"] == wrenconfig.AWS_S3_BUCKET_DEFAULT:
        click.echo("make sure you change the default bucket in it to your own")


def new_config_path(filename: str | None) -> Path:
    """Return the path for a new configuration: the given file, or a path where programs look for a configuration."""
    return Path(filename or os.environ.get(wrenconfig.CONFIG_VARIABLE) or wrenconfig.get_default_home_filename())


def _account_id_if_known(region: str) -> str | None:
    """Return the account of the credentials; ``None`` if there are no credentials or AWS cannot be reached."""
    from pywren.aws.requests import AWS

    with contextlib.closing(AWS(region)) as aws:
        try:
            return aws.account_id()
        except PywrenError:
            return None


def _config_if_any(filename: str | None) -> wrenconfig.Config | None:
    """Return the configuration; ``None`` if there is no configuration yet, even if the user named a file."""
    path = filename or os.environ.get(wrenconfig.CONFIG_VARIABLE) or wrenconfig.get_default_config_filename()
    return wrenconfig.load(path) if path and os.path.lexists(path) else None


def _examine(filename: str | None) -> None:
    from pywren.aws.requests import AWS
    from pywren.cloud.doctor import Doctor

    config = _config_if_any(filename)
    region = None if config is None else wrenconfig.require(config, "account.aws_region")
    wrong = 0
    with contextlib.closing(AWS(region or _region_without_config())) as aws:
        for finding in Doctor(config, aws).examine():
            click.echo(str(finding))
            wrong += finding.verdict == "wrong"
    if wrong:
        raise click.ClickException("1 problem must be fixed" if wrong == 1 else f"{wrong} problems must be fixed")


def _region_without_config() -> str:
    """Return the region that AWS's own tools use, or PyWren 0.4's default; every region knows the account."""
    from pywren.aws.requests import AWS

    return os.environ.get("AWS_REGION") or AWS().configured_region() or wrenconfig.AWS_REGION_DEFAULT


@cli.command("test_config")
@click.pass_obj
def test_config(filename: str | None) -> None:
    """Check everything that calls need, and report what is wrong and how to fix it."""
    _examine(filename)


@cli.command("doctor")
@click.pass_obj
def doctor(filename: str | None) -> None:
    """Run the same checks as test_config."""
    _examine(filename)


@cli.command("get_aws_account_id")
@click.pass_obj
def get_aws_account_id(filename: str | None, verbose: bool = True) -> str:
    """Print the AWS account of the credentials. This needs no configuration."""
    from pywren.aws.requests import AWS

    region = None
    with contextlib.suppress(ConfigError):  # the credentials do not depend on the configuration, so ignore a broken one
        region = wrenconfig.setting(_config_if_any(filename) or {}, "account.aws_region")
    with contextlib.closing(AWS(region or _region_without_config())) as aws:
        account_id = aws.account_id()
    if verbose:  # programs written for PyWren 0.4 call this function for its return value
        click.echo(f"The AWS account ID is {account_id}")
    return account_id


@cli.command("iam")
@click.option(
    "--print",
    "which",
    type=click.Choice(["execution", "user", "setup", "launch", "instance"]),
    required=True,
    help="What the policy is for: the function, a user who runs calls, setting up, launching workers, or EC2 workers.",
)
@click.pass_obj
def iam(filename: str | None, which: str) -> None:
    """Print the minimal IAM policy for a task with this configuration."""
    from pywren.aws.requests import AWS
    from pywren.cloud import policies
    from pywren.cloud.resources import Resources

    config = load_config(filename)
    aws = AWS(wrenconfig.require(config, "account.aws_region"))
    try:
        resources = Resources(config, aws)
    finally:
        aws.close()
    names = resources.names
    make: dict[str, Callable[[], policies.Policy]] = {
        "execution": lambda: resources.execution_policy(config),
        "user": lambda: policies.user_policy(names),
        "setup": lambda: policies.setup_policy(names, layers=wrenconfig.setting(config, "lambda.layers")),
        "launch": lambda: policies.launch_policy(names),
        "instance": lambda: policies.instance_policy(names),
    }
    click.echo(json.dumps(make[which](), indent=2))


# -- creating ------------------------------------------------------------------------------------------------


@cli.command("create_bucket")
@dry_run_option
@click.pass_obj
def create_bucket(filename: str | None, dry_run: bool) -> None:
    """Create the bucket: private, over TLS only, with automatic deletion of old calls."""
    with open_account(load_config(filename)) as account:
        create([account.resources.bucket], dry_run=dry_run)


@cli.command("create_role")
@dry_run_option
@click.pass_obj
def create_role(filename: str | None, dry_run: bool) -> None:
    """Create the role that the function runs as."""
    with open_account(load_config(filename)) as account:
        create([account.resources.role], dry_run=dry_run)


@cli.command("create_instance_profile")
@dry_run_option
@click.pass_obj
def create_instance_profile(filename: str | None, dry_run: bool) -> None:
    """Create the instance profile of stand-alone workers, and its role."""
    with open_account(load_config(filename)) as account:
        create([account.resources.instance_profile], dry_run=dry_run)


@cli.command("create_queue")
@dry_run_option
@click.pass_obj
def create_queue(filename: str | None, dry_run: bool) -> None:
    """Create the queue of stand-alone workers."""
    with open_account(load_config(filename)) as account:
        create([account.resources.queue], dry_run=dry_run)


@cli.command("deploy_lambda")
@dry_run_option
@click.pass_obj
def deploy_lambda(filename: str | None, dry_run: bool) -> None:
    """Create the Lambda function and its role, or update them to match this configuration, pywren and Python."""
    with open_account(load_config(filename)) as account:
        create(account.resources.for_deployment, dry_run=dry_run)


# -- testing -------------------------------------------------------------------------------------------------


@cli.command("test_function")
@click.pass_obj
def test_function(filename: str | None) -> None:
    """Call a small function on Lambda and print what it returns."""
    click.echo(f"function returned: {call_hello(load_config(filename))}")


def call_hello(config: wrenconfig.Config, patience: float = TEST_PATIENCE) -> str:
    """Call a small function on Lambda and return its result.

    Args:
        config: the configuration.
        patience: seconds to wait for the result.

    Raises:
        ClickException: the function did not answer in time.
    """
    import pywren
    from pywren.exceptions import WaitTimeoutError

    executor = pywren.lambda_executor(config=config)
    future = executor.call_async(_hello(), "world")
    try:
        return str(future.result(timeout=patience))
    except WaitTimeoutError as error:
        raise click.ClickException(
            f"the function did not answer within {patience:.0f} s: run `pywren print_latest_logs` to see its output, "
            "and `pywren test_config` to see what may be wrong"
        ) from error


def _hello() -> Callable[[str], str]:
    # Not at module level: it would be pickled by reference, and the worker could not import this module without click.
    def hello(whom: str) -> str:
        return f"Hello {whom}"

    return hello


# -- logs ----------------------------------------------------------------------------------------------------


@cli.command("print_latest_logs")
@click.pass_obj
def print_latest_logs(filename: str | None) -> None:
    """Print the log of the container with the latest output."""
    from pywren.cloud.logs import latest_log

    with open_account(load_config(filename)) as account:
        _print_lines(latest_log(account.aws, account.resources.names))


@cli.command("logs")
@click.argument("job", required=False)
@click.argument("call", required=False, type=click.IntRange(min=0))
@click.option("--follow", is_flag=True, help="Keep printing new lines: of a job until its end, otherwise until Ctrl-C.")
@click.option("--since", default="10m", show_default=True, help="How far back to start: 30m, 2h, 1d.")
@click.pass_obj
def logs(filename: str | None, job: str | None, call: int | None, follow: bool, since: str) -> None:
    """Print the recent logs of all containers, or what the calls of a JOB have printed, or one CALL of it (0, 1, …)."""
    if job is not None:
        with contextlib.suppress(KeyboardInterrupt):
            print_output(filename, job, call, follow=follow)
        return
    from pywren.cloud.logs import follow_log, recent_log

    start_ms = int((time.time() - parse_age(since)) * 1000)
    with open_account(load_config(filename)) as account:
        names = account.resources.names
        if follow:
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the normal way to stop it
                _print_lines(follow_log(account.aws, names, start_ms=start_ms))
        else:
            _print_lines(recent_log(account.aws, names, start_ms=start_ms))


def _print_lines(events: Iterable[tuple[int, str]]) -> None:
    empty = True
    for moment, message in events:
        empty = False
        stamp = datetime.datetime.fromtimestamp(moment / 1000).isoformat(sep=" ", timespec="milliseconds")
        click.echo(f"{stamp} {message.rstrip()}")
    if empty:
        click.echo("there is no log yet", err=True)


@cli.command("log_url")
@click.pass_obj
def log_url(filename: str | None) -> None:
    """Print the URL of the function's log in the AWS console."""
    from pywren.cloud import logs as cloud_logs
    from pywren.cloud.names import Names

    click.echo(cloud_logs.log_url(Names.of(load_config(filename), "")))


# -- deleting ------------------------------------------------------------------------------------------------


@cli.command("delete_lambda")
@dry_run_option
@yes_option
@click.pass_obj
def delete_lambda(filename: str | None, dry_run: bool, yes: bool) -> None:
    """Delete the function, its copies and their logs."""
    with open_account(load_config(filename)) as account:
        remove([account.resources.functions, account.resources.log_groups], dry_run=dry_run, yes=yes)


@cli.command("delete_role")
@dry_run_option
@yes_option
@click.pass_obj
def delete_role(filename: str | None, dry_run: bool, yes: bool) -> None:
    """Delete the function's role."""
    with open_account(load_config(filename)) as account:
        remove([account.resources.role], dry_run=dry_run, yes=yes)


@cli.command("delete_instance_profile")
@click.argument("name", required=False)
@dry_run_option
@yes_option
@click.pass_obj
def delete_instance_profile(filename: str | None, name: str | None, dry_run: bool, yes: bool) -> None:
    """Delete the instance profile of stand-alone workers, or the profile NAME, and its role."""
    config = load_config(filename)
    if name:
        config["standalone"] = {**(config.get("standalone") or {}), "instance_profile_name": name}
    with open_account(config) as account:
        remove([account.resources.instance_profile], dry_run=dry_run, yes=yes)


@cli.command("delete_queue")
@dry_run_option
@yes_option
@click.pass_obj
def delete_queue(filename: str | None, dry_run: bool, yes: bool) -> None:
    """Delete the queue of stand-alone workers."""
    with open_account(load_config(filename)) as account:
        remove([account.resources.queue], dry_run=dry_run, yes=yes)


@cli.command("delete_bucket")
@option("force", is_flag=True, help="Delete the bucket even if pywren did not create it, with all objects in it.")
@dry_run_option
@yes_option
@click.pass_obj
def delete_bucket(filename: str | None, force: bool, dry_run: bool, yes: bool) -> None:
    """Delete pywren's objects, and also the bucket if pywren created it and it contains nothing else."""
    with open_account(load_config(filename), force=force) as account:
        remove([account.resources.bucket], dry_run=dry_run, yes=yes)


@cli.command("cleanup_all")
@option("force", is_flag=True, help="Delete the bucket even if pywren did not create it, with all objects in it.")
@dry_run_option
@yes_option
@click.pass_obj
def cleanup_all(filename: str | None, force: bool, dry_run: bool, yes: bool) -> None:
    """Delete everything that belongs to this configuration, except the configuration file."""
    with open_account(load_config(filename), force=force) as account:
        remove(account.resources.for_removal, dry_run=dry_run, yes=yes)


@cli.command("gc")
@option("older_than", default="7d", help="Delete what is older than this: 90m, 12h, 7d.")
@dry_run_option
@yes_option
@click.pass_obj
def gc(filename: str | None, older_than: str, dry_run: bool, yes: bool) -> None:
    """Delete old callsets and old records of failed calls."""
    from pywren.cloud.garbage import find_garbage
    from pywren.wire.function import REUSED_FOR

    config, age = load_config(filename), parse_age(older_than)
    # A call may use a function that was stored for an earlier callset.
    longest = wrenconfig.setting(config, "lambda.event_age") + wrenconfig.setting(config, "lambda.timeout") + REUSED_FOR
    if age < longest and not (yes or dry_run):
        raise click.ClickException(
            f"calls made in the last {longest / 3600:.1f} hours may still be running: choose a greater age, or add "
            "--yes"
        )
    with open_account(config) as account:
        bucket = account.resources.bucket
        if not bucket.exists():
            click.echo(f"there is no bucket {bucket.names.bucket}")
            return
        before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=age)
        garbage = find_garbage(bucket, before)
        if not dry_run and garbage.keys:
            confirm([f"would delete {garbage}"], yes)
            bucket.delete_keys(garbage.keys)
    click.echo(f"{'would delete' if dry_run else 'deleted'} {garbage}")


def parse_age(text: str) -> float:
    """Return an age such as ``90m``, ``12h`` or ``7d`` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text.strip())
    if not found:
        raise click.UsageError(
            f"{text!r} is not an age: write a number of minutes, hours or days, such as 90m, 12h or 7d"
        )
    return float(found[1]) * _UNITS[found[2]]


if __name__ == "__main__":
    cli()
