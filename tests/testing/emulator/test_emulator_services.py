"""The services that Lambda uses: roles, code in S3, on-failure destinations, logs; and the other services.

Pages cited: [api] docs.aws.amazon.com/lambda/latest/api/API_<name>.html, [dg] …/lambda/latest/dg/<page>.html,
[iam] docs.aws.amazon.com/IAM/latest/UserGuide/<page>.html.
"""

from __future__ import annotations

import asyncio
import functools
import io
import json
import re
import time
import uuid
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

pytest.importorskip("flask")

import botocore.session
from botocore.exceptions import ClientError

from pywren.testing.emulator import Emulator, Settings
from pywren.testing.emulator._counters import Tally
from pywren.testing.emulator._door import Door
from pywren.testing.emulator._functions import Refusal
from pywren.testing.emulator._interpreter import PYTHON
from pywren.testing.emulator._services import DestinationError, Services

NOT_ASSUMABLE = "The role defined for the function cannot be assumed by Lambda."
FAILS = "def handle(event, context): raise ValueError(event['why'])"
SAYS_ITS_STREAM = """
import os, time
def handle(event, context):
    print(os.environ["AWS_LAMBDA_LOG_GROUP_NAME"], os.environ["AWS_LAMBDA_LOG_STREAM_NAME"])
    time.sleep(0.3)  # so long, the next event needs another container
"""
TRUSTED = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
EC2_TOO = {**TRUSTED, "Principal": {"Service": ["ec2.amazonaws.com", "lambda.amazonaws.com"]}}
EC2_ONLY = {**TRUSTED, "Principal": {"Service": "ec2.amazonaws.com"}}
DENIED = {**TRUSTED, "Effect": "Deny"}
OTHER_ACTION = {**TRUSTED, "Action": "sts:TagSession"}

Client = Callable[[str], Any]


@functools.cache
def session() -> botocore.session.Session:
    """Return one session, because each session loads the models anew."""
    return botocore.session.Session()


def zipped(source: str) -> bytes:
    """Return the zip of a function."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("handler.py")
        entry.external_attr = 0o100644 << 16
        archive.writestr(entry, source)
    return buffer.getvalue()


@pytest.fixture
def client(emulator: Emulator) -> Iterator[Client]:
    """Return a function that makes clients of the emulated AWS."""
    made: dict[str, Any] = {}

    def make(service: str) -> Any:
        if service not in made:
            made[service] = session().create_client(
                service,
                endpoint_url=emulator.endpoint,
                aws_access_key_id=emulator.environment["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=emulator.environment["AWS_SECRET_ACCESS_KEY"],
                region_name=emulator.region,
            )
        return made[service]

    yield make
    for each in made.values():
        each.close()


def make_role(client: Client, *statements: dict[str, Any]) -> str:
    """Make a role with this trust policy, and return its ARN."""
    policy = {"Version": "2012-10-17", "Statement": list(statements)}
    made = client("iam").create_role(RoleName=uuid.uuid4().hex, AssumeRolePolicyDocument=json.dumps(policy))
    return str(made["Role"]["Arn"])


def make_function(client: Client, role: str, code: dict[str, Any] | None = None) -> str:
    """Make a function, which fails unless other code is given, and return its name."""
    name = f"f-{uuid.uuid4().hex}"
    code = code or {"ZipFile": zipped(FAILS)}
    client("lambda").create_function(FunctionName=name, Runtime=PYTHON, Role=role, Handler="handler.handle", Code=code)
    client("lambda").get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.05})
    return name


def make_bucket(client: Client, emulator: Emulator) -> str:
    """Make a bucket and return its name."""
    name = uuid.uuid4().hex
    client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": emulator.region})
    return name


# -- roles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statements", [[TRUSTED], [EC2_ONLY, TRUSTED], [EC2_TOO]], ids=["only", "second", "of two"])
def test_a_role_that_trusts_lambda(client: Client, statements: list[dict[str, Any]]) -> None:
    """Lambda may assume the role if its trust policy allows it, even among others [dg lambda-intro-execution-role]."""
    assert make_function(client, make_role(client, *statements))


@pytest.mark.parametrize("statement", [EC2_ONLY, DENIED, OTHER_ACTION], ids=["ec2", "denied", "another action"])
def test_a_role_that_does_not_trust_lambda(client: Client, statement: dict[str, Any]) -> None:
    """InvalidParameterValueException, 400: the trust policy must name Lambda [dg lambda-intro-execution-role]."""
    with pytest.raises(client("lambda").exceptions.InvalidParameterValueException, match=NOT_ASSUMABLE):
        make_function(client, make_role(client, statement))


@pytest.mark.parametrize("change", [("role/", "role/not-"), ("role/", "role/path/"), ("123456789012", "999999999999")])
def test_a_role_that_does_not_exist(client: Client, change: tuple[str, str]) -> None:
    """A role with another name, path or account cannot be assumed [dg lambda-intro-execution-role]."""
    role = make_role(client, TRUSTED)
    with pytest.raises(client("lambda").exceptions.InvalidParameterValueException, match=NOT_ASSUMABLE):
        make_function(client, role.replace(*change))


# -- code ----------------------------------------------------------------------------------------------------


def test_code_in_s3(client: Client, emulator: Emulator) -> None:
    """Lambda reads and runs the zip, whatever its key [api FunctionCode]; this counts as Lambda's request."""
    role, bucket, archive = make_role(client, TRUSTED), make_bucket(client, emulator), zipped(FAILS)
    key = "a b/f+ü?.zip"
    client("s3").put_object(Bucket=bucket, Key=key, Body=archive)
    before = emulator.counters()
    name = make_function(client, role, {"S3Bucket": bucket, "S3Key": key})
    found = client("lambda").get_function_configuration(FunctionName=name)
    assert found["CodeSize"] == len(archive)
    assert (emulator.counters() - before).count(caller="lambda", operation="GetObject").requests == 1
    answer = client("lambda").invoke(FunctionName=name, Payload=b'{"why": "it was read"}')
    assert json.loads(answer["Payload"].read())["errorMessage"] == "it was read"


