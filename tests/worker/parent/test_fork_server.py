"""The fork server with real processes: one for each function's calls, and nothing of it is left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from child_processes import WAIT, error, is_alive, value, wait_until

from pywren.exceptions import ConfigError
from pywren.pickling.adapters import Initialized, Setup
from pywren.pickling.packed import Packed, dumps
from pywren.pickling.packed_exceptions import load_exception
from pywren.wire.digests import sha256
from pywren.worker.parent import fork_server, process
from pywren.worker.parent.fork_server import ForkServer
from pywren.worker.parent.pool import LocalPool
from pywren.worker.parent.process import Process
from pywren.worker.task import Function, RunResult, Stop, Task

pytestmark = pytest.mark.usefixtures("by_value")


UMASK = oct(os.umask(0o022))
os.umask(int(UMASK, 8))


@pytest.fixture(scope="module")
def shown() -> list[tuple[str, str]]:
    """Return the call output that the server passed on."""
    return []


@pytest.fixture(scope="module")
def server(shown: list[tuple[str, str]]) -> Iterator[ForkServer]:
    """Return a fork server, which is closed after the module's tests."""
    with ForkServer(lambda name, text: shown.append((name, text))) as server:
        yield server


def run(server: ForkServer, called: Callable[..., Any], arg: Any = None, **options: Any) -> RunResult:
    """Run one call."""
    stopped = options.pop("stopped", None)
    modules: Mapping[str, bytes] = options.pop("modules", {})
    packed, runtime_path = dumps(called, out_of_band=True), options.pop("runtime_path", None)
    name = options.pop("function_id", None) or repr((sha256(packed.data), sorted(modules), runtime_path))
    function = Function(name, packed, modules, runtime_path)
    return server.run(Task(function, dumps(arg, out_of_band=True), **options), stopped=stopped)


def wait_for(path: Path) -> None:
    """Wait, in a call, until a file has content."""
    while not (path.exists() and path.read_text()):
        time.sleep(0.01)


