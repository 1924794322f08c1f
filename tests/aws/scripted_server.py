"""``ScriptedServer``: an HTTP server that answers as a test says, however broken that is."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

DATE = "Mon, 02 Mar 2026 10:00:00 GMT"


class Seen(NamedTuple):
    """One request that the server has read."""

    method: str
    target: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    connection: int

    @property
    def by_botocore(self) -> bool:
        """Whether botocore sent it, which numbers its tries."""
        return "amz-sdk-request" in self.headers


class Answer(NamedTuple):
    """What the server sends, and whether it closes the connection then.

    ``sent`` is sent as it is. ``before`` is called first, for example to press Ctrl-C.
    """

    sent: bytes
    close: bool = False
    reset: bool = False
    before: Callable[[], object] = lambda: None


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """Return a well-formed answer."""
    lines = [f"HTTP/1.1 {status} x", f"Date: {DATE}", "x-amz-request-id: r-1", "x-amzn-RequestId: r-1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return Answer("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)


def refusal(status: int, code: str, headers: Mapping[str, str] | None = None, more: str = "") -> Answer:
    """Return a refusal by S3."""
    return answer(status, f"<Error><Code>{code}</Code><Message>no</Message>{more}</Error>".encode(), headers)


def page(keys: list[str], following: str = "") -> bytes:
    """Return one page of a listing by S3, with keys in URL encoding."""
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-03-02T10:00:0{index % 10}.000Z</LastModified>"
        f"<ETag>&quot;e&quot;</ETag><Size>1</Size></Contents>"
        for index, key in enumerate(keys)
    )
    following = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>bucket</Name><Prefix>p</Prefix><KeyCount>{len(keys)}</KeyCount><EncodingType>url</EncodingType>"
        f"<IsTruncated>{'true' if following else 'false'}</IsTruncated>{following}{contents}</ListBucketResult>"
    ).encode()


def usual(seen: Seen) -> Answer:
    """Return the answer of a service without trouble; an object contains its own URL and range."""
    if seen.method == "POST":
        return answer(202)
    if seen.method == "PUT":
        return answer(200, headers={"ETag": '"e"'})
    if "list-type=2" in seen.target:
        return answer(200, page(["p/1", "p/2"]))
    return answer(206 if "range" in seen.headers else 200, f"{seen.target} {seen.headers.get('range')}".encode())


def certificate(directory: Path, name: str, *, days: int = 2) -> Path:
    """Write a certificate for 127.0.0.1, or for another name, and its key into one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    now = datetime.now(timezone.utc)
    names = [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)]
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=9)).not_valid_after(now + timedelta(days=days))
    made = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(key, hashes.SHA256())
    path = directory / f"{name}-{days}.pem"
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


class ScriptedServer:
    """Answers requests with ``script``, one answer a request, and then as ``usual``.

    One thread accepts connections, and each connection has a thread.

    Args:
        pem: a certificate and its key; with it the server speaks TLS.
    """

    def __init__(self, pem: Path | None = None) -> None:
        self._tls = None
        if pem is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(pem)
        self.script: list[Answer] = []
        self.seen: list[Seen] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if pem else ''}://127.0.0.1:{self._socket.getsockname()[1]}"
        self._start(self._accept)

    def _start(self, run: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, name="test-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the server was closed
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                self._open.append(connection)
                self._start(self._serve, connection, self.connections)

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError))
            stack.enter_context(connection)
            if self._tls is not None:
                connection = stack.enter_context(self._tls.wrap_socket(connection, server_side=True))
            stream = stack.enter_context(connection.makefile("rb"))
            while True:
                seen = _read(connection, stream, number)
                if seen is None:
                    return
                self.seen.append(seen)
                reply = self.script.pop(0) if self.script else usual(seen)
                reply.before()
                connection.sendall(reply.sent)
                if reply.reset:  # close(2) sends RST instead of FIN
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if reply.close or reply.reset:
                    return

    def drop_connections(self) -> None:
        """Close all connections, as a service does with idle ones."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        """End all threads."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept(2)
        self._socket.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join()


def _read(connection: socket.socket, stream: object, number: int) -> Seen | None:
    line = stream.readline().decode()  # type: ignore[attr-defined]
    if not line:
        return None
    method, target, _ = line.split()
    headers: dict[str, str] = {}
    while (line := stream.readline().decode().rstrip("\r\n")) != "":  # type: ignore[attr-defined]
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "expect" in headers:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = stream.read(int(headers.get("content-length", 0)))  # type: ignore[attr-defined]
    return Seen(method, target, headers, body, number)
