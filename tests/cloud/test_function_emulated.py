"""Deployment on the emulated AWS: the requests, the function that then runs, and the output of the commands."""

import copy
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from deploying import create_execution_role, deploy_function
from executors import version_module

import pywren
from pywren.aws.requests import AWS
from pywren.cloud.function import format_of
from pywren.exceptions import CallError, VersionMismatchError
from pywren.wire.call import FORMAT
from pywren.worker import bundle
from pywren.worker.watch import FIRST_LOOK

emulator_module = pytest.importorskip("pywren.testing.emulator")

pytestmark = pytest.mark.emulator

ROOT = Path(__file__).parents[2]
WAIT = 60
ROLE_SECONDS = 2.0
CHANGES = (
    "CreateFunction", "UpdateFunctionCode", "UpdateFunctionConfiguration", "PutFunctionEventInvokeConfig"
)  # fmt: skip


@pytest.fixture(scope="module")
def emulator():
    """An emulated AWS on which a role can be assumed two seconds after its creation."""
    with emulator_module.emulate(role_seconds=ROLE_SECONDS) as started:
        yield started


@pytest.fixture(scope="module")
def deployed(emulator):
    """Return the configuration of a function that is deployed once, for tests that do not change it."""
    return emulator.deploy()


@pytest.fixture(scope="module")
def aws(emulator):
    """The emulated account."""
    made = AWS(emulator.region)
    yield made
    made.close()


@pytest.fixture(scope="module")
def changeable(emulator):
    """Return the configuration of another function, which the tests change one after the other."""
    return emulator.deploy()


@pytest.fixture
def config(changeable, aws):
    """Reset that function to what ``deploy_lambda`` creates, whatever earlier tests did to it."""
    deploy_function(changeable, aws)
    return copy.deepcopy(changeable)


@pytest.fixture
def executors():
    """Return a function that makes Lambda executors."""
    made = []

    def make(config):
        made.append(pywren.lambda_executor(config=config))
        return made[-1]

    yield make
    for executor in made:
        executor.invoker.close()


def changes(difference):
    """Return the number of requests that change a function, by operation."""
    counted = {name: difference.count(service="lambda", operation=name) for name in CHANGES}
    return {name: traffic.requests - traffic.refused for name, traffic in counted.items() if traffic.requests}


def worker_requests(difference, config):
    """Return the number of a function's requests to S3, by operation."""
    caller = f"function:{config['lambda']['function_name']}"
    return {
        kind.operation: traffic.requests
        for kind, traffic in difference.traffic.items()
        if (kind.caller, kind.service) == (caller, "s3") and traffic.requests
    }


def call(executor, function, argument):
    """Return the result of one call."""
    return executor.call_async(function, argument).result(timeout=WAIT)


# -- requests ------------------------------------------------------------------------------------------------


def test_a_function_is_made_with_a_role_that_is_new(emulator, executors):
    """Lambda refuses the new role for a while, deploying waits, and then the function runs."""
    before, began = emulator.counters(), time.monotonic()
    config = emulator.deploy(memory=512)
    took = time.monotonic() - began
    difference = emulator.counters() - before
    # On a machine that takes so long for the requests in between, the role is not new any more.
    assert difference.count(service="lambda", operation="CreateFunction").refused or took > ROLE_SECONDS
    assert changes(difference) == {"CreateFunction": 1, "PutFunctionEventInvokeConfig": 1}
    memory = call(executors(config), lambda _: os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], None)
    assert memory == "512"


def test_an_unchanged_function_is_not_touched(emulator, aws, config):
    """An unchanged bundle has the same hash, and unchanged settings are not sent again."""
    before = emulator.counters()
    first = deploy_function(config, aws)
    assert changes(emulator.counters() - before) == {}
    assert deploy_function(config, aws) == first


