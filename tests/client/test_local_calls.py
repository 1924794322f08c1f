"""Calls in memory: their futures elsewhere, in other processes and after a fork."""

from __future__ import annotations

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import executors
import hostile
import pytest
from child_processes import complaints
from executors import WAIT, is_there

import pywren
from pywren.client import waiting
from pywren.exceptions import CallCancelledError, PywrenError, WaitTimeoutError
from pywren.pickling import packed
from pywren.storage import Storage
from pywren.worker.parent.pool import LocalPool
from pywren.worker.task import Function

COLLECT = """
import pickle, pywren, sys
with open(sys.argv[1], "rb") as file:
    futures = pickle.load(file)
pywren.wait(futures)
print([future.result(throw_except=False) for future in futures], repr(futures[-1].exception()))
"""


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A local executor for all tests."""
    with executors.make("local", tmp_path_factory.mktemp("home")) as made:
        yield made


def collect(path):
    """Start a process that collects pickled futures."""
    command = [sys.executable, "-c", COLLECT, str(path)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(path.parent)
    )


def environment(tmp_path):
    """Return the environment of a program that exits abruptly, which can import pywren and this directory's modules."""
    here = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]), "TMPDIR": str(tmp_path)}


def answer(process):
    """Wait for a process and return what it printed."""
    with process:
        output, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors
    return output.strip()


# -- collected by another process ---------------------------------------------------------------------------------


def test_finished_futures_are_collected_elsewhere(ready, tmp_path):
    """Values, small and big, and errors reach another process."""
    futures = [*ready.map(lambda x: "x" * x, [1, 500_000]), ready.call(hostile.raises_value_error, "no")]
    pywren.wait(futures)
    (tmp_path / "futures").write_bytes(pickle.dumps(futures))
    printed = answer(collect(tmp_path / "futures"))
    assert printed.endswith("None] ValueError('no')")
    assert "x" * 500_000 in printed


def test_unfinished_futures_are_waited_for_elsewhere(ready, tmp_path):
    """Another process waits while the calls run here."""
    gate = tmp_path / "gate"
    future = ready.call(lambda path: hostile.holds_until(path, gate), str(tmp_path / "held"))
    (tmp_path / "futures").write_bytes(pickle.dumps([future]))
    process = collect(tmp_path / "futures")
    assert is_there(tmp_path / "held")
    gate.touch()
    assert answer(process) == "['on time'] None"


def test_a_client_that_ended_before_its_calls(tmp_path):
    """Row 69 of the failure table: a call is lost when its client has gone, and other processes get that error."""
    program = (
        "import pickle, pywren, sys, time, os, signal\n"
        "future = pywren.local_executor().call_async(time.sleep, 300)\n"
        "open(sys.argv[1], 'wb').write(pickle.dumps([future]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "futures"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], timeout=WAIT, env=environment(tmp_path), check=False
    )
    assert done.returncode == -signal.SIGKILL
    printed = answer(collect(path))
    assert printed.startswith("[None] CallLostError")
    assert "the process that made the call has ended" in printed


def test_a_client_that_ended_after_its_calls(tmp_path):
    """Results that existed when the client ended can still be collected."""
    program = (
        "import pickle, pywren, sys\n"
        "futures = pywren.local_executor().map(abs, [-1, -2])\n"
        "pywren.get_all_results(futures)\n"
        "open(sys.argv[1], 'wb').write(pickle.dumps(futures))\n"
    )
    path = tmp_path / "futures"
    subprocess.run([sys.executable, "-c", program, str(path)], timeout=WAIT, env=environment(tmp_path), check=True)
    assert answer(collect(path)) == "[1, 2] None"


