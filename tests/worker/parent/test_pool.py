"""The local pool with real worker processes: what calls may do to it, and what it leaves behind."""

from __future__ import annotations

import concurrent.futures
import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest
from child_processes import WAIT, error, is_alive, value, wait_until

from pywren.exceptions import ConfigError, InvocationError
from pywren.pickling.packed import Packed, dumps, loads
from pywren.system import shutdown
from pywren.wire.outcome import Outcome
from pywren.worker import frames
from pywren.worker.frames import UnlinkedFile
from pywren.worker.parent.pool import LocalPool
from pywren.worker.task import Function, RunResult, Stop, Task

pytestmark = pytest.mark.usefixtures("by_value")


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    """Return a pool of two processes, which is closed after the module's tests."""
    pool = LocalPool(2)
    pool.acquire()
    yield pool
    pool.close()


def function(called: Callable[..., Any], modules: Mapping[str, bytes] | None = None, name: str = "") -> Function:
    """Pack a function under its own id."""
    return Function(name or f"f-{os.urandom(8).hex()}", dumps(called, out_of_band=True), modules or {})


class Calls:
    """A helper that submits calls and collects their results by index."""

    def __init__(self, pool: LocalPool, called: Callable[..., Any] | Function, args: Sequence[Any], **options: Any):
        packed = [arg if isinstance(arg, Packed) else dumps(arg, out_of_band=True) for arg in args]
        self.pool = pool
        self.results: dict[int, RunResult] = {}
        self.order: list[int] = []
        self.twice: list[int] = []
        self.running: list[int] = []
        self._count = len(packed)
        self._changed = threading.Condition()
        self.function = called if isinstance(called, Function) else function(called)
        self.batch = pool.submit(self.function, packed, on_results=self._take, on_start=self._start, **options)

    def _take(self, found: list[tuple[int, RunResult]]) -> None:
        with self._changed:
            for index, result in found:
                if index in self.results:
                    self.twice.append(index)
                self.results[index] = result
                self.order.append(index)
            self._changed.notify_all()

    def _start(self, index: int) -> None:
        with self._changed:
            self.running.append(index)
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Wait for this many results."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.results) >= count, WAIT)

    def wait_running(self, index: int) -> None:
        """Wait until the pool has reported that a call runs."""
        with self._changed:
            assert self._changed.wait_for(lambda: index in self.running, WAIT)

    def all(self) -> list[RunResult]:
        """Wait for all results and return them in order."""
        self.wait_for(self._count)
        assert not self.twice
        return [self.results[index] for index in range(self._count)]

    def values(self) -> list[Any]:
        """Wait for all results and return the values in order."""
        return [value(result) for result in self.all()]


def one(pool: LocalPool, called: Callable[..., Any], arg: Any = None, **options: Any) -> RunResult:
    """Run one call."""
    return Calls(pool, called, [arg], **options).all()[0]


def test_values_come_with_their_index(pool: LocalPool) -> None:
    """Every call has exactly one result, under its own index."""
    assert Calls(pool, lambda x: x * x, range(1000)).values() == [x * x for x in range(1000)]


def test_the_functions_of_two_batches_do_not_mix(pool: LocalPool) -> None:
    """Two concurrent batches keep their own functions and results."""
    first, second = Calls(pool, lambda x: ("a", x), range(200)), Calls(pool, lambda x: ("b", x), range(200))
    assert first.values() == [("a", x) for x in range(200)]
    assert second.values() == [("b", x) for x in range(200)]


def test_more_functions_than_a_child_keeps(pool: LocalPool) -> None:
    """A function that was dropped is sent again with its next call."""
    functions = [function(lambda x, n=n: x + n) for n in range(12)]
    for _ in range(2):
        for n, each in enumerate(functions):
            assert Calls(pool, each, [100, 200]).values() == [100 + n, 200 + n]


def test_an_empty_batch_is_done(pool: LocalPool) -> None:
    """No arguments give no results."""
    assert Calls(pool, lambda x: x, []).all() == []


def test_batches_from_several_threads(pool: LocalPool) -> None:
    """Threads submit to one pool at the same time."""
    found: dict[int, list[int]] = {}

    def work(n: int) -> None:
        found[n] = Calls(pool, lambda x: x + n, range(50)).values()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [x + n for x in range(50)] for n in range(8)}


def test_times_are_told(pool: LocalPool) -> None:
    """A result contains the seconds that set-up and execution took."""
    info = one(pool, lambda _: time.sleep(0.05)).info
    assert info["exec_time"] >= 0.05
    assert 0 <= info["setup_time"] < 30


def test_a_slow_call_holds_up_no_other(pool: LocalPool, tmp_path: Path) -> None:
    """While one call waits, all others of its batch return, even those that its process was given."""
    gate = tmp_path / "gate"

    def call(index: int) -> int:
        while index == 500 and not gate.exists():
            time.sleep(0.005)
        return index

    calls = Calls(pool, call, range(1000))
    calls.wait_for(999)
    assert 500 not in calls.results
    gate.touch()
    assert calls.values() == list(range(1000))


# -- failures: the rows of docs/failures.md --------------------------------------------------------------------


