"""``ResponseFuture``: its states, with an origin that the test controls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import sys
import threading
import time
import traceback

import pytest

import pywren
from pywren.client import call_state, waiting
from pywren.client.callset import Callset
from pywren.client.verdict import Verdict
from pywren.exceptions import ArgumentError, CallCancelledError, CallLostError, StorageError, WaitTimeoutError
from pywren.future import JobState, ResponseFuture, new_futures
from pywren.system.callbacks import callbacks

WAIT = 60


class Origin:
    """An origin whose futures end when the test says so, or when it is polled."""

    storage_path = ["localhost", "nowhere", "prefix"]

    def __init__(self) -> None:
        self.callset = Callset("prefix", "a-callset")
        self.asked = threading.Event()
        self.on_poll: list[tuple[ResponseFuture, Verdict]] = []
        self.reported = 0
        self.withdrawn = 0

    def future(self, call_id="00000"):
        return new_futures(self, [call_id])[0]

    def take(self, futures):
        pass

    def expect(self, futures):
        self.asked.set()

    def poll(self, futures):
        call_state.settle(self.on_poll)

    def trouble(self):
        return None

    def report_silence(self):
        self.reported += 1

    def outstanding(self):
        return []

    def withdraw(self, *, record=False):
        self.withdrawn += 1
        return 0

    def cancel(self, future):
        call_state.settle([(future, Verdict(None, CallCancelledError("the call was cancelled")))])
        return future.cancelled()

    def run_status(self, future):
        return {"exec_time": call_state.verdict_of(future).source}

    def invoke_status(self, future):
        return {"host": "here"}

    def recipe(self, future):
        return self.callset, None, None, {}


def settle(future, value=None, error=None, source=None):
    call_state.settle([(future, Verdict(value, error, source))])


def ended_futures():
    """Return one future for each final state: success, error, cancelled."""
    origin = Origin()
    success, error, cancelled = (origin.future(f"0000{number}") for number in range(3))
    settle(success, 42, source=1.5)
    settle(error, error=OSError("no disk"))
    cancelled.cancel()
    return success, error, cancelled


def outstanding_futures():
    """Return one future for each state without an outcome: invoked and running."""
    origin = Origin()
    invoked, running = origin.future(), origin.future("00001")
    call_state.mark_running(running)
    return invoked, running


class TestResult:
    """``result`` in every state."""

    def test_of_success_is_the_value(self):
        """The future of a call that returned gives the value, repeatedly."""
        success, _, _ = ended_futures()
        assert [success.result(), success.result(timeout=0)] == [42, 42]

    def test_of_error_raises_the_functions_own(self):
        """The future of a call that raised raises the same exception."""
        _, error, _ = ended_futures()
        with pytest.raises(OSError, match="no disk"):
            error.result()

    def test_of_cancelled_raises_both_kinds_of_cancelled(self):
        """The future of a cancelled call raises an error that is both pywren's and the standard library's."""
        _, _, cancelled = ended_futures()
        with pytest.raises(concurrent.futures.CancelledError):
            cancelled.result()
        with pytest.raises(CallCancelledError, match="cancelled"):
            cancelled.result()

    def test_without_throw_except_is_none_for_failures(self):
        """``throw_except=False`` returns None for a call that failed, and the value otherwise."""
        success, error, cancelled = ended_futures()
        results = [item.result(throw_except=False) for item in (success, error, cancelled)]
        assert results == [42, None, None]

    def test_times_out_with_every_kind_of_timeout_error(self):
        """A wait that times out raises an error that programs for any Python catch, and names the call."""
        for outstanding in outstanding_futures():
            for kind in (TimeoutError, concurrent.futures.TimeoutError, WaitTimeoutError):
                with pytest.raises(kind, match=outstanding.call_id):
                    outstanding.result(timeout=0.01)

    def test_check_only_is_a_bool(self):
        """``check_only`` returns whether the call has ended, and does not raise its exception."""
        assert [item.result(check_only=True) for item in ended_futures()] == [True, True, True]
        assert [item.result(check_only=True) for item in outstanding_futures()] == [False, False]

    def test_of_a_new_future_is_a_value_error(self):
        """A future that no executor made raises a ValueError that says so."""
        for method in ("result", "exception", "cancel"):
            with pytest.raises(ValueError, match="job not yet invoked"):
                getattr(ResponseFuture("00000", "a-callset"), method)()
        assert issubclass(ArgumentError, ValueError)

    def test_is_woken_by_the_outcome(self):
        """A waiting thread gets the value when it arrives."""
        origin = Origin()
        waiting = origin.future()
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            answer = threads.submit(waiting.result)
            assert origin.asked.wait(10)
            settle(waiting, "late")
            assert answer.result(10) == "late"

    def test_refuses_another_storage(self):
        """A storage handler for a different place is an error that names both places."""

        class Elsewhere:
            path = ["s3", "a-bucket", "prefix"]

        success, _, _ = ended_futures()
        with pytest.raises(Exception, match="a-bucket"):
            success.result(storage_handler=Elsewhere())


class TestException:
    """``exception`` in every state."""

    def test_is_none_or_the_error(self):
        """It returns the exception, or None for a call that returned."""
        success, error, _ = ended_futures()
        assert success.exception() is None
        assert isinstance(error.exception(), OSError)

    def test_of_cancelled_raises(self):
        """As in the standard library, a cancelled future raises instead."""
        _, _, cancelled = ended_futures()
        with pytest.raises(concurrent.futures.CancelledError):
            cancelled.exception()

    def test_times_out(self):
        """A wait that times out raises TimeoutError."""
        for outstanding in outstanding_futures():
            with pytest.raises(TimeoutError):
                outstanding.exception(timeout=0.01)


def test_states_in_all_words():
    """``job_state``, the standard library's methods and the repr agree on each state."""
    invoked, running = outstanding_futures()
    success, error, cancelled = ended_futures()
    table = {
        ResponseFuture("00000", "a-callset"): (JobState.new, False, False, False),
        invoked: (JobState.invoked, False, False, False),
        running: (JobState.running, True, False, False),
        success: (JobState.success, False, True, False),
        error: (JobState.error, False, True, False),
        cancelled: (JobState.error, False, True, True),
    }
    for item, (state, is_running, is_done, is_cancelled) in table.items():
        seen = (item.job_state, item.running(), item.done(), item.cancelled())
        assert seen == (state, is_running, is_done, is_cancelled)
        assert state.name in repr(item)


