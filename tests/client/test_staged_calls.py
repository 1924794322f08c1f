"""Calls that go through a storage: what is believed, what is fetched when, and how a call ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from unittest.mock import Mock

import pytest

import pywren
from pywren.client import elsewhere, staged_calls, trouble, waiting
from pywren.client.callset import Callset
from pywren.client.looking import Looker
from pywren.client.monitor import Monitor
from pywren.client.staged_calls import StagedCallset
from pywren.client.staging import agg_data
from pywren.exceptions import (
    ArgumentError,
    CallCancelledError,
    CallLostError,
    ConfigError,
    IntegrityError,
    InvocationError,
    PywrenError,
    StorageError,
    StorageTimeoutError,
    WaitTimeoutError,
    WorkerCrashedError,
)
from pywren.executor import Executor
from pywren.future import ResponseFuture, attach, futures_of
from pywren.storage import Storage
from pywren.storage.s3_backend import S3Backend
from pywren.wire.call import Call
from pywren.wire.digests import sha256
from pywren.wire.failure import Failure
from pywren.wire.outcome import EAGER_OUTPUT_LIMIT, Outcome
from pywren.wire.status import STATUS_LIMIT, Status


class Worker:
    """Write what a worker would write for the calls of one callset."""

    def __init__(self, queue_patience=None, clock=time.time):
        self.storage = Storage(pywren.wrenconfig.extract_storage_config(pywren.wrenconfig.default()))
        self.callset = Callset(self.storage.prefix, job_max_runtime=10, queue_patience=queue_patience)
        self.origin = StagedCallset(self.callset, self.storage, Monitor(), clock=clock, timer=clock)

    def futures(self, count=1):
        return futures_of(self.origin, (f"{number:05d}" for number in range(count)))

    def goes_through(self, storage):
        """Have the client use another storage object."""
        self.origin.storage = self.origin._looker._storage = self.origin._ends.storage = storage

    def status(self, call_id="00000", **members):
        return Status(self.callset.id, call_id, **members)

    def commit(self, status, key=None, call_id=None):
        key = key or self.callset.attempt_key(status.call_id, status.attempt)
        self.write(status.encode(key), call_id or status.call_id)

    def write(self, data, call_id="00000"):
        return self.storage.commit_status(self.callset.call_keys(call_id).status, data)

    def returns(self, value, call_id="00000"):
        self.commit(self.status(call_id, outcome=Outcome(True, pickle.dumps(value)).encode()))

    def returns_apart(self, value, call_id="00000"):
        data = Outcome(True, pickle.dumps(value)).encode()
        key = self.callset.call_keys(call_id).output
        self.storage.put(key, data)
        self.commit(self.status(call_id, output_key=key, output_sha256=sha256(data), output_size=len(data)))
        return key


class Explosive:
    """An object that leaves a mark when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("unverified bytes were unpickled",)


def test_result_inside_the_status():
    """A small result is read from the status."""
    worker = Worker()
    (item,) = worker.futures()
    worker.returns(41)
    assert item.result(10) == 41
    assert item.run_status["attempt"] == 1


def test_many_calls_in_any_order():
    """Results of many calls are found in whatever order they appear."""
    worker = Worker()
    items = worker.futures(50)
    for number in (*range(49, 24, -1), *range(25)):
        worker.returns(number * 2, f"{number:05d}")
    assert pywren.get_all_results(items) == [number * 2 for number in range(50)]


def test_outcome_is_noticed_after_a_wait_in_vain():
    """A result that is committed after a ``wait`` timed out reaches the next one that asks."""
    worker = Worker()
    (item,) = worker.futures()
    with pytest.raises(WaitTimeoutError):
        item.result(0.05)
    worker.returns("now")
    assert item.result(60) == "now"


def test_results_are_read_without_a_pause_as_long_as_there_are_new_ones(monkeypatch):
    """The pause between two polls depends on what a poll costs that finds nothing. Each result is read once anyway."""
    now = [1_000.0]
    worker = Worker(clock=lambda: now[0])
    items = worker.futures(10)

    def slowly(name, seconds):
        real = getattr(worker.storage, name)

        def slow(*args, **options):
            now[0] += seconds
            return real(*args, **options)

        monkeypatch.setattr(worker.storage, name, slow)

    slowly("look", 0.5)
    slowly("read_status", 7.0)
    worker.returns(1)
    assert worker.origin.examine() == pytest.approx(1.0)
    assert items[0].done()
    assert now[0] > 1_007.0  # it has read the result


class TestBigOutputs:
    """Outputs that are too big to be fetched eagerly."""

    def test_fetched_when_somebody_asks(self):
        """A big output is fetched for result, exception, a waiter, a callback, and done."""
        big = b"x" * (EAGER_OUTPUT_LIMIT + 1)
        askers = [
            lambda item: item.result(10),
            lambda item: item.exception(10) or item.result(0),
            lambda item: pywren.wait([item]) and item.result(0),
            lambda item: item.done() and item.result(0),
        ]
        for ask in askers:
            worker = Worker()
            (item,) = worker.futures()
            worker.returns_apart(big)
            assert ask(item) == big

    def test_not_fetched_before(self):
        """Until somebody asks for it, the output stays in the storage, and nothing polls for it."""
        worker = Worker()
        (item,) = worker.futures()
        key = worker.returns_apart(b"x" * (EAGER_OUTPUT_LIMIT + 1))
        assert worker.origin.examine() is None
        worker.storage.backend.delete([key])
        with pytest.raises(StorageError):
            item.result(10)

    def test_small_ones_are_fetched_at_once(self):
        """A small output in its own object is fetched with the status."""
        worker = Worker()
        (item,) = worker.futures()
        key = worker.returns_apart("small")
        worker.origin.examine()
        worker.storage.backend.delete([key])
        assert item.result(10) == "small"


