"""``QueueWorker`` over a mocked SQS: rows 175 to 189 of the failure table."""

import json
import logging
import os
import signal
import sys
import threading
import time
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cloudpickle
import psutil
import pytest
from callees import first_time_for_ever

import pywren
import pywren.testing
from pywren.aws.requests import AWS
from pywren.client import waiting
from pywren.cloud.names import Names
from pywren.cloud.policies import instance_policy
from pywren.exceptions import (
    CallLostError,
    CallTimeoutError,
    DeploymentError,
    InvocationError,
    StorageError,
    VersionMismatchError,
    WaitTimeoutError,
)
from pywren.queues import LONGEST_RETENTION, SQSInvoker
from pywren.storage import Storage
from pywren.version import PYTHON
from pywren.wire.call import Call
from pywren.wire.cause import Cause
from pywren.wire.digests import sha256
from pywren.wire.function import StagedFunction
from pywren.wire.status import Status
from pywren.worker.handler import Container
from pywren.worker.standalone import ending, worker
from pywren.worker.standalone.ending import EndRule
from pywren.worker.standalone.worker import MOST_DELIVERIES, QueueWorker
from pywren.worker.task import RunResult, crash_failure

pytestmark = pytest.mark.moto

WAIT = 60.0


@pytest.fixture(scope="module")
def account():
    """Return the configuration of a mocked account."""
    with pywren.testing.mock_aws() as config:
        yield config


@pytest.fixture(scope="module")
def aws(account):
    """The mocked account."""
    with closing(AWS("us-west-2")) as made:
        yield made


@pytest.fixture
def config(account, aws):
    """Return a configuration with the test's own queue."""
    name = f"queue-{uuid.uuid4().hex[:8]}"
    aws.request("sqs", "create_queue", doing="make a queue", QueueName=name)
    return {**account, "standalone": {"sqs_queue_name": name}}


@pytest.fixture
def executor(config):
    """Return an executor whose calls go to the queue."""
    made = pywren.remote_executor(config)
    yield made
    made.close()
    made.invoker.close()
    made.storage.close()


@pytest.fixture
def queue(config, aws):
    """Return the queue, as seen from outside."""
    return Queue(aws, config["standalone"]["sqs_queue_name"])


class Queue:
    """A queue, as tests use it."""

    def __init__(self, aws, name):
        self.name = name
        self.aws = aws
        self.url = aws.queue_url(name)

    def send(self, *bodies):
        """Send messages: strings, or objects as JSON."""
        for body in bodies:
            self.aws.send_message(self.url, body if isinstance(body, str) else json.dumps(body))

    def deliver(self, times=1, visibility=0):
        """Deliver its message to a worker that disappears."""
        for _ in range(times):
            assert self.aws.receive(self.url, wait_seconds=0, visibility=visibility)

    @property
    def counts(self):
        """Return the numbers of waiting and of hidden messages."""
        names = "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"
        found = self.aws.queue_numbers(self.url, *names)
        return tuple(found[name] for name in names)

    def worker(self, container=None, aws=None, **settings):
        """Make a worker that takes as many calls as are in the queue now."""
        settings.setdefault("rule", EndRule(max_calls=sum(self.counts)))
        return QueueWorker(aws or self.aws, self.name, container, poll=1, **settings)

    def work(self, container=None, **settings):
        """Run a worker until it ends; return how many calls it took."""
        with self.worker(container, **settings) as worker:
            return worker.run()


class FakeContainer:
    """A container that handles calls as a test prescribes."""

    def __init__(self, handle=lambda payload: {}):
        self.handled = []
        self._handle = handle

    def handle(self, payload, context=None):
        """Handle a call."""
        self.handled.append(payload)
        return self._handle(payload)


