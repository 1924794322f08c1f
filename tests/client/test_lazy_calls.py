"""``LazyCalls`` and ``Results``: streams of calls, over the local executor and over futures that the test settles."""

from __future__ import annotations

import functools
import gc
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import executors
import hostile
import pytest
from executors import WAIT, is_released
from test_future import Origin, settle
from test_wait import storage_in_trouble

from pywren.client import lazy_calls
from pywren.client.lazy_calls import InOrder, LazyCalls, Results
from pywren.client.waiting import Arrivals
from pywren.exceptions import ArgumentError, CallCancelledError, StorageError, WaitTimeoutError

VERBS = ["imap", "imap_unordered"]


@pytest.fixture(scope="module")
def pwex(tmp_path_factory):
    """Return a local executor."""
    with executors.make("local", tmp_path_factory.mktemp("home")) as made:
        yield made.executor


@pytest.fixture(params=[InOrder, Arrivals])
def stream(request):
    """Return a stream of calls that the test settles."""
    return Stream(request.param)


class Stream:
    """Calls whose futures a test settles.

    Args:
        futures: ``InOrder`` or ``Arrivals``.
    """

    def __init__(self, futures) -> None:
        self.futures = futures
        self.origin = Origin()
        self.made: list = []  # the futures of all calls
        self.batches: list[int] = []  # how many items each submission had
        self.refuses: Exception | None = None

    def make(self, items):
        """Make calls whose results are ten times their items."""
        if self.refuses is not None:
            raise self.refuses
        futures = [self.origin.future(f"{number:05d}") for number in range(len(items))]
        self.made += futures
        self.batches.append(len(items))
        return futures

    def calls(self, items, ahead):
        """Return the calls, of which the first have been made."""
        calls = LazyCalls(self.make, iter(items), ahead, self.futures())
        calls.begin()
        return calls


class Result:
    """Something that weak references can point to."""

    def __init__(self, number):
        self.number = number


class TestWindow:
    """How many calls are made ahead."""

    @pytest.mark.parametrize("ahead", [1, 2, 8, 100])
    def test_is_never_exceeded(self, stream, ahead):
        """No more calls are made than results were taken, plus the window and the result that is being taken."""
        taken = itertools.count()
        calls = stream.calls(taken, ahead)
        assert len(stream.made) == ahead
        for number in range(300):
            settle(stream.made[number], number)
            assert calls.take().result() == number
            assert len(stream.made) <= number + 1 + ahead
        assert next(taken) == len(stream.made)

    def test_calls_are_made_many_together(self, stream):
        """After the first, a submission has an eighth of the window."""
        calls = stream.calls(range(1000), 80)
        for number in range(400):
            settle(stream.made[number], number)
            calls.take()
        assert stream.batches[0] == 80
        assert set(stream.batches[1:]) == {10}

    def test_a_result_that_is_not_taken_counts(self, stream):
        """Calls that have ended make no room until their results are taken."""
        calls = stream.calls(range(100), 4)
        for future in list(stream.made):
            settle(future, 0)
        assert len(stream.made) == 4
        calls.take()
        assert len(stream.made) == 5

    def test_a_slow_iterator_does_not_keep_results_back(self, stream, monkeypatch):
        """An iterator that takes its time is left alone when a result is there."""
        monkeypatch.setattr(lazy_calls, "_PATIENCE", 0)
        calls = stream.calls(range(100), 50)
        assert stream.batches == [1]  # as if each item took long
        settle(stream.made[0], 0)
        calls.take()
        assert stream.batches == [1, 1]

    def test_items_are_taken_while_nothing_has_ended(self, stream, monkeypatch):
        """A slow iterator is read until a result arrives, so all workers get calls."""
        monkeypatch.setattr(lazy_calls, "_PATIENCE", 0)

        def items():
            yield from range(5)
            settle(stream.made[0], "first")
            yield from range(100)

        assert stream.calls(items(), 50).take().result() == "first"
        assert len(stream.made) in (6, 7)


