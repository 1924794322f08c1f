"""Whether a process was killed because the memory was used up.

Linux counts the processes that its out-of-memory killer has killed. A process that died of SIGKILL while such a count
grew is taken for one of them. The counts are, in the order in which they are tried: ``memory.events`` of the control
group (cgroup v2), ``memory.oom_control`` (cgroup v1), and ``/proc/vmstat`` on Lambda, where the machine belongs to one
worker.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from pywren.wire.cause import Cause
from pywren.wire.failure import Failure

_SIGKILL = int(getattr(signal, "SIGKILL", 9))
_MB = 2**20
_LAMBDA_MEMORY = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"
_UNLIMITED = 2**60
"""cgroup v1 writes a huge number for no limit."""


def oom_kills(root: Path = Path("/")) -> int | None:
    """Return how many processes here the system has killed to get memory; ``None`` if it does not tell.

    Args:
        root: the directory with ``proc`` and ``sys``.
    """
    for folder in _control_groups(root):
        for name in ("memory.events", "memory.oom_control"):
            count = _field(folder / name, "oom_kill")
            if count is not None:
                return count
    return _field(root / "proc/vmstat", "oom_kill") if _LAMBDA_MEMORY in os.environ else None


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return how many bytes of memory this worker may use; ``None`` if that is not known.

    Args:
        root: the directory with ``proc`` and ``sys``.
    """
    size = os.environ.get(_LAMBDA_MEMORY, "")
    if size.isdecimal():
        return int(size) * _MB
    return _first_number(root, ("memory.max", "memory.limit_in_bytes"))


def memory_peak(root: Path = Path("/")) -> int | None:
    """Return the most bytes of memory that this worker has used at once; ``None`` if that is not known.

    Args:
        root: the directory with ``proc`` and ``sys``.
    """
    return _first_number(root, ("memory.peak", "memory.max_usage_in_bytes"))


def judge(failure: Failure | None, kills_before: int | None, root: Path = Path("/")) -> Failure | None:
    """Find out whether a worker process that died alone had used up the memory.

    Args:
        failure: how the call ended; ``None`` if it has an outcome.
        kills_before: what ``oom_kills`` returned before the call.
        root: the directory with ``proc`` and ``sys``.

    Returns:
        The failure, with the cause ``OUT_OF_MEMORY`` and the memory in its message if the memory was used up. A failure
        whose cause is known to be another one is returned unchanged.
    """
    if failure is None or failure.details[:1] != (-_SIGKILL,) or failure.cause not in (None, Cause.KILLED):
        return failure
    kills = oom_kills(root)
    if kills is None or kills_before is None or kills <= kills_before:
        # On Lambda nobody outside the function could kill one of its processes. Only the memory remains, or a process
        # that the function started: both would happen again.
        return failure._replace(cause=Cause.OUT_OF_MEMORY) if _LAMBDA_MEMORY in os.environ else failure
    _, newline, output = failure.message.partition("\n")
    return failure._replace(message=_exhausted(root) + newline + output, cause=Cause.OUT_OF_MEMORY)


def _exhausted(root: Path) -> str:
    limit, peak = memory_limit(root), memory_peak(root)
    sizes = [f"{peak // _MB:,} MB used"] if peak is not None else []
    sizes += [f"the limit is {limit // _MB:,} MB"] if limit is not None else []
    known = f" ({', '.join(sizes)})" if sizes else ""
    remedy = "`lambda: memory` in the configuration" if _LAMBDA_MEMORY in os.environ else "a larger machine"
    return (
        f"the call ran out of memory{known}: the system killed its process (return code {-_SIGKILL}, SIGKILL). "
        f"Give the worker more memory ({remedy}), or give each call less to do"
    )


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the directories that may describe the memory of this process's control group."""
    # Lines of cgroup(7): ``number:controllers:path``. The path may be one of the host's, which a container does not
    # see; its own group is then at the root.
    for line in _read(root / "proc/self/cgroup").splitlines()[:100]:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers in ("", "memory"):
            base = root / "sys/fs/cgroup" / controllers
            yield from (base / path.lstrip("/"), base)


def _first_number(root: Path, names: tuple[str, ...]) -> int | None:
    for folder in _control_groups(root):
        for name in names:
            text = _read(folder / name).strip()
            if text.isdecimal() and int(text) < _UNLIMITED:
                return int(text)
    return None


def _field(path: Path, name: str) -> int | None:
    """Return the number after a name in a file of lines such as ``oom_kill 3``."""
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return None


def _read(path: Path) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(_MOST)
    except OSError:
        return ""


_MOST = 64 * 1024
