"""Requests to AWS, except those to the storage, and how their errors are reported."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator
from typing import Any

import botocore.exceptions
import botocore.session
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from pywren.aws.per_process import PerProcess
from pywren.aws.requests import AWS, FunctionSpec, Message
from pywren.exceptions import (
    ArgumentError,
    ConfigError,
    DeploymentError,
    InvocationError,
    InvocationThrottledError,
    PywrenError,
)

REGION = "us-west-2"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set credentials that give access to nothing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Any]]:
    """Return real clients to stub; creating them takes a while."""
    session = botocore.session.Session()
    session.set_credentials("testing", "testing")
    made = {name: session.create_client(name, REGION) for name in ("lambda", "sqs", "logs", "sts", "s3")}
    yield made
    for client in made.values():
        client.close()


class Stubbed:
    """An ``AWS`` over one stubbed client, with a clock that only sleeping advances."""

    def __init__(self, clients: dict[str, Any], service: str) -> None:
        self.now = 0.0
        self.aws = AWS(REGION, sleep=self._sleep, clock=lambda: self.now)
        self.aws._clients[service] = PerProcess(lambda: clients[service])
        self.stub = Stubber(clients[service])

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def stubbed(clients: dict[str, Any]) -> Iterator[Callable[[str], Stubbed]]:
    """Return a function that makes an ``AWS`` over a service's stubbed client; every prepared answer must be used."""
    made = []

    def make(service: str) -> Stubbed:
        made.append(Stubbed(clients, service))
        made[-1].stub.activate()
        return made[-1]

    yield make
    for one in made:
        one.stub.deactivate()
        one.stub.assert_no_pending_responses()


# -- starting calls ------------------------------------------------------------------------------------------


def test_invoke_async(stubbed: Callable[[str], Stubbed]) -> None:
    """The function is started as an event and the request's id comes back."""
    it = stubbed("lambda")
    sent = {"FunctionName": "f", "InvocationType": "Event", "Payload": b"{}"}
    it.stub.add_response("invoke", {"StatusCode": 202, "ResponseMetadata": {"RequestId": "r-1"}}, sent)
    assert it.aws.invoke_async("f", b"{}") == "r-1"


def test_an_answer_that_is_not_202(stubbed: Callable[[str], Stubbed]) -> None:
    """Only status 202 means that Lambda accepted the call."""
    it = stubbed("lambda")
    it.stub.add_response("invoke", {"StatusCode": 200, "ResponseMetadata": {"RequestId": "r-1"}})
    with pytest.raises(InvocationError, match="200 instead of 202") as caught:
        it.aws.invoke_async("f", b"{}")
    assert caught.value.request_id == "r-1"


REFUSALS = [
    ("ResourceNotFoundException", 404, InvocationError, "deploy it with: pywren deploy_lambda"),
    ("AccessDeniedException", 403, InvocationError, "lambda:InvokeFunction on the function f"),
    ("RequestTooLargeException", 413, InvocationError, "1 MB"),
    ("RequestEntityTooLargeException", 413, InvocationError, "1 MB"),
    ("KMSAccessDeniedException", 502, InvocationError, "kms:Decrypt"),
    ("KMSDisabledException", 502, InvocationError, "key is enabled"),
    ("RecursiveInvocationException", 400, InvocationError, "nest fewer maps"),
    ("InvalidRuntimeException", 502, InvocationError, "pywren deploy_lambda"),
    ("SomethingNew", 400, InvocationError, "SomethingNew: the text of AWS"),
    ("ExpiredTokenException", 403, ConfigError, "aws sso login"),
    ("UnrecognizedClientException", 403, ConfigError, "does not know these credentials"),
    ("InvalidSignatureException", 403, ConfigError, "secret key"),
]


