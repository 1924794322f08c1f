"""``Reply``: one request on a connection that botocore has opened, and its answer.

urllib3's pool holds the connections of a botocore client. This module borrows one that is open and idle, and never
opens one: so proxies, TLS, certificates and time limits of connecting stay with botocore. A borrowed connection belongs
to one thread until it is given back, and it is given back on every path, because a pool counts them. It is closed first
if its answer was not read to the end, as the rest would look like the next answer.

What breaks is raised as botocore's exceptions, which callers know.
"""

from __future__ import annotations

import contextlib
import queue
from typing import Any


def borrow(pool: Any) -> Any | None:
    """Return an idle connection of a pool on which a request can be sent at once; ``None`` if there is none.

    Args:
        pool: urllib3's pool with a botocore client's connections to one host.
    """
    from urllib3.util.connection import is_connection_dropped

    idle = pool.pool  # None once the client was closed
    try:
        connection = None if idle is None else idle.get(block=False)
    except queue.Empty:  # all are in use
        return None
    if connection is None:  # an unused place of the pool
        if idle is not None:
            give_back(pool, None)
        return None
    # A test library may have put connections of its own here. The check of a dropped connection is a poll(2).
    if type(connection).__module__ != "botocore.awsrequest" or connection.sock is None:
        give_back(pool, connection)
        return None
    if is_connection_dropped(connection):
        connection.close()
        give_back(pool, connection)
        return None
    return connection


def give_back(pool: Any, connection: Any | None) -> None:
    """Return a borrowed connection, open or closed, or an unused place, to its pool."""
    idle = pool.pool
    try:
        if idle is not None:
            idle.put(connection, block=False)
            if pool.pool is not None:
                return
            # The client was closed meanwhile, and may have emptied the pool before this connection was in it.
            connection = idle.get(block=False)
    except (queue.Full, queue.Empty):
        pass
    if connection is not None:
        connection.close()


class Reply:
    """Sends a request and reads the head of the answer. The body is read by ``read``, until ``close``.

    Args:
        pool: the pool that the connection was borrowed from.
        connection: the connection; it is given back in any case.
        message: the bytes of the request.
        method: the HTTP method.
        url: the URL, for messages.
        timeout: how many seconds the service may send nothing.

    Raises:
        botocore.exceptions.HTTPClientError: the connection broke, or no answer came.
    """

    def __init__(self, pool: Any, connection: Any, message: bytes, method: str, url: str, timeout: float) -> None:
        self._pool = pool
        self._connection = connection
        self.url = url
        self.body = b""
        """The whole body, after ``load``."""
        self._raw: Any = None
        try:
            self._raw = raw = _exchange(connection.sock, message, method, timeout)
            self.status: int = raw.status
        except _broken() as error:
            self.close()
            raise _lost(error, url) from error
        except BaseException:  # Ctrl-C: an answer that may still come must not be taken for that of the next request
            self.close()
            raise

    def header(self, name: str) -> str | None:
        """Return a header of the answer; ``None`` if the answer does not have it."""
        value: str | None = self._raw.getheader(name)
        return value

    def headers(self) -> list[tuple[str, str]]:
        """Return all headers of the answer."""
        found: list[tuple[str, str]] = self._raw.getheaders()
        return found

    def load(self) -> None:
        """Read the whole body, and give the connection back.

        Raises:
            botocore.exceptions.HTTPClientError: the connection broke, or the body is shorter than its length says.
        """
        try:
            self.body = self._raw.read()
        except _broken() as error:
            raise _lost(error, self.url) from error
        finally:
            self.close()

    def read(self, amount: int | None = None) -> bytes:
        """Return the next bytes of the body; fewer than asked for only near its end.

        Args:
            amount: how many bytes to read; by default all of them.

        Raises:
            botocore.exceptions.BotoCoreError: the connection broke, or the body is shorter than its length says.
        """
        raw = self._raw
        try:
            data: bytes = raw.read(amount)
        except _broken() as error:
            raise _cut_off(error, self.url) from error
        if not data and raw.length:  # http.client does not complain if it was asked for a number of bytes
            raise _cut_off(EOFError(raw.length), self.url)
        if raw.isclosed():  # at the end
            self.close()
        return data

    def close(self) -> None:
        """Give the connection back. A body that was not read to its end is not read any more."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        raw = self._raw
        try:
            if raw is None or not raw.isclosed() or raw.will_close:
                connection.close()
        finally:
            if raw is not None:
                raw.close()
            give_back(self._pool, connection)


def _exchange(sock: Any, message: bytes, method: str, timeout: float) -> Any:
    from http.client import HTTPResponse

    sock.settimeout(timeout)
    # A service that refuses a request may close its side before it has read everything: its answer tells why.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(message)
    raw = HTTPResponse(sock, method=method)
    try:
        raw.begin()
    except BaseException:
        raw.close()
        raise
    return raw


def _broken() -> tuple[type[Exception], ...]:
    """Return the exceptions of ``socket``, ``ssl`` and ``http.client``."""
    from http.client import HTTPException

    return OSError, HTTPException


def _lost(error: Exception, url: str) -> Exception:
    """Return botocore's exception for a request whose answer did not come, or not to its end."""
    from ssl import SSLError

    from botocore import exceptions

    kind = exceptions.ConnectionClosedError
    if isinstance(error, TimeoutError):
        kind = exceptions.ReadTimeoutError
    elif isinstance(error, SSLError):
        kind = exceptions.SSLError
    lost: Exception = kind(endpoint_url=url, error=error)
    return lost


def _cut_off(error: Exception, url: str) -> Exception:
    """Return botocore's exception for a body that its ``StreamingBody`` could not read to the end."""
    from botocore import exceptions

    if isinstance(error, TimeoutError):
        return _lost(error, url)
    cut_off: Exception = exceptions.ResponseStreamingError(error=error)
    return cut_off