def test_on_lambda_the_deployed_code_is_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files beside pywren in the zip, and those in layers, are on the path after everything else."""
    (tmp_path / "deployed_beside.py").write_text("VALUE = 42\n")
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # as Lambda's runtime client is started

    def call(_: Any) -> tuple[int, list[str]]:
        import deployed_beside

        return deployed_beside.VALUE, sys.path

    with ForkServer() as server:
        found, path = value(run(server, call))
    layers = [f"/opt/python/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages", "/opt/python"]
    assert (found, path[-3:]) == (42, [str(tmp_path), *layers])


def spoil(_: Any) -> tuple[int, int, bool, list[str], str, str | None, bool]:
    sys.spoiled = getattr(sys, "spoiled", 0) + 1  # type: ignore[attr-defined]
    Path("left").touch()
    files, umask, changed = os.listdir("."), os.umask(0o077), os.environ.get("CHANGED")
    os.environ["CHANGED"] = "1"
    os.chdir("/")
    sys.stdout = None  # type: ignore[assignment]
    grouped = os.getpid() == os.getpgrp()
    threads = os.environ.get("OMP_NUM_THREADS")
    return os.getpid(), sys.spoiled, grouped, files, oct(umask), changed, threads == "1"  # type: ignore[attr-defined]


def test_every_function_has_a_process_of_its_own(server: ForkServer) -> None:
    """A call of another function, or with another environment, finds no traces of the previous call."""
    found = [
        value(run(server, spoil, function_id="one")),
        value(run(server, spoil, function_id="two")),
        value(run(server, spoil, function_id="two", extra_env={"A": "1"})),
        value(run(server, spoil, function_id="one")),
    ]
    assert len({pid for pid, *_ in found}) == 4
    assert {tuple(map(str, rest)) for _, *rest in found} == {("1", "True", "['left']", UMASK, "None", "True")}


def test_calls_of_one_function_share_a_process(server: ForkServer) -> None:
    """The next call of a function finds its imported modules, and an empty directory."""

    def call(_: Any) -> tuple[int, int, list[str]]:
        sys.spoiled = getattr(sys, "spoiled", 0) + 1  # type: ignore[attr-defined]
        Path("left").touch()
        return os.getpid(), sys.spoiled, os.listdir(".")  # type: ignore[attr-defined]

    found = [value(run(server, call)) for _ in range(3)]
    assert found == [(found[0][0], count, ["left"]) for count in (1, 2, 3)]


@pytest.mark.parametrize(
    "change",
    [
        lambda: os.environ.update(A="1"),
        lambda: sys.path.append("/"),
        lambda: sys.setrecursionlimit(5000),
        lambda: setattr(sys, "stdout", None),
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: signal.setitimer(signal.ITIMER_PROF, 60),
        lambda: os.nice(1),
        lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    ],
    ids=["environment", "path", "recursion", "stream", "signal", "timer", "nice", "limit"],
)
def test_a_process_that_a_call_has_changed_is_not_kept(server: ForkServer, change: Callable[[], object]) -> None:
    """A call does not see the changes that the previous one made to its process."""
    first, second = (value(run(server, lambda _: (change(), os.getpid())[1])) for _ in range(2))
    assert first != second


def test_what_an_import_changes_is_there_for_every_call(server: ForkServer) -> None:
    """Calls that share a process import a module once, and the effects of that import stay."""
    source = b"import os, sys\nos.environ['MODE'] = 'x'\nsys.setrecursionlimit(4321)\ndef f(): pass\n"

    def call(_: Any) -> tuple[str | None, int, int]:
        return os.environ.get("MODE"), sys.getrecursionlimit(), os.getpid()

    packed = dumps(call)
    function = Function("import", packed, {"sets_mode.py": source})
    argument = Packed(b"csets_mode\nf\n.")  # a pickle that imports the module
    found = [value(server.run(Task(function, argument))) for _ in range(3)]
    assert found == [("x", 4321, found[0][2])] * 3


def test_what_a_call_imports_is_there_for_the_next(server: ForkServer) -> None:
    """A variable that the import sets stays with the module; one that the call sets ends the process."""
    source = b"import os\nos.environ['IMPORTED'] = os.environ['COPIED'] = 'x'\n"

    def call(change: str) -> tuple[str | None, str | None, int]:
        import sets_variables  # type: ignore[import-not-found] # noqa: F401

        if change:
            os.environ[change] = "y"
        return os.environ.get("IMPORTED"), os.environ.get("COPIED"), os.getpid()

    function = Function("imports", dumps(call), {"sets_variables.py": source})
    given = ["", "", "COPIED", "", "OWN", ""]
    found = [value(server.run(Task(function, dumps(change)))) for change in given]
    assert [one[:2] for one in found] == [("x", "x"), ("x", "x"), ("x", "y"), ("x", "x"), ("x", "x"), ("x", "x")]
    pids = [pid for *_, pid in found]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4] != pids[5]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what children leave")
def test_a_background_job_ends_with_its_call(server: ForkServer, tmp_path: Path) -> None:
    """A shell's job whose parent has ended is also found, and adds nothing to the next call's output."""
    pid_file = tmp_path / "pid"
    command = f"(sh -c 'echo $PPID' > {pid_file}; sleep 60; echo late) &"
    result = run(server, lambda _: (os.system(command), wait_for(pid_file), os.getpid())[2])
    assert result.info["leftovers"] == "child processes"
    assert wait_until(lambda: not is_alive(int(pid_file.read_text())))
    assert value(run(server, lambda _: os.getpid())) != value(result)


def test_a_forked_client_leaves_its_parents_processes_alone(server: ForkServer) -> None:
    """After a fork of the client, the parent keeps its waiting process, and the child gets its own."""
    parents = value(run(server, lambda _: os.getpid(), function_id="forked"))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, str(value(run(server, lambda _: os.getpid(), function_id="other"))).encode())
            server.close()
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        childs = int(answer.read())
    os.waitpid(pid, 0)
    assert childs != parents == value(run(server, lambda _: os.getpid(), function_id="forked"))


def test_a_process_that_something_killed_between_two_calls_is_replaced(server: ForkServer) -> None:
    """A call is not affected when the process that waited for it has died."""
    first = value(run(server, lambda _: os.getpid(), function_id="f"))
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: not Path(f"/proc/{first}").exists()) or sys.platform != "linux"
    assert value(run(server, lambda _: os.getpid(), function_id="f")) != first


# -- maps of one function --------------------------------------------------------------------------------------------

COUNTED = [0]


class Counter:
    """A class of the client's program."""

    calls = 0