class OwnError(Exception):
    """An exception whose constructor takes arguments other than its ``args``."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def raise_value_error(_: Any) -> None:
    """Row 1."""
    raise ValueError("x")


def raise_own_error(_: Any) -> None:
    """Rows 2 and 3."""
    raise OwnError(7, "seven")


def raise_with_lock(_: Any) -> None:
    """Row 4."""
    raise RuntimeError("held", threading.Lock())


def raise_from(_: Any) -> None:
    """Row 6."""
    try:
        raise KeyError("inner")
    except KeyError as inner:
        raise ValueError("outer") from inner


def recurse(x: Any) -> Any:
    """Row 17."""
    return recurse(x)


def test_an_exception_comes_back_with_its_own_type(pool: LocalPool) -> None:
    """Row 1: it has its own type, and the traceback shows the remote line."""
    result = one(pool, raise_value_error)
    assert isinstance(error(result), ValueError)
    assert result.exception is not None
    assert result.exception[:2] == ("ValueError", "x")
    assert 'raise ValueError("x")' in result.exception[2]
    assert "pywren/worker" not in result.exception[2]


def test_an_exception_with_its_own_constructor(pool: LocalPool) -> None:
    """Rows 2 and 3: it has its own type and its attributes."""
    raised = error(one(pool, raise_own_error))
    assert type(raised) is OwnError
    assert raised.code == 7


def test_an_exception_that_does_not_pickle(pool: LocalPool) -> None:
    """Row 4: the error is a ``ResultSerializationError`` that contains type and text."""
    failure = one(pool, raise_with_lock).failure
    assert failure is not None
    assert failure.kind == "ResultSerializationError"
    assert "RuntimeError" in failure.message
    assert "held" in failure.message


def test_causes_are_kept(pool: LocalPool) -> None:
    """Row 6: ``__cause__`` comes back."""
    raised = error(one(pool, raise_from))
    assert isinstance(raised, ValueError)
    assert isinstance(raised.__cause__, KeyError)


def interrupt(_: Any) -> None:
    """Row 7."""
    raise KeyboardInterrupt


def raise_base(_: Any) -> None:
    """Row 7, another one."""

    class Odd(BaseException):
        pass

    raise Odd("odd")


def segfault(_: Any) -> None:
    """Row 12."""
    print("about to crash")
    os.kill(os.getpid(), signal.SIGSEGV)


def exit_deep(code: Any) -> None:
    """Rows 8 and 9."""
    sys.exit(code)


CRASHES = [
    pytest.param(interrupt, None, -signal.SIGINT, "non-zero return code", id="KeyboardInterrupt"),
    pytest.param(raise_base, None, 1, "non-zero return code", id="BaseException"),
    pytest.param(exit_deep, 0, 0, "sys.exit(0)", id="sys.exit(0)"),
    pytest.param(exit_deep, None, 0, "sys.exit(0)", id="sys.exit(None)"),
    pytest.param(exit_deep, -1, 255, "non-zero return code", id="sys.exit(-1)"),
    pytest.param(exit_deep, "bye", 1, "bye", id="sys.exit(text)"),
    pytest.param(os._exit, 3, 3, "non-zero return code: 3", id="os._exit"),
    pytest.param(lambda s: os.kill(os.getpid(), s), 9, -9, "memory may be the cause", id="SIGKILL"),
    pytest.param(lambda s: os.kill(os.getpid(), s), 15, -15, "SIGTERM", id="SIGTERM"),
    pytest.param(segfault, None, -11, "about to crash", id="SIGSEGV"),
]


@pytest.mark.parametrize(("called", "arg", "returncode", "text"), CRASHES)
def test_a_process_that_ends_is_a_crash_of_that_call(
    pool: LocalPool, called: Callable[..., Any], arg: Any, returncode: int, text: str
) -> None:
    """Rows 7 to 14: the error is a ``WorkerCrashedError`` with the exit code, and no other call is affected."""
    result = one(pool, called, arg)
    assert result.failure is not None
    assert result.failure.kind == "WorkerCrashedError"
    assert result.failure.details == (returncode,)
    assert result.returncode == returncode
    assert text in result.failure.message
    assert ("non-zero return code" in result.failure.message) == (returncode != 0)
    assert one(pool, lambda x: x, 1).success


def test_a_crash_costs_one_call(pool: LocalPool) -> None:
    """When one of many calls ends its process, only that one fails."""

    def call(index: int) -> int:
        if index == 11:
            os._exit(1)
        return index

    results = Calls(pool, call, range(200)).all()
    assert [index for index, result in enumerate(results) if not result.success] == [11]


def test_every_call_crashes(pool: LocalPool) -> None:
    """A batch in which every call ends its process still ends."""
    results = Calls(pool, os._exit, [4] * 6).all()
    assert {result.returncode for result in results} == {4}


def test_an_argument_that_ends_the_process(pool: LocalPool) -> None:
    """Row 34: exiting while the argument is loaded is a crash of that call."""

    class Exits:
        def __reduce__(self) -> Any:
            return os._exit, (6,)

    result = one(pool, lambda x: x, Exits())
    assert result.failure is not None
    assert result.failure.details == (6,)


def test_an_argument_that_raises(pool: LocalPool) -> None:
    """Row 33: an exception from loading the argument is the call's exception."""

    class Raises:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    assert isinstance(error(one(pool, lambda x: x, Raises())), ValueError)


def test_a_result_that_does_not_pickle(pool: LocalPool) -> None:
    """Row 51: the error is a ``ResultSerializationError``."""
    failure = one(pool, lambda _: threading.Lock()).failure
    assert failure is not None
    assert failure.kind == "ResultSerializationError"
    assert "lock" in failure.message


def test_memory_error_and_recursion(pool: LocalPool) -> None:
    """Rows 13 and 17: the errors have their own types."""
    assert isinstance(error(one(pool, lambda _: bytearray(1 << 60))), MemoryError)
    assert isinstance(error(one(pool, recurse)), RecursionError)