@pytest.mark.parametrize(("code", "status", "kind", "text"), REFUSALS)
def test_what_a_refusal_becomes(
    stubbed: Callable[[str], Stubbed], code: str, status: int, kind: type[Exception], text: str
) -> None:
    """Each refusal becomes an error with a code and a remedy, and is not retried."""
    it = stubbed("lambda")
    it.stub.add_client_error("invoke", code, "the text of AWS", status, response_meta={"RequestId": "r-9"})
    with pytest.raises(kind, match=text) as caught:
        it.aws.invoke_async("f", b"{}")
    assert "r-9" in str(caught.value)
    assert it.now == 0
    if isinstance(caught.value, InvocationError):
        assert (caught.value.code, caught.value.request_id) == (code, "r-9")


BUSY = [
    ("TooManyRequestsException", 429),
    ("ThrottlingException", 400),
    ("ServiceException", 500),
    ("EC2ThrottledException", 502),
    ("", 503),
]


@pytest.mark.parametrize(("code", "status"), BUSY)
def test_throttling_is_waited_out(stubbed: Callable[[str], Stubbed], code: str, status: int) -> None:
    """Throttled requests are retried, with growing pauses."""
    it = stubbed("lambda")
    for _ in range(6):
        it.stub.add_client_error("list_functions", code, "slow down", status)
    it.stub.add_response("list_functions", {"Functions": []})
    assert it.aws.request("lambda", "list_functions", doing="list functions")["Functions"] == []
    assert 1 < it.now < 10


def test_throttling_without_end(stubbed: Callable[[str], Stubbed]) -> None:
    """After two minutes of throttling the request fails, and the error names the cause."""
    it = stubbed("lambda")
    for _ in range(100):
        it.stub.add_client_error("list_functions", "TooManyRequestsException", "Rate Exceeded", 429)
    with pytest.raises(DeploymentError, match="Rate Exceeded"):
        it.aws.request("lambda", "list_functions", doing="list functions")
    assert 60 < it.now <= 120
    it.stub._queue.clear()


@pytest.mark.parametrize(("code", "status"), BUSY)
def test_a_throttled_invocation_is_reported_at_once(stubbed: Callable[[str], Stubbed], code: str, status: int) -> None:
    """Who invokes many calls decides when to try again; the request itself does not wait."""
    it = stubbed("lambda")
    it.stub.add_client_error("invoke", code, "slow down", status, response_meta={"RequestId": "r-9"})
    with pytest.raises(InvocationThrottledError, match="slow down") as caught:
        it.aws.invoke_async("f", b"{}")
    assert it.now == 0
    assert (caught.value.code, caught.value.request_id) == (code, "r-9")


def test_a_network_that_is_down_is_reported_soon(stubbed: Callable[[str], Stubbed]) -> None:
    """Without a network, the error comes after seconds, not minutes, and says that it may pass."""
    it = stubbed("lambda")

    def fail() -> None:
        raise botocore.exceptions.EndpointConnectionError(endpoint_url="https://lambda")

    it.aws._clients["lambda"] = PerProcess(fail)
    with pytest.raises(InvocationThrottledError, match="check the network"):
        it.aws.invoke_async("f", b"{}")
    assert 0 < it.now <= 5


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, the error says how to get an account, and how to work without one."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match=r"aws configure.*PYWREN_EXECUTOR=local"):
        AWS(REGION).invoke_async("f", b"{}")


def test_no_region() -> None:
    """Without a region, the error says where to set it."""
    with pytest.raises(ConfigError, match="account: aws_region"):
        AWS().invoke_async("f", b"{}")


def test_an_endpoint_that_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid AWS_ENDPOINT_URL is a configuration error."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
        AWS(REGION).account_id()


@pytest.mark.parametrize("ask", [AWS.regions, AWS.configured_region, AWS.has_region, AWS.python_runtimes])
def test_a_profile_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, ask: Callable[[AWS], object]) -> None:
    """A profile that does not exist is reported, although there is no request id."""
    monkeypatch.setenv("AWS_PROFILE", "nope")
    with pytest.raises(ConfigError, match="check AWS_PROFILE"):
        ask(AWS(REGION))


