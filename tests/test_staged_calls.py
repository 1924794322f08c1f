"""Tests of calls that go through a storage: what is believed, what is fetched when, and how a call ends."""

from __future__ import annotations

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
from pywren import _staged_calls
from pywren._callbacks import callbacks
from pywren._callset import Callset
from pywren._failure import Failure
from pywren._integrity import sha256
from pywren._monitor import Monitor
from pywren._staged_calls import StagedCallset, attach
from pywren._staging import agg_data
from pywren._wire import EAGER_OUTPUT_LIMIT, Call, Outcome, Status
from pywren.exceptions import (
    ArgumentError,
    CallCancelledError,
    CallLostError,
    IntegrityError,
    InvocationError,
    StorageError,
    WaitTimeoutError,
)
from pywren.executor import Executor
from pywren.storage import Storage
from pywren.storage.s3_backend import S3Backend


class Worker:
    """Writes what a worker would write, for the calls of one callset."""

    def __init__(self, queue_patience=None, clock=time.time):
        self.storage = Storage(pywren.wrenconfig.extract_storage_config(pywren.wrenconfig.default()))
        self.callset = Callset(self.storage.prefix, job_max_runtime=10, queue_patience=queue_patience)
        self.origin = StagedCallset(self.callset, self.storage, Monitor(), clock=clock)

    def futures(self, count=1):
        return self.origin.add(f"{number:05d}" for number in range(count))

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
    """An object that leaves a mark when somebody unpickles it."""

    def __reduce__(self):
        return pytest.fail, ("unverified bytes were unpickled",)


def test_result_inside_the_status():
    """A small outcome is taken from the status."""
    worker = Worker()
    (item,) = worker.futures()
    worker.returns(41)
    assert item.result(10) == 41
    assert item.run_status["attempt"] == 1


def test_many_calls_in_any_order():
    """Outcomes of many calls are found whatever the order in which they appear."""
    worker = Worker()
    items = worker.futures(50)
    for number in (*range(49, 24, -1), *range(25)):
        worker.returns(number * 2, f"{number:05d}")
    assert pywren.get_all_results(items) == [number * 2 for number in range(50)]


def test_outcome_is_noticed_soon_after_its_commit():
    """A result committed while somebody waits arrives without a fixed sleep."""
    worker = Worker()
    (item,) = worker.futures()
    with pytest.raises(WaitTimeoutError):
        item.result(0.05)
    worker.returns("now")
    started = time.monotonic()
    assert item.result(10) == "now"
    assert time.monotonic() - started < 2


class TestBigOutputs:
    """Outputs beyond the eager limit."""

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
        """Until somebody asks, the output stays where it is, and nothing looks for it any more."""
        worker = Worker()
        (item,) = worker.futures()
        key = worker.returns_apart(b"x" * (EAGER_OUTPUT_LIMIT + 1))
        assert worker.origin.examine() is None
        worker.storage.backend.delete([key])
        with pytest.raises(StorageError):
            item.result(10)

    def test_small_ones_are_fetched_at_once(self):
        """An output of its own that is small is there with the status."""
        worker = Worker()
        (item,) = worker.futures()
        key = worker.returns_apart("small")
        worker.origin.examine()
        worker.storage.backend.delete([key])
        assert item.result(10) == "small"


