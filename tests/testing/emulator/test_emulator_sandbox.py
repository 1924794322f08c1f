"""An isolated container: what is visible and writable inside, and that nothing gets out.

Cited: [dg] docs.aws.amazon.com/lambda/latest/dg/<page>.html, [api] …/api/API_<name>.html,
[image] github.com/aws/aws-lambda-base-images.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytest.importorskip("awslambdaric")

from pywren.testing.emulator._container import Container, Invocation, Reply, can_isolate
from pywren.testing.emulator._functions import Code, Revision
from pywren.testing.emulator._interpreter import PYTHON, make_interpreter
from pywren.testing.emulator._settings import Settings

pytestmark = pytest.mark.skipif(not can_isolate(), reason="this machine allows no namespaces")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of the containers."""
    return make_interpreter(tmp_path_factory.mktemp("interpreter") / "python")


def make_container(python: Path, directory: Path, body: str, **settings: object) -> Container:
    """Make an isolated container whose handler has this body."""
    code = directory / "code"
    code.mkdir()
    (code / "module.py").write_text("import os, sys\ndef handler(event, context):\n" + textwrap.indent(body, "    "))
    chosen = {"Runtime": PYTHON, "Handler": "module.handler", "Timeout": 30, "MemorySize": 1024, **settings}
    return Container(
        "fn",
        "arn:aws:lambda:us-west-2:123456789012:function:fn",
        Revision(1, chosen, Code(code, "", 0, 0), ()),
        settings=Settings(isolated=True),
        python=python,
        directory=directory / "container",
        endpoint="http://127.0.0.1:9",
        credentials=("KEY", "SECRET", "TOKEN"),
        log=lambda _, line: None,
    )


def run_inside(python: Path, directory: Path, body: str, *, calls: int = 1, **settings: object) -> list[object]:
    """Run the body of a handler in an isolated container and return its result for each call."""

    async def main() -> list[Reply]:
        container = make_container(python, directory, body, **settings)
        try:
            return [await asyncio.wait_for(container.run(Invocation("id", b"null")), 60) for _ in range(calls)]
        finally:
            await container.close()

    replies = asyncio.run(main())
    assert [reply.error for reply in replies] == [""] * calls, replies
    return [json.loads(reply.payload) for reply in replies]


def test_a_process_that_is_forked_while_the_container_is_frozen_and_continued_goes_on(
    python: Path, tmp_path: Path
) -> None:
    """Forks of a process that has much memory take long, so a freeze and its end often come during one."""
    body = """\
import signal
if os.fork() == 0:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    memory = bytearray(os.urandom(2**16) * 2**11)
    while True:
        if os.fork() == 0:
            os._exit(0)
"""

    async def main() -> None:
        container = make_container(python, tmp_path, body, MemorySize=3008)
        try:
            assert not (await asyncio.wait_for(container.run(Invocation("id", b"null")), 60)).error
            await asyncio.sleep(0.5)  # until it forks
            for _ in range(30):
                container._freeze()
                container._thaw()
                await asyncio.sleep(0.03)
                deadline = time.monotonic() + 20
                while any(map(is_stopped, psutil.Process().children(recursive=True))):
                    assert time.monotonic() < deadline, "a process stays stopped"
                    await asyncio.sleep(0.05)
        finally:
            await container.close()

    asyncio.run(main())


def is_stopped(process: psutil.Process) -> bool:
    """Tell whether a process is stopped; one that has ended is not."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_STOPPED)
    return False


def test_the_task_root_is_lambdas_and_read_only(python: Path, tmp_path: Path) -> None:
    """LAMBDA_TASK_ROOT [dg configuration-envvars] is /var/task, which is first on the path and read-only.

    The guide does not name the working directory, but Amazon's images do [image Dockerfile.python3.11: WORKDIR].
    """
    body = """\
found = [os.getcwd(), sys.path[0], __file__, os.environ["LAMBDA_TASK_ROOT"]]
for path in ("/var/task/new", "/new", "/usr/new", "/opt/new", "/etc/new"):
    try:
        open(path, "w")
    except OSError:
        continue
    found.append(path)
return found
"""
    assert run_inside(python, tmp_path, body) == [["/var/task", "/var/task", "/var/task/module.py", "/var/task"]]
    assert [path.name for path in (tmp_path / "code").iterdir()] == ["module.py"]


def test_nothing_of_the_users_is_in_sight(python: Path, tmp_path: Path) -> None:
    """No home, shared memory, other process or emulator file is visible; not root [dg lambda-runtime-environment]."""
    body = f"""\