class TestIntegrity:
    """Nothing is unpickled before it has been verified."""

    def evil(self):
        return Outcome(True, pickle.dumps(Explosive())).encode()

    def test_unsigned_status_is_never_a_value(self):
        """A status without a signature becomes an error, and its outcome is not unpickled."""
        worker = Worker()
        (item,) = worker.futures()
        worker.write(worker.status(outcome=self.evil()).encode(None))
        with pytest.raises(IntegrityError, match="not signed"):
            item.result(10)

    def test_status_signed_with_another_key(self):
        """Somebody who can write to the bucket but does not know the key cannot forge a value."""
        worker = Worker()
        (item,) = worker.futures()
        worker.commit(worker.status(outcome=self.evil()), key=b"k" * 32)
        with pytest.raises(IntegrityError):
            item.result(10)

    def test_status_of_another_call(self):
        """A genuine status copied to another call of the same callset is refused."""
        worker = Worker()
        first, second = worker.futures(2)
        worker.commit(worker.status("00000", outcome=Outcome(True, pickle.dumps(1)).encode()), call_id="00001")
        with pytest.raises(IntegrityError):
            second.result(10)
        assert not first.done()

    def test_status_of_another_callset(self):
        """A genuine status of another callset is refused too."""
        worker, other = Worker(), Worker()
        (item,) = worker.futures()
        status = other.status(outcome=Outcome(True, pickle.dumps(1)).encode())
        worker.write(status.encode(other.callset.attempt_key("00000", 1)))
        with pytest.raises(IntegrityError):
            item.result(10)

    def test_altered_output(self):
        """An output that was replaced after its status was signed is not unpickled."""
        worker = Worker()
        (item,) = worker.futures()
        key = worker.returns_apart("genuine")
        worker.storage.put(key, self.evil()[: len(worker.storage.get(key))])
        with pytest.raises(IntegrityError, match="SHA-256"):
            item.result(10)

    def test_garbage(self):
        """Bytes that are not a valid status end the call with an error."""
        worker = Worker()
        (item,) = worker.futures()
        worker.write(b"\x80garbage")
        with pytest.raises(IntegrityError):
            item.result(10)

    def test_unsigned_failure_is_an_error_of_its_kind(self):
        """0.4's put_cancelled can still end a call, and so can a worker that could not read its payload."""
        worker = Worker()
        (item,) = worker.futures()
        worker.storage.put_cancelled(worker.callset.id, "00000", "CANCEL")
        with pytest.raises(CallCancelledError, match="cancelled"):
            item.result(10)
        assert item.cancelled()
        assert item.run_status["exception_args"][0] == "CANCELLED"

    def test_invoke_status_carries_no_key(self):
        """Printing a future's invoke_status shows neither the key nor anything derived from it."""
        executor = pywren.dummy_executor()
        item = executor.call_async(abs, -1)
        key = executor.invoker.payloads[0]["attempt_key"]
        executor.invoker.run_jobs()
        assert item.result(10) == 1
        assert key not in json.dumps(item.invoke_status) + json.dumps(item.run_status)


class TestOneWayToEnd:
    """The first status that is written ends the call."""

    def test_cancel_wins_when_first(self):
        """A cancelled call stays cancelled, even if its worker writes a status later."""
        worker = Worker()
        (item,) = worker.futures()
        assert item.cancel()
        worker.returns("too late")
        with pytest.raises(CallCancelledError):
            item.result(10)

    def test_cancel_loses_when_second(self):
        """A call that has ended unnoticed cannot be cancelled, and its result counts."""
        worker = Worker()
        (item,) = worker.futures()
        worker.returns("first")
        assert not item.cancel()
        assert item.result(10) == "first"

    def test_second_commit_is_refused(self):
        """AWS may deliver a call twice: the first outcome counts."""
        worker = Worker()
        (item,) = worker.futures()
        worker.returns("first")
        worker.returns("second")
        assert item.result(10) == "first"


