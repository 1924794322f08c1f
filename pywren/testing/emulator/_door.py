"""``Door``: how the emulator's own processes, and nobody else, reach a server behind the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import aiohttp

SECRET_HEADER = "X-Emulator-Secret"
"""The header of a request in which a server behind the gateway wants its secret."""


class Door(NamedTuple):
    """The way to a server.

    Args:
        url: ``http://HOST:PORT``, as requests name it.
        socket: path of the Unix socket that leads there; empty when the URL itself does.
        secret: what the server wants to see in ``SECRET_HEADER``; empty for nothing.
    """

    url: str
    socket: str = ""
    secret: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What to send with every request."""
        return {SECRET_HEADER: self.secret} if self.secret else {}

    def session(self, **options: Any) -> aiohttp.ClientSession:
        """Return a session of aiohttp that goes through this door; made inside a running event loop."""
        import aiohttp

        if self.socket:
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(self.socket, limit=0)
        else:
            connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False)
        return aiohttp.ClientSession(connector=connector, headers=self.headers, **options)
