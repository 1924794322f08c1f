"""The lock that shows other processes that a client of this machine is alive."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from pywren.client import presence
from pywren.client.presence import announce, client_of
from pywren.exceptions import StorageError

ANNOUNCE = """
import sys
from pathlib import Path
from pywren.client.presence import announce
for path in sys.argv[2:]:
    announce(Path(path), Path(sys.argv[1]))
print("announced", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def scratch(tmp_path):
    """A directory for temporary files."""
    presence.forget_all()  # what an earlier test has announced elsewhere
    return tmp_path / "scratch"


def start(scratch, *paths):
    process = subprocess.Popen(
        [sys.executable, "-c", ANNOUNCE, str(scratch), *map(str, paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "announced\n"
    return process


def end(process):
    process.kill()
    process.communicate(timeout=60)


def test_a_lock_that_outlives_its_process(tmp_path, scratch):
    """A child that a process was starting when it was killed keeps the lock for a moment: whoever is patient waits."""
    path = tmp_path / "client"
    script = """
        import os, signal, subprocess, sys
        from pathlib import Path
        from pywren.client import presence
        presence.announce(Path(sys.argv[1]), Path(sys.argv[2]))
        subprocess.Popen(["sleep", "1"], pass_fds=[presence._open[0].fileno()], stdout=subprocess.DEVNULL)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), path, scratch], check=False)
    assert client_of(path) is not None
    assert client_of(path, patience=60) is None


def test_a_process_that_lives_is_not_waited_for(tmp_path, scratch):
    """Patience is only for those that are gone."""
    path = tmp_path / "client"
    process = start(scratch, path)
    try:
        assert client_of(path, patience=math.inf).pid == process.pid
    finally:
        end(process)


def test_a_process_is_seen_until_it_is_killed(tmp_path, scratch):
    """The kernel releases the lock of a process that ends in any way, for all callsets at once."""
    first, second = tmp_path / "a" / "client", tmp_path / "b" / "client"
    process = start(scratch, first, second)
    try:
        assert [client_of(path).pid for path in (first, second)] == [process.pid] * 2
        assert abs(client_of(first).since - os.stat(first).st_mtime) < 60
    finally:
        end(process)
    assert client_of(first) is None
    assert client_of(second) is None


def test_a_new_client_replaces_a_dead_one(tmp_path, scratch):
    """Whoever resumes a job shows that it lives under the same path."""
    path = tmp_path / "client"
    end(start(scratch, path))
    announce(path, scratch)
    assert client_of(path).pid == os.getpid()
    announce(path, scratch)
    assert client_of(path).pid == os.getpid()
    assert len(presence._open) == 1
    assert len(list(scratch.iterdir())) == 2  # the first names of both processes, and no temporary names


def test_many_callsets_need_one_descriptor(tmp_path, scratch):
    """A program that makes hundreds of jobs keeps one file open."""
    for number in range(50):
        announce(tmp_path / str(number) / "client", scratch)
    assert len(presence._open) == 1
    assert all(client_of(tmp_path / str(number) / "client") for number in range(50))


def test_the_clean_up_of_temporary_files_does_no_harm(tmp_path, scratch):
    """It may remove the first name of the file. The lock stays, and later callsets get another file."""
    announce(tmp_path / "a", scratch)
    for path in scratch.iterdir():
        path.unlink()
    announce(tmp_path / "b", scratch)
    assert client_of(tmp_path / "a")
    assert client_of(tmp_path / "b")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_does_not_keep_a_dead_parent_alive(tmp_path):
    """The child shares the open file, but closes its copy."""
    code = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from pywren.client.presence import announce
announce(Path({str(tmp_path / "client")!r}), Path({str(tmp_path / "scratch")!r}))
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, b"x")
    signal.pause()
os.read(read, 1)
print(os.getpgrp(), flush=True)
os._exit(0)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    group = int(process.stdout.readline())
    try:
        assert process.wait(60) == 0
        assert client_of(tmp_path / "client") is None
    finally:
        os.killpg(group, signal.SIGKILL)
        process.stdout.close()


def test_a_file_that_something_else_locks_has_a_living_client(tmp_path):
    """Its content may be anything."""
    import fcntl

    with open(tmp_path / "client", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for content in (b"", b"[1]", b'["x", 1]', b"\xff"):
            (tmp_path / "client").write_bytes(content)
            assert client_of(tmp_path / "client").pid == 0


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path, scratch):
    """The message names the path and the remedy."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot show other processes .*file/client.*PYWREN_HOME"):
        announce(tmp_path / "file" / "client", scratch)