def count(_: Any) -> tuple[int, int, int, int]:
    """Count in a variable and a class that were sent, and in a module that was sent."""
    import counting  # type: ignore[import-not-found]

    COUNTED[0] += 1
    Counter.calls += 1
    return os.getpid(), COUNTED[0], Counter.calls, counting.add()


COUNTING = {"counting.py": b"calls = 0\ndef add():\n    global calls\n    calls += 1\n    return calls\n"}


def run_of_map(server: ForkServer, callset: str, called: Packed, arg: Any = None, **options: Any) -> RunResult:
    """Run one call of a map, which may share its process with other maps of the client."""
    modules, shared_as = options.pop("modules", {}), options.pop("shared_as", ("client", sha256(called.data)))
    return server.run(Task(Function(callset, called, modules, shared_as=shared_as), dumps(arg), **options))


def test_maps_of_one_function_share_a_process(server: ForkServer) -> None:
    """Each map finds the function as it was sent, whatever another map has done, and modules as they were left."""
    packed = dumps(count, out_of_band=True)
    maps = ("a", "a", "b", "b", "a", "c")
    found = [value(run_of_map(server, callset, packed, modules=COUNTING)) for callset in maps]
    assert [tuple(rest) for _, *rest in found] == [(1, 1, 1), (2, 2, 2), (1, 1, 3), (2, 2, 4), (1, 1, 5), (1, 1, 6)]
    assert len({pid for pid, *_ in found}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"shared_as": ("another client",)},
        {"shared_as": None},
        {"extra_env": {"A": "1"}},
    ],
    ids=["client", "alone", "environment"],
)
def test_maps_that_differ_share_nothing(server: ForkServer, other: dict[str, Any]) -> None:
    """The process of one ends before the other's begins, so that their memory does not add up."""

    def pid(_: Any) -> int:
        return os.getpid()

    packed = dumps(pid)
    first = value(run_of_map(server, "one", packed))
    assert value(run_of_map(server, "two", packed, **other)) != first
    assert not is_alive(first)
    assert value(run_of_map(server, "one", packed)) != first


def test_a_name_is_not_taken_for_what_is_shared(server: ForkServer) -> None:
    """An id says nothing of what another function shares, even if both have the same words."""
    packed = dumps(lambda _: os.getpid())
    first = value(run_of_map(server, "one", packed, shared_as=("client",)))
    assert value(server.run(Task(Function("client", packed), dumps(None)))) != first


def test_what_a_map_has_left_is_not_there_for_the_next(server: ForkServer) -> None:
    """A process that one map's call has changed, or in which it left something, runs no call of another map."""

    def leave(what: str) -> int:
        if what == "environment":
            os.environ["LEFT"] = "1"
        if what == "thread":
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        return os.getpid()

    packed = dumps(leave)
    pids = [value(run_of_map(server, callset, packed, callset)) for callset in ("environment", "thread", "nothing")]
    assert len(set(pids)) == 3


REGISTRY = {
    "registry.py": b"""
import os

names = []

def taken(name):
    if name in names:
        raise ValueError(name + " is taken")
    names.append(name)
    return lambda _: (os.getpid(), len(names))
"""
}


def test_a_function_that_loads_once_in_a_process(server: ForkServer) -> None:
    """If a process cannot load the function for a second map, another process runs its calls."""
    packed = Packed(b"cregistry\ntaken\n(S'f'\ntR.")  # a pickle whose loading takes a name
    found = [value(run_of_map(server, callset, packed, modules=REGISTRY)) for callset in ("a", "a", "b", "b")]
    assert [names for _, names in found] == [1, 1, 1, 1]
    pids = [pid for pid, _ in found]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def run_together(server: ForkServer, called: Packed, places: Sequence[Path]) -> list[int]:
    """Run a call of a map in each of several processes, and return these."""
    with ThreadPoolExecutor(len(places)) as threads:
        runs = [threads.submit(run_of_map, server, place.name, called, (place, places)) for place in places]
        return [value(run.result(WAIT)) for run in runs]