class TestIntegrity:
    """Nothing is unpickled unverified."""

    def evil(self):
        return Outcome(True, pickle.dumps(Explosive())).encode()

    def test_unsigned_status_is_never_a_value(self):
        """A status without a signature gives an error, and its outcome is not unpickled."""
        worker = Worker()
        (item,) = worker.futures()
        worker.write(worker.status(outcome=self.evil()).encode(None))
        with pytest.raises(IntegrityError, match="not signed"):
            item.result(10)

    def test_status_signed_with_another_key(self):
        """Who can write to the bucket but does not know the key cannot make a value."""
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
        """So is one of another map."""
        worker, other = Worker(), Worker()
        (item,) = worker.futures()
        status = other.status(outcome=Outcome(True, pickle.dumps(1)).encode())
        worker.write(status.encode(other.callset.attempt_key("00000", 1)))
        with pytest.raises(IntegrityError):
            item.result(10)

    def test_altered_output(self):
        """An output that was exchanged after its status was signed is not unpickled."""
        worker = Worker()
        (item,) = worker.futures()
        key = worker.returns_apart("genuine")
        worker.storage.put(key, self.evil())
        with pytest.raises(IntegrityError, match="SHA-256"):
            item.result(10)

    def test_garbage(self):
        """Bytes that are no status end the future with an error."""
        worker = Worker()
        (item,) = worker.futures()
        worker.write(b"\x80garbage")
        with pytest.raises(IntegrityError):
            item.result(10)

    def test_unsigned_failure_is_an_error_of_its_kind(self):
        """0.4's put_cancelled, and a worker that could not read its payload, can still end a call."""
        worker = Worker()
        (item,) = worker.futures()
        worker.storage.put_cancelled(worker.callset.call_keys("00000").cancel)
        with pytest.raises(CallCancelledError, match="cancelled"):
            item.result(10)
        assert item.cancelled()

    def test_invoke_status_carries_no_key(self):
        """What a program prints of a future holds neither the key nor anything derived from it."""
        executor = pywren.dummy_executor()
        item = executor.call_async(abs, -1)
        key = executor.invoker.payloads[0]["attempt_key"]
        executor.invoker.run_jobs()
        assert item.result(10) == 1
        assert key not in json.dumps(item.invoke_status) + json.dumps(item.run_status)


class TestOneWayToEnd:
    """Whoever writes the status first has ended the call."""

    def test_cancel_wins_when_first(self):
        """A cancelled call stays cancelled, though its worker goes on to write."""
        worker = Worker()
        (item,) = worker.futures()
        assert item.cancel()
        worker.returns("too late")
        with pytest.raises(CallCancelledError):
            item.result(10)

    def test_cancel_loses_when_second(self):
        """A call that had ended unseen is not cancelled, and its result is adopted."""
        worker = Worker()
        (item,) = worker.futures()
        worker.returns("first")
        assert not item.cancel()
        assert item.result(10) == "first"

    def test_second_commit_is_refused(self):
        """AWS may deliver a call twice: its first outcome counts."""
        worker = Worker()
        (item,) = worker.futures()
        worker.returns("first")
        worker.returns("second")
        assert item.result(10) == "first"


class TestLost:
    """A call that leaves no status does not keep its client waiting for ever."""

    def test_lost_after_queue_patience_runtime_and_grace(self):
        """The call is declared lost when it can no longer start and end in time, not before."""
        now = [time.time()]
        worker = Worker(queue_patience=100, clock=lambda: now[0])
        (item,) = worker.futures()
        now[0] = worker.callset.submitted + 100 + 10 + _staged_calls.LOST_GRACE - 1
        assert not item.done()
        now[0] += 2
        with pytest.raises(CallLostError, match="never started"):
            item.result(10)

    def test_a_status_that_is_there_is_never_lost(self):
        """However late the client looks, an outcome that stands is taken."""
        now = [time.time()]
        worker = Worker(queue_patience=100, clock=lambda: now[0])
        (item,) = worker.futures()
        worker.returns("there")
        now[0] += 1_000_000
        assert item.result(10) == "there"

    def test_without_patience_nothing_is_lost(self):
        """The calls of a dummy executor wait for ever."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        (item,) = worker.futures()
        now[0] += 1e9
        assert not item.done()


class TestStorageTrouble:
    """A storage that fails while results are awaited."""

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

    def test_passes(self, caplog):
        """A short outage is logged once and does not reach the caller."""
        worker = Worker()
        worker.origin.storage = self.Failing(worker.storage)
        (item,) = worker.futures()
        assert not item.done()
        worker.origin.storage.failing = False
        worker.returns("after all")
        assert item.result(10) == "after all"
        assert caplog.text.count("out of reach") == 1

    def test_ends_the_futures_in_the_end(self):
        """A storage that stays away gives its own error, instead of waiting for ever."""
        now = [time.time()]
        worker = Worker(clock=lambda: now[0])
        worker.origin.storage = self.Failing(worker.storage)
        (item,) = worker.futures()
        assert not item.done()
        now[0] += _staged_calls.STORAGE_PATIENCE + 1
        with pytest.raises(StorageError, match="out of reach"):
            item.result(10)


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
        """Futures of one map that are unpickled together are looked after together."""
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

    def test_client_that_has_ended(self, tmp_path):
        """A call that ran in its client's process is lost when that is gone, not waited for."""
        worker = Worker()
        (tmp_path / "client").touch()
        item = attach("00000", worker.callset, worker.storage, str(tmp_path / "client"))
        with pytest.raises(CallLostError, match="has ended"):
            item.result(10)