class TestLost:
    """A client does not wait forever for a call that leaves no status."""

    def test_lost_after_queue_patience_runtime_and_grace(self):
        """The call is declared lost when it can no longer start and end in time, not before."""
        now = [time.time()]
        worker = Worker(queue_patience=100, clock=lambda: now[0])
        (item,) = worker.futures()
        now[0] = worker.callset.submitted + 100 + 10 + staged_calls.LOST_GRACE - 1
        assert not item.done()
        now[0] += 2
        with pytest.raises(CallLostError, match="never started"):
            item.result(10)

    def test_a_status_that_is_there_is_never_lost(self):
        """A committed outcome is used, however late the client polls."""
        now = [time.time()]
        worker = Worker(queue_patience=100, clock=lambda: now[0])
        (item,) = worker.futures()
        worker.returns("there")
        now[0] += 1_000_000
        assert item.result(10) == "there"

    def test_without_patience_nothing_is_lost(self):
        """Calls of a dummy executor are never declared lost."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        (item,) = worker.futures()
        now[0] += 1e9
        assert not item.done()


class TestStorageTrouble:
    """The storage fails while a client waits for results."""

    class Failing:
        def __init__(self, storage):
            self.storage = storage
            self.failing = True

        def __getattr__(self, name):
            return getattr(self.storage, name)

        def read_status(self, *arguments):
            if self.failing:
                raise StorageError("the storage is out of reach")
            return self.storage.read_status(*arguments)

        def look(self, *arguments):
            if self.failing:
                raise StorageError("the storage is out of reach")
            return self.storage.look(*arguments)

    def test_passes(self, caplog):
        """A short outage is logged once and does not reach the caller."""
        worker = Worker()
        worker.goes_through(self.Failing(worker.storage))
        (item,) = worker.futures()
        assert not item.done()
        worker.origin.storage.failing = False
        worker.returns("after all")
        assert item.result(10) == "after all"
        assert caplog.text.count("out of reach") == 1

    def test_comes_and_goes(self, caplog):
        """Row 220: a storage that fails every other time causes one warning a minute, not one a poll."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        worker.origin._monitor = Mock(spec=Monitor)
        worker.goes_through(self.Failing(worker.storage))
        items = worker.futures()
        for number in range(40):
            worker.origin.storage.failing = number % 2 == 0
            worker.origin.examine()
            now[0] += trouble.PATIENCE / 20
        assert items[0].running() is False
        assert caplog.text.count("keeps trying") == 2

    @pytest.fixture
    def away(self):
        """Make a worker whose client has not reached the storage for longer than its patience, and its future."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        worker.goes_through(self.Failing(worker.storage))
        (item,) = worker.futures()
        assert not item.done()
        now[0] += trouble.PATIENCE + 1
        yield worker, item
        worker.origin.storage.failing = False
        worker.returns("there all the time")
        assert item.result(10) == "there all the time"  # whatever was called before
        assert item.done()

    @pytest.mark.parametrize(
        "ask",
        [
            lambda item: item.result(),
            lambda item: item.result(timeout=60),
            lambda item: item.exception(),
            lambda item: pywren.wait([item]),
            lambda item: pywren.wait([item], timeout=60),
            lambda item: pywren.wait([item], pywren.ANY_COMPLETED),
            lambda item: pywren.wait([item], pywren.ALWAYS),
            lambda item: pywren.get_all_results([item]),
            lambda item: item.done(),
            lambda item: item.result(check_only=True),
        ],
    )
    def test_is_told_to_who_asks_and_ends_nothing(self, away, ask):
        """Row 220: while a storage is out of reach, asking for a call raises its error each time; the call goes on."""
        _, item = away
        for _ in range(2):
            with pytest.raises(StorageError, match="out of reach") as caught:
                ask(item)
            assert not isinstance(caught.value, WaitTimeoutError)
        assert (item.running(), item.cancelled(), item.job_state) == (False, False, pywren.future.JobState.invoked)

    def test_a_time_out_meanwhile_says_what_is_wrong(self):
        """Row 220: even if the outage has just begun, the error is both a TimeoutError and a StorageError."""
        worker = Worker()
        worker.goes_through(self.Failing(worker.storage))
        (item,) = worker.futures()
        assert not item.done()
        for ask in (item.result, item.exception):
            with pytest.raises(StorageTimeoutError, match=r"has not ended after 0.05 s.*out of reach") as caught:
                ask(0.05)
            assert isinstance(caught.value, TimeoutError)
            assert isinstance(caught.value, StorageError)
        worker.origin.storage.failing = False
        with pytest.raises(WaitTimeoutError) as caught:
            item.result(0.5)
        assert not isinstance(caught.value, StorageError)

    def test_those_who_are_told_of_results_go_on_waiting(self, away):
        """Callbacks, awaiters and the standard library's waiters receive only the outcome."""
        worker, item = away
        called = threading.Event()
        item.add_done_callback(lambda _: called.set())

        async def collect():
            return await item

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            awaited = pool.submit(asyncio.run, collect())
            waited = pool.submit(concurrent.futures.wait, [item], 60)
            completed = pool.submit(lambda: next(concurrent.futures.as_completed([item], 60)))
            with pytest.raises(StorageError, match="out of reach"):
                item.result()
            assert not called.is_set()
            worker.origin.storage.failing = False
            worker.returns("there all the time")
            assert awaited.result(60) == "there all the time"
            assert waited.result(60) == ({item}, set())
            assert completed.result(60) is item
        assert called.wait(10)

    def test_an_error_of_any_kind(self, monkeypatch):
        """A problem with the key file, memory or anything else is raised to the caller and does not end the call."""
        for error in (ConfigError("the key is gone"), MemoryError("full"), OSError("no"), RecursionError("deep")):
            now = [time.time()]
            worker = Worker(clock=lambda now=now: now[0])
            (item,) = worker.futures()
            with monkeypatch.context() as patch:
                for method in ("read_status", "look"):
                    patch.setattr(worker.storage, method, Mock(side_effect=error))
                assert not item.done()
                now[0] += trouble.PATIENCE
                with pytest.raises(PywrenError, match=str(error)):
                    item.result()
            worker.returns("all the same")
            assert item.result(10) == "all the same"

    def test_does_not_keep_forgotten_futures(self):
        """Stored errors keep no reference to a future, and polling stops when nobody holds one."""
        worker = Worker()
        worker.goes_through(self.Failing(worker.storage))
        items = worker.futures(2)
        worker.origin.examine()
        assert worker.origin.trouble() is not None
        del items
        gc.collect()
        assert worker.origin.examine() is None

    def test_outputs_that_cannot_be_fetched(self, monkeypatch):
        """A big output is requested again when the storage is back."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        (item,) = worker.futures()
        worker.returns_apart(b"x" * (EAGER_OUTPUT_LIMIT + 1))
        with monkeypatch.context() as patch:
            patch.setattr(worker.storage, "get", Mock(side_effect=StorageError("out of reach")))
            assert not item.done()
            now[0] += trouble.PATIENCE
            with pytest.raises(StorageError, match="out of reach"):
                item.result()
        assert len(item.result(10)) == EAGER_OUTPUT_LIMIT + 1

    @pytest.fixture
    def half(self, monkeypatch):
        """Make a worker, its clock and three futures; the output of the first cannot be fetched for a long time."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        worker.origin._monitor = Mock(spec=Monitor)
        items = worker.futures(3)
        key, get = worker.returns_apart("out of reach"), worker.storage.backend.get

        def refuse(asked, *more, **options):
            if asked == key:
                raise StorageError("it is out of reach")
            return get(asked, *more, **options)

        monkeypatch.setattr(worker.storage.backend, "get", refuse)
        worker.origin.examine()
        now[0] += trouble.PATIENCE + 1
        worker.origin.examine()
        now[0] += 10
        return worker, items

    @pytest.mark.parametrize("ask", [lambda item: item.done(), lambda item: pywren.wait([item], pywren.ALWAYS)[0]])
    def test_one_output_that_cannot_be_fetched(self, half, ask):
        """Row 305: only asking for that call raises the error. A running call has not ended; an ended one is done."""
        worker, items = half
        with pytest.raises(StorageError, match="out of reach"):
            ask(items[0])
        assert not ask(items[1])
        worker.returns("here", "00001")
        worker.origin._last_poll = None
        assert ask(items[1])

    def test_waiting_for_another_call(self, half):
        """Row 305: a client that waits for another call goes on waiting, and its output is fetched."""
        worker, items = half
        told = []

        def wait_for(item):
            try:
                told.append(item.result(60))
            except StorageError as error:
                told.append(str(error))

        waiting = [threading.Thread(target=wait_for, args=(item,), daemon=True) for item in items[:2]]
        asked = threading.Semaphore(0)
        worker.origin._monitor.watch.side_effect = lambda *_: asked.release()
        for thread in waiting:
            thread.start()
            assert asked.acquire(timeout=30)
        worker.origin.examine()
        waiting[0].join(30)
        assert told == ["it is out of reach"]
        worker.returns_apart("fetched", "00001")
        worker.origin.examine()
        waiting[1].join(30)
        assert told[1:] == ["fetched"]

    def test_many_outputs_that_cannot_be_fetched(self, monkeypatch):
        """Row 305: a storage that is out of reach is not asked again for each of a thousand outputs."""
        worker = Worker()
        worker.origin._monitor = Mock(spec=Monitor)
        items = worker.futures(200)
        for item in items:
            worker.returns_apart(0, item.call_id)
        get, asked = worker.storage.backend.get, []

        def refuse(key, *more, **options):
            if key.endswith("output.pickle"):
                asked.append(key)
                raise StorageError("it is out of reach")
            return get(key, *more, **options)

        monkeypatch.setattr(worker.storage.backend, "get", refuse)
        worker.origin.examine()
        assert 0 < len(asked) < 100