def test_a_region_that_is_no_region() -> None:
    """An invalid region is reported before anything is sent; the error says where it is configured."""
    with pytest.raises(ConfigError, match=r"account: aws_region.*us west"):
        AWS("us west").has_region()


def test_a_given_session_is_used(stubbed: Callable[[str], Stubbed]) -> None:
    """A program may pass its own session."""
    session = botocore.session.Session()
    session.set_credentials("a", "b")
    aws = AWS(REGION, session=session)
    assert aws.client("sts").meta.region_name == REGION
    assert aws.client("sts") is aws.client("sts")
    aws.close()


def test_importing_loads_no_third_party_module() -> None:
    """Making an ``AWS`` imports neither boto3 nor botocore."""
    program = "import sys; from pywren.aws.requests import AWS; AWS('r'); print('botocore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- functions -----------------------------------------------------------------------------------------------


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("handler.py", "")
    return buffer.getvalue()


@pytest.fixture
def mocked() -> Iterator[AWS]:
    """AWS mocked by moto."""
    with mock_aws(config={"lambda": {"use_docker": False}}):
        aws = AWS(REGION)
        yield aws
        aws.close()


def _role(aws: AWS, name: str = "role") -> str:
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
    document = json.dumps(trust)
    answer = aws.request("iam", "create_role", doing="make a role", RoleName=name, AssumeRolePolicyDocument=document)
    return str(answer["Role"]["Arn"])


@pytest.mark.moto
def test_the_life_of_a_function(mocked: AWS) -> None:
    """A function is created, read, changed and deleted; each method returns only when its change is active."""
    spec = FunctionSpec("f", _role(mocked), "python3.12", memory=512, timeout=60, environment={"A": "b"})
    assert mocked.function_config("f") is None
    arn = mocked.create_function(spec, {"ZipFile": _zip()}, tags={"made-by": "pywren"})
    config = mocked.function_config("f")
    assert config is not None
    assert (config["FunctionArn"], config["MemorySize"], config["Timeout"]) == (arn, 512, 60)
    assert config["Environment"]["Variables"] == {"A": "b"}
    assert config["Handler"] == "pywren.wrenhandler.aws_lambda_handler"
    changed = FunctionSpec("f", spec.role_arn, "python3.12", memory=1024, timeout=60)
    mocked.update_function_configuration(changed)
    mocked.update_function_code("f", {"ZipFile": _zip()})
    assert (mocked.function_config("f") or {})["MemorySize"] == 1024
    mocked.set_event_invoke("f", event_age=3600, on_failure="arn:aws:s3:::bucket")
    event = mocked.request("lambda", "get_function_event_invoke_config", doing="look", FunctionName="f")
    assert (event["MaximumRetryAttempts"], event["MaximumEventAgeInSeconds"]) == (0, 3600)
    assert mocked.delete_function("f") is True
    assert mocked.delete_function("f") is False
    assert mocked.account_id() == "123456789012"


@pytest.mark.moto
def test_invoking_through_moto(mocked: AWS) -> None:
    """An event is accepted, and its id is returned."""
    mocked.create_function(FunctionSpec("f", _role(mocked), "python3.12", 512, 60), {"ZipFile": _zip()})
    assert mocked.invoke_async("f", b"{}")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("InvalidParameterValueException", "The role defined for the function cannot be assumed by Lambda."),
        ("InvalidParameterValueException", "The function's execution role does not have permissions to call PutObject"),
        ("ResourceConflictException", "The operation cannot be performed at this time. An update is in progress"),
        ("ResourceConflictException", "The function is currently in the following state: Pending"),
    ],
)
def test_what_is_not_ready_yet_is_waited_for(stubbed: Callable[[str], Stubbed], code: str, text: str) -> None:
    """Requests are retried while a new role or function is not ready."""
    it = stubbed("lambda")
    for _ in range(3):
        it.stub.add_client_error("delete_function", code, text, 400)
    it.stub.add_response("delete_function", {})
    assert it.aws.delete_function("f")
    assert it.now > 0