def test_forgotten_futures_are_not_looked_for():
    """A program that drops its futures is not made to poll for them."""
    worker = Worker()
    items = worker.futures(3)
    assert worker.origin.examine() is not None
    del items
    gc.collect()
    assert worker.origin.examine() is None


def test_awaited_futures_are_kept():
    """A future with a callback is settled though nobody holds it."""
    worker = Worker()
    seen = []
    worker.futures()[0].add_done_callback(lambda done: seen.append(done.result()))
    gc.collect()
    worker.returns("called back")
    worker.origin.examine()
    assert callbacks.finish(30) == 0
    assert seen == ["called back"]


def _collect_in_child(item, answers):
    answers.put(item.result(30))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_after_fork_the_child_looks_itself():
    """A forked process collects staged calls with a monitor of its own, whatever the parent's was doing."""
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
    """What the parent's monitor held when the process was forked holds up nobody in the child."""
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
    """Takes its time to be unpickled, in this process: between two events."""

    events = threading.Event(), threading.Event()

    def __reduce__(self):
        return _load_slowly, ()


def _load_slowly():
    loading, go_on = LoadsSlowly.events
    loading.set()
    assert go_on.wait(10)
    return "loaded"


def test_a_result_that_holds_a_future_while_another_is_unpickled():
    """A thread that unpickles a future of a callset does not stand in the way of that callset's results."""
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


def test_an_error_that_nobody_foresaw_ends_the_wait(monkeypatch):
    """When looking fails with what is none of our errors, again and again, the futures end with it."""
    now = [1000.0]
    worker = Worker(clock=lambda: now[0])
    (item,) = worker.futures()
    monkeypatch.setattr(worker.storage, "read_status", Mock(side_effect=MemoryError("full")))
    worker.origin.examine()
    now[0] += 2 * _staged_calls.STORAGE_PATIENCE
    worker.origin.examine()
    with pytest.raises(StorageError, match="MemoryError: full"):
        item.result(10)


class RecordingInvoker:
    """An invoker that keeps payloads, and refuses when it is told to."""

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


def make(invoker):
    return Executor(invoker, pywren.wrenconfig.default(), 300)


