"""Invokers: what they send, what they refuse, and what they run."""

import json
import os
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import Mock

import botocore.session
import pytest
from botocore.stub import Stubber
from child_processes import run_script

import pywren
import pywren.testing
from pywren.aws.requests import AWS
from pywren.exceptions import ArgumentError, DecodeError, InvocationError, InvocationThrottledError
from pywren.invokers import DummyInvoker, LambdaInvoker, LocalInvoker
from pywren.local import dummy_handler, local_handler, run_generic_handler
from pywren.storage import Storage
from pywren.system.threads import for_each
from pywren.version import __version__
from pywren.wire import digests
from pywren.wire.call import ASYNC_PAYLOAD_LIMIT, Call
from pywren.wire.cause import Cause
from pywren.wire.function import StagedFunction
from pywren.wire.keys import CallsetKeys
from pywren.wire.outcome import Outcome
from pywren.wire.status import Status
from pywren.worker.handler import Container

SECRET = b"s" * 32
WAIT = 30.0


# -- Lambda --------------------------------------------------------------------------------------------------


@pytest.fixture
def stubbed():
    """Return a Lambda invoker that sends nothing, and the stub of its client."""
    session = botocore.session.Session()
    session.set_credentials("key", "secret")
    aws = AWS("us-west-2", session=session, sleep=lambda seconds: None)
    invoker = LambdaInvoker("us-west-2", "pywren_1", aws=aws)
    with Stubber(invoker.lambclient) as stub:
        yield invoker, stub
        stub.assert_no_pending_responses()
    invoker.close()


def accept(stub, payload, status=202):
    """Expect one asynchronous invocation."""
    stub.add_response(
        "invoke",
        {"StatusCode": status, "ResponseMetadata": {"RequestId": "r-1"}},
        {"FunctionName": "pywren_1", "InvocationType": "Event", "Payload": payload},
    )


def test_lambda_gets_compact_json(stubbed):
    """A call is one asynchronous invocation, with the payload as compact JSON."""
    invoker, stub = stubbed
    accept(stub, b'{"call_id":"00000","text":"\\u00e4"}')
    assert invoker.invoke({"call_id": "00000", "text": "ä"}) == "r-1"


@pytest.mark.parametrize("code", ["TooManyRequestsException", "ServiceException"])
def test_a_busy_service_is_reported_as_such(stubbed, code):
    """The driver offers the call again later; the invoker does not wait."""
    invoker, stub = stubbed
    stub.add_client_error("invoke", code, http_status_code=429 if code.startswith("Too") else 500)
    with pytest.raises(InvocationThrottledError):
        invoker.invoke({})


@pytest.mark.parametrize(
    ("code", "words"),
    [("ResourceNotFoundException", "pywren deploy_lambda"), ("AccessDeniedException", "lambda:InvokeFunction")],
)
def test_a_refusal_says_what_to_do(stubbed, code, words):
    """If the function is missing or may not be invoked, the error has a code and the remedy."""
    invoker, stub = stubbed
    stub.add_client_error("invoke", code, http_status_code=404)
    with pytest.raises(InvocationError, match=words) as caught:
        invoker.invoke({})
    assert caught.value.code == code


def test_the_response_is_looked_at(stubbed):
    """Any status but 202 is a refusal."""
    invoker, stub = stubbed
    accept(stub, b"{}", status=200)
    with pytest.raises(InvocationError, match="202"):
        invoker.invoke({})


