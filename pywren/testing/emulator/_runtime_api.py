"""``RuntimeApi``: the HTTP interface through which a runtime client gets events and returns answers.

It is an asyncio protocol that implements the part of HTTP/1.1 that runtime clients use: a web framework would take
longer than the rest of a warm invocation. The protocol's callbacks run on the event loop and complete futures that the
container awaits.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

_VERSION = "/2018-06-01/runtime"
_ANSWER = re.compile(rf"{_VERSION}/invocation/([^/]+)/(response|error)")
_HEAD_LIMIT = 2 * 1024 * 1024  # the runtime client sends error descriptions of up to 1 MiB in a header
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:\s*100-continue", re.IGNORECASE)
_REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Payload Too Large",
}
_ACCEPTED = b'{"status":"OK"}'


class Answer(NamedTuple):
    """An answer that a runtime client posted.

    Args:
        kind: ``response``, ``error``, or ``large`` for a response beyond the limit.
        body: the posted body; empty for a ``large`` answer.
        size: the size of the posted body.
    """

    kind: str
    body: bytes
    size: int


class RuntimeApi:
    """Serves the process of one container, one invocation at a time.

    Args:
        limit: the size in bytes of the largest accepted response.
        takes_answer: called when an answer is complete; it returns false if a fault prevents the answer, which then
            gets no reply.
    """

    def __init__(self, *, limit: int, takes_answer: Callable[[], bool] = lambda: True) -> None:
        self._limit = limit
        self._takes_answer = takes_answer
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._waiting: _Connection | None = None
        self._request_id: str | None = None
        self.reset()

    def reset(self) -> None:
        """Discard the state of the previous process before another process starts."""
        loop = asyncio.get_running_loop()
        for connection in list(self._connections):
            connection.abort()
        self._waiting = self._request_id = None
        self.asked: asyncio.Future[None] = loop.create_future()
        """Done when the process is waiting for an event."""
        self.init_error: asyncio.Future[bytes] = loop.create_future()
        """The body of a request to ``init/error``."""
        self.answer: asyncio.Future[Answer] = loop.create_future()
        """The answer to the last event that was handed over."""

    async def start(self) -> str:
        """Listen on a free port of 127.0.0.1, and return the address as ``host:port``."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def hand_over(self, request_id: str, payload: bytes, headers: Mapping[str, str]) -> None:
        """Answer the waiting ``next`` request with an event."""
        if self._waiting is None:  # pragma: no cover - the container waits for ``asked``
            raise RuntimeError("no runtime client is waiting for an event")
        connection, self._waiting = self._waiting, None
        loop = asyncio.get_running_loop()
        self._request_id = request_id
        self.asked, self.answer = loop.create_future(), loop.create_future()
        connection.reply(200, payload, {"Lambda-Runtime-Aws-Request-Id": request_id, **headers})

    async def close(self) -> None:
        """Stop listening, and close the connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def made(self, connection: _Connection) -> None:
        """Register a connection."""
        self._connections.add(connection)

    def lost(self, connection: _Connection) -> None:
        """Unregister a connection; if a process was waiting on it for an event, it no longer is."""
        self._connections.discard(connection)
        if self._waiting is connection:
            self._waiting = None
            self.asked = asyncio.get_running_loop().create_future()

    def received(self, connection: _Connection, method: str, path: str, body: bytes, size: int) -> None:
        """Answer a complete request; ``body`` is empty when its ``size`` is beyond the limit."""
        if (method, path) == ("GET", f"{_VERSION}/invocation/next"):
            self._next(connection)
        elif (method, path) == ("POST", f"{_VERSION}/init/error"):
            connection.reply(202, _ACCEPTED)
            if not self.init_error.done():
                self.init_error.set_result(body)
        elif method == "POST" and (match := _ANSWER.fullmatch(path)):
            self._answered(connection, match[1], match[2], body, size)
        else:
            connection.reply(404, _error("NotFound", f"there is no {method} {path}"))

    def too_large(self, size: int) -> bool:
        """Tell whether a body of this size is beyond the limit."""
        return size > self._limit

    def _next(self, connection: _Connection) -> None:
        if self._request_id is not None or self._waiting is not None:
            connection.reply(403, _error("InvalidStateTransition", "the last event has not been answered"))
            return
        self._waiting = connection
        if not self.asked.done():
            self.asked.set_result(None)

    def _answered(self, connection: _Connection, request_id: str, kind: str, body: bytes, size: int) -> None:
        if request_id != self._request_id:
            connection.reply(400, _error("InvalidRequestID", f"{request_id} is not the event being processed"))
            return
        if not self._takes_answer():
            return
        self._request_id = None
        if self.too_large(size):
            kind = "large"
            text = f"Response payload size exceeded maximum allowed payload size ({self._limit} bytes)."
            connection.reply(413, _error("Function.ResponseSizeTooLarge", text))
        else:
            connection.reply(202, _ACCEPTED)
        if not self.answer.done():
            self.answer.set_result(Answer(kind, body, size))


class _Connection(asyncio.Protocol):
    """One connection of the runtime client, which sends one request at a time."""

    def __init__(self, api: RuntimeApi) -> None:
        self._api = api
        self._buffer = bytearray()
        self._needed = 0  # the size of head and body together, which is known when the head is complete
        self._head = 0
        self._dropped = 0
        self._chunked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection if it comes from a process of this user."""
        self._transport = cast(asyncio.Transport, transport)
        self._api.made(self)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not _is_own(transport.get_extra_info("peername")):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister the connection."""
        self._api.lost(self)

    def data_received(self, data: bytes) -> None:
        """Store the received data, and answer complete requests."""
        self._buffer += data
        while self._buffer and self._advance():
            pass

    def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer."""
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        if not self._transport.is_closing():
            self._transport.write(head.encode("latin-1", "replace") + body)

    def abort(self) -> None:
        """Close the connection immediately."""
        self._transport.abort()

    def _advance(self) -> bool:
        """Continue to parse; tell whether a request was answered and another request may follow."""
        if not self._head and not self._parse_head():
            return False
        if self._chunked:
            body = _unchunk(self._buffer, self._head)
            if body is None:
                return False
            self._needed = body[1]
            self._finish(bytes(body[0]), len(body[0]))
            return True
        size = self._needed - self._head
        if self._api.too_large(size):
            arrived = self._dropped + len(self._buffer)
            if arrived < self._needed:  # read the body to its end, as the client expects, but do not keep it
                self._dropped = arrived - self._head
                del self._buffer[self._head :]
                return False
            rest = arrived - self._needed
            self._needed = len(self._buffer) - rest
            self._finish(b"", size)
            return True
        if len(self._buffer) < self._needed:
            return False
        self._finish(bytes(self._buffer[self._head : self._needed]), size)
        return True

    def _parse_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                self.abort()
            return False
        head = bytes(self._buffer[: end + 2])
        length = _CONTENT_LENGTH.search(head)
        self._head = end + 4
        self._needed = self._head + (int(length[1]) if length else 0)
        self._chunked = _CHUNKED.search(head) is not None
        if _EXPECT.search(head):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _finish(self, body: bytes, size: int) -> None:
        line = bytes(self._buffer[: self._buffer.find(b"\r\n")]).decode("latin-1").split(" ")
        del self._buffer[: self._needed]
        self._head = self._needed = self._dropped = 0
        if len(line) != 3:
            self.abort()
            return
        self._api.received(self, line[0], line[1], b"" if self._api.too_large(size) else body, size)


