"""Logging for programs that do not configure their own: ``default_config``."""

from __future__ import annotations

import logging

from pywren.exceptions import ConfigError

FORMAT = "%(asctime)s [%(levelname)s] %(name)s: %(message)s"
_NOISY = ("boto", "boto3", "botocore", "s3transfer", "urllib3")


def default_config(log_level: str | int = "INFO") -> None:
    """Write log messages to stderr, unless the program has set up handlers itself, and silence most messages of boto.

    A program without handlers then also gets its own messages of this level and above on stderr, as with PyWren 0.4.

    Args:
        log_level: the name of a level of the ``logging`` module, in upper or lower case, or its number.

    Raises:
        ConfigError: the level does not exist.
    """
    number = log_level if isinstance(log_level, int) else logging.getLevelName(log_level.strip().upper())
    if not isinstance(number, int):
        raise ConfigError(
            f"{log_level!r} is not a logging level: use DEBUG, INFO, WARNING, ERROR or CRITICAL (PYWREN_LOGLEVEL)"
        )
    logging.basicConfig(format=FORMAT, level=number)
    logging.getLogger("pywren").setLevel(number)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(number, logging.ERROR))
