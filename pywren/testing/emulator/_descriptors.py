"""Raises the limit of file descriptors in the emulator's process, and reports when no descriptor is free."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
from typing import Any

from pywren.exceptions import ArgumentError, EmulatorError

logger = logging.getLogger(__name__)

_OF_A_CONTAINER = 10  # pipes and sockets to the container's processes, and its connections to S3 through the gateway
_OF_ALL_ELSE = 256  # the backends, a client with 64 threads, and 64 connections to S3
_UNLIMITED = 10_240  # macOS accepts no more, even when it reports no limit


def check_descriptors(containers: int) -> None:
    """Check that this machine allows enough open files for this number of containers.

    Raises:
        ArgumentError: this process, whose limit the emulator inherits, may not open enough files.
    """
    needed, most = containers * _OF_A_CONTAINER + _OF_ALL_ELSE, _most()
    if needed > most:
        raise ArgumentError(
            f"{containers} containers need {needed:,} open files ({_OF_A_CONTAINER} per container, plus {_OF_ALL_ELSE} "
            f"for everything else), but this machine allows only {most:,} per process: ask for fewer containers, or "
            "raise the limit (ulimit -Hn)"
        )


def raise_limit() -> None:
    """Raise this process's limit to the highest allowed value; the processes in containers get Lambda's limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _most():
        resource.setrlimit(resource.RLIMIT_NOFILE, (_most(), hard))


def _most() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _UNLIMITED if hard == resource.RLIM_INFINITY else hard


class Descriptors:
    """Detects when the running event loop cannot accept a connection because no file descriptor is free.

    By default the event loop would retry forever and log each attempt.
    """

    def __init__(self) -> None:
        self._none_left = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(self._handle)

    async def ended(self) -> EmulatorError:
        """Wait until no descriptor is free, and return the error to report."""
        await self._none_left.wait()
        return EmulatorError(
            f"the emulated AWS has reached its limit of {_most():,} open files: "
            "ask for fewer containers, use fewer connections at once, or raise the limit (ulimit -Hn)"
        )

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif not self._none_left.is_set():
            logger.error("%s: %s", context.get("message"), error)
            self._none_left.set()
