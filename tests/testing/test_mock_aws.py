"""``pywren.testing.mock_aws``, with which users test their own pipelines."""

import concurrent.futures
import os
import subprocess
import sys
import threading
from contextlib import closing

import pytest

import pywren
import pywren.testing
from pywren.aws.requests import AWS
from pywren.exceptions import DeploymentError, InvocationError, WorkerCrashedError
from pywren.queues import sqs_run_local
from pywren.storage import Storage
from pywren.storage.s3_backend import S3Backend
from pywren.worker.parent.fork_server import ForkServer

pytestmark = pytest.mark.moto
WAIT = 60.0


@pytest.fixture(scope="module")
def config():
    """The fixture of docs/testing.md, shared by the tests of this module."""
    with pywren.testing.mock_aws() as made:
        yield made


@pytest.fixture
def aws(config):
    """Return the mocked account."""
    made = AWS(config["account"]["aws_region"])
    yield made
    made.close()


def invoke(aws, name, payload):
    """Invoke a function and wait for it; return its answer, and whether it failed."""
    answer = aws.request("lambda", "invoke", doing="invoke", FunctionName=name, Payload=payload)
    return answer["Payload"].read(), answer.get("FunctionError")


def mocked_threads():
    """Return the threads that run mocked functions."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("pywren-mock-lambda")]


@pytest.mark.parametrize("factory", ["default_executor", "lambda_executor"])
def test_a_map_really_runs(config, factory):
    """Functions run in other processes, with Lambda's environment variables."""

    def work(x):
        import os

        return x * x, os.getpid(), os.environ["AWS_LAMBDA_FUNCTION_NAME"], os.environ["OMP_NUM_THREADS"]

    executor = getattr(pywren, factory)(config=config)
    results = pywren.get_all_results(executor.map(work, range(8)))
    assert [result[0] for result in results] == [x * x for x in range(8)]
    assert os.getpid() not in {result[1] for result in results}
    assert {result[2:] for result in results} == {(config["lambda"]["function_name"], "1")}


def test_an_exception_comes_back_with_its_own_type(config):
    """The test gets the user's own exception."""

    def fail(x):
        return {}[x]

    with pytest.raises(KeyError, match="missing"):
        pywren.default_executor(config=config).call_async(fail, "missing").result()


def test_a_crash_is_told(config):
    """A function that ends its process gives the same error as on Lambda."""
    with pytest.raises(WorkerCrashedError, match="non-zero return code"):
        pywren.default_executor(config=config).call_async(os._exit, 3).result()


def test_what_a_function_prints_is_in_its_log(config):
    """``get_logs`` goes from START to REPORT, with the call's output in between."""

    def talk(x):
        print("called with", x)

    executor = pywren.default_executor(config=config)
    futures = executor.map(talk, range(3))
    pywren.wait(futures)
    for index, future in enumerate(futures):
        messages = [message.strip() for _, message in executor.get_logs(future)]
        request = future.run_status["aws_request_id"]
        assert messages[0] == f"START RequestId: {request} Version: $LATEST"
        assert messages[1] == f"called with {index}"
        assert messages[-1].startswith(f"REPORT RequestId: {request}")


def test_a_function_that_uses_aws_meets_the_same_mock(config, aws):
    """The test can read what the function writes with boto3."""

    def write(bucket):
        import boto3

        boto3.client("s3").put_object(Bucket=bucket, Key="results/1", Body=b"written by the function")

    bucket = config["s3"]["bucket"]
    pywren.default_executor(config=config).call_async(write, bucket).result()
    answer = aws.request("s3", "get_object", doing="read", Bucket=bucket, Key="results/1")
    assert answer["Body"].read() == b"written by the function"


def test_a_function_may_map_on_lambda_itself(config):
    """An executor made on the worker invokes the same function again."""

    def fan_out(config):
        import pywren

        executor = pywren.lambda_executor(config=config)
        return pywren.get_all_results(executor.map(lambda x: x + 1, [1, 2]))

    assert pywren.default_executor(config=config).call_async(fan_out, config).result() == [2, 3]


def test_the_environment_says_which_executor(config, monkeypatch):
    """``PYWREN_EXECUTOR`` is used as everywhere."""
    monkeypatch.setenv("PYWREN_EXECUTOR", "dummy")
    executor = pywren.default_executor(config=config)
    future = executor.call_async(len, "abc")
    executor.invoker.run_jobs()
    assert future.result() == 3


def test_calls_of_the_queue_run(config, monkeypatch):
    """The queue exists, and calls for stand-alone workers can be run here."""
    executor = pywren.remote_executor(config=config)
    future = executor.call_async(len, "abcd")
    assert sqs_run_local(config["account"]["aws_region"], config["standalone"]["sqs_queue_name"]) == 1
    assert future.result() == 4


def test_an_invocation_may_be_waited_for(config, aws):
    """A synchronous invocation returns an answer; an error of the handler is a function error."""
    body, error = invoke(aws, config["lambda"]["function_name"], b"{}")
    assert error == "Unhandled"
    assert b"DecodeError" in body


def test_a_payload_over_lambdas_limit_is_refused(config, aws):
    """Lambda's limits apply."""
    with pytest.raises(InvocationError, match="too large") as caught:
        aws.invoke_async(config["lambda"]["function_name"], b'{"x": "%s"}' % (b"x" * 1_000_000))
    assert caught.value.code == "RequestTooLargeException"


def test_a_missing_function_is_missing(config, aws):
    """Only a deployed function can be invoked."""
    with pytest.raises(InvocationError, match="pywren deploy_lambda"):
        aws.invoke_async("no-such-function", b"{}")