def test_a_client_that_is_killed_right_after_its_wait(tmp_path):
    """Once ``wait`` is over, other processes find the results of pickled futures."""
    program = (
        "import pickle, pywren, sys, os, signal, time\n"
        "def slow(x):\n    time.sleep(0.2)\n    return x\n"
        "futures = pywren.local_executor().map(slow, [1, 2])\n"
        "open(sys.argv[1], 'wb').write(pickle.dumps(futures))\n"
        "pywren.wait(futures)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "futures"
    subprocess.run([sys.executable, "-c", program, str(path)], timeout=WAIT, env=environment(tmp_path), check=False)
    assert answer(collect(path)) == "[1, 2] None"


def test_a_result_that_pickles_only_once_arrives_elsewhere_too(ready):
    """Another process gets what the worker pickled; the client does not pickle it again."""
    future = ready.call(hostile.returns_what_pickles_once, 1)
    copy = pickle.loads(pickle.dumps(future))
    assert type(copy.result(WAIT)) is type(future.result(WAIT))


def test_a_copy_in_the_same_process(ready):
    """An unpickled copy is a future of the same call, and returns the same result."""
    futures = ready.map(abs, [-1, -2])
    copies = pickle.loads(pickle.dumps(futures))
    assert [copy.call_id for copy in copies] == ["00000", "00001"]
    assert pywren.get_all_results(copies) == pywren.get_all_results(futures) == [1, 2]


def test_a_cancelled_future_is_cancelled_elsewhere(ready, tmp_path):
    """When a future is cancelled after pickling, its copy is cancelled too."""
    future = ready.call(hostile.sleeps_on, str(tmp_path / "held"))
    copy = pickle.loads(pickle.dumps(future))
    assert is_there(tmp_path / "held")
    assert future.cancel()
    with pytest.raises(CallCancelledError, match="cancelled"):
        copy.result(WAIT)


def test_nothing_is_stored_unless_pickled(ready):
    """Results stay in memory, and no file is created for them."""
    futures = ready.map(abs, range(3))
    pywren.get_all_results(futures)
    assert ready.executor.storage.backend.list(f"{ready.executor.storage.prefix}/{futures[0].callset_id}") == []


def test_results_in_the_store_are_signed(ready):
    """A result that another process has forged in the storage is not unpickled."""
    future = ready.call(abs, -1)
    assert future.result(WAIT) == 1
    recipe = pickle.dumps(future)
    storage: Storage = ready.executor.storage
    (key,) = [k for k in storage.backend.list(f"{storage.prefix}/{future.callset_id}") if k.endswith("status.json")]
    forged = storage.get(key).replace(b'"call_id"', b'"Call_id"')
    storage.put(key, forged)
    copy = pickle.loads(recipe)
    with pytest.raises(PywrenError):
        copy.result(WAIT)


# -- after os.fork ------------------------------------------------------------------------------------------------

FORK = """
import os, sys, time, pywren, hostile
executor = pywren.local_executor()
finished = executor.call_async(abs, -7)
assert finished.result(60) == 7
future = executor.call_async(lambda path: hostile.holds_until(path, path + ".gate"), sys.argv[1])
called = []
future.add_done_callback(called.append)
child = os.fork()
if child == 0:
    try:
        future.result(60)
    except pywren.exceptions.CallLostError:
        told = not called and finished.result(0) == 7 and executor.call_async(abs, -2).result(60) == 2
        os._exit(0 if told else 1)
    os._exit(2)
_, status = os.waitpid(child, 0)
open(sys.argv[1] + ".gate", "w").close()
print(os.waitstatus_to_exitcode(status), future.result(60), executor.call_async(abs, -3).result(60))
"""


def test_after_fork_both_processes_go_on(tmp_path):
    """Row 72 of the failure table: the parent's calls go on, the child's copies are lost, and new maps work in both."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(tmp_path / "held")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, env=environment(tmp_path), check=False)
    assert done.stdout == "0 on time 3\n", done.stderr


FORK_WHILE_COMPLETING = """
import os, sys, pywren, hostile
executor = pywren.local_executor()
hold = lambda path: path and hostile.holds_until(path, path + ".gate")
completed = pywren.as_completed(executor.map(hold, ["", sys.argv[1]]))
assert next(completed).result() == ""
child = os.fork()
if child == 0:
    lost = [type(one.exception()).__name__ for one in completed]
    os._exit(0 if lost == ["CallLostError"] else 1)
_, status = os.waitpid(child, 0)
open(sys.argv[1] + ".gate", "w").close()
print(os.waitstatus_to_exitcode(status), [one.result() for one in completed])
"""


def test_as_completed_goes_on_after_a_fork(tmp_path):
    """Both processes get the futures that were not taken before; in the child their calls are lost."""
    held = str(tmp_path / "held")
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK_WHILE_COMPLETING, held]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, env=environment(tmp_path), check=False)
    assert done.stdout == "0 ['on time']\n", done.stderr


FORK_AND_END = """
import os, pickle, sys, time, pywren
with open(sys.argv[1], "wb") as file:
    pickle.dump([pywren.local_executor().call_async(time.sleep, 600)], file)
if os.fork() == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.stdin.read()  # for as long as the test holds the other end
    os._exit(0)
os._exit(0)
"""


def test_a_forked_child_does_not_pass_for_the_client(tmp_path):
    """Row 69 of the failure table: calls are lost with their client, even when a process that it forked is alive."""
    path = tmp_path / "futures"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK_AND_END, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment(tmp_path)) as process:
        assert process.wait(WAIT) == 0
        assert "CallLostError" in answer(collect(path))


USE_IN_A_CHILD = """
import concurrent.futures, multiprocessing, os, pywren, sys
def use(x):
    executor = pywren.local_executor()
    executor.call_async(lambda path: open(path, "w").close(), sys.argv[1] + f"/late{x}")
    return executor.call_async(abs, -x).result()
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    process = context.Process(target=use, args=(3,))
    process.start()
    process.join()
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        print(process.exitcode, *pool.map(use, [1, 2]))
    print(*sorted(os.listdir(sys.argv[1])))
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_process_of_multiprocessing_tidies_up(tmp_path, start):
    """Row 193: when it ends, it waits for its calls and leaves no process or directory, however it was started."""
    program = tmp_path / "program.py"
    program.write_text(USE_IN_A_CHILD)
    marks, temporary = tmp_path / "marks", tmp_path / "temporary"
    marks.mkdir()
    temporary.mkdir()
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program), str(marks), start]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=WAIT, env=environment(temporary), check=False
    )
    assert (done.stdout, complaints(done.stderr)) == ("0 1 2\nlate1 late2 late3\n", "")
    assert os.listdir(temporary) == []


