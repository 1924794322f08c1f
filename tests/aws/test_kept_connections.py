"""What is written on a connection, and when a connection is used again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPException, HTTPResponse
from typing import Any

import pytest
import urllib3
from scripted_server import Answer, ScriptedServer, answer

from pywren.aws.kept_connections import exchange, request_head

HEADERS = {"Host": "h"}
REQUEST = request_head("GET", "/k", HEADERS, 0)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Return a server that answers as the test says."""
    with closing(ScriptedServer()) as server:
        yield server


@pytest.fixture
def pool(server: ScriptedServer) -> Iterator[Any]:
    """Return a pool that keeps one open connection to the server."""
    with urllib3.PoolManager(maxsize=2, timeout=urllib3.Timeout(connect=10, read=20)) as manager:
        pool: Any = manager.connection_from_url(server.url)
        pool.urlopen("GET", "/first")
        yield pool


def send(pool: Any, target: str = "/k") -> bytes | None:
    """Send a request, and return the body of the answer."""
    got = exchange(pool, "GET", request_head("GET", target, HEADERS, 0), HTTPResponse.read)
    return None if got is None else got.body


def test_a_request() -> None:
    """A request is written as http.client writes it."""
    head = request_head("PUT", "/b/k%20l?x=y", {"Host": "h:1", "Range": "bytes=0-1"}, 7)
    assert head.split(b"\r\n") == [
        b"PUT /b/k%20l?x=y HTTP/1.1",
        *(b"Accept-Encoding: identity", b"Host: h:1", b"Range: bytes=0-1", b"Content-Length: 7", b"", b""),
    ]
    assert b"Content-Length: 0\r\n" in request_head("POST", "/", HEADERS, 0)
    assert b"Content-Length" not in request_head("GET", "/", HEADERS, 0)


@pytest.mark.parametrize("bad", ["a\r\nb", "a\nb", "a\rb", "a\x00b", "a\x7fb", "\r\n", "ä", "a\u2028b", "a\x85b"])
def test_nothing_smuggles_a_header(bad: str) -> None:
    """A control character or one beyond ASCII is refused wherever it is, and not shown."""
    for arguments in [("GET", bad, HEADERS), ("GET", "/", {bad: "x"}), ("GET", "/", {"x": f"secret{bad}"})]:
        with pytest.raises(ValueError, match="character") as raised:
            request_head(*arguments, 0)
        assert "secret" not in str(raised.value)
    with pytest.raises(ValueError, match="character"):
        request_head("GET", "/a HTTP/1.1", HEADERS, 0)


def test_a_connection_is_used_again(server: ScriptedServer, pool: Any) -> None:
    """One connection carries request after request."""
    assert [send(pool, f"/{number}") for number in range(3)] == [b"/0 None", b"/1 None", b"/2 None"]
    assert {seen.connection for seen in server.seen} == {1}


def test_no_connection_is_opened(server: ScriptedServer, pool: Any) -> None:
    """Nothing is sent if no connection is open: it was closed, or is in use, or the pool was closed."""
    in_use = pool._get_conn()
    assert send(pool) is None
    pool._put_conn(in_use)
    assert send(pool) == b"/k None"
    server.drop_connections()
    assert send(pool) is None
    pool.close()
    assert send(pool) is None
    assert len(server.seen) == 2


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
ENDINGS = {
    "with a length": (answer(200, b"abcde"), True),
    "in chunks": (Answer(CHUNKED), True),
    "nothing": (answer(204), True),
    "a refusal": (answer(403, b"abcde"), True),
    "to the end": (Answer(b"HTTP/1.1 200 OK\r\n\r\nabcde", close=True), False),
    "told to close": (answer(200, b"abcde", {"Connection": "close"}), False),
    "an old server": (Answer(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabcde"), False),
    "after a 100": (Answer(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(200, b"abcde").sent), True),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_where_an_answer_ends(server: ScriptedServer, pool: Any, name: str) -> None:
    """A connection is used again only where it is certain that the answer has ended."""
    said, again = ENDINGS[name]
    server.script = [said]
    assert send(pool) == (b"" if name == "nothing" else b"abcde")
    assert send(pool) == (b"/k None" if again else None)


BROKEN = {
    "nothing": b"",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200,
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("read", [HTTPResponse.read, lambda response: response.read(4)])
def test_a_broken_answer(server: ScriptedServer, pool: Any, name: str, read: Any) -> None:
    """It raises an error, and its connection is closed; half a body is never taken for a whole."""
    server.script = [Answer(BROKEN[name], close=True)]
    with pytest.raises((OSError, HTTPException)):
        exchange(pool, "GET", REQUEST, read)
    assert send(pool) is None


def test_a_reader_that_raises(server: ScriptedServer, pool: Any) -> None:
    """Its error is raised, and the connection with the rest of the answer is closed."""

    def read(response: HTTPResponse) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exchange(pool, "GET", REQUEST, read)
    assert send(pool) is None


def test_the_time_limit(server: ScriptedServer, pool: Any) -> None:
    """The time limit for an answer is that of the pool, whatever was set before."""
    connection = pool._get_conn()
    connection.sock.settimeout(0.001)
    pool._put_conn(connection)
    limits: list[float | None] = []

    def read(response: HTTPResponse) -> bytes:
        limits.append(connection.sock.gettimeout())
        return response.read()

    exchange(pool, "GET", REQUEST, read)
    assert limits == [20]


def test_a_refusal_before_all_was_sent(server: ScriptedServer, pool: Any) -> None:
    """The answer of a service that closes the connection without reading a request counts."""
    connection = pool._get_conn()
    sent = connection.sock

    class Closing:
        """A socket that sends everything, and then says that the service does not read any more."""

        def sendall(self, data: bytes) -> None:
            sent.sendall(data)
            raise BrokenPipeError

        def __getattr__(self, name: str) -> Any:
            return getattr(sent, name)

    connection.sock = Closing()
    pool._put_conn(connection)
    server.script = [answer(403, b"no")]
    got = exchange(pool, "PUT", request_head("PUT", "/k", HEADERS, 4) + b"body", HTTPResponse.read)
    assert got is not None
    assert (got.status, got.body) == (403, b"no")