def test_code_that_is_not_in_s3(client: Client, emulator: Emulator) -> None:
    """InvalidParameterValueException contains S3's message [api CreateFunction]."""
    role, bucket = make_role(client, TRUSTED), make_bucket(client, emulator)
    with pytest.raises(client("lambda").exceptions.InvalidParameterValueException, match="S3 Error Code: NoSuchKey"):
        make_function(client, role, {"S3Bucket": bucket, "S3Key": "none.zip"})


# -- destinations --------------------------------------------------------------------------------------------


def failed_event(client: Client, emulator: Emulator, destination: str) -> tuple[str, str]:
    """Let an event fail whose records go to a destination; return the function and the event's id."""
    name = make_function(client, make_role(client, TRUSTED))
    client("lambda").put_function_event_invoke_config(
        FunctionName=name,
        MaximumRetryAttempts=0,
        DestinationConfig={"OnFailure": {"Destination": destination}},
    )
    answer = client("lambda").invoke(FunctionName=name, InvocationType="Event", Payload=b'{"why": "it must"}')
    emulator.wait_idle()
    return name, answer["ResponseMetadata"]["RequestId"]


def check_record(record: dict[str, Any], function: str, request_id: str) -> None:
    """Compare a record with the page's example: version, times, request, response."""
    written = datetime.fromisoformat(record.pop("timestamp").replace("Z", "+00:00"))
    assert abs(time.time() - written.timestamp()) < 60
    assert record["responsePayload"].pop("stackTrace")
    record["responsePayload"].pop("requestId", None)
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": request_id,
            "functionArn": f"arn:aws:lambda:us-west-2:123456789012:function:{function}:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {"why": "it must"},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": {"errorType": "ValueError", "errorMessage": "it must"},
    }


def test_a_record_in_s3(client: Client, emulator: Emulator) -> None:
    """The key of the JSON object has function, day, second and a random UUID [dg invocation-async-retain-records]."""
    bucket = make_bucket(client, emulator)
    before = emulator.counters()
    name, request_id = failed_event(client, emulator, f"arn:aws:s3:::{bucket}")
    (entry,) = client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    found = re.fullmatch(
        rf"aws/lambda/async/{name}/(\d{{4}})/(\d\d)/(\d\d)/(\1-\2-\3T\d\d\.\d\d\.\d\d)-([0-9a-f-]{{36}})", entry["Key"]
    )
    assert found is not None, entry["Key"]
    when = datetime.strptime(found[4], "%Y-%m-%dT%H.%M.%S").replace(tzinfo=timezone.utc)
    assert abs(time.time() - when.timestamp()) < 60
    assert uuid.UUID(found[5]).version == 4
    check_record(json.loads(client("s3").get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()), name, request_id)
    assert (emulator.counters() - before).count(caller="lambda", operation="PutObject").requests == 1


def test_a_record_in_a_queue(client: Client, emulator: Emulator) -> None:
    """The message is the same record as in S3, for any receiver [dg invocation-async-retain-records]."""
    url = client("sqs").create_queue(QueueName=uuid.uuid4().hex)["QueueUrl"]
    attributes = client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    before = emulator.counters()
    name, request_id = failed_event(client, emulator, attributes["QueueArn"])
    (message,) = client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    check_record(json.loads(message["Body"]), name, request_id)
    assert (emulator.counters() - before).count(caller="lambda", operation="SendMessage").requests == 1
    assert emulator.counters().executions[name].records == 1


# -- logs ----------------------------------------------------------------------------------------------------