class TestPickledFutures:
    """Futures that another process collects."""

    def test_collected_by_another_process(self, tmp_path):
        """Another interpreter unpickles the futures, waits and gets results and errors."""
        worker = Worker()
        items = worker.futures(2)
        (tmp_path / "futures").write_bytes(pickle.dumps(items))
        program = (
            "import pickle, pywren, sys; fs = pickle.load(open(sys.argv[1], 'rb')); "
            "done, _ = pywren.wait(fs); print([f.result(throw_except=False) for f in fs], repr(fs[1].exception()))"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "futures")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            worker.returns("hello")
            worker.commit(worker.status("00001", failure=Failure("WorkerCrashedError", "it crashed", (3,))))
            output, _ = process.communicate(timeout=60)
        assert output.strip() == "['hello', None] WorkerCrashedError('it crashed', 3)"

    def test_share_one_origin(self):
        """Futures of one map that are unpickled together share one origin."""
        worker = Worker()
        copies = pickle.loads(pickle.dumps(worker.futures(3)))
        assert len({id(copy._origin) for copy in copies}) == 1
        assert [copy.call_id for copy in copies] == ["00000", "00001", "00002"]

    def test_same_call_twice(self):
        """Two futures of one call both get its outcome."""
        worker = Worker()
        worker.returns("both")
        pair = [attach("00000", worker.callset, worker.storage) for _ in range(2)]
        assert pywren.get_all_results(pair) == ["both", "both"]

    def test_by_hand_as_in_0_4(self):
        """A future made from ids, metadata and storage path collects the call."""
        worker = Worker()
        worker.returns("by hand")
        item = pywren.ResponseFuture("00000", worker.callset.id, {}, worker.storage.path)
        assert item.result(10) == "by hand"

    def test_by_hand_of_a_function(self):
        """When the metadata names the function, the function's records are read."""
        worker = Worker()
        worker.returns("forged")
        payload = {"attempt_key": worker.callset.attempt_key("00000", 1).hex()}
        when = time.strftime("%Y/%m/%d/%Y-%m-%dT%H.%M.%S", time.gmtime())
        worker.storage.put(f"aws/lambda/async/f/{when}-1", json.dumps({"requestPayload": payload}).encode())
        metadata = {"lambda_function_name": "arn:aws:lambda:us-west-2:123456789012:function:f:live"}
        for more in ({}, {"host_submit_time": time.time() + 3600}):
            item = pywren.ResponseFuture("00000", worker.callset.id, {**metadata, **more}, worker.storage.path)
            with pytest.raises(WorkerCrashedError):
                item.result(10)

    def test_client_that_has_ended(self, tmp_path):
        """A call that ran in its client's process is lost when that process has ended."""
        worker = Worker()
        (tmp_path / "client").touch()
        item = attach("00000", worker.callset, worker.storage, str(tmp_path / "client"))
        with pytest.raises(CallLostError, match="the process that made the call has ended"):
            item.result(10)


def test_callsets_from_elsewhere_share_a_thread():
    """Row 304: one thread polls for a thousand futures, each from its own callset."""
    workers = [Worker() for _ in range(50)]
    copies = [attach("00000", each.callset, pickle.loads(pickle.dumps(each.storage))) for each in workers]
    assert pywren.wait(copies, timeout=0) == ([], copies)
    (monitor,) = {each._origin._monitor for each in copies}
    assert sum(thread is monitor._thread for thread in threading.enumerate()) == 1
    for number, each in enumerate(workers):
        each.returns(number)
    assert pywren.get_all_results(copies) == list(range(50))