class Unwilling(AWS):
    """AWS clients that refuse some requests, and record all requests and extensions."""

    def __init__(self, refusals=0, operations=("receive",), error=None):
        super().__init__("us-west-2")
        self.refusals = refusals
        self.operations = operations
        self.error = error or DeploymentError("SQS is not well")
        self.actions = set()
        self.hidden = []
        self.beats = threading.Condition()

    def _refuse(self, operation):
        if operation in self.operations and self.refusals > 0:
            self.refusals -= 1
            raise self.error

    def request(self, service, operation, **arguments):
        self.actions.add(f"{service}:{operation.title().replace('_', '')}")
        return super().request(service, operation, **arguments)

    def receive(self, *arguments, **settings):
        self._refuse("receive")
        return super().receive(*arguments, **settings)

    def delete_message(self, *arguments):
        self._refuse("delete")
        super().delete_message(*arguments)

    def extend_message(self, url, message, visibility):
        self._refuse("extend")
        super().extend_message(url, message, visibility)
        with self.beats:
            self.hidden.append((message.body, visibility))
            self.beats.notify_all()

    def wait_for_beats(self, bodies, times):
        """Wait until each message was hidden this many times."""
        with self.beats:
            counted = lambda: all(self.hidden.count((body, 60)) >= times for body in bodies)  # noqa: E731
            assert self.beats.wait_for(counted, WAIT)


@pytest.fixture
def unwilling():
    """Make AWS clients that refuse."""
    made = []

    def make(*arguments, **settings):
        made.append(Unwilling(*arguments, **settings))
        return made[-1]

    yield make
    for aws in made:
        aws.close()


@pytest.fixture
def soon(monkeypatch):
    """Make abandoned messages come back at once, and pauses short."""
    monkeypatch.setattr(worker, "VISIBILITY", 0)
    monkeypatch.setattr(ending, "LONGEST_PAUSE", 0.1)


def wait_until(true):
    """Wait until a condition holds."""
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- when it ends (rows 188, 189) ----------------------------------------------------------------------------


def test_after_its_time_a_worker_finishes_what_it_has(queue):
    """Row 189: running calls are finished, and the others stay in the queue."""
    now = [1000.0]

    def handle(payload):
        now[0] += 100
        return {}

    queue.send({}, {})
    assert queue.work(FakeContainer(handle), rule=EndRule(max_life_time=100), clock=lambda: now[0]) == 1
    assert queue.counts == (1, 0)


# -- taking calls --------------------------------------------------------------------------------------------


def test_calls_run_at_once(queue):
    """``parallelism`` calls run concurrently, even more than one request can receive."""
    barrier = threading.Barrier(12)
    queue.send(*({"call": number} for number in range(24)))
    container = FakeContainer(lambda payload: {"passed": barrier.wait(WAIT)})
    assert queue.work(container, parallelism=12) == 24
    assert sorted(payload["call"] for payload in container.handled) == list(range(24))
    assert queue.counts == (0, 0)


