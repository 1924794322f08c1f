"""``wait``, ``as_completed`` and ``get_all_results``."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref

import pytest
from test_future import Origin, settle

import pywren
from pywren.client import call_state, waiting
from pywren.client.verdict import Verdict
from pywren.exceptions import CallCancelledError, StorageError, StorageTimeoutError, WaitTimeoutError
from pywren.future import ResponseFuture


def some(count, origin=None):
    origin = origin or Origin()
    return [origin.future(f"{number:05d}") for number in range(count)]


@contextlib.contextmanager
def storage_in_trouble(futures):
    """Report to the threads that wait for these futures, again and again, that the storage cannot be read."""
    over = threading.Event()

    def report():
        while not over.wait(0.005):
            waiting.report_trouble(futures, StorageError("no network"), time.monotonic())

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_wait_is_a_function_whatever_is_imported():
    """``pywren.wait`` stays the function although a module has its name."""
    import pywren.wait

    assert callable(pywren.wait)


def test_all_completed_returns_lists_in_order():
    """Both lists keep the order of the argument, whatever the order of completion."""
    items = some(4)
    for number in (3, 1, 0, 2):
        settle(items[number], number)
    assert pywren.wait(items) == (items, [])
    assert all(item.succeeded() for item in items)


def test_any_completed_returns_when_one_has():
    """One outcome is enough; the other futures are in the second list."""
    origin = Origin()
    items = some(3, origin)
    timer = threading.Timer(0.01, settle, (items[1], 1))
    timer.start()
    assert pywren.wait(items, return_when=pywren.ANY_COMPLETED) == ([items[1]], [items[0], items[2]])
    timer.join()


def test_always_looks_once_and_does_not_wait():
    """``ALWAYS`` makes the origin poll once, and returns at once."""
    origin = Origin()
    items = some(3, origin)
    origin.on_poll = [(items[2], Verdict(2))]
    assert pywren.wait(items, return_when=pywren.ALWAYS) == ([items[2]], items[:2])


def test_futures_of_different_maps_with_equal_call_ids_are_different():
    """0.4 compared only call ids, and confused such futures."""
    first, second = some(2), some(2)
    for item in first:
        settle(item, "first")
    done, not_done = pywren.wait([*first, *second], return_when=pywren.ANY_COMPLETED)
    assert (done, not_done) == (first, second)


def test_the_same_future_twice():
    """A future that is passed twice is returned twice, but waited for once."""
    (item,) = some(1)
    settle(item, 1)
    assert pywren.wait([item, item]) == ([item, item], [])


def test_timeout_returns_what_there_is():
    """After a timeout, the futures that have not ended are in the second list."""
    items = some(2)
    settle(items[0], 0)
    assert pywren.wait(items, timeout=0.01) == ([items[0]], [items[1]])


def test_nothing_to_wait_for():
    """An empty list is done at once."""
    for return_when in (pywren.ALL_COMPLETED, pywren.ANY_COMPLETED, pywren.ALWAYS):
        assert pywren.wait([], return_when=return_when) == ([], [])


def test_bad_arguments_are_named():
    """The errors name an object that is no future, a future that was not invoked, and an unknown return_when."""
    with pytest.raises(ValueError, match="not a str"):
        pywren.wait(["future"])
    with pytest.raises(ValueError, match="not yet invoked"):
        pywren.wait([ResponseFuture("00000", "a-callset")])
    with pytest.raises(ValueError, match="ANY_COMPLETED"):
        pywren.wait(some(1), return_when=7)


def test_get_all_results_in_order():
    """Results have the order of the futures."""
    items = some(3)
    for number in (2, 0, 1):
        settle(items[number], number * 10)
    assert pywren.get_all_results(items) == [0, 10, 20]


def test_get_all_results_waits_for_all_before_it_raises():
    """A failure is raised only when every call has ended, so that no call is left running unnoticed."""
    items = some(2)
    settle(items[0], error=OSError("first"))
    timer = threading.Timer(0.05, settle, (items[1], 1))
    timer.start()
    with pytest.raises(OSError, match="first"):
        pywren.get_all_results(items)
    assert call_state.is_done(items[1])
    timer.join()


def test_waiters_are_removed_again():
    """Repeated waits with a timeout leave nothing behind on the futures."""
    (item,) = some(1)
    for _ in range(5):
        pywren.wait([item], timeout=0.001)
    assert not item._waiting


def test_a_wait_that_times_out_leaves_others_in_place():
    """The futures go on sharing what they have of waiters, so that thousands are settled in one step."""
    items = some(3)
    arrivals = waiting.Arrivals()
    arrivals.add(items)
    pywren.wait(items[1:], timeout=0.001)
    assert items[0]._waiting == items[1]._waiting == (arrivals,)
    assert items[1]._waiting is items[2]._waiting
    for number, item in enumerate(items):
        settle(item, number)
    assert [arrivals.take(0) for _ in items] == items
    assert not any(item._waiting for item in items)


def test_get_all_results_with_exceptions_among_them():
    """``return_exceptions`` returns errors and cancellations where the results would be."""
    items = some(4)
    error = OSError("failed")
    settle(items[0], 0)
    settle(items[1], error=error)
    items[2].cancel()
    settle(items[3], None)
    results = pywren.get_all_results(items, return_exceptions=True)
    assert results[0] == 0
    assert results[1] is error
    assert isinstance(results[2], CallCancelledError)
    assert results[3] is None
    assert items[1].errored()


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_get_all_results_in_time_or_not_at_all(return_exceptions):
    """After ``timeout`` the error says how many calls have not ended; their futures stay valid."""
    items = some(3)
    settle(items[0], 0)
    with pytest.raises(WaitTimeoutError, match=r"2 of 3 calls have not ended after 0\.01 s; they are still running"):
        pywren.get_all_results(items, 0.01, return_exceptions=return_exceptions)
    settle(items[1], 1)
    settle(items[2], 2)
    assert pywren.get_all_results(items, 0) == [0, 1, 2]


def test_get_all_results_says_why_the_storage_cannot_tell():
    """If the storage cannot be reached when the time-out expires, the error says so."""
    origin = Origin()
    origin.trouble = lambda: StorageError("no network")
    with pytest.raises(StorageTimeoutError, match=r"1 of 1 .* as far as pywren knows; .* no network"):
        pywren.get_all_results(some(1, origin), timeout=0.01)


class TestAsCompleted:
    """``as_completed``."""

    def test_returns_them_as_they_end(self):
        """Those that have ended come first, and the others in the order in which they end."""
        items = some(4)
        settle(items[2], 2)
        completed = pywren.as_completed([*items, items[2]])
        assert next(completed) is items[2]
        for number in (3, 0, 1):
            timer = threading.Timer(0.01, settle, (items[number], number))
            timer.start()
            assert next(completed) is items[number]
            assert items[number].succeeded()
            timer.join()
        assert list(completed) == []

    def test_of_several_maps(self):
        """Futures of different callsets with equal call ids are different futures."""
        first, second = some(2), some(2)
        for item in [*second, *first]:
            settle(item, 0)
        assert list(pywren.as_completed([*first, *second])) == [*first, *second]

    def test_failed_and_cancelled_calls_are_returned_too(self):
        """Nothing is raised: the program asks each future."""
        items = some(2)
        settle(items[0], error=OSError("failed"))
        items[1].cancel()
        assert list(pywren.as_completed(items)) == items
        assert all(item.errored() for item in items)

    def test_timeout(self):
        """It counts from the call on; what has ended by then is returned first, and the error counts the rest."""
        items = some(3)
        completed = pywren.as_completed(items, timeout=0.01)
        settle(items[1], 1)
        time.sleep(0.02)
        assert next(completed) is items[1]
        with pytest.raises(WaitTimeoutError, match=r"2 of 3 calls have not ended after 0\.01 s"):
            next(completed)
        assert not items[0]._waiting

    def test_nothing_is_left_behind(self):
        """An iterator that is closed early leaves no waiter, and keeps no future that it has returned."""
        items = some(3)
        settle(items[0], 0)
        completed = pywren.as_completed(items)
        reference = weakref.ref(next(completed))
        del items[0]
        assert reference() is None
        completed.close()
        assert not any(item._waiting for item in items)

    def test_of_nothing(self):
        """No futures are completed at once."""
        assert list(pywren.as_completed([])) == []

    def test_what_is_no_future(self):
        """The error is raised at once, not by the iterator."""
        with pytest.raises(ValueError, match=r"as_completed\(\) takes pywren futures, not a str"):
            pywren.as_completed(["future"])
        with pytest.raises(ValueError, match="not yet invoked"):
            pywren.as_completed([ResponseFuture("00000", "a-callset")])

    def test_a_storage_that_cannot_be_read(self):
        """A waiting program hears of it, and may call ``as_completed`` again."""
        items = some(2)
        with storage_in_trouble(items), pytest.raises(StorageError, match="no network"):
            next(pywren.as_completed(items))
        for item in items:
            settle(item, 0)
        assert list(pywren.as_completed(items)) == items

    def test_says_why_nothing_arrives(self, monkeypatch):
        """After a while without results, the origins are asked to say why."""
        monkeypatch.setattr(waiting, "SILENCE", 0.01)
        origin = Origin()
        (item,) = some(1, origin)
        timer = threading.Timer(0.1, settle, (item, 0))
        timer.start()
        assert list(pywren.as_completed([item])) == [item]
        timer.join()
        assert origin.reported
