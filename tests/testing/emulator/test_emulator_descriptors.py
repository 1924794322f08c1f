"""The emulator's process with few file descriptors."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pywren.exceptions import ArgumentError
from pywren.testing.emulator import emulate


def run(program: str) -> dict[str, object]:
    """Run a program with its own limits, and return its output."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return {**said, "log": done.stderr}


def test_more_containers_than_can_be_had_are_refused() -> None:
    """Row 111: the error has the numbers, and nothing is started."""
    said = r"100000000 containers need 1,000,000,256 open files.*10 per container.*ulimit"
    with pytest.raises(ArgumentError, match=said), emulate(containers=100_000_000):
        pass


LOW_SOFT_LIMIT = """
import json, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
from pywren.testing.emulator._descriptors import raise_limit
raise_limit()
print(json.dumps({"raised": resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(hard, 10240)}))
"""


def test_the_soft_limit_does_not_count() -> None:
    """A shell's soft limit of 256 or 1,024 is raised to the hard limit."""
    assert run(LOW_SOFT_LIMIT)["raised"]


NONE_LEFT = """
import asyncio, json, resource, socket
from pywren.testing.emulator._descriptors import Descriptors

async def main():
    descriptors = Descriptors()
    ended = asyncio.ensure_future(descriptors.ended())
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, backlog=100)
    address = server.sockets[0].getsockname()
    client = socket.socket()
    used = client.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, used + 1))
    client.connect(address)
    said = str(await asyncio.wait_for(ended, 10))
    client.close()
    server.close()
    print(json.dumps({"said": said}))

asyncio.run(main())
"""


def test_it_ends_when_there_are_none_left() -> None:
    """Row 112: it says how many there are and what to do, and does not fill its log."""
    ended = run(NONE_LEFT)
    assert "the emulated AWS has reached its limit of" in str(ended["said"])
    assert str(ended["log"]).count("\n") < 10