def test_results_of_a_map(executor, queue):
    """Values, errors and crashes of a map over the queue come back as from any other worker."""

    def function(number):
        if number == 2:
            sys.exit(3)
        return os.environ["OMP_NUM_THREADS"] if number == 1 else 10 // number

    futures = executor.map(function, range(4))
    queue.work(parallelism=2)
    assert futures[1].result(WAIT) == str(max(1, (os.cpu_count() or 1) // 2))
    assert futures[3].result(WAIT) == 3
    assert isinstance(futures[0].exception(WAIT), ZeroDivisionError)
    assert "non-zero return code" in str(futures[2].exception(WAIT))


def test_messages_under_work_stay_hidden(queue, unwilling):
    """Row 175: one thread keeps all messages hidden until their calls are done."""
    aws = unwilling()
    queue.send("1", "2")
    container = FakeContainer(lambda payload: aws.wait_for_beats(["1", "2"], 3))
    assert queue.work(container, aws=aws, parallelism=2, heartbeat=0.01) == 2
    assert queue.counts == (0, 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pywren-queue")]


def test_a_message_that_cannot_be_kept_is_worked_on(queue, unwilling, caplog):
    """A failing heartbeat is logged once per message, and retried."""
    aws = unwilling(3, operations=("extend",))
    queue.send("1")
    container = FakeContainer(lambda payload: aws.wait_for_beats(["1"], 1))
    assert queue.work(container, aws=aws, heartbeat=0.01) == 1
    assert caplog.text.count("cannot keep a message hidden from other workers: SQS is not well") == 1


def test_no_error_ends_the_heartbeat(queue, unwilling):
    """Row 175: even an unexpected error does not end it; otherwise every long call would go to a second worker."""
    aws = unwilling(1, operations=("extend",), error=OSError("too many open files"))
    queue.send("1", "2")
    container = FakeContainer(lambda payload: aws.wait_for_beats(["1", "2"], 2))
    assert queue.work(container, aws=aws, parallelism=2, heartbeat=0.01) == 2


def test_a_call_that_runs_longer_than_the_worker_allows(executor, queue):
    """A call that exceeds ``max_run_time`` ends like one that exceeds its own limit."""
    future = executor.call_async(lambda seconds: __import__("time").sleep(seconds), 600)
    assert queue.work(max_run_time=0.2) == 1
    with pytest.raises(CallTimeoutError, match=r"ran out of time.*--max_run_time"):
        future.result(WAIT)


# -- workers that end (rows 176 to 179) ----------------------------------------------------------------------


def test_a_call_whose_worker_vanished_is_taken_by_another(executor, queue):
    """Row 176: the message comes back when no heartbeat hides it."""
    future = executor.call_async(abs, -1)
    queue.deliver(visibility=1)
    assert queue.work() == 1
    assert future.result(WAIT) == 1


def test_a_call_that_nobody_finishes_is_given_up(executor, queue):
    """Row 177: after several failed workers the call is not run again, and its client gets an error."""
    future = executor.call_async(abs, -1)
    queue.deliver(MOST_DELIVERIES)
    assert queue.work() == 1
    with pytest.raises(CallLostError, match=rf"{MOST_DELIVERIES} workers .*--parallelism"):
        future.result(WAIT)
    assert queue.counts == (0, 0)


@pytest.mark.parametrize("by_systemd", [False, True])
def test_a_call_is_given_back_when_its_worker_is_ended(executor, queue, tmp_path, by_systemd):
    """Rows 178, 179: the call is killed and another worker takes it at once, even if the call gets the signal first."""
    future = executor.call_async(first_time_for_ever, str(tmp_path / "started"))
    with queue.worker(rule=EndRule()) as worker:
        thread = threading.Thread(target=worker.run)
        thread.start()
        wait_until((tmp_path / "started").exists)
        process = psutil.Process(int((tmp_path / "started").read_text()))
        if by_systemd:
            process.terminate()
        worker.stop()
        thread.join(WAIT)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert queue.counts == (1, 0)
    assert queue.work() == 1
    assert future.result(WAIT) == "by another worker"


def test_a_worker_does_not_take_back_what_it_gives_back(queue, unwilling, monkeypatch):
    """Row 178: a returned message stays hidden while this worker's own request could still receive it."""
    aws, asks, stopped, answered = unwilling(0), threading.Event(), threading.Event(), threading.Event()
    receive = aws.receive

    def receive_once(*arguments, **settings):
        monkeypatch.setattr(aws, "receive", receive_nothing)
        return receive(*arguments, **settings)

    def receive_nothing(*arguments, **settings):
        asks.set()
        assert answered.wait(WAIT)
        return []

    monkeypatch.setattr(aws, "receive", receive_once)
    queue.send("1")
    container = FakeContainer(lambda payload: stopped.wait(WAIT) and None)
    with QueueWorker(aws, queue.name, container, parallelism=2, poll=20) as worker:
        thread = threading.Thread(target=worker.run)
        thread.start()
        assert asks.wait(WAIT)
        worker.stop()
        stopped.set()
        wait_until(lambda: aws.hidden)
        answered.set()
        thread.join(WAIT)
    ((_, seconds),) = aws.hidden
    assert 1 <= seconds <= 20


def test_ctrl_c_does_not_wait_for_the_call(executor, queue, tmp_path):
    """Row 178: Ctrl-C in ``sqs_run_local`` stops the running calls at once."""
    executor.call_async(first_time_for_ever, str(tmp_path / "started"))

    def interrupt():
        wait_until((tmp_path / "started").exists)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        queue.work()
    thread.join()
    assert queue.counts == (1, 0)


# -- messages (rows 180, 181, 185, 186) ----------------------------------------------------------------------


@pytest.mark.parametrize("body", ["no JSON", "null", "[1]", '{"no": "call"}', '"' + "a" * 10, "[" * 100_000])
def test_a_message_that_is_no_call_is_dropped(queue, caplog, body):
    """Row 180: a message that is not a call is deleted with a warning; otherwise it would come back forever."""
    queue.send(body)
    assert queue.work() == 1
    assert "dropped a message that is not a call" in caplog.text
    assert queue.counts == (0, 0)


def test_a_call_that_cannot_be_handled_hurts_no_other(queue, caplog, soon):
    """After an unexpected error the message comes back, and the worker takes the next call."""
    answers = [RuntimeError("a bug"), {}, {}]

    def handle(payload):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    queue.send({"call": 1}, {"call": 2})
    assert queue.work(FakeContainer(handle), rule=EndRule(max_calls=3)) == 3
    assert "a bug" in caplog.text
    assert queue.counts == (0, 0)


def test_another_version_is_told_to_start_new_workers(executor, queue):
    """Row 181: the error has the remedy for stand-alone workers."""
    (future,) = executor.map(abs, [1], overwrite_invoke_args={"pywren_version": "0.4"})
    assert queue.work() == 1
    with pytest.raises(VersionMismatchError, match="pywren standalone launch_instances"):
        future.result(WAIT)


def test_a_call_that_was_cancelled_is_not_run(executor, queue, tmp_path):
    """Row 185: a late call checks for a status before it starts."""
    future = executor.call_async(first_time_for_ever, str(tmp_path / "started"))
    assert future.cancel()
    with Container(clock=lambda: time.time() + 10) as container:
        assert queue.work(container) == 1
    assert not (tmp_path / "started").exists()
    assert queue.counts == (0, 0)


def test_a_message_that_cannot_be_deleted_is_not_run_again(executor, queue, unwilling, tmp_path, caplog, soon):
    """Row 186: the message comes back, but its call already has a status and is not run."""

    def function(path):
        Path(path).touch(exist_ok=False)
        return "once"

    future = executor.call_async(function, str(tmp_path / "run"))
    with Container(clock=lambda: time.time() + 10) as container:
        assert queue.work(container, aws=unwilling(1, ("delete",)), rule=EndRule(max_calls=2)) == 2
    assert future.result(WAIT) == "once"
    assert "SQS is not well" in caplog.text
    assert queue.counts == (0, 0)


# -- errors of SQS and S3 (rows 182 to 184) ------------------------------------------------------------------


def test_a_status_that_was_refused_is_tried_again(queue, caplog, soon):
    """Row 182: if no status was written, the call's message comes back."""
    answers = [StorageError("the bucket is not well"), {}]

    def handle(payload):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    queue.send({})
    assert queue.work(FakeContainer(handle), rule=EndRule(max_calls=2)) == 2
    assert "the bucket is not well" in caplog.text
    assert queue.counts == (0, 0)


def staged_call(tmp_path, **changes):
    """Return a storage, and a call of ``abs`` that is staged in it."""
    config = {"storage_backend": "localhost", "storage_prefix": "jobs", "backend_config": {"root": str(tmp_path)}}
    storage = Storage(config)
    keys = storage.keys("callset")
    staged = StagedFunction(cloudpickle.dumps(abs)).encode()
    storage.put(keys.func, staged)
    one = keys.call("00000")
    call = Call(
        storage_config=config,
        callset_id="callset",
        call_id="00000",
        func_key=keys.func,
        data_key=one.data,
        output_key=one.output,
        status_key=one.status,
        cancel_key=one.cancel,
        job_max_runtime=60,
        pywren_version=pywren.__version__,
        python_version=PYTHON,
        host_submit_time=time.time(),
        func_sha256=sha256(staged),
        data_inline=cloudpickle.dumps(-1),
        attempt_key=b"k" * 32,
        retryable=True,
    )
    return storage, replace(call, **changes)


class DyingRunner:
    """A runner whose processes are killed from outside."""

    def run(self, task, *, stopped=None):
        """Report the death of the process."""
        return RunResult(None, None, failure=crash_failure(None), returncode=None)

    def end_waiting(self):
        """Do nothing."""

    def close(self):
        """Do nothing."""


def test_a_failure_that_may_be_cured_is_left_to_the_driver(queue, tmp_path):
    """The message is deleted: the client sees the failed attempt and sends the call again, with the next number."""
    storage, call = staged_call(tmp_path, attempt=2)
    queue.send(call.encode())
    with Container(DyingRunner()) as container:
        assert queue.work(container) == 1
    assert queue.counts == (0, 0)
    assert storage.look("callset") == ([], [("00000", 2)], {}, [])
    status = Status.decode(storage.read_attempt("callset", "00000", 2))
    assert status.failure.cause is Cause.KILLED


def test_a_failure_that_cannot_be_written_brings_the_message_back(queue, tmp_path, soon):
    """Somebody is always responsible: without the failed attempt in the storage, the client would not know of it."""

    class FullStorage(Storage):
        def put(self, key, data, **options):
            raise StorageError("no space left on device")

    storage, call = staged_call(tmp_path)
    queue.send(call.encode())
    with Container(DyingRunner(), make_storage=FullStorage) as container:
        assert queue.work(container) == 1
    assert sum(queue.counts) == 1
    assert storage.look("callset") == ([], [], {}, [])


def test_a_client_that_does_not_try_again_gets_an_error(queue, tmp_path):
    """A payload that does not ask for it gets a status that ends the call."""
    storage, call = staged_call(tmp_path, retryable=False)
    queue.send(call.encode())
    with Container(DyingRunner()) as container:
        queue.work(container)
    assert queue.counts == (0, 0)
    assert storage.look("callset") == (["00000"], [], {}, [])


def test_what_five_workers_did_not_finish_ends_for_good(queue, tmp_path):
    """Also a call that may be tried again: the driver's next attempt would take five more workers."""
    storage, call = staged_call(tmp_path, retry_exceptions=True)
    queue.send(call.encode())
    queue.deliver(MOST_DELIVERIES)
    with Container(DyingRunner()) as container:
        queue.work(container)
    assert queue.counts == (0, 0)
    assert storage.look("callset") == (["00000"], [], {}, [])


def test_trouble_is_waited_out(queue, unwilling, caplog, soon):
    """Row 183: each refusal is logged, and the call is taken in the end."""
    queue.send({})
    assert queue.work(FakeContainer(), aws=unwilling(3)) == 1
    assert caplog.text.count("SQS is not well") == 3


def test_a_worker_in_trouble_is_idle(queue, unwilling, soon):
    """Row 183: a worker that cannot take calls still ends by its idle rule."""
    assert queue.work(FakeContainer(), aws=unwilling(10**6), rule=EndRule(max_idle_time=0.3)) == 0


def test_what_sqs_refuses_from_the_start_ends_the_worker(queue, unwilling, monkeypatch, soon):
    """Row 183: the worker ends with SQS's error."""
    monkeypatch.setattr(worker, "FIRST_PATIENCE", 0.1)
    with pytest.raises(DeploymentError, match="SQS is not well"):
        queue.work(FakeContainer(), aws=unwilling(10**6), rule=EndRule())


def test_a_worker_asks_for_what_instances_may_do(queue, unwilling, account):
    """The instance profile's policy allows exactly the worker's requests to SQS."""
    aws = unwilling()
    queue.send({"call": "done"}, {"call": "given back"})
    container = FakeContainer(lambda payload: {} if len(container.handled) == 1 else worker.stop())
    with queue.worker(container, aws=aws) as worker:
        worker.run()
    assert queue.counts == (1, 0)
    taking = [one for one in instance_policy(Names.of(account, "1" * 12))["Statement"] if one["Sid"] == "TakeCalls"]
    assert aws.actions == set(taking[0]["Action"])


def test_a_missing_queue_is_named(queue):
    """Row 184: a missing queue is an error with the remedy, at once."""
    with QueueWorker(queue.aws, "no-such-queue") as worker, pytest.raises(InvocationError, match=r"create_queue"):
        worker.run()


def test_a_queue_that_is_deleted_ends_the_worker(queue):
    """Row 184: running calls finish first."""
    finished = []

    def handle(payload):
        queue.aws.request("sqs", "delete_queue", doing="delete", QueueUrl=queue.url)
        finished.append(payload)
        return {}

    queue.send({})
    with pytest.raises(DeploymentError, match="create_queue"):
        queue.work(FakeContainer(handle), rule=EndRule())
    assert finished


# -- the client's side (row 187) -----------------------------------------------------------------------------


def test_a_client_is_told_that_no_worker_takes_its_calls(executor, caplog, monkeypatch):
    """Row 187: the client warns once, with the command that starts workers; the calls go on waiting."""
    monkeypatch.setattr(waiting, "SILENCE", 0.01)
    futures = executor.map(abs, range(3))
    with caplog.at_level(logging.WARNING), pytest.raises(WaitTimeoutError):
        futures[0].result(0.5)
    (told,) = [record for record in caplog.records if "launch_instances" in record.getMessage()]
    assert f"the queue {executor.invoker.sqs_queue_name} (waiting calls: 3)" in told.getMessage()


def test_a_client_is_told_nothing_while_a_worker_has_calls(executor, queue):
    """Row 187: a hidden message means that a worker is busy; an empty queue means nothing."""
    executor.map(abs, range(2))
    assert "(waiting calls: 2)" in executor.invoker.explain_silence()
    queue.deliver(visibility=60)
    assert executor.invoker.explain_silence() is None
    queue.aws.request("sqs", "purge_queue", doing="purge", QueueUrl=queue.url)
    assert executor.invoker.explain_silence() is None


def test_calls_are_lost_when_the_queue_no_longer_keeps_them(executor, queue):
    """Row 187: the client asks for the queue's retention once."""
    future = executor.call_async(abs, 1)
    callset = future._origin.callset
    days = 4 * 86_400
    assert executor.invoker.queue_patience == days
    assert callset.lost_after(grace=0) == callset.submitted + days + executor.job_max_runtime
    queue.aws.request(
        "sqs",
        "set_queue_attributes",
        doing="change",
        QueueUrl=queue.url,
        Attributes={"MessageRetentionPeriod": "60"},
    )
    assert executor.invoker.queue_patience == days
    other = SQSInvoker("us-west-2", queue.name)
    assert other.queue_patience == 60
    other.close()


def test_who_may_not_ask_waits_for_the_longest(queue):
    """Row 187: without permission to ask, the client assumes SQS's longest retention."""

    class Refusing(AWS):
        def queue_numbers(self, *arguments):
            raise DeploymentError("not allowed")

    invoker = SQSInvoker("us-west-2", queue.name, aws=Refusing("us-west-2"))
    assert invoker.queue_patience == LONGEST_RETENTION
    assert invoker.explain_silence() is None
    invoker.close()