def test_repr_shows_the_outcomes_type_never_the_value():
    """The repr never shows a value, which may be secret, in a log."""
    origin = Origin()
    item = origin.future()
    settle(item, "a secret")
    assert "returned str" in repr(item)
    assert "secret" not in repr(item)


def test_succeeded_and_errored_repeat_what_the_caller_was_told():
    """Both stay False until done, result, exception, wait or a callback has shown the outcome to the caller."""
    success, error, _ = ended_futures()
    assert (success.succeeded(), error.errored()) == (False, False)
    assert success.done()
    error.exception()
    assert (success.succeeded(), success.errored()) == (True, False)
    assert (error.succeeded(), error.errored()) == (False, True)


def test_done_looks():
    """``done`` polls by itself, even if nobody has waited."""
    origin = Origin()
    item = origin.future()
    assert not item.done()
    origin.on_poll = [(item, Verdict(1))]
    assert item.done()


def test_first_settlement_stands():
    """A second outcome of the same call has no effect."""
    origin = Origin()
    item = origin.future()
    settle(item, "first")
    settle(item, error=OSError("second"))
    assert item.result() == "first"


def test_cancel_of_an_ended_call_is_false():
    """A call that has ended cannot be cancelled; cancelling a cancelled one returns True again."""
    success, error, cancelled = ended_futures()
    assert (success.cancel(), error.cancel(), cancelled.cancel()) == (False, False, True)