def meet(argument: tuple[Path, list[Path]]) -> int:
    """Wait until each of several calls has begun, and return this process."""
    mine, places = argument
    mine.write_text("here")
    for one in places:
        wait_for(one)
    return os.getpid()


def test_an_argument_that_cannot_be_loaded_after_another_map(server: ForkServer, tmp_path: Path) -> None:
    """Its call ends with its own error, once a new process could not load it either, however many others wait."""
    packed = dumps(meet)
    first = run_together(server, packed, [tmp_path / f"a{number}" for number in range(4)])
    assert set(run_together(server, packed, [tmp_path / f"b{number}" for number in range(4)])) == set(first)
    function = Function("c", packed, shared_as=("client", sha256(packed.data)))
    failed = server.run(Task(function, Packed(b"cno_such_module\nf\n.")))
    assert str(error(failed)) == "No module named 'no_such_module'"


def test_an_initializer_runs_once_in_a_process(server: ForkServer) -> None:
    """A pool's maps share its processes, each of which is prepared once and runs so many calls as it may."""

    def prepare() -> None:
        os.environ["PREPARED"] = os.environ.get("PREPARED", "") + "x"
        COUNTED.append(7)

    def look(_: Any) -> tuple[int, str | None, int]:
        return os.getpid(), os.environ.get("PREPARED"), COUNTED[-1]

    packed = dumps(Initialized(Setup("a pool", prepare, (), 3), look))
    found = [value(run_of_map(server, callset, packed)) for callset in ("a", "b", "c", "d")]
    assert [rest for _, *rest in found] == [["x", 7]] * 4
    pids = [pid for pid, *_ in found]
    assert pids[0] == pids[1] == pids[2] != pids[3]


def test_maps_in_several_threads(server: ForkServer, tmp_path: Path) -> None:
    """A process that has run a call of the same map is preferred to one that would load the function anew."""

    packed = dumps(meet)
    first, second = run_together(server, packed, [tmp_path / "a", tmp_path / "b"])
    assert first != second
    for name, pid in (("b", second), ("a", first), ("b", second)):
        assert value(run_of_map(server, name, packed, (tmp_path / name, []))) == pid


def test_a_process_that_took_much_memory_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that a call used is free for the next one."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "400")
    with ForkServer() as server:
        sizes = (1, 200 << 20, 1)
        pids = [value(run(server, lambda size: (len(bytearray(size)), os.getpid())[1], size)) for size in sizes]
    assert pids[0] == pids[1] != pids[2]


def test_a_call_that_raises_leaves_its_process_to_the_next(server: ForkServer) -> None:
    """An exception keeps the process; a thread that the call leaves does not."""

    def call(x: int) -> int:
        if x == 1:
            raise ValueError(os.getpid())
        if x == 2:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        return os.getpid()

    first, second, third, fourth = (run(server, call, x) for x in range(4))
    assert second.exception is not None
    assert second.exception[1] == str(value(first)) == str(value(third))
    assert value(fourth) != value(first)


