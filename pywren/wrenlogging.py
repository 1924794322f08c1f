"""Logging for programs that have none of their own: ``default_config``."""

from __future__ import annotations

import logging

from pywren.exceptions import ConfigError

FORMAT = "%(asctime)s [%(levelname)s] %(name)s: %(message)s"
_NOISY = ("boto", "boto3", "botocore", "s3transfer", "urllib3")


def default_config(log_level: str | int = "INFO") -> None:
    """Write log messages to stderr, unless the program has set up handlers itself, and quiet boto.

    A program without handlers sees its own messages from this level on too, as with 0.4.

    Args:
        log_level: a name or number of the ``logging`` module, in any case.

    Raises:
        ConfigError: there is no such level.
    """
    number = log_level if isinstance(log_level, int) else logging.getLevelName(log_level.strip().upper())
    if not isinstance(number, int):
        raise ConfigError(
            f"{log_level!r} is no level of logging: write DEBUG, INFO, WARNING, ERROR or CRITICAL (PYWREN_LOGLEVEL)"
        )
    logging.basicConfig(format=FORMAT, level=number)
    logging.getLogger("pywren").setLevel(number)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(number, logging.ERROR))
