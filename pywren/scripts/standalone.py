"""The command ``pywren-server`` in the module where PyWren 0.4 had it; it calls ``pywren.worker.standalone``."""

from __future__ import annotations

from typing import Any

import click

from pywren.scripts._console import Number, one_line_errors, option
from pywren.worker.standalone.server import Settings, serve
from pywren.worker.standalone.worker import LONG_POLL

_DEFAULT = Settings()
_SECONDS = Number(min=0, min_open=True)


@click.command("pywren-server")
@option("aws_region", default=_DEFAULT.aws_region, help="The queue's region.")
@option("sqs_queue_name", default=_DEFAULT.sqs_queue_name, help="The queue to take calls from.")
@option("parallelism", default=_DEFAULT.parallelism, type=click.IntRange(min=1), help="How many calls to run at once.")
@option("max_run_time", type=_SECONDS, help="Stop each call after this many seconds.")
@option("max_life_time", type=_SECONDS, help="Take no more calls after this many seconds.")
@option("max_idle_time", type=Number(min=0), help="Stop the worker after this many seconds without calls.")
@option(
    "idle_terminate_granularity",
    default=_DEFAULT.idle_terminate_granularity,
    type=Number(min=0),
    help="Stop an idle worker only near the end of a period of this many seconds of the machine's uptime.",
)
@option(
    "queue_receive_message_timeout",
    default=_DEFAULT.queue_receive_message_timeout,
    type=click.IntRange(1, LONG_POLL),
    help="How many seconds one request waits for calls.",
)
@option("run_dir", type=click.Path(file_okay=False), help="Directory in which to create each call's working directory.")
def server(**options: Any) -> None:
    """Take calls from the queue of remote_executor, and run them on this machine until it is idle or gets a signal."""
    with one_line_errors():
        serve(Settings(**options))


if __name__ == "__main__":
    server()
