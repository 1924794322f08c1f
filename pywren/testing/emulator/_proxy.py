"""``Proxy``: forwards requests unchanged to a server behind the gateway, and returns its answers unchanged.

It does not decode and re-encode paths, decompress bodies or follow redirects. Small bodies are sent in one piece, which
is fast; large ones are streamed, whatever their size.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import NamedTuple

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from pywren.testing.emulator._door import Door
from pywren.testing.emulator._seaweed import is_aws_chunked, read_frames, without_framing

_IN_ONE_PIECE = 1024 * 1024
_HOP_BY_HOP = (  # these headers describe one of the two connections, and are not forwarded
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
)
_NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_CONNECT_SECONDS = 10.0


class Exchange(NamedTuple):
    """An answered request.

    Args:
        response: the answer; if it is streamed, all of it except its end has been sent.
        bytes_in: the size of the request's body.
        bytes_out: the size of the answer's body.
    """

    response: web.StreamResponse
    bytes_in: int
    bytes_out: int


class BackendError(Exception):
    """The server behind the gateway did not answer, or disconnected: it has ended or is about to end."""


class Proxy:
    """Keeps connections to a server behind the gateway. It must be created in a running event loop.

    Args:
        door: the door to the server.
    """

    def __init__(self, door: Door) -> None:
        self._url = door.url
        self._place = door.socket or door.url
        self._session = door.session(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            auto_decompress=False,
            skip_auto_headers=_NOT_ADDED,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def forward(self, request: web.BaseRequest, body: bytes | None = None) -> Exchange:
        """Send a request to the server, and return its answer.

        Args:
            request: the request as received.
            body: the request's body, if it has already been read.

        Raises:
            BackendError: the server did not answer.
            ConnectionError: the client or the server disconnected in the middle of a body.
        """
        headers = _without_hops(request.headers, "Expect")
        upload: _Upload | None = None
        if is_aws_chunked(headers) and body is None:
            headers = without_framing(headers)
            upload = _Upload(read_frames(request.content))
        elif body is None and _is_long(request):
            upload = _Upload(request.content.iter_any())
        elif body is None:
            body = await request.content.read() if request.body_exists else b""
        try:
            answer = await self._session.request(
                request.method,
                URL(self._url + request.raw_path, encoded=True),
                headers=headers,
                data=upload.chunks() if upload else body or None,
                allow_redirects=False,
            )
            async with answer:
                response, bytes_out = await _pass_back(request, answer)
        except aiohttp.ClientError as error:
            if upload is not None and upload.broken:
                raise ConnectionResetError("the client disconnected in the middle of the request body") from error
            raise BackendError(f"{self._place} did not answer {request.method}: {error!r}") from error
        return Exchange(response, upload.size if upload else len(body or b""), bytes_out)


class _Upload:
    """The body of a request, streamed to the server."""

    def __init__(self, content: AsyncIterable[bytes]) -> None:
        self._content = content
        self.size = 0
        self.broken = False

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._content:
                self.size += len(chunk)
                yield chunk
        except ConnectionError:
            self.broken = True
            raise


def _is_long(request: web.BaseRequest) -> bool:
    """Tell whether a body is long or of unknown length."""
    length = request.content_length
    return "Transfer-Encoding" in request.headers or (length is not None and length > _IN_ONE_PIECE)


async def _pass_back(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> tuple[web.StreamResponse, int]:
    """Pass the server's answer on to the client; return the answer and the size of its body."""
    headers = _without_hops(answer.headers)
    length = answer.content_length
    if request.method == "HEAD" or (length is not None and length <= _IN_ONE_PIECE):
        body = await answer.read()
        return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=body or None), len(body)
    response = _Streamed(status=answer.status, reason=answer.reason, headers=headers)
    await response.prepare(request)
    sent = 0
    try:
        async for chunk in answer.content.iter_any():
            await response.write_but_last(chunk)
            sent += len(chunk)
    except aiohttp.ClientError as error:
        # The status has been sent, so the only way to report this is to end the body too early.
        raise ConnectionResetError(f"the response was cut off after {sent} bytes") from error
    return response, sent


class _Streamed(web.StreamResponse):
    """A streamed answer. It is counted before its end is sent: clients that have received it find it in the counts."""

    _last = b""

    async def write_but_last(self, chunk: bytes) -> None:
        """Write the previous chunk, and keep this chunk for later."""
        if self._last:
            await self.write(self._last)
        self._last = chunk

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the chunk that was kept."""
        last, self._last = self._last, b""
        await super().write_eof(last + data)


def _without_hops(headers: CIMultiDictProxy[str], *more: str) -> CIMultiDict[str]:
    """Return the headers to forward, without the headers that describe the connection."""
    copy = headers.copy()
    for name in (*_HOP_BY_HOP, *more):
        copy.popall(name, None)
    return copy
