"""Directories for temporary files: who holds them, and which are removed when nobody does."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from child_processes import WAIT, wait_until

from pywren.worker.directories import remove_abandoned_directories, remove_directory

NAME = "pywren-4194305-0123456789abcdef"  # a process id larger than Linux uses
OTHER = "pywren-4194305-fedcba9876543210"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a separate directory for temporary files."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    return place


def fill(directory: Path) -> Path:
    """Make a directory with some contents."""
    (directory / "scratch" / "deep").mkdir(parents=True)
    (directory / "scratch" / "deep" / "file").write_text("x")
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def contains(directory: Path, name: str) -> bool:
    """Return whether there is a file of this name, at any depth of a directory that a process is changing."""
    return any(name in files for _, _, files in os.walk(directory))  # it passes over directories that have gone


class TestAbandoned:
    """``remove_abandoned_directories``."""

    def test_what_nobody_holds_goes_at_once(self, temporary: Path) -> None:
        """An unlocked directory is removed, however new it is and whichever process now has its client's id."""
        fill(temporary / NAME)
        fill(temporary / f"pywren-{os.getpid()}-0123456789abcdef")
        fill(temporary / "pywren-notes")
        remove_abandoned_directories()
        assert names(temporary) == ["pywren-notes"]

    def test_what_a_process_holds_stays(self, temporary: Path) -> None:
        """The lock decides, even where the process id means nothing, as in another container."""
        directory = fill(temporary / NAME)
        os.utime(directory, (0, 0))
        held = os.open(directory, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)
        remove_abandoned_directories()
        assert names(temporary) == [NAME]
        os.close(held)
        remove_abandoned_directories()
        assert names(temporary) == []

    def test_what_is_being_made_stays_for_a_day(self, temporary: Path) -> None:
        """A directory that is still being made has no lock yet."""
        young, old = fill(temporary / f"{NAME}.new"), fill(temporary / f"{OTHER}.new")
        os.utime(old, (0, 0))
        remove_abandoned_directories()
        assert names(temporary) == [young.name]

    def test_without_locks_it_takes_a_day(self, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a file system without locks, age and process id decide."""

        def no_locks(descriptor: int, operation: int) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_locks)
        fill(temporary / NAME)
        living = fill(temporary / f"pywren-{os.getpid()}-0123456789abcdef")
        for old in (fill(temporary / OTHER), living):
            os.utime(old, (0, 0))
        remove_abandoned_directories()
        assert names(temporary) == sorted([NAME, living.name])

    @pytest.mark.parametrize("target", ["directory", "file", "nothing"])
    def test_links_are_not_followed(self, temporary: Path, tmp_path: Path, target: str) -> None:
        """Another user may have put the link there, so its target is not touched."""
        mine = tmp_path / "mine"
        if target == "directory":
            (fill(mine) / "empty").mkdir()
            os.utime(mine, (0, 0))
        elif target == "file":
            mine.write_text("x")
        (temporary / NAME).symlink_to(mine)
        before = sorted(tmp_path.rglob("mine/**/*"))
        remove_abandoned_directories()
        assert sorted(tmp_path.rglob("mine/**/*")) == before
        assert (temporary / NAME).is_symlink()

    def test_links_within_are_removed_themselves(self, temporary: Path, tmp_path: Path) -> None:
        """A call may have left links to anything: they are removed, and their targets are not."""
        mine = fill(tmp_path / "mine")
        (fill(temporary / NAME) / "scratch" / "link").symlink_to(mine)
        (temporary / NAME / "other").symlink_to(mine / "scratch" / "deep" / "file")
        remove_abandoned_directories()
        assert names(temporary) == []
        assert (mine / "scratch" / "deep" / "file").exists()

    def test_a_name_that_becomes_a_link_meanwhile(
        self, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The directory that was checked is emptied, whatever has its name by then."""
        mine = fill(tmp_path / "mine")
        real = fcntl.flock

        def swap(descriptor: int, operation: int) -> None:
            real(descriptor, operation)
            (temporary / NAME).rename(temporary / "moved")
            (temporary / NAME).symlink_to(mine)

        fill(temporary / NAME)
        monkeypatch.setattr(fcntl, "flock", swap)
        remove_abandoned_directories()
        assert (mine / "scratch" / "deep" / "file").exists()
        assert names(temporary / "moved") == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
    def test_a_killed_clients_goes_with_the_next_program(self, temporary: Path, number: int) -> None:
        """Row 249: the files that its calls wrote to their directories are removed."""
        program = """
            import sys, time, pywren
            def write(seconds):
                open("part.bin", "wb").write(bytes(1_000_000))
                print("written", flush=True)
                time.sleep(seconds)
            pywren.get_all_results(pywren.local_executor().map(write, [float(sys.argv[1])]))
        """
        command = [sys.executable, "-c", textwrap.dedent(program)]
        with subprocess.Popen([*command, "1000"]) as client:
            try:
                assert wait_until(lambda: contains(temporary, "part.bin"))
            except BaseException:
                client.kill()
                raise
            client.send_signal(number)
        subprocess.run([*command, "0"], check=True, timeout=WAIT)
        assert wait_until(lambda: names(temporary) == [])


class TestRemove:
    """``remove_directory``."""

    def test_whatever_a_call_has_done_to_it(self, temporary: Path) -> None:
        """A directory with missing permissions, odd names, pipes and nesting is removed."""
        directory = fill(temporary / NAME)
        os.mkfifo(directory / "pipe")
        (directory / "new\nline").touch()
        (directory / os.fsdecode(b"\xff\xfe")).touch()
        (directory / "a" / "b").mkdir(parents=True)
        (directory / "a" / "b" / "file").touch()
        for path in (directory / "a" / "b", directory / "a", directory / "scratch"):
            path.chmod(0)
        remove_directory(str(directory))
        assert names(temporary) == []

    def test_any_depth(self, temporary: Path) -> None:
        """Stack depth, the number of descriptors and the length of a path are no limits."""
        directory = temporary / NAME
        directory.mkdir()
        here = os.open(directory, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("down", dir_fd=here)
            inner = os.open("down", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(here)
        remove_directory(str(directory))
        assert names(temporary) == []

    def test_a_link_or_nothing_at_all(self, temporary: Path, tmp_path: Path) -> None:
        """If there is a link instead, it is left alone, and a missing directory is no error."""
        mine = fill(tmp_path / "mine")
        (temporary / NAME).symlink_to(mine)
        remove_directory(str(temporary / NAME))
        remove_directory(str(temporary / OTHER))
        assert (mine / "scratch" / "deep" / "file").exists()

    def test_what_a_process_left_that_was_killed_at_its_beginning(self, temporary: Path) -> None:
        """The directory did not have its final name yet."""
        (temporary / (NAME + ".new")).mkdir()
        remove_directory(str(temporary / NAME))
        assert not list(temporary.iterdir())


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077, 0o777])
def test_a_held_directory_is_private(temporary: Path, umask: int) -> None:
    """Its mode is 0700 whatever the umask, and it stays for as long as the process that holds it."""
    program = (
        "import os, sys\n"
        "from pywren.worker.directories import hold_directory\n"
        "os.umask(int(sys.argv[2]))\n"
        "hold_directory(sys.argv[1])\n"
        "print(flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(temporary / NAME), str(umask)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        assert (temporary / NAME).stat().st_mode & 0o777 == 0o700
        remove_abandoned_directories()
        assert names(temporary) == [NAME]
        holder.communicate()
    remove_abandoned_directories()
    assert names(temporary) == []