def test_each_container_has_a_stream_in_the_functions_group(client: Client, emulator: Emulator) -> None:
    """The group is /aws/lambda/<name>; a stream has the output and reports of one instance [dg python-logging]."""
    name = make_function(client, make_role(client, TRUSTED), {"ZipFile": zipped(SAYS_ITS_STREAM)})
    answers = [client("lambda").invoke(FunctionName=name, InvocationType="Event") for _ in range(2)]
    emulator.wait_idle()
    answers.append(client("lambda").invoke(FunctionName=name))
    emulator.wait_idle()
    group, logs = f"/aws/lambda/{name}", client("logs")
    streams = [each["logStreamName"] for each in logs.describe_log_streams(logGroupName=group)["logStreams"]]
    assert len(streams) == 2
    started: list[str] = []
    for stream in streams:
        assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", stream)
        events = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True)["events"]
        lines = [event["message"] for event in events]
        words = [line.split()[0] for line in lines]
        assert words == ["INIT_START", *["START", group, "END", "REPORT"] * (len(lines) // 4)]
        assert f"{group} {stream}" in lines
        started += [line.split()[2] for line in lines if line.startswith("START")]
    assert sorted(started) == sorted(answer["ResponseMetadata"]["RequestId"] for answer in answers)


# -- the services alone --------------------------------------------------------------------------------------


def with_services(
    moto: str, use: Callable[[Services], Awaitable[None]], *, now: float = 0.0, role: float = 0.0
) -> None:
    """Use the services of a moto server alone, at a given time."""

    async def run() -> None:
        services = Services(
            s3=Door("http://127.0.0.1:9"),
            moto=Door(moto),
            settings=Settings(role_seconds=role),
            tally=Tally(),
            clock=lambda: now,
        )
        try:
            await use(services)
        finally:
            await services.close()

    asyncio.run(run())


def test_a_role_that_was_just_made(moto: str) -> None:
    """Changes of IAM take a while to be visible [iam troubleshoot_general]; then Lambda can assume the role."""
    iam = session().create_client(
        "iam", endpoint_url=moto, region_name="us-west-2", aws_access_key_id="a", aws_secret_access_key="b"
    )
    role = iam.create_role(RoleName="young", AssumeRolePolicyDocument=json.dumps({"Statement": TRUSTED}))["Role"]
    iam.close()
    made = role["CreateDate"].timestamp()

    async def refused(services: Services) -> None:
        with pytest.raises(Refusal, match=NOT_ASSUMABLE) as caught:
            await services.check_role(role["Arn"])
        assert caught.value.code == "InvalidParameterValueException"

    async def taken(services: Services) -> None:
        await services.check_role(role["Arn"])

    with_services(moto, refused, now=made + 9, role=10)
    with_services(moto, taken, now=made + 11, role=10)


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("arn:aws:sqs:us-west-2:123456789012:none", "responded with status 400.*QueueDoesNotExist"),
        ("arn:aws:sns:us-west-2:123456789012:topic", "destinations of sns are not emulated"),
    ],
)
def test_a_destination_that_takes_nothing(moto: str, destination: str, said: str) -> None:
    """The record is not delivered [dg invocation-async-retain-records]; the dispatcher logs why."""

    async def use(services: Services) -> None:
        with pytest.raises(DestinationError, match=said):
            await services.send_record(None, destination, b"{}")  # type: ignore[arg-type] # no bucket is used

    with_services(moto, use)


# -- the rest of AWS -----------------------------------------------------------------------------------------


def test_who_asks(client: Client) -> None:
    """STS knows the account, and returns working credentials of a role, as those of an instance would be."""
    assert client("sts").get_caller_identity()["Account"] == "123456789012"
    role = make_role(client, EC2_ONLY)
    keys = client("sts").assume_role(RoleArn=role, RoleSessionName="session")["Credentials"]
    temporary = session().create_client(
        "sts",
        endpoint_url=client("sts").meta.endpoint_url,
        region_name="us-west-2",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    assert role.rpartition("/")[2] in temporary.get_caller_identity()["Arn"]
    temporary.close()


def test_instances_of_amazons_image(client: Client) -> None:
    """SSM names Amazon Linux's image; EC2 starts, describes and ends an instance of it."""
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    image = client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    assert image.startswith("ami-")
    ec2 = client("ec2")
    (started,) = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"]
    ids = [started["InstanceId"]]
    assert started["State"]["Name"] == "pending"
    shown = ec2.describe_instances(InstanceIds=ids)["Reservations"][0]["Instances"][0]
    assert (shown["State"]["Name"], shown["ImageId"]) == ("running", image)
    ended = ec2.terminate_instances(InstanceIds=ids)["TerminatingInstances"][0]
    assert ended["PreviousState"]["Name"] == "running"
    with pytest.raises(ClientError, match="InvalidInstanceID"):
        ec2.describe_instances(InstanceIds=["i-0123456789abcdef0"])
