"""``python -m pywren.worker.standalone``: the stand-alone worker, as instances run it, without click."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pywren.exceptions import PywrenError
from pywren.worker.standalone.server import Settings, serve


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, which are the fields of ``Settings``, and run the worker.

    Args:
        arguments: the command line; by default that of this process.

    Raises:
        SystemExit: with code 2 for a wrong command line; with a one-line message for a pywren error.
    """
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m pywren.worker.standalone", description=serve.__doc__)
    for name in ("aws_region", "sqs_queue_name", "run_dir"):
        parser.add_argument(f"--{name}", default=getattr(defaults, name))
    for name in ("parallelism", "queue_receive_message_timeout"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    for name in ("max_run_time", "max_life_time", "max_idle_time", "idle_terminate_granularity"):
        parser.add_argument(f"--{name}", type=float, default=getattr(defaults, name))
    settings = Settings(**vars(parser.parse_args(arguments)))
    try:
        serve(settings)
    except PywrenError as error:
        sys.exit(f"Error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
