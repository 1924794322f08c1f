"""Deployment, policies and logs, with moto."""

import io
import sys
import time
import zipfile

import pytest
from deploying import create_execution_role, deploy_function

import pywren.testing
from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.cloud.function import lambda_runtime
from pywren.cloud.logs import call_logs
from pywren.exceptions import ArgumentError, ConfigError, DeploymentError
from pywren.worker import bundle

moto = pytest.mark.moto


@pytest.fixture
def config():
    """Return the configuration of a mocked AWS on which everything is deployed."""
    with pywren.testing.mock_aws() as made:
        yield made


@pytest.fixture
def aws(config):
    """The mocked account."""
    made = AWS(config["account"]["aws_region"])
    yield made
    made.close()


@moto
def test_the_function_is_made_for_the_clients_python(config, aws):
    """The function has the expected runtime, handler, memory, time-out and role."""
    function = aws.function_config(config["lambda"]["function_name"])
    assert function["Runtime"] == f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert function["Handler"] == "pywren.wrenhandler.aws_lambda_handler"
    assert (function["MemorySize"], function["Timeout"]) == (1536, 300)
    assert function["Role"].endswith(":role/" + config["account"]["aws_lambda_role"])


@moto
def test_lambda_does_not_retry_by_itself(config, aws):
    """Lambda's retries would run the user's function again; dropped calls leave a record in the bucket instead."""
    name = config["lambda"]["function_name"]
    answer = aws.request("lambda", "get_function_event_invoke_config", doing="look", FunctionName=name)
    assert answer["MaximumRetryAttempts"] == 0
    assert answer["MaximumEventAgeInSeconds"] == 21600
    assert answer["DestinationConfig"]["OnFailure"]["Destination"] == f"arn:aws:s3:::{config['s3']['bucket']}"


@pytest.fixture
def sent(monkeypatch):
    """Return the operations that change something, as they are sent."""
    operations = []
    request = AWS.request

    def listening(self, service, operation, **arguments):
        if not operation.startswith(("get_", "describe_", "list_")):
            operations.append(operation)
        return request(self, service, operation, **arguments)

    monkeypatch.setattr(AWS, "request", listening)
    return operations


@moto
def test_deploying_again_changes_nothing(config, aws, sent):
    """Code, configuration, log group and event settings are not sent again unless they have changed."""
    first = deploy_function(config, aws)
    sent.clear()
    assert deploy_function(config, aws) == first
    assert sent == []


@moto
def test_deploying_again_changes_what_changed(config, aws, sent):
    """The configuration is updated, and unchanged code is not sent again."""
    same, other = (bundle.build_zip({"pywren/__init__.py": text}) for text in (b"1", b"2"))
    first = deploy_function(config, aws, archive=same)
    sent.clear()
    config["lambda"]["memory"] = 2048
    assert deploy_function(config, aws, archive=same) == first
    function = aws.function_config(config["lambda"]["function_name"])
    assert (function["MemorySize"], function["CodeSha256"]) == (2048, bundle.code_sha256(same))
    assert sent == ["update_function_configuration"]
    deploy_function(config, aws, archive=other)
    assert sent == ["update_function_configuration", "update_function_code"]
    config["lambda"]["event_age"] = 60
    deploy_function(config, aws, archive=other)
    assert sent[2:] == ["put_function_event_invoke_config"]


@moto
def test_every_key_of_the_section_comes_into_force(config, aws):
    """The size of /tmp, the architecture and the other settings come from the configuration."""
    config["lambda"].update(ephemeral_storage=1024, architecture="arm64", timeout=900, memory=10240)
    aws.delete_function(config["lambda"]["function_name"])  # moto does not update all of them
    deploy_function(config, aws)
    function = aws.function_config(config["lambda"]["function_name"])
    assert function["Architectures"] == ["arm64"]
    assert (function["Timeout"], function["MemorySize"]) == (900, 10240)
    assert function["EphemeralStorage"] == {"Size": 1024}


@moto
def test_memory_and_time_have_defaults(config, aws):
    """The defaults match those in the configuration's table of keys."""
    for key in ("memory", "timeout"):
        del config["lambda"][key]
    deploy_function(config, aws)
    function = aws.function_config(config["lambda"]["function_name"])
    assert function["MemorySize"] == wrenconfig.setting({}, "lambda.memory")
    assert function["Timeout"] == wrenconfig.setting({}, "lambda.timeout")


@moto
def test_a_layer_is_attached(config, aws):
    """A layer is set by its ARN, and removed when the configuration no longer names it."""
    content = {"ZipFile": bundle.build_zip({"python/extra.py": b""})}
    made = aws.request("lambda", "publish_layer_version", doing="make a layer", LayerName="extra", Content=content)
    config["lambda"]["layers"] = [made["LayerVersionArn"]]
    wrenconfig.validate(config)
    deploy_function(config, aws)
    name = config["lambda"]["function_name"]
    assert [layer["Arn"] for layer in aws.function_config(name)["Layers"]] == [made["LayerVersionArn"]]
    del config["lambda"]["layers"]
    deploy_function(config, aws)
    assert not aws.function_config(name).get("Layers")