# -- the processes that calls run in -------------------------------------------------------------------------------


def test_an_executor_outlives_the_processes_it_shares(ready, tmp_path):
    """Row 190: when the pool has failed, its calls end, and executors go on with new processes."""
    gate = tmp_path / "gate"
    held = [ready.call(lambda path: hostile.holds_until(path, gate), str(tmp_path / f"held{n}")) for n in range(2)]
    assert is_there(tmp_path / "held0")
    argument = packed.dumps(-1)
    with suppress(TypeError):  # where a process is free at once
        LocalPool.shared().submit(Function("f", packed.dumps(abs)), [argument], on_results=len, timeout="no number")
    gate.touch()
    for future in held:
        error = future.exception(WAIT)
        assert error is None or "make the call again" in str(error)
    assert pywren.get_all_results(ready.map(abs, [-1, -2, -3])) == [1, 2, 3]


def test_an_executor_of_a_call_serves_later_calls(ready):
    """An executor that a function keeps works in the next call, although its processes ended with the first."""
    kept = []

    def maps(x):
        kept.append(kept[0] if kept else pywren.local_executor())
        return len(kept), kept[0].call_async(abs, x).result()

    answers = pywren.get_all_results(ready.map(maps, range(-2 * (os.cpu_count() or 1) - 1, 0)))
    assert max(count for count, _ in answers) > 1
    assert [value for _, value in answers] == list(range(len(answers), 0, -1))


# -- status of calls ---------------------------------------------------------------------------------------------


def test_running_is_known(ready, tmp_path):
    """A future of a call on this machine knows when the call is running."""
    gate = tmp_path / "gate"
    future = ready.call(lambda path: hostile.holds_until(path, gate), str(tmp_path / "held"))
    assert is_there(tmp_path / "held")
    assert future.running()
    assert future.job_state is pywren.future.JobState.running
    gate.touch()
    assert future.result(WAIT) == "on time"
    assert not future.running()


