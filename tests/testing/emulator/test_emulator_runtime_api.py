"""The Runtime API answers as Lambda's does, whatever a runtime client sends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from pywren.testing.emulator._runtime_api import RuntimeApi

NEXT = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a request of a runtime client."""
    lines = [f"POST /2018-06-01/runtime/{path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Client:
    """A runtime client that sends raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, *parts: bytes) -> tuple[int, bytes]:
        """Send a request in parts, and return status and body of the answer."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        """Return status and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0] or 0)
        return int(head.split()[1]), await self.reader.readexactly(length)


def serve(script: Callable[[RuntimeApi, Client], Awaitable[None]], *, limit: int = 1000) -> None:
    """Run a script against an API that listens."""

    async def main() -> None:
        api = RuntimeApi(limit=limit)
        host, _, port = (await api.start()).partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.wait_for(script(api, Client(reader, writer)), 30)
        finally:
            writer.close()
            await api.close()

    asyncio.run(main())


async def take_event(api: RuntimeApi, client: Client, request_id: str = "one") -> tuple[int, bytes]:
    """Let the client receive an event."""
    client.writer.write(NEXT)
    await api.asked
    api.hand_over(request_id, b'{"a": 1}', {"Lambda-Runtime-Deadline-Ms": "5"})
    return await client.answer()


def test_an_event_is_taken_and_answered() -> None:
    """``next`` waits for an event; the client's answer is accepted with 202."""

    async def script(api: RuntimeApi, client: Client) -> None:
        assert await take_event(api, client) == (200, b'{"a": 1}')
        assert (await client.ask(post("invocation/one/response", b"2")))[0] == 202
        assert (await api.answer)[:2] == ("response", b"2")
        assert (await take_event(api, client, "two"))[0] == 200
        assert (await client.ask(post("invocation/two/error", b"{}")))[0] == 202
        assert (await api.answer)[:2] == ("error", b"{}")

    serve(script)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post("invocation/other/response", b"1"), 400),
        (NEXT, 403),
        (post("elsewhere", b""), 404),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
    ],
)
def test_what_does_not_fit_is_refused_and_the_event_stays_open(request_bytes: bytes, status: int) -> None:
    """A wrong request id, a second ``next`` and unknown paths are refused; the correct answer is still accepted."""

    async def script(api: RuntimeApi, client: Client) -> None:
        await take_event(api, client)
        assert (await client.ask(request_bytes))[0] == status
        assert (await client.ask(post("invocation/one/response", b"1")))[0] == 202

    serve(script)


def test_a_body_may_come_in_pieces_in_chunks_or_after_a_question() -> None:
    """Content-Length, chunked transfer and ``Expect: 100-continue`` all work."""

    async def script(api: RuntimeApi, client: Client) -> None:
        await take_event(api, client)
        whole = post("invocation/one/response", b"x" * 500)
        await client.ask(whole[:20], whole[20:100], whole[100:400], whole[400:])
        assert (await api.answer).body == b"x" * 500
        await take_event(api, client, "two")
        head = b"POST /2018-06-01/runtime/invocation/two/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.ask(head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
        assert (await api.answer).body == b"abcde"
        await take_event(api, client, "three")
        asking = post("invocation/three/response", b"12", "Expect: 100-continue")
        assert (await client.ask(asking[:-2]))[0] == 100
        assert (await client.ask(asking[-2:]))[0] == 202

    serve(script)


def test_a_response_beyond_the_limit_is_read_but_not_kept() -> None:
    """The answer is 413, and the connection stays usable for the next request."""

    async def script(api: RuntimeApi, client: Client) -> None:
        await take_event(api, client)
        status, body = await client.ask(post("invocation/one/response", os.urandom(200_000)))
        assert status == 413
        assert b"Function.ResponseSizeTooLarge" in body
        assert await api.answer == ("large", b"", 200_000)
        assert (await take_event(api, client, "two"))[0] == 200

    serve(script)


def test_an_error_of_the_init_phase_is_kept() -> None:
    """The container uses it as the call's answer."""

    async def script(api: RuntimeApi, client: Client) -> None:
        assert (await client.ask(post("init/error", b'{"errorType": "X"}')))[0] == 202
        assert await api.init_error == b'{"errorType": "X"}'

    serve(script)


def test_a_process_that_is_gone_does_not_wait_any_more() -> None:
    """No event is sent to a connection that was closed."""

    async def script(api: RuntimeApi, client: Client) -> None:
        client.writer.write(NEXT)
        await api.asked
        client.writer.close()
        while api.asked.done():
            await asyncio.sleep(0.01)

    serve(script)