def test_calls_from_several_threads(server: ForkServer) -> None:
    """Several threads run tasks at once, and each gets its own result."""
    found: dict[int, Any] = {}

    def work(n: int) -> None:
        found[n] = value(run(server, lambda x: (time.sleep(0.05), x)[1], n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: n for n in range(8)}


def test_functions_take_turns_in_several_threads(server: ForkServer) -> None:
    """Threads that stop each other's waiting processes get their own results, and leave no process behind."""

    def work(n: int) -> list[int]:
        return [value(run(server, lambda x: x * 2, n + i, function_id=f"turn-{i % 2}")) for i in range(10)]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [[2 * (n + i) for i in range(10)] for n in range(8)]
    fork_server = psutil.Process(value(run(server, lambda _: os.getppid())))
    assert wait_until(lambda: len(fork_server.children()) == 1)


def test_big_values_both_ways(server: ForkServer) -> None:
    """Arrays and bytes arrive intact, and are writable."""

    def call(array: Any) -> Any:
        array += 1
        return array

    found = value(run(server, call, np.zeros(1_000_000)))
    found += 1
    assert (found == 2).all()
    data = os.urandom(3_000_000)
    assert value(run(server, lambda x: x, data)) == data


def test_a_users_exception(server: ForkServer) -> None:
    """The exception comes back with its own type and remote traceback."""

    def call(_: Any) -> None:
        raise LookupError("x")

    result = run(server, call)
    assert result.success is False
    assert result.body is not None
    assert isinstance(load_exception(result.body), LookupError)
    assert result.exception is not None
    assert 'raise LookupError("x")' in result.exception[2]


def crash_in_c(_: Any) -> None:
    """Print a line, and die by a signal."""
    print("last word")
    os.kill(os.getpid(), signal.SIGSEGV)


def interrupt(_: Any) -> None:
    """Raise an exception that is not an ``Exception``."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("called", "arg", "returncode", "text"),
    [
        (sys.exit, 0, 0, "sys.exit(0)"),
        (sys.exit, -1, 255, "non-zero return code"),
        (os._exit, 3, 3, "non-zero return code: 3"),
        (lambda s: os.kill(os.getpid(), s), 9, -9, "memory may be the cause"),
        (crash_in_c, None, -11, "last word"),
        (interrupt, None, -2, "non-zero return code"),
    ],
)
def test_a_process_that_ends(
    server: ForkServer, called: Callable[..., Any], arg: Any, returncode: int, text: str
) -> None:
    """The error is a ``WorkerCrashedError`` with the exit code and the last output."""
    result = run(server, called, arg)
    assert result.failure is not None
    assert result.failure.kind == "WorkerCrashedError"
    assert result.failure.details == (returncode,)
    assert text in result.failure.message


def test_output_streams_and_its_tail_is_kept(server: ForkServer, shown: list[tuple[str, str]]) -> None:
    """Output is passed on at once, decoded with replacement, and its end is in the result."""

    def call(_: Any) -> None:
        print("é")
        os.write(1, b"\xff")
        os.write(2, b"error")

    shown.clear()
    result = run(server, call)
    assert (result.stdout, result.stderr) == ("é\n�", "error")
    assert "".join(text for name, text in shown if name == "stdout") == "é\n�"
    assert "".join(text for name, text in shown if name == "stderr") == "error"
    assert len(run(server, lambda _: print("x" * 2_000_000)).stdout) == 64 * 1024


def test_output_is_passed_on_while_the_call_runs(tmp_path: Path) -> None:
    """Output arrives before the call ends."""
    gate = tmp_path / "gate"

    def call(path: str) -> None:
        print("begun")
        while not os.path.exists(path):
            time.sleep(0.005)

    with ForkServer(lambda _, text: gate.touch() if "begun" in text else None) as server:
        assert run(server, call, str(gate), timeout=WAIT).success


def start_child(_: Any) -> None:
    """Start a process, print its pid, and wait for it with signals blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
    child = subprocess.Popen(["sleep", "1000"])
    print(child.pid, flush=True)
    child.wait()


def test_a_call_over_its_time_is_killed_with_its_children(server: ForkServer) -> None:
    """The error says ``ran out of time``, and no process of the call survives."""
    result = run(server, start_child, timeout=0.5)
    assert result.failure is not None
    assert result.failure.kind == "CallTimeoutError"
    assert "ran out of time" in result.failure.message
    assert wait_until(lambda: not is_alive(int(result.stdout)))


def test_a_call_may_have_a_month(server: ForkServer) -> None:
    """The time limit of a call may be longer than one ``poll`` can wait."""
    assert run(server, len, "x", timeout=30 * 86_400).success


def test_stopping_a_call(server: ForkServer) -> None:
    """A call that is stopped is killed and ends as cancelled, even if it was stopped before it began."""
    stop = Stop()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    for _ in range(2):
        result = run(server, time.sleep, 1000, stopped=stop)
        assert result.failure is not None
        assert result.failure.kind == "CallCancelledError"
        assert "cancelled" in result.failure.message
    timer.join()


def test_threads_and_processes_that_are_left(server: ForkServer) -> None:
    """The result arrives, and everything that the call left is killed and reported."""

    def call(_: Any) -> int:
        threading.Thread(target=time.sleep, args=(1000,)).start()
        return subprocess.Popen(["sleep", "1000"]).pid

    result = run(server, call)
    assert wait_until(lambda: not is_alive(value(result)))
    assert "1 thread" in result.info["leftovers"]
    assert "child processes" in result.info["leftovers"]


def test_closing_descriptors(server: ForkServer) -> None:
    """Closing 0–2, or all up to 255, gives the result or a crash, and the server stays usable."""
    for last in (3, 256, 4096):
        result = run(server, lambda n: os.closerange(0, n), last)
        assert result.success or (result.failure is not None and result.failure.kind == "WorkerCrashedError")
    assert value(run(server, len, "abc")) == 3


def test_killing_the_server(server: ForkServer) -> None:
    """A call that kills the server is a crash; the next call gets a new server."""
    result = run(server, lambda _: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(1000)))
    assert result.failure is not None
    assert result.failure.kind == "WorkerCrashedError"
    assert value(run(server, len, "abc")) == 3


