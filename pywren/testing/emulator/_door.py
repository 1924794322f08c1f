"""``Door``: how the emulator's own processes, and no others, connect to a server behind the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import aiohttp

SECRET_HEADER = "X-Emulator-Secret"
"""The request header that carries the secret of a server behind the gateway."""


class Door(NamedTuple):
    """How to connect to a server.

    Args:
        url: the server's URL, ``http://HOST:PORT``.
        socket: the path of the Unix socket to connect to; empty to connect to the URL itself.
        secret: the value of ``SECRET_HEADER`` that the server requires; empty if it requires none.
    """

    url: str
    socket: str = ""
    secret: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers to send with every request."""
        return {SECRET_HEADER: self.secret} if self.secret else {}

    def session(self, **options: Any) -> aiohttp.ClientSession:
        """Return an aiohttp session that connects to the server. Call this method in a running event loop."""
        import aiohttp

        if self.socket:
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(self.socket, limit=0)
        else:
            connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False)
        return aiohttp.ClientSession(connector=connector, headers=self.headers, **options)