def test_futures_made_by_hand_share_a_thread_and_a_storage():
    """Row 304: this also holds for futures that a program makes from notes, as programs of 0.4 do."""
    worker = Worker()
    for number in range(50):
        worker.returns(number, f"{number:05d}")
    made = [
        ResponseFuture(f"{number:05d}", worker.callset.id, {"lambda_function_name": "f"}, worker.storage.path)
        for number in range(50)
    ]
    assert pywren.get_all_results(made) == list(range(50))
    assert len({each._origin._monitor for each in made}) == 1
    assert len({each._origin.storage for each in made}) == 1


def test_forgotten_futures_are_not_looked_for():
    """A program that drops its futures stops polling for them."""
    worker = Worker()
    items = worker.futures(3)
    assert worker.origin.examine() is not None
    del items
    gc.collect()
    assert worker.origin.examine() is None


def test_awaited_futures_are_kept():
    """A future with a callback gets its outcome even if no other reference to it is left."""
    worker = Worker()
    seen, called = [], threading.Event()
    worker.futures()[0].add_done_callback(lambda done: (seen.append(done.result()), called.set()))
    gc.collect()
    worker.returns("called back")
    assert called.wait(30)
    assert seen == ["called back"]


def _collect_in_child(item, answers):
    answers.put(item.result(30))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_after_fork_the_child_looks_itself():
    """A forked process collects staged calls with its own monitor, whatever the parent's was doing."""
    worker = Worker()
    (item,) = worker.futures()
    with pytest.raises(WaitTimeoutError):
        item.result(0.05)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_collect_in_child, args=(item, answers))
    child.start()
    worker.returns("in both")
    assert answers.get(timeout=30) == "in both"
    child.join()
    answers.close()
    answers.join_thread()
    assert item.result(10) == "in both"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_the_monitor_looks(monkeypatch):
    """Locks that the parent's monitor held during the fork do not block the child."""
    worker = Worker()
    (item,) = worker.futures()
    looking, go_on, parent = threading.Event(), threading.Event(), os.getpid()
    read = worker.storage.read_status

    def slow_read(*call):
        if os.getpid() == parent:
            looking.set()
            assert go_on.wait(30)
        return read(*call)

    monkeypatch.setattr(worker.storage, "read_status", slow_read)
    item.add_done_callback(lambda _: None)
    assert looking.wait(10)
    worker.returns("in both")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_collect_in_child, args=(item, answers))
    child.start()
    assert answers.get(timeout=30) == "in both"
    child.join()
    answers.close()
    answers.join_thread()
    go_on.set()
    assert item.result(10) == "in both"


class LoadsSlowly:
    """An object that takes time to unpickle in this process: it waits between two events."""

    events = threading.Event(), threading.Event()

    def __reduce__(self):
        return _load_slowly, ()


def _load_slowly():
    loading, go_on = LoadsSlowly.events
    loading.set()
    assert go_on.wait(10)
    return "loaded"


def test_a_result_that_holds_a_future_while_another_is_unpickled():
    """While one thread unpickles a future of a callset, that callset's results can still be read."""
    worker, other = Worker(), Worker()
    inner = attach("00000", other.callset, other.storage)
    outer = attach("00000", worker.callset, worker.storage)
    loading, go_on = LoadsSlowly.events
    worker.returns([LoadsSlowly(), inner])
    outer.add_done_callback(lambda _: None)
    assert loading.wait(10)
    attached = []
    thread = threading.Thread(
        target=lambda: attached.append(attach("00001", worker.callset, worker.storage)), daemon=True
    )
    thread.start()
    thread.join(0.1)
    go_on.set()
    assert outer.result(10)[0] == "loaded"
    thread.join(10)
    assert [one.call_id for one in attached] == ["00001"]