class TestStaging:
    """What is stored and what the payload says."""

    def test_small_arguments_travel_inside(self):
        """One object is stored for a map of small arguments: the function."""
        invoker = RecordingInvoker()
        executor = make(invoker)
        items = executor.map(abs, range(3))
        calls = [Call.decode(payload) for payload in invoker.payloads]
        assert sorted(call.call_id for call in calls) == [item.call_id for item in items]
        assert all(call.data_inline for call in calls)
        assert executor.storage.backend.list(executor.storage.prefix) == [calls[0].func_key]

    def test_middling_arguments_share_an_object(self):
        """Arguments too big for the payload are joined, with a range and a digest each."""
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
        """``data_all_as_one=False`` gives every argument an object of its own, as in 0.4."""
        invoker = RecordingInvoker()
        executor = make(invoker)
        items = executor.map(abs, range(3), data_all_as_one=False)
        keys = [Call.decode(payload).data_key for payload in invoker.payloads]
        assert sorted(keys) == [executor.storage.keys(items[0].callset_id).call(i.call_id).data for i in items]

    def test_payload_members(self):
        """``extra_env`` is absent unless given, ``extra_meta`` stands beside, overwritten members come last."""
        invoker = RecordingInvoker()
        executor = make(invoker)
        items = executor.map(abs, [1], extra_meta={"mine": 1}, overwrite_invoke_args={"func_key": "elsewhere"})
        (payload,) = invoker.payloads
        assert "extra_env" not in payload
        assert (payload["mine"], payload["func_key"]) == (1, "elsewhere")
        assert len(items) == 1

    def test_too_large_payload_is_refused_before_anything_is_invoked(self):
        """The figures are in the error, and no call was started."""
        invoker = RecordingInvoker(payload_limit=10_000)
        with pytest.raises(ArgumentError, match=r"10,000"):
            make(invoker).map(abs, range(3), extra_env={"BIG": "x" * 20_000})
        assert invoker.payloads == []

    def test_one_too_large_payload_among_others_is_refused_before_anything_is_invoked(self):
        """Whatever the order: arguments inside the payload count, those in an object of their own do not."""
        invoker = RecordingInvoker(payload_limit=1_000_000)
        apart, inside = b"x" * 200_000, b"y" * 120_000
        with pytest.raises(ArgumentError, match=r"call 00002 has 1,06\d,\d{3} bytes"):
            make(invoker).map(len, [apart, b"", inside, apart], extra_meta={"mine": "z" * 900_000})
        assert invoker.payloads == []

    def test_references_count(self):
        """So do futures among the arguments of one call."""
        invoker = RecordingInvoker(payload_limit=20_000)
        executor = make(invoker)
        with pywren.local_executor() as local:
            futures = local.map(abs, range(100))
            pywren.wait(futures)
        with pytest.raises(ArgumentError, match="call 00001"):
            executor.map(len, [[], futures, []])
        assert invoker.payloads == []

    def test_what_the_storage_does_not_take_is_refused_before_anything_is_stored(self):
        """Row 196: the figures and the remedy are in the error, and nothing was uploaded in vain."""
        assert S3Backend.object_limit == 5 * 1024**3
        executor = make(RecordingInvoker())
        storage = executor.storage
        storage.backend.object_limit = 100_000
        closure = b"x" * 100_001
        with pytest.raises(ArgumentError, match=r"the function.* has 100,\d{3} bytes.*100,000 at once: split it"):
            executor.map(lambda _: len(closure), range(3))
        for together in (True, False):
            with pytest.raises(ArgumentError, match=r"argument 1 has 100,\d{3} bytes.*100,000 at once: split it"):
                executor.map(len, [b"", closure, b""], data_all_as_one=together)
        assert storage.backend.list(storage.prefix) == []
        assert executor.invoker.payloads == []
        assert len(executor.map(len, [closure[:90_000]])) == 1

    def test_refused_invocation_is_raised_by_map(self, caplog):
        """The refusal comes out of map, and a line says how many calls run."""
        invoker = RecordingInvoker(refuse_after=2)
        with pytest.raises(InvocationError) as caught:
            make(invoker).map(abs, range(5), invoke_pool_threads=1)
        assert caught.value.code == "ResourceNotFoundException"
        assert "2 of 5 calls were invoked" in caplog.text

    def test_directory_goes_with_executor_and_futures(self):
        """On this machine nothing stays of a callset that nobody can collect any more."""
        executor = make(RecordingInvoker())
        storage = executor.storage
        items = executor.map(abs, range(3))
        del executor
        gc.collect()
        assert storage.backend.list(storage.prefix) != []
        del items
        assert becomes_empty(storage)

    def test_directory_of_pickled_futures_stays(self):
        """Another process may want the outcome."""
        executor = make(RecordingInvoker())
        storage = executor.storage
        items = executor.map(abs, range(3))
        pickle.dumps(items)
        del executor, items
        gc.collect()
        assert storage.backend.list(storage.prefix) != []


def becomes_empty(storage):
    """Wait until nothing is stored: the monitor may be looking at the callset at this very moment."""
    deadline = time.monotonic() + 20
    while storage.backend.list(storage.prefix) and time.monotonic() < deadline:
        gc.collect()
        threading.Event().wait(0.01)
    return storage.backend.list(storage.prefix) == []


def test_agg_data_ranges_are_inclusive():
    """0.4's static method: the joined bytes, and first and last offset of each piece."""
    joined, ranges = agg_data([b"abc", b"d", b"efgh"])
    assert (joined, ranges) == (b"abcdefgh", [(0, 2), (3, 3), (4, 7)])
    assert Executor.agg_data([b"abc"]) == (b"abc", [(0, 2)])