def test_silence_is_told_once(ready, tmp_path, monkeypatch, caplog):
    """Row 222: when no call ends for a while, a client that waits is told how many run and how many wait."""
    monkeypatch.setattr(waiting, "SILENCE", 0.2)
    gate = tmp_path / "gate"
    places = [str(tmp_path / f"{number}") for number in range(9)]
    futures = ready.executor.map(lambda path: hostile.holds_until(path, gate), places)
    for ask in (futures[0].result, lambda timeout: pywren.wait(futures, timeout=timeout)):
        with suppress(WaitTimeoutError):
            ask(timeout=1)
    (told,) = [record.getMessage() for record in caplog.records if "no result has arrived" in record.getMessage()]
    assert f"from callset {futures[0].callset_id} on this machine" in told
    running, queued = map(
        int, re.search(r"running calls: (\d+), calls waiting for a free process: (\d+)", told).groups()
    )
    assert running >= 1
    assert running + queued == 9
    gate.touch()
    assert [future.result(WAIT) for future in futures] == ["on time"] * 9


def test_calls_after_cancelled_ones(ready, tmp_path):
    """Calls that were cancelled before they started do not delay later calls."""
    gate = tmp_path / "gate"
    paths = [str(tmp_path / f"held{n}") for n in range(os.cpu_count() or 1)]
    running = [ready.call(lambda path: hostile.holds_until(path, gate), path) for path in paths]
    assert all(map(is_there, paths))
    waiting = [ready.call(abs, -n) for n in range(5)]
    assert all(future.cancel() for future in waiting)
    gate.touch()
    assert pywren.get_all_results(running) == ["on time"] * len(running)
    assert ready.call(abs, -1).result(3) == 1


def test_callbacks_and_awaiting(ready):
    """A callback runs once the outcome has arrived, and a coroutine can await it."""
    import asyncio

    told = threading.Event()
    future = ready.call(abs, -1)
    future.add_done_callback(lambda done: told.set())
    assert told.wait(WAIT)

    async def main():
        return await ready.call(abs, -2), await asyncio.gather(*map(asyncio.wrap_future, ready.map(abs, [-3, -4])))

    assert asyncio.run(main()) == (2, [3, 4])


def test_dropped_futures_still_run(ready, tmp_path):
    """A call goes on even if no reference to its future is left."""
    ready.call(lambda path: open(path, "w").close(), str(tmp_path / "mark"))
    gc.collect()
    assert is_there(tmp_path / "mark")


def test_results_do_not_pile_up(ready):
    """A result is freed together with its future."""
    import weakref

    future = ready.call(hostile.returns_point, 1)
    value = weakref.ref(future.result(WAIT))
    del future
    gc.collect()
    assert value() is None


# -- maps of one function, one after the other --------------------------------------------------------------------

KEEPS_COUNT = """
import pywren
N = 0
def count_globally(x):
    global N
    N += 1
    return N
def counter():
    n = 0
    def count(x):
        nonlocal n
        n += 1
        return n
    return count
executor = pywren.local_executor()
for function in (count_globally, counter()):
    for _ in range(4):
        assert executor.call_async(function, 0).result() == 1
    assert sum(pywren.get_all_results(executor.map(function, range(40)))) > 40
    assert executor.call_async(function, 0).result() == 1
"""


def test_a_map_does_not_see_what_another_did_to_the_variables_of_its_function(tmp_path):
    """Every map begins with the function as it was sent, although a process caches what it has loaded."""
    command = [sys.executable, "-c", KEEPS_COUNT]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    )
    assert answer(process) == ""


# -- the environment that calls see -------------------------------------------------------------------------------


def seen(name):
    """Return a variable as seen by the function, and by a program that the function starts."""
    script = f"import os; print(os.environ.get({name!r}))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    return os.environ.get(name), told