def sleep_in_a_child(_: Any) -> None:
    """Row 16: a call that waits for a child process with signals blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
    child = subprocess.Popen(["sleep", "1000"])
    print(child.pid, flush=True)
    child.wait()


def test_a_call_over_its_time_is_killed_with_its_children(pool: LocalPool) -> None:
    """Rows 15 and 16: the error says ``ran out of time``, and no process of the call survives."""
    result = one(pool, sleep_in_a_child, timeout=0.7)
    assert result.failure is not None
    assert result.failure.kind == "CallTimeoutError"
    assert "ran out of time" in result.failure.message
    assert "0.7 s" in result.failure.message
    assert wait_until(lambda: not is_alive(int(result.stdout)))


def test_a_timeout_is_each_calls_own(pool: LocalPool) -> None:
    """Waiting behind other calls does not count towards a call's time limit."""
    results = Calls(pool, time.sleep, [0.1] * 12, timeout=0.45).all()
    assert all(result.success for result in results)


def leave_thread(_: Any) -> str:
    """Row 18."""
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    return "thread"


def leave_process(_: Any) -> int:
    """Row 19."""
    return subprocess.Popen(["sleep", "1000"]).pid


def test_a_thread_that_is_left_is_ended(pool: LocalPool) -> None:
    """Row 18: the result arrives, and the process is replaced."""
    result = one(pool, leave_thread)
    assert value(result) == "thread"
    assert "thread" in result.info["leftovers"]
    assert one(pool, lambda _: threading.active_count()).info.get("leftovers") is None


def test_a_process_that_is_left_is_ended(pool: LocalPool) -> None:
    """Row 19: the result arrives, and the leftover process is killed."""
    result = one(pool, leave_process)
    assert "child processes" in result.info["leftovers"]
    assert wait_until(lambda: not is_alive(value(result)))


def test_calls_behind_one_that_leaves_something(pool: LocalPool) -> None:
    """Calls that were given to a process that is replaced run in another one."""
    results = Calls(pool, lambda x: leave_thread(x) if x % 50 == 7 else x, range(150)).all()
    assert all(result.success for result in results)


@pytest.mark.parametrize("last", [3, 256])
def test_closing_descriptors(pool: LocalPool, last: int) -> None:
    """Row 20: the result arrives, and the executor stays usable."""
    result = one(pool, lambda n: os.closerange(0, n), last)
    assert result.success or (result.failure is not None and result.failure.kind == "WorkerCrashedError")
    after = one(pool, lambda _: print("printed"))
    assert after.stdout == "printed\n"


def test_closing_all_descriptors_is_a_crash(pool: LocalPool) -> None:
    """A process without its channel is useless: its call fails with that reason, and the pool goes on."""
    result = one(pool, lambda _: os.closerange(3, 4096))
    assert result.failure is not None
    assert result.failure.kind == "WorkerCrashedError"
    assert "os.closerange" in result.failure.message
    assert one(pool, lambda x: x, 5).success


def test_output_of_any_kind(pool: LocalPool) -> None:
    """Row 21: bytes that are not UTF-8 are replaced, and of long output the end is kept."""

    def call(_: Any) -> None:
        print("é\udc80")
        os.write(1, b"\xff\xfe")
        os.write(2, b"to stderr")

    result = one(pool, call)
    assert result.stdout.startswith("é")
    assert "�" in result.stdout
    assert result.stderr == "to stderr"
    much = one(pool, lambda _: print("x" * 5_000_000 + "end"))
    assert much.stdout.endswith("xend\n")
    assert len(much.stdout) == 64 * 1024
    assert one(pool, lambda _: None).stdout == ""


def spoil(_: Any) -> None:
    """Change what row 22 lists, and signal handlers, umask, alarms and limits."""
    os.environ["SPOILED"] = "1"
    os.environ.pop("PATH")
    sys.path.append("/spoiled")
    os.chdir("/")
    os.umask(0o777)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(1000)
    sys.setrecursionlimit(50_000)


def state(_: Any) -> tuple[Any, ...]:
    """Return everything that ``spoil`` changes."""
    umask = os.umask(0o22)
    return (
        os.environ.get("SPOILED"),
        os.environ.get("PATH"),
        "/spoiled" in sys.path,
        os.listdir("."),
        umask,
        signal.getsignal(signal.SIGALRM),
        signal.alarm(0),
        sys.getrecursionlimit(),
    )


def test_the_next_call_sees_nothing_of_what_a_call_changes() -> None:
    """Row 22: environment, path, directory, signals and limits are restored after the call."""
    pool = LocalPool(1)
    try:
        before = value(one(pool, state))
        assert value(one(pool, spoil)) is None
        assert value(one(pool, lambda _: Path("left").write_text("x"))) == 1
        assert value(one(pool, state)) == before
        assert before[3] == []
    finally:
        pool.close()


def test_extra_env_is_of_the_call_alone(pool: LocalPool) -> None:
    """``extra_env`` reaches the call, overrides other variables, and is gone afterwards."""
    extra = {"EXTRA": "x y", "OMP_NUM_THREADS": "7"}
    read = lambda _: (os.environ.get("EXTRA"), os.environ.get("OMP_NUM_THREADS"))  # noqa: E731
    assert Calls(pool, read, range(8), extra_env=extra).values() == [("x y", "7")] * 8
    assert Calls(pool, read, range(8)).values() == [(None, "1")] * 8