class TestLocks:
    """No lock is held except for work in memory, and no thread waits for another thread's poll."""

    @staticmethod
    def assert_free(worker, where):
        """Fail if another thread finds that a lock of the callset stays held for more than a moment."""
        locks = {
            "the callset's": worker.origin._lock,
            "the futures'": worker.callset.condition,
            "the monitor's": worker.origin._monitor._changed,
            "that of attaching": elsewhere._attaching,
        }
        taken = []

        def take():
            for name, lock in locks.items():
                if not lock.acquire(timeout=20):
                    taken.append(name)
                    continue
                lock.release()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert taken == [], f"held during {where}"

    def watched(self, worker, seen):
        """Give a worker's client a storage that checks the locks at every request."""
        test = self

        class Watching:
            def __getattr__(self, name):
                method = getattr(worker.storage, name)
                if not callable(method) or name in ("now", "keys"):
                    return method

                def asked(*arguments, **options):
                    seen.append(name)
                    test.assert_free(worker, name)
                    return method(*arguments, **options)

                return asked

        worker.goes_through(Watching())

    @pytest.mark.parametrize("threads", [1, 32])
    def test_none_is_held_during_a_request(self, monkeypatch, threads):
        """Statuses, listings, outputs, lost and cancelled calls: on this thread or on helper threads."""
        now = [time.time()]
        worker = Worker(queue_patience=100, clock=lambda: now[0])
        seen = []
        self.watched(worker, seen)
        monkeypatch.setattr(Looker, "threads", threads)
        items = worker.futures(9)
        worker.returns("inside", "00000")
        worker.returns_apart("apart", "00001")
        worker.write(b"garbage", "00002")
        assert items[0].done()
        assert items[3].cancel()
        assert not items[1].cancel()
        now[0] += 1e6
        assert items[4].done()
        assert [type(item.exception(10)) for item in items[4:]] == [CallLostError] * 5
        assert items[1].result(10) == "apart"
        assert {"read_status", "look", "get", "commit_status"} <= set(seen)

    @pytest.mark.parametrize("count", [1, 2, 3, 40])
    def test_several_calls_that_are_lost_in_one_look(self, monkeypatch, count):
        """Row 67: each call ends with the error, however many threads declare it lost."""
        now = [time.time()]
        worker = Worker(queue_patience=100, clock=lambda: now[0])
        monkeypatch.setattr(Looker, "threads", 32)
        items = worker.futures(count)
        now[0] += 1e6
        done, _ = pywren.wait(items, timeout=30)
        assert [type(item.exception(0)) for item in done] == [CallLostError] * count

    def test_none_is_held_while_a_result_is_unpickled(self):
        """An object's ``__setstate__`` may call any method, from any thread."""
        worker = Worker()
        items = worker.futures(2)
        UnpicklesWith.action = lambda: (self.assert_free(worker, "unpickling"), items[1].done())
        worker.returns(UnpicklesWith())
        assert items[0].done()
        assert items[0].result(0) == "unpickled"

    def test_none_is_held_during_a_callback(self):
        """A callback may call any method too."""
        worker = Worker()
        items = worker.futures(2)
        found = []
        items[0].add_done_callback(lambda _: self.assert_free(worker, "a callback"))
        items[0].add_done_callback(lambda _: found.append((items[1].done(), items[1].cancel())))
        worker.returns("outcome")
        assert items[0].result(10) == "outcome"
        while not found:
            threading.Event().wait(0.01)
        assert found == [(False, True)]

    def test_nobody_waits_for_a_look_of_another_thread(self, monkeypatch):
        """While the monitor's request hangs, every method returns at once, or after its time-out."""
        worker = Worker()
        items = worker.futures(3)
        hanging, go_on = threading.Event(), threading.Event()
        read = worker.storage.read_status

        def hang(*call):
            if threading.current_thread().name in ("pywren-monitor", "pywren-request"):
                hanging.set()
                assert go_on.wait(60)
            return read(*call)

        monkeypatch.setattr(worker.storage, "read_status", hang)
        items[0].add_done_callback(lambda _: None)
        assert hanging.wait(30)
        asked = [
            items[0].done,
            lambda: items[0].result(check_only=True),
            lambda: pywren.wait(items, pywren.ALWAYS),
            lambda: pywren.wait(items, timeout=0.1),
            lambda: concurrent.futures.wait(items, timeout=0.1),
            lambda: items[0].exception(0),
            lambda: items[0].add_done_callback(lambda _: None),
            lambda: pickle.loads(pickle.dumps(items[1])),
            lambda: futures_of(worker.origin, ["00007"]),
            items[2].cancel,
            lambda: items[2].exception(0),
        ]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for ask in asked:
                with contextlib.suppress(WaitTimeoutError, CallCancelledError):
                    pool.submit(ask).result(30)
        assert not go_on.is_set()
        assert items[2].cancelled()
        go_on.set()
        worker.returns("in the end")
        assert items[0].result(30) == "in the end"

    def test_the_monitor_comes_again_after_a_look_of_another_thread(self, monkeypatch):
        """A status that appears while a program's own thread polls is not missed."""
        worker = Worker()
        items = worker.futures(2)
        looking, go_on = threading.Event(), threading.Event()
        read = worker.storage.read_status

        def slow(callset_id, call_id):
            found = read(callset_id, call_id)
            if threading.current_thread().name == "asks":
                looking.set()
                assert go_on.wait(60)
            return found

        monkeypatch.setattr(worker.storage, "read_status", slow)
        thread = threading.Thread(target=items[0].done, name="asks")
        thread.start()
        assert looking.wait(30)
        worker.returns("while it looked")
        assert worker.origin.examine() is None  # the monitor, which finds the other thread polling
        go_on.set()
        thread.join()
        called = threading.Event()
        items[0].add_done_callback(lambda _: called.set())
        assert called.wait(30)

    def test_ctrl_c_during_a_look_does_not_send_the_monitor_away(self, monkeypatch):
        """The monitor, which was turned away by the interrupted poll, comes back."""
        worker = Worker()
        items = worker.futures(2)
        read, interrupted = worker.storage.read_status, []

        def interrupt(callset_id, call_id):
            if not interrupted:
                interrupted.append(worker.origin.examine())  # as the monitor's thread would
                raise KeyboardInterrupt
            return read(callset_id, call_id)

        monkeypatch.setattr(worker.storage, "read_status", interrupt)
        with pytest.raises(KeyboardInterrupt):
            items[0].done()
        assert interrupted == [None]
        asked = threading.Event()
        monkeypatch.setattr(worker.storage, "read_status", lambda *call: (asked.set(), read(*call))[1])
        assert asked.wait(30)

    def test_what_is_raised_is_not_shared(self):
        """Stored errors that are raised repeatedly neither grow nor keep the frames of their callers."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        worker.goes_through(TestStorageTrouble.Failing(worker.storage))
        items = worker.futures(2)
        assert not items[0].done()
        now[0] += trouble.PATIENCE
        for ask in (items[0].done, items[0].result, items[1].done):
            with pytest.raises(StorageError):
                ask()
        assert worker.origin.trouble().__traceback__ is None


class UnpicklesWith:
    """An object that calls a function while it is unpickled."""

    action = staticmethod(lambda: None)

    def __reduce__(self):
        return _act, ()


def _act():
    UnpicklesWith.action()
    return "unpickled"


class TestUnbelieved:
    """An invalid or unsigned status stops nothing else."""

    STANDING = [b"garbage", b"", b"{}", b"[1]", b"x" * (STATUS_LIMIT + 1)]

    @pytest.mark.parametrize("data", STANDING, ids=range(len(STANDING)))
    def test_cancelling_over_it(self, data):
        """Row 225: the call is cancelled, for this client and for all that read the storage."""
        worker = Worker()
        (item,) = worker.futures()
        worker.write(data)
        assert item.cancel()
        with pytest.raises(CallCancelledError):
            item.result(0)
        assert attach("00000", worker.callset, worker.storage).exception is not None
        assert b"CallCancelledError" in worker.storage.read_status(worker.callset.id, "00000")

    def test_cancelling_over_an_unsigned_value(self):
        """An unsigned value is not a value."""
        worker = Worker()
        (item,) = worker.futures()
        worker.write(worker.status(outcome=b"{}").encode(None))
        assert item.cancel()
        assert item.cancelled()

    @pytest.mark.parametrize("data", STANDING, ids=range(len(STANDING)))
    def test_it_is_an_error(self, data):
        """Row 225: an invalid status ends its own call alone, whatever its size."""
        worker = Worker()
        items = worker.futures(5)
        worker.write(data)
        worker.returns(1, "00001")
        with pytest.raises(IntegrityError):
            items[0].result(10)
        assert items[1].result(10) == 1


class TestSilence:
    """No result arrives for a minute."""

    def silent(self, caplog, **options):
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        worker.origin = StagedCallset(
            worker.callset, worker.storage, Monitor(), clock=lambda: now[0], timer=lambda: now[0], **options
        )
        items = worker.futures(3)
        told = []
        for seconds in (1, waiting.SILENCE - 2, 2, 10, 600, 6000):
            now[0] += seconds
            caplog.clear()
            worker.origin.examine()
            told.append(caplog.text)
        assert len(items) == 3
        return told

    def test_is_told_once(self, caplog):
        """Row 222: after a minute one warning says what is known and what to check."""
        before, almost, told, *later = self.silent(caplog)
        assert "neither a result nor a failure has arrived for 61 s from 3 calls" in told
        assert before + almost + "".join(later) == ""

    def test_of_a_function(self, caplog):
        """The warning names the function, and the commands that show more."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        worker.callset.function = "pywren_1"
        (item,) = worker.futures()
        now[0] += waiting.SILENCE
        assert not item.done()
        assert "from 1 call of" in caplog.text
        for text in ("pywren_1", "`pywren logs`", "`pywren test_config`", "concurrency"):
            assert text in caplog.text

    def test_when_the_reason_is_known(self, caplog):
        """The invoker's explanation is logged instead, once."""
        told = self.silent(caplog, explain_silence=lambda: "nobody works")
        assert ["nobody works" in text for text in told] == [False, False, True, False, False, False]
        assert "neither a result nor a failure has arrived" not in "".join(told)

    def test_when_the_reason_becomes_known(self, caplog):
        """The invoker is asked again, after increasing pauses."""
        answers = iter([None, "the workers have gone"])
        told = self.silent(caplog, explain_silence=lambda: next(answers))
        assert "neither a result nor a failure has arrived" in told[2]
        assert sum("the workers have gone" in text for text in told[3:]) == 1

    def test_an_invoker_that_fails_when_it_is_asked(self, caplog):
        """An error of a program's own invoker is not a problem of the storage, and the rest is still logged."""
        told = self.silent(caplog, explain_silence=Mock(side_effect=RuntimeError("not now")))
        assert "neither a result nor a failure has arrived" in told[2]
        assert "not now" not in "".join(told)

    def test_of_a_dummy_executor(self, monkeypatch, caplog):
        """The calls of a dummy executor have not been run by the program."""
        monkeypatch.setattr(waiting, "SILENCE", 0.01)
        item = pywren.dummy_executor().call_async(abs, -1)
        with pytest.raises(WaitTimeoutError):
            item.result(1)
        assert "1 call is waiting to be run: call executor.invoker.run_jobs()" in caplog.text

    def test_results_break_it(self, caplog):
        """The minute counts from the last result."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        items = worker.futures(3)
        for number in range(2):
            now[0] += waiting.SILENCE - 1
            worker.returns(number, f"{number:05d}")
            worker.origin.examine()
        assert items[1].done()
        assert caplog.text == ""


class RecordingInvoker:
    """An invoker that keeps payloads, and refuses them when a test says so."""

    runs_here = True

    def __init__(self, refuse_after=None, payload_limit=None):
        self.payloads = []
        self.refuse_after = refuse_after
        if payload_limit is not None:
            self.payload_limit = payload_limit

    def invoke(self, payload):
        if self.refuse_after is not None and len(self.payloads) >= self.refuse_after:
            raise InvocationError("no such function", code="ResourceNotFoundException")
        self.payloads.append(json.loads(json.dumps(payload)))

    def config(self):
        return {"invoker": "recording"}


@pytest.mark.parametrize("wrong", [-3600, -300, 300, 3600])
def test_a_callset_is_submitted_by_the_clock_of_the_storage(monkeypatch, wrong):
    """Row 223: records are found, and calls are lost, at the right time, even when the client's clock is wrong."""
    executor = make(RecordingInvoker())
    executor.invoker.queue_patience = 100
    there = time.time() + wrong
    monkeypatch.setattr(executor.storage.backend, "now", lambda: there)
    (item,) = executor.map(abs, [1])
    assert item._origin.callset.submitted == there
    assert not item.done()
    there += 100 + executor.job_max_runtime + staged_calls.LOST_GRACE + 1
    assert type(item.exception(10)) is CallLostError