def test_extra_env_and_modules(server: ForkServer) -> None:
    """The call gets ``extra_env`` and the modules that were sent."""

    def call(_: Any) -> tuple[str | None, int]:
        import fork_shipped

        return os.environ.get("EXTRA"), fork_shipped.VALUE

    modules = {"fork_shipped.py": b"VALUE = 5"}
    for _ in range(2):
        assert value(run(server, call, extra_env={"EXTRA": "x"}, modules=modules)) == ("x", 5)


def test_the_trace_is_that_of_each_call(server: ForkServer) -> None:
    """Calls that differ only in their trace share a process, which has the variables of the present one."""

    def call(name: str) -> tuple[int, str | None]:
        before = os.environ.get("TRACE")
        os.environ.pop("TRACE", None)  # what a call changes is restored for the next one, and that is set anew
        os.environ.update({} if before is None else {"TRACE": before})
        __import__(name)  # after an import the present state is the one to restore
        return os.getpid(), before

    traces = [{"TRACE": "1"}, {"TRACE": "2"}, {"TRACE": None}, {"TRACE": "3"}, {}]
    names = ["json", "fractions", "json", "json", "json"]
    found = [value(run(server, call, name, trace=trace)) for trace, name in zip(traces, names, strict=True)]
    assert [trace for _, trace in found] == ["1", "2", None, "3", "3"]
    assert len({pid for pid, _ in found}) == 1


def test_the_trace_and_a_function_that_is_loaded_anew(server: ForkServer) -> None:
    """Maps that share a process have each the trace of its own call."""
    packed = dumps(lambda _: (os.getpid(), os.environ.get("TRACE")))
    maps = ("a", "b", "b", "a", "c")
    found = [value(run_of_map(server, callset, packed, trace={"TRACE": callset})) for callset in maps]
    assert [trace for _, trace in found] == list(maps)
    assert len({pid for pid, _ in found}) == 1


def test_a_runtime_without_an_interpreter(server: ForkServer, tmp_path: Path) -> None:
    """Packages in the runtime's directory are importable."""
    (tmp_path / "in_runtime.py").write_text("VALUE = 6")
    assert value(run(server, lambda _: __import__("in_runtime").VALUE, runtime_path=str(tmp_path))) == 6


def test_a_runtime_with_its_own_interpreter(server: ForkServer, tmp_path: Path) -> None:
    """``condaruntime/bin/python`` runs the call."""
    python = tmp_path / "condaruntime" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nOWN_INTERPRETER=1 exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    own = run(server, lambda _: os.environ.get("OWN_INTERPRETER"), runtime_path=str(tmp_path))
    assert value(own) == "1"
    assert value(run(server, lambda _: os.environ.get("OWN_INTERPRETER"))) is None