def test_replacing_what_we_use() -> None:
    """Row 24: replacing ``sys.stdout``, ``print`` or ``pickle.dumps`` does no harm."""

    def call(x: int) -> int:
        import builtins
        import io
        import pickle

        sys.stdout = io.StringIO()
        builtins.print = None  # type: ignore[assignment]
        pickle.dumps = pickle.loads = None  # type: ignore[assignment]
        time.perf_counter = os._exit  # type: ignore[assignment]
        return x

    pool = LocalPool(1)
    try:
        assert Calls(pool, call, [1, 2, 3]).values() == [1, 2, 3]
        assert one(pool, lambda _: print("back")).stdout == "back\n"
    finally:
        pool.close()


def test_a_call_that_forks_and_returns_twice(pool: LocalPool) -> None:
    """If a forked copy of the child returns from the function too, there is no second result."""
    results = Calls(pool, lambda x: os.fork() * 0 + x, range(5)).values()
    assert results == list(range(5))


# -- cancelling ------------------------------------------------------------------------------------------------


def test_cancelling_calls_that_wait_and_one_that_runs(tmp_path: Path) -> None:
    """Row 25: a waiting call never runs, a running one is killed, and one that has ended keeps its result."""
    pool = LocalPool(1)
    try:
        calls = Calls(pool, lambda n: n if n < 2 else time.sleep(1000), range(6))
        calls.wait_for(2)
        calls.wait_running(2)
        assert not pool.cancel(calls.batch, 0)
        assert pool.cancel(calls.batch, 4)
        assert not pool.cancel(calls.batch, 4)
        assert [pool.cancel(calls.batch, index) for index in (5, 3, 2)] == [True] * 3
        results = calls.all()
        failures = [result.failure for result in results[2:]]
        assert {failure and failure.kind for failure in failures} == {"CallCancelledError"}
        assert all(failure and "cancelled" in failure.message for failure in failures)
        assert 3 not in calls.running
        assert one(pool, lambda x: x, 1).success
    finally:
        pool.close()


def test_stopping_a_run(pool: LocalPool) -> None:
    """``run`` ends when its ``Stop`` is set, before or during the call."""
    stop = Stop()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    result = pool.run(Task(function(time.sleep), dumps(1000)), stopped=stop)
    timer.join()
    assert result.failure is not None
    assert result.failure.kind == "CallCancelledError"
    again = pool.run(Task(function(time.sleep), dumps(1000)), stopped=stop)
    assert again.failure is not None
    assert again.failure.kind == "CallCancelledError"


# -- sizes -----------------------------------------------------------------------------------------------------


