"""Whether a process was killed because the memory was used up."""

from __future__ import annotations

from pathlib import Path

import pytest

from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker.memory import judge, memory_limit, memory_peak, oom_kills

KILLED = Failure("WorkerCrashedError", "the process ended\nlast lines of stderr:\n  loading", (-9,), Cause.KILLED)
LAMBDA = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"


@pytest.fixture(autouse=True)
def not_on_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what Lambda sets."""
    monkeypatch.delenv(LAMBDA, raising=False)


def write(root: Path, files: dict[str, str]) -> None:
    """Write files of a system."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V2 = {
    "proc/self/cgroup": "0::/system.slice/pywren.service\n",
    "sys/fs/cgroup/system.slice/pywren.service/memory.events": "low 0\nmax 4\noom 2\noom_kill 3\noom_group_kill 0\n",
    "sys/fs/cgroup/system.slice/pywren.service/memory.max": "536870912\n",
    "sys/fs/cgroup/system.slice/pywren.service/memory.peak": "530000000\n",
}
IN_A_CONTAINER = {
    "proc/self/cgroup": "0::/docker/0123abc\n",
    "sys/fs/cgroup/memory.events": "oom 1\noom_kill 3\n",
    "sys/fs/cgroup/memory.max": "536870912\n",
    "sys/fs/cgroup/memory.peak": "530000000\n",
}
V1 = {
    "proc/self/cgroup": "4:memory:/user/1\n1:cpu:/\n0::/\n",
    "sys/fs/cgroup/memory/user/1/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "sys/fs/cgroup/memory/user/1/memory.limit_in_bytes": "536870912\n",
    "sys/fs/cgroup/memory/user/1/memory.max_usage_in_bytes": "530000000\n",
}


@pytest.mark.parametrize("files", [V2, IN_A_CONTAINER, V1], ids=["cgroup v2", "container", "cgroup v1"])
def test_what_the_control_group_tells(tmp_path: Path, files: dict[str, str]) -> None:
    """Both versions of control groups have the count, the limit and the peak."""
    write(tmp_path, files)
    assert oom_kills(tmp_path) == 3
    assert memory_limit(tmp_path) == 2**29
    assert memory_peak(tmp_path) == 530_000_000


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "nonsense\n::\n0::/../../etc\n"},
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "max\n",
            "sys/fs/cgroup/memory.events": "oom_kill x",
        },
        {"proc/self/cgroup": "1:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"},
    ],
)
def test_what_is_not_told(tmp_path: Path, files: dict[str, str]) -> None:
    """Without a control group, or without a limit, nothing is known."""
    write(tmp_path, {**files, "proc/vmstat": "oom_kill 5\n"})
    assert (oom_kills(tmp_path), memory_limit(tmp_path), memory_peak(tmp_path)) == (None, None, None)
    assert judge(KILLED, None, tmp_path) == KILLED


def test_on_lambda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda names the limit, and its machine, which counts kills, belongs to one worker."""
    monkeypatch.setenv(LAMBDA, "512")
    write(tmp_path, {"proc/vmstat": "nr_free 1\noom_kill 5\n"})
    assert memory_limit(tmp_path) == 2**29
    assert oom_kills(tmp_path) == 5
    judged = judge(KILLED, 4, tmp_path)
    assert judged is not None
    assert judged.cause is Cause.OUT_OF_MEMORY
    assert "ran out of memory (the limit is 512 MB)" in judged.message
    assert "`lambda: memory`" in judged.message


def test_on_lambda_a_process_killed_alone_has_no_other_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the count is not readable there, the message stays as vague as what is known."""
    monkeypatch.setenv(LAMBDA, "512")
    assert judge(KILLED, None, tmp_path) == KILLED._replace(cause=Cause.OUT_OF_MEMORY)


def test_the_message_has_the_memory_and_the_output(tmp_path: Path) -> None:
    """It names what was used and the limit, and keeps the last lines of the call's output."""
    write(tmp_path, V2)
    judged = judge(KILLED, 2, tmp_path)
    assert judged is not None
    assert judged.cause is Cause.OUT_OF_MEMORY
    assert judged.details == (-9,)
    assert "ran out of memory (505 MB used, the limit is 512 MB)" in judged.message
    assert judged.message.endswith("\nlast lines of stderr:\n  loading")


@pytest.mark.parametrize(
    "failure",
    [
        None,
        KILLED._replace(cause=Cause.ENDED_ITSELF),
        KILLED._replace(details=(-11,)),
        KILLED._replace(details=(None,)),
        Failure("CallTimeoutError", "too long", (), Cause.TIMED_OUT),
    ],
)
def test_other_failures_stay_as_they_are(tmp_path: Path, failure: Failure | None) -> None:
    """Only a process that died of SIGKILL, and did not send it itself, may have been killed for its memory."""
    write(tmp_path, V2)
    assert judge(failure, 2, tmp_path) is failure


def test_a_kill_while_nothing_was_killed_for_memory(tmp_path: Path) -> None:
    """Somebody else sent the signal."""
    write(tmp_path, V2)
    assert judge(KILLED, 3, tmp_path) is KILLED


def test_this_machine() -> None:
    """Whatever this system tells, reading it does not fail."""
    for value in (oom_kills(), memory_limit(), memory_peak()):
        assert value is None or value >= 0