def _unchunk(buffer: bytearray, start: int) -> tuple[bytearray, int] | None:
    """Return a chunked body and the position of its end; ``None`` while the body is incomplete."""
    body, position = bytearray(), start
    while True:
        end = buffer.find(b"\r\n", position)
        if end < 0:
            return None
        size = int(bytes(buffer[position:end]).split(b";")[0], 16)
        position = end + 2 + size + 2
        if len(buffer) < position:
            return None
        if size == 0:
            return body, position
        body += buffer[end + 2 : end + 2 + size]


def _error(kind: str, message: str) -> bytes:
    return f'{{"errorType":"{kind}","errorMessage":"{message}"}}'.encode()


def _is_own(peer: tuple[str, int] | None) -> bool:
    """Tell whether a local connection comes from a process of this user; true if the system does not say."""
    if sys.platform != "linux" or peer is None:
        return True
    # The table is not read atomically, so an entry may be missed while others come and go. If several attempts miss the
    # entry, the other end has already closed the connection, and nobody waits for an answer.
    try:
        return any(_owner(peer) == os.getuid() for _ in range(_LOOKS))
    except OSError:  # the system has no such table
        return True


_LOOKS = 3
_ESTABLISHED = "01"  # the table shows closed connections as owned by root


def _owner(peer: tuple[str, int]) -> int | None:
    """Return the id of the user who owns the other end of a connection; ``None`` when that end is closed."""
    local = "".join(f"{int(part):02X}" for part in reversed(peer[0].split("."))) + f":{peer[1]:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table:
            fields = line.split()
            if fields[1] == local and fields[3] == _ESTABLISHED:
                return int(fields[7])
    return None