def test_close_ends_calls_and_leaves_nothing(tmp_path: Path) -> None:
    """``close`` ends the server and its processes; a running call ends as a crash, a later one as cancelled."""
    others = psutil.Process().children()
    begun = threading.Event()
    server = ForkServer(lambda name, text: begun.set())
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(run(server, start_child)))
    thread.start()
    assert begun.wait(WAIT)
    server.close()
    thread.join(WAIT)
    assert results[0].failure is not None
    assert results[0].failure.kind == "WorkerCrashedError"
    assert wait_until(lambda: not is_alive(int(results[0].stdout)))
    server.start()
    late = run(server, len, "x").failure
    assert late is not None
    assert late.kind == "CallCancelledError"
    assert psutil.Process().children() == others


class SlowStarts:
    """Makes servers in the place of ``Process``: the first one when it is let go, or not at all.

    Args:
        error: what the first start raises; ``None`` for a start that succeeds.
    """

    def __init__(self, error: OSError | None = None) -> None:
        self.began, self.let_go = threading.Event(), threading.Event()
        self.starts = 0
        self._error = error

    def __call__(self, mode: str, **options: Any) -> Process:
        self.starts += 1
        if self.starts == 1:
            self.began.set()
            assert self.let_go.wait(WAIT), "nobody may wait for this start"
            if self._error is not None:
                raise self._error
        return Process(mode, **options)


@pytest.fixture
def slow_starts(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> SlowStarts:
    """The first server starts slowly, or fails with the fixture's parameter."""
    slow = SlowStarts(getattr(request, "param", None))
    monkeypatch.setattr(fork_server, "Process", slow)
    return slow


def test_threads_wait_for_one_server(slow_starts: SlowStarts) -> None:
    """One thread starts the server for all, and nothing else is held up until it runs."""
    with ForkServer() as server, ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(run, server, lambda x: x, n) for n in range(3)]
        assert slow_starts.began.wait(WAIT)
        server.end_waiting()  # takes the lock
        slow_starts.let_go.set()
        assert [value(call.result(WAIT)) for call in calls] == [0, 1, 2]
    assert slow_starts.starts == 1


@pytest.mark.parametrize("slow_starts", [OSError("no more processes")], indirect=True)
def test_the_next_call_starts_the_server_that_could_not_be_started(slow_starts: SlowStarts) -> None:
    """Only the call that tried gets the error."""
    with ForkServer() as server, ThreadPoolExecutor(2) as threads:
        first = threads.submit(run, server, len, "x")
        assert slow_starts.began.wait(WAIT)
        second = threads.submit(run, server, len, "xy")
        slow_starts.let_go.set()
        with pytest.raises(OSError, match="no more processes"):
            first.result(WAIT)
        assert value(second.result(WAIT)) == 2


def test_closing_while_the_server_starts(slow_starts: SlowStarts) -> None:
    """``close`` does not wait for the start; the call is cancelled, and the server does not stay."""
    others = psutil.Process().children()
    server = ForkServer()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(run, server, len, "x")
        assert slow_starts.began.wait(WAIT)
        server.close()
        slow_starts.let_go.set()
        failure = call.result(WAIT).failure
    assert failure is not None
    assert failure.kind == "CallCancelledError"
    assert psutil.Process().children() == others


def test_nothing_survives_a_handler_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the parent ends the server and its calls."""
    script = """
import sys, threading, time
from pywren.pickling.packed import dumps
from pywren.worker.parent.fork_server import ForkServer
from pywren.worker.task import Function, Task
def call(path):
    import os, subprocess
    child = subprocess.Popen(["sleep", "1000"])
    with open(path + ".tmp", "w") as file:
        file.write(f"{os.getpid()} {os.getppid()} {child.pid}")
    os.rename(path + ".tmp", path)
    child.wait()
ForkServer().run(Task(Function("f", dumps(call)), dumps(sys.argv[1])))
"""
    path = tmp_path / "pids"
    client = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(tmp_path)},
    )
    assert wait_until(path.exists)
    pids = [int(pid) for pid in path.read_text().split()]
    client.kill()
    client.wait()
    assert wait_until(lambda: not any(map(is_alive, pids)))


def test_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a platform that cannot run processes as needed, the error says what to use."""
    monkeypatch.delattr(process.os, "posix_spawn")
    for make in (ForkServer, LocalPool):
        with pytest.raises(ConfigError, match="Linux or macOS"):
            make()