def test_big_arguments_and_results(pool: LocalPool) -> None:
    """Arrays arrive intact in both directions, and are writable on both sides."""

    def call(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array += 1
        return array

    arrays = [np.full(300_000, n, dtype=np.float64) for n in range(20)]
    calls = Calls(pool, call, arrays)
    for array in arrays:
        array[:] = -1  # arguments are copied when they are submitted
    for n, found in enumerate(calls.values()):
        assert found.shape == (300_000,)
        assert (found == n + 1).all()
        found += 1


def test_big_pickles_without_buffers(pool: LocalPool) -> None:
    """A big ``bytes`` object passes in both directions."""
    data = os.urandom(8_000_000)
    assert Calls(pool, lambda x: x[::-1], [data, data]).values() == [data[::-1]] * 2


def test_a_big_closure_is_shared(pool: LocalPool) -> None:
    """A function that holds a big array is called many times."""
    array = np.arange(2_000_000)
    assert Calls(pool, lambda n: int(array[n]), range(300)).values() == list(range(300))


def test_middle_sized_arguments(pool: LocalPool) -> None:
    """Arguments and results just below and above a frame's size limit pass."""
    sizes = [0, 1, 65_000, 65_535, 65_536, 65_537, 66_000, 131_072] * 4
    assert Calls(pool, lambda data: data * 2, [b"x" * n for n in sizes]).values() == [b"x" * 2 * n for n in sizes]


def test_many_big_arguments_with_few_descriptors() -> None:
    """Many arguments of 100 KB need hardly more descriptors than a few."""
    script = """
        import resource, threading
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        from pywren.pickling.packed import dumps
        from pywren.worker.parent.pool import LocalPool
        from pywren.worker.task import Function
        pool, got, done = LocalPool(2), [], threading.Event()
        def take(results):
            got.extend(results)
            if len(got) == 2000:
                done.set()
        packed = dumps(b"x" * 100_000)
        pool.submit(Function("f", dumps(len)), [packed] * 2000, on_results=take)
        assert done.wait(60)
        assert all(result.success for _, result in got)
        pool.close()
    """
    run_client(script)


# -- modules ---------------------------------------------------------------------------------------------------


def test_shipped_modules_of_one_function_at_a_time(pool: LocalPool) -> None:
    """A function can import the modules that were sent with it, and no other function can."""

    def call(_: Any) -> Any:
        import shipped_module

        return shipped_module.VALUE

    first = function(call, {"shipped_module.py": b"VALUE = 1"})
    second = function(call, {"shipped_module.py": b"VALUE = 2\n# \xe9 not UTF-8".replace(b"\xe9", b"e")})
    for _ in range(2):
        assert Calls(pool, first, range(6)).values() == [1] * 6
        assert Calls(pool, second, range(6)).values() == [2] * 6
    assert isinstance(error(one(pool, call)), ModuleNotFoundError)


def test_shipped_packages(pool: LocalPool) -> None:
    """Packages with subpackages and data files are importable."""

    def call(_: Any) -> Any:
        import shipped_package.sub.leaf as leaf

        return leaf.text()

    leaf = b"from ..data import here\ndef text():\n    return (here / 'text.txt').read_text()\n"
    modules = {
        "shipped_package/__init__.py": b"",
        "shipped_package/data.py": b"import pathlib\nhere = pathlib.Path(__file__).parent",
        "shipped_package/text.txt": b"content",
        "shipped_package/sub/__init__.py": b"",
        "shipped_package/sub/leaf.py": leaf,
    }
    assert Calls(pool, function(call, modules), [0, 1, 2]).values() == ["content"] * 3


def test_children_see_nothing_of_the_clients_own() -> None:
    """A child's path has neither the client's script nor its directories, and PYTHONPATH comes last."""
    script = """
        import sys, threading
        assert __name__ == "__main__"  # a child that imported this script would fork without end
        from pywren.pickling.packed import dumps, loads
        from pywren.worker.parent.pool import LocalPool
        from pywren.worker.task import Function, Task
        pool = LocalPool(1)
        def look(_):
            import sys
            return sys.path, [name for name in sys.modules if name.split(".")[0] not in sys.stdlib_module_names]
        result = pool.run(Task(Function("f", dumps(look)), dumps(0)))
        path, modules = loads(result.body)
        own = sys.path[0]
        assert own not in path and "" not in path, path
        third = {name.split(".")[0] for name in modules} - {"__main__", "_distutils_hack", "sitecustomize"}
        third = {name for name in third if not name.startswith(("__editable__", "_virtualenv", "_signal"))}
        assert third <= {"pywren", "cloudpickle", "tblib"}, third
        loaded = {name for name in modules if name.startswith("pywren")}
        assert not {name for name in loaded if "executor" in name or "storage" in name}, loaded
        pool.close()
    """
    run_client(script)


# -- output that is shown --------------------------------------------------------------------------------------


def test_output_is_shown_as_it_comes() -> None:
    """Shown output goes to the client's own streams, and its end is still in the result."""
    script = """
        import sys
        from pywren.pickling.packed import dumps
        from pywren.worker.parent.pool import LocalPool
        from pywren.worker.task import Function, Task
        def call(x):
            import sys
            print("out", x)
            print("err", x, file=sys.stderr)
        pool = LocalPool(2, show_output=True)
        for x in range(3):
            result = pool.run(Task(Function("f", dumps(call)), dumps(x)))
            assert result.success, result
            assert (result.stdout, result.stderr) == (f"out {x}\\n", f"err {x}\\n"), result
        pool.close()
    """
    done = run_client(script)
    assert done.stdout == "out 0\nout 1\nout 2\n"
    assert done.stderr == "err 0\nerr 1\nerr 2\n"


def test_a_batch_decides_whether_its_output_is_shown(pool: LocalPool, capsys: pytest.CaptureFixture[str]) -> None:
    """Batches with and without shown output share the processes."""
    hidden = Calls(pool, lambda x: print("hidden", x), range(20))
    shown = Calls(pool, lambda x: print("shown", x), range(20), show_output=True)
    assert [result.stdout for result in hidden.all()] == [f"hidden {x}\n" for x in range(20)]
    assert [result.stdout for result in shown.all()] == [f"shown {x}\n" for x in range(20)]
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(f"shown {x}" for x in range(20))


class SlowTerminal(io.StringIO):
    """A stream whose writer waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.let_go = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.began.set()
        assert self.let_go.wait(WAIT), "nobody may wait for this write"
        return super().write(text)


def test_a_slow_terminal_holds_up_no_caller(pool: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While shown output is written, other threads submit and cancel calls; the result comes after the output."""
    terminal = SlowTerminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    printing = Calls(pool, lambda x: print("shown", x), [1], show_output=True)
    assert terminal.began.wait(WAIT)
    other = Calls(pool, lambda x: x, [1])
    pool.cancel(other.batch, 0)
    assert not printing.results
    terminal.let_go.set()
    assert printing.all()[0].stdout == "shown 1\n"
    assert terminal.getvalue() == "shown 1\n"
    other.all()


# -- life ------------------------------------------------------------------------------------------------------


def run_client(script: str, *, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a client program in its own process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        **options,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def children() -> set[int]:
    """Return this process's running child processes."""
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


def test_close_ends_everything(tmp_path: Path) -> None:
    """After ``close`` no child, thread or file is left, and running calls are cancelled."""
    before, threads = children(), set(threading.enumerate())
    pool = LocalPool(2)
    calls = Calls(pool, time.sleep, [1000] * 5)
    calls.wait_running(0)
    mine = children() - before
    assert len(mine) == 2
    pool.close()
    pool.close()
    assert {result.failure and result.failure.kind for result in calls.all()} == {"CallCancelledError"}
    assert not [pid for pid in mine if psutil.pid_exists(pid)]
    assert set(threading.enumerate()) <= threads  # those of earlier tests may have ended
    with pytest.raises(InvocationError, match="local_executor"):
        Calls(pool, len, ["x"])


def test_processes_end_some_time_after_the_last_user() -> None:
    """An idle pool ends its processes after a while, and starts them again when it is used."""
    before = children()
    pool = LocalPool(1, linger=0.05)
    try:
        pool.acquire()
        assert one(pool, len, "x").success
        assert len(children() - before) == 1
        pool.release()
        assert wait_until(lambda: not children() - before)
        assert value(one(pool, len, "xy")) == 2
        pool.acquire()
        pool.release()
    finally:
        pool.close()


def test_a_process_that_is_killed_while_idle_is_replaced() -> None:
    """No call fails when a child dies between calls."""
    before = children()
    pool = LocalPool(1)
    try:
        assert one(pool, len, "x").success
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        assert value(one(pool, len, "xy")) == 2
    finally:
        pool.close()


def test_nothing_survives_a_client_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the client ends its workers, and everything that their calls started."""
    script = """
        import os, subprocess, sys, threading, time
        from pywren.pickling.packed import dumps
        from pywren.worker.parent.pool import LocalPool
        from pywren.worker.task import Function
        def call(path):
            import os, subprocess
            child = subprocess.Popen(["sleep", "1000"])
            with open(path + ".tmp", "w") as file:
                file.write(f"{os.getpid()} {child.pid}")
            os.rename(path + ".tmp", path)
            child.wait()
        pool = LocalPool(2)
        args = [dumps(path) for path in sys.argv[1:]]
        pool.submit(Function("f", dumps(call)), args, on_results=print)
        time.sleep(1000)
    """
    paths = [tmp_path / "a", tmp_path / "b"]
    client = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, paths)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(tmp_path)},
    )
    assert wait_until(lambda: all(path.exists() for path in paths))
    pids = [int(pid) for path in paths for pid in path.read_text().split()]
    assert all(map(is_alive, pids))
    client.kill()
    client.wait()
    assert wait_until(lambda: not any(map(is_alive, pids)))


def test_the_end_of_the_program_waits_for_calls() -> None:
    """A program that ends with running calls waits for them, like ``ProcessPoolExecutor``."""
    script = """
        import time
        from pywren.pickling.packed import dumps, loads
        from pywren.worker.parent.pool import LocalPool
        from pywren.worker.task import Function
        def take(results):
            for index, result in results:
                print(index, loads(result.body))
        pool = LocalPool.shared()
        pool.submit(Function("f", dumps(lambda x: time.sleep(0.3) or x)), [dumps("done")], on_results=take)
    """
    assert run_client(script).stdout == "0 done\n"


def test_a_forked_client_has_a_pool_of_its_own() -> None:
    """After ``os.fork`` both processes use their pools, and neither disturbs the other."""
    script = """
        import os, time
        from pywren.pickling.packed import dumps, loads
        from pywren.worker.parent.pool import LocalPool
        from pywren.worker.task import Function, Task
        def pid(_):
            import os
            return os.getpid()
        def ask():
            return loads(LocalPool.shared().run(Task(Function("f", dumps(pid)), dumps(0))).body)
        LocalPool.shared()
        first = {ask() for _ in range(20)}
        forked = os.fork()
        if forked == 0:
            mine = {ask() for _ in range(20)}
            assert not mine & first
            raise SystemExit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 7
        assert ask()
        for known in first:
            os.kill(known, 0)
    """
    run_client(script)


def test_a_pool_in_a_call_ends_with_it(pool: LocalPool) -> None:
    """Row 26: a call makes its own pool, uses it, and leaves nothing behind."""

    def call(x: int) -> tuple[int, list[int]]:
        nested = LocalPool.shared()
        found = loads(nested.run(Task(Function("inner", dumps(lambda y: y + 1)), dumps(x))).body)  # type: ignore[arg-type]
        return found, [child.pid for child in psutil.Process().children()]

    result = one(pool, call, 41)
    found, pids = value(result)
    assert found == 42
    assert pids
    assert wait_until(lambda: not any(map(is_alive, pids)))


def test_a_raising_callback_does_not_end_the_pump(pool: LocalPool, caplog: pytest.LogCaptureFixture) -> None:
    """The pump logs a callback's exception, and goes on."""
    ended = threading.Event()

    def take(results: list[tuple[int, RunResult]]) -> None:
        ended.set()
        raise ValueError("callback")

    pool.submit(function(len), [dumps("x")], on_results=take)
    assert ended.wait(WAIT)
    assert one(pool, len, "x").success
    assert "callback" in caplog.text


def test_a_pool_that_fails_ends_every_call(tmp_path: Path) -> None:
    """If the pump fails in any way, every call ends with its result or with an error that says so."""
    gate = tmp_path / "gate"

    def wait_for_gate(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.005)
        return "through"

    pool = LocalPool(2)
    try:
        calls = Calls(pool, wait_for_gate, [str(gate)] * 2)
        calls.wait_running(0)
        calls.wait_running(1)
        behind = Calls(pool, len, ["x"], timeout="a mistake that the pump meets when the others have ended")
        gate.touch()
        for result in [*calls.all(), *behind.all()]:
            assert result.success or "the local pool has failed" in str(result.failure)
        assert calls.all()[0].success or calls.all()[1].success
        with pytest.raises(InvocationError, match="local_executor"):
            Calls(pool, len, ["x"])
    finally:
        pool.close()


def test_a_call_may_have_a_month() -> None:
    """The time limit of a call may be longer than one ``poll`` can wait."""
    pool = LocalPool(1)
    pool.acquire()
    try:
        assert one(pool, len, "x").success  # its process is ready
        assert one(pool, time.sleep, 0.05, timeout=30 * 86_400).success
        assert one(pool, time.sleep, 0.05, timeout=float("inf")).success
    finally:
        pool.close()


def test_ctrl_c_ends_a_program_that_waits_for_its_calls(tmp_path: Path) -> None:
    """A program that ends says how many calls it waits for, and Ctrl-C ends them."""
    script = """
        import time
        from pywren.pickling.packed import dumps
        from pywren.worker.parent.pool import LocalPool
        from pywren.worker.task import Function
        pool = LocalPool.shared()
        pool.submit(Function("f", dumps(time.sleep)), [dumps(1000)] * 3, on_results=len)
    """
    client = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert client.stderr is not None
    assert "the program is ending, but 3 calls " in client.stderr.readline()
    workers = psutil.Process(client.pid).children(recursive=True)
    assert workers
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=WAIT)
    assert wait_until(lambda: not any(is_alive(worker.pid) for worker in workers))


def test_children_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no child can start, calls end with an error that says why, instead of waiting forever."""
    from pywren.worker.parent import process

    monkeypatch.setattr(process, "_BOOTSTRAP", "import sys; sys.exit('no good')")
    pool = LocalPool(1)
    try:
        failure = one(pool, len, "x").failure
        assert failure is not None
        assert failure.kind == "WorkerCrashedError"
        assert "no good" in failure.message
    finally:
        pool.close()


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The variable that sets the number of processes is checked."""
    monkeypatch.setenv("PYWREN_LOCAL_PROCESSES", text)
    with pytest.raises(ConfigError, match="PYWREN_LOCAL_PROCESSES"):
        LocalPool()


def test_ctrl_c_at_the_end_of_the_program_ends_its_calls() -> None:
    """A program that waits for its calls at exit says so, and can be interrupted without a traceback."""
    program = "import pywren, time; pywren.local_executor().call_async(time.sleep, 300)"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as client:
        assert client.stderr is not None
        assert "the program is ending, but 1 call is still " in client.stderr.readline()
        client.send_signal(signal.SIGINT)
        assert client.stderr.read() == "1 call was stopped because the program ended\n"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "1 call is still running: waiting for it; press Ctrl-C to stop it"),
        (2, "2 calls are still running: waiting for them; press Ctrl-C to stop them"),
        (5, "5 calls have not ended (2 running, 3 waiting): waiting for them; press Ctrl-C to stop them"),
    ],
)
def test_the_end_of_the_program_says_how_many_calls_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, count: int, said: str
) -> None:
    """Calls that wait for a process are not called running."""
    go = tmp_path / "go"

    def held(path: Path) -> None:
        path.touch()
        while not go.exists():
            time.sleep(0.01)

    monkeypatch.setattr(shutdown, "WARNING_SECONDS", 0.0)
    shutdown.go_on()  # another test may have pressed Ctrl-C
    pool = LocalPool(2)
    try:
        begun = [tmp_path / str(number) for number in range(count)]
        calls = Calls(pool, held, begun)
        assert wait_until(lambda: sum(path.exists() for path in begun) == min(count, 2))
        end = threading.Thread(target=pool.finish_at_exit)
        end.start()
        assert wait_until(lambda: bool(caplog.messages))
        go.touch()
        end.join()
        assert calls.values() == [None] * count
        assert caplog.messages == [f"the program is ending, but {said}"]
    finally:
        go.touch()
        pool.close()