class TestOrder:
    """The order of results."""

    def test_in_order(self):
        """The first item's result comes first, however long it takes."""
        stream = Stream(InOrder)
        calls = stream.calls(range(3), 3)
        settle(stream.made[1], 1)
        timer = threading.Timer(0.02, settle, (stream.made[0], 0))
        timer.start()
        assert [calls.take().result() for _ in range(2)] == [0, 1]
        timer.join()
        with pytest.raises(WaitTimeoutError):
            calls.take(0.01)
        settle(stream.made[2], 2)
        assert calls.take(0).result() == 2

    def test_as_they_end(self):
        """The result of the call that ends first comes first."""
        stream = Stream(Arrivals)
        calls = stream.calls(range(3), 3)
        settle(stream.made[2], 2)
        assert calls.take().result() == 2
        timer = threading.Timer(0.02, settle, (stream.made[0], 0))
        timer.start()
        assert calls.take().result() == 0
        timer.join()
        settle(stream.made[1], 1)
        assert calls.take().result() == 1
        assert calls.take() is None


class TestErrors:
    """What the iterator, the making of calls, the calls and the storage may raise."""

    def test_an_iterator_that_raises(self, stream):
        """Its error follows the results of all items before it, and then the stream is over."""

        def items():
            yield from range(5)
            raise OSError("no more")

        results = Results(stream.calls(items(), 3))
        found = []
        for number in range(5):
            settle(stream.made[number], number)
            found.append(next(results))
        assert found == list(range(5))
        with pytest.raises(OSError, match="no more"):
            next(results)
        assert list(results) == []

    def test_an_iterator_that_raises_at_once(self, stream):
        """Without any result to take first, the verb itself raises."""

        def items():
            raise OSError("none at all")
            yield

        with pytest.raises(OSError, match="none at all"):
            stream.calls(items(), 3)

    def test_an_iterator_that_exits(self, stream):
        """A ``SystemExit`` of the iterator is like its other errors: no item that it had returned is skipped."""

        def items():
            yield from range(2)
            sys.exit("enough")

        results = Results(stream.calls(items(), 1))
        for number in range(2):
            settle(stream.made[number], number)
            assert next(results) == number
        with pytest.raises(SystemExit, match="enough"):
            next(results)
        assert list(results) == []

    def test_an_item_that_exits_when_it_is_sent(self, stream):
        """So is one that an item raises when it is pickled."""
        calls = stream.calls(range(10), 2)
        stream.refuses = SystemExit("not sent")
        for number in range(2):
            settle(stream.made[number], number)
            assert calls.take().result() == number
        with pytest.raises(SystemExit, match="not sent"):
            calls.take()

    def test_calls_that_cannot_be_made_any_more(self, stream):
        """The results of the calls that were made come first."""
        calls = stream.calls(range(10), 2)
        stream.refuses = StorageError("full")
        results = Results(calls)
        for number in range(2):
            settle(stream.made[number], number)
            assert next(results) == number
        with pytest.raises(StorageError, match="full"):
            next(results)
        assert next(results, None) is None

    def test_a_call_that_fails(self, stream):
        """Its error is raised in its turn, and the outstanding calls are cancelled."""
        results = Results(stream.calls(range(10), 3))
        settle(stream.made[0], error=ValueError("bad item"))
        with pytest.raises(ValueError, match="bad item"):
            next(results)
        assert all(future.cancelled() for future in stream.made[1:])
        assert list(results) == []

    def test_a_call_that_fails_while_the_storage_does(self, stream, monkeypatch, caplog):
        """The call's error is what the program gets, and a warning says that the others go on."""
        results = Results(stream.calls(range(10), 3))
        settle(stream.made[0], error=ValueError("bad item"))

        def cannot(future):
            raise StorageError("no network")

        monkeypatch.setattr(stream.origin, "cancel", cannot)
        with pytest.raises(ValueError, match="bad item"):
            next(results)
        assert "could not be cancelled: no network" in caplog.text

    def test_ctrl_c_while_the_first_calls_are_made(self, stream, monkeypatch):
        """Wherever it comes, the calls that exist by then are withdrawn, and no more are made."""
        whole = stream.futures.add

        def interrupted(*arguments, before):
            if not before:
                whole(*arguments)
            raise KeyboardInterrupt

        for before in (False, True):
            monkeypatch.setattr(stream.futures, "add", functools.partialmethod(interrupted, before=before))
            with pytest.raises(KeyboardInterrupt):
                stream.calls(range(10), 2)
        assert stream.origin.withdrawn == 2
        assert len(stream.made) == 4

    def test_ctrl_c_in_the_iterator(self, stream):
        """The stream ends at once, and calls that were made before are withdrawn."""

        def items():
            yield from range(2)
            raise KeyboardInterrupt

        results = Results(stream.calls(items(), 1))
        settle(stream.made[0], 0)
        assert next(results) == 0
        settle(stream.made[1], 1)
        with pytest.raises(KeyboardInterrupt):
            next(results)
        assert list(results) == []

    def test_a_call_that_fails_among_others(self, stream):
        """With ``return_exceptions`` its error takes the place of the result, and the stream goes on."""
        results = Results(stream.calls(range(3), 3), return_exceptions=True)
        error = ValueError("bad item")
        settle(stream.made[0], 0)
        settle(stream.made[1], error=error)
        stream.made[2].cancel()
        assert [next(results), next(results)] == [0, error]
        assert "cancelled" in str(next(results))
        assert next(results, "no more") == "no more"

    def test_a_storage_that_cannot_be_read(self, stream):
        """The error interrupts the iteration, which goes on when the storage can be read again."""
        results = Results(stream.calls(range(2), 2))
        with storage_in_trouble(stream.made), pytest.raises(StorageError, match="no network"):
            next(results)
        assert not stream.made[0].cancelled()
        settle(stream.made[0], 0)
        settle(stream.made[1], 1)
        assert list(results) == [0, 1]


