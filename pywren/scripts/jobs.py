"""The commands ``pywren jobs``, ``resume`` and ``cancel``: named jobs, wherever they were made."""

from __future__ import annotations

import json
import math
import os

import click

import pywren
from pywren import jobs as named
from pywren import wrenconfig
from pywren.client.call_output import labelled
from pywren.scripts._console import confirm, option, yes_option

_COLUMNS = "NAME", "AGE", "CALLS", "DONE", "FAILED", "OUTSTANDING", "WHERE"
_LEFT = {0, 6}  # columns of text
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@click.command("jobs")
@option("as_json", "--json", is_flag=True, help="Print a list of objects. Times are in seconds.")
@click.pass_obj
def jobs(filename: str | None, as_json: bool) -> None:
    """List the jobs that maps with a name have made: their age, and how many calls are done."""
    found = named.list_jobs(config=_config(filename))
    if as_json:
        click.echo(json.dumps([one._asdict() for one in found], indent=2))
        return
    if not found:
        click.echo('no jobs: pwex.map(function, items, name="my-job") makes one')
        return
    rows = [_COLUMNS, *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        cells = [
            text.ljust(width) if column in _LEFT else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


@click.command("resume")
@click.argument("name")
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="An environment variable of the calls; without a value, that of this command. May be repeated.",
)
@option("no_wait", is_flag=True, help="Do not wait for the calls; then nothing runs failed ones again.")
@click.pass_obj
def resume(filename: str | None, name: str, variables: tuple[str, ...], no_wait: bool) -> None:
    """Run the calls of the job NAME again that failed or have not ended, and wait for them."""
    config = _config(filename)
    futures = named.resume(name, extra_env=dict(map(_variable, variables)) or None, config=config)
    again = [future for future in futures if _was_invoked(future)]
    click.echo(f"{name}: {_calls(len(again))} of {len(futures):,} started again" if again else f"{name}: all done")
    if again and not no_wait:
        _report(name, futures)


@click.command("cancel")
@click.argument("name")
@option("remove", is_flag=True, help="Also delete the job, with its results, so that its name is free.")
@yes_option
@click.pass_obj
def cancel(filename: str | None, name: str, remove: bool, yes: bool) -> None:
    """Cancel the calls of the job NAME that have not ended."""
    config = _config(filename)
    if not remove:
        click.echo(f"{name}: {_calls(named.cancel(name, config=config))} cancelled")
        return
    confirm([f"would delete the job {name} with its results"], yes)
    click.echo(f"{name}: {_calls(named.remove(name, config=config))} cancelled, job deleted")


def print_output(filename: str | None, name: str, call: int | None, *, follow: bool) -> None:
    """Print what the calls of a job have printed, each line with the ids of callset and call.

    Args:
        filename: the configuration file.
        name: the job.
        call: the number of the only call to print.
        follow: wait for the calls that have not ended, and print their output as they end.

    Raises:
        click.UsageError: the job has no such call.
        PywrenError: as for ``pywren.attach``.
    """
    futures = pywren.attach(name, config=_config(filename))
    if call is not None:
        if call >= len(futures):
            raise click.UsageError(f"{name} has {_calls(len(futures))}, numbered from 0: there is no call {call}")
        futures = [futures[call]]
    ended, left = pywren.wait(futures, return_when=pywren.ALWAYS)
    _echo_output(ended)
    while left and follow:
        ended, left = pywren.wait(left, return_when=pywren.ANY_COMPLETED)
        _echo_output(ended)
    if left:
        click.echo(f"{_calls(len(left))} of {name} not ended yet: --follow waits", err=True)


def _echo_output(futures: list[pywren.ResponseFuture]) -> None:
    for future in futures:
        for stream in ("stdout", "stderr"):
            click.echo(labelled(future, future.run_status or {}, stream), nl=False, err=stream == "stderr")


def _config(filename: str | None) -> wrenconfig.Config | None:
    return None if filename is None else wrenconfig.load(filename)


def _report(name: str, futures: list[pywren.ResponseFuture]) -> None:
    pywren.wait(futures)
    failed = [future for future in futures if future.cancelled() or future.exception() is not None]
    if failed:
        raise click.ClickException(
            f"{_calls(len(failed))} of {len(futures):,} failed; the first with {_error(failed[0])}. To see all, use "
            f"pywren.attach({name!r})"
        )
    click.echo(f"{name}: all done")


def _was_invoked(future: pywren.ResponseFuture) -> bool:
    """Tell whether this process has invoked a call, which may have ended since."""
    # When an earlier client invoked an attempt is unknown here.
    return any(not math.isnan(attempt.invoked_at) for attempt in future.attempts)


def _error(future: pywren.ResponseFuture) -> str:
    if future.cancelled():
        return "CallCancelledError"
    error = future.exception()
    return f"{type(error).__name__}: {error}"


def _variable(text: str) -> tuple[str, str]:
    variable, equals, value = text.partition("=")
    if not equals:
        if variable not in os.environ:
            raise click.UsageError(f"--env {variable}: this command has no such environment variable")
        value = os.environ[variable]
    return variable, value


def _row(job: named.JobSummary) -> tuple[str, ...]:
    numbers = (f"{number:,}" for number in (job.total, job.done, job.failed, job.outstanding))
    return _printable(job.name), _age(job.age), *numbers, _printable(job.where)


def _printable(text: str) -> str:
    """Return a text that cannot control the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count:,} calls"