def test_changed_code_is_sent_alone_and_runs(emulator, aws, config, executors):
    """Only the changed code is sent, and the next call runs it although a container with the old code is warm."""
    executor = executors(config)
    assert call(executor, lambda x: x + 1, 1) == 2
    files = {**bundle.worker_files(), "extra_of_the_test.py": b"VALUE = 42\n"}
    before = emulator.counters()
    deploy_function(config, aws, archive=bundle.build_zip(files))
    assert changes(emulator.counters() - before) == {"UpdateFunctionCode": 1}

    def extra(_):
        import extra_of_the_test

        return extra_of_the_test.VALUE

    assert call(executor, extra, None) == 42  # modules deployed beside pywren are importable


def test_changed_settings_are_sent_alone_and_hold(emulator, aws, config, executors):
    """Settings change without the code, and the next call sees them."""
    before = emulator.counters()
    config["lambda"].update(memory=2048, timeout=60)
    deploy_function(config, aws)
    assert changes(emulator.counters() - before) == {"UpdateFunctionConfiguration": 1}
    memory = call(executors(config), lambda _: os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], None)
    assert memory == "2048"


def test_deploying_while_a_change_is_under_way(aws, config):
    """Deploying waits until the other change has finished instead of failing."""
    name = config["lambda"]["function_name"]
    aws.request(
        "lambda", "update_function_configuration", doing="change it", FunctionName=name, Description="another's"
    )
    config["lambda"]["memory"] = 1024
    deploy_function(config, aws)
    function = aws.function_config(name)
    # The other change was applied first: deploying states the format of calls in the same text.
    assert (function["MemorySize"], format_of(function)) == (1024, FORMAT)
    assert function["LastUpdateStatus"] == "Successful"


def test_the_settings_of_a_fresh_function(emulator, aws, config):
    """Lambda does not retry failed calls but writes a record to our bucket; the log is kept for a month."""
    name = config["lambda"]["function_name"]
    invoke = aws.event_invoke(name)
    assert (invoke["MaximumRetryAttempts"], invoke["MaximumEventAgeInSeconds"]) == (0, 21600)
    assert invoke["DestinationConfig"]["OnFailure"]["Destination"] == f"arn:aws:s3:::{config['s3']['bucket']}"
    (group,) = aws.request(
        "logs", "describe_log_groups", doing="look", logGroupNamePrefix=f"/aws/lambda/{name}"
    )["logGroups"]  # fmt: skip
    assert group["retentionInDays"] == 30
    function = aws.function_config(name)
    assert function["Runtime"] == f"python{sys.version_info.major}.{sys.version_info.minor}"


def test_big_code_goes_through_the_bucket(aws, config, executors, monkeypatch):
    """Lambda reads big code from the bucket, and it runs."""
    monkeypatch.setattr("pywren.cloud.function.DIRECT_LIMIT", 1000)
    archive = bundle.build_zip({**bundle.worker_files(), "another_of_the_test.py": b""})
    deploy_function(config, aws, archive=archive)
    assert aws.function_config(config["lambda"]["function_name"])["CodeSize"] == len(archive)
    assert call(executors(config), lambda x: x * 2, 21) == 42


# -- running the function ------------------------------------------------------------------------------------


def test_a_function_of_another_pywren(aws, config, executors):
    """With a function of another version, the first call says so, and how to deploy again."""
    files = {**bundle.worker_files(), "pywren/version.py": version_module("0.9.0")}
    deploy_function(config, aws, archive=bundle.build_zip(files))
    with pytest.raises(VersionMismatchError, match=r"version mismatch(.|\n)*pywren deploy_lambda"):
        call(executors(config), lambda x: x, 1)
    deploy_function(config, aws)
    assert call(executors(config), lambda x: x, 1) == 1


def test_a_map_from_inside_a_worker(deployed, executors):
    """A function makes an executor and maps, with only what a deployed worker has."""

    def outer(count):
        inner = pywren.lambda_executor(config=deployed)
        return pywren.get_all_results(inner.map(lambda x: x * x, range(count)))

    assert call(executors(deployed), outer, 3) == [0, 1, 4]