@moto
def test_the_log_is_kept_for_some_time_and_a_choice_is_respected(config, aws):
    """Retention is set once; a value that the user has chosen is kept."""
    group = f"/aws/lambda/{config['lambda']['function_name']}"

    def retention():
        (found,) = aws.request("logs", "describe_log_groups", doing="look", logGroupNamePrefix=group)["logGroups"]
        return found["retentionInDays"]

    assert retention() == 30
    aws.request("logs", "put_retention_policy", doing="choose", logGroupName=group, retentionInDays=5)
    deploy_function(config, aws)
    assert retention() == 5


@moto
def test_big_code_goes_through_the_bucket(config, aws, monkeypatch):
    """Lambda reads big code from the bucket, and then it is deleted there."""
    monkeypatch.setattr("pywren.cloud.function.DIRECT_LIMIT", 10)
    archive = bundle.build_zip({"pywren/__init__.py": b"big"})
    name = config["lambda"]["function_name"]
    deploy_function(config, aws, archive=archive)
    aws.delete_function(name)
    deploy_function(config, aws, archive=archive)
    assert aws.function_config(name)["CodeSize"] == len(archive)
    listed = aws.request("s3", "list_objects_v2", doing="look", Bucket=config["s3"]["bucket"])
    assert listed["KeyCount"] == 0


def test_a_python_that_lambda_does_not_have():
    """The error lists the runtimes that Lambda supports."""
    known = ["python3.10", "python3.11"]
    assert lambda_runtime(known, "3.11") == "python3.11"
    with pytest.raises(DeploymentError, match=r"no runtime python3\.99.*python3\.10, python3\.11.*boto3"):
        lambda_runtime(known, "3.99")


@moto
def test_the_role_is_made_once(config, aws, sent):
    """An unchanged role is not sent again."""
    create_execution_role(config, aws)
    assert sent == []
    config["account"]["aws_lambda_role"] = "another"
    for _ in range(2):
        create_execution_role(config, aws)
    assert sent == ["create_role", "put_role_policy"]


@moto
def test_the_account_is_found_out_when_the_configuration_does_not_say(config, aws):
    """A missing account id is looked up; leading zeros lost by YAML are restored."""
    del config["account"]["aws_account_id"]
    assert ":123456789012:" in create_execution_role(config, aws)
    config["account"]["aws_account_id"] = 42
    assert ":000000000042:" in create_execution_role(config, aws)


def test_a_missing_key_is_named():
    """The error names the key that the configuration lacks."""
    with pytest.raises(ConfigError, match="s3: bucket"):
        deploy_function({"account": {"aws_region": "us-west-2"}}, AWS("us-west-2"), archive=b"")


@moto
def test_the_deployed_zip_is_the_bundle(config, aws):
    """The zip is a package with the worker's entry point."""
    from moto.awslambda.utils import get_backend

    name = config["lambda"]["function_name"]
    code = get_backend("123456789012", "us-west-2").get_function(name).code_bytes
    assert "pywren/wrenhandler.py" in zipfile.ZipFile(io.BytesIO(code)).namelist()


# -- logs ----------------------------------------------------------------------------------------------------


@moto
def test_the_log_of_a_call_goes_from_start_to_report(config, aws):
    """Other calls in the same stream are left out, even when the log has several pages."""
    from moto.backends import get_backend

    group = f"/aws/lambda/{config['lambda']['function_name']}"
    now = time.time()
    lines = [
        line
        for request in ("r-1", "r-2", "r-3")
        for line in (
            f"START RequestId: {request}",
            f"of {request}",
            f"END RequestId: {request}",
            f"REPORT RequestId: {request}",
        )
    ]
    backend = get_backend("logs")["123456789012"]["us-west-2"]
    backend.ensure_log_stream(group, "stream")
    events = [{"timestamp": int(now * 1000) + index, "message": line} for index, line in enumerate(lines)]
    backend.put_log_events(group, "stream", events)
    status = {
        "aws_request_id": "r-2",
        "log_group_name": group,
        "log_stream_name": "stream",
        "start_time": now,
        "end_time": now + 1,
    }
    found = call_logs(aws, status)
    assert [message for _, message in found] == lines[4:8]
    assert [timestamp for timestamp, _ in found] == [int(now * 1000) + index for index in range(4, 8)]


def test_a_call_that_did_not_run_on_lambda_has_no_log():
    """Asking for the log of such a call raises an error that says so."""
    with pytest.raises(ArgumentError, match="did not run on Lambda"):
        call_logs(AWS("us-west-2"), {"start_time": 1.0})