def test_processes_that_are_killed_while_they_start_fail_no_call() -> None:
    """Row 245: calls go on while other processes can run them, and the next start waits longer."""
    pool = LocalPool(2)
    pool.acquire()
    try:
        assert all(one(pool, len, "x").success for _ in range(2))
        calls = Calls(pool, lambda x: time.sleep(0.05) or x, range(60))
        calls.wait_for(2)
        killed: set[int] = set()
        while len(killed) < 4 and len(calls.results) < 60:
            with pool._lock:  # so that none of them is given a call before it is killed
                for pid in {member.process.pid for member in pool._members if not member.ready} - killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            time.sleep(0.005)
        assert calls.values() == list(range(60))
    finally:
        pool.close()


def test_a_pool_whose_processes_start_again_takes_calls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After calls have failed because no process could start, the next calls try again."""
    from pywren.worker.parent import process

    pool = LocalPool(2)
    pool.acquire()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(process, "_BOOTSTRAP", "import sys; sys.exit('no good')")
            for pid in children():
                os.kill(pid, signal.SIGKILL)
            failures = [result.failure for result in Calls(pool, len, ["x"] * 5).all() if result.failure]
        assert all("worker processes cannot start" in failure.message for failure in failures)
        results = [one(pool, len, "xy") for _ in range(3)]
        assert value(results[-1]) == 2
    finally:
        pool.close()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("runner", ["LocalPool(2)", "ForkServer()"])
def test_a_client_without_standard_streams(runner: str, closed: tuple[int, ...], tmp_path: Path) -> None:
    """Row 248: its calls print as usual, and descriptors that it opens later are not affected."""
    script = f"""
        import os, sys
        for number in {closed}:
            os.close(number)
        from pywren.pickling.packed import dumps, loads
        from pywren.worker.parent.pool import LocalPool
        from pywren.worker.parent.fork_server import ForkServer
        from pywren.worker.task import Function, Task
        def call(x):
            import os, subprocess, sys
            print("printed", x)
            sys.stderr.write("told")
            subprocess.run(["echo", "below"], check=True)
            return sys.stdin.read()
        made = {runner}
        def ask(x):
            result = made.run(Task(Function("f", dumps(call)), dumps(x)))
            assert result.success, result
            told = loads(result.body), result.stdout, result.stderr
            assert told == ("", f"printed {{x}}\\nbelow\\n", "told"), told
        ask(1)
        for number in {closed}:
            os.dup2(os.open(sys.argv[1], os.O_RDWR), number)
        ask(2)
        made.close()
        with open(sys.argv[1] + ".done", "w"):
            pass
    """
    (tmp_path / "own").touch()
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "own")]
    subprocess.run(command, timeout=WAIT, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])})
    assert (tmp_path / "own.done").exists()


def test_cancelling_thousands_of_calls_blocks_none_that_come_later(pool: LocalPool) -> None:
    """Their arguments fill the sockets of processes that have nothing to run and so do not read."""
    for _ in range(3):
        calls = Calls(pool, lambda x: 5, range(10_000))
        calls.wait_for(3)
        for index in range(10_000):
            pool.cancel(calls.batch, index)
        assert Calls(pool, lambda x: x, [1, 2, 3]).values() == [1, 2, 3]


# -- references ----------------------------------------------------------------------------------------------------


def sum_of_lengths(futures: list[Any]) -> int:
    """Return how long the values of some futures are together."""
    return sum(len(future.result()) for future in futures)


def referring(count: int) -> Packed:
    """Pack a list of futures, each for one reference."""
    futures: list[concurrent.futures.Future[Any]] = [concurrent.futures.Future() for _ in range(count)]
    places = {id(future): index for index, future in enumerate(futures)}
    return dumps(futures, persistent_id=lambda obj: places.get(id(obj)))


def outcome_of(size: int) -> bytes:
    """Encode an outcome of a number of bytes."""
    return Outcome(True, dumps(b"x" * size).data).encode()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the notes that are sent to processes from now on."""
    sizes: list[int] = []
    encode_note = frames.encode_note

    def noted(kind: int, meta: bytes, number: int = 0) -> frames.Outgoing:
        sizes.append(len(meta))
        return encode_note(kind, meta, number)

    monkeypatch.setattr(frames, "encode_note", noted)
    return sizes


