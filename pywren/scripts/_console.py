"""Code that all commands share: options in two spellings, errors on one line, and plans that are shown or executed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import click

from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.cloud.plan import Resource, Step, plan_all
from pywren.cloud.resources import Resources, check_account
from pywren.exceptions import PywrenError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Group(click.Group):
    """A group that accepts dashes or underscores in its commands' names, and shows pywren's errors as one line."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command with this name, in either spelling."""
        return super().get_command(ctx, cmd_name.replace("-", "_"))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and show pywren's errors as one line."""
        with one_line_errors():
            return super().invoke(ctx)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Show pywren's errors as one line on stderr, with exit code 1."""
    try:
        yield
    except PywrenError as error:
        raise click.ClickException(" ".join(str(error).split())) from error


def option(name: str, *more: str, **settings: Any) -> Decorator:
    """Declare an option whose name may have dashes or underscores, and which may have the further names ``more``."""
    spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}", *more])
    settings.setdefault("show_default", not settings.get("is_flag"))
    return click.option(*spellings, name, **settings)


class Number(click.FloatRange):
    """A finite number in a range; click itself accepts ``nan`` and ``inf`` in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number in an option's value."""
        number = float(super().convert(value, param, ctx))
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


NO_CONFIGURATION = "there is no configuration: create one with `pywren create_config`"

dry_run_option = option("dry_run", "--dryrun", is_flag=True, help="Only show what would be done.")
yes_option = option("yes", is_flag=True, help="Do not ask for confirmation.")


# -- the configuration and its account -----------------------------------------------------------------------


def load_config(filename: str | None) -> wrenconfig.Config:
    """Return the configuration in a file; without a file name, the configuration that a program would find."""
    filename = filename or wrenconfig.get_default_config_filename()
    if filename is None:
        raise click.ClickException(NO_CONFIGURATION)
    return wrenconfig.load(filename)


class Account(NamedTuple):
    """The objects that commands need.

    Args:
        config: the configuration.
        aws: the account and region.
        resources: the resources of the configuration.
    """

    config: wrenconfig.Config
    aws: AWS
    resources: Resources


@contextmanager
def open_account(config: wrenconfig.Config, *, force: bool = False) -> Iterator[Account]:
    """Yield the ``Account`` of a configuration, after a check that the credentials belong to that account."""
    aws = AWS(wrenconfig.require(config, "account.aws_region"))
    try:
        Resources(config, aws, account_id="0" * 12)  # this checks the names before any request is sent
        account_id = check_account(config, aws)
        yield Account(config, aws, Resources(config, aws, account_id=account_id, force=force))
    finally:
        aws.close()


# -- plans ---------------------------------------------------------------------------------------------------


def create(resources: Sequence[Resource], *, dry_run: bool) -> None:
    """Create resources, or change the settings that differ, and print each step."""
    for planned in plan_all(resources):
        if not planned.steps:
            click.echo(f"unchanged: {planned.title}")
        _carry_out(planned.steps, dry_run)


def remove(resources: Sequence[Resource], *, dry_run: bool, yes: bool) -> None:
    """Delete resources and print each step. If one resource cannot be deleted, the others still are.

    Args:
        resources: the resources to delete.
        dry_run: only print the steps.
        yes: do not ask for confirmation.

    Raises:
        ClickException: a resource could not be deleted.
    """
    failures: list[str] = []
    plans = [steps for resource in resources if (steps := _removal(resource, failures)) is not None]
    changes = [step.planned for steps in plans for step in steps if step.verb != "keep"]
    if changes and not dry_run:
        confirm(changes, yes)
    for steps in plans:
        try:
            _carry_out(steps, dry_run)
        except PywrenError as error:
            failures.append(str(error))
    if failures:
        raise click.ClickException("not everything could be deleted: " + " ".join("; ".join(failures).split()))


def _removal(resource: Resource, failures: list[str]) -> list[Step] | None:
    try:
        steps = resource.plan_removal()
    except PywrenError as error:
        failures.append(str(error))
        return None
    if not steps:
        click.echo(f"there is no {resource.title.removeprefix('the ')}")
    return steps


def confirm(changes: Sequence[str], yes: bool) -> None:
    """Ask the user at the terminal to confirm changes. Without a terminal, do not ask, as in PyWren 0.4."""
    if yes or not _at_terminal():
        return
    for change in changes:
        click.echo(change)
    click.confirm("Continue?", abort=True)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _carry_out(steps: Sequence[Step], dry_run: bool) -> None:
    for step in steps:
        if not dry_run:
            step.run()
        click.echo(step.planned if dry_run and step.verb != "keep" else step.done)