def test_what_was_refused_while_deploying(stubbed: Callable[[str], Stubbed]) -> None:
    """The error says what failed, AWS's reason, and which permission is needed."""
    it = stubbed("lambda")
    it.stub.add_client_error("get_function_configuration", "AccessDeniedException", "no", 403)
    with pytest.raises(DeploymentError, match=r"look up the function f.*lambda:GetFunctionConfiguration"):
        it.aws.function_config("f")


def test_a_change_under_way_is_waited_for(stubbed: Callable[[str], Stubbed]) -> None:
    """A function that another client is changing is read again after the change."""
    it = stubbed("lambda")
    name = {"FunctionName": "f"}
    it.stub.add_response("get_function_configuration", {"State": "Active", "LastUpdateStatus": "InProgress"}, name)
    it.stub.add_response("get_function", {"Configuration": {"LastUpdateStatus": "Successful"}}, name)
    it.stub.add_response("get_function_configuration", {"State": "Active", "CodeSha256": "new"}, name)
    assert (it.aws.settled_function("f") or {})["CodeSha256"] == "new"
    it.stub.add_response("get_function_configuration", {"State": "Pending"}, name)
    it.stub.add_response("get_function", {"Configuration": {"State": "Active"}}, name)
    it.stub.add_response("get_function_configuration", {"State": "Active"}, name)
    assert it.aws.settled_function("f") == {"State": "Active"}


def test_why_a_function_failed(stubbed: Callable[[str], Stubbed]) -> None:
    """The error contains Lambda's reason for the failed function."""
    it = stubbed("lambda")
    failed = {"Configuration": {"LastUpdateStatus": "Failed", "LastUpdateStatusReason": "the layer is gone"}}
    it.stub.add_response("update_function_code", {})
    it.stub.add_response("get_function", failed)
    with pytest.raises(DeploymentError, match=r"wait for the function f.*Lambda says: the layer is gone"):
        it.aws.update_function_code("f", {"ZipFile": b""})


def test_only_what_differs_is_changed() -> None:
    """Settings that match, and settings that pywren does not manage, are not sent."""
    spec = FunctionSpec("f", "arn:role", "python3.12", memory=512, layers=("arn:layer:1",))
    found = {
        **spec.configuration(),
        "Layers": [{"Arn": "arn:layer:1", "CodeSize": 5}],
        "Environment": {"Variables": {"theirs": "1"}},
        "VpcConfig": {"SubnetIds": ["s"]},
    }
    assert spec.changes(found) == {}
    assert spec.changes({**found, "MemorySize": 1024, "Layers": []}) == {"MemorySize": 512, "Layers": ["arn:layer:1"]}
    own = dataclasses.replace(spec, environment={"ours": "1"})
    assert own.changes(found) == {"Environment": {"Variables": {"ours": "1"}}}


def test_what_lambda_runs(stubbed: Callable[[str], Stubbed]) -> None:
    """Lambda's runtimes that pywren can use are listed in order of their versions."""
    runtimes = stubbed("lambda").aws.python_runtimes()
    assert runtimes[:4] == ["python3.10", "python3.11", "python3.12", "python3.13"]


# -- queues --------------------------------------------------------------------------------------------------


@pytest.mark.moto
def test_messages(mocked: AWS) -> None:
    """A message is sent, received, hidden for longer and deleted."""
    mocked.request("sqs", "create_queue", doing="make a queue", QueueName="q")
    url = mocked.queue_url("q")
    assert mocked.send_message(url, '{"a": 1}')
    (message,) = mocked.receive(url, wait_seconds=0, visibility=30)
    assert message.body == '{"a": 1}'
    mocked.extend_message(url, message, 60)
    assert mocked.receive(url, wait_seconds=0) == []
    mocked.delete_message(url, message)


@pytest.mark.moto
def test_a_queue_that_does_not_exist(mocked: AWS) -> None:
    """The error for a missing queue names it and says how to create it."""
    with pytest.raises(InvocationError, match=r"queue nowhere.*create_queue"):
        mocked.queue_url("nowhere")