def test_a_big_reference_is_not_sent_with_each_call(pool: LocalPool, sent: list[int]) -> None:
    """Calls that refer to a big outcome share one copy of it in a file; nothing of it is kept when they have ended."""
    shared, small = outcome_of(3_000_000), outcome_of(10)
    references = [[shared, small, outcome_of(100_000)] for _ in range(40)]
    calls = Calls(pool, sum_of_lengths, [referring(3)] * 40, references=references)
    assert calls.values() == [3_100_010] * 40
    assert sum(sent) < 3_000_000
    assert pool.wait(WAIT)
    assert not calls.batch.arenas
    assert not calls.batch._places


def test_small_references_of_many_calls_are_sent_little_by_little(pool: LocalPool, sent: list[int]) -> None:
    """They count when a process is given calls, so that what is sent ahead stays small."""
    references = [[outcome_of(60_000)] for _ in range(200)]
    assert Calls(pool, sum_of_lengths, [referring(1)] * 200, references=references).values() == [60_000] * 200
    assert max(sent) < 300_000


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_references_of_a_call_whose_process_dies(pool: LocalPool, tmp_path: Path, size: int) -> None:
    """The other calls get the references all the same, from another process, and so do calls that are held."""

    def count(futures: list[Any]) -> int:
        length = sum(len(future.result()) for future in futures)
        if length % 10:
            os._exit(1)
        return length

    shared = outcome_of(size)
    references = [[shared, outcome_of(size + (index == 5))] for index in range(20)]
    calls = Calls(pool, count, [referring(2)] * 22, references=[*references, [], []], held=[20, 21])
    pool.let_go(calls.batch, 20, [shared, shared])
    pool.let_go(calls.batch, 21, [outcome_of(size), outcome_of(size)])
    results = calls.all()
    assert results[5].failure is not None
    assert [value(result) for index, result in enumerate(results) if index != 5] == [2 * size] * 21
    assert pool.wait(WAIT)
    assert not calls.batch.arenas


