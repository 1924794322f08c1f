"""The command ``pywren``: makes the configuration, deploys the worker, tries it out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from pywren import wrenconfig
from pywren.exceptions import PywrenError
from pywren.version import __version__


class _Group(click.Group):
    """Takes command names with dashes as well as with underscores, and shows our errors as texts."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name.replace("-", "_"))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PywrenError as error:
            raise click.ClickException(str(error)) from error


def _option(name: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare an option that may be written with dashes as well as with underscores."""
    spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
    return click.option(*spellings, name, show_default=not settings.get("is_flag"), **settings)


@click.group(cls=_Group)
@click.version_option(__version__, prog_name="pywren")
@click.option("--filename", help="The configuration file.", type=click.Path(dir_okay=False))
@click.pass_context
def cli(ctx: click.Context, filename: str | None) -> None:
    """Run your Python functions over thousands of inputs, on AWS Lambda."""
    ctx.obj = filename


@cli.command("create_config")
@_option("aws_region", default=wrenconfig.AWS_REGION_DEFAULT, help="The region of the function and the bucket.")
@_option("bucket_name", default=wrenconfig.AWS_S3_BUCKET_DEFAULT, help="Your bucket, which calls are staged in.")
@_option("bucket_prefix", default=wrenconfig.AWS_S3_PREFIX_DEFAULT, help="The key prefix in it.")
@_option("lambda_role", default=wrenconfig.AWS_LAMBDA_ROLE_DEFAULT, help="The role that the function runs as.")
@_option("function_name", default=wrenconfig.AWS_LAMBDA_FUNCTION_NAME_DEFAULT, help="The Lambda function.")
@_option("sqs_queue", default=wrenconfig.AWS_SQS_QUEUE_DEFAULT, help="The queue of stand-alone workers.")
@_option("standalone_name", default="pywren-standalone", help="The name of stand-alone instances.")
@_option("pythonver", default=None, help="For 0.4's scripts: must be the Python that runs this command.")
@_option("force", is_flag=True, help="Overwrite the file if it exists.")
@click.pass_obj
def create_config(filename: str | None, /, pythonver: str | None, force: bool, **settings: str) -> None:
    """Write a configuration file."""
    path = Path(filename or os.environ.get(wrenconfig.CONFIG_VARIABLE) or wrenconfig.get_default_home_filename())
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if pythonver not in (None, here):
        raise click.UsageError(f"the function gets the Python of this command, {here}: run it with Python {pythonver}")
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(_config_text(**settings))
    except FileExistsError as error:
        raise click.ClickException(
            f"{path} exists: name another with --filename, or overwrite it with --force"
        ) from error
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"new configuration written to {path}")
    if settings["bucket_name"] == wrenconfig.AWS_S3_BUCKET_DEFAULT:
        click.echo("make sure you change the default bucket in it to one of yours")


def _config_text(
    *,
    aws_region: str,
    bucket_name: str,
    bucket_prefix: str,
    lambda_role: str,
    function_name: str,
    sqs_queue: str,
    standalone_name: str,
) -> str:
    import yaml

    config = {
        "account": {"aws_lambda_role": lambda_role, "aws_region": aws_region},
        "lambda": {"memory": 1536, "timeout": 300, "function_name": function_name},
        "s3": {"bucket": bucket_name, "pywren_prefix": bucket_prefix},
        "scheduler": {"map_item_limit": 10000},
        "standalone": {"sqs_queue_name": sqs_queue, "visibility": 10, "instance_name": standalone_name},
    }
    return "# The configuration of pywren: where functions run and where their data goes.\n" + str(
        yaml.safe_dump(config, sort_keys=False)
    )


@cli.command("deploy_lambda")
@click.pass_obj
def deploy_lambda(filename: str | None) -> None:
    """Create the Lambda function and its role, or bring the function to this version of pywren and Python."""
    from pywren.cloud.aws import AWS
    from pywren.cloud.deploy import deploy_function, ensure_execution_role

    config = _load(filename)
    with closing(AWS(wrenconfig.require(config, "account.aws_region"))) as aws:
        if ensure_execution_role(config, aws):
            click.echo(f"created the role {config['account']['aws_lambda_role']}")
        click.echo(f"deployed {deploy_function(config, aws)}")


@cli.command("test_function")
@click.pass_obj
def test_function(filename: str | None) -> None:
    """Call a small function on Lambda and print what it returns."""
    import pywren

    executor = pywren.lambda_executor(config=_load(filename))
    click.echo(f"function returned: {executor.call_async(_hello(), 'world').result()}")


def _hello() -> Callable[[str], str]:
    # Not at module level: it would be pickled by reference, and the worker has no click to import this with.
    def hello(whom: str) -> str:
        return f"Hello {whom}"

    return hello


def _load(filename: str | None) -> wrenconfig.Config:
    """Return the configuration that the command was given, or the one that a program would find."""
    filename = filename or wrenconfig.get_default_config_filename()
    if filename is None:
        raise click.ClickException("there is no configuration: make one with 'pywren create_config'")
    return wrenconfig.load(filename)
