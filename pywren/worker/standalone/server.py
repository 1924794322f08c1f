"""The process of a stand-alone worker: its settings, its directory, and the signals that end it.

Two commands start it: ``python -m pywren.worker.standalone`` on instances, which have only the bundle and boto3, and
``pywren-server`` (``pywren.scripts.standalone``) for people.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType

from pywren import wrenconfig, wrenlogging
from pywren.aws.requests import AWS
from pywren.exceptions import ConfigError
from pywren.worker.standalone.ending import EndRule
from pywren.worker.standalone.worker import LONG_POLL, QueueWorker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The settings of a stand-alone worker. Each is a command-line option with the same name.

    Args:
        aws_region: the queue's region.
        sqs_queue_name: the queue that calls come from.
        parallelism: how many calls to run in parallel.
        max_run_time: the longest time in seconds that a call may run.
        max_life_time: seconds after which the worker takes no more calls.
        max_idle_time: seconds without a call after which the worker ends.
        idle_terminate_granularity: the length in seconds of a period of the machine's uptime; an idle worker ends only
            near the end of a period.
        queue_receive_message_timeout: seconds that one request waits for calls, 1 to 20.
        run_dir: the directory in which each call gets its own directory.
    """

    aws_region: str = wrenconfig.AWS_REGION_DEFAULT
    sqs_queue_name: str = wrenconfig.AWS_SQS_QUEUE_DEFAULT
    parallelism: int = 1
    max_run_time: float | None = None
    max_life_time: float | None = None
    max_idle_time: float | None = None
    idle_terminate_granularity: float = 0.0
    queue_receive_message_timeout: int = LONG_POLL
    run_dir: str | None = None


def serve(settings: Settings) -> None:
    """Take calls from the queue and run them in child processes, until the worker is idle too long or gets a signal.

    Raises:
        ConfigError: ``run_dir`` cannot be created.
        InvocationError: the queue does not exist.
        PywrenError: SQS or the storage has failed for too long.
    """
    if "PYWREN_LOGLEVEL" not in os.environ:  # if this is set, importing pywren has configured logging
        wrenlogging.default_config()
    if settings.run_dir is not None:
        _work_in(settings.run_dir)
    rule = EndRule(settings.max_idle_time, settings.idle_terminate_granularity, settings.max_life_time)
    with (
        # Left in reverse order: first the signal handlers are restored and their threads joined, then the child
        # processes end, and the connections close last.
        closing(AWS(settings.aws_region)) as aws,
        QueueWorker(
            aws,
            settings.sqs_queue_name,
            parallelism=settings.parallelism,
            rule=rule,
            max_run_time=settings.max_run_time,
            poll=settings.queue_receive_message_timeout,
        ) as worker,
        _stopped_by_signals(worker),
    ):
        logger.info(
            "taking calls from the queue %s in %s, %d at once",
            settings.sqs_queue_name,
            settings.aws_region,
            settings.parallelism,
        )
        # In the main thread, where Python runs signal handlers. It polls, and returns after stop() or by the rule.
        worker.run()
        logger.info("calls taken: %d", worker.taken)


def _work_in(directory: str) -> None:
    """Create a directory, and make it the place for temporary files, including the directories of calls."""
    directory = os.path.abspath(directory)
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the directory {directory}: {error.strerror}") from error
    # Both: the variable for the child processes, which are started later, and the attribute for this one, which may
    # have cached another directory.
    os.environ["TMPDIR"] = tempfile.tempdir = directory


@contextmanager
def _stopped_by_signals(worker: QueueWorker) -> Iterator[None]:
    """Stop a worker gracefully at the first SIGTERM or Ctrl-C. A second one ends the process immediately."""
    threads: list[threading.Thread] = []

    # Runs in the main thread: between two bytecodes, or inside the system call that the signal interrupts, which Python
    # then resumes (PEP 475). That is most often a long poll, so the worker still waits for its answer.
    def stop(number: int, frame: FrameType | None) -> None:
        for one in _SIGNALS:
            # First of all: if stopping hangs, a second signal still ends the process. SQS then shows its messages again
            # after VISIBILITY seconds.
            signal.signal(one, signal.SIG_DFL)
        # A signal handler interrupts the main thread, which may hold the very locks that ``stop`` takes.
        thread = threading.Thread(target=worker.stop, name="pywren-server-stop")
        # Not a daemon: it gives calls back, so the process must not end before it is done.
        thread.start()
        threads.append(thread)

    # signal() works in the main thread only. SIGTERM is what systemd, EC2's shutdown and ``docker stop`` send.
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # Before the joins: a Ctrl-C during them then ends the process instead of starting another stop.
            signal.signal(number, handler)
        for thread in threads:
            # run() may have returned before the thread that stopped it has: it still uses the runner, which closes
            # after this.
            thread.join()


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
