"""A call cannot make a later one fail, whatever it does to its process; harmless threads may stay."""

from __future__ import annotations

import asyncio
import builtins
import gc
import json
import math
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from child_processes import value

from pywren.pickling.packed import dumps, loads
from pywren.pickling.packed_exceptions import load_exception
from pywren.worker.child.condition import is_inert
from pywren.worker.parent.pool import LocalPool
from pywren.worker.task import Function, Runner, RunResult, Task

pytestmark = pytest.mark.usefixtures("by_value")


def clear_modules() -> None:
    sys.modules.clear()


def delete_builtin() -> None:
    del builtins.len


def clear_builtins() -> None:
    builtins.__dict__.clear()


def replace_open() -> None:
    builtins.open = None  # type: ignore[assignment]


def replace_os() -> None:
    sys.modules["os"] = None  # type: ignore[assignment]


def spoil_os() -> None:
    os.listdir = os.fstat = os.makedirs = os.getpid = None  # type: ignore[assignment]


def replace_json() -> None:
    json.loads = json.dumps = None  # type: ignore[assignment]


def replace_pickle() -> None:
    pickle.loads = pickle.Pickler = None  # type: ignore[assignment,misc]


def disable_collection() -> None:
    gc.disable()


def add_audit_hook() -> None:
    def refuse(event: str, arguments: object) -> None:
        if event in ("open", "import", "subprocess.Popen"):
            raise RuntimeError("audited")

    sys.addaudithook(refuse)


def limit_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def limit_file_size() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def remove_finders() -> None:
    sys.meta_path.clear()
    sys.path_hooks.clear()


def leave_for_a_removed_directory() -> None:
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")


def set_handlers() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda *_: 1 / 0)
    signal.alarm(1)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))


def lower_recursion_limit() -> None:
    sys.setrecursionlimit(60)


def close_streams() -> None:
    sys.stdout.close()
    os.closerange(0, 3)


def replace_what_is_rarely_used() -> None:
    import subprocess

    subprocess.Popen = None  # type: ignore[assignment,misc]
    time.sleep(0.02)


def replace_all_modules() -> None:
    sys.modules = None  # type: ignore[assignment]


def replace_a_module_without_harm_to_this_call() -> None:
    sys.modules["decimal"] = None  # type: ignore[assignment]


def replace_modules_with_doubles() -> None:
    class Double:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    for name in ("decimal", "subprocess", "threading"):
        sys.modules[name] = Double()  # type: ignore[assignment]


def replace_a_builtin_by_what_cannot_be_compared() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("compared")

        __hash__ = None  # type: ignore[assignment]

    builtins.len = Odd()  # type: ignore[assignment]


def replace_what_output_is_read_with() -> None:
    os.lseek = os.ftruncate = None  # type: ignore[assignment]


def trace_with_errors() -> None:
    def trace(*_: Any) -> Any:
        raise RuntimeError("traced")

    sys.settrace(trace)


DAMAGES = [
    clear_modules,
    delete_builtin,
    clear_builtins,
    replace_open,
    replace_os,
    spoil_os,
    replace_json,
    replace_pickle,
    disable_collection,
    add_audit_hook,
    limit_files,
    limit_file_size,
    remove_finders,
    leave_for_a_removed_directory,
    set_handlers,
    block_signals,
    lower_recursion_limit,
    close_streams,
    replace_all_modules,
    replace_a_module_without_harm_to_this_call,
    replace_modules_with_doubles,
    replace_a_builtin_by_what_cannot_be_compared,
    replace_what_output_is_read_with,
    trace_with_errors,
]


class Own:
    """A class of the script."""

    def __init__(self, number: int) -> None:
        self.number = number


def use(number: int) -> int:
    """Use the process as ordinary calls do."""
    import decimal

    with open("file", "w") as file:
        file.write(json.dumps([len("x"), str(decimal.Decimal(1))]))
    assert os.listdir(".") == ["file"]
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    subprocess.run(["true"], check=True)
    assert gc.isenabled()
    print("printed")
    return loads(dumps(Own(number))).number  # type: ignore[no-any-return]


def call(given: tuple[Callable[[], None] | None, int]) -> int:
    """Damage the process, or act as a later call."""
    damage, number = given
    if damage is None:
        return use(number)
    damage()
    return number


