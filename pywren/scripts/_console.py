"""The console: what all commands have in common: spelling, errors of one line, plans that are shown or carried out."""

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
    """Takes command names with dashes as well as with underscores, and shows our errors as one line."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by either spelling."""
        return super().get_command(ctx, cmd_name.replace("-", "_"))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
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
    """Declare an option that may be written with dashes as well as with underscores, and as ``more``."""
    spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}", *more])
    settings.setdefault("show_default", not settings.get("is_flag"))
    return click.option(*spellings, name, **settings)


class Number(click.FloatRange):
    """A number in a range; ``nan`` and ``inf``, which are in every range, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


dry_run_option = option("dry_run", "--dryrun", is_flag=True, help="Only say what would be done.")
yes_option = option("yes", is_flag=True, help="Do not ask.")


# -- the configuration, and what it stands for ---------------------------------------------------------------


def load_config(filename: str | None) -> wrenconfig.Config:
    """Return the configuration that the command was given, or the one that a program would find."""
    filename = filename or wrenconfig.get_default_config_filename()
    if filename is None:
        raise click.ClickException("there is no configuration: make one with `pywren create_config`")
    return wrenconfig.load(filename)


class Account(NamedTuple):
    """What commands work on.

    Args:
        config: the configuration.
        aws: account and region.
        resources: what the configuration stands for.
    """

    config: wrenconfig.Config
    aws: AWS
    resources: Resources


@contextmanager
def open_account(config: wrenconfig.Config, *, force: bool = False) -> Iterator[Account]:
    """Give the account of a configuration, once it is sure that the credentials belong to it."""
    aws = AWS(wrenconfig.require(config, "account.aws_region"))
    try:
        Resources(config, aws, account_id="0" * 12)  # names are checked before anything is sent
        account_id = check_account(config, aws)
        yield Account(config, aws, Resources(config, aws, account_id=account_id, force=force))
    finally:
        aws.close()


# -- plans ---------------------------------------------------------------------------------------------------


def create(resources: Sequence[Resource], *, dry_run: bool) -> None:
    """Make things as they should be, saying each step."""
    for planned in plan_all(resources):
        if not planned.steps:
            click.echo(f"unchanged: {planned.title}")
        _carry_out(planned.steps, dry_run)


def remove(resources: Sequence[Resource], *, dry_run: bool, yes: bool) -> None:
    """Delete things, saying each step; what cannot be deleted does not keep the others.

    Args:
        resources: what is to go.
        dry_run: only say it.
        yes: without asking the person at the terminal.
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
    """Let a person at the terminal confirm what would be done; programs are not asked, as 0.4 did not."""
    if yes or not _at_terminal():
        return
    for change in changes:
        click.echo(change)
    click.confirm("Go on?", abort=True)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _carry_out(steps: Sequence[Step], dry_run: bool) -> None:
    for step in steps:
        if not dry_run:
            step.run()
        click.echo(step.planned if dry_run and step.verb != "keep" else step.done)
