"""The commands ``pywren standalone …``: they manage workers on EC2 and the queue that the workers take calls from."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import click

from pywren.cloud.instances import Instance
from pywren.cloud.launch import Launcher, Order, Wish
from pywren.scripts._console import (
    Account,
    Group,
    Number,
    confirm,
    dry_run_option,
    load_config,
    open_account,
    option,
    remove,
    yes_option,
)


@click.group(cls=Group)
def standalone() -> None:
    """Manage workers on EC2, for calls that Lambda cannot run."""


@standalone.command("launch_instances")
@click.argument("number", type=click.IntRange(min=1), default=1)
@option("max_idle_time", type=Number(min=0), help="Stop a worker after this many seconds without calls.")
@option(
    "idle_terminate_granularity",
    type=Number(min=0),
    help="Stop idle workers only near the end of a period of this many seconds.",
)
@option("parallelism", type=click.IntRange(min=1), default=1, help="How many calls each instance runs at once.")
@option(
    "spot_price", type=Number(min=0), help="Launch spot instances, and pay at most this many dollars an hour for each."
)
@option("instance_type", help="The instance type.")
@option("pywren_git_branch", hidden=True)
@option("pywren_git_commit", hidden=True)
@dry_run_option
@click.pass_context
def launch_instances(
    ctx: click.Context,
    /,
    number: int,
    dry_run: bool,
    spot_price: float | None,
    instance_type: str | None,
    pywren_git_branch: str | None,
    pywren_git_commit: str | None,
    **limits: Any,
) -> None:
    """Launch NUMBER instances (default: 1) that take calls from the queue until it stays empty.

    The defaults of the options come from the section standalone in the configuration.
    """
    if pywren_git_branch or pywren_git_commit:
        click.echo(
            "--pywren_git_branch and --pywren_git_commit are ignored: workers run this machine's pywren", err=True
        )
    with open_account(_config(ctx)) as account:
        wish = Wish.of(account.config, number, kind=instance_type, spot_price=spot_price or None, **limits)
        launcher = Launcher(account.config, account.resources.names, account.aws)
        order = launcher.order(wish)
        if dry_run:
            click.echo(f"would launch {order}")
            return
        _launch(launcher, order)


def _launch(launcher: Launcher, order: Order) -> None:
    wish = order.wish
    launched = launcher.launch(order)
    for instance in launched.instances:
        click.echo(f"launched {instance.id}")
    click.echo(
        f"{len(launched.instances)} {wish.kind} for the queue {order.queue}; each runs {_calls(wish, order)}; "
        f"{_end(wish)}"
    )
    if launched.why_fewer:
        why = " ".join(launched.why_fewer.split())
        raise click.ClickException(f"only {len(launched.instances)} of {wish.count} were launched: {why}")


def _calls(wish: Wish, order: Order) -> str:
    calls = "1 call at a time" if wish.parallelism == 1 else f"{wish.parallelism} calls at once"
    return (
        f"{calls}, with 1 processor per call"
        if order.processors == 1
        else f"{calls}, with {order.processors} processors per call"
    )


def _end(wish: Wish) -> str:
    idle = f"they terminate after {wish.max_idle_time:g} s without calls"
    period = wish.idle_terminate_granularity
    return f"{idle}, but only near the end of a billing period of {period:g} s" if period > 0 else idle


@standalone.command("list_instances")
@click.pass_context
def list_instances(ctx: click.Context) -> None:
    """List the instances that work for the queue."""
    with open_account(_config(ctx)) as account:
        for instance in _living(account):
            spot = "spot" if instance.spot else ""
            words = [instance.id, instance.state, instance.kind, instance.zone, _up(instance), instance.name]
            click.echo("  ".join(filter(None, [*words, instance.address, spot])))


@standalone.command("instance_uptime")
@click.pass_context
def instance_uptime(ctx: click.Context) -> None:
    """Show how long ago each instance was launched."""
    with open_account(_config(ctx)) as account:
        for instance in _living(account):
            click.echo(f"{instance.id}  {_up(instance)}")


@standalone.command("terminate_instances")
@dry_run_option
@yes_option
@click.pass_context
def terminate_instances(ctx: click.Context, dry_run: bool, yes: bool) -> None:
    """Terminate all instances that work for the queue, and wait for that. Their running calls return to the queue."""
    with open_account(_config(ctx)) as account:
        remove([account.resources.instances], dry_run=dry_run, yes=yes)


@standalone.command("queue_size")
@click.pass_context
def queue_size(ctx: click.Context) -> None:
    """Show how many calls are in the queue."""
    with open_account(_config(ctx)) as account:
        queue = account.resources.queue
        click.echo(f"{queue.names.queue}: {queue.size()}")


@standalone.command("purge_queue")
@dry_run_option
@yes_option
@click.pass_context
def purge_queue(ctx: click.Context, dry_run: bool, yes: bool) -> None:
    """Delete all calls in the queue. Deleted calls never return a result."""
    with open_account(_config(ctx)) as account:
        queue = account.resources.queue
        what = f"the calls in {queue.title}: {queue.size()}"
        if dry_run:
            click.echo(f"would delete {what}")
            return
        confirm([f"would delete {what}"], yes)
        queue.purge()
        click.echo(f"deleted {what}")


# -- helpers -------------------------------------------------------------------------------------------------


def _config(ctx: click.Context) -> Any:
    return load_config(ctx.find_root().params.get("filename"))


def _living(account: Account) -> Sequence[Instance]:
    found = account.resources.instances.living()
    if not found:
        click.echo(f"there is no {account.resources.instances.title.removeprefix('the ')}")
    return found


def _up(instance: Instance) -> str:
    return str(instance.uptime(datetime.datetime.now(datetime.timezone.utc)))