def make(invoker):
    return Executor(invoker, pywren.wrenconfig.default(), 300)


class TestStaging:
    """What is stored, and what the payload contains."""

    def test_small_arguments_travel_inside(self):
        """A map of small arguments stores one object: the function."""
        invoker = RecordingInvoker()
        executor = make(invoker)
        items = executor.map(abs, range(3))
        calls = [Call.decode(payload) for payload in invoker.payloads]
        assert sorted(call.call_id for call in calls) == [item.call_id for item in items]
        assert all(call.data_inline for call in calls)
        assert executor.storage.backend.list(executor.storage.prefix) == [calls[0].func_key]

    def test_middling_arguments_share_an_object(self):
        """Arguments that are too big for the payload share an object, with a range and a digest for each."""
        invoker = RecordingInvoker()
        executor = make(invoker)
        items = executor.map(len, [bytes([65 + n]) * 200_000 for n in range(3)])
        for call in (Call.decode(payload) for payload in invoker.payloads):
            piece = executor.storage.get(call.data_key, call.data_byte_range)
            assert call.data_key.endswith("aggdata.pickle")
            assert sha256(piece) == call.data_sha256
            assert len(pickle.loads(piece)) == 200_000
        del items

    def test_apart_when_asked(self):
        """``data_all_as_one=False`` stores every argument as a separate object, as in 0.4."""
        invoker = RecordingInvoker()
        executor = make(invoker)
        items = executor.map(abs, range(3), data_all_as_one=False)
        keys = [Call.decode(payload).data_key for payload in invoker.payloads]
        assert sorted(keys) == [executor.storage.keys(items[0].callset_id).call(i.call_id).data for i in items]

    def test_payload_members(self):
        """``extra_env`` is absent unless given, ``extra_meta`` adds members, and overwritten members win."""
        invoker = RecordingInvoker()
        executor = make(invoker)
        items = executor.map(abs, [1], extra_meta={"mine": 1}, overwrite_invoke_args={"func_key": "elsewhere"})
        (payload,) = invoker.payloads
        assert "extra_env" not in payload
        assert (payload["mine"], payload["func_key"]) == (1, "elsewhere")
        assert len(items) == 1

    def test_too_large_payload_is_refused_before_anything_is_invoked(self):
        """The error contains the figures, and no call has started."""
        invoker = RecordingInvoker(payload_limit=10_000)
        with pytest.raises(ArgumentError, match=r"10,000"):
            make(invoker).map(abs, range(3), extra_env={"BIG": "x" * 20_000})
        assert invoker.payloads == []

    def test_one_too_large_payload_among_others_is_refused_before_anything_is_invoked(self):
        """The order does not matter: arguments in the payload count, and those in their own object do not."""
        invoker = RecordingInvoker(payload_limit=1_000_000)
        apart, inside = b"x" * 200_000, b"y" * 120_000
        with pytest.raises(ArgumentError, match=r"call 00002 has 1,06\d,\d{3} bytes"):
            make(invoker).map(len, [apart, b"", inside, apart], extra_meta={"mine": "z" * 900_000})
        assert invoker.payloads == []

    def test_references_count(self):
        """Futures among a call's arguments count towards the size too."""
        invoker = RecordingInvoker(payload_limit=20_000)
        executor = make(invoker)
        with pywren.local_executor() as local:
            futures = local.map(abs, range(100))
            pywren.wait(futures)
        with pytest.raises(ArgumentError, match="call 00001"):
            executor.map(len, [[], futures, []])
        assert invoker.payloads == []

    def test_what_the_storage_does_not_take_is_refused_before_anything_is_stored(self):
        """Row 196: the error contains the figures and the remedy, and nothing has been uploaded."""
        assert S3Backend.object_limit == 5 * 1024**4
        executor = make(RecordingInvoker())
        storage = executor.storage
        storage.backend.object_limit = 100_000
        closure = b"x" * 100_001
        with pytest.raises(ArgumentError, match=r"the function.* has 100,\d{3} bytes.* is 100,000: split it"):
            executor.map(lambda _: len(closure), range(3))
        for together in (True, False):
            with pytest.raises(ArgumentError, match=r"argument 1 has 100,\d{3} bytes.* is 100,000: split it"):
                executor.map(len, [b"", closure, b""], data_all_as_one=together)
        assert storage.backend.list(storage.prefix) == []
        assert executor.invoker.payloads == []
        assert len(executor.map(len, [closure[:90_000]])) == 1

    def test_refused_invocation_is_raised_by_map(self, caplog):
        """map() raises the refusal, and the log says how many calls go on."""
        invoker = RecordingInvoker(refuse_after=2)
        with pytest.raises(InvocationError) as caught:
            make(invoker).map(abs, range(5), invoke_pool_threads=1)
        assert caught.value.code == "ResourceNotFoundException"
        assert "2 of 5 calls were invoked" in caplog.text

    def test_directory_goes_with_executor_and_futures(self):
        """On this machine, nothing is left of a callset once nobody can collect it."""
        executor = make(RecordingInvoker())
        storage = executor.storage
        items = executor.map(abs, range(3))
        del executor
        gc.collect()
        assert storage.backend.list(storage.prefix) != []
        del items
        assert becomes_empty(storage)

    def test_directory_of_pickled_futures_stays(self):
        """The directory is kept while another process may want the outcome."""
        executor = make(RecordingInvoker())
        storage = executor.storage
        items = executor.map(abs, range(3))
        pickle.dumps(items)
        del executor, items
        gc.collect()
        assert storage.backend.list(storage.prefix) != []


def becomes_empty(storage):
    """Wait until nothing is stored: the monitor may be polling the callset right now."""
    deadline = time.monotonic() + 20
    while storage.backend.list(storage.prefix) and time.monotonic() < deadline:
        gc.collect()
        threading.Event().wait(0.01)
    return storage.backend.list(storage.prefix) == []


def test_agg_data_ranges_are_inclusive():
    """0.4's static method returns the joined bytes, and the first and last offset of each piece."""
    joined, ranges = agg_data([b"abc", b"d", b"efgh"])
    assert (joined, ranges) == (b"abcdefgh", [(0, 2), (3, 3), (4, 7)])
    assert Executor.agg_data([b"abc"]) == (b"abc", [(0, 2)])