@pytest.mark.parametrize("name", ["MY_SETTING", "PATH_OF_MY_DATA", "Größe", "HTTP_PROXY", "LC_ALL"])
def test_calls_see_the_environment_of_the_time_their_executor_was_made(ready, monkeypatch, name):
    """A variable may be set, changed, emptied or removed between two executors, whatever its name."""
    for value in ("1", "2", "", None, "é=1"):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name)
        told = pywren.local_executor().call_async(seen, name).result(WAIT)
        assert told == (value, str(value))


def test_calls_have_one_blas_thread_unless_the_client_says_otherwise(ready, monkeypatch):
    """By default BLAS uses one thread, because there are as many calls as processors."""
    values = []
    for number in ("3", None, "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", number) if number else monkeypatch.delenv("OMP_NUM_THREADS")
        executor = pywren.local_executor()
        values.append(executor.call_async(lambda _: os.environ.get("OMP_NUM_THREADS"), 0).result(WAIT))
    assert values == ["3", "1", "2"]


def test_executors_keep_their_environments(ready, monkeypatch):
    """Calls of two executors alternate, and each sees its own variables; later changes have no effect."""
    made = []
    for value in ("one", "two"):
        monkeypatch.setenv("MY_SETTING", value)
        made.append(pywren.local_executor())
    monkeypatch.delenv("MY_SETTING")
    read = [executor.call_async(lambda _: os.environ.get("MY_SETTING"), 0) for executor in made * 3]
    assert [future.result(WAIT) for future in read] == ["one", "two"] * 3
    assert ready.call(lambda _: os.environ.get("MY_SETTING"), 0).result(WAIT) is None


def test_extra_env_goes_before_the_environment(ready, monkeypatch):
    """``extra_env`` overrides the client's variables, for that map alone."""
    monkeypatch.setenv("MY_SETTING", "of the client")
    executor = pywren.local_executor()
    values = [
        executor.call_async(lambda _: os.environ.get("MY_SETTING"), 0, extra_env=extra).result(WAIT)
        for extra in ({"MY_SETTING": "of the call"}, None, {"OTHER": "1"})
    ]
    assert values == ["of the call", "of the client", "of the client"]


def test_what_a_call_sets_is_not_seen_by_the_next(ready, monkeypatch):
    """When a call changes a variable, later calls do not see the change."""
    monkeypatch.setenv("MY_SETTING", "1")
    executor = pywren.local_executor()

    def change(value):
        before = os.environ.get("MY_SETTING")
        if value is None:
            os.environ.pop("MY_SETTING", None)
        else:
            os.environ["MY_SETTING"] = value
        return before

    futures = [executor.call_async(change, value) for value in ("2", None, "3", None)]
    assert [future.result(WAIT) for future in futures] == ["1"] * 4


def test_a_time_zone_counts(ready, monkeypatch):
    """Calls have the client's ``TZ`` when their executor was made."""
    offsets = []
    for zone in ("XXX-5", "XXX-7", "UTC"):
        monkeypatch.setenv("TZ", zone)
        executor = pywren.local_executor()
        offsets.append(executor.call_async(lambda _: __import__("time").localtime(0).tm_hour, 0).result(WAIT))
    assert offsets == [5, 7, 0]


def test_staged_calls_of_this_machine_see_the_environment_too(ready, monkeypatch):
    """A call that is staged sees the same variables as its executor's other calls."""
    monkeypatch.setenv("MY_SETTING", "one")
    executor = pywren.local_executor()
    monkeypatch.setenv("MY_SETTING", "two")
    staged = executor.map(lambda _: os.environ.get("MY_SETTING"), [0], overwrite_invoke_args={"mine": 1})[0]
    assert staged.result(WAIT) == "one"


def test_processes_that_replace_others_have_the_environment(ready, monkeypatch):
    """After a crash, later calls see the same variables."""
    monkeypatch.setenv("MY_SETTING", "one")
    executor = pywren.local_executor()
    monkeypatch.setenv("MY_SETTING", "two")
    for _ in range(3):
        executor.call_async(os._exit, 3).exception(WAIT)
    values = executor.map(lambda _: os.environ.get("MY_SETTING"), range(6))
    assert [future.result(WAIT) for future in values] == ["one"] * 6
