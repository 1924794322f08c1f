"""Done callbacks of futures: where they run, in which order, and what they can delay."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from functools import partial

import executors
import pytest
from callees import later
from child_processes import complaints
from executors import WAIT

import pywren
from pywren.system import callbacks
from pywren.system.callbacks import Callbacks
from pywren.testing import mock_aws


@pytest.fixture(scope="module", params=["local", "mocked"])
def executor(request, tmp_path_factory):
    """Return an executor whose outcomes come from the pool, and one whose outcomes come from a storage."""
    if request.param == "local":
        with executors.make("local", tmp_path_factory.mktemp("home")) as made:
            yield made.executor
    else:
        with mock_aws() as config:
            yield pywren.default_executor(config=config)


class Seen:
    """A list of what was seen, in order."""

    def __init__(self):
        self._changed = threading.Condition()
        self.all = []

    def add(self, thing):
        with self._changed:
            self.all.append(thing)
            self._changed.notify_all()

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= count, WAIT), self.all


@pytest.fixture
def gate():
    """Return an event for which callbacks of a test wait; it is set when the test ends."""
    made = threading.Event()
    yield made
    made.set()


class TestThatWait:
    """Row 250: callbacks that wait delay nothing else."""

    def test_for_another_future(self, executor):
        """The other future's outcome still arrives."""
        first, second = executor.map(later, [1, 2])
        seen = Seen()
        first.add_done_callback(lambda _: seen.add(second.result(WAIT)))
        seen.wait_for(1)
        assert seen.all == [2]

    def test_for_each_other(self, executor):
        """Several callbacks each wait for all the futures."""
        futures = executor.map(later, range(4))
        seen = Seen()
        for future in futures:
            future.add_done_callback(lambda _: seen.add(pywren.get_all_results(futures)))
        seen.wait_for(4)
        assert seen.all == [[0, 1, 2, 3]] * 4

    def test_for_ever(self, executor, gate):
        """Calls, other callbacks and awaiting go on."""
        stuck = executor.map(later, range(3))
        for future in stuck:
            future.add_done_callback(lambda _: gate.wait())
        assert pywren.get_all_results(stuck) == [0, 1, 2]
        seen = Seen()
        executor.call_async(later, "on").add_done_callback(lambda done: seen.add(done.result()))
        seen.wait_for(1)

        async def main():
            return await executor.call_async(later, 7), await asyncio.wrap_future(executor.call_async(later, 8))

        assert asyncio.run(main()) == (7, 8)

    def test_for_calls_that_they_make(self, executor):
        """A callback may map and collect, like any other code."""
        seen = Seen()
        future = executor.call_async(later, 5)
        future.add_done_callback(lambda done: seen.add(pywren.get_all_results(executor.map(abs, [-done.result()]))))
        seen.wait_for(1)
        assert seen.all == [[5]]

    def test_of_an_unpickled_future(self, executor, gate):
        """Callbacks of an unpickled future may wait too."""
        first, second = pickle.loads(pickle.dumps(executor.map(later, [1, 2])))
        seen = Seen()
        first.add_done_callback(lambda _: seen.add(second.result(WAIT)))
        seen.wait_for(1)
        assert seen.all == [2]


def test_that_cancel_and_raise(executor):
    """A callback may cancel other calls; its exception is logged, and the next callback runs."""
    first, second = executor.map(later, [0, 30])
    seen = Seen()
    first.add_done_callback(lambda _: 1 / 0)
    first.add_done_callback(lambda _: seen.add(second.cancel()))
    second.add_done_callback(lambda done: seen.add(done.cancelled()))
    seen.wait_for(2)
    assert seen.all in ([True, True], [False, False])


def test_order_and_number(executor):
    """The callbacks of one future run one at a time, once each, in the order in which they were added."""
    futures = executor.map(later, range(8))
    seen, under_way = Seen(), []

    def note(future, number):
        under_way.append(number)
        assert len(under_way) == 1
        seen.add((future.call_id, number))
        under_way.remove(number)

    for future in futures:
        for number in range(3):
            future.add_done_callback(lambda done, number=number: note(done, number))
    seen.wait_for(24)
    for future in futures:
        assert [number for call_id, number in seen.all if call_id == future.call_id] == [0, 1, 2]
        future.add_done_callback(lambda done: note(done, 3))
    assert len(seen.all) == 32


