"""The command ``pywren-server``: a stand-alone worker, which takes calls from a queue and runs them on this machine.

Also ``python -m pywren.scripts.standalone``, as instances run it: beside what the bundle of a worker has, this needs
boto3 and click.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType

import click

from pywren import wrenconfig, wrenlogging
from pywren.aws.requests import AWS
from pywren.scripts._console import Number, one_line_errors, option
from pywren.worker.queue_worker import LONG_POLL, EndRule, QueueWorker

logger = logging.getLogger(__name__)

_SECONDS = Number(min=0, min_open=True)


@click.command("pywren-server")
@option("aws_region", default=wrenconfig.AWS_REGION_DEFAULT, help="The queue's region.")
@option("sqs_queue_name", default=wrenconfig.AWS_SQS_QUEUE_DEFAULT, help="The queue that calls come from.")
@option("parallelism", default=1, type=click.IntRange(min=1), help="Calls that run at once.")
@option("max_run_time", type=_SECONDS, help="Seconds after which a call is stopped at the latest.")
@option("max_life_time", type=_SECONDS, help="Seconds after which no more calls are taken.")
@option("max_idle_time", type=Number(min=0), help="Seconds without a call after which this ends.")
@option(
    "idle_terminate_granularity",
    default=0.0,
    type=Number(min=0),
    help="When idle, end only near the end of a period of so many seconds of this machine's uptime.",
)
@option(
    "queue_receive_message_timeout",
    default=LONG_POLL,
    type=click.IntRange(1, LONG_POLL),
    help="Seconds that one request waits for calls.",
)
@option("run_dir", type=click.Path(file_okay=False), help="Directory in which each call gets one of its own.")
def server(
    aws_region: str,
    sqs_queue_name: str,
    parallelism: int,
    max_run_time: float | None,
    max_life_time: float | None,
    max_idle_time: float | None,
    idle_terminate_granularity: float,
    queue_receive_message_timeout: int,
    run_dir: str | None,
) -> None:
    """Take calls from the queue of remote_executor and run them on this machine, until idle or told to end."""
    if "PYWREN_LOGLEVEL" not in os.environ:  # else importing pywren has seen to it
        wrenlogging.default_config()
    if run_dir is not None:
        _work_in(run_dir)
    rule = EndRule(max_idle_time, idle_terminate_granularity, max_life_time)
    with (
        one_line_errors(),
        closing(AWS(aws_region)) as aws,
        QueueWorker(
            aws,
            sqs_queue_name,
            parallelism=parallelism,
            rule=rule,
            max_run_time=max_run_time,
            poll=queue_receive_message_timeout,
        ) as worker,
        _ended_by_signals(worker),
    ):
        logger.info("taking calls from the queue %s in %s, %d at once", sqs_queue_name, aws_region, parallelism)
        worker.run()
        logger.info("calls that were taken: %d", worker.taken)


def _work_in(directory: str) -> None:
    """Have temporary files, and so the directories of calls, made there."""
    directory = os.path.abspath(directory)
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot make the directory {directory}: {error.strerror}") from error
    os.environ["TMPDIR"] = tempfile.tempdir = directory


@contextmanager
def _ended_by_signals(worker: QueueWorker) -> Iterator[None]:
    """Have SIGTERM and Ctrl-C end a worker gently, and a second one at once."""
    threads: list[threading.Thread] = []

    def stop(number: int, frame: FrameType | None) -> None:
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        # not in this one: it may hold the very locks that this takes
        thread = threading.Thread(target=worker.stop, name="pywren-server-stop")
        thread.start()
        threads.append(thread)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for thread in threads:
            thread.join()


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


if __name__ == "__main__":
    server()