class TestCallbacks:
    """``add_done_callback``."""

    def test_runs_when_done_and_at_once_when_it_was(self):
        """Callbacks added before and after the outcome are each called once."""
        item = Origin().future()
        seen = []
        item.add_done_callback(lambda done: seen.append(("before", done.result())))
        settle(item, 7)
        assert callbacks.finish(WAIT) == 0
        item.add_done_callback(lambda done: seen.append(("after", done.result())))
        assert seen == [("before", 7), ("after", 7)]
        assert item.succeeded()

    def test_that_raises_is_logged_and_hurts_nobody(self, caplog):
        """The callbacks after one that raises are still called."""
        item = Origin().future()
        seen = []
        item.add_done_callback(lambda done: 1 / 0)
        item.add_done_callback(seen.append)
        settle(item, 7)
        assert callbacks.finish(WAIT) == 0
        assert seen == [item]
        assert "ZeroDivisionError" in caplog.text

    def test_that_exits_does_not_end_the_thread_of_those_after_it(self, caplog):
        """A callback's ``sys.exit`` is logged like other errors."""
        item = Origin().future()
        seen = []
        item.add_done_callback(lambda done: sys.exit(3))
        item.add_done_callback(seen.append)
        settle(item, 7)
        assert callbacks.finish(WAIT) == 0
        other = Origin().future()
        other.add_done_callback(seen.append)
        settle(other, 8)
        assert callbacks.finish(WAIT) == 0
        assert seen == [item, other]
        assert "SystemExit" in caplog.text

    def test_asks_for_the_outcome(self):
        """Adding a callback makes the origin poll, as waiting does."""
        origin = Origin()
        origin.future().add_done_callback(print)
        assert origin.asked.is_set()


class TestStandardLibrary:
    """The standard library's own functions work on these futures."""

    def test_wait_first_exception(self):
        """With FIRST_EXCEPTION, ``concurrent.futures.wait`` returns when a call fails."""
        origin = Origin()
        items = [origin.future(f"{number:05d}") for number in range(3)]
        settle(items[0], 1)
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            answer = threads.submit(
                concurrent.futures.wait, items, return_when=concurrent.futures.FIRST_EXCEPTION, timeout=10
            )
            assert origin.asked.wait(10)
            settle(items[2], error=OSError())
            done, not_done = answer.result(10)
        assert (done, not_done) == ({items[0], items[2]}, {items[1]})

    def test_as_completed_in_order_of_completion(self):
        """``as_completed`` yields ended futures first, and the others when they end."""
        origin = Origin()
        items = [origin.future(f"{number:05d}") for number in range(4)]
        settle(items[1], 1)
        order = concurrent.futures.as_completed(items, timeout=10)
        seen = [next(order)]
        for number in (3, 0, 2):
            settle(items[number], number)
            seen.append(next(order))
        assert seen == [items[1], items[3], items[0], items[2]]
        assert list(order) == []

    def test_wrap_future(self):
        """``asyncio.wrap_future`` delivers value and error to a coroutine."""
        success, error, _ = ended_futures()

        async def both():
            assert await asyncio.wrap_future(success) == 42
            with pytest.raises(OSError, match="no disk"):
                await asyncio.wrap_future(error)

        asyncio.run(both())

    def test_await(self):
        """A future can be awaited; its outcome wakes the loop from another thread."""
        item = Origin().future()

        async def wait_for_it():
            threading.Timer(0.01, settle, (item, "awaited")).start()
            return await asyncio.wait_for(item, 10)

        assert asyncio.run(wait_for_it()) == "awaited"


class TestSilence:
    """Waiting for a long time."""

    def test_the_origin_is_asked_for_the_reason_again_and_again(self, monkeypatch):
        """Somebody who waits asks the origin for the reason repeatedly, but only for callsets that are not done."""
        monkeypatch.setattr(waiting, "SILENCE", 0.01)
        origin, other = Origin(), Origin()
        done = other.future()
        settle(done, 1)
        assert not waiting.await_all([origin.future(), done], 0.3)
        assert origin.reported > 1
        assert other.reported == 0

    def test_short_waits_ask_nothing(self):
        """A short wait does not ask for the reason."""
        origin = Origin()
        item = origin.future()
        assert not waiting.await_all([item], 0.01)
        threading.Timer(0.01, settle, (item, 1)).start()
        assert waiting.await_all([item], None)
        assert origin.reported == 0