def run(runner: Runner, function: Function, given: Any) -> RunResult:
    return runner.run(Task(function, dumps(given)))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_call_is_not_failed_by_an_earlier_one(runner: Runner, damage: Callable[[], None]) -> None:
    """Row 255: the call returns its own result, and later calls return theirs."""
    function = Function(damage.__name__, dumps(call))
    assert [value(run(runner, function, given)) for given in ((None, 1), (damage, 2), (None, 3), (None, 4))] == [
        1,
        2,
        3,
        4,
    ]


def use_loop_of_old(number: int) -> int:
    loop = asyncio.get_event_loop()
    try:
        return loop.run_until_complete(asyncio.sleep(0, number))
    finally:
        loop.close()


def set_closed_loop(number: int) -> int:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.close()
    return number


def use_new_loop(number: int) -> int:
    return asyncio.run(asyncio.sleep(0, number))


def set_start_method(number: int) -> int:
    multiprocessing.set_start_method("spawn")
    return number


def use_pool(number: int) -> int:
    with multiprocessing.Pool(1) as pool:
        return pool.map(abs, [number])[0]


def use_forked_pool(number: int) -> int:
    multiprocessing.set_start_method("fork")
    return use_pool(number)


def set_timeout_of_sockets(number: int) -> int:
    assert socket.getdefaulttimeout() is None
    socket.setdefaulttimeout(1e-6)
    return number


ONCE_A_PROCESS = {
    "start method": [set_start_method, use_pool, use_forked_pool, set_start_method],
    "timeout": [set_timeout_of_sockets, set_timeout_of_sockets],
    "event loop": [use_loop_of_old, use_new_loop, use_loop_of_old, set_closed_loop, use_loop_of_old, use_loop_of_old],
}
if sys.version_info >= (3, 14):
    del ONCE_A_PROCESS["event loop"]  # newer versions of Python no longer create one by themselves


@pytest.mark.parametrize("functions", ONCE_A_PROCESS.values(), ids=ONCE_A_PROCESS)
def test_what_can_be_done_once_a_process_can_be_done_in_every_call(
    runner: Runner, functions: list[Callable[[int], int]]
) -> None:
    """Start methods, event loops and the default timeout of sockets are restored after the call."""

    def work(given: tuple[Callable[[int], int], int]) -> int:
        function, number = given
        return function(number)

    function = Function("once", dumps(work))
    given = [(one, number) for number, one in enumerate(functions)]
    assert [value(run(runner, function, one)) for one in given] == list(range(len(functions)))


