"""Sends a request over a connection that botocore has opened and urllib3 keeps.

urllib3 and ``http.client`` spend twice the time of the rest of a request on what these requests never need: streamed
bodies, redirects, decoders, a state for each step. Here a request is one ``sendall``, and ``http.client`` reads the
answer. Connections are never opened here: so their names, proxies, certificates and time limits are botocore's.

Threads: urllib3's pool lends each connection to one thread at a time, and so does this module.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pywren.system.private_names import give_connection_back, take_connection


class Answer(NamedTuple):
    """An answer that was read to its end.

    Args:
        status: the HTTP status.
        headers: the headers; their names may be in any case.
        body: the body.
    """

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def exchange(
    pool: Any, method: str, request: bytes, read: Callable[[http.client.HTTPResponse], bytes]
) -> Answer | None:
    """Send a request over a kept connection, and return the answer.

    Args:
        pool: urllib3's pool of connections to the service.
        method: the HTTP method.
        request: what is sent: the head and the body.
        read: reads the body of a successful answer.

    Returns:
        The answer; ``None`` if nothing was sent, because no connection is open.

    Raises:
        OSError: the connection broke, or no answer came in time (``TimeoutError``).
        http.client.HTTPException: what came was no answer, or ended too early.
    """
    with _kept_connection(pool) as connection:
        if connection is None:
            return None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A service that refuses a request may answer and close before it has read all of it: the answer counts.
            connection.sock.sendall(request)
        answer, keep = _answer_to(method, connection.sock, read)
        if not keep:
            connection.close()
        return answer


def request_head(method: str, target: str, headers: Mapping[str, str], size: int) -> bytes:
    """Return a request up to its body.

    Args:
        method: the HTTP method.
        target: the path and the query, encoded.
        headers: ``Host``, and all others that concern the service.
        size: the length of the body in bytes.

    Raises:
        ValueError: a part contains a character with which it could be something else than it should.
    """
    # As http.client writes it. Accept-Encoding is never signed: some servers have a proxy before them that changes it.
    lines = [f"{method} {target} HTTP/1.1", "Accept-Encoding: identity"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if method != "GET":
        lines.append(f"Content-Length: {size}")
    text = "\r\n".join([*lines, "", ""])
    if not text.isascii() or not all(line.isprintable() for line in lines) or " " in target:
        # Such a character could begin another header. It is not shown, because it may be part of a token.
        raise ValueError("a request to AWS contains a character that it must not contain")
    return text.encode("ascii")


def _answer_to(method: str, sock: Any, read: Callable[[http.client.HTTPResponse], bytes]) -> tuple[Answer, bool]:
    """Read an answer; also return whether the connection may be used again."""
    with contextlib.closing(http.client.HTTPResponse(sock, method=method)) as response:
        response.begin()
        body = read(response) if response.status < 300 else response.read()
        if response.length:  # http.client does not say so if it was asked for a number of bytes
            raise http.client.IncompleteRead(b"", response.length)
        return Answer(response.status, response.headers, body), response.isclosed() and not response.will_close


@contextlib.contextmanager
def _kept_connection(pool: Any) -> Iterator[Any | None]:
    """Lend a connection that is open; ``None`` if there is none. After an exception it is closed."""
    from urllib3.exceptions import ClosedPoolError

    try:
        connection = take_connection(pool)
    except ClosedPoolError:  # the client was closed
        yield None
        return
    try:
        is_open = connection.sock is not None
        if is_open:
            connection.sock.settimeout(pool.timeout.read_timeout)
        yield connection if is_open else None
    except BaseException:  # Ctrl-C too: the rest of an answer must not be taken for the next one
        connection.close()
        raise
    finally:
        give_connection_back(pool, connection)