def test_a_poll_that_is_too_long() -> None:
    """A wait of more than SQS's limit of 20 seconds is refused before anything is sent."""
    with pytest.raises(ArgumentError, match="20"):
        AWS(REGION).receive("https://queue", wait_seconds=21)


def test_messages_are_values() -> None:
    """Two messages with the same text and receipt handle are equal."""
    assert Message("a", "r") == Message("a", "r")


# -- answers in pages ----------------------------------------------------------------------------------------


def _listed(aws: AWS, absent: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    tokens = {"ContinuationToken": "NextContinuationToken"}
    return aws.pages("s3", "list_objects_v2", tokens=tokens, absent=absent, doing="list the bucket", Bucket="bucket")


@pytest.mark.parametrize("last", [{}, {"IsTruncated": False, "NextContinuationToken": "more"}])
def test_pages_end_with_the_last(stubbed: Callable[[str], Stubbed], last: dict[str, Any]) -> None:
    """Each page asks for the next. The last one has no token, or says that it is the last although it has one."""
    it = stubbed("s3")
    it.stub.add_response("list_objects_v2", {"IsTruncated": True, "NextContinuationToken": "t"}, {"Bucket": "bucket"})
    it.stub.add_response("list_objects_v2", last, {"Bucket": "bucket", "ContinuationToken": "t"})
    assert [page.get("NextContinuationToken") for page in _listed(it.aws)] == ["t", last.get("NextContinuationToken")]


def test_pages_are_requested_when_they_are_needed(stubbed: Callable[[str], Stubbed]) -> None:
    """A caller that has found what it wants on the first page does not pay for the second."""
    it = stubbed("s3")
    it.stub.add_response("list_objects_v2", {"IsTruncated": True, "NextContinuationToken": "t"}, {"Bucket": "bucket"})
    assert next(_listed(it.aws))["NextContinuationToken"] == "t"


def test_pages_of_an_absent_thing(stubbed: Callable[[str], Stubbed]) -> None:
    """Something absent has no pages where the caller allows for it, and is an error elsewhere."""
    it = stubbed("s3")
    for _ in range(2):
        it.stub.add_client_error("list_objects_v2", "NoSuchBucket", http_status_code=404)
    assert list(_listed(it.aws, absent=["NoSuchBucket"])) == []
    with pytest.raises(DeploymentError, match="cannot list the bucket"):
        list(_listed(it.aws))


# -- logs ----------------------------------------------------------------------------------------------------


def test_log_events_over_pages(stubbed: Callable[[str], Stubbed]) -> None:
    """All pages of a log are read, and only the given filters are sent."""
    it = stubbed("logs")
    sent: dict[str, Any] = {"logGroupName": "g", "logStreamNames": ["s"], "startTime": 5}
    first = {"events": [{"timestamp": 1, "message": "START"}], "nextToken": "t"}
    it.stub.add_response("filter_log_events", first, sent)
    second = {"events": [{"timestamp": 2, "message": "REPORT"}]}
    it.stub.add_response("filter_log_events", second, {**sent, "nextToken": "t"})
    found = it.aws.log_events("g", streams=["s"], start_ms=5)
    assert [(event["timestamp"], event["message"]) for event in found] == [(1, "START"), (2, "REPORT")]


@pytest.mark.moto
def test_a_log_that_does_not_exist_yet(mocked: AWS) -> None:
    """A function that has never run has no log, which is not an error."""
    assert list(mocked.log_events("/aws/lambda/f")) == []
    assert mocked.latest_log_stream("/aws/lambda/f") is None


def test_errors_pickle(stubbed: Callable[[str], Stubbed]) -> None:
    """Errors of AWS survive pickling."""
    import pickle

    it = stubbed("lambda")
    it.stub.add_client_error("invoke", "ResourceNotFoundException", "no", 404)
    with pytest.raises(PywrenError) as caught:
        it.aws.invoke_async("f", b"{}")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.code) == (str(caught.value), "ResourceNotFoundException")