@pytest.fixture
def endpoint(monkeypatch):
    """Run a Lambda that accepts everything; it counts connections and requests, and can delay answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            super().setup()
            server.connections.append(self.client_address)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            server.agents.add(self.headers["User-Agent"])
            if server.crowd is not None:
                server.crowd.wait(WAIT)
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    server.connections, server.agents, server.crowd = [], set(), None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_calls_use_a_connection_again(endpoint):
    """A connection, which takes several round trips to make, is used for one call after the other."""
    invoker = LambdaInvoker("us-west-2", "pywren_1")
    for number in range(5):
        invoker.invoke({"call_id": number})
    assert len(endpoint.connections) == 1
    assert endpoint.agents == {f"pywren/{__version__}"}
    invoker.close()


def test_many_threads_have_a_connection_each(endpoint, caplog):
    """No connection is thrown away: each is used for the next call, and no warning is logged."""
    threads = 100
    invoker = LambdaInvoker("us-west-2", "pywren_1")
    for _ in range(2):
        endpoint.crowd = threading.Barrier(threads)  # all requests are concurrent
        for_each(invoker.invoke, [{"call_id": number} for number in range(threads)], threads)
    assert len(endpoint.connections) == threads
    assert caplog.records == []
    invoker.close()


def test_a_payload_over_the_limit_is_refused_with_the_figures(stubbed):
    """A payload that Lambda would refuse is not sent."""
    invoker, _ = stubbed
    assert invoker.payload_limit == ASYNC_PAYLOAD_LIMIT
    with pytest.raises(ArgumentError, match=r"1,000,0\d\d bytes.*1,000,000") as caught:
        invoker.invoke({"x": "a" * ASYNC_PAYLOAD_LIMIT})
    assert "extra_meta" in str(caught.value)


def test_a_payload_that_is_no_json_is_refused(stubbed):
    """``extra_meta`` must be valid JSON."""
    invoker, _ = stubbed
    with pytest.raises(ArgumentError, match="extra_meta"):
        invoker.invoke({"x": object()})


def test_the_configs_are_those_of_0_4(stubbed):
    """``invoke_status`` contains these members."""
    assert stubbed[0].config() == {"lambda_function_name": "pywren_1", "region_name": "us-west-2"}
    assert DummyInvoker().config() == {}
    assert LocalInvoker().config() == {}
    assert (LambdaInvoker.TIME_LIMIT, DummyInvoker.TIME_LIMIT, LocalInvoker.TIME_LIMIT) == (True, False, False)


# -- this machine --------------------------------------------------------------------------------------------


class Client:
    """A client that stages calls of one function."""

    def __init__(self, root, function):
        import cloudpickle

        self.storage = Storage(
            {"storage_backend": "localhost", "storage_prefix": "jobs", "backend_config": {"root": str(root)}}
        )
        self.keys = CallsetKeys("jobs", "callset")
        self.staged = StagedFunction(cloudpickle.dumps(function)).encode()
        self.storage.put(self.keys.func, self.staged)

    def payload(self, index, argument):
        import sys

        import cloudpickle

        call_id = f"{index:05d}"
        keys = self.keys.call(call_id)
        return Call(
            storage_config=self.storage.storage_config,
            callset_id="callset",
            call_id=call_id,
            func_key=self.keys.func,
            data_key=keys.data,
            output_key=keys.output,
            status_key=keys.status,
            cancel_key=keys.cancel,
            job_max_runtime=60,
            pywren_version=__version__,
            python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
            host_submit_time=time.time(),
            func_sha256=digests.sha256(self.staged),
            data_inline=cloudpickle.dumps(argument),
            attempt_key=digests.attempt_key(SECRET, call_id, 1),
        ).encode()

    def results(self):
        import cloudpickle

        found = {}
        for call_id in self.storage.finished_calls("callset"):
            status = Status.verify(self.storage.read_status("callset", call_id), SECRET, "callset", call_id)
            assert status.signed
            assert status.failure is None, status.failure
            found[int(call_id)] = cloudpickle.loads(Outcome.decode(status.outcome).body)
        return found


@pytest.fixture
def squares(tmp_path):
    """Return a client that squares numbers."""
    return Client(tmp_path / "store", lambda x: x * x)


def test_the_dummy_keeps_calls_until_they_are_run(squares):
    """Nothing runs before ``run_jobs``, which runs as many calls as requested."""
    invoker = DummyInvoker()
    for index in range(5):
        invoker.invoke(squares.payload(index, index))
    assert len(invoker.payloads) == 5
    assert squares.results() == {}
    invoker.run_jobs(MAXJOBS=2)
    assert len(invoker.payloads) == 3
    assert squares.results() == {0: 0, 1: 1}
    invoker.run_jobs()
    assert invoker.payloads == []
    assert squares.results() == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}


def test_the_dummy_runs_in_a_thread(tmp_path):
    """``run_jobs_threaded`` returns while a call runs, which can then be cancelled; ``thread`` ends with it."""
    started, go_on = tmp_path / "started", tmp_path / "go_on"
    os.mkfifo(started)
    os.mkfifo(go_on)

    def wait(argument):
        names = argument
        with open(names[0], "w"):
            pass
        with open(names[1]):
            return "went on"

    client = Client(tmp_path / "store", wait)
    invoker = DummyInvoker()
    for index in range(2):
        invoker.invoke(client.payload(index, (str(started), str(go_on))))
    assert invoker.thread is None
    invoker.run_jobs_threaded(1, str(tmp_path / "tasks"))
    open(started).close()  # the gate opens when the call has
    assert invoker.thread.is_alive()
    open(go_on, "w").close()
    invoker.thread.join(WAIT)
    assert client.results() == {0: "went on"}
    assert len(invoker.payloads) == 1


def test_a_call_that_the_dummy_runs_in_a_thread_can_be_cancelled(tmp_path):
    """``cancel`` stops the running call, and the next one runs."""
    started = tmp_path / "started"
    os.mkfifo(started)

    def wait(name):
        if name is None:
            return "next"
        open(name, "w").close()
        return threading.Event().wait()

    executor = pywren.dummy_executor()
    running, following = executor.map(wait, [str(started), None])
    executor.invoker.run_jobs_threaded()
    open(started).close()
    assert running.cancel()
    assert following.result(WAIT) == "next"
    executor.invoker.thread.join(WAIT)
    with pytest.raises(pywren.exceptions.CallCancelledError):
        running.result()
    assert running.run_status["exception_args"][0] == "CANCELLED"


def test_a_broken_payload_does_not_stop_the_others(squares):
    """The other payloads are run, and then the dummy reports the broken one."""
    invoker = DummyInvoker()
    invoker.invoke({"nothing": "here"})
    invoker.invoke(squares.payload(0, 7))
    with pytest.raises(DecodeError):
        invoker.run_jobs()
    assert squares.results() == {0: 49}


def test_running_nothing_starts_nothing():
    """A dummy without calls starts nothing."""
    DummyInvoker().run_jobs()


def test_the_door_of_0_4_runs_payloads(squares):
    """``local_handler`` runs one payload, ``dummy_handler`` a list; their context becomes part of the status."""
    local_handler(squares.payload(0, 3), "/nowhere", {"invoker": "mine"})
    dummy_handler([squares.payload(1, 4), squares.payload(2, 5)], "/nowhere", {"invoker": "mine"})
    dummy_handler([], "/nowhere")
    run_generic_handler(squares.payload(3, 6), "a name", "/nowhere", "/nowhere", None)
    assert squares.results() == {0: 9, 1: 16, 2: 25, 3: 36}
    statuses = [json.loads(squares.storage.read_status("callset", f"{index:05d}")) for index in range(4)]
    assert [status.get("invoker") for status in statuses] == ["mine", "mine", "mine", None]
    assert [status["jobnum"] for status in statuses] == [str(os.getpid()), "0", "1", "a name"]


def local_threads():
    """Return the live threads of local invokers."""
    return [thread for thread in threading.enumerate() if thread.name == "pywren-local-call"]


def test_the_local_invoker_runs_staged_calls_in_the_shared_pool(squares):
    """Calls are committed to their storage, and the threads that handled them end."""
    invoker = LocalInvoker(run_dir="/nowhere")
    for index in range(10):
        invoker.invoke(squares.payload(index, index))
    deadline = time.monotonic() + WAIT
    for thread in local_threads():
        thread.join(max(0.0, deadline - time.monotonic()))
    assert squares.results() == {index: index * index for index in range(10)}
    assert local_threads() == []
    invoker.close()


def test_a_local_invoker_that_can_start_no_thread(squares, monkeypatch):
    """At the end of a program on Python 3.12, for example, the thread that invokes runs the calls."""
    invoker = LocalInvoker()
    start = threading.Thread.start

    def refuse(thread):
        if thread.name in ("pywren-local-call", "pywren-status-watch"):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for index in range(3):
        invoker.invoke(squares.payload(index, index))
    assert squares.results() == {0: 0, 1: 1, 2: 4}
    invoker.close()


@pytest.mark.moto
@pytest.mark.parametrize(
    ("scheduler", "seconds"),
    [({}, 0.0), ({"max_concurrency": 2}, 0.0), ({"max_concurrency": 2}, 3.0)],
    ids=["all at once", "two at once", "two at once, and the last takes long to invoke"],
)
def test_the_end_of_a_program_waits_for_staged_calls(tmp_path, scheduler, seconds):
    """Those that the driver holds back included, also where no thread can be started at the end (Python 3.12).

    Nor is the call lost that is just being invoked when the program says what it waits for.
    """
    from moto.server import ThreadedMotoServer

    with pywren.testing.mock_aws() as config:
        settings = {**config, "scheduler": {**config.get("scheduler", {}), **scheduler}}
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    script = """
        import json, os, sys, time, pywren
        out, settings, url, seconds = sys.argv[1:]
        os.environ.update(AWS_ENDPOINT_URL_S3=url, AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
        import boto3
        settings = json.loads(settings)
        region = settings["account"]["aws_region"]
        boto3.client("s3", region).create_bucket(
            Bucket=settings["s3"]["bucket"], CreateBucketConfiguration={"LocationConstraint": region}
        )
        def call(number):
            with open(os.path.join(out, str(number)), "w"):
                pass
        invoke = pywren.invokers.LocalInvoker.invoke
        def invoke_slowly(invoker, payload):
            if payload["call_id"] == "00005":
                time.sleep(float(seconds))
            invoke(invoker, payload)
        pywren.invokers.LocalInvoker.invoke = invoke_slowly
        pywren.local_executor(config=settings).map(call, range(6))
    """
    try:
        run_script(script, str(tmp_path), json.dumps(settings), f"http://{host}:{port}", str(seconds))
    finally:
        server.stop()
    assert sorted(os.listdir(tmp_path)) == list("012345")


def test_a_broken_payload_does_not_stop_the_local_invoker(squares, caplog):
    """The error is logged, as on Lambda, and the next call runs."""
    invoker = LocalInvoker()
    invoker.invoke({"nothing": "here"})
    invoker.invoke(squares.payload(0, 5))
    for thread in local_threads():
        thread.join(WAIT)
    assert squares.results() == {0: 25}
    assert "without a status" in caplog.text
    invoker.close()


def test_the_local_invoker_goes_on_after_an_error_of_any_kind(squares, monkeypatch, caplog):
    """However a call ends its thread, later calls run."""
    invoker = LocalInvoker()
    handle = Container.handle

    def fail_sometimes(container, payload):
        if payload.get("call_id") is None:
            raise OSError("no more processes")
        return handle(container, payload)

    monkeypatch.setattr(Container, "handle", fail_sometimes)
    for _ in range(4 * (os.cpu_count() or 1)):
        invoker.invoke({})
    invoker.invoke(squares.payload(0, 5))
    for thread in local_threads():
        thread.join(WAIT)
    assert squares.results() == {0: 25}
    assert "no more processes" in caplog.text
    invoker.close()


def status_of(client, index, patience=4 * WAIT):
    """Wait for the status of a call, and return it."""
    deadline = time.monotonic() + patience
    while (data := client.storage.read_status("callset", f"{index:05d}")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    status = Status.verify(data, SECRET, "callset", f"{index:05d}")
    assert status.signed
    return status


def test_calls_that_a_closed_local_invoker_has_not_started_end_as_cancelled(tmp_path):
    """Nobody waits for them for ever, and the running calls go on."""
    started, go_on = tmp_path / "started", tmp_path / "go_on"

    def hold(names):
        with open(names[0], "a"):
            pass
        while not os.path.exists(names[1]):
            time.sleep(0.01)
        return "went on"

    client = Client(tmp_path / "store", hold)
    invoker = LocalInvoker()
    count = 3 * (os.cpu_count() or 1)
    for index in range(count):
        invoker.invoke(client.payload(index, (str(started), str(go_on))))
    deadline = time.monotonic() + WAIT
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    invoker.close()
    assert status_of(client, count - 1).failure.kind == "CallCancelledError"
    assert status_of(client, count - 1).failure.cause is Cause.CANCELLED
    go_on.touch()
    failures = [status_of(client, index).failure for index in range(count)]
    assert failures[0] is None
    assert {failure.kind for failure in failures if failure is not None} == {"CallCancelledError"}
    for thread in local_threads():
        thread.join(WAIT)
    invoker.invoke(client.payload(count, (str(started), str(go_on))))  # it takes calls again
    assert status_of(client, count).failure is None


def test_a_staged_call_whose_process_is_killed_says_so(tmp_path):
    """The status tells that the process was killed, so that the client may run the call again."""
    client = Client(tmp_path / "store", lambda _: subprocess.run(["kill", "-9", str(os.getpid())], check=False))
    invoker = LocalInvoker()
    invoker.invoke(client.payload(0, None))
    assert status_of(client, 0).failure.cause is Cause.KILLED
    invoker.close()


def test_a_closed_container_keeps_to_the_runner_it_was_given():
    """A running or later call does not start a fork server that nobody would stop."""
    runner = Mock()
    container = Container(runner)
    container.close()
    assert container.runner is runner
    runner.close.assert_not_called()