def test_references_when_there_is_no_room_for_a_file(pool: LocalPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are sent without one."""

    def full(*_: Any) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(UnlinkedFile, "append", full)
    references = [[outcome_of(200_000)] for _ in range(5)]
    assert Calls(pool, sum_of_lengths, [referring(1)] * 5, references=references).values() == [200_000] * 5


# -- calls that are held -------------------------------------------------------------------------------------------


def test_calls_that_are_held(pool):
    """A call that is held does not run before ``let_go``, whether its turn has come or not; the others do."""
    first, count = Outcome(True, dumps(40).data).encode(), 6
    futures = [dumps(n) for n in range(count)]
    calls = Calls(pool, lambda n: n * 10, futures, held=[0, 1, 4, 5])
    assert wait_until(lambda: len(calls.results) == 2)
    assert sorted(calls.results) == [2, 3]
    assert pool.cancel(calls.batch, 1)
    pool.let_go(calls.batch, 1, [first])  # it was cancelled
    for index in (0, 4, 5):
        pool.let_go(calls.batch, index, [first])
    assert wait_until(lambda: len(calls.results) == count)
    assert [value(calls.results[index]) for index in (0, 2, 3, 4, 5)] == [0, 20, 30, 40, 50]
    assert calls.results[1].failure.kind == "CallCancelledError"
    assert calls.twice == []


def test_a_call_is_let_go_before_its_turn(pool, tmp_path):
    """A call may be let go while those before it in its batch still wait."""
    gate = tmp_path / "gate"

    def wait_for(path):
        import os
        import time

        while path and not os.path.exists(path):
            time.sleep(0.01)
        return path

    calls = Calls(pool, wait_for, [str(gate)] * 4 + [""], held=[4])
    pool.let_go(calls.batch, 4, [])
    gate.touch()
    assert wait_until(lambda: len(calls.results) == 5)
    assert calls.twice == []