class TestTrouble:
    """The origin cannot find out the outcome."""

    def test_ends_the_waits_of_now_and_not_those_of_later(self):
        """Every current waiter gets its own error; a new wait goes on waiting."""
        origin = Origin()
        items = [origin.future(f"{number:05d}") for number in range(2)]
        error = StorageError("out of reach")
        error.__cause__ = OSError("the wire")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            waits = [pool.submit(items[0].result), pool.submit(waiting.await_all, items, 60)]
            while sum(len(item._waiting) for item in items) < 3:
                threading.Event().wait(0.001)
            waiting.report_trouble(items, error, time.monotonic())
            raised = [wait.exception(60) for wait in waits]
        assert [str(one) for one in raised] == ["out of reach"] * 2
        assert len({id(one) for one in (*raised, error)}) == 3
        assert raised[0].__cause__ is error.__cause__
        assert not waiting.await_all(items, 0.01)
        settle(items[0], 5)
        assert items[0].result() == 5

    def test_an_outcome_that_comes_at_the_same_moment_counts(self):
        """A wait whose futures are done does not raise the error."""
        origin = Origin()
        item = origin.future()
        waiter = waiting._Countdown()
        waiter.start(1)
        waiter.fail(StorageError("out of reach"))
        waiter.add_all([item])
        assert waiter.wait(0)
        assert waiter.is_over
        waiter.fail(StorageError("again"))

    def test_nobody_waits(self):
        """An error without waiters is not raised later."""
        waiting.report_trouble([], StorageError("x"), time.monotonic())
        waiting.report_trouble([Origin().future()], StorageError("x"), time.monotonic())

    def test_who_asks_while_a_look_fails_hears_of_the_next(self):
        """A poll that began before the wait does not count if it fails: the network may be back."""
        origin = Origin()
        item = origin.future()
        began = time.monotonic() - 1
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            waits = threads.submit(item.result, 60)
            assert origin.asked.wait(60)
            waiting.report_trouble([item], StorageError("out of reach"), began)
            settle(item, 5)
            assert waits.result(60) == 5


def test_statuses_are_none_until_collected():
    """``run_status`` and ``invoke_status`` are None until the outcome is known."""
    origin = Origin()
    item = origin.future()
    assert (item.run_status, item.invoke_status) == (None, None)
    settle(item, 1, source=0.25)
    assert (item.run_status, item.invoke_status) == (None, None)
    item.result()
    assert (item.run_status, item.invoke_status) == ({"exec_time": 0.25}, {"host": "here"})
    assert item.storage_path == ["localhost", "nowhere", "prefix"]


def test_new_future_pickles():
    """A future that was never invoked can be pickled."""
    copy = pickle.loads(pickle.dumps(ResponseFuture("00003", "a-callset")))
    assert (copy.call_id, copy.callset_id, copy.job_state) == ("00003", "a-callset", JobState.new)


def test_raising_does_not_keep_the_future_alive():
    """The traceback of a raised error does not keep the future alive."""
    _, error, _ = ended_futures()
    try:
        error.result()
    except OSError as raised:
        frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(raised.__traceback__)]
    assert error not in frames


def test_call_errors_say_which_call():
    """The errors of calls contain their ids."""
    error = CallLostError("gone", call_id="00001", callset_id="a-callset")
    assert (error.call_id, error.callset_id) == ("00001", "a-callset")


@pytest.mark.parametrize("make", [pywren.local_executor, pywren.dummy_executor])
def test_a_pickled_future_has_no_value_of_extra_env(make):
    """Row 386: these variables may hold secrets, and a pickled future may go anywhere."""
    executor = make()
    future = executor.call_async(abs, -1, extra_env={"TOKEN": "a-secret-token"})
    assert future._invoke_metadata["extra_env"] == {"TOKEN": "a-secret-token"}
    assert b"a-secret-token" not in pickle.dumps(future)
    future.cancel()
    executor.close()