def test_contexts_may_be_nested_and_reused():
    """Each has its own bucket and function; the outer context still works when the inner one ends."""
    with pywren.testing.mock_aws() as outer:
        with pywren.testing.mock_aws() as inner:
            assert outer["s3"]["bucket"] != inner["s3"]["bucket"]
            assert pywren.default_executor(config=inner).call_async(len, "ab").result() == 2
        assert pywren.default_executor(config=outer).call_async(len, "abc").result() == 3


def test_contexts_may_be_open_in_several_threads():
    """Parallel tests do not disturb each other."""
    results = []

    def run(length):
        with pywren.testing.mock_aws() as config:
            results.append(pywren.default_executor(config=config).call_async(len, "x" * length).result())

    threads = [threading.Thread(target=run, args=(length,)) for length in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(results) == [0, 1, 2]


def test_leaving_ends_everything():
    """Running calls are killed, waiting calls are dropped, and the threads end."""
    before = mocked_threads()
    with pywren.testing.mock_aws(concurrency=1) as config:
        executor = pywren.default_executor(config=config)

        def wait_for_ever(_):
            import threading

            threading.Event().wait()

        executor.map(wait_for_ever, range(3))
    assert mocked_threads() == before


def slowed(method):
    """Slow a method of moto down, so that requests overlap."""

    def slow(*args, **kwargs):
        threading.Event().wait(0.02)
        return method(*args, **kwargs)

    return slow


def test_leaving_while_a_call_begins(caplog, monkeypatch):
    """Row 194: a call that has not started its function ends as cancelled, and nothing is logged."""
    fetching, closed = threading.Event(), threading.Event()
    get, close = Storage.get, ForkServer.close

    def fetch_until_closed(storage, *args, **options):
        fetching.set()
        assert closed.wait(WAIT)
        return get(storage, *args, **options)

    def close_and_say_so(server):
        close(server)
        closed.set()

    monkeypatch.setattr(Storage, "get", fetch_until_closed)
    monkeypatch.setattr(ForkServer, "close", close_and_say_so)
    with pywren.testing.mock_aws() as config:
        pywren.default_executor(config=config).call_async(abs, -1)
        assert fetching.wait(WAIT)
    assert [record.getMessage() for record in caplog.records] == []


def test_s3_is_atomic(config, monkeypatch):
    """Of concurrent conditional puts one succeeds, however long moto takes between check and write."""
    import moto.s3.models

    monkeypatch.setattr(moto.s3.models.S3Backend, "put_object", slowed(moto.s3.models.S3Backend.put_object))
    backend = S3Backend(config["s3"]["bucket"], config["account"]["aws_region"])
    with closing(backend), concurrent.futures.ThreadPoolExecutor(4) as threads:
        wrote = list(threads.map(lambda number: backend.put("contested", b"%d" % number, if_absent=True), range(4)))
        assert backend.get("contested") == b"%d" % wrote.index(True)
    assert wrote.count(True) == 1


def test_a_message_goes_to_one_receiver(config, aws, monkeypatch):
    """Of concurrent receivers, including ones that wait, only one gets the message."""
    import moto.sqs.models

    url = aws.queue_url(config["standalone"]["sqs_queue_name"])
    monkeypatch.setattr(moto.sqs.models.Message, "mark_received", slowed(moto.sqs.models.Message.mark_received))

    def receive(_):
        answer = aws.request("sqs", "receive_message", doing="test", QueueUrl=url, WaitTimeSeconds=1)
        return [message["Body"] for message in answer.get("Messages", ())]

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(receive, number) for number in range(4)]
        aws.request("sqs", "send_message", doing="test", QueueUrl=url, MessageBody="the only one")
        assert sorted(future.result() for future in waiting) == [[], [], [], ["the only one"]]
    aws.request("sqs", "purge_queue", doing="test", QueueUrl=url)


def test_moto_may_be_active_already():
    """In a test that uses moto itself, the test's own resources are not changed."""
    moto = pytest.importorskip("moto")
    with moto.mock_aws():
        aws = AWS("us-west-2")
        aws.request("sqs", "create_queue", doing="test", QueueName="mine")
        with pywren.testing.mock_aws() as config:
            assert pywren.default_executor(config=config).call_async(len, "abc").result() == 3
        assert aws.queue_url("mine").endswith("mine")
        aws.close()


def test_functions_of_others_are_echoed_as_moto_does():
    """Lambda functions that are not pywren's behave as in plain moto."""
    with pywren.testing.mock_aws() as config:
        aws = AWS("us-west-2")
        role = aws.function_config(config["lambda"]["function_name"])["Role"]
        aws.request(
            "lambda",
            "create_function",
            doing="test",
            refused=DeploymentError,
            FunctionName="other",
            Role=role,
            Runtime="python3.12",
            Handler="a.b",
            Code={"ZipFile": b"x"},
        )
        assert invoke(aws, "other", b'{"x": "echo"}') == (b'{"x": "echo"}', None)
        aws.close()


def test_without_moto_the_error_says_what_to_install():
    """The error says how to install moto, which is an extra."""
    program = (
        "import sys; sys.modules['moto'] = None\n"
        "import pywren.testing\n"
        "try:\n"
        "    with pywren.testing.mock_aws(): pass\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT, check=False)
    assert "pip install 'pywren[testing]'" in done.stdout, done.stderr


def test_importing_the_module_loads_no_sdk():
    """``import pywren.testing`` in a conftest costs nothing until it is used."""
    program = (
        "import sys, pywren.testing; print([name for name in ('moto', 'boto3', 'botocore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.stdout == "[]\n", done.stderr
