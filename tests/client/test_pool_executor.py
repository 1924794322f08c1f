"""``PoolExecutor`` against the contract of ``concurrent.futures.Executor``, over the local executor."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import types
import weakref

import executors
import hostile
import pytest
from child_processes import complaints
from executors import WAIT, is_there

import pywren
from pywren.client import call_state, local_calls, pool_executor
from pywren.client.verdict import Verdict
from pywren.exceptions import ArgumentError, SerializationError, WorkerCrashedError


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A local executor for all tests."""
    with executors.make("local", tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def pool(ready):
    """Return a separate pool for each test."""
    with pywren.PoolExecutor(ready.executor) as made:
        yield made


class Result:
    """Something that weak references can point to."""

    def __init__(self, number):
        self.number = number


def run_program(program):
    """Run a program to its end."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def described(*args, **kwargs):
    return args, kwargs


class TestSubmit:
    """``submit``."""

    def test_passes_positional_and_keyword_arguments(self, pool):
        """The function gets its arguments unchanged, even under names that pywren itself uses."""
        assert pool.submit(described, 1, 2, x=3, fn=4, self=5).result(WAIT) == ((1, 2), {"x": 3, "fn": 4, "self": 5})
        assert pool.submit(described).result(WAIT) == ((), {})

    def test_returns_a_future_of_the_standard_library(self, pool):
        """``as_completed`` and ``wait`` of concurrent.futures take its futures."""
        futures = [pool.submit(abs, -n) for n in range(5)]
        assert all(isinstance(future, concurrent.futures.Future) for future in futures)
        assert {future.result() for future in concurrent.futures.as_completed(futures, WAIT)} == set(range(5))
        assert concurrent.futures.wait(futures, WAIT).not_done == set()

    def test_the_functions_own_exception(self, pool):
        """``result`` and ``exception`` deliver what the function raised."""
        future = pool.submit(divmod, 1, 0)
        with pytest.raises(ZeroDivisionError):
            future.result(WAIT)
        assert isinstance(future.exception(), ZeroDivisionError)

    def test_what_cannot_be_sent_is_an_error_at_once(self, pool):
        """The error is raised at once; the standard library would report it only in the future."""
        with pytest.raises(SerializationError, match="lock"):
            pool.submit(described, threading.Lock())

    def test_a_crash_leaves_the_pool_usable(self, pool):
        """A call that ends its process fails alone; a ``ProcessPoolExecutor`` would be broken."""
        with pytest.raises(WorkerCrashedError):
            pool.submit(os._exit, 1).result(WAIT)
        assert pool.submit(abs, -1).result(WAIT) == 1

    def test_from_many_threads(self, pool):
        """Several threads can share a pool."""
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            futures = list(threads.map(lambda n: pool.submit(pow, n, 2), range(50)))
        assert [future.result(WAIT) for future in futures] == [n * n for n in range(50)]


COUNT = 0


def count_up():
    """Change a global variable, and return its value."""
    global COUNT
    COUNT += 1
    return COUNT


def waits(path, gate):
    """Show that the call runs, and wait for a file. No module is sent with it, as it is sent by value."""
    import os
    import time

    with open(path, "wb"):
        pass
    while not os.path.exists(gate):
        time.sleep(0.01)
    return "on time"


waits.__module__ = "__main__"


class TestManySubmits:
    """Calls of one function that are submitted one after the other share callsets."""

    @pytest.fixture
    def function(self):
        """Return a function that is sent by value, and that can only compute."""
        return lambda x, y=1: 100 // (x + y)

    def test_have_their_own_outcomes(self, pool, function):
        """Each future has the outcome of its own call, a value or an exception."""
        futures = [pool.submit(function, n, y=-50) for n in range(300)]
        assert isinstance(futures.pop(50).exception(WAIT), ZeroDivisionError)
        assert [future.result(WAIT) for future in futures] == [100 // (n - 50) for n in range(300) if n != 50]
        assert len({(future.callset_id, future.call_id) for future in futures}) == 299

    @pytest.mark.parametrize(("seconds", "callsets"), [(WAIT, 1), (0.0, 5)])
    def test_share_a_callset(self, pool, tmp_path, monkeypatch, seconds, callsets):
        """Calls share a callset that is not over and was made just now."""
        monkeypatch.setattr(local_calls, "_JOIN_SECONDS", seconds)
        gate = tmp_path / "gate"
        futures = [pool.submit(waits, str(tmp_path / f"held{n}"), str(gate)) for n in range(5)]
        gate.touch()
        assert [future.result(WAIT) for future in futures] == ["on time"] * 5
        assert len({future.callset_id for future in futures}) == callsets

    def test_from_many_threads(self, pool, function):
        """Each thread gets the results of its own calls."""

        def submit(thread):
            futures = [pool.submit(function, 1, y=thread * 1000 + n) for n in range(300)]
            return [future.result(WAIT) for future in futures]

        with concurrent.futures.ThreadPoolExecutor(6) as threads:
            found = list(threads.map(submit, range(6)))
        assert found == [[100 // (1 + thread * 1000 + n) for n in range(300)] for thread in range(6)]

    def test_of_different_functions(self, pool, function):
        """Functions and arguments of any kind take turns."""
        big = b"x" * 1_000_000
        futures = [
            pool.submit(*call) for _ in range(20) for call in ((function, 1), (abs, -3), (len, big), (function, 4))
        ]
        assert [future.result(WAIT) for future in futures] == [50, 3, 1_000_000, 20] * 20

    def test_each_is_cancelled_alone(self, pool, tmp_path):
        """``cancel`` stops one call, waiting or running, and no other."""
        count = os.cpu_count() + 3
        gate = str(tmp_path / "gate")
        futures = [pool.submit(waits, str(tmp_path / f"held{n}"), gate) for n in range(count)]
        assert is_there(tmp_path / "held0")
        assert futures[0].cancel()
        assert futures[-1].cancel()
        (tmp_path / "gate").touch()
        assert [future.result(WAIT) for future in futures[1:-1]] == ["on time"] * (count - 2)
        assert futures[0].cancelled()
        assert futures[-1].cancelled()

    def test_a_crash_concerns_one_call(self, pool):
        """A call that ends its process does not harm those that wait behind it."""
        futures = [pool.submit(lambda n: n if n % 7 else os._exit(3), n) for n in range(20)]
        outcomes = [future.exception(WAIT) for future in futures]
        assert [type(error) for error in outcomes] == [type(None) if n % 7 else WorkerCrashedError for n in range(20)]

    def test_have_a_status_each(self, pool, function):
        """``run_status`` and ``invoke_status`` are about the call, and a pickled future finds it."""
        futures = [pool.submit(function, n) for n in range(20)]
        pywren.wait(futures)
        for future in futures:
            assert future.run_status["call_id"] == future.call_id
            assert future.invoke_status["call_id"] == future.call_id
        copies = pickle.loads(pickle.dumps(futures))
        assert [copy.result(WAIT) for copy in copies] == [future.result() for future in futures]

    def test_a_function_that_changes_itself_does_not(self, pool):
        """No call sees what an earlier call has done to the function's variables."""
        nested = types.FunctionType(count_up.__code__, {"COUNT": 0}, "count_up")
        nested.__module__ = "__main__"
        assert [future.result(WAIT) for future in [pool.submit(nested) for _ in range(30)]] == [1] * 30


class TestMap:
    """``map``."""

    def test_of_several_iterables(self, pool):
        """Items are taken in parallel, and the shortest iterable ends the map."""
        assert list(pool.map(pow, range(5), [2] * 3)) == [0, 1, 4]
        assert list(pool.map(abs, [])) == []

    def test_of_a_generator(self, pool):
        """A short iterable is consumed at once, as in the standard library."""
        assert list(pool.map(abs, (-n for n in range(4)))) == [0, 1, 2, 3]
        seen = []
        results = pool.map(abs, (seen.append(n) or n for n in range(4)))
        assert seen == [0, 1, 2, 3]
        assert list(results) == seen

    @pytest.mark.parametrize("chunksize", [1, 7])
    def test_of_what_has_no_end(self, pool, monkeypatch, chunksize):
        """Row 251: an infinite iterable is consumed a little ahead, and further as results are taken."""
        monkeypatch.setattr(pool_executor, "LAZY_CALLS", 20)
        items = itertools.count()
        results = pool.map(abs, items, chunksize=chunksize)
        assert next(items) == 20 * chunksize
        assert list(itertools.islice(results, 100)) == [*range(20 * chunksize), *range(20 * chunksize + 1, 101)][:100]
        assert next(items) < 100 + 31 * chunksize
        results.close()

    @pytest.mark.parametrize("endless", [itertools.count, lambda: itertools.repeat(0), lambda: iter(int, 1)])
    def test_of_what_has_no_end_beside_what_has(self, pool, endless):
        """With a finite iterable beside an infinite one, the finite one ends the map."""
        assert list(pool.map(lambda a, b: b, endless(), [1, 2, 3])) == [1, 2, 3]
        assert list(itertools.islice(pool.map(lambda a: 5, endless()), 3)) == [5] * 3

    @pytest.mark.parametrize("buffersize", [1, 2, 5, 100])
    def test_buffersize(self, pool, buffersize):
        """``buffersize`` limits how many calls are ahead of the results taken, as in Python 3.14."""
        items = itertools.count()
        results = pool.map(abs, items, buffersize=buffersize)
        assert next(items) == buffersize
        assert next(results) == 0
        assert next(items) <= 2 * buffersize + 1
        results.close()
        assert list(pool.map(pow, range(30), [2] * 30, buffersize=buffersize)) == [n * n for n in range(30)]

    @pytest.mark.parametrize(
        ("buffersize", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("", TypeError)]
    )
    def test_buffersize_that_is_none(self, pool, buffersize, error):
        """An invalid ``buffersize`` raises the standard library's errors at once."""
        with pytest.raises(error, match="buffersize"):
            pool.map(abs, [1], buffersize=buffersize)

    def test_an_iterable_that_raises_later(self, pool):
        """Its exception is raised where its item's result would have come."""

        def items():
            yield 1
            raise OSError("no more")

        results = pool.map(abs, items(), buffersize=1)
        with pytest.raises(OSError, match="no more"):
            list(results)

    def test_a_map_goes_on_after_shutdown(self, ready):
        """All results arrive after the ``with`` block, even of calls that had not been made yet."""
        with pywren.PoolExecutor(ready.executor) as pool:
            results = pool.map(abs, iter(range(10)), buffersize=3)
        assert list(results) == list(range(10))

    def test_results_are_let_go(self, pool):
        """CPython's ``test_free_reference``: a result that was handed out is not kept."""
        for chunksize in (1, 3):
            for result in pool.map(Result, range(10), chunksize=chunksize):
                reference = weakref.ref(result)
                del result
                deadline = time.monotonic() + WAIT
                while reference() is not None and time.monotonic() < deadline:
                    time.sleep(0.001)  # the thread that delivered it is about to drop it
                    gc.collect()
                assert reference() is None

    @pytest.mark.parametrize("chunksize", [1, 3, 10, 1000])
    def test_in_chunks(self, pool, chunksize):
        """Results are the same for any chunk size."""
        assert list(pool.map(pow, range(10), range(10), chunksize=chunksize)) == [n**n for n in range(10)]

    def test_chunks_share_a_process_call(self, pool):
        """Items of one chunk run in one call."""
        assert len(set(pool.map(lambda n: (os.getpid(), os.getcwd()), range(4), chunksize=4))) == 1

    def test_chunksize_below_one(self, pool):
        """The error is the standard library's ``ValueError``."""
        with pytest.raises(ValueError, match="chunksize"):
            pool.map(abs, [1], chunksize=0)
        assert issubclass(ArgumentError, ValueError)

    def test_is_an_iterator(self, pool):
        """Results come one at a time."""
        results = pool.map(abs, [-1, -2])
        assert iter(results) is results
        assert (next(results), next(results)) == (1, 2)
        with pytest.raises(StopIteration):
            next(results)

    def test_raises_where_the_failing_item_is(self, pool):
        """The results before the failing item are returned first."""
        results = pool.map(lambda n: 1 // n, [1, 0, 1])
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)

    def test_timeout(self, pool, tmp_path):
        """A result that does not arrive in time is a TimeoutError, and the outstanding calls are cancelled."""
        results = pool.map(hostile.sleeps_on, [str(tmp_path / f"held{n}") for n in range(3)], timeout=0.2)
        with pytest.raises(TimeoutError):
            next(results)
        assert executors.is_released(tmp_path / "held0")

    def test_closed_early(self, pool, tmp_path):
        """Closing the iterator early cancels the remaining calls."""
        results = pool.map(lambda path: path and hostile.sleeps_on(path), ["", str(tmp_path / "held")])
        assert next(results) == ""
        results.close()
        assert executors.is_released(tmp_path / "held")


class TestShutdown:
    """``shutdown``."""

    def test_waits_for_what_runs(self, ready, tmp_path):
        """By default, ``shutdown`` returns when all calls have ended."""
        pool = pywren.PoolExecutor(ready.executor)
        gate = tmp_path / "gate"
        future = pool.submit(hostile.holds_until, str(tmp_path / "held"), str(gate))
        assert is_there(tmp_path / "held")
        ending = threading.Thread(target=pool.shutdown)
        ending.start()
        assert not future.done()
        gate.touch()
        ending.join(WAIT)
        assert future.done()
        assert future.result() == "on time"

    def test_without_waiting(self, ready, tmp_path):
        """``wait=False`` returns at once, and the calls go on."""
        pool = pywren.PoolExecutor(ready.executor)
        gate = tmp_path / "gate"
        future = pool.submit(hostile.holds_until, str(tmp_path / "held"), str(gate))
        pool.shutdown(wait=False)
        assert not future.done()
        gate.touch()
        assert future.result(WAIT) == "on time"

    def test_cancelling_what_waits(self, ready, tmp_path):
        """``cancel_futures`` cancels the calls that have not begun; running calls go on."""
        pool = pywren.PoolExecutor(ready.executor)
        gate = str(tmp_path / "gate")
        running = [pool.submit(hostile.holds_until, str(tmp_path / f"held{n}"), gate) for n in range(os.cpu_count())]
        assert all(is_there(tmp_path / f"held{n}") for n in range(os.cpu_count()))
        waiting = [pool.submit(abs, -n) for n in range(5)]
        pool.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in waiting)
        (tmp_path / "gate").touch()
        assert [future.result(WAIT) for future in running] == ["on time"] * len(running)

    def test_no_calls_at_the_end_of_the_program(self, tmp_path):
        """Row 252: CPython's ``test_submit_after_interpreter_shutdown``, also for functions registered later."""
        program = """
            import atexit, sys
            def submit(when):
                made = pywren.local_executor
                for call in (lambda: pool.submit(abs, 1), lambda: pool.map(abs, [1]), lambda: made().map(abs, [1])):
                    try:
                        call()
                    except RuntimeError as error:
                        print(when, type(error).__name__, str(error)[:50])
            atexit.register(submit, "first")
            import pywren
            pool = pywren.PoolExecutor(pywren.local_executor())
            print(pool.submit(abs, -42).result())
            atexit.register(submit, "last")
        """
        done = run_program(program)
        refused = "ShutdownError cannot schedule new futures after interpreter shut"
        assert complaints(done.stderr) == ""
        assert done.stdout.splitlines() == ["42", *[f"last {refused}"] * 3, *[f"first {refused}"] * 3]

    def test_threads_may_finish_their_work(self):
        """Threads that the interpreter joins at exit can still make calls after the main thread has ended."""
        program = """
            import threading, pywren
            executor = pywren.local_executor()
            ended = threading.main_thread()
            def work():
                executor.call_async(abs, -1).result()
                ended.join()
                print(pywren.get_all_results(executor.map(abs, [-2, -3])))
            thread = threading.Thread(target=work)
            thread.start()
        """
        done = run_program(program)
        assert (done.stdout, complaints(done.stderr)) == ("[2, 3]\n", "")

    def test_daemon_threads_do_not_keep_the_program(self):
        """Row 253: daemon threads cannot make new calls at exit, and the program ends when running calls have ended."""
        program = """
            import threading, time, pywren
            executor = pywren.local_executor()
            begun, refused = threading.Semaphore(0), []
            def work():
                try:
                    while True:
                        [future.result() for future in executor.map(lambda x: x, range(20))]
                        begun.release()
                except RuntimeError as error:
                    refused.append(error)
            for _ in range(4):
                threading.Thread(target=work, daemon=True).start()
            for _ in range(8):
                begun.acquire()
        """
        assert run_program(program).returncode == 0

    def test_no_calls_afterwards(self, ready):
        """``submit`` and ``map`` raise the RuntimeError of the standard library; a second shutdown is harmless."""
        pool = pywren.PoolExecutor(ready.executor)
        pool.shutdown()
        pool.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(abs, 1)
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.map(abs, [1])

    def test_context_manager(self, ready):
        """Leaving the block waits for the calls."""
        with pywren.PoolExecutor(ready.executor) as pool:
            futures = [pool.submit(abs, -n) for n in range(3)]
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(abs, 1)