def test_calls_that_wait_behind_it(runner: Runner) -> None:
    """Calls that were already given to the process run in another one."""
    pool = runner if isinstance(runner, LocalPool) else None
    if pool is None:
        pytest.skip("forked processes are given one call at a time")
    ended, results = threading.Event(), {}

    def take(found: list[tuple[int, RunResult]]) -> None:
        results.update(found)
        if len(results) == 40:
            ended.set()

    given = [(DAMAGES[n // 4] if n % 4 == 1 and n < 32 else None, n) for n in range(40)]
    pool.submit(Function("behind", dumps(call)), [dumps(one) for one in given], on_results=take)
    assert ended.wait(120)
    assert [value(results[n]) for n in range(40)] == list(range(40))


def test_its_exception_comes_too(runner: Runner) -> None:
    """An exception that a call raises after the damage arrives with its own type."""

    def clear_and_raise(_: Any) -> None:
        sys.modules.clear()
        raise ValueError("own")

    result = run(runner, Function("raises", dumps(clear_and_raise)), 0)
    assert result.success is False
    assert result.body is not None
    assert type(load_exception(result.body)) is ValueError


def test_its_exception_comes_although_it_has_left_a_trace_function(runner: Runner) -> None:
    """The trace function, which raises, is removed before any function of pywren is called."""

    def trace_and_raise(_: Any) -> None:
        trace_with_errors()
        raise ValueError("own")

    result = run(runner, Function("traces and raises", dumps(trace_and_raise)), 0)
    assert result.success is False
    assert result.body is not None
    assert type(load_exception(result.body)) is ValueError


def test_a_call_that_cannot_begin_runs_elsewhere(runner: Runner) -> None:
    """Damage that shows only when an argument is loaded is also blamed on the earlier call."""

    def spoil(given: Any) -> int:
        if given == "spoil":
            import copyreg

            copyreg._slotnames = copyreg.__newobj_ex__ = None  # type: ignore[attr-defined,assignment]
            return 0
        return given.number  # type: ignore[no-any-return]

    class Late:
        def __init__(self, number: int) -> None:
            self.number = number

        def __reduce__(self) -> Any:
            def make(number: int) -> Late:
                import copyreg

                copyreg._slotnames(Late)  # type: ignore[attr-defined]
                return Late(number)

            return make, (self.number,)

    function = Function("late", dumps(spoil))
    assert value(run(runner, function, "spoil")) == 0
    assert value(run(runner, function, Late(5))) == 5


def test_an_argument_that_always_raises_is_its_own_fault(runner: Runner) -> None:
    """Its exception arrives, even from a process that has run other calls."""

    class Broken:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    function = Function("broken", dumps(lambda given: 1))
    assert value(run(runner, function, 0)) == 1
    for _ in range(3):
        result = run(runner, function, Broken())
        assert result.success is False
        assert result.body is not None
        assert type(load_exception(result.body)) is ValueError


def test_damage_that_no_quick_look_finds_fails_one_call_at_most(runner: Runner) -> None:
    """Row 310: after an error that such damage causes, the process is checked thoroughly and replaced."""

    def ordered(damage: bool) -> int:
        import collections

        if damage:
            del collections.OrderedDict
            return 0
        return len(collections.OrderedDict(a=1))

    function = Function("ordered", dumps(ordered))
    assert value(run(runner, function, True)) == 0
    run(runner, function, False)
    assert value(run(runner, function, False)) == 1


def leave_open(number: int) -> None:
    for _ in range(number):
        os.dup(0)


def leave_sockets_open(number: int) -> None:
    for _ in range(number // 2):
        for end in socket.socketpair():
            end.detach()


@pytest.mark.parametrize("leave", [leave_open, leave_sockets_open], ids=lambda leave: leave.__name__)
def test_calls_that_leave_files_open_never_run_out_of_descriptors(runner: Runner, leave: Callable[[int], None]) -> None:
    """Row 311: a process with half of its descriptors in use is replaced."""

    def use_many(leave: Callable[[int], None]) -> int:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        leave(min(limit, 20_000) * 2 // 5)
        with open("file", "w"):
            return os.getpid()

    function = Function(leave.__name__, dumps(use_many))
    assert len({value(run(runner, function, leave)) for _ in range(8)}) > 1


def test_a_call_that_takes_all_descriptors(runner: Runner) -> None:
    """Row 311: the call returns its result, and the next call has descriptors."""

    def take_all(_: Any) -> str:
        try:
            while True:
                os.dup(0)
        except OSError as error:
            return type(error).__name__

    assert value(run(runner, Function("takes all", dumps(take_all)), 0)) == "OSError"
    assert value(run(runner, Function("uses", dumps(use)), 3)) == 3


# -- harmless changes ------------------------------------------------------------------------------------------------


def set_what_there_is() -> None:
    import resource

    os.nice(0)
    resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, os.sched_getaffinity(0))


def block_signals_for_a_while() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def capture_warnings() -> None:
    import logging

    logging.captureWarnings(True)
    logging.setLoggerClass(type("Mine", (logging.Logger,), {}))


def set_hooks() -> None:
    sys.excepthook = lambda *_: None


def install_a_translation() -> None:
    import gettext

    gettext.install("domain")


def trace_for_a_while() -> None:
    import cProfile

    sys.settrace(lambda *_: None)
    sys.settrace(None)
    with cProfile.Profile():
        abs(1)


def double_for_a_while() -> None:
    from unittest import mock

    with mock.patch("os.getcwd"), mock.patch.dict(sys.modules, {"double": mock.Mock()}):
        os.getcwd()


def load_a_library_again() -> None:
    for _ in range(2):
        sys.modules.pop("tqdm.utils", None)
        import tqdm.utils  # noqa: F401


@pytest.mark.parametrize(
    "use_it",
    [
        set_what_there_is,
        block_signals_for_a_while,
        capture_warnings,
        set_hooks,
        install_a_translation,
        trace_for_a_while,
        double_for_a_while,
        load_a_library_again,
    ],
    ids=lambda use_it: use_it.__name__,
)
def test_a_process_that_was_not_harmed_is_kept(use_it: Callable[[], None]) -> None:
    """A call that sets a value again, restores what it changed, or replaces a hook keeps its process."""

    def harmless(use_it: Callable[[], None]) -> int:
        use_it()
        time.sleep(0.011)  # long enough for a thorough check of the process
        return os.getpid()

    pool = LocalPool(1)
    try:
        function = Function(use_it.__name__, dumps(harmless))
        assert len({value(run(pool, function, use_it)) for _ in range(4)}) == 1
    finally:
        pool.close()


FACTOR = 3


def scaled(number: float) -> float:
    return FACTOR * math.sqrt(number)


def summed(numbers: list[float]) -> list[float]:
    offset = 1
    return sorted(map(lambda number: number + offset, [scaled(one) for one in numbers]))  # noqa: C417


def closing_over(held: Any) -> Callable[[Any], Any]:
    return lambda number: (number, held)


def count(numbers: list[int]) -> int:
    numbers.append(1)
    return numbers.count(1) if isinstance(numbers, list) else 0


def into_frames(numbers: Any) -> Any:
    return (one for one in numbers).gi_frame.f_builtins  # type: ignore[attr-defined]


def importing(_: Any) -> None:
    import os

    os.nice(1)


def defining(_: Any) -> None:
    class Inner: ...


def setting(number: Any) -> None:
    number.attribute = 1


def keeping(number: Any) -> None:
    global FACTOR
    FACTOR = number


async def on_a_loop(number: int) -> int:
    return number


def through_another(number: int) -> Any:
    return on_a_loop(number)


@pytest.mark.parametrize(
    "function", [scaled, summed, closing_over(1), closing_over("text"), closing_over(scaled), count]
)
def test_functions_that_only_compute_are_inert(function: Callable[..., Any]) -> None:
    """A function that refers only to numbers, computing built-ins, math and similar functions is harmless."""
    assert is_inert(function)


@pytest.mark.parametrize(
    "function",
    [
        into_frames,
        importing,
        defining,
        setting,
        keeping,
        on_a_loop,
        through_another,
        closing_over([]),
        closing_over(os),
        use,
        print,
        scaled.__get__(1),
    ],
)
def test_functions_that_reach_out_are_not(function: Callable[..., Any]) -> None:
    """Not harmless: importing, setting attributes or globals, mutable objects, frames, and event loops."""
    assert not is_inert(function)


# -- threads ---------------------------------------------------------------------------------------------------------


def bar() -> None:
    from tqdm import tqdm

    for _ in tqdm(range(3)):
        pass


def open_pool() -> None:
    from concurrent.futures import ThreadPoolExecutor

    made = ThreadPoolExecutor(2)
    list(made.map(abs, [1, 2]))
    kept.append(made)


def open_thread_pool() -> None:
    from multiprocessing.pool import ThreadPool

    made = ThreadPool(1)
    made.map(abs, [1, 2])
    kept.append(made)


def listen_to_a_queue() -> None:
    import logging.handlers
    import queue

    logging.handlers.QueueListener(queue.Queue()).start()


def sleep_in_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


def set_a_timer() -> None:
    threading.Timer(1000, print).start()


def start_below_threading() -> None:
    import _thread

    _thread.start_new_thread(time.sleep, (1000,))


def go_on_in_a_pool() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def work() -> None:
        time.sleep(1000)

    made = ThreadPoolExecutor(1)
    made.submit(work)
    kept.append(made)


class OwnThread(threading.Thread):
    """A thread that starts itself."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start()

    def run(self) -> None:
        """Return at once."""
        threading.Event().wait()


kept: list[Any] = []


def pid_after(start: Callable[[], object]) -> int:
    start()
    return os.getpid()


@pytest.mark.parametrize("start", [bar, open_pool, open_thread_pool, listen_to_a_queue], ids=lambda one: one.__name__)
def test_threads_that_a_library_keeps_for_itself_stay(runner: Runner, start: Callable[[], object]) -> None:
    """Row 256: such threads keep the process, which saves a second import."""
    function = Function(start.__name__, dumps(pid_after))
    results = [run(runner, function, start) for _ in range(12)]
    assert len(set(map(value, results))) <= 4
    assert "leftovers" not in results[0].info


@pytest.mark.parametrize(
    "start",
    [sleep_in_a_thread, set_a_timer, start_below_threading, go_on_in_a_pool, OwnThread],
    ids=lambda one: one.__name__,
)
def test_threads_of_the_call_end_with_it(runner: Runner, start: Callable[[], object]) -> None:
    """Row 18: this holds whether the user's code starts the threads or runs in them."""
    function = Function(start.__name__, dumps(pid_after))
    results = [run(runner, function, start) for _ in range(3)]
    assert len(set(map(value, results))) == 3
    assert all("thread" in result.info["leftovers"] for result in results)
