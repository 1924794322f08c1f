"""What this process has at a moment, so that two moments can be compared."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from pywren.system.threads import MOST_AT_ONCE

_POLL_SECONDS = 0.05
_MEGABYTE = 1_000_000


class Remains(NamedTuple):
    """What this process has.

    Args:
        processes: the ids of its direct children. Those of an emulator are not direct children.
        threads: the names of its threads.
        files: the names in the directory for temporary files.
    """

    processes: frozenset[int]
    threads: frozenset[str]
    files: frozenset[str]

    @classmethod
    def now(cls) -> Remains:
        """Return what this process has now."""
        return cls(frozenset(_children()), frozenset(_threads()), frozenset(os.listdir(tempfile.gettempdir())))

    def more_than(self, before: Remains) -> list[str]:
        """Return what is new since ``before``, in words."""
        found = [f"process {_name(pid)}" for pid in self.processes - before.processes]
        found += [f"thread {name}" for name in self.threads - before.threads]
        return found + [f"file {name}" for name in self.files - before.files]


@contextmanager
def own_directories() -> Iterator[None]:
    """Keep the temporary files and the home of pywren apart from those of other programs."""
    with tempfile.TemporaryDirectory(prefix="pw-") as directory:
        temporary = os.path.join(directory, "t")
        os.mkdir(temporary)
        os.environ.update(TMPDIR=temporary, PYWREN_HOME=os.path.join(directory, "h"))
        tempfile.tempdir = temporary
        yield
        tempfile.tempdir = None


def left_since(before: Remains, grace: float) -> list[str]:
    """Return what is new since ``before`` and does not end within some seconds: processes and threads take a moment."""
    deadline = time.monotonic() + grace
    while True:
        gc.collect()
        left = Remains.now().more_than(before)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_POLL_SECONDS)


class Size(NamedTuple):
    """How big this process is.

    Args:
        threads: how many threads it has.
        descriptors: how many descriptors it has, without the connections that its clients keep for later requests:
            these are as many as were ever sent in parallel.
        children: how many child processes it has.
        megabytes: how much memory of its own it uses.
    """

    threads: int
    descriptors: int
    children: int
    megabytes: float

    @classmethod
    def now(cls) -> Size:
        """Return how big this process is now."""
        gc.collect()
        own = psutil.Process()
        memory = own.memory_full_info().uss / _MEGABYTE
        kept = [one for one in own.net_connections("tcp") if one.raddr]
        assert len(kept) <= 2 * MOST_AT_ONCE, "the clients of S3 and Lambda do not reuse their connections"
        return cls(threading.active_count(), own.num_fds() - len(kept), len(_children()), memory)


def _children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if not _is_tracker(child)]


def _is_tracker(process: psutil.Process) -> bool:
    """Tell whether a process is multiprocessing's tracker, which lasts as long as the process that started it."""
    try:
        return "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _threads() -> Iterable[str]:
    return (f"{thread.name} {thread.ident}" for thread in threading.enumerate())


def _name(pid: int) -> str:
    try:
        return f"{pid} {' '.join(psutil.Process(pid).cmdline())[:100]}"
    except psutil.Error:
        return str(pid)