@pytest.mark.parametrize("given", [4.5, "lambda", pywren.local_executor, object(), {"max_workers": 2}])
def test_something_else_than_an_executor(given):
    """Row 254: what is neither a number of workers nor an executor is refused at once; the error says what to pass."""
    with pytest.raises(TypeError, match=r"pywren.local_executor\(\)"):
        pywren.PoolExecutor(given)


class Echo:
    """An object with an executor's methods, which runs nothing."""

    map_item_limit = None

    def map(self, func, iterdata):
        return [self.call_async(func, item) for item in iterdata]

    def call_async(self, func, data):
        made = pywren.future.ResponseFuture("00000", "a-callset")
        call_state.settle([(made, Verdict(func(data)))])
        return made

    def close(self):
        raise AssertionError("it is not the pool's own")


def test_any_object_with_the_verbs():
    """Any object with the methods of an executor is accepted; the pool does not close it."""
    with pywren.PoolExecutor(Echo()) as pool:
        assert pool.submit(divmod, 7, 2).done()


def test_leaves_the_executor_open(ready):
    """The executor that was passed in stays open."""
    with pywren.PoolExecutor(ready.executor) as pool:
        assert pool.submit(abs, -1).result(WAIT) == 1
    assert ready.call(abs, -1).result(WAIT) == 1