class TestResults:
    """The iterator as a program uses it."""

    @pytest.mark.parametrize("verb", VERBS)
    def test_results_are_let_go(self, pwex, verb):
        """A result that was returned is not kept, nor is its future."""
        for result in getattr(pwex, verb)(Result, range(10), window=3):
            reference = weakref.ref(result)
            del result
            deadline = time.monotonic() + WAIT
            while reference() is not None and time.monotonic() < deadline:
                time.sleep(0.001)  # the thread that delivered it is about to drop it
                gc.collect()
            assert reference() is None

    @pytest.mark.parametrize("verb", VERBS)
    @pytest.mark.parametrize("end", ["close", "drop", "with", "error in with"])
    def test_ending_early_cancels_the_outstanding_calls(self, pwex, tmp_path, verb, end):
        """The running call is stopped too, and no more calls are made; also if no result was ever taken."""
        path = tmp_path / "held"
        items = itertools.chain([str(path)], itertools.count())
        results = getattr(pwex, verb)(_holds, items, window=4)
        assert executors.is_there(path)
        if end == "close":
            results.close()
            assert next(results, "no more") == "no more"
            results.close()
        elif end == "with":
            with results as same:
                assert same is results
        elif end == "error in with":
            with pytest.raises(KeyError), results:
                raise KeyError
        del results
        assert is_released(path)
        assert next(items) < 10

    def test_dropping_sends_no_requests_on_the_thread_that_drops(self, stream, monkeypatch):
        """That thread may be collecting garbage, with any lock held."""
        threads = []

        def cancel(future, cancel=stream.origin.cancel):
            threads.append(threading.current_thread().name)
            return cancel(future)

        monkeypatch.setattr(stream.origin, "cancel", cancel)
        results = Results(stream.calls(range(10), 3))
        del results
        assert all(map(_error_of, stream.made))
        assert threads == ["pywren-drop"] * 3

    def test_dropping_while_the_storage_cannot_be_written(self, stream, monkeypatch, caplog):
        """A warning says that the calls go on, and later results are dropped as usual."""

        def cannot(future):
            raise StorageError("no network")

        with monkeypatch.context() as patch:
            patch.setattr(stream.origin, "cancel", cannot)
            Results(stream.calls(range(10), 3))
            lazy_calls._drops.finish(WAIT)
        assert "could not be cancelled: no network" in caplog.text
        Results(stream.calls(range(10), 3))
        lazy_calls._drops.finish(WAIT)
        assert [future.cancelled() for future in stream.made] == [False] * 3 + [True] * 3

    def test_a_program_that_drops_a_stream_and_ends(self, tmp_path):
        """Its calls are cancelled before the program ends, although that happens on another thread."""
        program = """
            import pywren, time
            pwex = pywren.local_executor()
            pwex.imap(time.sleep, iter(lambda: 600, None), window=3)
        """
        run = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
        environment = {**os.environ, "PYWREN_HOME": str(tmp_path)}
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=WAIT, check=False)
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_million_items_would_not_fit(self, pwex, verb):
        """Neither the items nor the results pile up."""
        alive = weakref.WeakSet()

        def items():
            for number in range(3000):
                item = Result(number)
                alive.add(item)
                yield item
                del item

        most = 0
        for _ in getattr(pwex, verb)(_number, items(), window=50):
            most = max(most, len(alive))
        # The window, the results in it that were not taken, and what the pool has not dropped yet.
        assert most <= 300

    def test_one_thread_at_a_time(self, stream):
        """A second thread gets an error instead of a result that the first one waits for."""
        results = Results(stream.calls(range(2), 2))
        first = threading.Thread(target=next, args=(results,))
        first.start()
        while not stream.made[0]._waiting:
            time.sleep(0.001)
        for use in (results.close, results.__next__):
            with pytest.raises(ArgumentError, match="one thread"):
                use()
        settle(stream.made[0], 0)
        first.join()
        settle(stream.made[1], 1)
        assert next(results) == 1

    def test_an_iterator_that_takes_results_of_its_own(self, stream):
        """An iterator of items that asks for a result gets the same error, which then ends the stream."""

        def items():
            yield 1
            yield 2
            next(results)

        results = Results(stream.calls(items(), 1))
        for number in range(2):
            settle(stream.made[number], number)
            assert next(results) == number
        with pytest.raises(ArgumentError, match="one thread"):
            next(results)

    def test_what_it_shows_of_itself(self, stream):
        """At the end of a cell of a notebook it says what to do with it, and takes nothing."""
        results = Results(stream.calls(range(3), 3))
        assert repr(results) == "<Results of a stream of calls: take them with a for loop or next()>"
        settle(stream.made[0], 7)
        assert next(results) == 7
        assert "Results" in repr(Results.__new__(Results))  # one whose __init__ was interrupted

    def test_it_cannot_be_sent(self, stream):
        """An iterator belongs to its process."""
        with pytest.raises(TypeError):
            pickle.dumps(Results(stream.calls(range(2), 2)))

    def test_at_the_end_of_a_program(self, tmp_path):
        """A program that ends with a half-used iterator ends without a word, after the calls that were made."""
        program = """
            import pywren
            pwex = pywren.local_executor()
            ordered = pwex.imap(abs, iter(int, 1), window=3)
            unordered = pwex.imap_unordered(abs, iter(int, 1), window=3)
            print(next(ordered), next(unordered))
        """
        run = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
        environment = {**os.environ, "PYWREN_HOME": str(tmp_path)}
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=WAIT, check=False)
        assert (done.stdout, done.stderr, done.returncode) == ("0 0\n", "", 0)

    @pytest.mark.skipif(sys.platform != "linux", reason="forks")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    @pytest.mark.parametrize("verb", VERBS)
    def test_a_forked_child_leaves_it_alone(self, pwex, verb):
        """A child process can neither take its results nor cancel its calls."""
        results = getattr(pwex, verb)(abs, range(-5, 0), window=5)
        child = multiprocessing.get_context("fork").Process(target=_in_child, args=(results,))
        child.start()
        child.join(WAIT)
        assert child.exitcode == 0
        assert sorted(results) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("verb", VERBS)
    def test_it_goes_on_after_the_executor(self, tmp_path, monkeypatch, verb):
        """The end of the executor's block waits for the calls that were made; results can be taken after it."""
        monkeypatch.setenv("PYWREN_HOME", str(tmp_path))
        with executors.make("local", tmp_path) as made:
            results = getattr(made.executor, verb)(abs, range(10), window=3)
        assert sorted(results) == list(range(10))


def _error_of(future):
    """Wait for the end of a future that is cancelled, and return its error."""
    with pytest.raises(CallCancelledError) as told:
        future.result(WAIT)
    return told.value


def _holds(item):
    return hostile.sleeps_on(item) if isinstance(item, str) else item


def _number(item):
    return item.number


def _in_child(results):
    with pytest.raises(ArgumentError, match="forked"):
        next(results)
    results.close()
    del results
    gc.collect()
    os._exit(0)