def test_small_calls_cost_one_put_each(emulator, deployed, executors):
    """Arguments travel in the payload and results in the status: a container reads only the function, once."""
    executor = executors(deployed)
    name = deployed["lambda"]["function_name"]
    emulator.wait_idle()
    before = emulator.counters()
    futures = executor.map(lambda x: x + 1, range(40))
    assert pywren.get_all_results(futures) == list(range(1, 41))
    emulator.wait_idle()
    difference = emulator.counters() - before
    requests = worker_requests(difference, deployed)
    assert difference.executions[name].invocations == 40
    executions = emulator.executions(name)[-40:]
    # On a busy machine a call may run for longer than 2 s: then its worker looks for a status, and writes a beacon.
    looks = sum(int(each.duration_ms / 1000.0 / FIRST_LOOK) for each in executions)
    assert 40 <= requests.pop("PutObject") <= 40 + looks
    assert requests.pop("GetObject") <= len({each.container for each in executions}) + looks
    assert requests == {}


def test_a_crash_is_not_run_again_by_lambda(emulator, deployed, executors):
    """The call runs once, and its error comes back."""
    emulator.wait_idle()
    before = emulator.counters()
    with pytest.raises(CallError, match="non-zero return code"):
        call(executors(deployed), lambda _: os._exit(3), None)
    emulator.wait_idle()
    executions = (emulator.counters() - before).executions[deployed["lambda"]["function_name"]]
    assert (executions.invocations, executions.retried) == (1, 0)


def test_a_busy_lambda_is_waited_out(emulator, deployed, executors):
    """Throttling and internal errors of the service cost time, but no call is lost."""
    Fault, Faults = emulator_module.Fault, emulator_module.Faults
    emulator.set_faults(Faults(seed=1, throttle_invoke=Fault(0.3), fail_invoke=Fault(0.1)))
    before = emulator.counters()
    try:
        futures = executors(deployed).map(lambda x: x * 2, range(30))
        assert pywren.get_all_results(futures) == list(range(0, 60, 2))
    finally:
        emulator.set_faults(Faults())
    emulator.wait_idle()
    difference = emulator.counters() - before
    assert difference.count(service="lambda", operation="Invoke").refused > 3
    assert difference.executions[deployed["lambda"]["function_name"]].invocations == 30


# -- the commands --------------------------------------------------------------------------------------------


def pywren_command(*arguments):
    """Run the command in its own process."""
    command = [sys.executable, "-c", "from pywren.scripts.pywrencli import cli; cli()", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=WAIT, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_commands(emulator, aws, deployed, tmp_path):
    """Following the commands from bucket and configuration leads to a function that runs."""
    config = {**deployed, "account": {**deployed["account"], "aws_lambda_role": "made-by-command"}}
    config["lambda"] = {**deployed["lambda"], "function_name": "made-by-command"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))

    tried = pywren_command("--filename", path, "test_function")
    assert tried.returncode == 1
    assert "pywren deploy_lambda" in tried.stderr
    assert "Traceback" not in tried.stderr

    done = pywren_command("--filename", path, "deploy_lambda")
    assert (done.returncode, done.stderr) == (0, "")
    assert "created the function made-by-command with python3." in done.stdout
    before = emulator.counters()
    again = pywren_command("--filename", path, "deploy_lambda")
    assert (again.returncode, again.stdout.count("unchanged: ")) == (0, 3), again.stderr
    assert changes(emulator.counters() - before) == {}

    tried = pywren_command("--filename", path, "test_function")
    assert (tried.returncode, tried.stdout, tried.stderr) == (0, "function returned: Hello world\n", "")


def test_nothing_is_asked_for_that_the_role_does_not_allow(emulator, aws, config, executors):
    """Every action that the function uses is in the policy of its role."""
    create_execution_role(config, aws)
    assert call(executors(config), lambda x: x, 1) == 1
    name = config["lambda"]["function_name"]
    role = {"RoleName": config["account"]["aws_lambda_role"], "PolicyName": "pywren-worker"}
    policy = aws.request("iam", "get_role_policy", doing="look", **role)["PolicyDocument"]
    allowed = {
        action
        for statement in policy["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    used = {action for caller, action, _, _ in emulator.counters().actions if caller == f"function:{name}"}
    assert used
    assert used <= allowed