def test_without_an_executor(monkeypatch):
    """A pool without an executor makes the default one."""
    monkeypatch.setenv("PYWREN_EXECUTOR", "local")
    with pywren.PoolExecutor() as pool:
        assert pool.submit(abs, -1).result(WAIT) == 1


def test_under_asyncio(pool):
    """``loop.run_in_executor`` accepts a pool."""
    import asyncio

    async def main():
        return await asyncio.get_running_loop().run_in_executor(pool, pow, 2, 10)

    assert asyncio.run(main()) == 1024


def test_a_callback_may_submit_while_another_thread_does(pool, tmp_path):
    """A submit that waits for a future that its function refers to does not delay others, nor their callbacks."""
    held = [pool.submit(hostile.holds_until, str(tmp_path / name), str(tmp_path / f"gate-{name}")) for name in "ab"]
    submitted, submitting, called_back = [], threading.Event(), threading.Event()

    def submit_more(_):
        submitted.append(pool.submit(abs, -3))
        called_back.set()

    held[0].add_done_callback(submit_more)
    make = pool._executor.map

    def map_of(function, items):
        submitting.set()
        return make(function, items)

    waiting = threading.Thread(target=lambda: submitted.append(pool.submit(lambda: held[1].result())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool._executor, "map", map_of)
        waiting.start()
        assert submitting.wait(WAIT)
        (tmp_path / "gate-a").touch()
        assert called_back.wait(WAIT)
    (tmp_path / "gate-b").touch()
    waiting.join(WAIT)
    assert not waiting.is_alive()
    assert submitted[0].result(WAIT) == 3


def test_a_forked_child_waits_for_no_thread_of_its_parent():
    """It can shut a pool down with which a thread of the parent was making a call when the program forked."""
    program = """
        import os
        import threading
        import warnings

        import pywren

        warnings.simplefilter("ignore", DeprecationWarning)  # this program has threads when it forks
        is_inside, may_go_on = threading.Event(), threading.Event()

        class Slow:
            def __reduce__(self):
                is_inside.set()
                may_go_on.wait()
                return int, (3,)

        pool = pywren.PoolExecutor(executor=pywren.local_executor())
        futures = []
        thread = threading.Thread(target=lambda: futures.append(pool.submit(abs, Slow())))
        thread.start()
        is_inside.wait()
        child = os.fork()
        if child == 0:
            pool.shutdown(wait=True)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        may_go_on.set()
        thread.join()
        pool.shutdown()
        print(futures[0].result())
    """
    done = run_program(program)
    assert done.stdout == "3\n", done.stderr