def test_as_completed_with_stuck_callbacks(executor, gate):
    """The standard library's own functions do not wait for callbacks."""
    futures = executor.map(later, range(3))
    futures[0].add_done_callback(lambda _: gate.wait())
    assert len(list(concurrent.futures.as_completed(futures, WAIT))) == 3


def test_futures_without_callbacks_take_no_thread():
    """Neither waiting nor awaiting starts a thread."""
    program = """
        import asyncio, threading, pywren
        executor = pywren.local_executor()
        assert pywren.get_all_results(executor.map(abs, [-1, -2])) == [1, 2]
        async def main():
            return await executor.call_async(abs, -3)
        assert asyncio.run(main()) == 3
        with pywren.PoolExecutor(executor) as pool:
            assert list(pool.map(abs, [-4])) == [4]
        names = [thread.name for thread in threading.enumerate()]
        assert "pywren-callbacks" not in names, names
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)


class TestAtTheEnd:
    """Callbacks at the end of the program."""

    def test_they_have_run(self):
        """A program ends only after its calls and their callbacks."""
        program = """
            import time, pywren
            for future in pywren.local_executor().map(lambda x: time.sleep(0.3) or x, [1, 2]):
                future.add_done_callback(lambda done: (time.sleep(0.3), print(done.result(), flush=True)))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120
        )
        assert (sorted(done.stdout.split()), complaints(done.stderr)) == (["1", "2"], "")

    def test_one_that_never_returns_does_not_keep_it(self):
        """The program ends, and one warning reports the callback."""
        program = """
            import threading, time, pywren
            from pywren.system import callbacks
            callbacks.EXIT_SECONDS = 0.5
            first, second = pywren.local_executor().map(lambda x: time.sleep(0.3) or x, [1, 2])
            first.add_done_callback(lambda _: threading.Event().wait())
            second.add_done_callback(lambda _: print("called", flush=True))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0
        assert done.stdout == "called\n"
        assert "1 done callback" in done.stderr


def test_a_forked_process_has_threads_of_its_own(executor):
    """A forked process runs the callbacks of its own calls, and the parent those of its own."""
    seen = Seen()
    mine = executor.call_async(later, 1)
    mine.add_done_callback(seen.add)
    pid = os.fork()
    if pid == 0:
        there = threading.Event()
        pywren.local_executor().call_async(abs, -1).add_done_callback(lambda _: there.set())
        os._exit(0 if there.wait(WAIT) and not seen.all else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    seen.wait_for(1)


def test_without_threads_they_run_where_outcomes_come(monkeypatch):
    """If no thread can be started, callbacks run in the thread that receives the outcome."""

    def no_thread(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    made, seen = Callbacks(), []
    made.expect(made)
    made.run(made, lambda: seen.append(1))
    assert seen == [1]
    assert made.finish(0) == 0


def test_one_that_takes_long_holds_up_the_others_for_a_moment_only(gate):
    """The callbacks behind a slow one soon run in another thread, still one at a time."""
    made, seen = Callbacks(), Seen()
    for job in (partial(gate.wait), lambda: seen.add(1), partial(gate.wait), lambda: seen.add(2), lambda: seen.add(3)):
        made.expect(job)
        made.run(job, job)
    seen.wait_for(3)
    assert seen.all == [1, 2, 3]
    assert made.finish(0) == 2
    gate.set()
    assert made.finish(WAIT) == 0


def test_threads_end_when_nothing_is_expected(monkeypatch):
    """The threads end shortly after the last callback."""
    monkeypatch.setattr(callbacks, "_LINGER_SECONDS", 0.01)
    before = set(threading.enumerate())
    made, called = Callbacks(), threading.Event()
    made.expect(called)
    mine = set(threading.enumerate()) - before
    made.run(called, called.set)
    assert called.wait(WAIT)
    for thread in mine:
        thread.join(WAIT)
        assert not thread.is_alive()


def test_threads_end_when_nobody_holds_the_future(monkeypatch):
    """A callback that can never be called keeps no thread alive."""
    monkeypatch.setattr(callbacks, "_LINGER_SECONDS", 0.01)
    before = set(threading.enumerate())
    made, owner = Callbacks(), threading.Event()
    made.expect(owner)
    mine = set(threading.enumerate()) - before
    assert mine
    del owner
    for thread in mine:
        thread.join(WAIT)
        assert not thread.is_alive()
