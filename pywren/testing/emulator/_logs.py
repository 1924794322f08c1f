"""``LogShipper``: what containers print, to CloudWatch's logs (moto's), in batches and off the event loop."""

from __future__ import annotations


class LogShipper:
    """Sends lines in the background, a stream per container.

    Args:
        moto: URL of moto's server.
        region: the region.
    """

    def __init__(self, moto: str, region: str) -> None:
        raise NotImplementedError

    def stream(self, group: str, stream: str) -> None:
        """Open a stream. A group that does not exist is created, as Lambda does for roles that may."""
        raise NotImplementedError

    def write(self, group: str, stream: str, timestamp_ms: int, line: str) -> None:
        """Take one line; returns at once."""
        raise NotImplementedError

    def close(self) -> None:
        """Send what is left, and end the thread."""
        raise NotImplementedError