return {{
    "tmp": os.listdir("/tmp"),
    "outside": os.path.exists({str(tmp_path)!r}),
    "here": os.path.exists({str(Path(__file__).parent)!r}),
    "shm": os.path.exists("/dev/shm"),
    "home": os.path.exists(os.path.expanduser("~")),
    "processes": sum(name.isdigit() for name in os.listdir("/proc")),
    "uid": os.getuid(),
}}
"""
    assert run_inside(python, tmp_path, body) == [
        {"tmp": [], "outside": False, "here": False, "shm": False, "home": False, "processes": 2, "uid": 993}
    ]


def test_temporary_storage_is_as_large_as_the_function_asked_for(python: Path, tmp_path: Path) -> None:
    """/tmp has 512 MB by default [api CreateFunction]; when it is full, writing raises ``OSError``.

    The next call finds the files still there.
    """
    body = """\
import errno
try:
    with open("/tmp/big", "wb") as file:
        for number in range(600):
            file.write(bytes(2**20))
            file.flush()
except OSError as error:
    os.remove("/tmp/big")
    return [error.errno == errno.ENOSPC, number]
"""
    assert run_inside(python, tmp_path, body, calls=2) == [[True, 512], [True, 512]]


def test_what_pywrens_worker_rests_on_works_inside(python: Path, tmp_path: Path) -> None:
    """Anonymous files, the descriptor directories, process groups, owners of signals and pidfds work."""
    body = """\
import fcntl, signal, subprocess
memory = os.memfd_create("x")
reading, writing = os.pipe()
fcntl.fcntl(reading, fcntl.F_SETOWN, -os.getpgrp())
fcntl.fcntl(reading, 10, signal.SIGURG)  # F_SETSIG
child = subprocess.Popen(["sleep", "100"], start_new_session=True)
watched = os.pidfd_open(child.pid)
os.killpg(child.pid, signal.SIGKILL)
return [str(memory) in os.listdir("/dev/fd"), str(memory) in os.listdir("/proc/self/fd"), child.wait()]
"""
    assert run_inside(python, tmp_path, body) == [[True, True, -9]]


def test_a_child_interpreter_is_the_runtimes(python: Path, tmp_path: Path) -> None:
    """``sys.executable`` can be started, and can import boto3."""
    body = """\
import subprocess
program = "import boto3, sys; print(sys.executable)"
return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
"""
    assert run_inside(python, tmp_path, body) == [f"/var/lang/bin/{PYTHON}"]


KILLED_EMULATOR = """
import asyncio, sys
from pathlib import Path
from pywren.testing.emulator._container import Container, Invocation
from pywren.testing.emulator._functions import Code, Revision
from pywren.testing.emulator._interpreter import PYTHON
from pywren.testing.emulator._settings import Settings

python, directory, isolated = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "1"
chosen = {"Runtime": PYTHON, "Handler": "module.handler", "Timeout": 60, "MemorySize": 512}
revision = Revision(1, chosen, Code(directory / "code", "", 0, 0), ())
def log(time, line):
    if line.startswith("STARTED"): print("STARTED", flush=True)
async def main():
    container = Container("fn", "arn", revision, settings=Settings(isolated=isolated), python=python,
        directory=directory / "container", endpoint="", credentials=("", "", ""), log=log)
    await container.run(Invocation("id", b"null"))
asyncio.run(main())
"""

HOLDER = """
import os, subprocess, time
def handler(event, context):
    subprocess.Popen(["sleep", SECONDS], start_new_session=True)
    print("STARTED")
    time.sleep(60)
"""


@pytest.mark.parametrize("isolated", ["1", "0"])
def test_a_killed_emulator_takes_everything_with_it(python: Path, tmp_path: Path, isolated: str) -> None:
    """SIGKILL of the server also ends the function's processes, even those in other sessions."""
    seconds = str(random.randrange(10**6, 10**8))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "module.py").write_text(f"SECONDS = {seconds!r}\n{HOLDER}")
    command = [sys.executable, "-c", KILLED_EMULATOR, str(python), str(tmp_path), isolated]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "STARTED\n"
        held = {pid: os.pidfd_open(pid) for pid in find_processes(seconds)}
        assert held
        server.send_signal(signal.SIGKILL)
    for ended in held.values():
        assert wait_readable(ended)
        os.close(ended)


def find_processes(argument: str) -> list[int]:
    """Return the processes that run ``sleep argument``."""
    found = subprocess.run(["pgrep", "-fx", f"sleep {argument}"], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in found.split()]


def wait_readable(descriptor: int) -> bool:
    """Wait until the process of this pidfd has ended."""
    return bool(select.select([descriptor], [], [], 20)[0])
