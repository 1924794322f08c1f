"""Measure how much CPU a client spends on one request to S3 or Lambda: pywren, botocore, awscrt and obstore.

Run it with ``python benchmarks/aws_requests.py [--rounds N] [--requests N]``.

All clients talk to the same small server, which answers at once and has a process of its own. Every measurement has its
own process too, and the libraries take turns. The figure is the CPU time of the client's process, kernel included, in
milliseconds a request; medians over the rounds are shown. A library that is not installed is skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

from _common import Row, Target, measured_in_child, median_of, tell

BUCKET, REGION, FUNCTION, PAYLOAD = "bucket", "us-west-2", "function", b"x" * 1000
GOAL = 0.35
"""Milliseconds that one request may take."""

ROWS = [
    Row("get", "ms", (Target(GOAL),)),
    Row("put", "ms", (Target(GOAL),)),
    Row("list", "ms", (Target(1, "obstore"),)),
    Row("invoke", "ms", (Target(GOAL),)),
]
LIBRARIES = ("pywren", "botocore", "awscrt", "obstore")


# -- the server --------------------------------------------------------------------------------------------------


def page() -> bytes:
    """Return a listing of 1,000 statuses, as S3 writes it."""
    contents = "".join(
        f"<Contents><Key>pywren.jobs/{'0' * 32}/{number:05}/status.json</Key>"
        "<LastModified>2026-03-02T10:00:00.000Z</LastModified><ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag>"
        "<Size>1000</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for number in range(1000)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><Prefix></Prefix><KeyCount>1000</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    ).encode()


def answers() -> dict[str, bytes]:
    """Return the answer to each kind of request."""
    headers = (
        "Date: Mon, 02 Mar 2026 10:00:00 GMT\r\nx-amz-id-2: 0123456789abcdef\r\nx-amz-request-id: 0123456789ABCDEF\r\n"
        'x-amzn-RequestId: 01234567-89ab-cdef\r\nServer: AmazonS3\r\nETag: "d41d8cd98f00b204e9800998ecf8427e"\r\n'
        "Last-Modified: Mon, 02 Mar 2026 10:00:00 GMT\r\n"
    )
    bodies = {"GET": (200, PAYLOAD), "PUT": (200, b""), "POST": (202, b""), "LIST": (200, page())}
    return {
        kind: f"HTTP/1.1 {status} OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
        for kind, (status, body) in bodies.items()
    }


def serve(connection: socket.socket, replies: dict[str, bytes]) -> None:
    with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while line := stream.readline():
            size = 0
            while header := stream.readline().strip().lower():
                if header.startswith(b"content-length:"):
                    size = int(header[15:])
                if header.startswith(b"expect:"):
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            stream.read(size)
            connection.sendall(replies["LIST" if b"list-type" in line else line.split()[0].decode()])


def run_server() -> None:
    """Print the port, and answer until the standard input ends."""
    listening, replies = socket.create_server(("127.0.0.1", 0)), answers()
    print(listening.getsockname()[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        threading.Thread(target=serve, args=(listening.accept()[0], replies), daemon=True).start()


@contextlib.contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


# -- the clients -------------------------------------------------------------------------------------------------


def with_pywren(url: str) -> dict[str, Callable[[], Any]]:
    from pywren.aws.requests import AWS
    from pywren.storage.s3_backend import S3Backend

    storage, aws = S3Backend(BUCKET, REGION), AWS(REGION)
    return {
        "get": lambda: storage.get("a/key"),
        "put": lambda: storage.put("a/key", PAYLOAD),
        "list": lambda: storage.list(""),
        "invoke": lambda: aws.invoke_async(FUNCTION, PAYLOAD),
    }


def with_botocore(url: str) -> dict[str, Callable[[], Any]]:
    from pywren.aws.session import make_client, make_session

    s3, functions = (make_client(make_session(), service, REGION) for service in ("s3", "lambda"))
    return {
        "get": lambda: s3.get_object(Bucket=BUCKET, Key="a/key")["Body"].read(),
        "put": lambda: s3.put_object(Bucket=BUCKET, Key="a/key", Body=PAYLOAD),
        "list": lambda: [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]],
        "invoke": lambda: functions.invoke(FunctionName=FUNCTION, InvocationType="Event", Payload=PAYLOAD)[
            "Payload"
        ].read(),
    }


def with_obstore(url: str) -> dict[str, Callable[[], Any]]:
    import obstore
    from obstore.store import S3Store

    options = {"allow_http": True}
    keys = {"access_key_id": "a" * 20, "secret_access_key": "b" * 40}
    store = S3Store(BUCKET, endpoint=url, region=REGION, client_options=options, **keys)
    return {
        "get": lambda: obstore.get(store, "a/key").bytes(),
        "put": lambda: obstore.put(store, "a/key", PAYLOAD, use_multipart=False),
        "list": lambda: [item["path"] for item in obstore.list(store).collect()],
    }


def with_awscrt(url: str) -> dict[str, Callable[[], Any]]:
    from awscrt import auth, http, io

    host, port = url.removeprefix("http://").split(":")
    bootstrap = io.ClientBootstrap(io.EventLoopGroup(1), io.DefaultHostResolver(io.EventLoopGroup(1)))
    connection = http.HttpClientConnection.new(host, int(port), bootstrap).result()
    credentials = auth.AwsCredentialsProvider.new_static("a" * 20, "b" * 40)

    def send(method: str, target: str, body: bytes = b"", service: str = "s3") -> bytes:
        headers = [("Host", f"{host}:{port}"), ("Content-Length", str(len(body)))]
        stream = io.InputStream(BytesIO(body)) if body else None
        request = http.HttpRequest(method, target, http.HttpHeaders(headers), stream)
        signing = auth.AwsSigningConfig(
            algorithm=auth.AwsSigningAlgorithm.V4,
            signature_type=auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
            credentials_provider=credentials,
            region=REGION,
            service=service,
            signed_body_header_type=auth.AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
        )
        received = bytearray()
        auth.aws_sign_request(request, signing).result()
        exchange = connection.request(request, None, lambda http_stream, chunk, **_: received.extend(chunk))
        exchange.activate()
        assert exchange.completion_future.result() < 300
        return bytes(received)

    return {
        "get": lambda: send("GET", f"/{BUCKET}/a/key"),
        "put": lambda: send("PUT", f"/{BUCKET}/a/key", PAYLOAD),
        "invoke": lambda: send("POST", f"/2015-03-31/functions/{FUNCTION}/invocations", PAYLOAD, "lambda"),
    }


# -- measuring ---------------------------------------------------------------------------------------------------


def cpu_of(request: Callable[[], Any], count: int) -> float:
    """Return the milliseconds of CPU that a request takes: the least of ten stretches, as ``timeit`` does it."""
    for _ in range(5):
        request()
    stretches = []
    for _ in range(10):
        started = time.process_time()
        for _ in range(count // 10):
            request()
        stretches.append((time.process_time() - started) / (count // 10) * 1000)
    return min(stretches)


def measure(library: str, url: str, row: str, count: int) -> float | str:
    requests = globals()[f"with_{library}"](url)
    return cpu_of(requests[row], count) if row in requests else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=500, help="requests of one measurement; a tenth of it for list")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return run_server()
    if options.measure:
        library, url, row, count = options.measure
        return tell(lambda: measure(library, url, row, int(count)))
    libraries = [name for name in LIBRARIES if importlib.util.find_spec(name)]
    with server() as url:
        keys = {"AWS_ACCESS_KEY_ID": "a" * 20, "AWS_SECRET_ACCESS_KEY": "b" * 40, "AWS_ENDPOINT_URL": url}
        for row in ROWS:
            count = str(options.requests // 10 if row.name == "list" else options.requests)
            figures: dict[str, list[float | str]] = {library: [] for library in libraries}
            for _ in range(options.rounds):
                for library in libraries:
                    arguments = ["--measure", library, url, row.name, count]
                    figures[library].append(measured_in_child(__file__, arguments, 300, keys))
            print(*row.lines({library: median_of(values) for library, values in figures.items()}), sep="\n", flush=True)
    return None


if __name__ == "__main__":
    main()
