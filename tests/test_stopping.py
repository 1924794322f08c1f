"""``cancel_all`` and the end of a ``with`` block, over every kind of executor."""

from __future__ import annotations

import gc
import logging
import pickle
import threading
import time

import executors
import hostile
import pytest
from executors import KINDS, WAIT, Presence, is_there

import pywren
import pywren.testing
from pywren.client import waiting
from pywren.exceptions import CallCancelledError, StorageError
from pywren.future import ResponseFuture
from pywren.system import shutdown


@pytest.fixture(scope="module", params=KINDS)
def ready(request, tmp_path_factory):
    """Return one executor of each kind, shared by all tests."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def presence():
    """Return a server to which running functions connect."""
    with Presence() as made:
        yield made


def another(ready):
    """Return another executor of the same kind, whose calls are its own."""
    factory = {"local": pywren.local_executor, "dummy": pywren.dummy_executor, "lambda": pywren.lambda_executor}
    return executors.Ready(ready.kind, factory[ready.kind](config=ready.config), ready.config)


# -- cancel_all ----------------------------------------------------------------------------------------------------


def test_all_calls_of_an_executor(ready, presence):
    """Running and waiting calls of all maps are cancelled and counted; calls of other executors are not."""
    mine, other = another(ready), another(ready)
    futures = [one for _ in range(2) for one in mine.executor.map(hostile.waits_to_go_on, [presence.address] * 10)]
    spared = other.executor.call_async(hostile.echo, 1)
    if ready.kind != "dummy":
        assert presence.wait()
    assert mine.executor.cancel_all() == 20
    assert all(future.cancelled() for future in futures)
    with pytest.raises(CallCancelledError):
        futures[0].result(WAIT)
    assert presence.is_over()  # the processes of the running calls are gone
    assert mine.executor.cancel_all() == 0
    assert mine.call(hostile.echo, 2).result(WAIT) == 2
    other.run()
    assert spared.result(WAIT) == 1


def test_calls_that_have_ended_are_not_counted(ready):
    """Only calls that the cancellation ended count."""
    mine = another(ready)
    pywren.wait(mine.map(hostile.echo, range(3)))
    assert mine.executor.cancel_all() == 0


def test_calls_that_are_being_invoked(ready, monkeypatch):
    """A map in another thread that has not finished invoking is covered."""
    if ready.kind == "local":
        pytest.skip("calls in memory are submitted in one step")
    mine = another(ready)
    invoked, go_on = threading.Event(), threading.Event()

    def invoke(payload):
        invoked.set()
        go_on.wait(WAIT)

    monkeypatch.setattr(mine.executor.invoker, "invoke", invoke)
    futures = []
    thread = threading.Thread(
        target=lambda: futures.extend(mine.executor.map(hostile.echo, range(4), invoke_pool_threads=1))
    )
    thread.start()
    assert invoked.wait(WAIT)
    assert mine.executor.cancel_all() == 4
    go_on.set()
    thread.join(WAIT)
    assert [future.cancelled() for future in futures] == [True] * 4


def test_a_storage_that_cannot_be_written(ready, monkeypatch):
    """The error is raised when all calls have been tried."""
    if ready.kind == "local":
        pytest.skip("nothing is written for calls in memory")
    mine = another(ready)
    futures = mine.executor.map(hostile.echo, range(3))
    storage = futures[0]._origin.storage
    commit = storage.commit_status

    def commit_status(key, data):
        if "/00001/" in key:
            raise StorageError("not now")
        return commit(key, data)

    monkeypatch.setattr(storage, "commit_status", commit_status)
    if ready.kind == "dummy":
        with pytest.raises(StorageError, match="not now"):
            mine.executor.cancel_all()
        assert [future.cancelled() for future in futures] == [True, False, True]
    monkeypatch.undo()
    mine.executor.cancel_all()


def test_callsets_are_known_weakly(ready):
    """An executor keeps neither futures nor callsets."""
    if ready.kind == "dummy":
        pytest.skip("its dispatcher keeps them until it is closed, as it deletes their directories")
    mine = another(ready)
    for _ in range(3):
        pywren.get_all_results(mine.map(hostile.echo, range(2)))
    deadline = time.monotonic() + WAIT
    while len(mine.executor._callsets) > 1 and time.monotonic() < deadline:
        gc.collect()  # an origin and what invokes its calls refer to each other
        time.sleep(0.01)  # the thread that has settled the last call may still hold it
    assert len(mine.executor._callsets) <= 1


# -- Ctrl-C --------------------------------------------------------------------------------------------------------


@pytest.fixture
def aws_config():
    """Return a configuration of a mocked AWS that runs two calls at once."""
    with pywren.testing.mock_aws(concurrency=2) as config:
        yield config


@pytest.mark.moto
def test_calls_that_the_client_holds_back(aws_config, presence, caplog):
    """After Ctrl-C the calls that were never invoked are cancelled; the others go on."""
    config = {**aws_config, "scheduler": {**aws_config.get("scheduler", {}), "max_concurrency": 2}}
    executor = pywren.lambda_executor(config=config)
    futures = executor.map(hostile.waits_to_go_on, [presence.address] * 6)
    assert presence.wait(2)
    waiting.stop_waiting(executor._origins())
    assert [future.cancelled() for future in futures] == [False] * 2 + [True] * 4
    with pytest.raises(CallCancelledError, match="before it began"):
        futures[5].result(0)
    assert "4 calls that were still waiting on this machine were cancelled" in caplog.text
    assert "2 calls are still running in the Lambda function pywren" in caplog.text
    copy = pickle.loads(pickle.dumps(futures[5]))
    with pytest.raises(CallCancelledError):  # also where another process waits
        copy.result(WAIT)
    presence.let_go()
    assert pywren.get_all_results(futures[:2]) == ["on time"] * 2
    assert executor.call_async(hostile.echo, 1).result(WAIT) == 1


@pytest.mark.moto
def test_held_calls_are_cancelled_with_all_others(aws_config, presence):
    """``cancel_all`` covers calls that were never invoked, and they are not invoked afterwards."""
    config = {**aws_config, "scheduler": {**aws_config.get("scheduler", {}), "max_concurrency": 2}}
    executor = pywren.lambda_executor(config=config)
    futures = executor.map(hostile.waits_to_go_on, [presence.address] * 6)
    assert presence.wait(2)
    assert executor.cancel_all() == 6
    assert [future.cancelled() for future in futures] == [True] * 6
    assert presence.is_over()
    assert executor.call_async(hostile.echo, 1).result(WAIT) == 1
    assert [bool(future.attempts) for future in futures] == [True, True, False, False, False, False]


@pytest.mark.moto
def test_staged_calls_that_wait_for_a_process_of_this_machine(aws_config, presence, monkeypatch, caplog):
    """A local executor with a bucket takes back what no process has begun."""
    executor = pywren.local_executor(config=aws_config)
    monkeypatch.setattr(executor.invoker._worker.get(), "_limit", 2)
    futures = executor.map(hostile.waits_to_go_on, [presence.address] * 6)
    assert presence.wait(2)
    waiting.stop_waiting(executor._origins())
    assert sorted(future.cancelled() for future in futures) == [False] * 2 + [True] * 4
    assert "2 calls are still running on this machine" in caplog.text
    assert executor.cancel_all() == 2
    assert presence.is_over()
    assert "2 calls" not in caplog.text.rpartition("executor.cancel_all()")[2]


def test_a_named_job_can_be_attached_after_ctrl_c(caplog):
    """The line names what gets the futures in another process."""
    executor = pywren.dummy_executor()
    future = executor.call_async(hostile.echo, 1)
    future._origin.callset.name = "job-7"
    waiting.stop_waiting(executor._origins())
    assert "executor.cancel_all(). Another process gets the futures with pywren.attach('job-7')" in caplog.text
    future.cancel()


def test_ctrl_c_during_a_local_map(ready, monkeypatch, caplog, presence):
    """What the interrupted map has submitted is cancelled if it has not begun, and ``cancel_all`` ends the rest."""
    if ready.kind != "local":
        pytest.skip("see test_ctrl_c_during_map")
    mine = another(ready)
    dispatch = mine.executor._dispatcher.dispatch

    def interrupted(submission):
        futures = dispatch(submission)
        assert presence.wait()
        raise KeyboardInterrupt(futures)

    monkeypatch.setattr(mine.executor._dispatcher, "dispatch", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        mine.executor.map(hostile.waits_to_go_on, [presence.address] * 50)
    (futures,) = caught.value.args
    running = sum(not future.cancelled() for future in futures)
    assert 1 <= running < 50
    assert mine.executor.cancel_all() == running
    assert presence.is_over()


# -- attempts ------------------------------------------------------------------------------------------------------


def test_attempts_of_a_future(ready):
    """A call that ran once has one attempt at most known; a future that was never invoked has none."""
    mine = another(ready)
    future = mine.call(hostile.echo, 1)
    assert future.result(WAIT) == 1
    assert [one.number for one in future.attempts] == [1]
    assert ResponseFuture("00000", "callset").attempts == ()


def test_the_attempt_of_a_call_that_was_cancelled(ready, presence):
    """It has a cause, as one that failed has."""
    mine = another(ready)
    future = mine.executor.map(hostile.waits_to_go_on, [presence.address])[0]
    assert future.cancel()
    assert [one.cause for one in future.attempts] == ["cancelled"]


# -- with ----------------------------------------------------------------------------------------------------------


def test_a_block_waits_for_its_calls(ready, tmp_path):
    """Also for those whose futures the program has dropped."""
    if ready.kind == "dummy":
        pytest.skip("run_jobs runs its calls")
    gate = tmp_path / "gate"
    with another(ready).executor as executor:
        executor.map(lambda path: hostile.holds_until(path, str(gate)), [str(tmp_path / "held")])
        kept = executor.call_async(hostile.echo, 1)
        assert is_there(tmp_path / "held")
        timer = threading.Timer(0.2, gate.touch)
        timer.start()
    assert gate.exists()
    assert executors.is_released(tmp_path / "held")
    assert kept.result(0) == 1
    timer.join()


def test_a_block_of_calls_that_the_program_runs(ready):
    """The calls of a dummy executor run only when the program runs them, so nothing waits for them."""
    if ready.kind != "dummy":
        pytest.skip("these calls start by themselves")
    with another(ready).executor as executor:
        future = executor.call_async(hostile.echo, 1)
    assert not future.done()
    executor.invoker.run_jobs()
    assert future.result(WAIT) == 1


def test_a_block_that_raises_waits_too(ready, presence, monkeypatch, caplog):
    """As with the standard library; a line says why the exception is not shown yet."""
    if ready.kind == "dummy":
        pytest.skip("run_jobs runs its calls")
    monkeypatch.setattr(shutdown, "WARNING_SECONDS", 0.05)
    said = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record):
            if "the block of the executor ended with ZeroDivisionError; waiting for 1 call;" in record.getMessage():
                said.set()
                presence.let_go()

    listener = Listener()
    logging.getLogger("pywren.executor").addHandler(listener)
    futures = []

    def fail():
        with another(ready).executor as executor:
            futures.append(executor.call_async(hostile.waits_to_go_on, presence.address))
            assert presence.wait()
            raise ZeroDivisionError

    try:
        with pytest.raises(ZeroDivisionError):
            fail()
    finally:
        logging.getLogger("pywren.executor").removeHandler(listener)
    assert said.is_set()
    assert futures[0].result(0) == "on time"


def test_a_block_that_ctrl_c_ends(ready, presence, caplog):
    """Nothing waits, the calls go on, and a line says so."""
    executor, futures = another(ready).executor, []

    def fail():
        with executor:
            futures.append(executor.call_async(hostile.waits_to_go_on, presence.address))
            if ready.kind != "dummy":
                assert presence.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    (future,) = futures
    assert f"1 call is still running {future._origin.place}" in caplog.text
    assert shutdown.is_interrupted()
    presence.let_go()
    if ready.kind == "dummy":
        executor.invoker.run_jobs()
    pywren.wait([future])
    assert future.result(0) == "on time"
    assert not shutdown.is_interrupted()  # the program went on


def test_calls_that_callbacks_make_are_waited_for(ready, tmp_path):
    """A block ends when nothing of its executor is left, whoever has made it."""
    if ready.kind == "dummy":
        pytest.skip("run_jobs runs its calls")
    more, made = [], threading.Event()
    with another(ready).executor as executor:

        def go_on(future):
            more.append(executor.call_async(hostile.echo, future.result()))
            made.set()

        executor.call_async(hostile.echo, 5).add_done_callback(go_on)
        assert made.wait(WAIT)
    assert more[0].done()
    assert more[0].result(0) == 5


def test_a_failed_call_does_not_fail_the_block(ready):
    """As with the standard library, the future has the error."""
    if ready.kind == "dummy":
        pytest.skip("run_jobs runs its calls")
    with another(ready).executor as executor:
        future = executor.call_async(lambda x: 1 / x, 0)
    assert isinstance(future.exception(0), ZeroDivisionError)


def test_an_executor_that_was_just_unpickled():
    """It may be used in a ``with`` statement before it is initialized."""
    with pywren.local_executor() as executor:
        copy = pickle.loads(pickle.dumps(executor))
    with copy as executor:
        future = executor.call_async(hostile.echo, 3)
    assert future.result(0) == 3
